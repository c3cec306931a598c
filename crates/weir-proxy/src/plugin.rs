//! Wasm plugins. The [`Manager`] loads, compiles and tries each version off the request path and publishes it as a
//! [`Generation`] in the plugin's [`PluginSlot`]; each worker's [`WorkerPlugins`] starts an instance of it and gives new
//! streams to that, while old streams finish where they began. A version that fails never replaces a good one.
mod asked;
mod callout;
mod canary;
pub mod check;
pub mod code;
mod compile;
mod cpu;
mod decisions;
mod embedded;
mod grpc;
mod history;
mod host_services;
mod instance;
mod manager;
pub mod metrics;
pub mod property;
mod redis;
mod rollback;
mod scope;
mod startup;
mod status;
mod tally;
pub mod upstream;
mod view;
mod worker;

pub use instance::{FAILED, PluginEntry, PluginStream};
pub(crate) use manager::FirstTry;
pub use manager::{Loading, MAX_FETCHED_BYTES, Manager, ManagerOptions};
pub use status::{PluginState, Status, UpstreamStatus};
pub use view::{KEYS_OF_STATE, SPECIAL_KEYS, View};
pub use worker::{Waiting, WorkerPlugins};

use crate::{head_access::Fields, stats::PluginStats, stream::Stream};
use arc_swap::{ArcSwap, ArcSwapOption};
use canary::Canary;
use metrics::Shards;
use rollback::{Recent, Watch};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tally::{Tally, Totals};
use weir_config::model::{FailStrategy, Name, Title, WasmPlugin};

/// One version of a plugin that was started and configured once already: code, configuration and limits.
pub struct Generation {
    /// Counts up from 1 per plugin.
    pub number: u64,
    pub plugin: Arc<WasmPlugin>,
    pub(crate) compiled: Arc<compile::Compiled>,
    pub spec: weir_wasm::PluginSpec,
    /// SHA-256 of the module.
    pub digest: String,
    /// The image that it is of, with its digest.
    pub image: Option<Arc<str>>,
    /// The files on disk that it is found by.
    pub(crate) kept: Vec<String>,
    pub since: SystemTime,
    /// Of its instances, while it is the one that serves.
    traps: AtomicU64,
    /// By worker.
    tallies: Mutex<BTreeMap<usize, Arc<Tally>>>,
    recent: Recent,
    /// Names that the configuration itself gives an address.
    pub(crate) upstreams: upstream::Own,
    /// What the trial logged, since each instance logs the same.
    pub(crate) lines: Arc<[String]>,
}

impl Generation {
    /// The same version once more.
    fn again(&self, number: u64) -> Generation {
        Generation {
            number,
            plugin: self.plugin.clone(),
            compiled: self.compiled.clone(),
            spec: self.spec.clone(),
            digest: self.digest.clone(),
            image: self.image.clone(),
            kept: self.kept.clone(),
            since: SystemTime::now(),
            traps: AtomicU64::default(),
            tallies: Mutex::default(),
            recent: Recent::default(),
            upstreams: self.upstreams.clone(),
            lines: self.lines.clone(),
        }
    }

    /// Of a worker.
    fn tally(&self, worker: usize) -> Arc<Tally> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).entry(worker).or_default().clone()
    }

    /// What it has done so far.
    fn totals(&self) -> Totals {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        Totals::of(tallies.values().map(|tally| &**tally), self.traps.load(Ordering::Relaxed))
    }
}

