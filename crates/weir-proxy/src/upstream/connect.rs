//! Getting a connection to a host for one HTTP request: an idle one, room on a shared one, or a new one, within the circuit breakers.
use super::{
    Host, UpstreamError, WorkerCluster,
    clusters::WorkerClusters,
    dial::Dial,
    h2::{Multiplexed, StreamPermit},
    host::Idle,
    link::{ConnStats, Facts},
};
use crate::{
    breaker::{Full, Place, Resource},
    conn::UpstreamTls,
    stats::ClusterStats,
};
use bytes::Bytes;
use h2::client::SendRequest;
use std::{net::SocketAddr, rc::Rc, time::Duration};
use weir_config::model::UpstreamProtocol;
use weir_net::{http::wire::Wire, tls::Alpn};

/// How long a request waits for a connection when the process has none left.
const WAIT_FOR_PROCESS: Duration = Duration::from_millis(250);

/// What to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// Whatever ALPN agrees on.
    Auto,
}

impl Protocol {
    pub fn of(cluster: &WorkerCluster, downstream_h2: bool) -> Protocol {
        match cluster.rt.config.protocol {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::Http2 => Protocol::Http2,
            UpstreamProtocol::Auto if cluster.rt.tls.is_some() => Protocol::Auto,
            UpstreamProtocol::Auto => Protocol::Http1,
            UpstreamProtocol::UseDownstream if downstream_h2 => Protocol::Http2,
            UpstreamProtocol::UseDownstream => Protocol::Http1,
        }
    }
}

/// A connection that one request has for itself, or its place on a shared one.
pub enum Conn {
    H1(Owned),
    H2 { send: SendRequest<Bytes>, shared: Rc<Multiplexed>, place: StreamPermit },
}

/// An HTTP/1 connection of one request.
pub struct Owned {
    pub wire: Wire,
    requests: u32,
    name: Option<Box<str>>,
    link: Rc<ConnStats>,
}

/// What is asked for.
pub struct Checkout<'a> {
    pub cluster: &'a Rc<WorkerCluster>,
    pub host: &'a Rc<Host>,
    pub protocol: Protocol,
    /// The request's host without a port, for TLS without a name of its own.
    pub server_name: &'a str,
    /// Do not take an idle one.
    pub fresh: bool,
    /// The client's address and the one that it connected to, for upstreams that are told by the PROXY protocol.
    pub client: Option<(SocketAddr, SocketAddr)>,
}

/// A request that waits for a connection: counted while it does.
struct Pending<'a> {
    stats: &'a ClusterStats,
    done: bool,
}

impl<'a> Pending<'a> {
    fn new(stats: &'a ClusterStats) -> Pending<'a> {
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Pending { stats, done: false }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.stats.upstream_rq_pending_active.dec();
        if !self.done {
            self.stats.upstream_rq_cancelled.inc();
        }
    }
}

impl WorkerCluster {
    /// The endpoint that a client, a plugin or a server names, in place of one of the cluster's.
    ///
    /// # Errors
    /// Its name leads nowhere, or to an address that it must not lead to.
    pub async fn named_host(&self, w: &WorkerClusters, host: &str, port: u16) -> Result<Rc<Host>, UpstreamError> {
        Ok(self.named(w.shared.forward.endpoint(host, port).await?))
    }

    /// The place of a connection that no request can wait for. Where the process has none left, idle ones of this worker are closed.
    ///
    /// # Errors
    /// [`UpstreamError::Overflow`].
    pub async fn place(&self, w: &WorkerClusters) -> Result<Place, UpstreamError> {
        loop {
            match self.rt.breakers.connect(&self.rt.config.circuit_breakers) {
                Ok(place) => return Ok(place),
                // A connection of HTTP/2 is closed by its own task.
                Err(Full::Process) if w.close_idle() => tokio::task::yield_now().await,
                Err(full) => return Err(self.overflow(w, full)),
            }
        }
    }

