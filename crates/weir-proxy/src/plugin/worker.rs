//! The plugins of one worker: which instance takes new streams, which ones finish, when another is started.
use super::{
    Generation, Manager, PluginEntry, PluginSlot, PluginStream,
    asked::{Asked, Posted},
    host_services::{Common, HostServices},
    instance::{Hosted, Owner, Replace},
    redis::Pool,
    startup::{For, NotStarted, Outcome},
};
use crate::{app_log::Logger, stats::PluginStats, upstream::direct::DirectClusters, worker::Worker};
use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, mpsc},
    task::{spawn_local, yield_now},
    time::{MissedTickBehavior, interval, sleep},
};
use weir_config::model::FailStrategy;
use weir_wasm::Stream;

/// How often gauges are brought up to date and what has finished is freed.
const MAINTENANCE: Duration = Duration::from_secs(1);
/// An instance that serves this long gets a spare beside it, ready to take over after a trap.
const SPARE_AFTER: Duration = Duration::from_secs(2);
/// A stream waits for an instance that is being started for at most so many of its start deadlines.
const WAITED_DEADLINES: u32 = 4;
/// A retired instance without streams is waited for this long, for its callouts and its root context.
const RETIRE_WITHIN: Duration = Duration::from_secs(30);
/// Before another instance after one that could not start, with jitter. It doubles up to the minute, but not for `FAIL_RELOAD`, as
/// in Envoy. One that has served streams is replaced at once, however it ended.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// An instance that has lived this long has a clean record. For this long after a trap, each new instance gets a spare at once.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// All plugin instances of one worker. Lives on the worker's thread.
pub struct WorkerPlugins {
    manager: Arc<Manager>,
    common: Rc<Common>,
    /// By slot id.
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
}

