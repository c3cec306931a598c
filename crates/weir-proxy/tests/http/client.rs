//! A client that writes what it is told and reads answers strictly.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

pub struct Conn {
    io: TcpStream,
    have: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn all(&self, name: &str) -> Vec<&String> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect()
    }
    pub fn header(&self, name: &str) -> Option<&String> {
        self.all(name).first().copied()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// What the backend's `/echo` said of one thing.
    pub fn field(&self, name: &str) -> String {
        let text = self.text();
        let start = text.find(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {self:?}")) + name.len() + 2;
        text[start..start + text[start..].find("</>").unwrap()].to_string()
    }
}

impl Conn {
    pub fn dial(to: SocketAddr) -> Conn {
        let io = TcpStream::connect(to).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        io.set_nodelay(true).unwrap();
        Conn { io, have: Vec::new() }
    }
    pub fn write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).unwrap();
    }
    /// The other side may close meanwhile.
    pub fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes);
    }
    fn more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.io.read(&mut piece) {
            Ok(0) => false,
            Ok(n) => {
                self.have.extend_from_slice(&piece[..n]);
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("{e}"),
        }
    }
    fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.have.windows(mark.len()).position(|w| w == mark) {
                return self.have.drain(..at + mark.len()).collect();
            }
            assert!(self.more(), "the connection ended with {:?}", String::from_utf8_lossy(&self.have));
        }
    }
    pub fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.have.len() < n {
            assert!(self.more(), "the connection ended {} bytes early", n - self.have.len());
        }
        self.have.drain(..n).collect()
    }
    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.have)
    }
    /// The same; says what it was about when the connection stays open.
    pub fn rest_or(&mut self, what: &str) -> Vec<u8> {
        self.io.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let all = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.rest()));
        all.unwrap_or_else(|_| panic!("{what}: the connection stays open"))
    }
    /// At least the next `n` bytes.
    pub fn rest_of(&mut self, n: usize) -> Vec<u8> {
        while self.have.len() < n {
            assert!(self.more());
        }
        std::mem::take(&mut self.have)
    }
    pub fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n")).unwrap()
    }
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "", b"")
    }
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        self.write(&[head.as_bytes(), body].concat());
        self.answer(method)
    }
    pub fn answer(&mut self, method: &str) -> Answer {
        let head = self.head();
        let status: u16 = head[9..12].parse().unwrap();
        let fields = |text: &str| -> Vec<(String, String)> {
            let pairs = text.lines().filter_map(|l| l.split_once(':'));
            pairs.map(|(n, v)| (n.to_lowercase(), v.trim().to_string())).collect()
        };
        let headers = fields(head.split_once("\r\n").unwrap().1);
        let mut a = Answer { status, headers, body: Vec::new() };
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return a;
        }
        if a.header("transfer-encoding").is_some() {
            loop {
                let line = self.until(b"\r\n");
                let size = std::str::from_utf8(&line).unwrap().trim().split(';').next().unwrap().to_string();
                let n = usize::from_str_radix(&size, 16).unwrap();
                if n == 0 {
                    break;
                }
                let piece = self.exactly(n);
                a.body.extend(piece);
                assert_eq!(self.exactly(2), b"\r\n");
            }
            loop {
                let line = String::from_utf8(self.until(b"\r\n")).unwrap();
                if line == "\r\n" {
                    break;
                }
                a.headers.extend(fields(&line));
            }
        } else if let Some(n) = a.header("content-length") {
            a.body = self.exactly(n.parse().unwrap());
        } else {
            a.body = self.rest();
        }
        a
    }
}
