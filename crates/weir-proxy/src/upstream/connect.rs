//! Getting a connection to a host: an idle one, room on a shared one, or a new one, within the circuit breakers.
use super::{
    Host, WorkerCluster,
    h2::{Multiplexed, Use},
    host::Idle,
};
use crate::{
    breaker::{Permit, Resource},
    worker::Worker,
};
use bytes::Bytes;
use h2::client::SendRequest;
use std::{io, rc::Rc, time::Duration};
use tokio::net::{TcpSocket, TcpStream};
use weir_config::model::UpstreamProtocol;
use weir_net::{
    http::{relay::Peer, wire::Wire},
    io::Io,
    tls::Alpn,
};

/// While all connections are busy, others are looked for this often (those of other workers say nothing when they free one).
const RECHECK: Duration = Duration::from_millis(5);

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
    H2 { send: SendRequest<Bytes>, shared: Rc<Multiplexed>, place: Use },
}

/// An HTTP/1 connection of one request.
pub struct Owned {
    pub wire: Wire,
    requests: u32,
    name: Option<Box<str>>,
    permit: Rc<Permit>,
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
}

impl Checkout<'_> {
    /// The connection, and whether it was used before.
    pub async fn get(&self, w: &Worker) -> Result<(Conn, bool), Failure> {
        let name = self.name();
        if let Some(found) = self.reuse(w, name) {
            return Ok((found, true));
        }
        let config = &self.cluster.rt.config;
        let limits = &config.circuit_breakers;
        let _pending = self.cluster.rt.breakers.take(Resource::Pending, limits).ok_or(Failure::Overflow)?;
        // In a box: connecting is rare, and its state would make every task larger.
        match tokio::time::timeout(config.connect_timeout, Box::pin(self.make(w, name))).await {
            Ok(made) => made.map(|c| (c, false)),
            Err(_) => Err(Failure::Timeout),
        }
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
                let (send, place) = shared.stream(w.now());
                return Some(Conn::H2 { send, shared: shared.clone(), place });
            }
        }
        if self.protocol != Protocol::Http2 {
            let Idle { wire, requests, name, permit, .. } = self.host.reuse(name)?;
            return Some(Conn::H1(Owned { wire, requests, name, permit }));
        }
        None
    }

    async fn make(&self, w: &Worker, name: Option<&str>) -> Result<Conn, Failure> {
        let (rt, config) = (&self.cluster.rt, &self.cluster.rt.config);
        let permit = loop {
            if let Some(p) = rt.breakers.take(Resource::Connections, &config.circuit_breakers) {
                break Rc::new(p);
            }
            let _ = tokio::time::timeout(RECHECK, self.cluster.freed.notified()).await;
            if let Some(found) = self.reuse(w, name) {
                return Ok(found);
            }
        };
        let io = self.dial().await.map_err(Failure::Connect)?;
        let io = match &rt.tls {
            None => Io::Plain(io),
            Some(tls) => {
                let alpn = match self.protocol {
                    Protocol::Http1 => Alpn::Http1,
                    Protocol::Http2 => Alpn::Http2,
                    Protocol::Auto => Alpn::Auto,
                };
                Io::tls(tls.connect(io, self.server_name, alpn).await.map_err(Failure::Connect)?)
            }
        };
        let name = name.map(Box::from);
        let two = self.protocol == Protocol::Http2 || self.protocol == Protocol::Auto && io.alpn() == Some(b"h2");
        if !two {
            return Ok(Conn::H1(Owned { wire: Wire::new(io), requests: 0, name, permit }));
        }
        let shared = Multiplexed::start(io, config.max_requests_per_connection, name, permit).await.map_err(Failure::Connect)?;
        self.host.multiplexed.borrow_mut().push(shared.clone());
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
        socket.connect(address).await
    }
}

impl Conn {
    pub fn is_h2(&self) -> bool {
        matches!(self, Conn::H2 { .. })
    }
}

impl Owned {
    /// The connection as one end of an exchange, and what puts it back.
    pub fn into_peer(self) -> (Peer, Ticket) {
        (Peer::H1(self.wire), Ticket { requests: self.requests, name: self.name, permit: self.permit })
    }
}

/// What an HTTP/1 connection needs to be idle again.
pub struct Ticket {
    requests: u32,
    name: Option<Box<str>>,
    permit: Rc<Permit>,
}

impl Ticket {
    /// Keeps the connection for the next request, unless it has served as many as it may.
    pub fn put_back(self, cluster: &WorkerCluster, host: &Host, wire: Wire, now: u64) {
        let max = cluster.rt.config.max_requests_per_connection;
        let requests = self.requests + 1;
        if max == 0 || requests < max {
            host.put_back(Idle { wire, since: now, requests, name: self.name, permit: self.permit });
        }
        cluster.freed.notify_one();
    }
}
