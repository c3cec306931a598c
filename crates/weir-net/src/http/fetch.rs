//! One request to a URL that somebody named: the name resolved under the guard, connected, sent and answered on a connection of its own.
//! Redirects are the caller's.
use super::{
    Headers, Known, RequestHead, ResponseHead,
    buf::BufPool,
    client::{Body, ClientError, Collect, Exchange, ResponseLimits},
    relay::{Reader, Writer, request_h1},
    wire::Wire,
};
use crate::{
    dial::{self, GuardedResolver, Unresolved},
    io::Io,
    tls,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};
use url::{Position, Url};

/// Of the body of an answer that is no success: messages, not content.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Of a request's body that are with the connection at once.
const PIECE: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("`{0}` is neither http nor https")]
    Scheme(String),
    #[error("no host")]
    NoHost,
    #[error("{host} cannot be resolved: {error}")]
    Dns { host: String, error: Unresolved },
    #[error("{host}: {error}")]
    NotAllowed { host: String, error: Unresolved },
    #[error("{address}: {error}")]
    Connect { address: SocketAddr, error: io::Error },
    #[error("TLS with {host}: {error}")]
    Tls { host: String, error: io::Error },
    #[error("a field of the request cannot be sent")]
    Field,
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("{host}: nothing happened for {after:?}")]
    Idle { host: String, after: Duration },
    #[error("{host}: {error}")]
    Exchange { host: String, error: ClientError },
}

impl FetchError {
    /// Trying the same again may help.
    pub fn is_transient(&self) -> bool {
        use FetchError::*;
        match self {
            Dns { .. } | Connect { .. } | Tls { .. } | Idle { .. } | Exchange { .. } => true,
            Scheme(_) | NoHost | NotAllowed { .. } | Field | TooLarge(_) => false,
        }
    }
}

impl FetchError {
    /// The server does not speak TLS at all.
    pub fn is_without_tls(&self) -> bool {
        let FetchError::Tls { error, .. } = self else { return false };
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
            None => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
        }
    }
}

/// Sends requests.
#[derive(Clone)]
pub struct Fetcher {
    resolver: Arc<GuardedResolver>,
    tls: Arc<tls::Client>,
    /// For each address to connect, TLS to be agreed on, and bytes to move.
    idle: Duration,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub url: &'a Url,
    pub fields: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    /// Of the answer's body; a longer one is an error.
    pub max: usize,
    /// What is watched from outside.
    pub watch: &'a dyn Watch,
}

/// Learns how far a request is.
pub trait Watch: Sync {
    /// The server has begun to answer.
    fn answered(&self) {}
    /// Bytes of both bodies so far.
    fn moved(&self, _bytes: usize) {}
}

/// Nobody looks.
impl Watch for () {}

/// An answer.
pub struct Response {
    pub head: ResponseHead,
    /// Of one that is no success, at most its beginning.
    pub body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.head.status, self.body.len())
    }
}

impl Response {
    /// The first field of this name, as text.
    pub fn field(&self, name: &str) -> Option<String> {
        self.head.headers.get_named(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl Fetcher {
    pub fn new(resolver: Arc<GuardedResolver>, tls: Arc<tls::Client>, idle: Duration) -> Fetcher {
        Fetcher { resolver, tls, idle }
    }

    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, request: Request<'_>) -> Result<Response, FetchError> {
        let url = request.url;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(FetchError::Scheme(other.into())),
        };
        let host = url.host_str().ok_or(FetchError::NoHost)?;
        let head = head(&request, host).ok_or(FetchError::Field)?;
        let io = self.connect(host, url.port_or_known_default().unwrap_or(80)).await?;
        let io = match secure {
            false => Io::Plain(io),
            true => {
                let failed = |error| FetchError::Tls { host: host.into(), error };
                let agreed = timeout(self.idle, self.tls.connect(io, host, tls::Alpn::Http1)).await;
                Io::tls(agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?)
            }
        };
        let mut writer = request_h1(&head, Vec::new(), false);
        if request.body.is_empty() {
            writer.end(None);
        }
        let mut sent = Sent {
            exchange: Exchange::new(Wire::new(io), head.method, ResponseLimits::default()),
            writer,
            pool: BufPool::new(64 * 1024, 1),
            head: ResponseHead::default(),
            left: request.body,
            body: Vec::new(),
            collect: None,
            max: request.max,
            watch: request.watch,
            patience: self.idle,
            idle: Box::pin(sleep(self.idle)),
            sent: 0,
            moved: 0,
        };
        match poll_fn(|cx| sent.poll(cx)).await {
            Ok(()) => Ok(Response { head: sent.head, body: sent.body }),
            Err(None) => Err(FetchError::Idle { host: host.into(), after: self.idle }),
            Err(Some(ClientError::TooLarge)) => Err(FetchError::TooLarge(request.max)),
            Err(Some(error)) => Err(FetchError::Exchange { host: host.into(), error }),
        }
    }

    /// To the first address of the host that takes the connection.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, FetchError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let answer = self.resolver.lookup(bare).await.map_err(|error| match error {
            Unresolved::Dns(_) => FetchError::Dns { host: host.into(), error },
            Unresolved::NotAllowed(_) => FetchError::NotAllowed { host: host.into(), error },
        })?;
        let mut last = FetchError::NoHost;
        for ip in answer.addresses {
            let address = SocketAddr::new(ip, port);
            match timeout(self.idle, dial::connect(address, None, &[])).await {
                Ok(Ok(io)) => return Ok(io),
                Ok(Err(error)) => last = FetchError::Connect { address, error },
                Err(_) => last = FetchError::Connect { address, error: io::ErrorKind::TimedOut.into() },
            }
        }
        Err(last)
    }
}

