//! Connections to Redis: of the workers, and of the check when a plugin is loaded.
use super::{RedisError, To};
use crate::{
    breaker::{Breakers, Place},
    cluster::{ClusterRt, ClusterSlot, Unresolved},
    plugin::{embedded::Embedded, upstream::Upstream},
    upstream::{
        UpstreamError, WorkerCluster,
        byte_stream::{Connect, Pick},
        dial::Dial,
        direct::{self, DirectClusters},
    },
    worker::Worker,
};
use std::{
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::timeout;
use weir_net::{
    dial::GuardedResolver,
    io::Io,
    redis::{self, Dialing, Duplex, Kind, Options, Sentinel, Target},
    tls::Alpn,
};

/// Endpoints that are tried for one connection.
const MAX_ATTEMPTS: u32 = 3;

/// The way of one client to its servers.
#[derive(Clone)]
pub(super) struct Route(Rc<Parts>);

struct Parts {
    worker: Weak<Worker>,
    directs: Rc<DirectClusters>,
    to: To,
    options: Options,
    /// Which of several servers is asked first: the one that answered last.
    first: AtomicUsize,
}

impl Route {
    pub fn new(worker: Weak<Worker>, directs: Rc<DirectClusters>, to: To, options: Options) -> Route {
        Route(Rc::new(Parts { worker, directs, to, options, first: AtomicUsize::new(0) }))
    }

    /// A connection to the client's own server, or to the `host:port` of a redirect; an empty host there is the first one.
    pub fn dial(&self, redirect: Option<&str>) -> Dialing {
        let (parts, redirect) = (self.0.clone(), redirect.map(str::to_string));
        Box::pin(async move {
            let worker = parts.worker.upgrade().ok_or_else(|| io::Error::other("the worker has ended"))?;
            let redirect = redirect.as_deref().and_then(authority);
            match &parts.to {
                To::Embedded(instance) => Ok(Box::new(worker.shared.plugins.embedded().connect(instance)?) as Box<dyn Duplex>),
                To::Network(Upstream::Direct(target)) => match redirect {
                    Some((host, port)) => {
                        let host = if host.is_empty() { &target.host } else { host };
                        direct(&worker, &parts.directs, target, host, port).await
                    }
                    None => any_of(target, &parts.options, &parts.first, &OfWorker { worker, parts: &parts, target }).await,
                },
                To::Network(Upstream::Wildcard { slot, host, port }) => {
                    known(&worker, slot, Some((host, *port)), redirect).await.map_err(io::Error::other)
                }
                To::Network(Upstream::Cluster(slot)) => known(&worker, slot, None, redirect).await.map_err(io::Error::other),
            }
        })
    }
}

/// How connections to hosts outside of the configuration are opened.
trait Opens {
    type Io: Duplex;
    fn open(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Self::Io>>;
}

struct OfWorker<'a> {
    worker: Rc<Worker>,
    parts: &'a Parts,
    target: &'a Target,
}

impl Opens for OfWorker<'_> {
    type Io = Box<dyn Duplex>;
    async fn open(&self, host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
        direct(&self.worker, &self.parts.directs, self.target, host, port).await
    }
}

struct OfCheck<'a> {
    resolver: &'a GuardedResolver,
    rt: Arc<ClusterRt>,
}

impl Opens for OfCheck<'_> {
    type Io = Io;
    async fn open(&self, host: &str, port: u16) -> io::Result<Io> {
        named(self.resolver, &self.rt, host, port).await.map(|(io, _place)| io)
    }
}

/// Tries the servers of a target, beginning with the one that answered last, each for its share of the time. With Sentinels, the
/// connection is to the master that one of them names.
async fn any_of<O: Opens>(target: &Target, options: &Options, first: &AtomicUsize, opens: &O) -> io::Result<O::Io> {
    let servers: Vec<_> = target.servers().collect();
    let share = options.timeout / u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let mut last = io::Error::other("there is no server");
    for n in 0..servers.len() {
        let at = (first.load(Relaxed) + n) % servers.len();
        let (host, port) = servers[at];
        let tried = async {
            let io = opens.open(host, port).await?;
            match &target.kind {
                Kind::Sentinel(sentinel) => master(io, sentinel, options, opens).await,
                Kind::Server | Kind::Cluster => Ok(io),
            }
        };
        match timeout(share, tried).await {
            Ok(Ok(io)) => {
                first.store(at, Relaxed);
                return Ok(io);
            }
            Ok(Err(e)) if servers.len() == 1 => return Err(e),
            Ok(Err(e)) => last = io::Error::new(e.kind(), format!("{host}:{port}: {e}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{host}:{port}: no connection within {share:?}")),
        }
    }
    Err(last)
}

