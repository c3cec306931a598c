//! The way to the API servers: HTTP/2 connections that are shared, a connection of its own for each upgrade, and whether the link works.
use crate::{
    body::{Body, BodyError, streamed},
    credentials::{CredentialError, Credentials},
    health::{Change, Health, Outcome, Thresholds},
};
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri::PathAndQuery};
use http_body::Frame;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::client::TlsStream;
use url::Url;
use weir_net::{
    dial,
    dns::{self, Resolver},
    tls::Alpn,
};

/// Streams of one connection. An API server allows 250 (kube-apiserver's `--http2-max-streams-per-connection`); watches take one each
/// for as long as they last.
const STREAMS: usize = 100;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A connection, with its TLS handshake.
    pub connect: Duration,
    /// Time between two pings on a connection.
    pub ping_interval: Duration,
    /// A connection without an answer to a ping for so long is dead.
    pub ping_timeout: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(2), ping_interval: Duration::from_secs(1), ping_timeout: Duration::from_secs(2) }
    }
}

/// Whose credentials a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// The certificate of the node.
    Node,
    /// What the request itself carries.
    Own,
}

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the link to the API server is down")]
    Down,
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{server}: {error}")]
    Unreachable { server: String, error: io::Error },
    #[error("{server}: {error}")]
    Broken { server: String, error: hyper::Error },
}

/// The API server.
pub struct Remote {
    server: Url,
    authority: String,
    credentials: Arc<Credentials>,
    resolver: Resolver,
    timeouts: Timeouts,
    node: Pool,
    bare: Pool,
    health: Mutex<Health>,
    up: watch::Sender<bool>,
}

impl Remote {
    pub fn new(server: Url, credentials: Arc<Credentials>, timeouts: Timeouts, thresholds: Thresholds) -> io::Result<Remote> {
        let port = server.port_or_known_default().unwrap_or(443);
        let authority = format!("{}:{port}", server.host_str().unwrap_or_default());
        Ok(Remote {
            server,
            authority,
            credentials,
            resolver: Resolver::new(dns::Options::default())?,
            timeouts,
            node: Pool::default(),
            bare: Pool::default(),
            health: Mutex::new(Health::new(thresholds, Instant::now())),
            up: watch::Sender::new(true),
        })
    }

