//! Redis for plugins: from the name in `redis_init` to a client, and the clients of one worker.
mod dial;

pub(super) use dial::check;

use super::{
    embedded::Instance,
    upstream::{self, NoUpstream, Own, Speaks, Upstream},
};
use crate::{
    cluster::{ClusterRegistry, ClusterSlot},
    stats::PluginRedisStats,
    upstream::direct::DirectClusters,
    worker::Worker,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, io,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use weir_net::redis::{self, CheckError, Client, Error, Kind, Options, Query, Target, Topology};
use weir_wasm::RedisInit;

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
    Connect(io::Error),
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Where commands go.
#[derive(Clone)]
pub(super) enum To {
    Network(Upstream),
    Embedded(Instance),
}

impl fmt::Display for To {
    /// Without credentials: it names metrics.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Network(Upstream::Cluster(slot)) => f.write_str(&slot.name),
            To::Network(Upstream::Wildcard { host, port, .. }) => write!(f, "{host}:{port}"),
            To::Network(Upstream::Direct(target)) => write!(f, "{target:?}"),
            To::Embedded(instance) => write!(f, "redis://embedded/{}", instance.name),
        }
    }
}

/// Notes what a command came to.
pub(super) fn count(stats: &PluginRedisStats, answer: &redis::Answer, took: Duration) {
    stats.rq_active.dec();
    let failed = match answer {
        Ok(reply) => {
            stats.rq_time.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            if reply.starts_with(b"-") {
                stats.rq_error_reply.inc();
            }
            return;
        }
        Err(Error::Connect(_)) => &stats.rq_connect_fail,
        Err(Error::Closed(_)) => &stats.rq_disconnected,
        Err(Error::Timeout) => &stats.rq_timeout,
        Err(Error::Protocol(_)) => &stats.rq_protocol_error,
        Err(Error::Overflow) => &stats.rq_overflow,
    };
    failed.inc();
}

/// The server and the options that an init means. What the call says goes before what a URL says.
pub(super) fn resolve(init: &RedisInit<'_>, own: &Own, clusters: &ClusterRegistry) -> Result<(To, Options), InitError> {
    let (name, query) = split(init.cluster);
    let to = match own.embedded(name) {
        Some(instance) => To::Embedded(instance),
        // A URL keeps its query: it may say what the Sentinels ask for.
        None if name.contains("://") => To::Network(upstream::resolve(init.cluster, Speaks::Redis, own, clusters)?),
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
        options.topology = match target.kind {
            Kind::Server => Topology::Server,
            Kind::Cluster => Topology::Cluster,
            Kind::Sentinel(_) => Topology::Sentinel,
        };
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
        let route = dial::Route::new(self.worker.clone(), self.directs.clone(), to, options.clone());
        let client = Client::new(options, Rc::new(move |address| route.dial(address)));
        let server = Rc::new(Server { client, cluster });
        clients.insert(key, Rc::downgrade(&server));
        server
    }
}
