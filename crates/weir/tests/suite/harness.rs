//! Starts `weir run` on a folder of its own and free ports, and stops it when dropped.
use crate::output::Output;
pub use crate::yaml::TO_ECHO;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir::echo;
use weir_test::client::{self, Answer};
pub use weir_test::{
    Kube, PATIENCE, Received, eventually, free_port,
    upstream::{raw_upstream, sized_upstream},
};

/// A running gateway. `$PORT`, `$PORT2`, `$PORT3` in its files stand for free ports, `$ECHO` for the port of its upstream.
pub struct Weir {
    child: Child,
    folder: TempDir,
    /// What it printed so far, both streams together.
    output: Output,
    pub ports: [u16; 3],
    pub admin: SocketAddr,
    words: Vec<(String, String)>,
    _echo: Vec<echo::Server>,
}

/// How a gateway is to be started.
pub struct Start<'a> {
    files: Vec<(&'a str, String)>,
    args: Vec<String>,
    words: Vec<(String, String)>,
    upstreams: usize,
    workers: usize,
    wait: bool,
    cache: Option<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
    descriptors: Option<(u64, u64)>,
    cluster: Option<&'a Kube>,
    kubeconfig: Option<PathBuf>,
}

impl<'a> Start<'a> {
    pub fn new() -> Start<'a> {
        Start {
            files: Vec::new(),
            args: Vec::new(),
            words: Vec::new(),
            upstreams: 1,
            workers: 2,
            wait: true,
            cache: None,
            environment: Vec::new(),
            descriptors: None,
            cluster: None,
            kubeconfig: None,
        }
    }
    /// A file in its folder.
    pub fn file(mut self, name: &'a str, text: impl Into<String>) -> Self {
        self.files.push((name, text.into()));
        self
    }
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
    /// Replaces `$name` in files and arguments.
    pub fn word(mut self, name: &str, value: impl ToString) -> Self {
        self.words.push((format!("${name}"), value.to_string()));
        self
    }
    /// How many echo upstreams, `$ECHO`, `$ECHO2`, …, named echo, echo2, …
    pub fn upstreams(mut self, count: usize) -> Self {
        self.upstreams = count;
        self
    }
    /// With one, what one request leaves in a plugin the next one finds.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }
    /// Keeps plugins here, and shares none of them with other tests.
    pub fn cache(mut self, folder: &Path) -> Self {
        self.cache = Some(folder.into());
        self
    }
    /// A variable of its environment: a file.
    pub fn env(mut self, name: &'static str, file: PathBuf) -> Self {
        self.environment.push((name, file));
        self
    }
    /// Returns once the admin listener is there, whether or not the gateway is ready.
    pub fn unready(mut self) -> Self {
        self.wait = false;
        self
    }
    /// `weir gateway` in a cluster, with the files beside its objects.
    pub fn cluster(mut self, kube: &'a Kube) -> Self {
        self.cluster = Some(kube);
        self.gateway(kube.kubeconfig())
    }
    /// `weir gateway` with this kubeconfig, and the files beside the objects of that API server.
    pub fn gateway(mut self, kubeconfig: PathBuf) -> Self {
        self.kubeconfig = Some(kubeconfig);
        self
    }
    /// With these limits of file descriptors, soft and hard.
    pub fn descriptors(mut self, soft: u64, hard: u64) -> Self {
        self.descriptors = Some((soft, hard));
        self
    }
    pub fn run(self) -> Weir {
        Weir::start(self)
    }
}

/// The runtime of the upstreams and of asynchronous clients.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

pub fn echo_server(name: &str) -> echo::Server {
    runtime().block_on(echo::Server::start(echo::Options { name: name.into(), ..echo::Options::default() })).unwrap()
}

/// The binary under test.
pub fn weir() -> Command {
    Command::new(env!("CARGO_BIN_EXE_weir"))
}

/// A cache folder in `folder` whose compiled code is shared by all tests: a Go plugin compiles for four seconds of CPU. What was
/// fetched stays its own, since other tests' servers had the same ports.
pub fn cache_in(folder: &Path) -> PathBuf {
    let cache = folder.join("cache");
    if !cache.exists() {
        fs::create_dir(&cache).unwrap();
        symlink(compiled(), cache.join("compiled")).unwrap();
    }
    cache
}

