//! A running proxy: the worker threads, the main runtime, and the way from start to end.
use crate::{
    BoundListener, Options, Report, Summary,
    access_log::Sinks,
    admin,
    app_log::Logger,
    apply::{Applied, Applier},
    breaker::UpstreamConnections,
    budget::Budget,
    cluster::{ClusterRegistry, DnsCacheStats, ForwardProxy, Resolved, WARM, manager::Manager},
    drain::Phase,
    listener::{self, ListenerSlot},
    overload::{self, Overload},
    plugin::{self, ManagerOptions, code::FetchOptions},
    snapshot::ConnectionManagers,
    stats::{Registry, Total},
    verdict::Verdicts,
    worker_thread::{Command, Handle},
};
use arc_swap::ArcSwap;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    runtime,
    sync::{Notify, oneshot},
};
use weir_config::{
    delta::Delta,
    model::{Config, Name},
};
use weir_net::{
    descriptors,
    dial::{Guard, GuardedResolver},
    dns,
    tls::Details,
};

/// Pauses between tries to bind an address, doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How often it is looked whether workers have let go of what was replaced.
const FREE: Duration = Duration::from_secs(2);

/// Where a proxy stands, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No configuration yet.
    PreInitializing,
    /// The first configuration is being warmed, or the address of one of its listeners cannot be bound yet.
    Initializing,
    Live,
    /// About to end, or asked to look so (`/healthcheck/fail`).
    Draining,
}

type Ask<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// Asks the applier.
struct Given {
    config: Ask<Config>,
    certificates: Ask<Vec<(Name, Details)>>,
}

/// What workers, the main runtime and the admin listener share.
pub struct Shared {
    pub options: Options,
    pub connection_managers: ConnectionManagers,
    pub summary: ArcSwap<Summary>,
    /// What is said of the resources of the configuration.
    pub verdicts: Arc<Verdicts>,
    /// The resources themselves, for those who show them.
    given: OnceLock<Given>,
    pub clusters: Arc<ClusterRegistry>,
    /// Listeners that accept, in the order of their names.
    pub listeners: ArcSwap<Vec<Arc<ListenerSlot>>>,
    pub stats: Registry,
    pub plugins: Arc<plugin::Manager>,
    /// Where access logs are written.
    pub sinks: Sinks,
    pub(crate) total: Arc<listener::Total>,
    /// Listeners whose address could not be bound and will be tried again; `retry` is notified when there are any.
    waiting_listeners: AtomicUsize,
    retry: Notify,
    /// How often an address could not be bound.
    pub(crate) listener_create_failure: AtomicU64,
    pub overload: Arc<Overload>,
    /// Of the dynamic forward proxy.
    pub dns_cache: Arc<DnsCacheStats>,
    /// For names that the configuration does not choose.
    pub(crate) guarded: Arc<GuardedResolver>,
    /// For hosts that requests and plugins name themselves.
    pub(crate) forward: Arc<ForwardProxy>,
    /// Hosts that plugins call and that a worker let go of because there were too many.
    pub(crate) callout_host_overflow: AtomicU64,
    /// Connections to upstreams.
    pub upstreams: Arc<UpstreamConnections>,
    state: AtomicU8,
    /// There was a first configuration.
    began: AtomicBool,
    /// It was warmed.
    warmed: AtomicBool,
    failed_health_check: AtomicBool,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    /// Told when someone asks for the end (`/quitquitquit`).
    quit: Notify,
    workers: Mutex<Vec<Handle>>,
}