/// One plugin on this worker.
pub(super) struct Entry {
    manager: Arc<Manager>,
    pub slot: Arc<PluginSlot>,
    stats: Arc<PluginStats>,
    common: Rc<Common>,
    /// Takes new streams.
    active: RefCell<Option<Active>>,
    spare: RefCell<Option<Rc<Hosted>>>,
    /// The generation that is being started on another thread.
    starting: Cell<Option<u64>>,
    /// Notified when that start has ended.
    started: Arc<Notify>,
    trapped_at: Cell<Option<Instant>>,
    retiring: RefCell<Vec<Retiring>>,
    /// Failed starts since the record was clean.
    failures: Cell<u32>,
    retry_at: Cell<Option<Instant>>,
    /// The generation that last failed to start here: only that one waits for the back-off.
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
        let directs: Rc<DirectClusters> = Rc::default();
        let common = Rc::new(Common {
            number: manager.join(),
            redis: Pool::new(worker.clone(), directs.clone()),
            directs,
            worker,
            clusters: manager.clusters().clone(),
            custom: manager.custom().clone(),
            post,
        });
        let plugins = Rc::new(WorkerPlugins { manager: manager.clone(), common, entries: RefCell::default() });
        spawn_local(tend(Rc::downgrade(&plugins), posted, manager.changes()));
        plugins
    }

    /// The first of these plugins that has no instance yet but is starting one: a new stream should wait for it.
    pub fn missing<'a>(&self, slots: impl IntoIterator<Item = &'a Arc<PluginSlot>>) -> Option<Waiting> {
        let starts = |slot: &Arc<PluginSlot>| {
            let entry = self.entry(slot);
            entry.is_starting().then(|| Waiting { entry })
        };
        slots.into_iter().find_map(starts)
    }

    /// Whether an instance takes new streams.
    pub fn runs(&self, slot: &Arc<PluginSlot>) -> bool {
        self.entry(slot).active.borrow().is_some()
    }

    /// The way of a new stream into the plugin. `view` is what the guest sees of it.
    pub fn stream(&self, slot: &Arc<PluginSlot>, view: Rc<dyn Stream>) -> PluginEntry {
        let entry = self.entry(slot);
        let hosted = entry.active();
        let limited = hosted.as_ref().is_some_and(|hosted| hosted.is_out_of_cpu());
        if limited {
            entry.stats.cpu_limited.inc();
        }
        let Some(hosted) = hosted.filter(|_| !limited) else {
            return match slot.fail_strategy() {
                FailStrategy::FailOpen => {
                    entry.stats.skipped_streams.inc();
                    PluginEntry::Skip
                }
                FailStrategy::FailClose | FailStrategy::FailReload => {
                    entry.stats.failed_streams.inc();
                    PluginEntry::Fail
                }
            };
        };
        let callbacks = &hosted.generation.compiled.callbacks;
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
            manager: self.manager.clone(),
            slot: slot.clone(),
            stats: slot.add_stats(),
            common: self.common.clone(),
            active: RefCell::default(),
            spare: RefCell::default(),
            starting: Cell::new(None),
            started: Arc::default(),
            trapped_at: Cell::new(None),
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
            self.common.directs.sweep(&worker.clusters);
        }
    }

    fn take(&self, posted: Posted) {
        match posted {
            Posted::Queue { slot, queue, waiting } => {
                waiting.fetch_sub(1, Ordering::Relaxed);
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

/// An instance that is being started.
pub struct Waiting {
    entry: Rc<Entry>,
}

impl Waiting {
    /// The longest that a stream waits. A start is several callbacks, each with its own deadline, and may wait for its turn.
    pub fn patience(&self) -> Duration {
        self.entry.slot.current().map_or(Duration::ZERO, |g| g.plugin.limits.start_deadline.saturating_mul(WAITED_DEADLINES))
    }

    /// Counts a stream that waits.
    pub fn count(&self) {
        self.entry.stats.waited_streams.inc();
    }

    /// Waits until the start has ended, well or not.
    pub fn over(&self) -> impl Future<Output = ()> + use<> {
        self.entry.started.clone().notified_owned()
    }
}

impl Entry {
    /// Whether there is no active instance, but one is being started.
    fn is_starting(self: &Rc<Entry>) -> bool {
        if self.active.borrow().is_some() {
            return false;
        }
        self.catch_up();
        self.starting.get().is_some()
    }

    /// Starts the newest generation, which takes new streams once its instance is ready.
    fn catch_up(self: &Rc<Entry>) {
        let Some(newest) = self.slot.current() else { return self.stop() };
        let serving = self.active.borrow().as_ref().map(|a| a.hosted.generation.number);
        if serving == Some(newest.number) {
            // The other reasons are looked at once a second: a plugin whose limits are too low must not start all the time.
            if let Some(active) = self.active().filter(|a| a.to_replace() == Some(Replace::Optimized)) {
                self.replace(&active);
            }
            return;
        }
        if self.starting.get() == Some(newest.number) {
            return;
        }
        if self.failed.get() != newest.number {
            // Another version has a clean record.
            self.failures.set(0);
        } else if self.pauses() {
            self.stats.vm_reload_backoff.inc();
            return;
        }
        self.start(&newest);
    }

    fn pauses(&self) -> bool {
        self.retry_at.get().is_some_and(|at| at > Instant::now())
    }

    /// Starts an instance away from this thread. It becomes the active one, or the spare if there is an active one.
    fn start(self: &Rc<Entry>, generation: &Arc<Generation>) {
        if self.starting.get() == Some(generation.number) {
            return;
        }
        self.starting.set(Some(generation.number));
        let whose = For::Worker { slot: self.slot.id, post: self.common.post.clone(), known: generation.lines.clone() };
        let start = self.manager.clone().start(self.slot.clone(), generation.clone(), whose);
        let (entry, generation) = (Rc::downgrade(self), generation.clone());
        spawn_local(async move {
            let begun = Instant::now();
            let outcome = start.await;
            if let Some(entry) = entry.upgrade() {
                entry.came(&generation, outcome, begun.elapsed());
            }
        });
    }

    /// Handles the result of a start. `None`: its generation has been replaced.
    fn came(self: &Rc<Entry>, generation: &Arc<Generation>, outcome: Option<Outcome>, took: Duration) {
        if self.starting.get() == Some(generation.number) {
            self.starting.set(None);
        }
        if let Some(Outcome { started, asked }) = outcome {
            self.stats.starts.inc();
            self.stats.start_nanoseconds.add_time(took);
            if started.is_err() {
                self.stats.start_failures.inc();
            }
            match started {
                Ok(_) if self.slot.current().is_none_or(|g| g.number != generation.number) => {}
                Ok(started) => self.place(Hosted::adopt(&(self.clone() as Rc<dyn Owner>), generation, started, asked)),
                Err(why) => self.not_started(generation, &why),
            }
            self.slot.reach(self.common.number, generation.number);
        }
        self.catch_up();
        self.started.notify_waiters();
    }

    /// Makes an instance of the newest generation the active one or the spare.
    fn place(self: &Rc<Entry>, hosted: Rc<Hosted>) {
        let serves = self.active().filter(|a| a.generation.number == hosted.generation.number);
        let replaces = serves.as_ref().map(|a| a.to_replace());
        if replaces == Some(None) {
            *self.spare.borrow_mut() = Some(hosted);
            return;
        }
        if let Some(Some(why)) = replaces {
            match why {
                Replace::Asked => self.stats.rebuilds.inc(),
                Replace::Retired => self.stats.retired.inc(),
                Replace::Optimized => self.stats.optimized.inc(),
            }
        } else if self.failures.get() > 0 || self.has_trapped() {
            self.stats.vm_reload_success.inc();
        }
        let generation = hosted.generation.clone();
        self.activate(hosted);
        if self.has_trapped() {
            self.start(&generation);
        }
    }

    /// Whether an instance has trapped lately, so that the next one needs a spare.
    fn has_trapped(&self) -> bool {
        self.trapped_at.get().is_some_and(|at| at.elapsed() < FORGIVEN_AFTER)
    }

    fn not_started(self: &Rc<Entry>, generation: &Arc<Generation>, why: &NotStarted) {
        let first = self.failures.get() == 0;
        if !first || self.has_trapped() {
            self.stats.vm_reload_failure.inc();
        }
        self.fail(generation.number);
        if self.active().is_some_and(|a| a.generation.number == generation.number) {
            self.say(&|| format!("no spare instance: {why}"));
            return;
        }
        let message = format_args!("{}: generation {} does not start on a worker: {why}", self.slot.name, generation.number);
        Logger::Wasm.write(crate::app_log::Level::Error, message);
        self.restart_later();
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

    /// No version takes new streams any more.
    fn stop(&self) {
        self.spare.take();
        if let Some(active) = self.active.take() {
            self.retire(active.hosted);
        }
    }

    /// For a plugin that is gone; whether nothing of it is left.
    fn let_go(&self) -> bool {
        self.stop();
        self.tidy();
        self.retiring.borrow().is_empty()
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
                if self.slot.current().is_none_or(|g| g.number != hosted.generation.number) {
                    // The newest one is being started, or will be after its pause.
                    return;
                }
                if since.elapsed() > FORGIVEN_AFTER {
                    self.failures.set(0);
                }
                if hosted.to_replace().is_some() {
                    self.replace(&hosted);
                } else if since.elapsed() > SPARE_AFTER && self.spare.borrow().is_none() && !self.pauses() {
                    self.start(&hosted.generation);
                }
            }
        }
    }

    /// Another instance of the same version takes over, once it has started.
    fn replace(self: &Rc<Entry>, hosted: &Rc<Hosted>) {
        let fits = |spare: &Rc<Hosted>| spare.generation.number == hosted.generation.number && spare.to_replace().is_none();
        match self.spare.take().filter(fits) {
            Some(spare) => self.place(spare),
            None if self.pauses() => {}
            None => self.start(&hosted.generation),
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
}

impl Owner for Entry {
    fn slot(&self) -> &Arc<PluginSlot> {
        &self.slot
    }

    /// The instance for new streams.
    fn active(&self) -> Option<Rc<Hosted>> {
        self.active.borrow().as_ref().map(|a| a.hosted.clone())
    }

    fn services(&self, generation: &Arc<Generation>, asked: &mut Asked) -> HostServices {
        HostServices::new(self.slot.clone(), generation.clone(), self.common.clone(), self.stats.clone(), asked)
    }

    /// Handles a trap. A spare takes over at once, or else a new instance is started. If the instance had not seen a single stream,
    /// there is a pause first, as after a failed start.
    fn lost(self: Rc<Self>, hosted: &Rc<Hosted>) {
        let is_this = |other: &Rc<Hosted>| Rc::ptr_eq(other, hosted);
        if self.spare.borrow().as_ref().is_some_and(is_this) {
            self.spare.take();
            self.fail(hosted.generation.number);
            return;
        }
        if !self.active().as_ref().is_some_and(is_this) {
            return;
        }
        self.active.take();
        if hosted.requests.get() > 0 {
            self.failures.set(0);
            self.retry_at.set(None);
            self.trapped_at.set(Some(Instant::now()));
        } else {
            self.fail(hosted.generation.number);
        }
        let trapped = Posted::Trapped { slot: self.slot.clone(), generation: hosted.generation.number };
        // Looked at when the guest is off the stack and its streams have been told.
        let _ = self.common.post.send(trapped);
        let current = self.slot.current().map(|g| g.number);
        let spare = self.spare.take().filter(|s| hosted.requests.get() > 0 && Some(s.generation.number) == current);
        match spare {
            Some(spare) => self.place(spare),
            None if self.pauses() => self.restart_later(),
            None => self.catch_up(),
        }
    }

    /// At most once a second: what would otherwise be said for each request.
    fn say(&self, message: &dyn Fn() -> String) {
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
