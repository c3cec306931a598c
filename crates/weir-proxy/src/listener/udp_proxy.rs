//! The UDP proxy: the datagrams of a session go to one endpoint of a weighted choice of clusters, and its datagrams back.
//!
//! A session is what comes from one address and port of a client. It has a socket of its own towards its endpoint, and keeps both for
//! as long as the configuration has them: a change of other things does not touch it. The kernel gives all datagrams of a session to
//! one worker.
use super::{
    ChainRt, CompileLogs, ListenerContext, ListenerSlot,
    accept::{Accepting, Guard},
    network_filters, next_id,
    weighted::WeightedClusters,
};
use crate::{
    access_log::{AccessLogger, Record},
    app_log::Logger,
    balance::hash_connection,
    cluster::{ClusterRegistry, ClusterSlot},
    conn::ConnInfo,
    drain::{IDLE_GRACE, Phase},
    info::{Flags, Info},
    outlier::Outcome,
    stats::ListenerStats,
    upstream::{ConnStats, Host, WorkerCluster},
};
use socket2::SockRef;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{net::UdpSocket, sync::Notify, task::spawn_local};
use weir_config::model::UdpProxy;
use weir_net::{listen, timer::nanos};

/// The largest datagram there is.
const DATAGRAM: usize = 64 * 1024;
/// Datagrams of one session that are passed on before others have their turn.
const BURST: usize = 64;

/// A UDP proxy with its clusters at hand.
pub struct UdpProxyRt {
    clusters: WeightedClusters,
    idle_timeout: Duration,
    access_logs: Arc<[AccessLogger]>,
}

impl UdpProxyRt {
    pub(super) fn new(config: &UdpProxy, registry: &ClusterRegistry, logs: &mut CompileLogs<'_>) -> Self {
        UdpProxyRt {
            clusters: WeightedClusters::new(&config.clusters, registry),
            idle_timeout: config.idle_timeout,
            access_logs: logs(&config.access_log),
        }
    }
}

/// One listening socket of one worker.
struct Receiver {
    context: Rc<ListenerContext>,
    slot: Arc<ListenerSlot>,
    socket: UdpSocket,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>>>,
    /// What sessions receive into. It is never borrowed across an await.
    buffer: RefCell<Box<[u8]>>,
}

struct Session {
    cluster: Arc<ClusterSlot>,
    host: Rc<Host>,
    upstream: UdpSocket,
    /// When the last datagram passed, in nanoseconds of the worker's clock.
    last: Cell<u64>,
    /// It ends before its time.
    ended: Notify,
    received: Cell<u64>,
    sent: Cell<u64>,
}

/// Why a datagram opens no session.
enum NoSession {
    NoRoute,
    /// A limit is reached, or a filter denies it; counted where that is known.
    Refused,
}

