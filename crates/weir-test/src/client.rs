//! An HTTP/1.1 client that sends exact bytes and reads answers strictly.
use crate::PATIENCE;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A connection; plain text or TLS underneath.
pub struct Connection<S = TcpStream> {
    io: S,
    held: Vec<u8>,
}

impl Connection {
    pub fn open(to: SocketAddr) -> io::Result<Connection> {
        let io = TcpStream::connect(to)?;
        io.set_nodelay(true)?;
        io.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection::over(io))
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(io: S) -> Connection<S> {
        Connection { io, held: Vec::new() }
    }
    pub fn into_inner(self) -> S {
        self.io
    }
    pub fn send(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(text.as_ref())?;
        self.io.flush()
    }
    /// Reads more; false at the end of the stream.
    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16384];
        let n = self.io.read(&mut piece)?;
        self.held.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.held[..end]).into_owned();
                self.held.drain(..end + 2);
                return Ok(line);
            }
            if !self.more()? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("after {:?}", String::from_utf8_lossy(&self.held))));
            }
        }
    }
    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("no header: {line}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
    }
    /// Behind the last chunk.
    pub fn trailers(&mut self) -> io::Result<Vec<(String, String)>> {
        self.fields()
    }
    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < count {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.held.drain(..count).collect())
    }
    /// Everything until the peer closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.held))
    }
    /// The head of an answer.
    pub fn head(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other(line.clone()))?;
        Ok(Answer { status, headers: self.fields()?, ..Answer::default() })
    }
    /// An answer to anything but HEAD, interim ones passed over.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.head()?;
        while (100..200).contains(&answer.status) && answer.status != 101 {
            answer = self.head()?;
        }
        let mut body = Vec::new();
        if matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            while let Some(mut piece) = self.chunk()? {
                body.append(&mut piece);
            }
            answer.trailers = self.fields()?;
        } else if let Some(length) = answer.header("content-length") {
            body = self.bytes(length.parse().map_err(io::Error::other)?)?;
        } else {
            body = self.rest()?;
        }
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }
    /// One chunk; `None` is the last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|e| io::Error::other(format!("{e}: {line}")))?;
        if size == 0 {
            return Ok(None);
        }
        let data = self.bytes(size)?;
        match self.bytes(2)?.as_slice() {
            b"\r\n" => Ok(Some(data)),
            _ => Err(io::Error::other("a chunk without its end")),
        }
    }
    /// Whether the peer has closed, and nothing more came.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.more(), Ok(false) | Err(_)) && self.held.is_empty()
    }
    pub fn request(&mut self, method: &str, host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("content-length: {}\r\n", body.len());
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.send(bytes)?;
        self.answer()
    }
}

/// `GET` on a connection of its own.
pub fn get(to: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    Connection::open(to)?.request("GET", host, path, &[("connection", "close")], b"")
}

/// Any request on a connection of its own.
pub fn request(to: SocketAddr, method: &str, host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    Connection::open(to)?.request(method, host, path, headers, body)
}