    /// As [`WorkerCluster::place`], but nothing is closed for it.
    ///
    /// # Errors
    /// [`UpstreamError::Overflow`].
    pub fn place_now(&self, w: &WorkerClusters) -> Result<Place, UpstreamError> {
        self.rt.breakers.connect(&self.rt.config.circuit_breakers).map_err(|full| self.overflow(w, full))
    }

    fn overflow(&self, w: &WorkerClusters, full: Full) -> UpstreamError {
        if full == Full::Process {
            w.shared.upstreams.overflow.inc();
        }
        self.stats.upstream_cx_overflow.inc();
        UpstreamError::Overflow
    }
}

impl Checkout<'_> {
    /// A connection that is there already.
    pub fn ready(&self, w: &WorkerClusters) -> Option<Conn> {
        self.reuse(w, self.name())
    }

    /// A new connection, or one that another request has given back meanwhile, and whether it was used before.
    pub async fn get(&self, w: &WorkerClusters) -> Result<(Conn, bool), UpstreamError> {
        let (name, stats) = (self.name(), &*self.cluster.stats);
        let limits = &self.cluster.rt.config.circuit_breakers;
        let _place = self.cluster.rt.breakers.take(Resource::Pending, limits).ok_or(UpstreamError::Overflow)?;
        let mut pending = Pending::new(stats);
        // In a box: connecting is rare, and its state would make every task larger.
        let made = Box::pin(self.make(w, name)).await;
        pending.done = true;
        if made.is_err() {
            stats.upstream_rq_pending_failure_eject.inc();
        }
        made
    }

    /// The name that connections are kept apart by.
    fn name(&self) -> Option<&str> {
        let tls = self.cluster.rt.tls.as_ref()?;
        tls.server_name().is_none().then_some(self.server_name)
    }

    fn reuse(&self, w: &WorkerClusters, name: Option<&str>) -> Option<Conn> {
        if self.fresh {
            return None;
        }
        if self.protocol != Protocol::Http1 {
            let list = self.host.multiplexed.borrow();
            if let Some(shared) = list.iter().find(|m| m.has_room() && m.name.as_deref() == name) {
                let (send, place) = shared.stream(w.moment());
                return Some(Conn::H2 { send, shared: shared.clone(), place });
            }
        }
        if self.protocol != Protocol::Http2 {
            let Idle { wire, requests, name, link, .. } = self.host.reuse(name)?;
            return Some(Conn::H1(Owned { wire, requests, name, link }));
        }
        None
    }

