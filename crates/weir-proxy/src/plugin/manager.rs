//! The way of a plugin's version to the workers: fetched, compiled, tried, then published; a failure changes nothing.
mod restore;
mod serving;

use super::{
    Generation, PluginSlot, PluginState, Status, UpstreamStatus,
    asked::RedisWish,
    canary::{Canaries, Canary},
    code::{self, CodeError, FetchOptions, store::Store},
    compile::{Compiled, Compilers},
    decisions::Decisions,
    embedded::Embedded,
    history::Usage,
    metrics::{Custom, EachMetric, Fetches},
    redis,
    rollback::Recent,
    startup::{For, NotStarted, Outcome, Startup},
    upstream::Own,
};
use crate::{
    app_log::{Level, Logger},
    cluster::ClusterRegistry,
    stats::{PluginRedisStats, PluginStats, Table, Total},
    verdict::Verdicts,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};
use weir_config::{
    delta::{Id, PLUGIN_CODE_UNAVAILABLE, ResourceKind, State, Verdict},
    diagnostic::Diagnostic,
    model::{Name, Origin, WasmCode, WasmPlugin},
};
use weir_net::{dial::GuardedResolver, redis::redact};
use weir_wasm::{
    Engine, EngineOptions, Limits, MetricType, Module, PluginSpec,
    cache::{self, Cache},
};

/// How plugins are loaded.
pub struct ManagerOptions {
    /// Where fetched and compiled code is kept; `None` keeps none.
    pub cache_dir: Option<PathBuf>,
    pub fetch: FetchOptions,
    /// The runtime that fetches, and whose blocking threads compile and try.
    pub runtime: Handle,
    /// A version that could not be fetched or did not start is tried again after this pause, doubling up to the second. The
    /// first is that of Istio's agent.
    pub retry: (Duration, Duration),
    /// A configuration is not published before its new plugins were tried, or this time has passed.
    pub warm_timeout: Duration,
    /// So long it waits for code that is still on its way; the first one waits for `warm_timeout` where the server answers.
    pub fetch_grace: Duration,
    /// Bytes of fetched code on disk; what nobody uses goes beyond that.
    pub max_fetched_bytes: u64,
    /// How often unused code on disk is collected.
    pub collect: Duration,
    /// How often the Redis servers that plugins use are asked whether they work.
    pub redis_check: Duration,
    /// Bytes of each embedded Redis (`redis://embedded`).
    pub embedded_redis_max_memory: usize,
    /// Versions are tried but never published, and no connections are made.
    pub only_try: bool,
    /// Where the status of plugins is reported.
    pub verdicts: Arc<Verdicts>,
}

impl ManagerOptions {
    pub fn new(runtime: Handle, resolver: Arc<GuardedResolver>) -> ManagerOptions {
        ManagerOptions {
            cache_dir: None,
            fetch: FetchOptions::new(resolver),
            runtime,
            retry: (Duration::from_millis(500), Duration::from_secs(60)),
            warm_timeout: Duration::from_secs(60),
            fetch_grace: Duration::from_secs(1),
            max_fetched_bytes: MAX_FETCHED_BYTES,
            collect: Duration::from_secs(60 * 60),
            redis_check: Duration::from_secs(10),
            embedded_redis_max_memory: weir_redis::Options::default().max_memory,
            only_try: false,
            verdicts: Arc::default(),
        }
    }
}

/// As with Envoy Gateway.
pub const MAX_FETCHED_BYTES: u64 = 1 << 30;

/// Opens the cache in a folder. Plugins also work without a cache.
fn opened(dir: &Path) -> Option<Cache> {
    let open = Cache::open(dir.join("compiled"), cache::DEFAULT_MAX_BYTES);
    let refused = |e| {
        Logger::Wasm.warning(format_args!(
            "cannot use the cache folder {}: {e}; plugins are compiled at each start (--cache-dir names another folder)",
            dir.display()
        ))
    };
    open.map_err(refused).ok()
}

