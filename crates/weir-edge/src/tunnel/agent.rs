//! The side of the node: it keeps a connection to each server, and connects to kubelet for what comes on them.
use super::{CONNECTION_WINDOW, DIAL, PING_INTERVAL, PING_TIMEOUT, SEND_BUFFER, STREAM_WINDOW, STREAMS, permit::Permit};
use crate::{
    body::{Body, empty, full},
    drain::Drain,
    upstream::{
        connect::connect,
        credentials::{CredentialError, Credentials},
    },
};
use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn, upgrade};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use url::Url;
use weir_net::{dns::Resolver, tls::Alpn};

/// Between two attempts to reach a server: the first time, which doubles, and the longest.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// For the connection to a server, with its TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Vec<Url>,
    /// Names and addresses under which the cloud looks for this node, beside its name.
    pub addresses: Vec<String>,
    pub permit: Permit,
}

#[derive(Debug, Default)]
pub struct Stats {
    /// Servers that are connected.
    pub connected: AtomicUsize,
    pub connections: AtomicU64,
    /// Streams that are open.
    pub open: AtomicUsize,
    pub streams: AtomicU64,
    pub refused: AtomicU64,
    /// Streams to places that could not be reached.
    pub failed: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{0}")]
    Unreachable(io::Error),
    #[error("{0}")]
    Ended(hyper::Error),
    #[error("the server closed the connection")]
    Closed,
}

pub struct Agent {
    options: Options,
    credentials: Arc<Credentials>,
    resolver: Resolver,
    /// Once another process has taken over, streams go on and connections are not made again.
    drain: Arc<Drain>,
    notice: Box<dyn Fn(String) + Send + Sync>,
    pub stats: Arc<Stats>,
}

impl Agent {
    pub fn new(
        options: Options,
        credentials: Arc<Credentials>,
        resolver: Resolver,
        drain: Arc<Drain>,
        stats: Arc<Stats>,
        notice: impl Fn(String) + Send + Sync + 'static,
    ) -> Agent {
        Agent { options, credentials, resolver, drain, stats, notice: Box::new(notice) }
    }

    /// Keeps a connection to each server.
    pub async fn run(self: Arc<Agent>) {
        let mut servers = JoinSet::new();
        for server in self.options.servers.clone() {
            let agent = self.clone();
            servers.spawn(async move { agent.keep(&server).await });
        }
        while servers.join_next().await.is_some() {}
    }

    async fn keep(self: &Arc<Agent>, server: &Url) {
        let (mut backoff, mut said) = (BACKOFF, String::new());
        while !self.drain.is_leaving() {
            let mut served = false;
            let Err(error) = self.serve(server, &mut served).await;
            if served {
                (backoff, said) = (BACKOFF, String::new());
            }
            let text = format!("tunnel to {server}: {error}");
            if text != said {
                (self.notice)(text.clone());
                said = text;
            }
            tokio::time::sleep(jittered(backoff)).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// One connection to its end.
    async fn serve(self: &Arc<Agent>, server: &Url, served: &mut bool) -> Result<Infallible, AgentError> {
        let client = self.credentials.clients()?.node()?;
        let io = connect(server, &self.resolver, &client, Alpn::Http2, CONNECT).await.map_err(AgentError::Unreachable)?;
        let agent = self.clone();
        let service = service_fn(move |request| {
            let agent = agent.clone();
            async move { Ok::<_, Infallible>(agent.answer(request).await) }
        });
        self.stats.connections.fetch_add(1, Relaxed);
        let _connected = Gauge::new(&self.stats.connected);
        *served = true;
        (self.notice)(format!("tunnel to {server}: connected"));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        match builder.serve_connection(TokioIo::new(io), service).await {
            Ok(()) => Err(AgentError::Closed),
            Err(e) => Err(AgentError::Ended(e)),
        }
    }

    async fn answer(self: &Arc<Agent>, mut request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::CONNECT {
            // Who this is beside what the certificate says.
            return Response::new(full(json!({ "addresses": self.options.addresses }).to_string()));
        }
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let Some(target) = self.options.permit.target(&authority) else {
            self.stats.refused.fetch_add(1, Relaxed);
            return answer(StatusCode::FORBIDDEN, format!("{authority} is not permitted on this node"));
        };
        let mut there = match timeout(DIAL, TcpStream::connect(&target)).await {
            Ok(Ok(there)) => there,
            Ok(Err(e)) => {
                self.stats.failed.fetch_add(1, Relaxed);
                return answer(StatusCode::BAD_GATEWAY, format!("{target}: {e}"));
            }
            Err(_) => {
                self.stats.failed.fetch_add(1, Relaxed);
                return answer(StatusCode::GATEWAY_TIMEOUT, format!("{target}: not connected within {DIAL:?}"));
            }
        };
        let _ = there.set_nodelay(true);
        self.stats.streams.fetch_add(1, Relaxed);
        let (agent, here, held) = (self.clone(), upgrade::on(&mut request), self.drain.hold());
        tokio::spawn(async move {
            let _held = held;
            let _open = Gauge::new(&agent.stats.open);
            if let Ok(here) = here.await {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(here), &mut there).await;
            }
        });
        Response::new(empty())
    }
}

pub(super) fn answer(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

/// 50 to 100 % of a time, so that the nodes of a site do not come back at the same moment.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 4];
    let _ = getrandom::fill(&mut random);
    time.mul_f64(0.5 + f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX) / 2.0)
}

/// Counts for as long as it lives.
pub(super) struct Gauge<'a>(&'a AtomicUsize);

impl Gauge<'_> {
    pub fn new(of: &AtomicUsize) -> Gauge<'_> {
        of.fetch_add(1, Relaxed);
        Gauge(of)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
