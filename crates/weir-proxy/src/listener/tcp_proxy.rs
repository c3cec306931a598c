//! The TCP proxy: bytes both ways between a client and one endpoint of a weighted choice of clusters.
use super::{ChainRt, ListenerContext, weighted::WeightedClusters};
use crate::{
    access_log::{AccessLogger, Record},
    balance::hash_connection,
    cluster::{ClusterRegistry, ClusterSlot},
    conn::ConnInfo,
    drain::Phase,
    info::{Flags, Info},
    stats::ListenerStats,
    upstream::{
        UpstreamError, WorkerCluster,
        byte_stream::{ByteStream, Connect, Failed, Pick},
    },
    worker::Worker,
};
use std::{collections::HashMap, future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};
use weir_config::model::{AccessLog, Discovery, TcpProxy};
use weir_net::{
    copy::{self, Copy},
    http::{
        relay::Peer,
        tunnel::{Tunnel, TunnelEnd},
        wire::Wire,
    },
    io::Io,
    timer::nanos,
};

/// A TCP proxy with its clusters at hand.
pub struct TcpProxyRt {
    clusters: WeightedClusters,
    /// By server name, in lower case.
    by_name: HashMap<String, Arc<ClusterSlot>>,
    idle_timeout: Duration,
    max_connect_attempts: u32,
    access_logs: Arc<[AccessLogger]>,
}

/// Compiles access logs.
pub(crate) type CompileLogs<'a> = dyn FnMut(&[AccessLog]) -> Arc<[AccessLogger]> + 'a;

impl TcpProxyRt {
    pub(super) fn new(config: &TcpProxy, registry: &ClusterRegistry, logs: &mut CompileLogs<'_>) -> Self {
        let by_name = config.sni_clusters.iter().map(|name| (name.to_ascii_lowercase(), registry.slot(name))).collect();
        TcpProxyRt {
            clusters: WeightedClusters::new(&config.clusters, registry),
            by_name,
            idle_timeout: config.idle_timeout,
            max_connect_attempts: config.max_connect_attempts,
            access_logs: logs(&config.access_log),
        }
    }