/// Loads plugins. One per process.
pub struct Manager {
    options: ManagerOptions,
    pub(super) compilers: Arc<Compilers>,
    /// `None` where nothing is kept on disk.
    decisions: Option<Arc<Decisions>>,
    clusters: Arc<ClusterRegistry>,
    custom: Arc<Custom>,
    embedded: Embedded,
    slots: Mutex<BTreeMap<Name, Arc<PluginSlot>>>,
    canaries: Mutex<Canaries>,
    next_id: AtomicUsize,
    workers: AtomicUsize,
    /// Whether there was a configuration with plugins before.
    began: AtomicBool,
    /// Bounds the instances that start at once, trials too: slow starts take at most half of the CPUs.
    starts: Arc<Semaphore>,
    changed: watch::Sender<u64>,
    fetches: Fetches,
}

/// Loads under way for one change of the configuration.
pub struct Loading(Vec<Load>);

/// One plugin that is new or has changed.
struct Load {
    first: FirstTry,
    task: JoinHandle<Vec<Diagnostic>>,
}

/// The wait for a plugin that never started: connection managers do not use it before.
#[derive(Clone)]
pub(crate) struct FirstTry {
    pub slot: Arc<PluginSlot>,
    manager: Arc<Manager>,
    epoch: u64,
    task: AbortHandle,
    /// It is of the first configuration: while a server answers, there is nothing yet that could serve.
    first: bool,
}

