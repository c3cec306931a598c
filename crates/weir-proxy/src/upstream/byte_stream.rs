//! Connections that carry bytes and no requests (TCP proxy, Redis): an endpoint of a cluster is picked and dialled, and another one
//! where that fails.
use super::{
    ActiveRequest, ConnStats, Host, UpstreamError, WorkerCluster, clusters::WorkerClusters, connect_tunnel, dial::Dial, link::Facts,
};
use crate::{app_log::Logger, conn::UpstreamTls, outlier::Outcome};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use weir_config::model::UpstreamProtocol;
use weir_net::{
    http::{
        relay::Peer,
        tunnel::{Tunnel, TunnelEnd},
        wire::Wire,
    },
    tls::Alpn,
};

/// Which endpoint is wanted.
pub enum Pick<'a> {
    /// One of the cluster's, by its load balancing.
    Balanced { hash: Option<u64> },
    /// One that is named by a client, a plugin or a server.
    Named { host: &'a str, port: u16 },
}

/// A connection that is wanted.
pub struct Connect<'a> {
    pub cluster: &'a Rc<WorkerCluster>,
    pub pick: Pick<'a>,
    /// For TLS without a name of its own; `None` for the endpoint's name or address.
    pub server_name: Option<&'a str>,
    /// The client's address and the one that it connected to.
    pub client: Option<(SocketAddr, SocketAddr)>,
    /// Endpoints that are tried (Envoy's `max_connect_attempts`).
    pub max_attempts: u32,
}

/// Why there is none.
pub struct Failed {
    pub error: UpstreamError,
    /// The endpoint that was tried last.
    pub host: Option<Rc<Host>>,
    pub attempts: u32,
}

/// A connection to an endpoint, counted while it lives.
pub struct ByteStream {
    worker: Rc<WorkerClusters>,
    peer: Peer,
    tunnel: Tunnel,
    pub host: Rc<Host>,
    pub attempts: u32,
    link: ConnStats,
    _active: ActiveRequest,
}

impl Connect<'_> {
    /// # Errors
    /// Why the last attempt failed.
    pub async fn open(&self, w: &Rc<WorkerClusters>) -> Result<ByteStream, Failed> {
        let mut tried: Vec<Rc<Host>> = Vec::new();
        loop {
            let attempts = tried.len() as u32;
            let picked = match self.pick {
                Pick::Balanced { hash } => self.cluster.choose(hash, &tried),
                Pick::Named { host, port } => self.cluster.named_host(w, host, port).await,
            };
            let host = picked.map_err(|error| Failed { error, host: tried.last().cloned(), attempts })?;
            let attempts = attempts + 1;
            let error = match self.attempt(w, &host, attempts).await {
                Ok(stream) => {
                    // Envoy's success of a local origin: a connection counts as a good response.
                    self.cluster.report(&host, Outcome::Status(200), w.now());
                    return Ok(stream);
                }
                Err(error) => error,
            };
            Logger::Upstream.debug(format_args!("cluster `{}`: {}: {error}", self.cluster.name, host.text));
            if !error.is_endpoints() {
                return Err(Failed { error, host: Some(host), attempts });
            }
            self.cluster.report(&host, Outcome::LocalOrigin, w.now());
            tried.push(host);
            let untried = self.cluster.hosts.iter().any(|h| h.endpoint.accepts_requests() && !tried.iter().any(|t| Rc::ptr_eq(t, h)));
            if attempts >= self.max_attempts || !untried || matches!(self.pick, Pick::Named { .. }) {
                return Err(Failed { error, host: tried.pop(), attempts });
            }
        }
    }

    async fn attempt(&self, w: &Rc<WorkerClusters>, host: &Rc<Host>, attempts: u32) -> Result<ByteStream, UpstreamError> {
        let (cluster, rt) = (self.cluster, &*self.cluster.rt);
        let place = cluster.place(w).await?;
        cluster.stats.upstream_rq_total.inc();
        let active = ActiveRequest::new(cluster, host);
        let tunneling = rt.config.tunneling_config.as_ref();
        let (alpn, http2) = match (tunneling, rt.config.protocol) {
            (None, _) => (Alpn::None, false),
            (_, UpstreamProtocol::Http2) => (Alpn::Http2, true),
            (_, UpstreamProtocol::Auto) => (Alpn::Auto, false),
            (_, UpstreamProtocol::Http1 | UpstreamProtocol::UseDownstream) => (Alpn::Http1, false),
        };
        let endpoint = &host.endpoint;
        let ip = endpoint.address.ip().to_string();
        // The client's server name is for the other end of a tunnel.
        let server_name = self.server_name.filter(|_| tunneling.is_none()).or(endpoint.hostname()).unwrap_or(&ip);
        let dial = Dial { rt, address: endpoint.address, server_name, alpn, client: self.client };
        let (io, link) = dial.open(w, &cluster.stats, place).await?;
        let (peer, tunnel) = match tunneling {
            None => (Peer::H1(Wire::new(io)), Tunnel::Raw),
            Some(config) => {
                let http2 = http2 || io.alpn() == Some(b"h2");
                let opened = timeout(rt.config.connect_timeout, Box::pin(connect_tunnel::open(w, io, config, http2))).await;
                opened.unwrap_or(Err(UpstreamError::ConnectTimeout)).inspect_err(|_| cluster.stats.upstream_cx_connect_fail.inc())?
            }
        };
        link.begin_request();
        Ok(ByteStream { worker: w.clone(), peer, tunnel, host: host.clone(), attempts, link, _active: active })
    }
}

impl ByteStream {
    pub fn facts(&self) -> Facts {
        self.link.facts.get()
    }
    pub fn tls(&self) -> Option<Rc<UpstreamTls>> {
        self.link.tls.get().cloned()
    }
    /// Both sides have ended; without it, the connection counts as one that broke off.
    pub fn finished(&self) {
        self.link.end_request();
    }
    /// Takes what has arrived while nobody reads.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        if let Peer::H2(stream) = &mut self.peer {
            stream.absorb(cx);
        }
    }
    fn end(&mut self) -> TunnelEnd<'_> {
        TunnelEnd { peer: &mut self.peer, tunnel: &mut self.tunnel, pool: &self.worker.bufs }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end()).poll_read(cx, buf)
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.end()).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end()).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end()).poll_shutdown(cx)
    }
}