    fn choose(&self, server_name: Option<&str>, random: u64) -> Option<&Arc<ClusterSlot>> {
        if !self.by_name.is_empty() {
            return self.by_name.get(&server_name?.to_ascii_lowercase());
        }
        self.clusters.choose(random)
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(context: &ListenerContext, chain: &ChainRt, client: Io, conn: &ConnInfo, stats: &ListenerStats) {
    let Some(tcp) = &chain.tcp else { return };
    let worker = &context.worker;
    let start = worker.now();
    let mut info = Info { start, wall_start: worker.wall(start), ..Info::default() };
    proxy(worker, tcp, client, conn, stats, &mut info).await;
    info.end = worker.now();
    let record = Record { request: None, response: None, trailers: None, info: &info, conn, route_name: "" };
    let mut logs = worker.logs.borrow_mut();
    tcp.access_logs.iter().for_each(|log| logs.write(log, &record));
}

async fn proxy(worker: &Rc<Worker>, tcp: &TcpProxyRt, client: Io, conn: &ConnInfo, stats: &ListenerStats, info: &mut Info) {
    let Some(slot) = tcp.choose(conn.requested_server_name.as_deref(), worker.random()) else {
        info.set_flag(Flags::NO_ROUTE_FOUND);
        return stats.tcp_downstream_cx_no_route.inc();
    };
    let Some(cluster) = worker.clusters.warm_cluster(slot).await else {
        info.set_flag(Flags::NO_CLUSTER_FOUND);
        return stats.tcp_downstream_cx_no_route.inc();
    };
    info.upstream_cluster = Some(cluster.text.clone());
    let upstream = match connect(worker, &cluster, tcp, conn).await {
        Ok(upstream) => upstream,
        Err(failed) => return refused(stats, info, failed),
    };
    let facts = upstream.facts();
    info.attempts = upstream.attempts;
    info.upstream_host = Some(upstream.host.text.clone());
    (info.upstream_connection_id, info.upstream_local_address) = (facts.id, facts.local);
    (info.upstream_connect_start, info.upstream_connect_end) = (facts.connect_start, facts.connect_end);
    (info.upstream_handshake_end, info.upstream_tls) = (facts.handshake_end, upstream.tls());
    info.upstream_tx_start = worker.now();
    copy_both_ways(worker, &cluster, tcp.idle_timeout, client, upstream, conn, stats, info).await;
}

/// A connection to an endpoint of the cluster, or to the host that the client's server name stands for.
async fn connect(worker: &Rc<Worker>, cluster: &Rc<WorkerCluster>, tcp: &TcpProxyRt, conn: &ConnInfo) -> Result<ByteStream, Failed> {
    let server_name = conn.requested_server_name.as_deref();
    let pick = match cluster.rt.config.discovery {
        Discovery::DynamicForwardProxy { port } => {
            let Some(host) = server_name else {
                let error = UpstreamError::NoHealthyUpstream(cluster.name.clone());
                return Err(Failed { error, host: None, attempts: 0 });
            };
            Pick::Named { host, port }
        }
        _ => Pick::Balanced { hash: hash_connection(&cluster.rt.config.hash_policy, conn.peer.ip()) },
    };
    let client = Some((conn.peer, conn.local));
    Connect { cluster, pick, server_name, client, max_attempts: tcp.max_connect_attempts }.open(&worker.clusters).await
}

/// No endpoint took the connection.
fn refused(stats: &ListenerStats, info: &mut Info, failed: Failed) {
    let Failed { error, host, attempts } = failed;
    info.set_flag(error.flag());
    info.attempts = attempts;
    info.upstream_host = host.map(|h| h.text.clone());
    info.upstream_failure = Some(error.to_string().into());
    if error.is_endpoints() {
        info.set_flag(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    }
    let counter = if error.is_endpoints() { &stats.tcp_upstream_cx_connect_fail } else { &stats.tcp_downstream_cx_no_route };
    counter.inc();
}

#[expect(clippy::too_many_arguments, reason = "all of one connection")]
async fn copy_both_ways(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    idle_timeout: Duration,
    client: Io,
    mut upstream: ByteStream,
    conn: &ConnInfo,
    stats: &ListenerStats,
    info: &mut Info,
) {
    let (mut client, mut tunnel) = (Peer::H1(Wire::new(client)), Tunnel::Raw);
    let mut copy = Copy::default();
    let (drain, deadline) = (conn.drain.watch(), worker.timers.deadline());
    let idle = if idle_timeout.is_zero() { u64::MAX } else { nanos(idle_timeout) };
    deadline.set(worker.now().saturating_add(idle));
    let flags = poll_fn(|cx| {
        let ([sent, received], before) = (copy.written(), copy.progress());
        let mut a = TunnelEnd { peer: &mut client, tunnel: &mut tunnel, pool: &worker.bufs };
        let copied = copy.poll(cx, &mut a, &mut upstream);
        let now = copy.written();
        let (sent, received) = (now[0] - sent, now[1] - received);
        stats.tcp_downstream_cx_rx_bytes_total.add(sent);
        stats.tcp_downstream_cx_tx_bytes_total.add(received);
        cluster.stats.upstream_cx_tx_bytes_total.add(sent);
        cluster.stats.upstream_cx_rx_bytes_total.add(received);
        match copied {
            Poll::Ready(Ok(())) => {
                upstream.finished();
                return Poll::Ready(Flags::default());
            }
            Poll::Ready(Err(failed)) => {
                return Poll::Ready(match failed.end {
                    copy::End::A => Flags::DOWNSTREAM_CONNECTION_TERMINATION,
                    copy::End::B => Flags::UPSTREAM_CONNECTION_TERMINATION,
                });
            }
            Poll::Pending => upstream.absorb(cx),
        }
        // A TCP proxy does not know when its bytes are done: they flow until nothing is waited for any more.
        if drain.phase(cx) >= Phase::Cutting {
            return Poll::Ready(Flags::default());
        }
        if copy.progress() != before {
            deadline.set(worker.moment().saturating_add(idle));
        }
        match deadline.expired(cx) {
            true => {
                stats.tcp_idle_timeout.inc();
                Poll::Ready(Flags::STREAM_IDLE_TIMEOUT)
            }
            false => Poll::Pending,
        }
    })
    .await;
    info.set_flag(flags);
    let (read, written) = (copy.read(), copy.written());
    (info.bytes_received, info.bytes_sent) = (read[0], written[1]);
    (info.upstream_bytes_sent, info.upstream_bytes_received) = (written[0], read[1]);
}