fn head(request: &Request<'_>, host: &str) -> Option<RequestHead> {
    let mut head = RequestHead::default();
    let target = &request.url[Position::BeforePath..Position::AfterQuery];
    let mut good = head.begin(request.method.as_bytes(), target.as_bytes());
    let authority = request.url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    good &= head.headers.add(Known::Host, &[authority.as_bytes()]);
    good &= head.headers.add_named(b"user-agent", concat!("weir/", env!("CARGO_PKG_VERSION")).as_bytes());
    for (name, value) in request.fields {
        good &= head.headers.add_named(name.as_bytes(), value.as_bytes());
    }
    if !request.body.is_empty() || matches!(request.method, "POST" | "PUT") {
        good &= head.headers.add_named(b"content-length", request.body.len().to_string().as_bytes());
    }
    good &= head.headers.add(Known::Connection, &[b"close"]);
    good.then_some(head)
}

/// A request on its way. It may move between threads, unlike everything that borrows from a worker.
struct Sent<'a> {
    exchange: Exchange,
    writer: Writer,
    pool: BufPool,
    head: ResponseHead,
    /// Of the request's body.
    left: &'a [u8],
    body: Vec<u8>,
    collect: Option<Collect>,
    max: usize,
    watch: &'a dyn Watch,
    patience: Duration,
    idle: Pin<Box<Sleep>>,
    /// Of the request's body.
    sent: usize,
    /// Bytes of both bodies when something last happened.
    moved: usize,
}