/// Compiled code of all tests, by digest.
pub fn compiled() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
    folder
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Weir {
    fn start(start: Start<'_>) -> Weir {
        let folder = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let numbered = |name: &str, i: usize| if i == 0 { format!("${name}") } else { format!("${name}{}", i + 1) };
        let echoes: Vec<_> = (0..start.upstreams).map(|i| echo_server(numbered("echo", i).trim_start_matches('$'))).collect();
        let mut words = start.words;
        words.extend(ports.iter().enumerate().map(|(i, p)| (numbered("PORT", i), p.to_string())));
        words.extend(echoes.iter().enumerate().map(|(i, e)| (numbered("ECHO", i), e.address().port().to_string())));
        // The longest first, so that $PORT does not eat the beginning of $PORT2.
        words.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let conf = folder.path().join("conf.d");
        fs::create_dir(&conf).unwrap();
        for (name, text) in &start.files {
            fs::write(conf.join(name), replaced(text, &words)).unwrap();
        }
        let mut command = match (start.descriptors, start.cluster) {
            (None, None) => weir(),
            (None, Some(kube)) => kube.command(env!("CARGO_BIN_EXE_weir")),
            (Some((soft, hard)), _) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_weir")]);
                shell
            }
        };
        let cache = start.cache.unwrap_or_else(|| cache_in(folder.path()));
        match start.kubeconfig {
            None => command.arg("run"),
            Some(kubeconfig) => command.args(["gateway", "--kubeconfig"]).arg(kubeconfig),
        };
        command.args(["--workers", &start.workers.to_string(), "--admin", "127.0.0.1:0", "--cache-dir"]).arg(cache);
        command.envs(start.environment);
        if !start.files.is_empty() {
            command.arg("-f").arg(&conf);
        }
        command.args(start.args.iter().map(|a| replaced(a, &words)));
        // One pipe for both streams keeps the order of what is printed.
        let (printed, writer) = std::io::pipe().unwrap();
        let child = command.stdout(writer.try_clone().unwrap()).stderr(writer.try_clone().unwrap()).spawn().unwrap();
        let output = Output::collect(printed, writer);
        let mut running = Weir { child, folder, output, ports, admin: SocketAddr::from(([127, 0, 0, 1], 0)), words, _echo: echoes };
        running.wait_admin();
        if let Some(kube) = start.cluster {
            running.admin = kube.forward(&running.admin.to_string());
        }
        if start.wait {
            let text = || format!("ready: {}", running.printed());
            eventually(&text(), || client::get(running.admin, "localhost", "/ready").ok().filter(|a| a.status == 200));
        }
        running
    }

    fn wait_admin(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let admin = loop {
            if let Some(line) = self.lines("admin on http://").first() {
                break line.rsplit('/').next().unwrap().parse().unwrap();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", self.printed());
            std::thread::sleep(Duration::from_millis(2));
        };
        self.admin = admin;
    }

    /// Everything it printed so far. What it logged before an answer that a client has read is in it.
    pub fn printed(&self) -> String {
        self.log_threads_rest();
        self.output.lines().join("\n")
    }
    /// The printed lines that contain `part`, see [`Weir::printed`].
    pub fn lines(&self, part: &str) -> Vec<String> {
        self.log_threads_rest();
        self.output.lines().into_iter().filter(|l| l.contains(part)).collect()
    }
    /// Logs are written by threads of their own: waits until none of them is at work.
    fn log_threads_rest(&self) {
        let of = |thread: &Path, file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
        let at_work = |thread: &Path| {
            matches!(of(thread, "comm").trim(), "log" | "access-log")
                && of(thread, "stat").rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
        };
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()));
        for thread in threads.into_iter().flatten().flatten() {
            let deadline = Instant::now() + PATIENCE;
            while at_work(&thread.path()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    /// The lines that contain `part`, once there are any: logs are written behind the work, and read by a thread.
    #[track_caller]
    pub fn says(&self, part: &str) -> Vec<String> {
        eventually(part, || Some(self.lines(part)).filter(|l| !l.is_empty()))
    }
    /// Its first echo upstream.
    pub fn echo(&self) -> SocketAddr {
        self._echo[0].address()
    }
    /// The port of its nth echo upstream, counted from 1.
    pub fn echo_port(&self, nth: usize) -> u16 {
        self._echo[nth - 1].address().port()
    }
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[0]))
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("conf.d").join(name)
    }
    /// Replaces a file of its folder at once: a busy machine may stop a test between emptying a file and writing it.
    pub fn write(&self, name: &str, text: &str) {
        let part = self.folder.path().join(name.replace('/', "-"));
        fs::write(&part, replaced(text, &self.words)).unwrap();
        fs::rename(part, self.path(name)).unwrap();
    }
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }
    /// `GET` on a connection of its own.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        client::get(self.address(), host, path).unwrap_or_else(|e| panic!("{path}: {e}: {}", self.printed()))
    }
    /// `GET` until the answer is as wanted.
    #[track_caller]
    pub fn get_until(&self, host: &str, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = client::get(self.address(), host, path).ok();
            if last.as_ref().is_some_and(&wanted) {
                return last.unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("http://{host}{path} answered {last:?}; {}", self.printed());
    }
    pub fn admin(&self, path: &str) -> Answer {
        client::get(self.admin, "localhost", path).unwrap()
    }
    /// The value of a counter or gauge by Envoy's name; 0 where it was never counted.
    pub fn stat(&self, name: &str) -> u64 {
        let text = self.admin("/stats").body;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ").map(str::to_string));
        line.map_or(0, |v| v.parse().unwrap())
    }
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    /// The CPU time that it took so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let ticks = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
        // A hundred ticks a second, on every Linux.
        Duration::from_millis(10 * ticks.sum::<u64>())
    }
    /// Waits until it has nothing to do: what it could read or write, it has.
    #[track_caller]
    pub fn rests(&self) {
        let tasks = format!("/proc/{}/task", self.pid());
        let running = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('S'));
        let mut asleep = 0;
        eventually("all threads asleep", || {
            let busy = fs::read_dir(&tasks).unwrap().flatten().any(|t| fs::read_to_string(t.path().join("stat")).is_ok_and(running));
            asleep = if busy { 0 } else { asleep + 1 };
            (asleep == 25).then_some(())
        });
    }
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap().success());
    }
    /// Waits for its end.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {}", self.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- weir printed:\n{}\n---", self.printed());
        }
    }
}

fn replaced(text: &str, words: &[(String, String)]) -> String {
    words.iter().fold(text.to_string(), |t, (name, value)| t.replace(name, value))
}
