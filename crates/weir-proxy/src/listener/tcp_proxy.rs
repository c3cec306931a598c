//! The TCP proxy: bytes both ways between a client and one endpoint of a weighted choice of clusters.
use super::{
    ChainRt,
    byte_copy::{Moved, tunnel},
    connect_tunnel::{self, Tunnel},
};
use crate::{
    app_log::Logger,
    breaker::Full,
    cluster::{ClusterRegistry, ClusterRt, ClusterSlot, EndpointRt, ForwardProxy},
    conn::ConnInfo,
    drain::Phase,
    stats::ListenerStats,
    upstream::{ConnStats, send_header},
    worker_thread::Local,
};
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use weir_config::model::{Discovery, TcpProxy, UpstreamProtocol};
use weir_net::{io::Io, listen, tls::Alpn};

/// Endpoints that are tried before the client is given up.
const ATTEMPTS: usize = 3;

/// A TCP proxy with its clusters at hand.
pub struct TcpProxyRt {
    clusters: Vec<(Arc<ClusterSlot>, u32)>,
    total_weight: u64,
    /// By server name, in lower case.
    by_name: HashMap<String, Arc<ClusterSlot>>,
    idle_timeout: Duration,
}

impl TcpProxyRt {
    pub(super) fn new(config: &TcpProxy, registry: &ClusterRegistry) -> Self {
        let clusters: Vec<_> = config.clusters.iter().map(|(name, weight)| (registry.slot(name), *weight)).collect();
        let total_weight = clusters.iter().map(|(_, w)| u64::from(*w)).sum();
        let by_name = config.sni_clusters.iter().map(|name| (name.to_ascii_lowercase(), registry.slot(name))).collect();
        TcpProxyRt { clusters, total_weight, by_name, idle_timeout: config.idle_timeout }
    }