impl Sent<'_> {
    /// An error is `None` where nothing happened for too long.
    fn poll(&mut self, cx: &mut Context) -> Poll<Result<(), Option<ClientError>>> {
        if let Poll::Ready(done) = self.advance(cx) {
            return Poll::Ready(done.map_err(Some));
        }
        let moved = self.sent + self.body.len();
        if moved > self.moved {
            self.moved = moved;
            self.watch.moved(moved);
            self.idle.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Err(None))
    }

    fn advance(&mut self, cx: &mut Context) -> Poll<Result<(), ClientError>> {
        if self.collect.is_none() {
            self.push(cx);
            let framing = ready!(self.exchange.poll_response(cx, &mut self.writer, &self.pool, &mut self.head))?;
            self.watch.answered();
            let max = if self.is_success() { self.max } else { MAX_ERROR_BODY };
            self.collect = Some(Collect::new(Reader::new(framing, self.exchange.peer()), Body::Keep { max }));
        }
        let Some(collect) = &mut self.collect else { return Poll::Pending };
        match ready!(collect.poll(cx, self.exchange.peer(), &self.pool, &mut self.body, &mut Headers::default())) {
            // Of a message its beginning will do.
            Err(_) if !self.is_success() => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.head.status)
    }

    /// Hands over what the connection takes of the request's body. That it takes no more, or is broken, shows in the answer.
    fn push(&mut self, cx: &mut Context) {
        while !self.left.is_empty() {
            if self.writer.pending() >= PIECE && !matches!(self.writer.poll_flush(cx, self.exchange.peer()), Poll::Ready(Ok(()))) {
                return;
            }
            let (piece, left) = self.left.split_at(self.left.len().min(PIECE));
            self.writer.push(piece);
            self.sent += piece.len();
            self.left = left;
            if left.is_empty() {
                self.writer.end(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// No answer takes so long, however busy the machine is.
    const LONG: Duration = Duration::from_secs(60);

    struct Moved(AtomicUsize);

    impl Watch for Moved {
        fn moved(&self, bytes: usize) {
            self.0.store(bytes, Ordering::Relaxed);
        }
    }

    /// What comes of a request whose body has so many bytes, at a server that reads all of it and answers with this.
    async fn ask(method: &str, body: usize, answer: Vec<u8>, idle: Duration) -> Result<(u16, usize, String, usize), FetchError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/a?b=c", listener.local_addr().unwrap())).unwrap();
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let (mut got, mut piece) = (Vec::new(), [0; 8192]);
            loop {
                let n = io.read(&mut piece).await.unwrap();
                got.extend_from_slice(&piece[..n]);
                let end = got.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
                if end.is_some_and(|end| got.len() >= end + body) || n == 0 {
                    break;
                }
            }
            let _ = io.write_all(&answer).await;
            // It keeps the connection open: an answer ends by itself or not at all.
            let _ = io.read(&mut piece).await;
            got
        });
        let client = Arc::new(tls::Client::new(tls::ClientOptions::system()).unwrap());
        let fetcher = Fetcher::new(Arc::new(GuardedResolver::system().unwrap()), client, idle);
        let (moved, content) = (Moved(AtomicUsize::new(0)), vec![b'x'; body]);
        let request = Request { method, url: &url, fields: &[("accept", "text/plain")], body: &content, max: 100_000, watch: &moved };
        let response = fetcher.send(request).await?;
        let seen = String::from_utf8(server.await.unwrap()).unwrap();
        let head = seen.split_once("\r\n\r\n").unwrap().0.to_string();
        Ok((response.head.status, response.body.len(), head, moved.0.load(Ordering::Relaxed)))
    }

    fn answer(status: &str, body: usize) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {status}\r\ncontent-length: {body}\r\n\r\n").into_bytes();
        out.resize(out.len() + body, b'y');
        out
    }

    #[tokio::test]
    async fn requests_and_what_comes_of_them() {
        let (status, length, head, moved) = ask("GET", 0, answer("200 OK", 5), LONG).await.unwrap();
        assert_eq!((status, length, moved), (200, 5, 0));
        assert!(
            head.starts_with("GET /a?b=c HTTP/1.1\r\n") && head.contains("accept: text/plain") && !head.contains("content-length"),
            "{head}"
        );
        let (status, _, head, moved) = ask("PUT", 1_000_000, answer("201 Created", 0), LONG).await.unwrap();
        assert_eq!((status, moved), (201, 1_000_000));
        assert!(head.contains("content-length: 1000000"), "{head}");
        let (_, _, head, _) = ask("POST", 0, answer("202 Accepted", 0), LONG).await.unwrap();
        assert!(head.contains("content-length: 0"), "{head}");
        let (status, length, ..) = ask("GET", 0, answer("404 Not Found", 1_000), LONG).await.unwrap();
        assert_eq!((status, length), (404, 1_000));
        let (status, length, ..) = ask("GET", 0, answer("500 Oh", 1_000_000), LONG).await.unwrap();
        assert!(status == 500 && length <= MAX_ERROR_BODY, "{length}");
        assert_eq!(ask("GET", 0, answer("200 OK", 100_001), LONG).await.unwrap_err().to_string(), "larger than 100000 bytes");
        let hangs = ask("GET", 0, answer("200 OK", 1_000)[..500].to_vec(), Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(hangs.to_string(), "127.0.0.1: nothing happened for 300ms");
        assert!(hangs.is_transient());
    }

    #[tokio::test]
    async fn what_is_not_sent() {
        let client = Arc::new(tls::Client::new(tls::ClientOptions::system()).unwrap());
        let fetcher = Fetcher::new(Arc::new(GuardedResolver::system().unwrap()), client, Duration::from_secs(5));
        for (url, field, says) in [
            ("ftp://a.test/", "a", "`ftp` is neither http nor https"),
            ("http://169.254.169.254/latest", "a", "169.254.169.254: 169.254.169.254 is not reached"),
            ("http://127.0.0.1:1/", "a b", "cannot be sent"),
        ] {
            let url = Url::parse(url).unwrap();
            let error = fetcher
                .send(Request { method: "GET", url: &url, fields: &[(field, "x")], body: &[], max: 1, watch: &() })
                .await
                .unwrap_err();
            assert!(error.to_string().contains(says) && !error.is_transient(), "{error}");
        }
    }
}
