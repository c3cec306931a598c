//! Configuration at scale: many applications, each with a host, a route, a Service and endpoints of its own, a file each. What a
//! change of one costs: the time until it is live, and the CPU time of the whole process.
use super::{
    median,
    peers::{self, Process},
};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use weir_test::free_port;

/// Measurements of each kind of change.
const ROUNDS: usize = 7;
/// After a change, until its work is done; the CPU time of as long without a change is subtracted.
const SETTLE: Duration = Duration::from_millis(700);

pub fn report(weir: &Path, sizes: &[usize]) -> Result<String> {
    let mut out =
        "## Configuration at scale\n\nA host, an HTTPRoute, a Service and an EndpointSlice per application, a file each.\n\n".to_string();
    out += "| applications | start | resident | … per application | changed | live after (worst) | CPU |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    let backends = Backends::start()?;
    let empty = Fleet::start(weir, 0, &backends)?.process.rss_mb()?;
    for &size in sizes {
        let fleet = Fleet::start(weir, size, &backends)?;
        let costs = CHANGES.iter().map(|(name, change)| Ok((name, fleet.cost(*change)?))).collect::<Result<Vec<_>>>()?;
        // By now the allocator gave back what the start left over.
        let resident = fleet.process.rss_mb()?;
        let per = (resident - empty) * 1024.0 / size as f64;
        for (nth, (name, Cost { live, worst, cpu })) in costs.into_iter().enumerate() {
            let head = match nth {
                0 => format!("{size} | {:.0} ms | {resident:.1} MB | {per:.2} KB", fleet.started_ms),
                _ => " | | | ".to_string(),
            };
            let _ = writeln!(out, "| {head} | {name} | {live:.1} ms ({worst:.1}) | {cpu:.2} ms |");
        }
    }
    Ok(out + "\n")
}

/// Edits the files of a fleet for the nth time; returns the host to ask, and what its answer then has.
type Change = fn(&Fleet, usize) -> Result<(String, String)>;

const CHANGES: &[(&str, Change)] = &[
    ("a route", |fleet, nth| {
        let app = App { version: nth, ..fleet.app(7) };
        fleet.write(&app)?;
        Ok((app.host(), format!("x-version: {nth}")))
    }),
    ("endpoints", |fleet, nth| {
        let app = App { backend: fleet.backends[nth % 2], ..fleet.app(11) };
        fleet.write(&app)?;
        Ok((app.host(), ["backend 0", "backend 1"][nth % 2].to_string()))
    }),
    ("one more", |fleet, nth| {
        let app = fleet.app(fleet.size + nth);
        fleet.write(&app)?;
        Ok((app.host(), "200 OK".to_string()))
    }),
    ("one less", |fleet, nth| {
        let app = fleet.app(fleet.size + nth);
        fs::remove_file(fleet.file(&app))?;
        Ok((app.host(), "404 Not Found".to_string()))
    }),
];

struct Cost {
    live: f64,
    worst: f64,
    cpu: f64,
}

/// A folder of applications and the gateway that serves it.
struct Fleet {
    folder: tempfile::TempDir,
    size: usize,
    backends: [u16; 2],
    process: Process,
    started_ms: f64,
}

struct App {
    nth: usize,
    version: usize,
    /// A port.
    backend: u16,
}

impl App {
    fn host(&self) -> String {
        format!("app{}.example.com", self.nth)
    }

    /// As a team writes it, with what Kubernetes asks for.
    fn yaml(&self) -> String {
        let App { nth, version, backend } = self;
        format!(
            r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: app{nth}
spec:
  parentRefs:
  - name: shared
  hostnames:
  - {host}
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set:
        - name: x-version
          value: "{version}"
    backendRefs:
    - name: app{nth}
      port: 80
---
apiVersion: v1
kind: Service
metadata:
  name: app{nth}
  labels:
    app: app{nth}
spec:
  selector:
    app: app{nth}
  ports:
  - name: http
    port: 80
    targetPort: 8080
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: app{nth}-1
  labels:
    kubernetes.io/service-name: app{nth}
addressType: IPv4
ports:
- name: http
  port: {backend}
endpoints:
- addresses:
  - 127.0.0.1
"#,
            host = self.host()
        )
    }
}

