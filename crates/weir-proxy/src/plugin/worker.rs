//! The plugins of one worker: which instance takes new streams, which ones finish, when another is started.
use super::{
    Generation, Manager, PluginEntry, PluginSlot, PluginStream,
    callout::Callouts,
    hosted::Hosted,
    metrics::{Shard, add},
    redis::Pool,
    services::{Common, HostServices},
};
use crate::{logging::Logger, worker::Worker};
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::{spawn_local, yield_now},
    time::{MissedTickBehavior, interval, sleep},
};
use weir_config::model::FailStrategy;
use weir_wasm::Stream;

/// How often gauges are brought up to date and what has finished is freed.
const MAINTENANCE: Duration = Duration::from_secs(1);
/// An instance that serves this long gets a spare beside it, ready to take over after a trap.
const SPARE_AFTER: Duration = Duration::from_secs(2);
/// A retired instance without streams is waited for this long, for its callouts and its root context.
const RETIRE_WITHIN: Duration = Duration::from_secs(30);
/// The first instance after a trap comes at once; then there is a pause with jitter. It doubles up to the minute, but not for
/// `FAIL_RELOAD`, as in Envoy.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// An instance that has lived this long has a clean record.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// From other threads.
pub(super) enum Posted {
    /// A queue that a plugin of this slot has registered got an entry.
    Queue { slot: usize, queue: u32 },
    /// An instance of this generation has trapped on this worker.
    Trapped { slot: Arc<PluginSlot>, generation: u64 },
}

/// All plugin instances of one worker. Lives on the worker's thread.
pub struct WorkerPlugins {
    manager: Arc<Manager>,
    common: Rc<Common>,
    /// By slot id.
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
}

/// One plugin on this worker.
pub(super) struct Entry {
    pub slot: Arc<PluginSlot>,
    shard: Arc<Shard>,
    common: Rc<Common>,
    /// Takes new streams.
    active: RefCell<Option<Active>>,
    spare: RefCell<Option<Rc<Hosted>>>,
    retiring: RefCell<Vec<Retiring>>,
    /// Traps and failed starts since the record was clean.
    failures: Cell<u32>,
    retry_at: Cell<Option<Instant>>,
    /// The generation that trapped or did not start here last: only that one waits for the back-off.
    failed: Cell<u64>,
    last_said: Cell<Option<Instant>>,
}

struct Active {
    hosted: Rc<Hosted>,
    since: Instant,
}

struct Retiring {
    hosted: Rc<Hosted>,
    /// When its last stream ended.
    idle_since: Option<Instant>,
    shutting_down: bool,
}

impl WorkerPlugins {
    /// Must be called on the worker's thread, within its runtime: local tasks are started, which end with the value.
    pub fn new(manager: &Arc<Manager>, worker: Weak<Worker>) -> Rc<WorkerPlugins> {
        let (post, posted) = mpsc::unbounded_channel();
        let common = Rc::new(Common {
            worker,
            clusters: manager.clusters().clone(),
            custom: manager.custom().clone(),
            callouts: Rc::new(Callouts::default()),
            redis: Pool::default(),
            post,
        });
        let plugins = Rc::new(WorkerPlugins { manager: manager.clone(), common, entries: RefCell::default() });
        spawn_local(tend(Rc::downgrade(&plugins), posted, manager.changes()));
        plugins
    }

    /// The way of a new stream into the plugin. `view` is what the guest sees of it.
    pub fn stream(&self, slot: &Arc<PluginSlot>, view: Rc<dyn Stream>) -> PluginEntry {
        let entry = self.entry(slot);
        let Some(hosted) = entry.ready() else {
            return match slot.fail_strategy() {
                FailStrategy::FailOpen => {
                    add(&entry.shard.skipped_streams, 1);
                    PluginEntry::Skip
                }
                FailStrategy::FailClose | FailStrategy::FailReload => {
                    add(&entry.shard.failed_streams, 1);
                    PluginEntry::Fail
                }
            };
        };
        let callbacks = hosted.generation.module.callbacks();
        let sees_streams = callbacks.request_headers
            || callbacks.request_body
            || callbacks.request_trailers
            || callbacks.response_headers
            || callbacks.response_body
            || callbacks.response_trailers
            || callbacks.log
            || callbacks.done;
        if sees_streams { PluginEntry::Run(PluginStream::new(hosted, view)) } else { PluginEntry::Skip }
    }

    fn entry(&self, slot: &Arc<PluginSlot>) -> Rc<Entry> {
        if let Some(Some(entry)) = self.entries.borrow().get(slot.id) {
            return entry.clone();
        }
        let mut entries = self.entries.borrow_mut();
        if entries.len() <= slot.id {
            entries.resize(slot.id + 1, None);
        }
        let entry = Rc::new(Entry {
            slot: slot.clone(),
            shard: slot.add_shard(),
            common: self.common.clone(),
            active: RefCell::default(),
            spare: RefCell::default(),
            retiring: RefCell::default(),
            failures: Cell::new(0),
            retry_at: Cell::new(None),
            failed: Cell::new(0),
            last_said: Cell::new(None),
        });
        entries[slot.id] = Some(entry.clone());
        entry
    }