impl Shared {
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            _ if self.failed_health_check.load(Ordering::Relaxed) => State::Draining,
            0 => State::PreInitializing,
            1 => State::Initializing,
            2 => State::Live,
            _ => State::Draining,
        }
    }
    /// States only rise.
    fn advance(&self, to: State) {
        self.state.fetch_max(to as u8, Ordering::AcqRel);
    }
    /// The configuration as it was given, put together when it is asked for.
    pub(crate) fn config(&self) -> Config {
        self.given.get().and_then(|given| (given.config)()).unwrap_or_default()
    }
    /// Certificates that are loaded, by the names of their secrets.
    pub(crate) fn certificates(&self) -> Vec<(Name, Details)> {
        self.given.get().and_then(|given| (given.certificates)()).unwrap_or_default()
    }
    pub(crate) fn set_waiting_listeners(&self, count: usize) {
        self.waiting_listeners.store(count, Ordering::Release);
        if count > 0 {
            self.retry.notify_one();
        }
    }
    /// Listeners that wait for their address.
    pub fn waiting_listeners(&self) -> usize {
        self.waiting_listeners.load(Ordering::Acquire)
    }
    /// The first configuration serves, with all its listeners.
    fn advance_to_live(&self) {
        if self.warmed.load(Ordering::Acquire) && self.waiting_listeners() == 0 {
            self.advance(State::Live);
        }
    }
    pub(crate) fn fail_health_check(&self, fail: bool) {
        self.failed_health_check.store(fail, Ordering::Relaxed);
    }
    /// Asks whoever runs the proxy to end it; see [`Proxy::quit_requested`].
    pub fn quit(&self) {
        self.quit.notify_one();
    }
    pub(crate) fn post_all(&self, make: impl Fn() -> Command) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|w| w.post(make()));
    }
    /// One command for each worker, in their order.
    pub(crate) fn post_each(&self, commands: impl Iterator<Item = Command>) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().zip(commands).for_each(|(w, c)| w.post(c));
    }
    /// Asks all workers but one to make room among the connections of a cluster.
    pub(crate) fn release_connection(&self, cluster: u32, but: usize) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().enumerate().filter(|(i, _)| *i != but).for_each(|(_, w)| w.post(Command::ReleaseConnection(cluster)));
    }
    /// Asks all workers but one to close an idle connection to any upstream.
    pub(crate) fn release_any_connection(&self, but: usize) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().enumerate().filter(|(i, _)| *i != but).for_each(|(_, w)| w.post(Command::ReleaseAnyConnection));
    }
    /// Describes the open work for the log.
    fn open_work(&self) -> String {
        let (mut requests, mut upgraded) = (0, 0);
        self.stats.http.sum(&mut |_, declared, total| {
            if let Total::Gauge(n) = total {
                match declared.name {
                    "downstream_rq_active" => requests += n,
                    "downstream_cx_upgrades_active" => upgraded += n,
                    _ => {}
                }
            }
        });
        format!("connections: {}, requests in flight: {requests}, upgraded: {upgraded}", self.connections())
    }
    /// Connections open now.
    pub fn connections(&self) -> u32 {
        self.total.open.load(Ordering::Acquire)
    }
    /// Stops accepting on all listeners; connections stay.
    pub(crate) fn close_listeners(&self) {
        for slot in self.listeners.load().iter() {
            self.post_all(|| Command::Close(slot.id));
        }
    }
    /// Waits until nothing accepts and no connection is open.
    async fn empty(&self) {
        loop {
            let idle = self.total.idle.notified();
            tokio::pin!(idle);
            // Registered before the count is read, so that no last one slips through.
            idle.as_mut().enable();
            if self.connections() == 0 && self.total.accepting.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// The error names the flag that gives another address.
fn bind(address: SocketAddr, name: &str) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address).map_err(|e| {
        io::Error::new(e.kind(), format!("the {name} listener cannot listen on {address}: {e}; --{name} names another address"))
    })
}

/// A data plane with its threads.
pub struct Proxy {
    shared: Arc<Shared>,
    runtime: runtime::Handle,
    admin: Option<SocketAddr>,
    status: Option<SocketAddr>,
    applier: Arc<Mutex<Applier>>,
    queue: Arc<Mutex<Queue>>,
    /// Dropped to end the main runtime.
    end: Mutex<Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>>,
}

