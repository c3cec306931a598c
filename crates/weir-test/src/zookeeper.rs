//! A real ZooKeeper on a free port, which stops when its value is dropped, and a client for its nodes.
use crate::{free_port, wait::eventually};
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

pub struct ZookeeperServer {
    child: Child,
    pub port: u16,
    client: Mutex<Option<TcpStream>>,
    _dir: tempfile::TempDir,
}

/// The classes of Debian's package; the jar names the others.
const JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

impl ZookeeperServer {
    pub fn start() -> ZookeeperServer {
        ZookeeperServer::start_at(free_port())
    }

    /// Empty, on a port that was used before.
    pub fn start_at(port: u16) -> ZookeeperServer {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "tickTime=1000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nforceSync=no\nmaxClientCnxns=0\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("zoo.cfg");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("java")
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-cp", JAR, MAIN])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java is installed");
        let client = eventually("ZooKeeper starts", || {
            assert!(child.try_wait().unwrap().is_none(), "ZooKeeper ended: is the package zookeeper installed?");
            connect(port).ok()
        });
        ZookeeperServer { child, port, client: Mutex::new(Some(client)), _dir: dir }
    }

    /// A node that stays, unless it is there already.
    pub fn create(&self, path: &str, data: &str) {
        // All permissions for anyone.
        let acl = [&1i32.to_be_bytes()[..], &31i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
        let answer = self.ask(1, &[&text(path)[..], &text(data), &acl, &0i32.to_be_bytes()].concat());
        assert!(matches!(answer.0, 0 | -110), "create {path}: {}", answer.0);
    }

    pub fn delete(&self, path: &str) {
        assert_eq!(self.ask(2, &[&text(path)[..], &(-1i32).to_be_bytes()].concat()).0, 0, "delete {path}");
    }

    pub fn set(&self, path: &str, data: &str) {
        assert_eq!(self.ask(5, &[&text(path)[..], &text(data), &(-1i32).to_be_bytes()].concat()).0, 0, "set {path}");
    }

    pub fn children(&self, path: &str) -> Vec<String> {
        let (error, body) = self.ask(8, &[&text(path)[..], &[0]].concat());
        assert_eq!(error, 0, "children of {path}");
        let int = |at: usize| i32::from_be_bytes(body[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, mut all) = (4, Vec::new());
        for _ in 0..int(0) {
            let length = int(at);
            all.push(String::from_utf8(body[at + 4..at + 4 + length].to_vec()).unwrap());
            at += 4 + length;
        }
        all
    }

    /// The error and the rest of the answer. A session that ended begins again.
    fn ask(&self, code: i32, body: &[u8]) -> (i32, Vec<u8>) {
        let mut client = self.client.lock().unwrap();
        let mut io = client.take().unwrap();
        let request = [&1i32.to_be_bytes()[..], &code.to_be_bytes(), body].concat();
        let answer = match exchange(&mut io, &request) {
            Ok(answer) => answer,
            Err(_) => {
                io = connect(self.port).unwrap();
                exchange(&mut io, &request).unwrap()
            }
        };
        *client = Some(io);
        (i32::from_be_bytes(answer[12..16].try_into().unwrap()), answer[16..].to_vec())
    }
}

impl Drop for ZookeeperServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat()
}

/// With a session.
fn connect(port: u16) -> std::io::Result<TcpStream> {
    let mut io = TcpStream::connect(("127.0.0.1", port))?;
    io.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    exchange(&mut io, &[&[0; 12][..], &20_000i32.to_be_bytes(), &[0; 8], &text("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")].concat())?;
    Ok(io)
}

fn exchange(io: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    io.write_all(&[&(request.len() as i32).to_be_bytes()[..], request].concat())?;
    let mut length = [0; 4];
    io.read_exact(&mut length)?;
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    io.read_exact(&mut answer)?;
    Ok(answer)
}
