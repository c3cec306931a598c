//! An upstream of HTTP/1 that keeps what it received.
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// What an upstream of HTTP/1 received, connection by connection.
#[derive(Clone, Default)]
pub struct Received(Arc<Mutex<Vec<Vec<u8>>>>);

const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

impl Received {
    /// An upstream that answers each request, heads and chunked or counted bodies, with an empty 200; its port.
    pub fn start() -> (u16, Received) {
        Received::when(request_length)
    }
    /// An upstream that answers the first head of each connection at once, and goes on reading.
    pub fn early() -> (u16, Received) {
        Received::when(|held| held.windows(4).any(|w| w == b"\r\n\r\n").then_some(usize::MAX))
    }
    /// `request`: the length of the first request, once it is to be answered.
    fn when(request: fn(&[u8]) -> Option<usize>) -> (u16, Received) {
        let received = Received::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let into = received.clone();
        std::thread::spawn(move || {
            for io in listener.incoming().map_while(Result::ok) {
                let into = into.clone();
                std::thread::spawn(move || into.connection(io, request));
            }
        });
        (port, received)
    }
    fn connection(&self, mut io: TcpStream, request: fn(&[u8]) -> Option<usize>) {
        let number = {
            let mut all = self.0.lock().unwrap();
            all.push(Vec::new());
            all.len() - 1
        };
        let (mut held, mut piece) = (Vec::new(), [0; 16384]);
        loop {
            match io.read(&mut piece) {
                Ok(n @ 1..) => {
                    held.extend_from_slice(&piece[..n]);
                    self.0.lock().unwrap()[number].extend_from_slice(&piece[..n]);
                }
                _ => return,
            }
            while let Some(length) = request(&held) {
                held.drain(..length.min(held.len()));
                if io.write_all(EMPTY.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
    /// By connection, those that nothing came on left out.
    pub fn connections(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|c| !c.is_empty()).map(|c| String::from_utf8_lossy(c).into_owned()).collect()
    }
    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().iter().map(|c| String::from_utf8_lossy(c)).collect()
    }
    /// Takes what has come.
    pub fn take(&self) -> String {
        self.0.lock().unwrap().iter_mut().map(|c| String::from_utf8_lossy(&std::mem::take(c)).into_owned()).collect()
    }
    /// The start lines of what an upstream reads as requests.
    pub fn requests(text: &str) -> Vec<&str> {
        text.split("\r\n").filter(|line| line.ends_with(" HTTP/1.1")).collect()
    }
}

/// The bytes of the first request, once all of it is there.
fn request_length(held: &[u8]) -> Option<usize> {
    let end = held.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        let body = &held[end..];
        let last = if body.starts_with(b"0\r\n") { 0 } else { body.windows(5).position(|w| w == b"\r\n0\r\n")? + 2 };
        // The line break of the last chunk may be the first of the two that end the trailers.
        let trailers = &body[last + 1..];
        return Some(end + last + 1 + trailers.windows(4).position(|w| w == b"\r\n\r\n")? + 4);
    }
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |v| v.trim().parse().unwrap_or(0));
    (held.len() >= end + length).then_some(end + length)
}
