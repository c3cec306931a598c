//! Getting a connection to a host: an idle one, room on a shared one, or a new one, within the circuit breakers.
use super::{
    Host, WorkerCluster,
    h2::{Multiplexed, StreamPermit},
    host::Idle,
    link::{ConnStats, Facts, UpstreamTls},
};
use crate::{
    breaker::{Full, Place, Resource},
    stats::ClusterStats,
    worker::Worker,
};
use bytes::Bytes;
use h2::client::SendRequest;
use std::{io, net::SocketAddr, rc::Rc, time::Duration};
use tokio::net::{TcpSocket, TcpStream};
use weir_config::model::{ProxyProtocolVersion, UpstreamProtocol};
use weir_net::{
    descriptors,
    http::{relay::Peer, wire::Wire},
    io::Io,
    proxy_protocol,
    tls::{self, Alpn, Refusal},
};

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

/// Why there is no connection.
#[derive(Debug)]
pub enum Failure {
    /// A circuit breaker is at its limit.
    Overflow,
    Timeout,
    Connect(io::Error),
}

impl Failure {
    pub fn text(&self) -> String {
        match self {
            Failure::Overflow => "overflow".into(),
            Failure::Timeout => "connection timeout".into(),
            Failure::Connect(e) => e.to_string(),
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

impl Checkout<'_> {
    /// A connection that is there already.
    pub fn ready(&self, w: &Worker) -> Option<Conn> {
        self.reuse(w, self.name())
    }

    /// A new connection, or one that another request has given back meanwhile, and whether it was used before.
    pub async fn get(&self, w: &Worker) -> Result<(Conn, bool), Failure> {
        let (name, stats) = (self.name(), &*self.cluster.stats);
        let limits = &self.cluster.rt.config.circuit_breakers;
        let _place = self.cluster.rt.breakers.take(Resource::Pending, limits).ok_or(Failure::Overflow)?;
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

    fn reuse(&self, w: &Worker, name: Option<&str>) -> Option<Conn> {
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

    async fn make(&self, w: &Worker, name: Option<&str>) -> Result<(Conn, bool), Failure> {
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(_) => match self.wait(w, name).await? {
                Waited::Place(permit) => permit,
                Waited::Found(conn) => return Ok((conn, true)),
            },
        };
        let stats = &self.cluster.stats;
        let link = ConnStats::new(stats, permit, w.now());
        let begun = tokio::time::timeout(self.cluster.rt.config.connect_timeout, self.connect(w, name, link)).await;
        match begun {
            Ok(Ok(conn)) => Ok((conn, false)),
            Ok(Err(e)) if descriptors::is_exhausted(&e) => {
                stats.upstream_cx_overflow.inc();
                Err(Failure::Overflow)
            }
            Ok(Err(e)) => {
                stats.upstream_cx_connect_fail.inc();
                Err(Failure::Connect(e))
            }
            Err(_) => {
                stats.upstream_cx_connect_fail.inc();
                stats.upstream_cx_connect_timeout.inc();
                Err(Failure::Timeout)
            }
        }
    }

    fn permit(&self) -> Result<Place, Full> {
        self.cluster.rt.breakers.connect(&self.cluster.rt.config.circuit_breakers)
    }

    /// All connections that the cluster may have are there: waits for one to be given back here, or closed anywhere. Idle
    /// ones elsewhere (to other hosts, of other workers, of other clusters) make room. When the whole process
    /// has none left, the wait is short.
    async fn wait(&self, w: &Worker, name: Option<&str>) -> Result<Waited, Failure> {
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
                        () = shed.as_mut() => return self.permit().map(Waited::Place).map_err(|_| Failure::Overflow),
                    }
                }
            }
            if let Some(found) = self.reuse(w, name) {
                return Ok(Waited::Found(found));
            }
        }
    }

    async fn connect(&self, w: &Worker, name: Option<&str>, link: ConnStats) -> io::Result<Conn> {
        let (rt, stats) = (&self.cluster.rt, &self.cluster.stats);
        let io = self.dial().await?;
        let mut facts = Facts { local: io.local_addr().ok(), connect_end: w.now(), ..link.facts.get() };
        let io = match &rt.tls {
            None => Io::Plain(io),
            Some(tls) => {
                let alpn = match self.protocol {
                    Protocol::Http1 => Alpn::Http1,
                    Protocol::Http2 => Alpn::Http2,
                    Protocol::Auto => Alpn::Auto,
                };
                let shaken = tls.connect(io, self.server_name, alpn).await;
                let io = shaken.inspect_err(|e| {
                    let counter = match tls::refusal(e) {
                        Some(Refusal::Name) => &stats.ssl_fail_verify_san,
                        Some(_) => &stats.ssl_fail_verify_error,
                        None => &stats.ssl_connection_error,
                    };
                    counter.inc();
                })?;
                facts.handshake_end = w.now();
                stats.ssl_handshake.inc();
                if io.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                    stats.ssl_session_reused.inc();
                }
                let _ = link.tls.set(Rc::new(UpstreamTls::of(io.get_ref().1)));
                Io::tls(io)
            }
        };
        stats.upstream_cx_connect_ms.record(facts.connect_end.max(facts.handshake_end) - facts.connect_start);
        link.facts.set(facts);
        let (name, link) = (name.map(Box::from), Rc::new(link));
        let two = self.protocol == Protocol::Http2 || self.protocol == Protocol::Auto && io.alpn() == Some(b"h2");
        if !two {
            stats.upstream_cx_http1_total.inc();
            return Ok(Conn::H1(Owned { wire: Wire::new(io), requests: 0, name, link }));
        }
        stats.upstream_cx_http2_total.inc();
        let shared = Multiplexed::start(io, &rt.config, name, link, self.cluster.freed.clone()).await?;
        self.host.multiplexed.borrow_mut().push(shared.clone());
        // It has room for all who wait.
        self.cluster.freed.notify_waiters();
        let (send, place) = shared.stream(w.now());
        Ok(Conn::H2 { send, shared, place })
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let address = self.host.endpoint.address;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        if let Some(k) = &self.cluster.rt.config.tcp_keepalive {
            let keepalive = socket2::TcpKeepalive::new().with_time(k.time).with_interval(k.interval).with_retries(k.probes);
            socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        }
        let io = socket.connect(address).await?;
        if let Some(version) = self.cluster.rt.config.proxy_protocol {
            send_header(&io, version, self.client).await?;
        }
        Ok(io)
    }
}

/// Begins a connection with a PROXY protocol header; without a client it is the gateway's own.
pub(crate) async fn send_header(io: &TcpStream, version: ProxyProtocolVersion, client: Option<(SocketAddr, SocketAddr)>) -> io::Result<()> {
    let header = match version {
        ProxyProtocolVersion::V1 => proxy_protocol::header_v1(client),
        ProxyProtocolVersion::V2 => proxy_protocol::header_v2(client),
    };
    let mut left = &header[..];
    while !left.is_empty() {
        io.writable().await?;
        match io.try_write(left) {
            Ok(n) => left = &left[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
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
    /// The connection as one end of an exchange, and what puts it back.
    pub fn into_peer(self) -> (Peer, Ticket) {
        self.link.begin_request();
        (Peer::H1(self.wire), Ticket { requests: self.requests, name: self.name, link: self.link })
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
