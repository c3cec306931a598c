//! A hub beside a cluster, and the link between the two, which a test can cut.
use crate::harness::{Kube, PATIENCE, eventually};
use serde_json::Value;
use std::{
    io::{self, BufRead, BufReader},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};
use weir_test::client::{Answer, Connection};

pub const JSON: (&str, &str) = ("accept", "application/json");
pub const PROTOBUF: (&str, &str) = ("accept", "application/vnd.kubernetes.protobuf,application/json");
pub const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");

/// A watch through a hub, and what it brought last.
pub struct Watch {
    hub: SocketAddr,
    path: String,
    agent: String,
    connection: Connection<TcpStream>,
    seen: String,
}

impl Watch {
    fn open(hub: SocketAddr, path: &str, agent: &str) -> Watch {
        let connection = eventually(path, || {
            let mut connection = open(hub);
            let head = format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\nuser-agent: {agent}\r\n\r\n");
            connection.send(head).unwrap();
            (connection.head().unwrap().status == 200).then_some(connection)
        });
        Watch { hub, path: path.into(), agent: agent.into(), connection, seen: String::new() }
    }

    /// Waits for an event. The watch begins again where it ends.
    #[track_caller]
    pub fn event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        eventually(what, || {
            loop {
                while let Some(end) = self.seen.find('\n') {
                    let line: String = self.seen.drain(..=end).collect();
                    if wanted(&serde_json::from_str(&line).unwrap()) {
                        return Some(());
                    }
                }
                match self.connection.chunk() {
                    Ok(Some(piece)) => self.seen += &String::from_utf8(piece).unwrap(),
                    Ok(None) | Err(_) => {
                        *self = Watch::open(self.hub, &self.path, &self.agent);
                        return None;
                    }
                }
            }
        });
    }

    /// Reads to its end.
    pub fn ends(mut self) {
        while self.connection.chunk().is_ok_and(|piece| piece.is_some()) {}
    }
}

/// What a watch brings until `part` has come. It ends where the link counts as down for a moment, and then begins again.
#[track_caller]
pub fn until(watch: &mut Watch, part: &str) -> String {
    watch.seen.clear();
    eventually(part, || {
        while !watch.seen.contains(part) {
            match watch.connection.chunk() {
                Ok(Some(piece)) => watch.seen += &String::from_utf8(piece).unwrap(),
                Ok(None) | Err(_) => {
                    *watch = Watch::open(watch.hub, &watch.path, &watch.agent);
                    return None;
                }
            }
        }
        Some(watch.seen.clone())
    })
}

fn open(hub: SocketAddr) -> Connection<TcpStream> {
    let io = TcpStream::connect(hub).unwrap();
    io.set_read_timeout(Some(PATIENCE)).unwrap();
    Connection::over(io)
}

/// The way from a hub to the API server.
pub struct Link {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// Where the rig's API server listens.
const API_SERVER: &str = "10.244.0.1:6443";

#[derive(Default)]
struct State {
    /// `None`: connections are closed at once.
    to: Option<SocketAddr>,
    cut: bool,
    open: Vec<TcpStream>,
}

impl Link {
    pub fn to(kube: &Kube) -> Link {
        Link::to_server(kube, API_SERVER)
    }

    pub fn to_server(kube: &Kube, address: &str) -> Link {
        Link::between(kube.forward(address))
    }

    /// The way to another address.
    pub fn between(to: SocketAddr) -> Link {
        let link = Link::to_be();
        link.lead_to(to);
        link
    }

    /// A way that leads nowhere yet.
    pub fn to_be() -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let link = Link { port, state: state.clone() };
        std::thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                let to = state.lock().unwrap().to;
                let Some(Ok(there)) = to.map(TcpStream::connect) else { continue };
                [&here, &there].into_iter().for_each(|side| side.set_nodelay(true).unwrap());
                let mut state = state.lock().unwrap();
                if !state.cut {
                    state.open.extend([here.try_clone().unwrap(), there.try_clone().unwrap()]);
                    copy(here.try_clone().unwrap(), there.try_clone().unwrap());
                    copy(there, here);
                }
            }
        });
        link
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn lead_to(&self, to: SocketAddr) {
        self.state.lock().unwrap().to = Some(to);
    }

    /// Closes all connections; new ones are closed at once.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut = true;
        for connection in state.open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().cut = false;
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