impl FirstTry {
    /// Waits until the plugin has been tried once and has its instances on the workers, for at most [`ManagerOptions::warm_timeout`],
    /// or [`ManagerOptions::fetch_grace`] while its code is being fetched (the first: while no server answers). Does not wait for a plugin that has a good generation.
    pub async fn ended(&self) {
        let (slot, begun) = (&self.slot, Instant::now());
        let tried = async {
            let workers = self.manager.workers.load(Ordering::Relaxed);
            let grace = self.manager.options.fetch_grace;
            let answered = || self.first && slot.answered.load(Ordering::Relaxed);
            let waits = || !slot.fetching.load(Ordering::Relaxed) || answered() || begun.elapsed() <= grace;
            let refused = || slot.current().is_none() && (self.task.is_finished() || !waits());
            while !slot.is_tried() && !slot.reached(workers) && !refused() && slot.epoch() == self.epoch {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = timeout(self.manager.options.warm_timeout, tried).await;
        if slot.epoch() == self.epoch {
            slot.tried.store(true, Ordering::Release);
        }
    }
}

impl Loading {
    /// One for each of the plugins.
    pub(crate) fn first_tries(&self) -> impl Iterator<Item = FirstTry> {
        self.0.iter().map(|load| load.first.clone())
    }

    /// Waits for all of them; see [`FirstTry::ended`].
    #[cfg(test)]
    pub async fn ready(&self) {
        for first in self.first_tries() {
            first.ended().await;
        }
    }

    /// The findings of the first tries, by plugin. The verdicts say which refusals still hold.
    pub async fn finished(self) -> Vec<(Name, Vec<Diagnostic>)> {
        let mut out = Vec::with_capacity(self.0.len());
        for Load { first, task } in self.0 {
            out.push((first.slot.name.clone(), task.await.unwrap_or_default()));
        }
        out
    }
}

/// Why a version is refused.
struct Refusal {
    reason: &'static str,
    message: String,
    transient: bool,
}

impl From<CodeError> for Refusal {
    fn from(e: CodeError) -> Refusal {
        let reason = if e.mismatch { "ChecksumMismatch" } else { PLUGIN_CODE_UNAVAILABLE };
        Refusal { reason, message: e.message, transient: e.transient }
    }
}

impl Manager {
    /// # Errors
    /// When there is no Wasm engine for this machine.
    pub fn new(options: ManagerOptions, clusters: Arc<ClusterRegistry>) -> io::Result<Arc<Manager>> {
        let engine = Engine::new(EngineOptions::default()).map_err(io::Error::other)?;
        let cache = options.cache_dir.as_ref().and_then(|dir| opened(dir));
        // A folder that cannot keep compiled code cannot keep fetched code either.
        let fetched = options.cache_dir.as_ref().filter(|_| cache.is_some()).map(|dir| Store::open(dir.join("fetched")));
        let store = fetched.and_then(|opened| {
            let refused = |e| Logger::Wasm.warning(format_args!("fetched code is not kept on disk: {e}"));
            opened.map_err(refused).ok().map(Arc::new)
        });
        let decisions = options.cache_dir.as_ref().filter(|_| cache.is_some() && !options.only_try);
        let decisions = decisions.and_then(|dir| Decisions::open(dir.join("versions"))).map(Arc::new);
        let options = ManagerOptions { fetch: FetchOptions { store, ..options.fetch }, ..options };
        let compilers = Arc::new(Compilers::new(engine, cache, options.runtime.clone()));
        let embedded = Embedded::new(options.embedded_redis_max_memory);
        let manager = Arc::new(Manager {
            options,
            compilers,
            decisions,
            clusters,
            custom: Arc::default(),
            embedded,
            slots: Mutex::default(),
            canaries: Mutex::default(),
            next_id: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            began: AtomicBool::new(false),
            starts: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from).div_euclid(2).max(1))),
            changed: watch::Sender::new(0),
            fetches: Fetches::default(),
        });
        if manager.options.fetch.store.is_some() && !manager.options.only_try {
            manager.options.runtime.spawn(collect(Arc::downgrade(&manager), manager.options.collect));
        }
        Ok(manager)
    }

    /// The place of a plugin of the configuration.
    pub fn slot(&self, name: &str) -> Option<Arc<PluginSlot>> {
        self.lock().get(name).cloned()
    }

    /// All plugins, in the order of their names.
    pub fn slots(&self) -> Vec<Arc<PluginSlot>> {
        self.lock().values().cloned().collect()
    }

    pub fn statuses(&self) -> Vec<Status> {
        let status = |slot: &Arc<PluginSlot>| {
            let (mut status, current) = (slot.status(), slot.current());
            if let Some(current) = &current {
                status.history.measure(current);
            }
            status.usage = current.map(|current| Usage::of(&current.totals()));
            (status.instances, status.memory_bytes) = slot.shards.instances();
            status
        };
        self.slots().iter().map(status).collect()
    }

    /// Every metric of plugins: name, labels, kind, value. Custom ones are named `wasmcustom.NAME`; a histogram is shown
    /// by its `_sum` and `_count`.
    pub fn metrics(&self, each: &mut EachMetric<'_>) {
        for slot in self.slots() {
            let labels = [("plugin", &*slot.name)];
            each("weir_wasm_unavailable", &labels, Total::Gauge(slot.current.load().is_none().into()));
            each("weir_wasm_refused_versions", &labels, Total::Counter(slot.refused_versions.load(Ordering::Relaxed)));
            each("weir_wasm_stream_overflows", &labels, Total::Counter(slot.stream_overflows.load(Ordering::Relaxed)));
            each("weir_wasm_rollbacks", &labels, Total::Counter(slot.rollbacks.load(Ordering::Relaxed)));
            each("weir_wasm_metric_overflows", &labels, Total::Counter(self.custom.refused(&slot.name)));
            if let Some(vm) = slot.vm.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|vm| vm.stats()) {
                let gauge = |n: usize| Total::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
                each("weir_wasm_shared_data_bytes", &labels, gauge(vm.data_bytes));
                each("weir_wasm_shared_data_evicted", &labels, Total::Counter(vm.evicted));
                each("weir_wasm_queue_bytes", &labels, gauge(vm.queue_bytes));
                each("weir_wasm_queue_dropped", &labels, Total::Counter(vm.queue_dropped));
            }
            slot.shards.each(&mut |declared, total| each(&format!("{}_{}", PluginStats::PREFIX, declared.name), &labels, total));
            slot.shards.each_redis(&mut |upstream, declared, total| {
                let labels = [("plugin", &*slot.name), (PluginRedisStats::LABEL, upstream)];
                each(&format!("{}_{}", PluginRedisStats::PREFIX, declared.name), &labels, total);
            });
        }
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let fetches = &self.fetches;
        if let Some(store) = &self.options.fetch.store {
            each("wasm_cache_entries", &[], Total::Gauge(i64::try_from(store.modules()).unwrap_or(i64::MAX)));
        }
        let (loaded, compiled) = self.compilers.lookups();
        for (name, label, value) in [
            ("wasm_remote_fetch_count", Some(("result", "success")), of(&fetches.success)),
            ("wasm_remote_fetch_count", Some(("result", "download_failure")), of(&fetches.download_failure)),
            ("wasm_remote_fetch_count", Some(("result", "checksum_mismatched")), of(&fetches.checksum_mismatched)),
            ("wasm_cache_lookup_count", Some(("hit", "true")), of(&fetches.disk_hit)),
            ("wasm_cache_lookup_count", Some(("hit", "false")), of(&fetches.disk_miss)),
            ("weir_wasm_compiled", None, compiled),
            ("weir_wasm_artifacts_loaded", None, loaded),
        ] {
            each(name, label.as_slice(), Total::Counter(value));
        }
        for (compiler, count, nanoseconds) in self.compilers.compilations.each() {
            let label = [("compiler", compiler.as_str())];
            each("weir_wasm_compilations", &label, Total::Counter(count));
            each("weir_wasm_compilation_nanoseconds", &label, Total::Counter(nanoseconds));
        }
        self.embedded.metrics(each);
        self.custom.each(&mut |name, kind, value| {
            let name = format!("wasmcustom.{name}");
            let now = value.value.load(Ordering::Relaxed);
            match kind {
                MetricType::Counter => each(&name, &[], Total::Counter(now)),
                MetricType::Gauge => each(&name, &[], Total::Gauge(now.cast_signed())),
                MetricType::Histogram => {
                    each(&format!("{name}_sum"), &[], Total::Counter(now));
                    each(&format!("{name}_count"), &[], Total::Counter(value.count.load(Ordering::Relaxed)));
                }
            }
        });
    }

    pub(super) fn clusters(&self) -> &Arc<ClusterRegistry> {
        &self.clusters
    }
    pub(super) fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    pub(super) fn custom(&self) -> &Arc<Custom> {
        &self.custom
    }
    /// Rings when a generation is published or a plugin goes.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    fn ring(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<PluginSlot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over plugins that are new or have changed, and those that are gone. Returns at once, with the loads that it started. What is
    /// gone takes no new streams.
    pub fn apply(self: &Arc<Manager>, set: &[Arc<WasmPlugin>], gone: &[Name], revision: u64) -> Loading {
        let (mut loads, mut shared) = (Vec::new(), Vec::new());
        let mut slots = self.lock();
        for name in gone {
            if let Some(slot) = slots.remove(name) {
                // A load under way is overtaken.
                slot.epoch.fetch_add(1, Ordering::AcqRel);
                self.ring();
            }
        }
        let first = !self.began.swap(true, Ordering::Relaxed);
        if first && !self.options.only_try {
            self.options.runtime.spawn(serving::watch(Arc::downgrade(self)));
        }
        for plugin in set {
            let slot = match slots.get(&plugin.name) {
                Some(slot) => {
                    let wanted = slot.wanted.load_full();
                    if Arc::ptr_eq(&wanted, plugin) || *wanted == **plugin {
                        continue;
                    }
                    slot.wanted.store(plugin.clone());
                    if is_same_version(&wanted, plugin) {
                        slot.revision.store(revision, Ordering::Relaxed);
                        slot.lock_status().describe(plugin);
                        shared.push(slot.clone());
                        continue;
                    }
                    slot.clone()
                }
                None => {
                    let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                    let slot = Arc::new(PluginSlot::new(id, plugin.clone()));
                    slots.insert(plugin.name.clone(), slot.clone());
                    slot
                }
            };
            let epoch = slot.epoch.fetch_add(1, Ordering::AcqRel) + 1;
            slot.revision.store(revision, Ordering::Relaxed);
            slot.tried.store(slot.current().is_some(), Ordering::Release);
            slot.updating(plugin);
            let (manager, of, plugin) = (self.clone(), slot.clone(), plugin.clone());
            let task = self.options.runtime.spawn(async move { manager.load(of, plugin, epoch).await });
            loads.push(Load { first: FirstTry { slot, manager: self.clone(), epoch, task: task.abort_handle(), first }, task });
        }
        self.link(&slots, set, gone);
        drop(slots);
        shared.iter().for_each(|slot| self.report(slot));
        loads.iter().for_each(|load| self.report(&load.first.slot));
        Loading(loads)
    }

    /// Gives the plugins that this change touches their canaries.
    fn link(&self, slots: &BTreeMap<Name, Arc<PluginSlot>>, set: &[Arc<WasmPlugin>], gone: &[Name]) {
        let mut canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut touched: Vec<Name> = gone.iter().flat_map(|name| canaries.set(name, None)).collect();
        touched.extend(set.iter().flat_map(|plugin| canaries.set(&plugin.name, plugin.canary.as_ref().map(|canary| &canary.of))));
        for base in touched.iter().filter_map(|name| slots.get(name)) {
            let canary = canaries.of(&base.name).and_then(|name| slots.get(name));
            let takes = canary.and_then(|slot| Some(Canary { slot: slot.clone(), takes: slot.wanted.load().canary.clone()? }));
            base.canary.store(takes.map(Arc::new));
        }
    }

    /// Reports the status of a plugin.
    fn report(&self, slot: &Arc<PluginSlot>) {
        if self.slot(&slot.name).is_some_and(|known| Arc::ptr_eq(&known, slot)) {
            self.options.verdicts.set(slot.verdict());
        }
    }

    /// The first try; others follow in the background where they may help.
    async fn load(self: Arc<Manager>, slot: Arc<PluginSlot>, plugin: Arc<WasmPlugin>, epoch: u64) -> Vec<Diagnostic> {
        match self.attempt(&slot, &plugin, epoch).await {
            Ok(findings) => findings,
            Err(refusal) => {
                slot.refused(epoch, &refusal);
                self.report(&slot);
                if refusal.transient && !self.options.only_try {
                    let (manager, of, plugin) = (self.clone(), slot.clone(), plugin.clone());
                    self.options.runtime.spawn(async move { manager.retry(of, plugin, epoch).await });
                }
                slot.status().refusal().into_iter().collect()
            }
        }
    }

    async fn retry(self: Arc<Manager>, slot: Arc<PluginSlot>, plugin: Arc<WasmPlugin>, epoch: u64) {
        let mut wait = self.options.retry.0;
        loop {
            sleep(wait).await;
            if slot.epoch() != epoch {
                return;
            }
            match self.attempt(&slot, &plugin, epoch).await {
                Ok(findings) => {
                    for finding in findings {
                        Logger::Wasm.warning(format_args!("{}: {}", plugin.name, finding.line()));
                    }
                    return;
                }
                Err(refusal) => {
                    // The first try has reported this for the configuration already.
                    let is_news = slot.refused(epoch, &refusal);
                    self.report(&slot);
                    if is_news {
                        Logger::Wasm.write(Level::Error, format_args!("{}: {}", plugin.name, refusal.message));
                    }
                    if !refusal.transient {
                        return;
                    }
                }
            }
            wait = (wait * 2).min(self.options.retry.1);
        }
    }

    /// Everything from the code to the publication. What is found on the way does not hold it up.
    async fn attempt(
        self: &Arc<Manager>,
        slot: &Arc<PluginSlot>,
        plugin: &Arc<WasmPlugin>,
        epoch: u64,
    ) -> Result<Vec<Diagnostic>, Refusal> {
        slot.answered.store(false, Ordering::Relaxed);
        slot.fetching.store(true, Ordering::Relaxed);
        let code = self.code(&plugin.code, slot.clone()).await;
        slot.fetching.store(false, Ordering::Relaxed);
        let code = code?;
        match self.decisions.as_ref().and_then(|decisions| decisions.find(plugin, &code.digest)) {
            Some(decision) if self.stand_by(slot, plugin, epoch, &decision).await => {
                Err(Refusal { reason: "PluginRolledBack", message: decision.reason, transient: false })
            }
            _ => self.begin(slot, plugin, epoch, code).await,
        }
    }

    /// From the code to the publication.
    async fn begin(
        self: &Arc<Manager>,
        slot: &Arc<PluginSlot>,
        plugin: &Arc<WasmPlugin>,
        epoch: u64,
        code: code::Code,
    ) -> Result<Vec<Diagnostic>, Refusal> {
        let (digest, image, kept) = (code.digest.clone(), code.image.clone(), code.kept.clone());
        let wasm = code.wasm.clone();
        let compiled = self.compiled(code).await?;
        let (own, upstream_findings) = Own::of(&plugin.name, &plugin.configuration, plugin.limits.callout_hosts.clone());
        let spec = spec(plugin);
        // Held from before the first instance on: shared data must not die between the trial and the workers.
        let vm = self.compilers.engine.shared().vm(&spec.vm_id);
        vm.limit(plugin.limits.shared_data_bytes as usize, plugin.limits.queue_bytes as usize);
        let trial = Startup {
            plugin: plugin.clone(),
            own: own.clone(),
            clusters: self.clusters.clone(),
            custom: self.custom.clone(),
            whose: For::Trial,
        };
        let turn = self.turn().await;
        let mut outcome = self.run(turn, trial, compiled.module(), spec.clone()).await;
        let lines = outcome.lines();
        let Outcome { started, asked } = outcome;
        let warnings: Vec<_> =
            upstream_findings.into_iter().map(|text| Diagnostic::warning("InvalidUpstream", text).from_origin(&plugin.origin)).collect();
        let mut findings = warnings.clone();
        let redis = if self.options.only_try { Vec::new() } else { check_redis(self.resolver(), &self.embedded, &asked.redis).await };
        findings.extend(unavailable(&redis, &plugin.origin));
        if slot.epoch() == epoch {
            let mut status = slot.lock_status();
            (status.redis, status.warnings) = (redis, warnings);
        }
        if let Err(why) = started.map(drop) {
            // The same code with the same configuration says the same again, unless what it asked for comes to be.
            return Err(Refusal { reason: "PluginNotStarted", message: why.to_string(), transient: asked.unknown });
        }
        if self.options.only_try {
            return Ok(findings);
        }
        if !asked.redis.is_empty() {
            self.options.runtime.spawn(self.clone().watch_redis(slot.clone(), asked.redis, epoch));
        }
        self.keep_code(plugin, &digest, &wasm).await;
        self.optimize(&compiled, plugin.name.clone(), wasm);
        self.publish(
            slot,
            plugin,
            epoch,
            Generation {
                number: 0,
                plugin: plugin.clone(),
                compiled,
                spec,
                digest,
                image,
                kept,
                since: SystemTime::now(),
                traps: AtomicU64::default(),
                tallies: Mutex::default(),
                recent: Recent::default(),
                upstreams: own,
                lines,
            },
        );
        *slot.vm.lock().unwrap_or_else(PoisonError::into_inner) = Some(vm);
        Ok(findings)
    }

    fn resolver(&self) -> &Arc<GuardedResolver> {
        &self.options.fetch.resolver
    }

    async fn code(&self, from: &WasmCode, slot: Arc<PluginSlot>) -> Result<code::Code, CodeError> {
        let code = code::load(from, &self.options.fetch, slot).await;
        if from.is_remote() {
            let (count, on_disk) = match &code {
                Ok(code) if code.from == code::From::Disk => (None, true),
                Ok(_) => (Some(&self.fetches.success), false),
                Err(e) if e.mismatch => (Some(&self.fetches.checksum_mismatched), false),
                Err(_) => (Some(&self.fetches.download_failure), false),
            };
            count.into_iter().for_each(|c| _ = c.fetch_add(1, Ordering::Relaxed));
            let looked = if on_disk { &self.fetches.disk_hit } else { &self.fetches.disk_miss };
            looked.fetch_add(1, Ordering::Relaxed);
        }
        code
    }

    /// Keeps the status true for as long as this version is the wanted one; says what changes.
    async fn watch_redis(self: Arc<Manager>, slot: Arc<PluginSlot>, wishes: Vec<RedisWish>, epoch: u64) {
        loop {
            sleep(self.options.redis_check).await;
            let now = check_redis(self.resolver(), &self.embedded, &wishes).await;
            if slot.epoch() != epoch {
                return;
            }
            let before = std::mem::replace(&mut slot.lock_status().redis, now.clone());
            self.report(&slot);
            for server in now.iter().filter(|s| !before.contains(s)) {
                match &server.error {
                    None => Logger::Wasm.info(format_args!("{}: Redis `{}` works", slot.name, server.name)),
                    Some(e) => Logger::Wasm.warning(format_args!("{}: Redis `{}`: {e}", slot.name, server.name)),
                }
            }
        }
    }

    /// Compiled, from memory or disk where it is known.
    async fn compiled(&self, code: code::Code) -> Result<Arc<Compiled>, Refusal> {
        let refused = |message, transient| Refusal { reason: "InvalidPlugin", message, transient };
        let compiled = self.compilers.get(&code.digest, code.wasm).await.map_err(|e| refused(format!("the host failed: {e}"), true))?;
        let used: Vec<_> = self.slots().iter().filter_map(|s| s.current()).map(|g| g.digest.clone()).chain([code.digest]).collect();
        self.compilers.keep(&used).await;
        compiled.map_err(|e| refused(e.to_string(), false))
    }

    /// Has code that is not optimized yet optimized, and the workers told.
    fn optimize(self: &Arc<Manager>, compiled: &Arc<Compiled>, name: Name, wasm: Bytes) {
        let (manager, compiled) = (self.clone(), Arc::downgrade(compiled));
        self.options.runtime.spawn(async move {
            if manager.compilers.clone().improve(compiled, &name, wasm).await {
                Logger::Wasm.info(format_args!("{name}: its code is optimized now"));
                manager.ring();
            }
        });
    }

    /// Registers a worker and returns its number.
    pub(super) fn join(&self) -> usize {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts an instance for a worker, on a blocking thread. `None`: the generation has been replaced.
    pub(super) async fn start(self: Arc<Manager>, slot: Arc<PluginSlot>, generation: Arc<Generation>, whose: For) -> Option<Outcome> {
        let turn = self.turn().await;
        if slot.current().is_none_or(|g| g.number != generation.number) {
            return None;
        }
        let startup = Startup::of(&generation, &self.clusters, &self.custom, whose);
        Some(self.run(turn, startup, generation.compiled.module(), generation.spec.clone()).await)
    }

    /// Waits until one more instance may start. The holder of a turn waits for nothing else.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.starts.clone().acquire_owned().await.ok()
    }

    /// The guest keeps its turn until it is done, even if its result is no longer wanted.
    async fn run(&self, turn: Option<OwnedSemaphorePermit>, startup: Startup, module: Module, spec: PluginSpec) -> Outcome {
        let done = self.blocking(move || {
            let _turn = turn;
            startup.run(&module, &spec)
        });
        let done = done.await;
        done.unwrap_or_else(|e| Outcome { started: Err(NotStarted::Host(e.message)), asked: Default::default() })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let done = self.options.runtime.spawn_blocking(work).await;
        done.map_err(|e| Refusal { reason: "InvalidPlugin", message: format!("the host failed: {e}"), transient: true })
    }
}