    async fn make(&self, w: &WorkerClusters, name: Option<&str>) -> Result<(Conn, bool), UpstreamError> {
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(_) => match self.wait(w, name).await? {
                Waited::Place(permit) => permit,
                Waited::Found(conn) => return Ok((conn, true)),
            },
        };
        let cluster = self.cluster;
        let alpn = match self.protocol {
            Protocol::Http1 => Alpn::Http1,
            Protocol::Http2 => Alpn::Http2,
            Protocol::Auto => Alpn::Auto,
        };
        let (rt, address) = (&*cluster.rt, self.host.endpoint.address);
        let dial = Dial { rt, address, server_name: self.server_name, alpn, client: self.client };
        let (io, link) = dial.open(w, &cluster.stats, permit).await?;
        let (name, link) = (name.map(Box::from), Rc::new(link));
        let two = self.protocol == Protocol::Http2 || self.protocol == Protocol::Auto && io.alpn() == Some(b"h2");
        if !two {
            cluster.stats.upstream_cx_http1_total.inc();
            return Ok((Conn::H1(Owned { wire: Wire::new(io), requests: 0, name, link }), false));
        }
        cluster.stats.upstream_cx_http2_total.inc();
        let shared = Multiplexed::start(io, &rt.config, name, link, cluster.freed.clone()).await;
        let shared = shared.map_err(UpstreamError::Connect).inspect_err(|_| cluster.stats.upstream_cx_connect_fail.inc())?;
        self.host.multiplexed.borrow_mut().push(shared.clone());
        // It has room for all who wait.
        cluster.freed.notify_waiters();
        let (send, place) = shared.stream(w.now());
        Ok((Conn::H2 { send, shared, place }, false))
    }

    fn permit(&self) -> Result<Place, Full> {
        self.cluster.rt.breakers.connect(&self.cluster.rt.config.circuit_breakers)
    }

    /// All connections that the cluster may have are there: waits for one to be given back here, or closed anywhere. Idle
    /// ones elsewhere (to other hosts, of other workers, of other clusters) make room. When the whole process
    /// has none left, the wait is short.
    async fn wait(&self, w: &WorkerClusters, name: Option<&str>) -> Result<Waited, UpstreamError> {
        let cluster = self.cluster;
        let mut shed = None;
        cluster.stats.upstream_cx_overflow.inc();
        let remote = cluster.rt.breakers.wait();
        let local = cluster.begin_wait();
        let process = w.shared.upstreams.wait();
        loop {
            let freed = process.freed();
            match self.permit() {
                Ok(permit) => return Ok(Waited::Place(permit)),
                Err(Full::Cluster) => {
                    if cluster.close_idle() {
                        continue;
                    }
                    w.shared.release_connection(cluster.slot, w.index);
                    tokio::select! {
                        () = local.freed() => {}
                        () = remote.freed() => {}
                    }
                }
                Err(Full::Process) => {
                    if cluster.close_idle() || w.close_idle() {
                        // An HTTP/2 connection is closed by its own task.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    w.shared.release_any_connection(w.index);
                    let shed = shed.get_or_insert_with(|| {
                        w.shared.upstreams.overflow.inc();
                        Box::pin(tokio::time::sleep(WAIT_FOR_PROCESS))
                    });
                    tokio::select! {
                        () = local.freed() => {}
                        () = freed => {}
                        () = shed.as_mut() => return self.permit().map(Waited::Place).map_err(|_| UpstreamError::Overflow),
                    }
                }
            }
            if let Some(found) = self.reuse(w, name) {
                return Ok(Waited::Found(found));
            }
        }
    }
}

/// What a wait for a place came to.
enum Waited {
    Place(Place),
    Found(Conn),
}

impl Conn {
    pub fn is_h2(&self) -> bool {
        matches!(self, Conn::H2 { .. })
    }
    pub fn facts(&self) -> Facts {
        match self {
            Conn::H1(owned) => owned.link.facts.get(),
            Conn::H2 { shared, .. } => shared.facts,
        }
    }
    pub fn tls(&self) -> Option<Rc<UpstreamTls>> {
        match self {
            Conn::H1(owned) => owned.link.tls.get().cloned(),
            Conn::H2 { shared, .. } => shared.tls.clone(),
        }
    }
}

impl Owned {
    /// The connection for one request, and what puts it back.
    pub fn into_wire(self) -> (Wire, Ticket) {
        self.link.begin_request();
        (self.wire, Ticket { requests: self.requests, name: self.name, link: self.link })
    }
}

/// What an HTTP/1 connection needs to be idle again. Without [`Ticket::put_back`] or [`Ticket::close`] it counts as one
/// that ended in the middle of a request.
pub struct Ticket {
    requests: u32,
    name: Option<Box<str>>,
    link: Rc<ConnStats>,
}

impl Ticket {
    /// Keeps the connection for the next request, unless it has served as many as it may or another worker waits for it.
    pub fn put_back(self, cluster: &WorkerCluster, host: &Host, wire: Wire, now: u64) {
        self.link.end_request();
        let max = cluster.rt.config.requests_per_connection();
        let requests = self.requests + 1;
        if max > 0 && requests >= max {
            cluster.stats.upstream_cx_max_requests.inc();
        } else if !cluster.rt.breakers.is_waited_for() || cluster.is_waited_for() {
            host.put_back(Idle { wire, since: now, requests, name: self.name, link: self.link });
        }
        cluster.freed.notify_one();
    }

    /// The answer was whole, and the connection is not to be used again; `told`: the upstream has said so.
    pub fn close(self, cluster: &WorkerCluster, told: bool) {
        self.link.end_request();
        if told {
            cluster.stats.upstream_cx_close_notify.inc();
        }
    }

    /// The upstream has closed the connection.
    pub fn closed_by_peer(&self) {
        self.link.closed_by_peer();
    }
}
