//! One API server: HTTP/2 connections that are shared, a connection of its own for each upgrade, and whether it answers.
use super::{
    RemoteError, Show, Timeouts,
    pool::{Counted, Pool, Streams},
};
use crate::{
    body::{Body, streamed},
    upstream::{
        connect::connect,
        credentials::{Clients, Credentials},
        health::{Change, Health, Outcome, Thresholds},
        node::node_of,
    },
};
use http::{Request, Response, Uri, header, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use url::Url;
use weir_net::{
    dns::Resolver,
    tls::{Alpn, Client, Details},
};

pub struct Server {
    url: Url,
    /// Host and port.
    pub authority: String,
    /// The node that it must be the hub of; `None`: it is an API server.
    node_name: Option<String>,
    credentials: Arc<Credentials>,
    resolver: Arc<Resolver>,
    timeouts: Timeouts,
    node: Pool,
    bare: Pool,
    health: Mutex<Health>,
    /// Probes that were answered, and those that were not.
    answered: AtomicU64,
    unanswered: AtomicU64,
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// Host and port.
    pub server: String,
    pub up: bool,
    /// Nothing is known before the first answer or failure.
    pub known: bool,
    /// Since when it is up, or down.
    pub since: SystemTime,
    pub connections: usize,
    /// Requests that are on their way, watches among them.
    pub streams: usize,
    pub heartbeats: u64,
    pub failed_heartbeats: u64,
}

/// Why a request was not answered.
pub(super) struct Unanswered {
    pub error: RemoteError,
    /// The request, where nothing of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
    /// Another request made the connection attempt that failed. That one is counted.
    pub counted: bool,
}

/// Why there is no connection for a request.
struct NotConnected {
    error: RemoteError,
    /// See [`Unanswered::counted`].
    counted: bool,
}

impl<E: Into<RemoteError>> From<E> for NotConnected {
    fn from(error: E) -> NotConnected {
        NotConnected { error: error.into(), counted: false }
    }
}

impl Server {
    pub(super) fn new(
        url: Url,
        credentials: Arc<Credentials>,
        resolver: Arc<Resolver>,
        timeouts: Timeouts,
        thresholds: Thresholds,
    ) -> Server {
        let port = url.port_or_known_default().unwrap_or(443);
        Server {
            authority: format!("{}:{port}", url.host_str().unwrap_or_default()),
            node_name: None,
            url,
            credentials,
            resolver,
            timeouts,
            node: Pool::default(),
            bare: Pool::default(),
            health: Mutex::new(Health::new(thresholds, Instant::now())),
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }
    }

    /// It must show the certificate of this node.
    pub(super) fn of_node(self, name: &str) -> Server {
        Server { node_name: Some(name.into()), ..self }
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, outcome: Outcome) -> Option<Change> {
        self.health().record(outcome, Instant::now())
    }

    pub(super) fn count_probe(&self, answered: bool) {
        if answered { &self.answered } else { &self.unanswered }.fetch_add(1, Relaxed);
    }

    pub fn status(&self) -> ServerStatus {
        let (up, known, since) = {
            let health = self.health();
            (health.is_up(), health.is_known(), health.since())
        };
        let now = SystemTime::now();
        let ((node, node_streams), (bare, bare_streams)) = (self.node.counts(), self.bare.counts());
        ServerStatus {
            server: self.authority.clone(),
            up,
            known,
            since: now.checked_sub(since.elapsed()).unwrap_or(now),
            connections: node + bare,
            streams: node_streams + bare_streams,
            heartbeats: self.answered.load(Relaxed),
            failed_heartbeats: self.unanswered.load(Relaxed),
        }
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(&self, mut request: Request<Body>, show: Show) -> Result<Response<Body>, Unanswered> {
        let (mut sender, streams) = match self.connection(show).await {
            Ok(found) => found,
            Err(NotConnected { error, counted }) => return Err(Unanswered { error, unsent: Some(Box::new(request)), counted }),
        };
        request.headers_mut().remove(header::HOST);
        *request.uri_mut() = self.absolute(request.uri());
        *request.version_mut() = http::Version::HTTP_2;
        remove_connection_headers(&mut request);
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| streamed(Counted::new(body, streams)))),
            Err(mut error) => {
                let unsent = error.take_message().map(Box::new);
                Err(Unanswered { error: self.broken(error.into_error()), unsent, counted: false })
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> RemoteError {
        RemoteError::Unreachable { server: self.authority.clone(), error }
    }

    pub(super) fn broken(&self, error: hyper::Error) -> RemoteError {
        RemoteError::Broken { server: self.authority.clone(), error }
    }

    /// A connection with room for a stream.
    async fn connection(&self, show: Show) -> Result<(http2::SendRequest<Body>, Streams), NotConnected> {
        let pool = match show {
            Show::Node => &self.node,
            Show::Own => &self.bare,
        };
        if let Some(found) = pool.pick(&self.client(show, self.credentials.recent()?)?) {
            return Ok(found);
        }
        // One request opens a connection; the others wait for it, and use it or fail with it.
        let asked = Instant::now();
        let mut dialing = pool.dialing.lock().await;
        let client = self.client(show, self.credentials.clients()?)?;
        if let Some(found) = pool.pick(&client) {
            return Ok(found);
        }
        if let Some(error) = dialing.failed_since(&client, asked) {
            return Err(NotConnected { error: self.unreachable(error), counted: true });
        }
        let io = self.dial_with(&client, Alpn::Http2).await.inspect_err(|error| dialing.failed(&client, error));
        let io = io.map_err(|error| self.unreachable(error))?;
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
        Ok(pool.add(client, sender))
    }

    pub(super) async fn dial(&self, show: Show, alpn: Alpn) -> Result<TlsStream<TcpStream>, RemoteError> {
        let client = self.client(show, self.credentials.clients()?)?;
        self.dial_with(&client, alpn).await.map_err(|error| self.unreachable(error))
    }

    async fn dial_with(&self, client: &Client, alpn: Alpn) -> io::Result<TlsStream<TcpStream>> {
        let io = connect(&self.url, &self.resolver, client, alpn, self.timeouts.connect).await?;
        let Some(wanted) = &self.node_name else { return Ok(io) };
        let shown = io.get_ref().1.peer_certificates().and_then(|chain| Details::from_der(chain.first()?).ok());
        match shown.as_ref().and_then(node_of) {
            Some(name) if name == wanted => Ok(io),
            _ => {
                let subject = shown.as_ref().map_or("nothing", |shown| shown.subject.as_str());
                let text = format!("it shows the certificate of {subject}, not that of the node {wanted}");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
        }
    }

    fn client(&self, show: Show, clients: Clients) -> Result<Arc<Client>, RemoteError> {
        match show {
            Show::Node if self.node_name.is_some() => Ok(clients.peers()?),
            Show::Node => Ok(clients.node()?),
            Show::Own => Ok(clients.bare),
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