/// Removes fetched code that nobody uses any more from the disk.
async fn collect(manager: Weak<Manager>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(manager) = manager.upgrade() else { return };
        let Some(store) = manager.options.fetch.store.clone() else { return };
        let max = manager.options.max_fetched_bytes;
        let in_use: HashSet<String> = manager.slots().iter().filter_map(|s| s.current()).flat_map(|g| g.kept.clone()).collect();
        let done = manager.options.runtime.spawn_blocking(move || {
            // Other processes with this folder see it, too.
            in_use.iter().for_each(|name| store.touch(name));
            store.collect(&in_use, max, SystemTime::now())
        });
        if let Ok(Err(e)) = done.await {
            Logger::Wasm.warning(format_args!("fetched code on disk cannot be collected: {e}"));
        }
    }
}

async fn check_redis(resolver: &GuardedResolver, embedded: &Embedded, wishes: &[RedisWish]) -> Vec<UpstreamStatus> {
    let mut out: Vec<UpstreamStatus> = Vec::new();
    for wish in wishes {
        let verdict = match &wish.to {
            Ok((to, options)) => redis::check(resolver, embedded, to, options).await,
            Err(e) => Err(redis::RedisError::Init(e.clone())),
        };
        let name = redact(&wish.name);
        out.retain(|o| o.name != name);
        out.push(UpstreamStatus { name, error: verdict.err().map(|e| e.to_string()) });
    }
    out
}

