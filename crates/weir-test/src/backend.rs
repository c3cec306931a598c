//! A backend that answers what its path asks for, well or badly.
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// A body of `n` bytes.
pub fn pattern(n: usize) -> String {
    let mut text = "0123456789abcdef".repeat(n.div_ceil(16));
    text.truncate(n);
    text
}

#[derive(Default)]
struct Seen {
    paths: Mutex<HashMap<String, usize>>,
    hosts: Mutex<Vec<String>>,
    connections: AtomicUsize,
    sent: AtomicUsize,
}

pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

impl Backend {
    pub fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for io in listener.incoming().map_while(Result::ok) {
                let seen = shared.clone();
                seen.connections.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    let _ = io.set_nodelay(true);
                    let _ = serve(io, &seen);
                });
            }
        });
        Backend { address, seen }
    }
    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }
    /// Body bytes that were taken from it by `/len`.
    pub fn sent(&self) -> usize {
        self.seen.sent.load(SeqCst)
    }
    pub fn seen(&self, path: &str) -> usize {
        self.seen.paths.lock().unwrap().get(path).copied().unwrap_or(0)
    }
    pub fn hosts(&self) -> Vec<String> {
        self.seen.hosts.lock().unwrap().clone()
    }
}

fn line(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut text = String::new();
    match from.read_line(&mut text)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(text),
    }
}

/// The body's length and its trailer lines.
fn body(from: &mut impl BufRead, head: &str) -> std::io::Result<(usize, String)> {
    let low = head.to_lowercase();
    if !low.contains("transfer-encoding: chunked") {
        let at = low.find("content-length: ").map(|i| i + 16);
        let n = at.map_or(0, |i| low[i..i + low[i..].find('\r').unwrap()].parse().unwrap());
        from.read_exact(&mut vec![0; n])?;
        return Ok((n, String::new()));
    }
    let mut total = 0;
    loop {
        let size = line(from)?;
        let n = usize::from_str_radix(size.trim().split(';').next().unwrap(), 16).unwrap();
        if n == 0 {
            break;
        }
        from.read_exact(&mut vec![0; n + 2])?;
        total += n;
    }
    let mut trailers = String::new();
    loop {
        let t = line(from)?;
        if t == "\r\n" {
            return Ok((total, trailers));
        }
        trailers += t.trim_end();
    }
}

fn serve(io: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut from = BufReader::new(io.try_clone()?);
    let mut io = io;
    loop {
        let mut head = line(&mut from)?;
        while !head.ends_with("\r\n\r\n") {
            head += &line(&mut from)?;
        }
        let path = head.split(' ').nth(1).unwrap().to_string();
        let bodiless = head.starts_with("HEAD ");
        let host = head.lines().find_map(|l| l.to_lowercase().strip_prefix("host: ").map(str::to_string));
        seen.hosts.lock().unwrap().extend(host);
        if path == "/early" {
            io.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")?;
            std::thread::sleep(Duration::from_millis(300));
            return Ok(());
        }
        let (length, trailers) = body(&mut from, &head)?;
        let times = {
            let mut paths = seen.paths.lock().unwrap();
            let n = paths.entry(path.clone()).or_default();
            *n += 1;
            *n
        };
        let mut parts = path.split('/').skip(1);
        let what = parts.next().unwrap();
        let n: usize = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        match what {
            "len" => {
                write!(io, "HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n")?;
                if !bodiless {
                    for piece in pattern(n).as_bytes().chunks(1 << 20) {
                        io.write_all(piece)?;
                        seen.sent.fetch_add(piece.len(), SeqCst);
                    }
                }
            }
            "chunked" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                let (whole, mut at, mut step) = (pattern(n), 0, 7);
                while at < n {
                    let piece = &whole[at..n.min(at + step)];
                    write!(io, "{:x}\r\n", piece.len())?;
                    io.write_all(piece.as_bytes())?;
                    io.write_all(b"\r\n")?;
                    at += step;
                    step = (step * 3).min(40_000);
                }
                write!(io, "0\r\nX-Sum: {n}\r\n\r\n")?;
            }
            "close" => {
                io.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                io.write_all(pattern(n).as_bytes())?;
                return Ok(());
            }
            "echo" => {
                let text = format!("<head>{head}</><body>{length}</><trailers>{trailers}</>");
                write!(io, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            }
            "none" => io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?,
            "same" => io.write_all(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\n\r\n")?,
            "drop" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
                std::thread::sleep(Duration::from_millis(50 * n as u64));
                return Ok(());
            }
            "flaky" => {
                let status = if times == 1 { "503 No" } else { "200 OK" };
                write!(io, "HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{times}")?;
            }
            "always503" => io.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")?,
            "vanish" if times == 1 => return Ok(()),
            "vanish" => io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?,
            "upgrade" => {
                io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi")?;
                let mut piece = [0; 100];
                let n = from.read(&mut piece)?;
                io.write_all(&piece[..n].to_ascii_uppercase())?;
                return Ok(());
            }
            "hops" => io.write_all(
                b"HTTP/1.1 200 OK\r\nConnection: x-secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
            )?,
            "badlen" => io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")?,
            "both" => io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")?,
            "short" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")?;
                return Ok(());
            }
            "garbage" => {
                io.write_all(b"SSH-2.0-x\r\n\r\n")?;
                return Ok(());
            }
            "slow" => {
                std::thread::sleep(Duration::from_secs(n as u64));
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            "drip" => {
                for b in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" {
                    io.write_all(&[*b])?;
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            _ => io.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}