    /// Whether the credentials of the node can be read.
    pub fn credentials(&self) -> Result<(), CredentialError> {
        self.credentials.clients().map(drop)
    }

    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Tells of each change of [`Remote::is_up`].
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Since when the link is up, or down.
    pub fn since(&self) -> Instant {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).since()
    }

    /// Sends a request and waits for the head of the response.
    pub async fn send(&self, request: Request<Body>, show: Show) -> Result<Response<Body>, RemoteError> {
        if !self.is_up() {
            return Err(RemoteError::Down);
        }
        self.try_send(request, show).await
    }

    /// As [`Remote::send`], also while the link is down.
    async fn try_send(&self, mut request: Request<Body>, show: Show) -> Result<Response<Body>, RemoteError> {
        request.headers_mut().remove(header::HOST);
        let (mut sender, streams) = match self.connection(show).await {
            Ok(found) => found,
            Err(e) => {
                self.record(Outcome::Failed);
                return Err(e);
            }
        };
        *request.uri_mut() = self.absolute(request.uri());
        *request.version_mut() = http::Version::HTTP_2;
        remove_connection_headers(&mut request);
        match sender.send_request(request).await {
            Ok(response) => {
                self.record(Outcome::Answered);
                Ok(response.map(|body| streamed(Counted { body, _held: streams })))
            }
            Err(error) => {
                self.record(Outcome::Failed);
                Err(RemoteError::Broken { server: self.authority.clone(), error })
            }
        }
    }

    /// Sends a request that asks for another protocol, on an HTTP/1.1 connection of its own.
    pub async fn upgrade(&self, mut request: Request<Body>, show: Show) -> Result<Response<Incoming>, RemoteError> {
        if !self.is_up() {
            return Err(RemoteError::Down);
        }
        let io = self.dial(show, Alpn::Http1).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection.with_upgrades());
        let host = http::HeaderValue::from_str(&self.authority).ok();
        host.into_iter().for_each(|host| drop(request.headers_mut().insert(header::HOST, host)));
        *request.version_mut() = http::Version::HTTP_11;
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    /// Asks whether the server answers, until the link's end is wanted.
    pub async fn probe(&self) {
        loop {
            let due = self.health.lock().unwrap_or_else(PoisonError::into_inner).probe_at();
            let now = Instant::now();
            if due > now {
                tokio::time::sleep(due - now).await;
                continue;
            }
            let request = Request::get("/readyz").body(crate::body::empty());
            let Ok(request) = request else { return };
            // Its outcome is recorded; an answer of any status is one.
            let _ = timeout(self.timeouts.connect + self.timeouts.ping_timeout, self.try_send(request, Show::Node)).await.map_err(|_| {
                self.record(Outcome::Failed);
            });
        }
    }

    fn record(&self, outcome: Outcome) {
        let change = self.health.lock().unwrap_or_else(PoisonError::into_inner).record(outcome, Instant::now());
        if let Some(change) = change {
            self.up.send_replace(change == Change::Up);
        }
    }

    fn broken(&self, error: hyper::Error) -> RemoteError {
        RemoteError::Broken { server: self.authority.clone(), error }
    }

    /// A connection with room for a stream.
    async fn connection(&self, show: Show) -> Result<(http2::SendRequest<Body>, Streams), RemoteError> {
        let pool = match show {
            Show::Node => &self.node,
            Show::Own => &self.bare,
        };
        if let Some(found) = pool.pick() {
            return Ok(found);
        }
        // One dials; the others use what it brings.
        let _dialing = pool.dialing.lock().await;
        if let Some(found) = pool.pick() {
            return Ok(found);
        }
        let io = self.dial(show, Alpn::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.timeouts.ping_interval)
            .keep_alive_timeout(self.timeouts.ping_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        Ok(pool.add(sender))
    }

    async fn dial(&self, show: Show, alpn: Alpn) -> Result<TlsStream<TcpStream>, RemoteError> {
        let clients = self.credentials.clients()?;
        let client = match show {
            Show::Node => clients.node,
            Show::Own => clients.bare,
        };
        let connect = async {
            let host = self.server.host_str().unwrap_or_default();
            let port = self.server.port_or_known_default().unwrap_or(443);
            let addresses = self.resolver.lookup(host).await.map_err(io::Error::other)?.addresses;
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for ip in addresses {
                match dial::connect((ip, port).into(), None, b"").await {
                    Ok(io) => return client.connect(io, host, alpn).await,
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        let unreachable = |error| RemoteError::Unreachable { server: self.authority.clone(), error };
        match timeout(self.timeouts.connect, connect).await {
            Ok(connected) => connected.map_err(unreachable),
            Err(_) => {
                Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, format!("not connected within {:?}", self.timeouts.connect))))
            }
        }
    }

    fn absolute(&self, uri: &Uri) -> Uri {
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let built = Uri::builder().scheme("https").authority(self.authority.as_str()).path_and_query(path).build();
        built.unwrap_or_else(|_| uri.clone())
    }
}

/// Header fields that concern one connection (RFC 9110, section 7.6.1).
fn remove_connection_headers(request: &mut Request<Body>) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::PROXY_AUTHORIZATION] {
        request.headers_mut().remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        request.headers_mut().remove(name);
    }
    // `trailers` is the one value that HTTP/2 allows (RFC 9113, section 8.2.2).
    if request.headers().get(header::TE).is_some_and(|te| te != "trailers") {
        request.headers_mut().remove(header::TE);
    }
}

/// Connections with the same credentials.
#[derive(Default)]
struct Pool {
    open: Mutex<Vec<(http2::SendRequest<Body>, Arc<AtomicUsize>)>>,
    dialing: tokio::sync::Mutex<()>,
}

impl Pool {
    fn pick(&self) -> Option<(http2::SendRequest<Body>, Streams)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(sender, _)| !sender.is_closed());
        let (sender, streams) = open.iter().find(|(_, streams)| streams.load(Ordering::Relaxed) < STREAMS)?;
        Some((sender.clone(), Streams::new(streams)))
    }

    fn add(&self, sender: http2::SendRequest<Body>) -> (http2::SendRequest<Body>, Streams) {
        let streams = Arc::new(AtomicUsize::new(0));
        let held = Streams::new(&streams);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push((sender.clone(), streams));
        (sender, held)
    }
}

/// A stream of a connection, counted for as long as it lasts.
struct Streams(Arc<AtomicUsize>);

impl Streams {
    fn new(of: &Arc<AtomicUsize>) -> Streams {
        of.fetch_add(1, Ordering::Relaxed);
        Streams(of.clone())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response that holds its stream.
struct Counted {
    body: Incoming,
    _held: Streams,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