/// Warnings of Redis servers that do not work.
fn unavailable<'a>(redis: &'a [UpstreamStatus], origin: &'a Origin) -> impl Iterator<Item = Diagnostic> + 'a {
    redis.iter().filter_map(|server| {
        let text = format!("Redis `{}`: {}", server.name, server.error.as_ref()?);
        Some(Diagnostic::warning("RedisUnavailable", text).from_origin(origin))
    })
}

/// Whether only the share of a canary differs: nothing needs to be started.
fn is_same_version(a: &WasmPlugin, b: &WasmPlugin) -> bool {
    a.canary != b.canary && a.canary.as_ref().map(|c| &c.of) == b.canary.as_ref().map(|c| &c.of) && {
        WasmPlugin { canary: b.canary.clone(), ..a.clone() } == *b
    }
}

/// What an instance is started from.
fn spec(plugin: &WasmPlugin) -> PluginSpec {
    let vm_id = if plugin.vm_id.is_empty() { plugin.name.to_string() } else { plugin.vm_id.clone() };
    PluginSpec {
        root_id: plugin.root_id.clone(),
        vm_id,
        configuration: plugin.configuration.as_bytes().to_vec(),
        environment: plugin.environment.clone(),
        limits: Limits {
            memory_bytes: usize::try_from(plugin.limits.memory_bytes).unwrap_or(usize::MAX),
            call_deadline: plugin.limits.call_deadline,
            start_deadline: plugin.limits.start_deadline,
            log_bytes: plugin.limits.log_bytes as usize,
        },
        ..PluginSpec::new(&*plugin.name)
    }
}

