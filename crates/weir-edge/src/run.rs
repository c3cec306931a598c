//! Puts the parts of the hub together.
use crate::{
    admin,
    apimachinery::request::GroupVersionResource,
    cache::{self, Cache, Limits, access::Access, head::seconds, heal::Heal, key::policy, reflect::Reflect, steady::Steady},
    dummy::{Interface, InterfaceError},
    filters::{
        Filters,
        context::{self, Context},
    },
    follow::{filter_context, pool_peers, yurt_hub_cfg},
    handover::Sockets,
    hub::{
        Hub,
        access_log::AccessLog,
        in_flight::{self, InFlight},
        listen::{self, Port},
        pool::{Members, Pool},
        requests::Requests,
        share::Share,
    },
    identity::{
        certificate::{
            manager::{self, Manager, ensure_self_signed},
            self_signed::SelfSignedError,
        },
        serving::{KeyPairFiles, Serving, ServingError},
    },
    offline::{
        collect::Collector,
        local::Local,
        outbox::{self, Outbox},
        replay::Replay,
        replies::Replies,
        writes::Writes,
    },
    settings::{self, Settings},
    store::{self, OpenError, Store, key_file::Key},
    tunnel::agent::{self, Agent},
    upstream::{
        api::Api,
        credentials::{Credentials, Files},
        health::Thresholds,
        remote::{Balance, Remote, Timeouts},
    },
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{Semaphore, watch},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use url::Url;
use weir_net::dns::{self, Resolver};

/// Time between two looks for copies that are too old.
const SWEEP: Duration = Duration::from_secs(10);
/// Least and most time between two looks for copies that nobody needs.
const COLLECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

#[derive(Clone)]
pub struct Options {
    /// The API servers: `https`, with a host.
    pub servers: Vec<Url>,
    pub balance: Balance,
    pub node_name: String,
    pub files: Files,
    /// What the hub does for its certificates.
    pub certificates: manager::Options,
    /// Servers in the cloud that lead kube-apiserver to kubelet.
    pub tunnel: Option<agent::Options>,
    /// The port with TLS.
    pub secure: Option<Secure>,
    /// An interface on whose addresses it listens, too.
    pub interface: Option<Interface>,
    /// The port without TLS; everyone who can open connections on it acts as the node.
    pub plain: Option<SocketAddr>,
    pub store: PathBuf,
    /// Encrypts the store.
    pub key: Option<Key>,
    /// The Unix socket of the admin endpoints.
    pub admin_socket: PathBuf,
    /// A loopback port with those of them that tell nothing of objects.
    pub admin: Option<SocketAddr>,
    /// Bytes that the store may have.
    pub quota: u64,
    /// How long a copy stays that no pod of the node needs any more; zero: for good.
    pub gc_grace_period: Duration,
    pub limits: Limits,
    pub outbox: outbox::Limits,
    /// How long reviews of users are given again without the link.
    pub review_ttl: Duration,
    pub timeouts: Timeouts,
    pub thresholds: Thresholds,
    pub max_connections: usize,
    /// Of each client.
    pub in_flight: in_flight::Limits,
    /// Where a line for each request is written.
    pub access_log: Option<PathBuf>,
    /// What its file says.
    pub settings: settings::File,
    /// The namespace of OpenYurt's ConfigMap; `None`: it is not read.
    pub yurt_hub_cfg: Option<String>,
    /// Which filters there are.
    pub filters: context::Settings,
    /// The node pool of the node; `None`: the one of its label.
    pub pool: Option<String>,
    /// Where pods of the node reach the port with TLS.
    pub advertise: Option<IpAddr>,
    /// Kinds of which there is one list and watch for all clients.
    pub pool_scope_resources: Vec<GroupVersionResource>,
    /// How the hubs of the node pool share them; `None`: they do not.
    pub pool_sharing: Option<PoolOptions>,
}

#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The port for other hubs.
    pub address: SocketAddr,
    /// The hubs of the pool; `None`: those of the nodes of the NodePool.
    pub peers: Option<Members>,
}