impl Proxy {
    /// Starts the threads and the admin listener. Nothing is served before the first [`Proxy::apply`].
    ///
    /// # Errors
    /// When threads, the admin address or the status address are not to be had.
    pub fn start(options: Options) -> io::Result<Proxy> {
        let main = runtime::Builder::new_current_thread().enable_all().thread_name("main").build()?;
        let proxy = match Proxy::build(&main, options) {
            Ok(proxy) => proxy,
            Err(e) => {
                // A runtime must not be dropped where another one runs.
                main.shutdown_background();
                return Err(e);
            }
        };
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("main-loop".into()).spawn(move || {
            let _ = main.block_on(ended);
            main.shutdown_background();
        })?;
        *proxy.end.lock().unwrap_or_else(PoisonError::into_inner) = Some((end, thread));
        Ok(proxy)
    }

    /// Everything but the thread that drives `main`.
    fn build(main: &runtime::Runtime, options: Options) -> io::Result<Proxy> {
        let options = Options { workers: options.workers.max(1), ..options };
        let clusters = Arc::new(ClusterRegistry::default());
        plugin::property::set_labels(options.labels.clone());
        let budget = budget(&options);
        let resolver = {
            let _in = main.enter();
            Arc::new(dns::Resolver::new(dns::Options { servers: options.dns_resolvers.clone(), ..Default::default() })?)
        };
        let allowed = options.allowed_upstream_addresses.clone();
        let guard = Guard::new(move |ip| allowed.iter().any(|range| range.contains(ip.to_canonical())));
        let guarded = Arc::new(GuardedResolver::new(resolver, guard));
        let verdicts: Arc<Verdicts> = Arc::default();
        let plugins = ManagerOptions {
            cache_dir: options.cache_dir.clone(),
            max_fetched_bytes: options.max_plugin_cache,
            fetch: FetchOptions { registry: options.registry.clone(), ..FetchOptions::new(guarded.clone()) },
            embedded_redis_max_memory: options.embedded_redis_max_memory,
            verdicts: verdicts.clone(),
            ..ManagerOptions::new(main.handle().clone(), guarded.clone())
        };
        let plugins = plugin::Manager::new(plugins, clusters.clone())?;
        let runtime = main.handle().clone();
        let dns_cache: Arc<DnsCacheStats> = Arc::default();
        let shared = Arc::new(Shared {
            connection_managers: ConnectionManagers::default(),
            summary: ArcSwap::default(),
            verdicts: verdicts.clone(),
            given: OnceLock::new(),
            clusters: clusters.clone(),
            listeners: ArcSwap::default(),
            stats: Registry::new(options.workers),
            plugins,
            sinks: Sinks::default(),
            total: Arc::new(listener::Total {
                open: Default::default(),
                limit: budget.downstream,
                accepting: Default::default(),
                idle: Notify::new(),
            }),
            waiting_listeners: AtomicUsize::new(0),
            retry: Notify::new(),
            listener_create_failure: AtomicU64::new(0),
            callout_host_overflow: AtomicU64::new(0),
            forward: Arc::new(ForwardProxy::new(guarded.clone(), runtime.clone(), budget.lookups, dns_cache.clone())),
            dns_cache,
            guarded,
            overload: Arc::new(Overload::new(options.max_memory)),
            upstreams: Arc::new(UpstreamConnections::new(budget.upstream)),
            state: AtomicU8::new(State::PreInitializing as u8),
            began: AtomicBool::new(false),
            warmed: AtomicBool::new(false),
            failed_health_check: AtomicBool::new(false),
            started: Instant::now(),
            started_at: SystemTime::now(),
            quit: Notify::new(),
            workers: Mutex::default(),
            options,
        });
        let admin_listener = shared.options.admin.map(|at| bind(at, "admin")).transpose()?;
        let status_listener = shared.options.status.map(|at| bind(at, "status")).transpose()?;
        let local = |listener: &Option<std::net::TcpListener>| listener.as_ref().map(std::net::TcpListener::local_addr).transpose();
        let (admin, status) = (local(&admin_listener)?, local(&status_listener)?);
        let forward = shared.forward.clone();
        let manager = Manager::new(clusters, shared.guarded.clone(), forward, runtime.clone(), shared.upstreams.clone(), verdicts);
        let applier = Arc::new(Mutex::new(Applier::new(shared.clone(), manager)));
        let _ = shared.given.set(Given { config: ask(&applier, Applier::config), certificates: ask(&applier, Applier::certificates) });
        runtime.spawn(overload::watch(shared.overload.clone()));
        runtime.spawn(retry(shared.clone(), applier.clone()));
        let workers: io::Result<Vec<_>> = (0..shared.options.workers).map(|i| Handle::start(i, shared.clone())).collect();
        *shared.workers.lock().unwrap_or_else(PoisonError::into_inner) = workers?;
        for (listener, role) in [(admin_listener, admin::Role::Admin), (status_listener, admin::Role::Status)] {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            runtime.spawn(admin::serve(listener, role, shared.clone()));
        }
        Ok(Proxy { shared, runtime, admin, status, applier, queue: Arc::default(), end: Mutex::default() })
    }

