//! The side of the cloud: kube-apiserver asks it to connect (CONNECT, as EgressSelectorConfiguration has it), and agents carry that.
use super::{
    CONNECTION_WINDOW, DIAL, PING_INTERVAL, PING_TIMEOUT, SEND_BUFFER, STREAM_WINDOW, STREAMS,
    agent::{Gauge, answer},
    permit::split,
    routes::{Connected, Routes, Way},
};
use crate::{
    body::{Body, NotWhole, empty, streamed, whole},
    identity::serving::{Serving, ServingError},
};
use http::{Method, Request, Response, StatusCode, Uri, uri::Authority};
use hyper::{
    body::Incoming,
    client::conn::http2,
    server::conn::http1,
    service::service_fn,
    upgrade::{self, Upgraded},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time::timeout,
};
use weir_net::{exposition::Exposition, tls::Details};

/// For a TLS handshake, the head of a request, and what an agent says of itself.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of what an agent says of itself.
const MAX_ABOUT: usize = 16 << 10;
const METRICS: &str = "/metrics";

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most agents at a time.
    pub max_agents: usize,
    /// Most connections of kube-apiserver at a time.
    pub max_connections: usize,
    /// Whether hosts without an agent are connected to directly.
    pub direct: bool,
}

#[derive(Debug, Default)]
pub struct Stats {
    pub agents: AtomicU64,
    pub refused_agents: AtomicU64,
    pub open: AtomicUsize,
    pub streams: AtomicU64,
    pub failed: AtomicU64,
}