    fn all(&self) -> Vec<Rc<Entry>> {
        self.entries.borrow().iter().flatten().cloned().collect()
    }

    /// New generations are started here, between requests.
    async fn catch_up(&self) {
        for slot in self.manager.slots() {
            self.entry(&slot).catch_up();
            yield_now().await;
        }
    }

    fn maintain(&self) {
        let slots = self.manager.slots();
        for entry in self.all() {
            // A plugin that is gone is let go here, not at the change: until the next snapshot it may get streams.
            if slots.iter().any(|s| Arc::ptr_eq(s, &entry.slot)) {
                entry.maintain();
            } else if entry.let_go() {
                self.entries.borrow_mut()[entry.slot.id] = None;
            }
        }
        if let Some(worker) = self.common.worker.upgrade() {
            self.common.callouts.sweep(&worker);
        }
    }

    fn take(&self, posted: Posted) {
        match posted {
            Posted::Queue { slot, queue } => {
                let entry = self.entries.borrow().get(slot).cloned().flatten();
                let hosted = entry.and_then(|e| e.active.borrow().as_ref().map(|a| a.hosted.clone()));
                if let Some(hosted) = hosted {
                    hosted.on_queue_ready(queue);
                }
            }
            Posted::Trapped { slot, generation } => self.manager.trapped(&slot, generation),
        }
    }
}

/// The one task of a worker's plugins.
async fn tend(plugins: Weak<WorkerPlugins>, mut posted: mpsc::UnboundedReceiver<Posted>, mut changes: tokio::sync::watch::Receiver<u64>) {
    let mut pulse = interval(MAINTENANCE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    changes.mark_changed();
    loop {
        let message = tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
            posted = posted.recv() => posted,
            _ = pulse.tick() => {
                let Some(plugins) = plugins.upgrade() else { return };
                plugins.maintain();
                continue;
            }
        };
        let Some(plugins) = plugins.upgrade() else { return };
        match message {
            Some(message) => plugins.take(message),
            None => plugins.catch_up().await,
        }
    }
}

impl Entry {
    /// The instance for a new stream. One is started here and now only where none could be started before: a slot that
    /// is seen for the first time.
    fn ready(self: &Rc<Entry>) -> Option<Rc<Hosted>> {
        if let Some(active) = &*self.active.borrow() {
            return Some(active.hosted.clone());
        }
        self.catch_up();
        self.active.borrow().as_ref().map(|a| a.hosted.clone())
    }

    /// Makes the newest generation the one that takes streams.
    fn catch_up(self: &Rc<Entry>) {
        let Some(newest) = self.slot.current() else { return };
        let serving = self.active.borrow().as_ref().map(|a| a.hosted.generation.number);
        if serving == Some(newest.number) {
            return;
        }
        if self.failed.get() != newest.number {
            // Another version has a clean record.
            self.failures.set(0);
        } else if self.retry_at.get().is_some_and(|at| at > Instant::now()) {
            add(&self.shard.vm_reload_backoff, 1);
            return;
        }
        match self.start(&newest) {
            Ok(hosted) => {
                if self.failures.get() > 0 {
                    add(&self.shard.vm_reload_success, 1);
                }
                self.activate(hosted);
            }
            Err(why) => {
                if self.failures.get() > 0 {
                    add(&self.shard.vm_reload_failure, 1);
                }
                self.fail(newest.number);
                Logger::Wasm.write(
                    crate::logging::Level::Error,
                    format_args!("{}: generation {} does not start on a worker: {why}", self.slot.name, newest.number),
                );
            }
        }
    }

    fn start(self: &Rc<Entry>, generation: &Arc<Generation>) -> Result<Rc<Hosted>, String> {
        let services = HostServices::new(self.slot.id, generation.clone(), self.common.clone(), self.shard.clone());
        Hosted::start(self, generation, services)
    }

    fn activate(self: &Rc<Entry>, hosted: Rc<Hosted>) {
        self.spare.take();
        hosted.start_ticks();
        let before = self.active.replace(Some(Active { hosted, since: Instant::now() }));
        if let Some(before) = before {
            self.retire(before.hosted);
        }
    }

    fn retire(&self, hosted: Rc<Hosted>) {
        self.retiring.borrow_mut().push(Retiring { hosted, idle_since: None, shutting_down: false });
    }

    /// For a plugin that is gone; whether nothing of it is left.
    fn let_go(&self) -> bool {
        self.spare.take();
        if let Some(active) = self.active.take() {
            self.retire(active.hosted);
        }
        self.tidy();
        self.retiring.borrow().is_empty()
    }

