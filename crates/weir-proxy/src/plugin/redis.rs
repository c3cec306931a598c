//! Redis for plugins: from the name in `redis_init` to a connection, and the clients of one worker.
use super::upstream::{self, Own, Speaks, Upstream};
use crate::cluster::{ClusterRegistry, ClusterRt, ClusterSlot};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
};
use tokio::net::TcpStream;
use weir_net::{
    redis::{self, Client, Dialing, Duplex, Options, Query, Target},
    tls,
};
use weir_wasm::RedisInit;

/// The server and the options that an init means. What the call says goes before what a URL says.
pub(super) fn resolve(init: &RedisInit<'_>, own: &Own, clusters: &ClusterRegistry) -> Result<(Upstream, Options), String> {
    let (name, query) = split(init.cluster);
    let to = upstream::resolve(name, Speaks::Redis, own, clusters)?;
    let mut options = Options { user: init.user.into(), password: init.password.into(), ..Options::default() };
    if !init.timeout.is_zero() {
        options.timeout = init.timeout;
    }
    let asked = query.split('&').find_map(|p| p.strip_prefix("db=")).map(|db| db.parse().map_err(|_| format!("`db={db}` is no number")));
    options.database = asked.transpose()?.unwrap_or_default();
    if let Upstream::Direct(target) = &to {
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
pub(super) async fn connect(to: &Upstream, turn: usize, redirect: Option<&str>) -> io::Result<Connection> {
    match to {
        Upstream::Direct(target) => {
            let client = if target.tls { Some(plain_tls()?) } else { None };
            let (host, port) = authority(redirect, &target.host, target.port);
            let io = TcpStream::connect((host.as_str(), port)).await?;
            secure(io, client, &host).await
        }
        Upstream::Cluster(slot) => {
            let (cluster, address, name) = endpoint(slot, turn)?;
            let (host, port) = authority(redirect, &address.ip().to_string(), address.port());
            let io = TcpStream::connect((host.as_str(), port)).await?;
            let name = if redirect.is_some() { host } else { name.unwrap_or(host) };
            secure(io, cluster.tls.clone(), &name).await
        }
    }
}

/// In the clear or under TLS.
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Connection {
    fn boxed(self) -> Box<dyn Duplex> {
        match self {
            Connection::Plain(io) => Box::new(io),
            Connection::Tls(io) => io,
        }
    }
}

async fn secure(io: TcpStream, client: Option<Arc<tls::Client>>, host: &str) -> io::Result<Connection> {
    io.set_nodelay(true)?;
    match client {
        None => Ok(Connection::Plain(io)),
        Some(client) => client.connect(io, host, tls::Alpn::None).await.map(|io| Connection::Tls(Box::new(io))),
    }
}

fn authority(redirect: Option<&str>, host: &str, port: u16) -> (String, u16) {
    let Some((to, p)) = redirect.and_then(|r| r.rsplit_once(':')) else { return (host.to_string(), port) };
    let to = to.trim_start_matches('[').trim_end_matches(']');
    (if to.is_empty() { host.to_string() } else { to.to_string() }, p.parse().unwrap_or(port))
}

fn endpoint(slot: &ClusterSlot, turn: usize) -> io::Result<(Arc<ClusterRt>, SocketAddr, Option<String>)> {
    let cluster = slot.current().ok_or_else(|| io::Error::other(format!("the cluster {} is gone", slot.name)))?;
    let set = cluster.endpoints.load();
    let usable: Vec<_> = set.endpoints.iter().filter(|e| e.accepts_requests()).collect();
    let chosen = usable
        .get(turn % usable.len().max(1))
        .ok_or_else(|| io::Error::other(format!("the cluster {} has no endpoint to use", slot.name)))?;
    let found = (chosen.address, chosen.hostname.as_deref().map(str::to_string));
    drop(usable);
    Ok((cluster, found.0, found.1))
}

/// TLS by the system's roots, for servers that no cluster describes.
pub(super) fn plain_tls() -> io::Result<Arc<tls::Client>> {
    tls::Client::new(tls::ClientOptions::system()).map(Arc::new).map_err(io::Error::other)
}

/// The check at load time: can it be reached, does it know us?
pub(super) async fn check(to: &Upstream, options: &Options) -> Result<(), String> {
    let opened = tokio::time::timeout(options.timeout, connect(to, 0, None)).await;
    match opened.map_err(|_| format!("no connection within {:?}", options.timeout))?.map_err(|e| e.to_string())? {
        Connection::Plain(io) => redis::check(io, options).await,
        Connection::Tls(io) => redis::check(io, options).await,
    }
}

/// The clients of one worker: plugins with the same server and credentials share one.
#[derive(Default)]
pub(super) struct Pool {
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
    Direct(Target, Options),
}

impl Pool {
    pub fn server(&self, to: Upstream, options: Options) -> Rc<Server> {
        let key = match &to {
            Upstream::Cluster(slot) => Key::Cluster(slot.id, slot.name.to_string(), options.clone()),
            Upstream::Direct(target) => Key::Direct(target.clone(), options.clone()),
        };
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        clients.retain(|_, c| c.strong_count() > 0);
        let turn = Cell::new(0usize);
        let cluster = match &to {
            Upstream::Cluster(slot) => Some((slot.clone(), Cell::new(slot.version()))),
            Upstream::Direct(_) => None,
        };
        let client = Client::new(
            options,
            Rc::new(move |redirect| -> Dialing {
                let (to, redirect) = (to.clone(), redirect.map(str::to_string));
                turn.set(turn.get().wrapping_add(1));
                let turn = turn.get();
                Box::pin(async move { Ok(connect(&to, turn, redirect.as_deref()).await?.boxed()) })
            }),
        );
        let server = Rc::new(Server { client, cluster });
        clients.insert(key, Rc::downgrade(&server));
        server
    }
}
