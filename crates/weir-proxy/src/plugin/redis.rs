//! Redis for plugins: from the name in `redis_init` to a connection, and the clients of one worker.
use super::{
    embedded::{Embedded, Instance},
    upstream::{self, NoUpstream, Own, Speaks, Upstream},
};
use crate::{
    breaker::{Breakers, Place},
    cluster::{ClusterRegistry, ClusterRt, ClusterSlot, Unresolved},
    upstream::{
        UpstreamError, WorkerCluster,
        byte_stream::{Connect, Pick},
        dial::Dial,
        direct::{self, DirectClusters},
    },
    worker::Worker,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;
use weir_net::{
    dial::GuardedResolver,
    redis::{self, CheckError, Client, Dialing, Duplex, Options, Query, Target},
    tls::Alpn,
};
use weir_wasm::RedisInit;

/// Endpoints that are tried for one connection.
const MAX_ATTEMPTS: u32 = 3;

/// Why a `redis_init` is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error(transparent)]
    Upstream(#[from] NoUpstream),
    #[error("`db={0}` is no number")]
    Database(String),
}

/// Why a server does not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedisError {
    #[error(transparent)]
    Init(InitError),
    #[error("no connection within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Connect(UpstreamError),
    #[error(transparent)]
    Embedded(io::Error),
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Where commands go.
#[derive(Clone)]
pub(super) enum To {
    Network(Upstream),
    Embedded(Instance),
}

/// The server and the options that an init means. What the call says goes before what a URL says.
pub(super) fn resolve(init: &RedisInit<'_>, own: &Own, clusters: &ClusterRegistry) -> Result<(To, Options), InitError> {
    let (name, query) = split(init.cluster);
    let to = match own.embedded(name) {
        Some(instance) => To::Embedded(instance),
        None => To::Network(upstream::resolve(name, Speaks::Redis, own, clusters)?),
    };
    let mut options = Options { user: init.user.into(), password: init.password.into(), ..Options::default() };
    if !init.timeout.is_zero() {
        options.timeout = init.timeout;
    }
    let number = |db: &str| db.parse().map_err(|_| InitError::Database(db.into()));
    let asked = query.split('&').find_map(|p| p.strip_prefix("db=")).map(number);
    options.database = asked.transpose()?.unwrap_or_default();
    if let To::Network(Upstream::Direct(target)) = &to {
        if options.password.is_empty() {
            (options.user, options.password) = (target.user.clone(), target.password.clone());
        }
        options.database = if options.database == 0 { target.database.unwrap_or(0) } else { options.database };
    }
    Ok((to, options))
}

/// A cluster argument without its query, and the query. A URL keeps its own.
fn split(cluster: &str) -> (&str, &str) {
    cluster.split_once('?').unwrap_or((cluster, ""))
}

/// The name that init and call agree on: some SDKs repeat the query in each call.
pub(super) fn key(cluster: &str) -> &str {
    split(cluster).0
}

/// Opens a connection to `to`, or to the `host:port` of a redirect; an empty host there is the first one.
async fn connect(
    w: &Rc<Worker>,
    directs: &DirectClusters,
    to: &Upstream,
    redirect: Option<&str>,
) -> Result<Box<dyn Duplex>, UpstreamError> {
    let redirect = redirect.and_then(authority);
    let (cluster, host, port) = match to {
        Upstream::Direct(target) => {
            let cluster = directs.cluster(&w.clusters, &target.host, target.port, target.tls)?;
            (cluster, Some(target.host.clone()), target.port)
        }
        Upstream::Wildcard { slot, host, port } => (of_slot(w, slot)?, Some(host.clone()), *port),
        Upstream::Cluster(slot) => (of_slot(w, slot)?, None, 0),
    };
    let (host, port) = match redirect {
        None => (host, port),
        Some((to, port)) if !to.is_empty() => (Some(to.to_string()), port),
        Some((_, port)) => match host {
            Some(host) => (Some(host), port),
            None => (Some(cluster.choose(None, &[])?.endpoint.address.ip().to_string()), port),
        },
    };
    let pick = match &host {
        Some(host) => Pick::Named { host, port },
        None => Pick::Balanced { hash: None },
    };
    let connect = Connect { cluster: &cluster, pick, server_name: host.as_deref(), client: None, max_attempts: MAX_ATTEMPTS };
    connect.open(&w.clusters).await.map(|stream| Box::new(stream) as Box<dyn Duplex>).map_err(|failed| failed.error)
}

fn of_slot(w: &Rc<Worker>, slot: &Arc<ClusterSlot>) -> Result<Rc<WorkerCluster>, UpstreamError> {
    w.clusters.cluster(slot).ok_or_else(|| UpstreamError::NoCluster(slot.name.clone()))
}

/// Host, without brackets, and port.
fn authority(redirect: &str) -> Option<(&str, u16)> {
    let (host, port) = redirect.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// The check at load time, off the workers: can it be reached, does it know us?
pub(super) async fn check(resolver: &GuardedResolver, embedded: &Embedded, to: &To, options: &Options) -> Result<(), RedisError> {
    let to = match to {
        To::Network(to) => to,
        To::Embedded(instance) => return Ok(redis::check(embedded.connect(instance).map_err(RedisError::Embedded)?, options).await?),
    };
    let opened = timeout(options.timeout, check_connection(resolver, to)).await;
    let (io, _place) = opened.map_err(|_| RedisError::Late(options.timeout))?.map_err(RedisError::Connect)?;
    Ok(redis::check(io, options).await?)
}

async fn check_connection(resolver: &GuardedResolver, to: &Upstream) -> Result<(weir_net::io::Io, Place), UpstreamError> {
    let of_slot = |slot: &ClusterSlot| slot.current().ok_or_else(|| UpstreamError::NoCluster(slot.name.clone()));
    let (rt, host, port): (Arc<ClusterRt>, Option<&str>, u16) = match to {
        Upstream::Cluster(slot) => (of_slot(slot)?, None, 0),
        Upstream::Wildcard { slot, host, port } => (of_slot(slot)?, Some(host), *port),
        Upstream::Direct(target) => (Arc::new(direct::cluster(target.tls, Breakers::default())?), Some(&target.host), target.port),
    };
    let (address, name) = match host {
        Some(host) => {
            let answer = resolver.lookup(host).await.map_err(|e| UpstreamError::from(Unresolved::from(e)))?;
            (SocketAddr::new(answer.addresses[0], port), host.to_string())
        }
        None => {
            let set = rt.endpoints.load();
            let usable = set.endpoints.iter().find(|e| e.accepts_requests() && e.outlier.is_usable());
            let chosen = usable.ok_or_else(|| UpstreamError::NoHealthyUpstream(rt.config.name.clone()))?;
            (chosen.address, chosen.hostname().map_or_else(|| chosen.address.ip().to_string(), str::to_string))
        }
    };
    Dial { rt: &rt, address, server_name: &name, alpn: Alpn::None, client: None }.open_uncounted().await
}

/// The clients of one worker: plugins with the same server and credentials share one.
pub(super) struct Pool {
    worker: Weak<Worker>,
    directs: Rc<DirectClusters>,
    clients: RefCell<HashMap<Key, Weak<Server>>>,
}

/// A server with its client.
pub(super) struct Server {
    client: Client,
    /// The cluster that describes it, as it was when the last command went out.
    cluster: Option<(Arc<ClusterSlot>, Cell<u64>)>,
}

impl Server {
    pub fn call(&self, query: Query, done: impl FnOnce(redis::Answer) + 'static) {
        if let Some((slot, seen)) = &self.cluster
            && seen.replace(slot.version()) != slot.version()
        {
            // Its endpoints may be others now.
            self.client.renew();
        }
        self.client.call(query, done);
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Cluster(u32, String, Options),
    Wildcard(u32, String, u16, Options),
    Direct(Target, Options),
    Embedded(Instance, Options),
}

impl Pool {
    pub fn new(worker: Weak<Worker>, directs: Rc<DirectClusters>) -> Pool {
        Pool { worker, directs, clients: RefCell::default() }
    }

    pub fn server(&self, to: To, options: Options) -> Rc<Server> {
        let key = match &to {
            To::Network(Upstream::Wildcard { slot, host, port }) => Key::Wildcard(slot.id, host.clone(), *port, options.clone()),
            To::Network(Upstream::Cluster(slot)) => Key::Cluster(slot.id, slot.name.to_string(), options.clone()),
            To::Network(Upstream::Direct(target)) => Key::Direct(target.clone(), options.clone()),
            To::Embedded(instance) => Key::Embedded(instance.clone(), options.clone()),
        };
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        clients.retain(|_, c| c.strong_count() > 0);
        let cluster = match &to {
            To::Network(Upstream::Cluster(slot) | Upstream::Wildcard { slot, .. }) => Some((slot.clone(), Cell::new(slot.version()))),
            To::Network(Upstream::Direct(_)) | To::Embedded(_) => None,
        };
        let (worker, directs) = (self.worker.clone(), self.directs.clone());
        let client = Client::new(
            options,
            Rc::new(move |redirect| -> Dialing {
                let (worker, directs, to, redirect) = (worker.clone(), directs.clone(), to.clone(), redirect.map(str::to_string));
                Box::pin(async move {
                    let worker = worker.upgrade().ok_or_else(|| io::Error::other("the worker has ended"))?;
                    match &to {
                        To::Network(to) => connect(&worker, &directs, to, redirect.as_deref()).await.map_err(io::Error::other),
                        To::Embedded(instance) => Ok(Box::new(worker.shared.plugins.embedded().connect(instance)?) as Box<dyn Duplex>),
                    }
                })
            }),
        );
        let server = Rc::new(Server { client, cluster });
        clients.insert(key, Rc::downgrade(&server));
        server
    }
}