    /// An instance trapped. A spare takes its place at once, else a new one is started in the next turn of the loop, or
    /// after the back-off.
    pub fn lost(self: &Rc<Entry>, hosted: &Rc<Hosted>) {
        let was_active = self.active.borrow().as_ref().is_some_and(|a| Rc::ptr_eq(&a.hosted, hosted));
        if !was_active {
            return;
        }
        let clean = self.active.borrow().as_ref().is_some_and(|a| a.since.elapsed() > FORGIVEN_AFTER);
        self.active.take();
        if clean {
            self.failures.set(0);
        }
        let first = self.failures.get() == 0;
        self.fail(hosted.generation.number);
        let trapped = Posted::Trapped { slot: self.slot.clone(), generation: hosted.generation.number };
        // Looked at when the guest is off the stack and its streams have been told.
        let _ = self.common.post.send(trapped);
        if first {
            self.retry_at.set(None);
        }
        let current = self.slot.current().map(|g| g.number);
        let spare = self.spare.take().filter(|s| first && Some(s.generation.number) == current);
        match spare {
            Some(spare) => {
                add(&self.shard.vm_reload_success, 1);
                self.activate(spare);
            }
            None => self.restart_later(),
        }
    }

    fn restart_later(self: &Rc<Entry>) {
        let wait = self.retry_at.get().map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let entry = Rc::downgrade(self);
        spawn_local(async move {
            sleep(wait).await;
            if let Some(entry) = entry.upgrade() {
                entry.catch_up();
            }
        });
    }

    fn fail(&self, generation: u64) {
        self.failed.set(generation);
        let n = self.failures.get();
        let wait = pause(self.slot.fail_strategy(), n);
        self.failures.set(n + 1);
        self.retry_at.set(Some(Instant::now() + wait.mul_f64(jitter())));
    }

    fn maintain(self: &Rc<Entry>) {
        self.tidy();
        let active = self.active.borrow().as_ref().map(|a| (a.hosted.clone(), a.since));
        match active {
            None => self.catch_up(),
            Some((hosted, since)) => {
                hosted.measure();
                if since.elapsed() > FORGIVEN_AFTER {
                    self.failures.set(0);
                }
                if hosted.wants_rebuild() {
                    self.rebuild(&hosted);
                } else if since.elapsed() > SPARE_AFTER && self.spare.borrow().is_none() {
                    self.make_spare(&hosted.generation);
                }
            }
        }
    }

    fn make_spare(self: &Rc<Entry>, generation: &Arc<Generation>) {
        if self.retry_at.get().is_some_and(|at| at > Instant::now()) {
            return;
        }
        match self.start(generation) {
            Ok(spare) => *self.spare.borrow_mut() = Some(spare),
            Err(why) => {
                self.fail(generation.number);
                self.say(|| format!("no spare instance: {why}"));
            }
        }
    }

    /// The guest asked for a fresh instance of the same version (`wasm_need_rebuild`).
    fn rebuild(self: &Rc<Entry>, hosted: &Rc<Hosted>) {
        let spare = self.spare.take().filter(|s| s.generation.number == hosted.generation.number);
        match spare.map_or_else(|| self.start(&hosted.generation), Ok) {
            Ok(fresh) => {
                add(&self.shard.rebuilds, 1);
                self.activate(fresh);
            }
            Err(why) => self.say(|| format!("not rebuilt: {why}")),
        }
    }

    /// Lets go of retired instances that nothing needs any more, each after the end of its root context.
    fn tidy(&self) {
        let now = Instant::now();
        let mut list = std::mem::take(&mut *self.retiring.borrow_mut());
        list.retain_mut(|r| {
            r.hosted.measure();
            if r.hosted.is_dead() {
                return false;
            }
            if r.hosted.open.get() > 0 {
                r.idle_since = None;
                return true;
            }
            let waited = now.duration_since(*r.idle_since.get_or_insert(now));
            if !r.shutting_down && (!r.hosted.is_busy() || waited > RETIRE_WITHIN) {
                r.shutting_down = true;
                r.hosted.shut_down();
            }
            !(r.shutting_down && r.hosted.is_done()) && waited <= RETIRE_WITHIN
        });
        // Ending a context may have added to the list.
        self.retiring.borrow_mut().extend(list);
    }

    /// At most once a second: what would otherwise be said for each request.
    pub fn say(&self, message: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.last_said.get().is_none_or(|t| now.duration_since(t) >= Duration::from_secs(1)) {
            self.last_said.set(Some(now));
            Logger::Wasm.warning(format_args!("{}: {}", self.slot.name, message()));
        }
    }
}

/// Before the next instance, after so many failures.
fn pause(strategy: FailStrategy, failures: u32) -> Duration {
    match strategy {
        FailStrategy::FailReload => BACKOFF.0,
        FailStrategy::FailClose | FailStrategy::FailOpen => BACKOFF.0.saturating_mul(1 << failures.min(8)).min(BACKOFF.1),
    }
}

/// Between 0.5 and 1.5, so that workers do not all start at once.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    0.5 + (RandomState::new().hash_one(0u8) % 1000) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_failure_grows_unless_the_plugin_is_to_be_reloaded() {
        for (strategy, wanted) in
            [(FailStrategy::FailClose, [1, 2, 4, 60]), (FailStrategy::FailOpen, [1, 2, 4, 60]), (FailStrategy::FailReload, [1; 4])]
        {
            let seconds = [0, 1, 2, 20].map(|failures| pause(strategy, failures).as_secs());
            assert_eq!(seconds, wanted, "{strategy:?}");
        }
    }
}