impl Fleet {
    fn start(weir: &Path, size: usize, backends: &Backends) -> Result<Fleet> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let gateway = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: shared\nspec:\n  gatewayClassName: weir\n  listeners:\n  - name: http\n    port: {port}\n    protocol: HTTP\n"
        );
        fs::write(folder.path().join("gateway.yaml"), gateway)?;
        let backends = backends.0;
        for nth in 0..size {
            let app = App { nth, version: 0, backend: backends[0] };
            fs::write(folder.path().join(format!("app{nth}.yaml")), app.yaml())?;
        }
        let mut command = Command::new(weir);
        command.args(["run", "--workers", "1", "--admin", "127.0.0.1:0", "-f"]).arg(folder.path());
        let began = Instant::now();
        let process = peers::spawn(command, port)?;
        let fleet = Fleet { folder, size, backends, process, started_ms: 0.0 };
        if size > 0 {
            fleet.until(&fleet.app(size - 1).host(), "200 OK")?;
        }
        Ok(Fleet { started_ms: began.elapsed().as_secs_f64() * 1e3, ..fleet })
    }

    fn app(&self, nth: usize) -> App {
        App { nth, version: 0, backend: self.backends[0] }
    }

    fn file(&self, app: &App) -> PathBuf {
        self.folder.path().join(format!("app{}.yaml", app.nth))
    }

    fn write(&self, app: &App) -> Result<()> {
        fs::write(self.file(app), app.yaml()).context("cannot write")
    }

    /// Half of the rounds ask until the change is seen; the others, where nobody asks, count CPU time.
    fn cost(&self, change: Change) -> Result<Cost> {
        let (mut live, mut cpu) = (Vec::new(), Vec::new());
        for nth in 1..=ROUNDS {
            let (host, wanted) = change(self, nth)?;
            let closed = Instant::now();
            self.until(&host, &wanted)?;
            live.push(closed.elapsed().as_secs_f64() * 1e3);
        }
        for nth in ROUNDS + 1..=2 * ROUNDS {
            let idle = self.spend(|| Ok(()))?;
            let mut asked = None;
            let busy = self.spend(|| {
                asked = Some(change(self, nth)?);
                Ok(())
            })?;
            cpu.push(busy - idle);
            let (host, wanted) = asked.context("a change")?;
            self.until(&host, &wanted)?;
        }
        let worst = live.iter().copied().fold(0.0, f64::max);
        Ok(Cost { live: median(live), worst, cpu: median(cpu) })
    }

    /// CPU milliseconds of the process from before `change` until its work is done.
    fn spend(&self, change: impl FnOnce() -> Result<()>) -> Result<f64> {
        // What went before is done, and what jemalloc gives back after it.
        std::thread::sleep(SETTLE);
        let before = self.process.cpu_seconds()?;
        change()?;
        std::thread::sleep(SETTLE);
        Ok((self.process.cpu_seconds()? - before) * 1e3)
    }

    fn until(&self, host: &str, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            if ask(self.process.port, host).is_ok_and(|answer| answer.contains(wanted)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("{host} never answered with {wanted}")
    }
}

fn ask(port: u16, host: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // One write, as clients do: with several, Nagle's algorithm would wait for the peer.
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Two servers, at these ports, that say which of them they are.
struct Backends([u16; 2]);

impl Backends {
    fn start() -> Result<Backends> {
        let mut ports = [0; 2];
        for (nth, port) in ports.iter_mut().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            *port = listener.local_addr()?.port();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || serve(stream, nth));
                }
            });
        }
        Ok(Backends(ports))
    }
}

/// Answers every request, none of which has a body, until the peer closes.
fn serve(mut stream: TcpStream, nth: usize) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut block = [0; 4096];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            n => seen.extend_from_slice(&block[..n]),
        }
        while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            seen.drain(..end + 4);
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbackend {nth}").as_bytes())?;
        }
    }
}