pub struct Edge {
    pub address: SocketAddr,
    /// The port with TLS.
    pub secure: SocketAddr,
    cache: PathBuf,
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Edge {
    pub fn start(kube: &Kube, link: &Link, cache: &Path) -> Edge {
        Edge::with(kube, link, cache, &[])
    }

    pub fn with(kube: &Kube, link: &Link, cache: &Path, flags: &[&str]) -> Edge {
        Edge::run(Edge::command_with(kube, link, cache, flags), cache)
    }

    /// A hub with the certificates of the rig.
    pub fn command_with(kube: &Kube, link: &Link, cache: &Path, flags: &[&str]) -> Command {
        let pki = |file: &str| kube.folder().join("pki").join(file);
        let mut command = Edge::command_of(link, cache);
        command.args(flags).arg("--certificate-authority").arg(pki("ca.crt")).arg("--client-certificate").arg(pki("node.crt"));
        command.arg("--client-key").arg(pki("node.key")).arg("--tls-cert-file").arg(pki("edge.crt"));
        command.arg("--tls-private-key-file").arg(pki("edge.key"));
        command
    }

    /// A hub with ports of its own, and without certificates.
    pub fn command_of(link: &Link, cache: &Path) -> Command {
        Edge::command_as(Path::new(env!("CARGO_BIN_EXE_weir")), link, cache)
    }

    /// The same by another path of the program.
    pub fn command_as(program: &Path, link: &Link, cache: &Path) -> Command {
        Edge::command_of_node(program, "rig-node", link, cache)
    }

    /// The same for another node.
    pub fn command_of_node(program: &Path, node: &str, link: &Link, cache: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["edge", "--node-name", node, "--proxy-port", "0", "--proxy-secure-port", "0"]);
        command.arg("--server-addr").arg(link.url()).arg("--disk-cache-path").arg(cache);
        command.arg("--disk-cache-key-file").arg(cache.join("test.key"));
        command
    }

    pub fn run(mut command: Command, cache: &Path) -> Edge {
        let (output, writer) = io::pipe().unwrap();
        let child = command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        drop(command);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = printed.clone();
        std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line)));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut edge = Edge { address: nowhere, secure: nowhere, cache: cache.into(), child, printed };
        let listens = |edge: &Edge, part: &str| edge.says(part).rsplit('/').next().unwrap().parse().unwrap();
        edge.address = listens(&edge, "listening on http://");
        edge.secure = listens(&edge, "listening on https://");
        edge.says("API server at");
        edge
    }

    /// The first line with these words.
    #[track_caller]
    pub fn says(&self, part: &str) -> String {
        eventually(part, || self.printed.lock().unwrap().iter().find(|line| line.contains(part)).cloned())
    }

    pub fn printed(&self) -> Vec<String> {
        self.printed.lock().unwrap().clone()
    }

    /// `GET` of an admin endpoint.
    pub fn admin(&self, path: &str) -> Answer {
        let io = UnixStream::connect(self.cache.join("admin.sock")).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection::over(io).request("GET", "localhost", path, &[], b"").unwrap()
    }

    /// `weir edge COMMAND`: whether it succeeded, and what it printed.
    pub fn command(&self, arguments: &[&str]) -> (bool, String) {
        command(&self.cache, arguments)
    }

    pub fn open(&self) -> Connection<TcpStream> {
        open(self.address)
    }

    pub fn watch(&self, path: &str) -> Watch {
        self.watch_as("test", path)
    }

    pub fn watch_as(&self, agent: &str, path: &str) -> Watch {
        Watch::open(self.address, path, agent)
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers, b"")
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.open().request(method, "hub", path, headers, body).unwrap_or_else(|e| panic!("{path}: {e}: {:?}", self.printed()))
    }

    /// An answer of the API server, which is kept beside the client.
    #[track_caller]
    pub fn kept(&self, path: &str, accept: (&str, &str)) -> Answer {
        self.kept_for(path, &[accept])
    }

    #[track_caller]
    pub fn kept_for(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let is_new = |answer: &Answer| answer.status == 200 && answer.header("weir-cache").is_none();
        eventually(path, || Some(self.get(path, headers)).filter(is_new))
    }

    /// The same without the API server, once it was kept.
    #[track_caller]
    pub fn offline(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        eventually(path, || Some(self.get(path, headers)).filter(|answer| answer.status == 200))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process ends by itself.
    pub fn ends(&mut self) -> ExitStatus {
        eventually("the hub ends", || self.child.try_wait().unwrap())
    }

    /// As by a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- weir edge printed:\n{}\n---", self.printed().join("\n"));
        }
    }
}

/// `weir edge COMMAND` of the hub that keeps its store in a folder.
pub fn command(cache: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("edge").args(arguments).arg("--disk-cache-path").arg(cache);
    let output = command.arg("--disk-cache-key-file").arg(cache.join("test.key")).stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Nodes and the service account may do everything: what the API server allows is not the subject.
pub fn prepare(kube: &Kube) {
    kube.apply(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: nodes }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }
subjects:
  - { apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:nodes' }
  - { kind: ServiceAccount, name: reader, namespace: default }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: reader, namespace: default }
",
    );
}