/// Why an agent is not let in.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("no TLS handshake in time")]
    Handshake,
    #[error(transparent)]
    Tls(io::Error),
    #[error("it shows no certificate of the cluster")]
    NoCertificate,
    #[error("{0} is not a node")]
    NotANode(String),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error("it does not say who it is")]
    Silent,
    #[error(transparent)]
    Answer(#[from] NotWhole),
    #[error("what it says of itself: {0}")]
    About(#[from] serde_json::Error),
}

pub struct Tunnel {
    options: Options,
    routes: Routes,
    stats: Stats,
    agents: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    notice: Box<dyn Fn(String) + Send + Sync>,
}

/// Why there is no connection.
struct Refused(StatusCode, String);

impl Tunnel {
    pub fn new(options: Options, notice: impl Fn(String) + Send + Sync + 'static) -> Arc<Tunnel> {
        Arc::new(Tunnel {
            options,
            routes: Routes::default(),
            stats: Stats::default(),
            agents: Arc::new(Semaphore::new(options.max_agents)),
            connections: Arc::new(Semaphore::new(options.max_connections)),
            notice: Box::new(notice),
        })
    }

    /// Takes connections of agents.
    pub async fn serve_agents(self: Arc<Tunnel>, listener: TcpListener, tls: Arc<Serving>) {
        while let Ok(permit) = self.agents.clone().acquire_owned().await {
            let Some(io) = accepted(listener.accept().await.map(|(io, _)| io)).await else { continue };
            let (tunnel, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                let _permit = permit;
                match tunnel.agent(io, &tls).await {
                    Ok(()) => {}
                    Err(why) => {
                        tunnel.stats.refused_agents.fetch_add(1, Relaxed);
                        (tunnel.notice)(format!("an agent was refused: {why}"));
                    }
                }
            });
        }
    }

    /// One agent, until its connection ends.
    async fn agent(&self, io: TcpStream, tls: &Serving) -> Result<(), AgentError> {
        let server = tls.server()?;
        let io = timeout(HANDSHAKE, server.accept(io)).await.map_err(|_| AgentError::Handshake)?.map_err(AgentError::Tls)?;
        let session = io.get_ref().1;
        let shown = session.peer_certificates().and_then(|chain| Details::from_der(chain.first()?).ok());
        let shown = shown.filter(|_| server.trusts(session)).ok_or(AgentError::NoCertificate)?;
        let name = shown.subject.split(',').find_map(|part| part.strip_prefix("CN=system:node:"));
        let node = name.ok_or_else(|| AgentError::NotANode(shown.subject.clone()))?.to_ascii_lowercase();
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake::<_, Body>(TokioIo::new(io))
            .await?;
        let connection = tokio::spawn(connection);
        let addresses = timeout(HANDSHAKE, about(&mut sender)).await.map_err(|_| AgentError::Silent)??;
        let agent = Arc::new(Connected { node, sender, streams: Arc::new(Semaphore::new(STREAMS as usize)) });
        for address in self.routes.add(&agent, &addresses) {
            (self.notice)(format!("node {}: {address} belongs to another node, and is left with it", agent.node));
        }
        self.stats.agents.fetch_add(1, Relaxed);
        (self.notice)(format!("node {} has come", agent.node));
        let _ = connection.await;
        self.routes.remove(&agent);
        (self.notice)(format!("node {} has gone", agent.node));
        Ok(())
    }

    /// Takes connections of kube-apiserver.
    pub async fn serve_socket(self: Arc<Tunnel>, listener: UnixListener) {
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            let Some(io) = accepted(listener.accept().await.map(|(io, _)| io)).await else { continue };
            tokio::spawn(self.clone().client(io, permit));
        }
    }

    pub async fn serve_port(self: Arc<Tunnel>, listener: TcpListener) {
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            let Some(io) = accepted(listener.accept().await.map(|(io, _)| io)).await else { continue };
            let _ = io.set_nodelay(true);
            tokio::spawn(self.clone().client(io, permit));
        }
    }

    async fn client<I>(self: Arc<Tunnel>, io: I, permit: tokio::sync::OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let permit = Arc::new(permit);
        let service = service_fn(move |request| {
            let (tunnel, permit) = (self.clone(), permit.clone());
            async move { Ok::<_, Infallible>(tunnel.answer(request, permit).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
        let _ = builder.serve_connection(TokioIo::new(io), service).with_upgrades().await;
    }

    async fn answer(self: Arc<Tunnel>, mut request: Request<Incoming>, permit: Arc<tokio::sync::OwnedSemaphorePermit>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::CONNECT, _) => {}
            (&Method::GET, METRICS) => return Response::new(crate::body::full(self.metrics())),
            (&Method::GET, "/healthz") => return Response::new(crate::body::full("ok")),
            _ => return answer(StatusCode::METHOD_NOT_ALLOWED, "use CONNECT HOST:PORT\n".into()),
        }
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let there = match self.open(&authority).await {
            Ok(there) => there,
            Err(Refused(status, why)) => {
                self.stats.failed.fetch_add(1, Relaxed);
                (self.notice)(format!("{authority}: {why}"));
                return answer(status, why + "\n");
            }
        };
        self.stats.streams.fetch_add(1, Relaxed);
        let here = upgrade::on(&mut request);
        tokio::spawn(async move {
            let (_permit, _open) = (permit, Gauge::new(&self.stats.open));
            if let Ok(here) = here.await {
                let mut here = TokioIo::new(here);
                let _ = match there {
                    Opened::Stream(stream, _held) => tokio::io::copy_bidirectional(&mut here, &mut TokioIo::new(*stream)).await,
                    Opened::Direct(mut io) => tokio::io::copy_bidirectional(&mut here, &mut io).await,
                };
            }
        });
        Response::new(empty())
    }

    async fn open(&self, authority: &str) -> Result<Opened, Refused> {
        let (host, _) = split(authority).ok_or_else(|| Refused(StatusCode::BAD_REQUEST, "expected HOST:PORT".into()))?;
        match self.routes.find(&host) {
            Way::Agent(agent) => stream(&agent, authority).await,
            Way::Gone => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "the agent of this node is not connected".into())),
            Way::Unknown if !self.options.direct => Err(Refused(StatusCode::BAD_GATEWAY, "no agent leads to this host".into())),
            Way::Unknown => match timeout(DIAL, TcpStream::connect(authority)).await {
                Ok(Ok(io)) => Ok(Opened::Direct(io)),
                Ok(Err(e)) => Err(Refused(StatusCode::BAD_GATEWAY, format!("no agent leads to this host, and directly: {e}"))),
                Err(_) => {
                    Err(Refused(StatusCode::GATEWAY_TIMEOUT, format!("no agent leads to this host, and directly: not within {DIAL:?}")))
                }
            },
        }
    }

    fn metrics(&self) -> String {
        let mut out = Exposition::default();
        let mut one = |kind: &str, name: &str, help: &str, value: u64| {
            out.described(name, kind, help);
            out.sample(name, [], value);
        };
        let Stats { agents, refused_agents, open, streams, failed } = &self.stats;
        one("gauge", "weir_tunnel_nodes", "Nodes whose agent is connected.", self.routes.nodes() as u64);
        one("counter", "weir_tunnel_agents_total", "Connections of agents.", agents.load(Relaxed));
        one("counter", "weir_tunnel_refused_agents_total", "Connections of agents that were refused.", refused_agents.load(Relaxed));
        one("gauge", "weir_tunnel_streams", "Streams that are open.", open.load(Relaxed) as u64);
        one("counter", "weir_tunnel_streams_total", "Streams that were opened.", streams.load(Relaxed));
        one("counter", "weir_tunnel_failed_streams_total", "Streams that could not be opened.", failed.load(Relaxed));
        out.into_text()
    }
}