/// Receives until told to stop, then for a moment more, so that answers under way arrive.
pub(crate) async fn run(context: Rc<ListenerContext>, slot: Arc<ListenerSlot>, socket: UdpSocket, stop: Rc<Notify>) {
    let _accepting = Accepting::begin(&slot.total);
    let buffer = RefCell::new(vec![0; DATAGRAM].into_boxed_slice());
    let receiver = Rc::new(Receiver { context, slot, socket, sessions: RefCell::default(), buffer });
    let stopped = async {
        stop.notified().await;
        if !receiver.sessions.borrow().is_empty() {
            tokio::time::sleep(IDLE_GRACE).await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => {}
        () = receiver.receive() => {}
    }
    receiver.sessions.borrow_mut().drain().for_each(|(_, session)| session.ended.notify_one());
}

impl Receiver {
    async fn receive(self: &Rc<Self>) {
        let stats = &self.slot.stats;
        let mut datagram = vec![0; DATAGRAM];
        loop {
            match self.socket.recv_from(&mut datagram).await {
                Ok((length, peer)) => {
                    stats.udp_downstream_sess_rx_datagrams.inc();
                    stats.udp_downstream_sess_rx_bytes.add(length as u64);
                    self.forward(peer, &datagram[..length]);
                }
                Err(_) => {
                    stats.udp_downstream_sess_rx_errors.inc();
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Sends a datagram of a client on.
    fn forward(self: &Rc<Self>, peer: SocketAddr, datagram: &[u8]) {
        let listener = self.slot.current.load();
        let Some(chain) = listener.only() else { return self.slot.stats.no_filter_chain_match.inc() };
        let Some(proxy) = &chain.udp else { return self.slot.stats.no_filter_chain_match.inc() };
        let known = self.sessions.borrow().get(&peer).cloned();
        let known = known.filter(|session| {
            let stays = self.stays(session, proxy);
            if !stays {
                self.sessions.borrow_mut().remove(&peer);
                session.ended.notify_one();
            }
            stays
        });
        let session = match known.map_or_else(|| self.open(peer, chain, proxy), Ok) {
            Ok(session) => session,
            Err(NoSession::NoRoute) => return self.slot.stats.udp_downstream_sess_no_route.inc(),
            Err(NoSession::Refused) => return,
        };
        self.send(peer, &session, datagram);
    }

    /// Whether the configuration still has what the session goes to.
    fn stays(&self, session: &Session, proxy: &UdpProxyRt) -> bool {
        let cluster = self.context.worker.clusters.cluster(&session.cluster);
        proxy.clusters.contains(&session.cluster)
            && cluster.is_some_and(|c| session.host.endpoint.accepts_requests() && c.hosts.iter().any(|h| Rc::ptr_eq(h, &session.host)))
    }

    fn open(self: &Rc<Self>, peer: SocketAddr, chain: &Arc<ChainRt>, proxy: &UdpProxyRt) -> Result<Rc<Session>, NoSession> {
        let stats = &self.slot.stats;
        let worker = &self.context.worker;
        let conn = self.conn(peer, chain);
        if self.context.shared.overload.refuses_connections() {
            stats.downstream_cx_overload_reject.inc();
            return Err(NoSession::Refused);
        }
        if !network_filters::admit(&chain.rbac, &conn, stats) {
            return Err(NoSession::Refused);
        }
        let slot = proxy.clusters.choose(worker.random()).ok_or(NoSession::NoRoute)?;
        let cluster = worker.clusters.cluster(slot).ok_or(NoSession::NoRoute)?;
        let hash = hash_connection(&cluster.rt.config.hash_policy, peer.ip());
        let host = cluster.choose(hash, &[]).map_err(|_| NoSession::NoRoute)?;
        let guard = Guard::enter(&self.slot).ok_or(NoSession::Refused)?;
        stats.downstream_cx_total.inc();
        stats.udp_downstream_sess_total.inc();
        let place = cluster.place_now(&worker.clusters).map_err(|_| NoSession::Refused)?;
        let upstream = listen::connected_udp(host.endpoint.address).and_then(UdpSocket::from_std).map_err(|e| {
            cluster.stats.upstream_cx_connect_fail.inc();
            Logger::Upstream.debug(format_args!("cluster `{}`: {}: {e}", cluster.name, host.text));
            NoSession::NoRoute
        })?;
        let link = ConnStats::new(&cluster.stats, place, worker.now());
        let session = Rc::new(Session {
            cluster: slot.clone(),
            host,
            upstream,
            last: Cell::new(worker.now()),
            ended: Notify::new(),
            received: Cell::new(0),
            sent: Cell::new(0),
        });
        self.sessions.borrow_mut().insert(peer, session.clone());
        spawn_local(serve(self.clone(), chain.clone(), conn, session.clone(), cluster, link, guard));
        Ok(session)
    }

    fn conn(&self, peer: SocketAddr, chain: &ChainRt) -> ConnInfo {
        ConnInfo {
            id: next_id(),
            peer,
            local: self.slot.address,
            direct_peer: peer,
            listener: self.slot.name.clone(),
            chain: chain.config.name.clone(),
            tls: None,
            requested_server_name: None,
            drain: self.context.drain_of(&chain.drain_group),
        }
    }

    /// Sends a datagram to the endpoint. Where that has no room for it, it is lost, as on any network.
    fn send(&self, peer: SocketAddr, session: &Session, datagram: &[u8]) {
        let worker = &self.context.worker;
        let Some(cluster) = worker.clusters.cluster(&session.cluster) else { return };
        session.last.set(worker.now());
        session.received.set(session.received.get() + datagram.len() as u64);
        // Not by the socket's own `try_send`, which refuses until the event loop has heard of a new socket: the first datagram of each
        // session would be lost.
        match SockRef::from(&session.upstream).send(datagram) {
            Ok(_) => {
                cluster.stats.sess_tx_datagrams.inc();
                cluster.stats.upstream_cx_tx_bytes_total.add(datagram.len() as u64);
            }
            Err(e) => {
                cluster.stats.sess_tx_errors.inc();
                if e.kind() == io::ErrorKind::ConnectionRefused {
                    self.refused(peer, session, &cluster);
                }
            }
        }
    }

    /// Nobody listens at the endpoint: the next datagram of the client begins a new session.
    fn refused(&self, peer: SocketAddr, session: &Session, cluster: &WorkerCluster) {
        cluster.report(&session.host, Outcome::LocalOrigin, self.context.worker.now());
        self.forget(peer, session);
        session.ended.notify_one();
    }

    /// The client may have a newer session.
    fn forget(&self, peer: SocketAddr, session: &Session) {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.get(&peer).is_some_and(|known| std::ptr::eq(&**known, session)) {
            sessions.remove(&peer);
        }
    }

    /// Passes on what the endpoint has sent. `false`: it refuses.
    fn answer(&self, peer: SocketAddr, session: &Session, cluster: &WorkerCluster) -> bool {
        let stats: &ListenerStats = &self.slot.stats;
        let mut buffer = self.buffer.borrow_mut();
        for _ in 0..BURST {
            let length = match session.upstream.try_recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) => {
                    cluster.stats.sess_rx_errors.inc();
                    return e.kind() != io::ErrorKind::ConnectionRefused;
                }
            };
            cluster.stats.sess_rx_datagrams.inc();
            cluster.stats.upstream_cx_rx_bytes_total.add(length as u64);
            session.last.set(self.context.worker.now());
            match self.socket.try_send_to(&buffer[..length], peer) {
                Ok(_) => {
                    session.sent.set(session.sent.get() + length as u64);
                    stats.udp_downstream_sess_tx_datagrams.inc();
                    stats.udp_downstream_sess_tx_bytes.add(length as u64);
                }
                Err(_) => stats.udp_downstream_sess_tx_errors.inc(),
            }
        }
        true
    }
}

/// Serves a session to its end.
async fn serve(
    receiver: Rc<Receiver>,
    chain: Arc<ChainRt>,
    conn: ConnInfo,
    session: Rc<Session>,
    cluster: Rc<WorkerCluster>,
    link: ConnStats,
    guard: Guard,
) {
    let Some(proxy) = &chain.udp else { return };
    let worker = &receiver.context.worker;
    let start = worker.now();
    let facts = link.facts.get();
    let mut info = Info {
        start,
        wall_start: worker.wall(start),
        attempts: 1,
        upstream_host: Some(session.host.text.clone()),
        upstream_cluster: Some(cluster.text.clone()),
        upstream_connection_id: facts.id,
        upstream_local_address: session.upstream.local_addr().ok(),
        ..Info::default()
    };
    let drain = conn.drain.watch();
    let idle = if proxy.idle_timeout.is_zero() { u64::MAX } else { nanos(proxy.idle_timeout) };
    loop {
        let left = session.last.get().saturating_add(idle).saturating_sub(worker.now());
        tokio::select! {
            readable = session.upstream.readable() => {
                if readable.is_err() || !receiver.answer(conn.peer, &session, &cluster) {
                    receiver.refused(conn.peer, &session, &cluster);
                    info.set_flag(Flags::UPSTREAM_CONNECTION_TERMINATION);
                    break;
                }
                tokio::task::yield_now().await;
            }
            () = session.ended.notified() => break,
            // Nobody can tell a client that it is to go: it is served until then.
            () = drain.reached(Phase::Closing) => break,
            () = tokio::time::sleep(Duration::from_nanos(left)) => {
                if worker.now() >= session.last.get().saturating_add(idle) {
                    receiver.slot.stats.udp_idle_timeout.inc();
                    info.set_flag(Flags::STREAM_IDLE_TIMEOUT);
                    break;
                }
            }
        }
    }
    receiver.forget(conn.peer, &session);
    info.end = worker.now();
    (info.bytes_received, info.bytes_sent) = (session.received.get(), session.sent.get());
    (info.upstream_bytes_sent, info.upstream_bytes_received) = (session.received.get(), session.sent.get());
    let record = Record { request: None, response: None, trailers: None, info: &info, conn: &conn, route_name: "" };
    let mut logs = worker.logs.borrow_mut();
    proxy.access_logs.iter().for_each(|log| logs.write(log, &record));
    drop(guard);
}