#[derive(Clone, Debug)]
pub struct Secure {
    pub address: SocketAddr,
    /// The first one that can be used is served.
    pub certificates: Vec<KeyPairFiles>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot write the access log {}: {error}", file.display())]
    AccessLog { file: PathBuf, error: io::Error },
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error(transparent)]
    SelfSigned(#[from] SelfSignedError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Connections of other hubs at a time.
const PEER_CONNECTIONS: usize = 1000;

/// As YurtHub does.
const LOOK_AT_INTERFACE: Duration = Duration::from_secs(60);

/// For requests of the hub for its own certificates.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// A hub that runs until it is dropped.
pub struct Running {
    pub hub: Arc<Hub>,
    /// `http`, `https` or `admin`, and the address.
    pub listeners: Vec<(&'static str, SocketAddr)>,
    /// Why there is no admin socket. The node can do without it.
    pub no_admin_socket: Option<io::Error>,
    /// The same sockets as those of the listeners.
    sockets: Sockets,
    tasks: JoinSet<()>,
    /// What goes on until the end of what is open.
    lasting: JoinSet<()>,
    cache: Option<Runtime>,
}

impl Running {
    /// Opens the ports and the store. What the store holds can be served from now on, whether or not the API server answers.
    /// Listeners use the sockets that another process has handed over, where there are any.
    pub async fn start(options: Options, mut inherited: Sockets) -> Result<Running, StartError> {
        let authority = options.files.certificate_authority.clone();
        let of_node = KeyPairFiles {
            certificate: options.files.client_certificate.clone(),
            key: options.files.client_key.clone().unwrap_or_else(|| options.files.client_certificate.clone()),
        };
        let credentials = Arc::new(Credentials::new(options.files));
        let store_options =
            store::Options { quota: options.quota, key: options.key, policy: Arc::new(policy), ..store::Options::default() };
        let store = Arc::new(Store::open(&options.store, store_options)?);
        let runtime = cache::runtime()?;
        let node = format!("system:node:{}", options.node_name);
        let outbox = Arc::new(Outbox::open(&store, options.outbox));
        let replies = Replies::open(&store, options.review_ttl, &outbox.stats);
        let cache = Cache::new(&node, store, options.limits, runtime.handle().clone());
        let api = Api::new(options.servers.clone(), API_TIMEOUT)?;
        let remote = Arc::new(Remote::new(options.servers, options.balance, credentials.clone(), options.timeouts, options.thresholds)?);
        let replay = Arc::new(Replay::new(&options.node_name, remote.clone(), outbox.clone()));
        let writes = Writes::new(&options.node_name, cache.clone(), outbox.clone(), replies);
        let settings = Settings { file: options.settings, ..Settings::default() };
        cache.agents.set(settings.clone());
        let context = Context {
            node: options.node_name.clone(),
            settings: options.filters.clone(),
            pool: options.pool.clone(),
            ..Context::default()
        };
        let filters = Filters::new(context, cache.newest());
        let local = Local { access: Arc::new(Access::open(&cache.store)), cache: cache.clone(), outbox };
        let reflect = Reflect { cache: cache.clone(), remote: remote.clone() };
        let pool = Arc::new(Pool::new(&options.node_name, options.pool_sharing.is_some(), credentials.clone(), options.timeouts)?);
        let share = Share::new(options.pool_scope_resources, local.clone(), reflect.clone(), pool);
        let access_log =
            options.access_log.map(|file| AccessLog::open(file.clone()).map_err(|error| StartError::AccessLog { file, error }));
        let access_log = access_log.transpose()?.map(Arc::new);
        let hub = Arc::new(Hub {
            node,
            remote: remote.clone(),
            cache,
            local,
            writes,
            replay: replay.clone(),
            requests: Requests::default(),
            in_flight: InFlight::new(options.in_flight),
            access_log,
            drain: Arc::default(),
            settings: watch::Sender::new(settings),
            filters,
            tunnel: Arc::default(),
            share,
            collector: Collector::new(options.gc_grace_period),
        });
        let heal = Heal::new(reflect);
        let connections = Arc::new(Semaphore::new(options.max_connections));
        let mut running = Running {
            hub: hub.clone(),
            listeners: Vec::new(),
            no_admin_socket: None,
            sockets: Sockets::default(),
            tasks: JoinSet::new(),
            lasting: JoinSet::new(),
            cache: Some(runtime),
        };
        match admin::bind(&options.admin_socket) {
            Ok(listener) => drop(running.tasks.spawn(admin::serve_socket(listener, hub.clone()))),
            Err(e) => running.no_admin_socket = Some(e),
        }
        if let Some(address) = options.admin {
            let listener = running.bind("admin", address, &mut inherited).await?;
            running.tasks.spawn(admin::serve_port(listener, hub.clone()));
        }
        if let Some(secure) = options.secure {
            if let Some(names) = &options.certificates.self_signed {
                ensure_self_signed(&options.certificates.folder, names).await?;
            }
            let serving = Serving::new(secure.certificates, authority.clone());
            serving.server()?;
            let listener = running.bind("https", secure.address, &mut inherited).await?;
            let port = listener.local_addr().map_err(|error| StartError::Listen { address: secure.address, error })?.port();
            hub.filters.update(|context| context.hub = options.advertise.map(|ip| SocketAddr::new(ip, port)));
            let serving = Arc::new(serving);
            running.listen(listener, Port::Clients(Some(serving.clone())), &connections);
            if let Some(interface) = &options.interface {
                ensure(interface).await?;
                for ip in &interface.addresses {
                    let listener = running.bind("https", SocketAddr::new(*ip, port), &mut inherited).await?;
                    running.listen(listener, Port::Clients(Some(serving.clone())), &connections);
                }
                let (interface, outbox) = (interface.clone(), hub.writes.outbox.clone());
                running.tasks.spawn(async move { keep_interface(&interface, |text| outbox.notice(text)).await });
            }
        }
        if let Some(address) = options.plain {
            let listener = running.bind("http", address, &mut inherited).await?;
            running.listen(listener, Port::Clients(None), &connections);
        }
        if let Some(pool) = options.pool_sharing {
            // Before the node has a certificate, connections of other hubs are closed.
            let serving = Arc::new(Serving::new(vec![of_node], authority));
            let listener = running.bind("pool", pool.address, &mut inherited).await?;
            let port = listener.local_addr().map_err(|error| StartError::Listen { address: pool.address, error })?.port();
            running.listen(listener, Port::Hubs(serving), &Arc::new(Semaphore::new(PEER_CONNECTIONS)));
            running.tasks.spawn(hub.share.pool.clone().look());
            match pool.peers {
                Some(peers) => hub.share.pool.set(&peers),
                None => drop(running.tasks.spawn(pool_peers::run(hub.clone(), port))),
            }
        }
        let (link, outbox) = (remote.changes(), hub.writes.outbox.clone());
        if let Some(tunnel) = options.tunnel {
            let (resolver, outbox) = (Resolver::new(dns::Options::default())?, outbox.clone());
            let notice = move |text| outbox.notice(text);
            let agent = Agent::new(tunnel, credentials.clone(), resolver, hub.drain.clone(), hub.tunnel.clone(), notice);
            running.lasting.spawn(Arc::new(agent).run());
        }
        let manager = Manager::new(&options.node_name, options.certificates, api, credentials, link, move |text| outbox.notice(text));
        running.tasks.spawn(Arc::new(manager).run());
        running.lasting.spawn(async move { remote.probe().await });
        running.tasks.spawn(async move { replay.run().await });
        running.tasks.spawn(heal.run());
        running.tasks.spawn(keep_policy(hub.cache.clone(), hub.settings.subscribe()));
        running.tasks.spawn(collect(hub.clone()));
        // Watches that drain hear of changes, too.
        running.lasting.spawn(filter_context::run(hub.clone(), options.pool));
        if let Some(namespace) = options.yurt_hub_cfg {
            running.lasting.spawn(yurt_hub_cfg::run(hub, namespace));
        }
        Ok(running)
    }

    /// A listening socket: one that was handed over, or else a new one.
    async fn bind(&mut self, name: &'static str, address: SocketAddr, inherited: &mut Sockets) -> Result<TcpListener, StartError> {
        let failed = |error| StartError::Listen { address, error };
        let listener = match inherited.take(name) {
            Some(listener) => {
                listener.set_nonblocking(true).map_err(failed)?;
                listener
            }
            None => TcpListener::bind(address).await.and_then(TcpListener::into_std).map_err(failed)?,
        };
        self.listeners.push((name, listener.local_addr().map_err(failed)?));
        self.sockets.add(name, listener.try_clone().map_err(failed)?);
        TcpListener::from_std(listener).map_err(failed)
    }

    fn listen(&mut self, listener: TcpListener, port: Port, connections: &Arc<Semaphore>) {
        let (hub, connections) = (self.hub.clone(), connections.clone());
        self.tasks.spawn(async move { drop(listen::serve(listener, port, hub, connections).await) });
    }

    /// Stops accepting, writing and sending what waits, so that another process can. What is open goes on: see [`Running::drain`].
    pub async fn hand_over(&mut self) -> Sockets {
        self.tasks.shutdown().await;
        self.hub.drain.leave();
        self.hub.share.end();
        let cache = self.hub.cache.clone();
        let _ = tokio::task::spawn_blocking(move || cache.store.close()).await;
        std::mem::take(&mut self.sockets)
    }

    /// Waits until what is open has ended; watches end at the latest when the time is up.
    pub async fn drain(&self, limit: Duration) {
        self.hub.drain.finish(limit).await;
    }
}

/// Removes what clients may not keep any more: after each change of the settings, and as it gets old.
async fn keep_policy(cache: Arc<Cache>, mut settings: watch::Receiver<Settings>) {
    let mut clock = Steady::new(SystemTime::now(), Instant::now());
    loop {
        cache.agents.set(settings.borrow_and_update().clone());
        let (cache, now) = (cache.clone(), clock.now(SystemTime::now(), Instant::now()));
        let _ = spawn_blocking(move || cache.agents.sweep(now)).await;
        if let Ok(Err(_)) = timeout(SWEEP, settings.changed()).await {
            return;
        }
    }
}

/// Removes what pods and clients that are gone have left.
async fn collect(hub: Arc<Hub>) {
    let grace = hub.collector.grace;
    if grace.is_zero() {
        return;
    }
    let every = (grace / 4).clamp(COLLECT.0, COLLECT.1);
    let mut clock = Steady::new(SystemTime::now(), Instant::now());
    loop {
        tokio::time::sleep(every).await;
        let at = Instant::now();
        let now = (at, seconds(clock.now(SystemTime::now(), at)));
        if hub.remote.is_proven() {
            let hub = hub.clone();
            let _ = spawn_blocking(move || {
                hub.collector.sweep(&hub.cache, &hub.writes.replies, &hub.writes.node, now);
            })
            .await;
        }
    }
}

/// Makes what is missing of an interface, on a thread where it may wait.
async fn ensure(interface: &Interface) -> Result<(), InterfaceError> {
    let interface = interface.clone();
    spawn_blocking(move || interface.ensure()).await.unwrap_or(Ok(()))
}

/// Somebody may remove the interface or its addresses.
async fn keep_interface(interface: &Interface, notice: impl Fn(String)) {
    loop {
        tokio::time::sleep(LOOK_AT_INTERFACE).await;
        if let Err(e) = ensure(interface).await {
            notice(format!("the dummy interface: {e}"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.hub.cache.store.flush();
        if let Some(runtime) = self.cache.take() {
            runtime.shutdown_background();
        }
    }
}
