//! kube-apiserver reaches a kubelet that it cannot dial: logs and exec through `weir tunnel`.
use super::{
    access::identity,
    hub::{Edge, Link, prepare},
};
use crate::{
    harness::{Kube, PATIENCE, eventually},
    tls_client::{Client, Tls},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use weir_test::{
    client::Connection,
    kube::programs::{API, programs},
};

/// Bytes of a log: more than what may wait on the way, buffers of the kernel among them.
const LOG: usize = 192 << 20;
const WAITING: u64 = 128 << 20;
const LOGS: &str = "/api/v1/namespaces/default/pods/p/log?container=c&follow=true";

/// `weir tunnel`.
struct Tunnel {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    agents: SocketAddr,
}

impl Tunnel {
    fn start(kube: &Kube, socket: &Path, flags: &[&str]) -> Tunnel {
        let pki = |file: &str| kube.folder().join("pki").join(file);
        let (output, writer) = io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["tunnel", "--agent-bind-address", "127.0.0.1", "--agent-port", "0"]).args(flags).arg("--uds-name").arg(socket);
        command.arg("--cluster-ca-cert").arg(pki("ca.crt")).arg("--cluster-cert").arg(pki("edge.crt"));
        command.arg("--cluster-key").arg(pki("edge.key")).stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap();
        drop(command);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = printed.clone();
        thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line)));
        let mut tunnel = Tunnel { child, printed, agents: ([127, 0, 0, 1], 0).into() };
        tunnel.agents = tunnel.says("agents connect to ").rsplit(' ').next().unwrap().parse().unwrap();
        tunnel.says(&format!("kube-apiserver connects to {}", socket.display()));
        tunnel
    }

    #[track_caller]
    fn says(&self, part: &str) -> String {
        eventually(part, || self.printed.lock().unwrap().iter().find(|line| line.contains(part)).cloned())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- weir tunnel printed:\n{}\n---", self.printed.lock().unwrap().join("\n"));
        }
    }
}

/// Long logs, and an exec that echoes.
struct Kubelet {
    port: u16,
    /// What was written of a log when nothing more could be.
    blocked: Arc<AtomicU64>,
}

impl Kubelet {
    fn start(kube: &Kube) -> Kubelet {
        let pki = |file: &str| fs::read(kube.folder().join("pki").join(file)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pki("kubelet.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pki("kubelet.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(rustls::ALL_VERSIONS).unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kubelet = Kubelet { port: listener.local_addr().unwrap().port(), blocked: Arc::default() };
        let blocked = kubelet.blocked.clone();
        thread::spawn(move || {
            for io in listener.incoming().map_while(Result::ok) {
                let (config, blocked) = (config.clone(), blocked.clone());
                thread::spawn(move || drop(serve(io, config, &blocked)));
            }
        });
        kubelet
    }
}

fn serve(io: TcpStream, config: Arc<ServerConfig>, blocked: &AtomicU64) -> io::Result<()> {
    let mut tls = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, io);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"GET /containerLogs/") {
        tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n")?;
        // rustls reads when it cannot write: neither may wait for ever.
        tls.sock.set_write_timeout(Some(Duration::from_secs(2)))?;
        tls.sock.set_read_timeout(Some(Duration::from_millis(10)))?;
        let line = [b'x'; 16 << 10];
        let mut sent = 0;
        while sent < LOG {
            match tls.write(&line[..line.len().min(LOG - sent)]) {
                Ok(n) => sent += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    blocked.store(sent as u64, Ordering::Relaxed)
                }
                Err(e) => return Err(e),
            }
        }
        tls.conn.send_close_notify();
        while tls.conn.wants_write() {
            match tls.conn.write_tls(&mut tls.sock) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Err(e),
                _ => {}
            }
        }
        return Ok(());
    }
    tls.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n")?;
    let mut bytes = [0; 4096];
    loop {
        let read = tls.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        tls.write_all(&bytes[..read])?;
    }
}

/// The most memory that a process has had, and what it has now, in bytes.
fn memory(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    (field("VmHWM:"), field("VmRSS:"))
}

/// The status of a CONNECT, and why.
fn connect(socket: &Path, authority: &str) -> (u16, String) {
    let io = UnixStream::connect(socket).unwrap();
    io.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut connection = Connection::over(io);
    connection.send(format!("CONNECT {authority} HTTP/1.1\r\nhost: x\r\n\r\n")).unwrap();
    match connection.head().unwrap() {
        head if head.status == 200 => (200, String::new()),
        head => {
            let length = head.header("content-length").unwrap().parse().unwrap();
            (head.status, String::from_utf8(connection.bytes(length).unwrap()).unwrap())
        }
    }
}

#[test]
fn logs_and_exec_reach_a_node_that_cannot_be_dialed() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, second, egress) = (folder.path().join("tunnel"), folder.path().join("second"), folder.path().join("egress.yaml"));
    let config = format!(
        "apiVersion: apiserver.k8s.io/v1beta1\nkind: EgressSelectorConfiguration\negressSelections:\n- name: cluster\n  connection:\n    proxyProtocol: HTTPConnect\n    transport: {{uds: {{udsName: '{}'}}}}\n",
        socket.display()
    );
    fs::write(&egress, config).unwrap();
    let egress = format!("--egress-selector-config-file={}", egress.display());
    let by_name = "--kubelet-preferred-address-types=Hostname";
    let flags = ["-api-only", "-apiserver-arg", &egress, "-apiserver-arg", by_name];
    let kube = Kube::with(programs(API).unwrap(), &flags, &[]);
    prepare(&kube);
    let kubelet = Kubelet::start(&kube);
    kube.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}
