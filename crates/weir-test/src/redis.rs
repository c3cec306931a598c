//! A real redis-server on a free port, which stops when its value is dropped.
use crate::{PATIENCE, free_port};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct RedisServer {
    child: Child,
    pub port: u16,
    _dir: tempfile::TempDir,
}

impl RedisServer {
    pub fn start(arguments: &[&str]) -> RedisServer {
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..20 {
            let port = free_port();
            if let Some(server) = RedisServer::try_start(port, arguments) {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// On a port that was used before, e.g. after a kill.
    pub fn try_start(port: u16, arguments: &[&str]) -> Option<RedisServer> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--daemonize", "no", "--dir"]).arg(dir.path()).args(arguments);
        RedisServer::running(command, port, dir)
    }

    /// Waits until the command serves the port; `None` when it ends before.
    fn running(mut command: Command, port: u16, dir: tempfile::TempDir) -> Option<RedisServer> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server is installed");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            // It may be another server that took the port: ask for the process id.
            if let Ok(info) = ask(port, "INFO server")
                && (info.contains(&format!("process_id:{}", child.id())) || info.starts_with("-NOAUTH"))
            {
                return Some(RedisServer { child, port, _dir: dir });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// One inline command; the whole reply where it is a bulk string, else its line.
    pub fn ask(&self, command: &str) -> String {
        ask(self.port, command).unwrap()
    }

    /// Inline commands on one connection; the first line of each reply.
    pub fn tell(&self, commands: &[&str]) -> Vec<String> {
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut reader = BufReader::new(io.try_clone().unwrap());
        let mut line = |command: &&str| {
            io.write_all(format!("{command}\r\n").as_bytes()).unwrap();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim_end().to_string()
        };
        commands.iter().map(&mut line).collect()
    }

    /// Everything that these inline commands answer, on one connection.
    fn dump(&self, commands: &[&str]) -> String {
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        io.write_all(format!("{}\r\n", commands.join("\r\n")).as_bytes()).unwrap();
        // It answers what it has read before it sees the end.
        io.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = String::new();
        std::io::Read::read_to_string(&mut io, &mut all).unwrap();
        all
    }

    /// `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Ends it, for a later start on the same port.
    pub fn kill(mut self) -> u16 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.port
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut io = TcpStream::connect(("127.0.0.1", port))?;
    io.set_read_timeout(Some(Duration::from_secs(30)))?;
    io.write_all(format!("{command}\r\n").as_bytes())?;
    let mut reader = BufReader::new(io);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(len) = line.strip_prefix('$').and_then(|n| n.trim().parse::<usize>().ok()) else {
        return Ok(line.trim_end().to_string());
    };
    let mut bulk = vec![0; len];
    std::io::Read::read_exact(&mut reader, &mut bulk)?;
    Ok(String::from_utf8_lossy(&bulk).into_owned())
}

/// A Redis Cluster, made with `redis-cli --cluster create`.
pub struct RedisCluster {
    nodes: Vec<Option<RedisServer>>,
    ports: Vec<u16>,
    masters: usize,
}

impl RedisCluster {
    /// The masters first, then the replicas: the first one of the first master, and so on.
    pub fn start(masters: usize, replicas: usize) -> RedisCluster {
        RedisCluster::start_with(masters, replicas, &[])
    }

    pub fn start_with(masters: usize, replicas: usize, arguments: &[&str]) -> RedisCluster {
        let (nodes, buses): (Vec<_>, Vec<_>) = (0..masters + replicas).map(|_| RedisCluster::start_node(arguments)).unzip();
        let ports: Vec<u16> = nodes.iter().map(|n| n.port).collect();
        let addresses: Vec<_> = nodes[..masters].iter().map(RedisServer::address).collect();
        cli(&[&["--cluster", "create"], &addresses.iter().map(String::as_str).collect::<Vec<_>>()[..], &["--cluster-yes"]].concat());
        let cluster = RedisCluster { nodes: nodes.into_iter().map(Some).collect(), ports, masters };
        for replica in 0..replicas {
            let (new, master) = (cluster.node(masters + replica), replica % masters);
            let id = cluster.node(master).ask("CLUSTER MYID");
            assert_eq!(new.ask(&format!("CLUSTER MEET 127.0.0.1 {} {}", cluster.ports[master], buses[master])), "+OK");
            crate::eventually("a replica", || (new.ask(&format!("CLUSTER REPLICATE {id}")) == "+OK").then_some(()));
        }
        cluster.agreed();
        cluster
    }

    /// A server, and the port of its cluster bus.
    fn start_node(arguments: &[&str]) -> (RedisServer, String) {
        for _ in 0..20 {
            let (port, bus) = (free_port(), free_port().to_string());
            let own = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
            let own = [&own[..], &["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"], arguments].concat();
            if let Some(server) = RedisServer::try_start(port, &own) {
                return (server, bus);
            }
        }
        panic!("no port for a cluster node");
    }

    /// Waits until all live servers know all slots and each other.
    fn agreed(&self) {
        let all = self.nodes.iter().flatten().count();
        crate::eventually("the servers agree on the cluster", || {
            let fine = |server: &RedisServer| {
                let info = server.ask("CLUSTER INFO");
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains(&format!("cluster_known_nodes:{all}"))
            };
            self.nodes.iter().flatten().all(fine).then_some(())
        });
    }

    pub fn ports(&self) -> Vec<u16> {
        self.ports.clone()
    }

    pub fn node(&self, n: usize) -> &RedisServer {
        self.nodes[n].as_ref().expect("it lives")
    }

    /// The master that has a replica.
    pub fn replicated_master(&self) -> usize {
        0
    }

    /// Waits until the replica has what its master has, and could take over.
    pub fn replicated(&self) {
        let (master, replica) = (self.node(self.replicated_master()), self.node(self.masters));
        crate::eventually("the replica", || {
            let same = master.ask("DBSIZE") == replica.ask("DBSIZE");
            (same && replica.ask("INFO replication").contains("master_link_status:up")).then_some(())
        });
    }

    pub fn kill(&mut self, n: usize) {
        self.nodes[n].take().expect("it lives").kill();
    }
}

fn cli(arguments: &[&str]) {
    let output = Command::new("redis-cli").args(arguments).stdin(Stdio::null()).output().expect("redis-cli is installed");
    assert!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A Redis Sentinel that watches one master as `mymaster`, alone.
pub struct RedisSentinel {
    server: RedisServer,
    master_password: String,
}

impl RedisSentinel {
    /// `settings` are lines of its configuration.
    pub fn start(master: u16, master_password: &str, settings: &[&str]) -> RedisSentinel {
        for _ in 0..20 {
            let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
            let auth = if master_password.is_empty() { String::new() } else { format!("sentinel auth-pass mymaster {master_password}\n") };
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 1\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n{auth}{}\n",
                settings.join("\n")
            );
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel");
            if let Some(server) = RedisServer::running(command, port, dir) {
                return RedisSentinel { server, master_password: master_password.into() };
            }
        }
        panic!("no Sentinel starts");
    }

    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// Commands behind the Sentinel's own password, which may be empty; the first line of the last reply.
    pub fn tell(&self, password: &str, command: &str) -> String {
        let auth = format!("AUTH {password}");
        let commands = if password.is_empty() { vec![command] } else { vec![auth.as_str(), command] };
        self.server.tell(&commands).pop().unwrap()
    }

    /// Waits until the server is the master, has `replicas` live ones, and the Sentinel says so.
    pub fn settled(&self, password: &str, master: &RedisServer, replicas: usize) {
        let auth = format!("AUTH {}", self.master_password);
        crate::eventually("the Sentinel and the servers agree", || {
            let commands = if self.master_password.is_empty() { vec![] } else { vec![auth.as_str()] };
            let role = master.dump(&[&commands[..], &["INFO replication"]].concat());
            let online = role.contains("role:master") && role.matches("state=online").count() == replicas;
            let auth = format!("AUTH {password}");
            let commands = if password.is_empty() { vec![] } else { vec![auth.as_str()] };
            let known = self.server.dump(&[&commands[..], &["SENTINEL GET-MASTER-ADDR-BY-NAME mymaster", "INFO sentinel"]].concat());
            let named = known.contains(&format!("\r\n{}\r\n", master.port))
                && known.contains(&format!("status=ok,address=127.0.0.1:{},slaves={replicas}", master.port));
            (online && named).then_some(())
        });
    }
}
