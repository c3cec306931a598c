//! The way to the API servers: which of them gets a request, and whether the link works.
mod balance;
mod peer;
mod pool;
mod server;

pub use balance::Balance;
pub use peer::Peer;
pub use server::{Server, ServerStatus};

use crate::{
    body::{Body, empty},
    recent::Recent,
    upstream::{
        credentials::{CredentialError, Credentials},
        health::{Change, Outcome, Thresholds},
    },
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use server::Unanswered;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use url::Url;
use weir_net::{
    dns::{self, Resolver},
    tls::Alpn,
};

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

/// Marks a response of an API server.
#[derive(Clone, Copy, Debug)]
pub struct FromServer;

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the link to the API server is down")]
    Down,
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{server} refuses the certificate of the node")]
    Unauthorized { server: String },
    #[error("{server}: {error}")]
    Unreachable { server: String, error: io::Error },
    #[error("{server}: {error}")]
    Broken { server: String, error: hyper::Error },
}

impl RemoteError {
    /// What it says of the link. A server that resets one stream is there, and so is the connection.
    fn outcome(&self) -> Outcome {
        let RemoteError::Broken { error, .. } = self else { return Outcome::Failed };
        let reason = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
        match reason.is_some_and(|reason| reason.is_reset() && reason.is_remote()) {
            true => Outcome::Answered,
            false => Outcome::Failed,
        }
    }
}

/// The API servers.
pub struct Remote {
    servers: Vec<Arc<Server>>,
    balance: Balance,
    turn: AtomicUsize,
    credentials: Arc<Credentials>,
    timeouts: Timeouts,
    /// Whether one of them is known to be up.
    up: watch::Sender<bool>,
    pub errors: Recent,
}

impl Remote {
    pub fn new(
        servers: Vec<Url>,
        balance: Balance,
        credentials: Arc<Credentials>,
        timeouts: Timeouts,
        thresholds: Thresholds,
    ) -> io::Result<Remote> {
        let resolver = Arc::new(Resolver::new(dns::Options::default())?);
        let server = |url| Arc::new(Server::new(url, credentials.clone(), resolver.clone(), timeouts, thresholds));
        Ok(Remote {
            servers: servers.into_iter().map(server).collect(),
            balance,
            turn: AtomicUsize::new(0),
            credentials,
            timeouts,
            up: watch::Sender::new(false),
            errors: Recent::default(),
        })
    }

    /// Whether the credentials of the node can be read.
    pub fn credentials(&self) -> Result<(), CredentialError> {
        self.credentials.clients()?.node().map(drop)
    }

    /// Until when the certificate of the node is valid.
    pub fn certificate(&self) -> Result<SystemTime, CredentialError> {
        self.credentials.clients()?.not_after()
    }

    /// Whether one of them is up, or nothing else is known.
    pub fn is_up(&self) -> bool {
        self.servers.iter().any(|server| server.health().is_up())
    }

    /// Whether one of them has answered, and not failed since then.
    pub fn is_proven(&self) -> bool {
        self.servers.iter().any(|server| {
            let health = server.health();
            health.is_proven() && !health.is_failing()
        })
    }

    /// How long a read waits for them before it is answered from what was kept; `None`: as long as it takes, since one of them answers.
    pub fn doubt(&self) -> Option<Duration> {
        let mut least = Some(Duration::MAX);
        for server in &self.servers {
            least = least.min(server.health().doubt());
        }
        least
    }

    /// Whether one of them is known to be up. It also tells when that is known not to be so for the first time.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Sends a request and waits for the head of the response. What reads is sent to the next server where one does not answer; anything
    /// else only where nothing of it was sent.
    pub async fn send(&self, request: Request<Body>, show: Show) -> Result<Response<Body>, RemoteError> {
        let mut last = RemoteError::Down;
        let mut next = Some(request);
        for server in self.order(next.as_ref()) {
            let Some(request) = next.take() else { break };
            let again = (self.servers.len() > 1).then(|| copy(&request)).flatten();
            match self.try_send(&server, request, show).await {
                // It has expired, or the clock of this node is wrong. kubelet can do nothing about it, and should have what was kept.
                Ok(response) if show == Show::Node && response.status() == StatusCode::UNAUTHORIZED => {
                    let error = RemoteError::Unauthorized { server: server.authority.clone() };
                    self.errors.note(error.to_string());
                    return Err(error);
                }
                Ok(response) => return Ok(response),
                Err(Unanswered { error, unsent, .. }) => (last, next) = (error, unsent.map(|request| *request).or(again)),
            }
        }
        Err(last)
    }