---
{apiVersion: v1, kind: Node, metadata: {name: rig-node}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default}, spec: {nodeName: rig-node, automountServiceAccountToken: false, containers: [{name: c, image: i}]}}",
    );
    let status = format!(
        "{{\"status\":{{\"addresses\":[{{\"type\":\"Hostname\",\"address\":\"rig-node\"}}],\"daemonEndpoints\":{{\"kubeletEndpoint\":{{\"Port\":{}}}}}}}}}",
        kubelet.port
    );
    let patched = kube.api("PATCH", "/api/v1/nodes/rig-node/status", "application/merge-patch+json", status.as_bytes()).unwrap();
    assert_eq!(patched.status, 200, "{}", patched.body);

    let (tunnel, other) = (Tunnel::start(&kube, &socket, &[]), Tunnel::start(&kube, &second, &["--direct", "false"]));
    let (api, link, cache) = (Link::to(&kube), Link::between(tunnel.agents), tempfile::tempdir().unwrap());
    let servers = format!("{},https://{}", link.url(), other.agents);
    let local = format!("127.0.0.1:{}", kubelet.port);
    let edge =
        Edge::with(&kube, &api, cache.path(), &["--tunnel-server", &servers, "--tunnel-kubelet", &local, "--tunnel-address", "10.9.9.9"]);
    tunnel.says("node rig-node has come");
    other.says("node rig-node has come");

    let server = kube.forward("10.244.0.1:6443");
    let (authority, administrator) = (fs::read_to_string(kube.folder().join("pki/ca.crt")).unwrap(), identity(&kube, "kubelet-client"));
    let open = || -> Tls {
        let client = Client { trust: Some(&authority), identity: Some(&administrator), ..Client::default() };
        client.connect(server, "localhost").unwrap().0
    };
    let logs = || {
        let mut connection = open();
        connection.send(format!("GET {LOGS} HTTP/1.1\r\nhost: kube\r\n\r\n")).unwrap();
        let head = connection.head().unwrap();
        (head.status, connection)
    };
    // How much of a log comes.
    let rest = |connection: &mut Tls| {
        let mut got = 0;
        loop {
            match connection.chunk() {
                Ok(Some(piece)) => got += piece.len(),
                Ok(None) => return (got, true),
                Err(_) => return (got, false),
            }
        }
    };
    // A client that does not read: kubelet is held up, and nobody on the way keeps more than a little.
    let before = [edge.id(), tunnel.child.id()].map(|pid| (pid, memory(pid).1));
    let (status, mut stream) = logs();
    assert_eq!(status, 200);
    let blocked = eventually("kubelet waits for the client", || Some(kubelet.blocked.load(Ordering::Relaxed)).filter(|sent| *sent > 0));
    assert!(blocked < WAITING, "{blocked} bytes were taken");
    assert_eq!(rest(&mut stream), (LOG, true));
    for (pid, before) in before {
        let grown = memory(pid).0.saturating_sub(before);
        assert!(grown < 48 << 20, "{grown} bytes more");
    }

    // exec: bytes both ways.
    let mut exec = open();
    let path = "/api/v1/namespaces/default/pods/p/exec?container=c&command=cat&stdin=true&stdout=true";
    exec.send(format!("POST {path} HTTP/1.1\r\nhost: kube\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\r\n")).unwrap();
    let head = exec.head().unwrap();
    assert_eq!(head.status, 101, "{head:?}");
    for text in ["hello", "and again"] {
        exec.send(text).unwrap();
        assert_eq!(exec.bytes(text.len()).unwrap(), text.as_bytes());
    }

    // Other places on the node, and other hosts.
    let at = |host: &str, port: u16| connect(&second, &format!("{host}:{port}"));
    assert_eq!((at("rig-node", kubelet.port).0, at("10.9.9.9", kubelet.port).0), (200, 200));
    for (host, port, code, says) in [
        ("rig-node", 22, 403, "is not permitted on this node"),
        ("127.0.0.1", kubelet.port, 502, "no agent leads to this host"),
        ("other", 10250, 502, "no agent leads to this host"),
    ] {
        let (status, text) = at(host, port);
        assert!(status == code && text.contains(says), "{host}:{port}: {status} {text}");
    }
    // Hosts without an agent are dialed, where that is wanted.
    assert_eq!(connect(&socket, &local).0, 200);
    // Only nodes are agents.
    let stranger = Client { trust: Some(&authority), identity: Some(&administrator), ..Client::default() };
    let _ = stranger.connect(other.agents, "localhost").map(|(mut connection, _)| connection.is_closed());
    other.says("an agent was refused: CN=kubelet-client");

    // The link is cut in the middle of a stream, and comes back.
    let (status, mut stream) = logs();
    assert_eq!(status, 200);
    stream.chunk().unwrap();
    link.cut();
    let (got, _) = rest(&mut stream);
    assert!(got < LOG);
    tunnel.says("node rig-node has gone");
    assert!(logs().0 >= 500);
    let metrics = |socket: &Path| {
        let mut connection = Connection::over(UnixStream::connect(socket).unwrap());
        connection.request("GET", "x", "/metrics", &[("connection", "close")], b"").unwrap().body
    };
    assert!(metrics(&socket).contains("weir_tunnel_nodes{} 0\n") && metrics(&second).contains("weir_tunnel_nodes{} 1\n"));
    link.mend();
    eventually("the agent is back", || (logs().0 == 200).then_some(()));
    assert!(edge.admin("/metrics").body.contains("weir_edge_tunnel_servers{} 2\n"));
}
