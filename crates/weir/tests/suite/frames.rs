//! HTTP/2 frame by frame: what no library lets one say.
use crate::harness::PATIENCE;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// `:status: 200` as the static table has it.
pub const OK: &[u8] = &[0x88];
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block of literals without Huffman coding or a table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            // RFC 7541 section 5.1.
            match text.len() {
                short @ 0..127 => out.push(short as u8),
                long => {
                    out.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        out.push(rest as u8 | 0x80);
                        rest >>= 7;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend(text.as_bytes());
        }
    }
    out
}

/// A header block in as many frames as it takes. `flags` are those of HEADERS.
pub fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16_384).peekable();
    let mut out = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        out.extend(frame(kind, end | if kind == HEADERS { flags } else { 0 }, stream, piece));
        kind = CONTINUATION;
    }
    out
}

/// The head of a request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "h.test"), (":path", path)]);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// One end of a connection.
pub struct Raw {
    pub io: TcpStream,
}

impl Raw {
    /// A client that has said its preface.
    pub fn open(to: SocketAddr) -> Raw {
        let mut raw = Raw { io: TcpStream::connect(to).unwrap() };
        raw.prepare();
        raw.send(PREFACE).unwrap();
        raw.send(frame(SETTINGS, 0, 0, &[])).unwrap();
        raw
    }
    fn prepare(&mut self) {
        self.io.set_nodelay(true).unwrap();
        self.io.set_read_timeout(Some(PATIENCE)).unwrap();
        self.io.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    /// A server whose client has said its preface.
    fn accept(io: TcpStream, settings: &[u8]) -> io::Result<Raw> {
        let mut raw = Raw { io };
        raw.prepare();
        raw.io.read_exact(&mut [0; PREFACE.len()])?;
        raw.send(frame(SETTINGS, 0, 0, settings))?;
        Ok(raw)
    }
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref())
    }
    /// The next frame; `None` at the end, however it came.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.io.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }
    /// The next frame of a stream, or of the connection's end.
    pub fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.stream == stream || frame.kind == GOAWAY {
                return Some(frame);
            }
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(self::frame(SETTINGS, ACK, 0, &[])).ok()?;
            }
        }
    }
}

/// An upstream of frames: each connection is served by `serve` on a thread of its own.
pub fn upstream(settings: &'static [u8], serve: impl Fn(Raw) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for io in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || {
                if let Ok(raw) = Raw::accept(io, settings) {
                    serve(raw);
                }
            });
        }
    });
    port
}