    async fn try_send(&self, server: &Server, request: Request<Body>, show: Show) -> Result<Response<Body>, Unanswered> {
        match server.send(request, show).await {
            Ok(mut response) => {
                self.record(server, None);
                response.extensions_mut().insert(FromServer);
                Ok(response)
            }
            Err(unanswered) => {
                if !unanswered.counted {
                    self.record(server, Some(&unanswered.error));
                }
                Err(unanswered)
            }
        }
    }

    /// Sends a request that asks for another protocol, on an HTTP/1.1 connection of its own.
    pub async fn upgrade(&self, mut request: Request<Body>, show: Show) -> Result<Response<Incoming>, RemoteError> {
        let mut last = RemoteError::Down;
        for server in self.order(Some(&request)) {
            let io = match server.dial(show, Alpn::Http1).await {
                Ok(io) => io,
                Err(error) => {
                    self.record(&server, Some(&error));
                    last = error;
                    continue;
                }
            };
            let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| server.broken(error))?;
            tokio::spawn(connection.with_upgrades());
            let host = HeaderValue::from_str(&server.authority).ok();
            host.into_iter().for_each(|host| drop(request.headers_mut().insert(header::HOST, host)));
            *request.version_mut() = http::Version::HTTP_11;
            let mut response = sender.send_request(request).await.map_err(|error| server.broken(error))?;
            response.extensions_mut().insert(FromServer);
            return Ok(response);
        }
        Err(last)
    }

    /// The servers that are up, in the order in which they are tried. One that has just failed comes last.
    fn order(&self, request: Option<&Request<Body>>) -> Vec<Arc<Server>> {
        if let [server] = &self.servers[..] {
            return if self.is_up() { vec![server.clone()] } else { Vec::new() };
        }
        let names: Vec<&str> = self.servers.iter().map(|server| server.authority.as_str()).collect();
        let agent = request.and_then(|r| r.headers().get(header::USER_AGENT)?.to_str().ok()).unwrap_or_default();
        let path = request.map_or("", |r| r.uri().path());
        let order = self.balance.order(&names, self.turn.fetch_add(1, Relaxed), &[agent, path]);
        let (mut good, mut doubtful) = (Vec::new(), Vec::new());
        for server in order.into_iter().map(|i| &self.servers[i]) {
            let (up, failing) = {
                let health = server.health();
                (health.is_up(), health.is_failing())
            };
            match (up, failing) {
                (true, false) => good.push(server.clone()),
                (true, true) => doubtful.push(server.clone()),
                (false, _) => {}
            }
        }
        good.extend(doubtful);
        good
    }

    /// Asks the servers whether they answer, until the link's end is wanted.
    pub async fn probe(self: Arc<Remote>) {
        let mut probes = JoinSet::new();
        for server in self.servers.clone() {
            let remote = self.clone();
            probes.spawn(async move { remote.probe_one(&server).await });
        }
        while probes.join_next().await.is_some() {}
    }

    async fn probe_one(&self, server: &Server) {
        loop {
            let due = server.health().probe_at();
            let now = Instant::now();
            if due > now {
                tokio::time::sleep(due - now).await;
                continue;
            }
            let Ok(request) = Request::get("/readyz").body(empty()) else { return };
            let limit = self.timeouts.connect + self.timeouts.ping_timeout;
            // An answer of any status is one, and so is a stream that the server resets.
            let answered = match timeout(limit, self.try_send(server, request, Show::Node)).await {
                Ok(Ok(_)) => true,
                Ok(Err(unanswered)) => unanswered.error.outcome() == Outcome::Answered,
                Err(_) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
                    self.record(server, Some(&RemoteError::Unreachable { server: server.authority.clone(), error }));
                    false
                }
            };
            server.count_probe(answered);
        }
    }

    /// Takes note of an answer, or of why there was none.
    fn record(&self, server: &Server, error: Option<&RemoteError>) {
        if let Some(error) = error {
            self.errors.note(error.to_string());
        }
        if let Some(change) = server.record(error.map_or(Outcome::Answered, RemoteError::outcome)) {
            // Under the lock of `up`: two servers may change at a time.
            self.up.send_if_modified(|up| {
                let now = self.servers.iter().any(|server| server.health().is_proven());
                std::mem::replace(up, now) != now || change == Change::Down && !self.is_up()
            });
        }
    }
}

/// A request that may be sent twice: it reads, and has no body.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(empty());
    (*again.method_mut(), *again.uri_mut()) = (request.method().clone(), request.uri().clone());
    *again.headers_mut() = request.headers().clone();
    Some(again)
}