/// The place of one plugin, by name; stays while generations come and go.
pub struct PluginSlot {
    pub name: Name,
    /// Index for per-worker tables; never given twice.
    pub id: usize,
    /// The response code detail of streams that are refused because the plugin cannot run: `wasm_fail_stream{NAME}`.
    pub failure: Box<str>,
    /// What the configuration asks for now, good or not.
    wanted: ArcSwap<WasmPlugin>,
    /// Raised with each change of `wanted`: a load that is overtaken publishes nothing.
    epoch: AtomicU64,
    /// Of its newest generation.
    number: AtomicU64,
    /// Of the delta that brought `wanted`.
    revision: AtomicU64,
    /// It was tried once: connection managers may use it.
    tried: AtomicBool,
    /// Code is on its way.
    fetching: AtomicBool,
    /// The server that it is fetched from has answered.
    answered: AtomicBool,
    current: ArcSwapOption<Generation>,
    /// Takes a part of its streams.
    canary: ArcSwapOption<Canary>,
    status: Mutex<Status>,
    refused_versions: AtomicU64,
    rollbacks: AtomicU64,
    stream_overflows: AtomicU64,
    watch: Mutex<Option<Watch>>,
    shards: Shards,
    cpu: cpu::CpuBudget,
    /// By direction: it has changed the length of a body whose `content-length` was sent already.
    resizes: [AtomicBool; 2],
    /// By worker: the newest generation that has started there or failed to.
    reached: Mutex<HashMap<usize, u64>>,
    /// Keeps shared data and queues while no instance lives.
    vm: Mutex<Option<Arc<weir_wasm::shared::Vm>>>,
}

impl weir_net::http::fetch::Watch for PluginSlot {
    fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }
}

impl PluginSlot {
    pub(crate) fn new(id: usize, plugin: Arc<WasmPlugin>) -> PluginSlot {
        PluginSlot {
            name: plugin.name.clone(),
            id,
            failure: format!("{FAILED}{{{}}}", plugin.name).into(),
            refused_versions: AtomicU64::new(0),
            rollbacks: AtomicU64::new(0),
            stream_overflows: AtomicU64::new(0),
            watch: Mutex::default(),
            status: Mutex::new(Status::new(&plugin)),
            wanted: ArcSwap::new(plugin),
            epoch: AtomicU64::new(0),
            number: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            tried: AtomicBool::new(false),
            fetching: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            current: ArcSwapOption::empty(),
            canary: ArcSwapOption::empty(),
            shards: Shards::default(),
            cpu: Default::default(),
            resizes: Default::default(),
            reached: Mutex::default(),
            vm: Mutex::default(),
        }
    }

    /// The generation that new instances are started from.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// Whether the plugin is for this stream only if a rule matches.
    pub(crate) fn is_scoped(&self) -> bool {
        self.wanted.load().scope.is_some()
    }

    /// Whether the stream, with the route that it has now, is the plugin's.
    pub(crate) fn covers(&self, stream: &Stream) -> bool {
        self.wanted.load().scope.as_ref().is_none_or(|scope| scope::covers(scope, stream))
    }

    /// The canary that takes this stream; `route` is the object of its route.
    pub(crate) fn canary(&self, request: &dyn Fields, route: Option<&Title>, random: impl FnOnce() -> u64) -> Option<Arc<PluginSlot>> {
        let canary = self.canary.load();
        canary.as_ref().filter(|canary| canary::takes(&canary.takes, request, route, random)).map(|canary| canary.slot.clone())
    }

    pub fn status(&self) -> Status {
        let compiler = self.current().map(|g| g.compiled.compiler());
        Status { compiler, ..self.lock_status().clone() }
    }

    /// What happens to streams while the plugin cannot run.
    pub fn fail_strategy(&self) -> FailStrategy {
        self.wanted.load().fail_strategy
    }

    /// How many bytes each part of a stream may have once the plugin has added to it.
    pub(crate) fn stream_limit(&self) -> usize {
        self.wanted.load().limits.stream_bytes as usize
    }

    pub(crate) fn count_overflow(&self) {
        self.stream_overflows.fetch_add(1, Ordering::Relaxed);
    }

    fn lock_status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_watch(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a worker has started this generation, or failed to.
    fn reach(&self, worker: usize, generation: u64) {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, generation);
    }

    /// Whether at least so many workers have started the current generation, or failed to.
    fn reached(&self, workers: usize) -> bool {
        let Some(current) = self.current() else { return false };
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.values().filter(|g| **g >= current.number).count() >= workers
    }

    pub(crate) fn is_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn add_stats(&self) -> Arc<PluginStats> {
        self.shards.add()
    }
}

#[cfg(test)]
mod tests;
