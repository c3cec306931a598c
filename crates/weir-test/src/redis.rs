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
        let mut child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--dir"])
            .arg(dir.path())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
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
