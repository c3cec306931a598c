//! A real Kubernetes API (`tools/kube-rig`): etcd and kube-apiserver in a network namespace, and the way into it.
use crate::{
    client::{Answer, Connection},
    eventually,
};
use programs::{API, Programs, programs};
use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub mod programs;

/// A cluster of its own. It ends with this value, and with the process at the latest.
pub struct Kube {
    child: Child,
    folder: PathBuf,
    programs: Programs,
    /// How many addresses were given out.
    addresses: AtomicU8,
    /// How many marks the log of writes has.
    marks: AtomicUsize,
}

impl Kube {
    /// The cluster that the tests of this process share, with the kinds of Gateway API, Istio and Higress. A test uses namespaces
    /// and a GatewayClass of its own in it, and stops none of its programs.
    pub fn shared() -> &'static Kube {
        static SHARED: OnceLock<Kube> = OnceLock::new();
        SHARED.get_or_init(Kube::start)
    }

    /// A cluster with the kinds of Gateway API, Istio and Higress.
    pub fn start() -> Kube {
        let programs = programs(API).unwrap();
        let definitions = programs.definitions.clone();
        Kube::with(programs, &["-api-only"], &definitions)
    }

    /// A cluster with the kinds of Kubernetes only.
    pub fn bare() -> Kube {
        Kube::with(programs(API).unwrap(), &["-api-only"], &[])
    }

    /// With flags of `kube-rig up`, and with these objects.
    pub fn with(programs: Programs, flags: &[&str], objects: &[PathBuf]) -> Kube {
        let folder = tempfile::Builder::new().prefix("weir-kube-").tempdir().unwrap().keep();
        let mut command = Command::new("kube-rig");
        command.args(["up", "-rm", "-dir"]).arg(&folder).args(flags).env("PATH", &programs.path);
        for path in objects {
            command.arg("-apply").arg(path);
        }
        // The rig ends when its standard input closes: with this process, however that ends.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kube-rig");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        while !printed.lines().last().is_some_and(|l| l.starts_with("ready:")) {
            if output.read_line(&mut printed).unwrap() == 0 {
                panic!("kube-rig up ended with {:?}: {printed}", child.wait());
            }
        }
        Kube { child, folder, programs, addresses: AtomicU8::new(0), marks: AtomicUsize::new(0) }
    }

    /// The state directory of the rig.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client configuration for the administrator; good for programs in the network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The completed writes of all clients so far, a line of JSON each.
    pub fn audit(&self) -> Vec<String> {
        // A write is logged behind its answer: one of ours comes after all that was seen before.
        let mark = format!("audit-{}", self.marks.fetch_add(1, Ordering::Relaxed));
        self.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {mark}, namespace: default}}}}"));
        let (mark, log) = (format!("/configmaps/{mark}?"), self.logs().join("audit.log"));
        let text = eventually("the log of writes", || fs::read_to_string(&log).ok().filter(|text| text.contains(&mark)));
        text.lines().filter(|line| line.contains("\"ResponseComplete\"")).map(str::to_string).collect()
    }

    /// Logs of the programs, and `audit.log` with every write.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// A program, to be run in the network namespace, where each process may listen on any address of 10.245.0.0/16. Its process id
    /// is that of the command; it gets KUBECONFIG.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("kube-rig");
        command.args(["exec", "-dir"]).arg(&self.folder).arg("--").arg(program.as_ref()).env("PATH", &self.programs.path);
        command
    }

    /// An address in the network namespace that nobody else was given.
    pub fn free_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 245, 16, self.addresses.fetch_add(1, Ordering::Relaxed))
    }

    /// A connection to an address in the network namespace.
    pub fn connect(&self, address: &str) -> io::Result<UnixStream> {
        connect(&self.folder.join("socket"), address)
    }

    /// An address of this machine that leads to one in the network namespace.
    pub fn forward(&self, address: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let (socket, address) = (self.folder.join("socket"), address.to_string());
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let _ = from.set_nodelay(true);
                // Who does not listen there: the client sees the connection closed.
                let Ok(to) = connect(&socket, &address) else { continue };
                std::thread::spawn(move || relay(from, to));
            }
        });
        here
    }

    /// `GET` from an address in the network namespace.
    pub fn get(&self, address: &str, host: &str, path: &str) -> io::Result<Answer> {
        Connection::over(self.connect(address)?).request("GET", host, path, &[("connection", "close")], b"")
    }

    /// A request to kube-apiserver as the administrator.
    pub fn api(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        let headers = [("content-type", content_type), ("connection", "close")];
        self.gate()?.request(method, "kube", path, &headers, body)
    }

    /// An object or a list by its path in the API; `None` where there is none.
    #[track_caller]
    pub fn object(&self, path: &str) -> Option<Value> {
        eventually(path, || {
            let answer = self.api("GET", path, "application/json", b"").unwrap();
            match answer.status {
                200 => Some(Some(answer.json())),
                404 => Some(None),
                // 429: the storage of a kind that was just added is prepared. A busy machine keeps the API server or etcd from an answer.
                429 | 500.. => None,
                _ => panic!("{path}: {answer:?}"),
            }
        })
    }

    /// Applies the objects of a YAML text as `kubectl apply --server-side` does.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let answer = self.api("POST", "/rig/apply", "application/yaml", yaml.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// Deletes the objects of a YAML text.
    #[track_caller]
    pub fn delete(&self, yaml: &str) {
        let answer = self.api("POST", "/rig/delete", "application/yaml", yaml.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// The events of a watch, from a resource version on.
    pub fn watch(&self, path: &str, resource_version: &str) -> Watch {
        let mut connection = self.gate().unwrap();
        let request = format!("GET {path}?watch=true&resourceVersion={resource_version} HTTP/1.1\r\nhost: kube\r\n\r\n");
        connection.send(request).unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200, "{head:?}");
        Watch { connection, held: Vec::new() }
    }

    fn gate(&self) -> io::Result<Connection<UnixStream>> {
        let io = UnixStream::connect(self.folder.join("socket"))?;
        io.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection::over(io))
    }

    /// The process id of `etcd`, `kube-apiserver`, …
    pub fn pid(&self, program: &str) -> u32 {
        let text = fs::read_to_string(self.folder.join("processes.json")).unwrap();
        let pids: Value = serde_json::from_str(&text).unwrap();
        u32::try_from(pids[program].as_u64().unwrap_or_else(|| panic!("{program} is not among {text}"))).unwrap()
    }

    /// Sends a signal: STOP and CONT stop a program for a while, and one that was killed is started again. After STOP it does nothing
    /// any more.
    pub fn signal(&self, program: &str, signal: &str) {
        let pid = self.pid(program);
        let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
        assert!(status.success());
        if signal == "STOP" {
            // Each thread stops by itself.
            eventually(&format!("{program} stops"), || threads(pid).iter().all(|state| *state == 'T').then_some(()));
        }
    }

    /// Makes etcd forget all earlier revisions and starts kube-apiserver again, without its memory: who then watches from an earlier
    /// resource version gets a 410.
    pub fn forget_history(&self) {
        let etcd = |path: &str, body: String| {
            let mut connection = Connection::over(self.connect("127.0.0.1:2379").unwrap());
            let answer = connection.request("POST", "etcd", path, &[], body.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()
        };
        let now = etcd("/v3/kv/range", r#"{"key":"AA=="}"#.into());
        let revision = now["header"]["revision"].as_str().unwrap().to_string();
        etcd("/v3/kv/compaction", format!(r#"{{"revision":"{revision}","physical":true}}"#));
        let before = self.pid("kube-apiserver");
        self.signal("kube-apiserver", "KILL");
        eventually("kube-apiserver starts again", || {
            let again = self.pid("kube-apiserver") != before;
            let ready = || self.api("GET", "/readyz", "text/plain", b"").is_ok_and(|a| a.status == 200);
            (again && ready()).then_some(())
        });
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A watch, one event after the other.
pub struct Watch {
    connection: Connection<UnixStream>,
    held: Vec<u8>,
}

impl Iterator for Watch {
    type Item = Value;
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.held.extend(self.connection.chunk().unwrap()?);
        }
    }
}

/// The states of the threads of a process; see proc_pid_stat(5).
fn threads(pid: u32) -> Vec<char> {
    let state = |stat: String| stat.rsplit_once(") ")?.1.chars().next();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.filter_map(|task| state(fs::read_to_string(task.path().join("stat")).ok()?)).collect()
}

fn connect(socket: &Path, address: &str) -> io::Result<UnixStream> {
    let mut connection = Connection::over(UnixStream::connect(socket)?);
    connection.send(format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n"))?;
    let answer = connection.head()?;
    match answer.status {
        200 => Ok(connection.into_inner()),
        status => Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{address}: {status}"))),
    }
}

/// Copies both ways until both sides have ended.
fn relay(tcp: TcpStream, unix: UnixStream) {
    let (Ok(mut tcp_in), Ok(mut unix_in)) = (tcp.try_clone(), unix.try_clone()) else { return };
    let (mut tcp_out, mut unix_out) = (tcp, unix);
    std::thread::spawn(move || {
        let _ = io::copy(&mut tcp_in, &mut unix_out);
        let _ = unix_out.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut unix_in, &mut tcp_out);
    let _ = tcp_out.shutdown(Shutdown::Write);
}