/// A way to a host.
enum Opened {
    Stream(Box<Upgraded>, tokio::sync::OwnedSemaphorePermit),
    Direct(TcpStream),
}

/// A stream through an agent.
async fn stream(agent: &Connected, authority: &str) -> Result<Opened, Refused> {
    let unavailable = |why: String| Refused(StatusCode::SERVICE_UNAVAILABLE, why);
    let held = agent.streams.clone().try_acquire_owned();
    let held = held.map_err(|_| unavailable(format!("node {} has {STREAMS} streams already", agent.node)))?;
    let authority: Authority = authority.parse().map_err(|_| Refused(StatusCode::BAD_REQUEST, "expected HOST:PORT".into()))?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority);
    let uri = Uri::from_parts(parts).map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))?;
    let mut request = Request::new(empty());
    (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, uri);
    let mut sender = agent.sender.clone();
    let response = timeout(DIAL + HANDSHAKE, sender.send_request(request)).await;
    let response = response.map_err(|_| Refused(StatusCode::GATEWAY_TIMEOUT, "the agent of this node does not answer".into()))?;
    let response = response.map_err(|e| unavailable(format!("the agent of this node: {e}")))?;
    if response.status() != StatusCode::OK {
        let (head, body) = response.into_parts();
        let why = timeout(HANDSHAKE, whole(streamed(body), MAX_ABOUT)).await.ok().and_then(Result::ok).unwrap_or_default();
        return Err(Refused(head.status, format!("the agent of this node: {}", String::from_utf8_lossy(&why))));
    }
    let upgraded = upgrade::on(response).await.map_err(|e| unavailable(format!("the agent of this node: {e}")))?;
    Ok(Opened::Stream(Box::new(upgraded), held))
}

/// The addresses that an agent claims.
async fn about(sender: &mut http2::SendRequest<Body>) -> Result<Vec<String>, AgentError> {
    let request = Request::get("http://agent/").body(empty())?;
    let response = sender.send_request(request).await?;
    let body = whole(streamed(response.into_body()), MAX_ABOUT).await?;
    let about: Value = serde_json::from_slice(&body)?;
    let addresses = about["addresses"].as_array().into_iter().flatten();
    Ok(addresses.filter_map(|address| address.as_str().map(str::to_string)).collect())
}

/// A connection. A client that left, or no file descriptor: the next one may go better.
async fn accepted<I>(io: io::Result<I>) -> Option<I> {
    if io.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    io.ok()
}