impl PluginSlot {
    fn verdict(&self) -> Verdict {
        let status = self.status();
        let state = match status.state {
            PluginState::Loading | PluginState::Updating => State::Warming,
            PluginState::Active => State::Live,
            PluginState::Stale | PluginState::Failed => State::Refused,
        };
        let findings = status.refusal().into_iter().chain(status.warnings.iter().cloned());
        let findings = findings.chain(unavailable(&status.redis, &status.origin)).collect();
        let id = Id::new(ResourceKind::Plugin, self.name.clone());
        Verdict { id, revision: self.revision.load(Ordering::Relaxed), state, findings }
    }

    fn updating(&self, plugin: &WasmPlugin) {
        let mut status = self.lock_status();
        status.describe(plugin);
        let state = if status.generation > 0 { PluginState::Updating } else { PluginState::Loading };
        status.become_state(state, None);
    }

    /// Records the refusal. Returns whether its message is a new one.
    fn refused(&self, epoch: u64, refusal: &Refusal) -> bool {
        let mut status = self.lock_status();
        if self.epoch() != epoch {
            return false;
        }
        self.refused_versions.fetch_add(1, Ordering::Relaxed);
        let state = if status.generation > 0 { PluginState::Stale } else { PluginState::Failed };
        let news = status.reason.as_deref() != Some(&refusal.message);
        status.history.refused(&refusal.message);
        status.become_state(state, Some(refusal.message.clone()));
        status.cause = refusal.reason;
        news
    }
}