    /// Takes over a change of the configuration. Calls take effect in their order, even if the report is not awaited; changes that
    /// arrive while others are being applied are applied together. What can be used is in use at once. The report is ready when the rest
    /// of this change was tried: new plugins, and names that were never resolved. Nothing else waits for that.
    pub fn apply(&self, delta: Delta) -> impl Future<Output = Report> + Send + use<> {
        let (told, report) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            match &mut queue.delta {
                Some(first) => first.merge(delta),
                None => queue.delta = Some(delta),
            }
            queue.reports.push(told);
        }
        let (shared, applier, queue) = (self.shared.clone(), self.applier.clone(), self.queue.clone());
        self.runtime.spawn(async move {
            let (delta, reports) = {
                let mut queue = lock(&queue);
                // It was applied together with one before it.
                let Some(delta) = queue.delta.take() else { return };
                (delta, std::mem::take(&mut queue.reports))
            };
            shared.advance(State::Initializing);
            let mut applied = lock(&applier).apply(delta);
            let is_first = !shared.began.swap(true, Ordering::AcqRel);
            start_freeing(&applier);
            warm(&applier, &mut applied).await;
            if is_first {
                shared.warmed.store(true, Ordering::Release);
            }
            shared.advance_to_live();
            applied.loading.finished().await;
            let report = Report { version: applied.revision, verdicts: shared.verdicts.standing() };
            Logger::Config.debug(format_args!("version {}, {} errors", report.version, shared.verdicts.errors()));
            for told in reports {
                let _ = told.send(report.clone());
            }
        });
        // Only a proxy that has ended does not do its work.
        async move { report.await.unwrap_or_default() }
    }

    /// Where the admin listener is, with the port that was given where 0 was asked for.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where the status listener is, likewise.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status
    }

    /// The listeners that accept, in the order of their names.
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.shared.listeners.load().iter().map(|s| BoundListener { name: s.name.clone(), address: s.address }).collect()
    }

    #[cfg(test)]
    pub(crate) fn applier(&self) -> MutexGuard<'_, Applier> {
        lock(&self.applier)
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until somebody asks for the end by the admin listener.
    pub async fn quit_requested(&self) {
        self.shared.quit.notified().await;
    }

    /// Shuts down without loss. `/ready` fails, idle connections are closed, and the others close after their streams. New connections
    /// are accepted for `accepting`, so that load balancers have time to notice. Then it waits for the last connection, at most the
    /// drain time and the shutdown timeout together. Returns when all threads have ended.
    pub async fn drain_and_stop(&self, accepting: Duration) {
        let shared = &self.shared;
        let options = &shared.options;
        let patience = options.drain_time + options.shutdown_timeout;
        shared.advance(State::Draining);
        if shared.connections() > 0 || !accepting.is_zero() {
            let more = if accepting.is_zero() { String::new() } else { format!(", accepting more for {accepting:?}") };
            Logger::Main.info(format_args!("draining for at most {patience:?}{more}; {}", shared.open_work()));
        }
        shared.post_all(|| Command::Phase(Phase::Closing));
        tokio::time::sleep(accepting).await;
        shared.close_listeners();
        if tokio::time::timeout(patience.saturating_sub(accepting), shared.empty()).await.is_err() {
            Logger::Main.warning(format_args!("closing what is still open after {patience:?}; {}", shared.open_work()));
        }
        shared.post_all(|| Command::Phase(Phase::Cutting));
        self.stop().await;
    }

    /// Ends the threads.
    async fn stop(&self) {
        self.shared.post_all(|| Command::Stop);
        let workers = std::mem::take(&mut *self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner));
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        let join = move || {
            workers.into_iter().for_each(Handle::join);
            if let Some((end, thread)) = end {
                drop(end);
                let _ = thread.join();
            }
        };
        // Joining blocks; the caller's runtime goes on meanwhile.
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