async fn master<O: Opens>(io: O::Io, sentinel: &Sentinel, options: &Options, opens: &O) -> io::Result<O::Io> {
    let (host, port) = redis::master_of(io, sentinel).await.map_err(io::Error::other)?;
    let mut io = opens.open(&host, port).await?;
    redis::is_master(&mut io, options).await.map_err(io::Error::other)?;
    Ok(io)
}

/// To a host that the configuration does not know.
async fn direct(w: &Rc<Worker>, directs: &DirectClusters, target: &Target, host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
    let cluster = directs.cluster(&w.clusters, host, port, target.tls).map_err(io::Error::other)?;
    through(w, &cluster, Pick::Named { host, port }, Some(host)).await.map_err(io::Error::other)
}

/// To a cluster of the configuration: one of its endpoints, or a host under its wildcard.
async fn known(
    w: &Rc<Worker>,
    slot: &Arc<ClusterSlot>,
    named: Option<(&str, u16)>,
    redirect: Option<(&str, u16)>,
) -> Result<Box<dyn Duplex>, UpstreamError> {
    let cluster = w.clusters.cluster(slot).ok_or_else(|| UpstreamError::NoCluster(slot.name.clone()))?;
    let (host, port) = match (redirect, named) {
        (Some((host, port)), _) if !host.is_empty() => (Some(host.to_string()), port),
        (Some((_, port)), None) => (Some(cluster.choose(None, &[])?.endpoint.address.ip().to_string()), port),
        (redirect, named) => (named.map(|(host, _)| host.to_string()), redirect.or(named).map_or(0, |(_, port)| port)),
    };
    let pick = match &host {
        Some(host) => Pick::Named { host, port },
        None => Pick::Balanced { hash: None },
    };
    through(w, &cluster, pick, host.as_deref()).await
}

async fn through(
    w: &Rc<Worker>,
    cluster: &Rc<WorkerCluster>,
    pick: Pick<'_>,
    server_name: Option<&str>,
) -> Result<Box<dyn Duplex>, UpstreamError> {
    let connect = Connect { cluster, pick, server_name, client: None, max_attempts: MAX_ATTEMPTS };
    connect.open(&w.clusters).await.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(|failed| failed.error)
}

/// Host, without brackets, and port.
fn authority(redirect: &str) -> Option<(&str, u16)> {
    let (host, port) = redirect.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// The check at load time, off the workers: can it be reached, does it know us?
pub(in crate::plugin) async fn check(
    resolver: &GuardedResolver,
    embedded: &Embedded,
    to: &To,
    options: &Options,
) -> Result<(), RedisError> {
    let to = match to {
        To::Network(to) => to,
        To::Embedded(instance) => return Ok(redis::check(embedded.connect(instance).map_err(RedisError::Connect)?, options).await?),
    };
    let opened = timeout(options.timeout, check_connection(resolver, to, options)).await;
    let (io, _place) = opened.map_err(|_| RedisError::Late(options.timeout))?.map_err(RedisError::Connect)?;
    Ok(redis::check(io, options).await?)
}

async fn check_connection(resolver: &GuardedResolver, to: &Upstream, options: &Options) -> io::Result<(Io, Place)> {
    let of_slot = |slot: &ClusterSlot| slot.current().ok_or_else(|| io::Error::other(UpstreamError::NoCluster(slot.name.clone())));
    match to {
        Upstream::Direct(target) => {
            let rt = Arc::new(direct::cluster(target.tls, Breakers::default()).map_err(io::Error::other)?);
            let place = rt.breakers.connect(&rt.config.circuit_breakers).map_err(|_| io::Error::other(UpstreamError::Overflow))?;
            Ok((any_of(target, options, &AtomicUsize::new(0), &OfCheck { resolver, rt }).await?, place))
        }
        Upstream::Wildcard { slot, host, port } => named(resolver, &of_slot(slot)?, host, *port).await,
        Upstream::Cluster(slot) => {
            let rt = of_slot(slot)?;
            let set = rt.endpoints.load();
            let usable = set.endpoints.iter().find(|e| e.accepts_requests() && e.outlier.is_usable());
            let chosen = usable.ok_or_else(|| io::Error::other(UpstreamError::NoHealthyUpstream(rt.config.name.clone())))?;
            let name = chosen.hostname().map_or_else(|| chosen.address.ip().to_string(), str::to_string);
            opened(&rt, chosen.address, &name).await
        }
    }
}

async fn named(resolver: &GuardedResolver, rt: &Arc<ClusterRt>, host: &str, port: u16) -> io::Result<(Io, Place)> {
    let answer = resolver.lookup(host).await.map_err(|e| io::Error::other(UpstreamError::from(Unresolved::from(e))))?;
    opened(rt, SocketAddr::new(answer.addresses[0], port), host).await
}

async fn opened(rt: &Arc<ClusterRt>, address: SocketAddr, server_name: &str) -> io::Result<(Io, Place)> {
    let dial = Dial { rt, address, server_name, alpn: Alpn::None, client: None };
    dial.open_uncounted().await.map_err(io::Error::other)
}