    fn pick(&self, server_name: Option<&str>, random: u64) -> Option<Arc<ClusterRt>> {
        if !self.by_name.is_empty() {
            return self.by_name.get(&server_name?.to_ascii_lowercase())?.current();
        }
        let mut at = random.checked_rem(self.total_weight)?;
        for (slot, weight) in &self.clusters {
            match at.checked_sub(u64::from(*weight)) {
                None => return slot.current(),
                Some(rest) => at = rest,
            }
        }
        None
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(local: &Local, chain: &ChainRt, client: Io, conn: &ConnInfo, stats: &ListenerStats) {
    let Some(tcp) = &chain.tcp else { return };
    let Some(cluster) = tcp.pick(conn.requested_server_name.as_deref(), local.worker.random()) else {
        return stats.tcp_downstream_cx_no_route.inc();
    };
    let worker = &local.worker;
    let of_cluster = worker.shared.stats.cluster(&cluster.config.name, worker.index);
    let mut tried: Vec<Arc<EndpointRt>> = Vec::new();
    let (upstream, _link) = loop {
        let endpoint = match &cluster.forward {
            None => endpoint(&cluster, &tried, local.worker.random()),
            Some(forward) => named(forward, &cluster, conn).await.filter(|_| tried.is_empty()),
        };
        let Some(endpoint) = endpoint else {
            let failed = if tried.is_empty() { &stats.tcp_downstream_cx_no_route } else { &stats.tcp_upstream_cx_connect_fail };
            return failed.inc();
        };
        let permit = loop {
            match cluster.breakers.connect(&cluster.config.circuit_breakers) {
                Ok(permit) => break permit,
                Err(Full::Process) if worker.close_idle() => tokio::task::yield_now().await,
                Err(full) => {
                    if full == Full::Process {
                        local.shared.upstreams.overflow.inc();
                    }
                    of_cluster.upstream_cx_overflow.inc();
                    return stats.tcp_downstream_cx_no_route.inc();
                }
            }
        };
        let begun = worker.now();
        let link = ConnStats::new(&of_cluster, permit, begun);
        match timeout(cluster.config.connect_timeout, connect(local, &cluster, &endpoint, conn)).await {
            Ok(Ok(upstream)) => {
                of_cluster.upstream_cx_connect_ms.record(worker.now() - begun);
                break (upstream, link);
            }
            failed => {
                of_cluster.upstream_cx_connect_fail.inc();
                if failed.is_err() {
                    of_cluster.upstream_cx_connect_timeout.inc();
                }
                let why = failed.map_or_else(|_| "timeout".to_string(), |e| e.err().map(|e| e.to_string()).unwrap_or_default());
                Logger::Upstream.debug(format_args!("cluster `{}`: {}: {why}", cluster.config.name, endpoint.address));
                tried.push(endpoint);
                if tried.len() == ATTEMPTS {
                    return stats.tcp_upstream_cx_connect_fail.inc();
                }
            }
        }
    };
    let forth = Moved { listener: &stats.tcp_downstream_cx_rx_bytes_total, cluster: &of_cluster.upstream_cx_tx_bytes_total };
    let back = Moved { listener: &stats.tcp_downstream_cx_tx_bytes_total, cluster: &of_cluster.upstream_cx_rx_bytes_total };
    let moving = async {
        match upstream {
            Upstream::Bare(upstream) => tunnel(client, upstream, tcp.idle_timeout, forth, back).await,
            Upstream::Tunnel(upstream) => tunnel(client, *upstream, tcp.idle_timeout, forth, back).await,
        }
    };
    let drain = conn.drain.watch();
    tokio::select! {
        end = moving => {
            if end.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut) {
                stats.tcp_idle_timeout.inc();
            }
        }
        // A TCP proxy does not know when its bytes are done: they flow until nothing is waited for any more.
        () = drain.reached(Phase::Cutting) => {}
    }
}

/// By weight among the healthy ones of the best priority that were not tried yet.
fn endpoint(cluster: &ClusterRt, tried: &[Arc<EndpointRt>], random: u64) -> Option<Arc<EndpointRt>> {
    let set = cluster.endpoints.load();
    let usable = |e: &&Arc<EndpointRt>| e.accepts_requests() && !tried.iter().any(|t| t.address == e.address);
    let best = set.endpoints.iter().filter(usable).map(|e| e.config.priority).min()?;
    let candidates = || set.endpoints.iter().filter(usable).filter(|e| e.config.priority == best);
    let total: u64 = candidates().map(|e| u64::from(e.config.weight)).sum();
    let mut at = random.checked_rem(total)?;
    for e in candidates() {
        match at.checked_sub(u64::from(e.config.weight)) {
            None => return Some(e.clone()),
            Some(rest) => at = rest,
        }
    }
    None
}

/// The endpoint that the client's server name stands for.
async fn named(forward: &ForwardProxy, cluster: &ClusterRt, conn: &ConnInfo) -> Option<Arc<EndpointRt>> {
    let Discovery::DynamicForwardProxy { port } = cluster.config.discovery else { return None };
    forward.endpoint(conn.requested_server_name.as_deref()?, port).await.ok()
}

/// Where the bytes go.
enum Upstream {
    Bare(Io),
    /// Through a forward proxy.
    Tunnel(Box<Tunnel>),
}

async fn connect(local: &Local, cluster: &ClusterRt, endpoint: &EndpointRt, conn: &ConnInfo) -> io::Result<Upstream> {
    let Some(config) = &cluster.config.tunneling_config else {
        return Ok(Upstream::Bare(dial(cluster, endpoint, conn, conn.requested_server_name.as_deref(), Alpn::None).await?));
    };
    let (alpn, http2) = match cluster.config.protocol {
        UpstreamProtocol::Http2 => (Alpn::Http2, true),
        UpstreamProtocol::Auto => (Alpn::Auto, false),
        UpstreamProtocol::Http1 | UpstreamProtocol::UseDownstream => (Alpn::Http1, false),
    };
    // The client's server name is for the other end of the tunnel.
    let io = dial(cluster, endpoint, conn, None, alpn).await?;
    let http2 = http2 || io.alpn() == Some(b"h2");
    Ok(Upstream::Tunnel(Box::new(connect_tunnel::open(&local.worker, io, config, http2).await?)))
}

async fn dial(cluster: &ClusterRt, endpoint: &EndpointRt, conn: &ConnInfo, name: Option<&str>, alpn: Alpn) -> io::Result<Io> {
    let io = TcpStream::connect(endpoint.address).await?;
    let _ = io.set_nodelay(true);
    if let Some(k) = &cluster.config.tcp_keepalive {
        listen::set_keepalive(&io, listen::Keepalive { time: k.time, interval: k.interval, probes: k.probes })?;
    }
    if let Some(version) = cluster.config.proxy_protocol {
        send_header(&io, version, Some((conn.peer, conn.local))).await?;
    }
    let Some(tls) = &cluster.tls else { return Ok(Io::Plain(io)) };
    let ip = endpoint.address.ip().to_string();
    let host = name.or(endpoint.hostname.as_deref()).unwrap_or(&ip);
    Ok(Io::tls(tls.connect(io, host, alpn).await?))
}
