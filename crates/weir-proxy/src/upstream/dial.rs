//! A new connection to an endpoint of a cluster, for whatever travels on it: keepalive, PROXY protocol, TLS, the cluster's timeout,
//! and what the cluster counts of it.
use super::{
    UpstreamError,
    clusters::WorkerClusters,
    link::{ConnStats, Facts},
};
use crate::{breaker::Place, cluster::ClusterRt, conn::UpstreamTls, stats::ClusterStats};
use rustls::{ClientConnection, HandshakeKind};
use std::{io, net::SocketAddr, rc::Rc, sync::Arc};
use tokio::{net::TcpStream, time::timeout};
use weir_config::model::ProxyProtocolVersion;
use weir_net::{
    descriptors, dial,
    io::Io,
    listen, proxy_protocol,
    tls::{self, Alpn, Refusal},
};

/// What is to be opened.
pub struct Dial<'a> {
    pub rt: &'a ClusterRt,
    pub address: SocketAddr,
    /// For TLS without a name of its own.
    pub server_name: &'a str,
    pub alpn: Alpn,
    /// The client's address and the one that it connected to, for the PROXY protocol; `None` for a connection of the gateway's own.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

/// A moment on the way.
enum Step<'a> {
    Connected(&'a TcpStream),
    Secured(&'a ClientConnection),
    Refused(&'a io::Error),
}

impl Dial<'_> {
    /// Opens the connection. The cluster counts it for as long as the second part lives.
    ///
    /// # Errors
    /// Why there is none; counted as well.
    pub async fn open(&self, w: &WorkerClusters, stats: &Arc<ClusterStats>, place: Place) -> Result<(Io, ConnStats), UpstreamError> {
        let link = ConnStats::new(stats, place, w.now());
        let made = self.connect(|step| match step {
            Step::Connected(io) => {
                link.facts.set(Facts { local: io.local_addr().ok(), connect_end: w.now(), ..link.facts.get() });
            }
            Step::Secured(session) => {
                link.facts.set(Facts { handshake_end: w.now(), ..link.facts.get() });
                stats.ssl_handshake.inc();
                if session.handshake_kind() == Some(HandshakeKind::Resumed) {
                    stats.ssl_session_reused.inc();
                }
                let _ = link.tls.set(Rc::new(UpstreamTls::of(session)));
            }
            Step::Refused(e) => match tls::refusal(e) {
                Some(Refusal::Name) => stats.ssl_fail_verify_san.inc(),
                Some(_) => stats.ssl_fail_verify_error.inc(),
                None => stats.ssl_connection_error.inc(),
            },
        });
        match made.await {
            Ok(io) => {
                let facts = link.facts.get();
                stats.upstream_cx_connect_ms.record(facts.connect_end.max(facts.handshake_end) - facts.connect_start);
                Ok((io, link))
            }
            Err(e) => {
                match &e {
                    UpstreamError::Overflow => stats.upstream_cx_overflow.inc(),
                    UpstreamError::ConnectTimeout => {
                        stats.upstream_cx_connect_fail.inc();
                        stats.upstream_cx_connect_timeout.inc();
                    }
                    _ => stats.upstream_cx_connect_fail.inc(),
                }
                Err(e)
            }
        }
    }

    /// As [`Dial::open`], but nobody counts it: for checks off the workers. It takes a place among the connections all the same.
    pub async fn open_uncounted(&self) -> Result<(Io, Place), UpstreamError> {
        let place = self.rt.breakers.connect(&self.rt.config.circuit_breakers).map_err(|_| UpstreamError::Overflow)?;
        Ok((self.connect(|_| ()).await?, place))
    }

    async fn connect(&self, step: impl FnMut(Step<'_>)) -> Result<Io, UpstreamError> {
        // In a box: connecting is rare, and its state would make every task larger.
        let made = Box::pin(self.shake(step));
        timeout(self.rt.config.connect_timeout, made).await.unwrap_or(Err(UpstreamError::ConnectTimeout))
    }

    async fn shake(&self, mut step: impl FnMut(Step<'_>)) -> Result<Io, UpstreamError> {
        let config = &self.rt.config;
        let keepalive = config.tcp_keepalive.as_ref();
        let keepalive = keepalive.map(|k| listen::Keepalive { time: k.time, interval: k.interval, probes: k.probes });
        let first = match config.proxy_protocol {
            None => Vec::new(),
            Some(ProxyProtocolVersion::V1) => proxy_protocol::header_v1(self.client),
            Some(ProxyProtocolVersion::V2) => proxy_protocol::header_v2(self.client),
        };
        let io = dial::connect(self.address, keepalive, &first).await.map_err(|e| match descriptors::is_exhausted(&e) {
            true => UpstreamError::Overflow,
            false => UpstreamError::Connect(e),
        })?;
        step(Step::Connected(&io));
        let Some(tls) = &self.rt.tls else { return Ok(Io::Plain(io)) };
        match tls.connect(io, self.server_name, self.alpn).await {
            Ok(io) => {
                step(Step::Secured(io.get_ref().1));
                Ok(Io::tls(io))
            }
            Err(e) => {
                step(Step::Refused(&e));
                Err(UpstreamError::Tls(e))
            }
        }
    }
}