/// Deltas that are not applied yet, as one, and who waits for it.
#[derive(Default)]
struct Queue {
    delta: Option<Delta>,
    reports: Vec<oneshot::Sender<Report>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask<T: 'static>(applier: &Arc<Mutex<Applier>>, what: fn(&Applier) -> T) -> Ask<T> {
    let applier = Arc::downgrade(applier);
    Box::new(move || applier.upgrade().map(|applier| what(&lock(&applier))))
}

/// Waits until all of a delta is in use, or was tried.
async fn warm(applier: &Arc<Mutex<Applier>>, applied: &mut Applied) {
    for (first, told) in applied.first_tries.drain(..) {
        let applier = applier.clone();
        tokio::spawn(async move {
            first.ended().await;
            if first.slot.is_tried() {
                lock(&applier).use_plugin(&first.slot.name);
            }
            told.send_replace(true);
        });
    }
    // Errors say that something newer has taken its place.
    let resolved = async {
        for cluster in &mut applied.warming {
            let _ = cluster.wait_for(|resolved| *resolved == Resolved::All).await;
        }
    };
    let _ = tokio::time::timeout(WARM, resolved).await;
    for plugin in &mut applied.plugins {
        let _ = plugin.wait_for(|used| *used).await;
    }
}

/// Sees to it that one task frees what was replaced, if there is anything.
fn start_freeing(applier: &Arc<Mutex<Applier>>) {
    let mut held = lock(applier);
    if !held.freeing && held.free() {
        held.freeing = true;
        tokio::spawn(free(applier.clone()));
    }
}

/// Frees what was replaced, when workers have let go of it.
async fn free(applier: Arc<Mutex<Applier>>) {
    loop {
        tokio::time::sleep(FREE).await;
        let mut applier = lock(&applier);
        if !applier.free() {
            applier.freeing = false;
            return;
        }
    }
}

/// Retries addresses that could not be bound, as long as there are any.
async fn retry(shared: Arc<Shared>, applier: Arc<Mutex<Applier>>) {
    loop {
        shared.retry.notified().await;
        let mut pause = RETRY_FIRST;
        while shared.waiting_listeners() > 0 {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
            lock(&applier).retry();
            shared.advance_to_live();
        }
    }
}

/// Connections that the file descriptors allow.
fn budget(options: &Options) -> Budget {
    let descriptors = descriptors::limit();
    let budget = Budget::new(descriptors, options.workers, options.max_connections, options.max_upstream_connections);
    Logger::Main.debug(format_args!("{descriptors} file descriptors: {budget:?}"));
    if budget.missing(descriptors) > 0 {
        Logger::Main.warning(format_args!(
            "{} client and {} upstream connections need more than the {descriptors} file descriptors of this process; \
             raise its limit (ulimit -n), or lower --max-connections or --max-upstream-connections",
            budget.downstream, budget.upstream
        ));
    }
    budget
}

impl Drop for Proxy {
    /// Ends the threads without waiting for anything.
    fn drop(&mut self) {
        self.shared.post_all(|| Command::Stop);
        drop(self.end.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
