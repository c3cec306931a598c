//! One running instance on a worker, and a stream's way into it.
use super::{
    Generation, PluginSlot,
    asked::Asked,
    cpu,
    grpc::Event,
    host_services::{Guest, HostServices},
    startup::explain,
};
use crate::{app_log::Logger, stream::Direction};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{task::spawn_local, time::sleep};
use weir_config::model::{FailStrategy, WasmLimits};
use weir_wasm::{
    Action, Callbacks, Compiler, ContextId, HttpAnswer, Instance, LocalResponse, RedisAnswer, Started, Stream, StreamType, Trap, TrapKind,
    pairs::Pairs,
};

/// Said of streams that a plugin should have seen but cannot; [`PluginSlot::failure`] names the plugin too.
pub const FAILED: &str = "wasm_fail_stream";

/// The state of a stream at one plugin.
pub enum PluginEntry {
    Run(PluginStream),
    /// The plugin has nothing to do with it: it exports no callback, or cannot run and `failStrategy` is `FAIL_OPEN`.
    Skip,
    /// To be answered with 503 and the detail [`PluginSlot::failure`].
    Fail,
}

/// An instance with all that belongs to it.
pub(super) struct Hosted {
    pub slot: Arc<PluginSlot>,
    pub generation: Arc<Generation>,
    pub services: Rc<HostServices>,
    owner: Weak<dyn Owner>,
    /// `None` after a trap: its memory is given back at once, whoever still holds this.
    instance: RefCell<Option<Instance>>,
    /// Streams that have a context in it.
    streams: RefCell<HashMap<ContextId, Rc<Attached>>>,
    /// Handles given to streams, with or without a context yet.
    pub open: Cell<usize>,
    /// Streams that it has been given.
    pub requests: Cell<u64>,
    /// Its memory when it had started.
    started_with: u64,
    /// Calls to the host, as they were counted.
    host_calls: Cell<u64>,
    /// As it was added to the gauge.
    pub memory: Cell<i64>,
}

/// Why an instance is replaced by one of the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    /// The guest asked for it (`wasm_need_rebuild`).
    Asked,
    /// It has seen as many requests, or grown as large, as its plugin's limits allow.
    Retired,
    /// Its code is that of the baseline compiler, and there is optimized code.
    Optimized,
}

/// What keeps the instances of one plugin on one worker.
pub(super) trait Owner {
    fn slot(&self) -> &Arc<PluginSlot>;
    fn services(&self, generation: &Arc<Generation>, asked: &mut Asked) -> HostServices;
    /// The instance that takes new streams.
    fn active(&self) -> Option<Rc<Hosted>>;
    /// An instance has trapped.
    fn lost(self: Rc<Self>, hosted: &Rc<Hosted>);
    /// Logs a warning, at most once a second.
    fn say(&self, message: &dyn Fn() -> String);
}

impl Guest for Hosted {
    fn on_http_call_response(self: Rc<Self>, token: u32, answer: HttpAnswer) {
        self.run(|i| i.on_http_call_response(token, answer));
    }

    fn on_grpc(self: Rc<Self>, token: u32, event: Event) {
        self.run(|i| match event {
            Event::InitialMetadata(fields) => i.on_grpc_receive_initial_metadata(token, fields),
            Event::Message(message) => i.on_grpc_receive(token, message),
            Event::TrailingMetadata(fields) => i.on_grpc_receive_trailing_metadata(token, fields),
            Event::Closed(code, message) => i.on_grpc_close(token, code, message),
        });
    }

    fn on_redis_call_response(self: Rc<Self>, token: u32, answer: RedisAnswer) {
        self.run(|i| i.on_redis_call_response(token, answer));
    }

    fn say(&self, message: &dyn Fn() -> String) {
        if let Some(owner) = self.owner.upgrade() {
            owner.say(&|| self.generation.plugin.configuration.redacted(&message()).into_owned());
        }
    }

    fn services(&self) -> &HostServices {
        &self.services
    }
}

impl Hosted {
    /// Takes over a started instance and makes the calls that it asked for.
    pub fn adopt(owner: &Rc<dyn Owner>, generation: &Arc<Generation>, started: Started, mut asked: Asked) -> Rc<Hosted> {
        let services = Rc::new(owner.services(generation, &mut asked));
        let instance = started.adopt(services.clone());
        let started_with = instance.memory_bytes() as u64;
        let hosted = Rc::new(Hosted {
            slot: owner.slot().clone(),
            generation: generation.clone(),
            services,
            owner: Rc::downgrade(owner),
            instance: RefCell::new(Some(instance)),
            streams: RefCell::default(),
            open: Cell::new(0),
            requests: Cell::new(0),
            started_with,
            host_calls: Cell::new(0),
            memory: Cell::new(0),
        });
        let guest: Rc<dyn Guest> = hosted.clone();
        let _ = hosted.services.link.set(Rc::downgrade(&guest));
        hosted.services.stats.instances.inc();
        hosted.measure();
        hosted.services.carry_out(asked.asks);
        hosted
    }

    /// Ticks as often as the guest asks for, counted from the end of the last; ends with the instance.
    pub fn start_ticks(self: &Rc<Hosted>) {
        let (weak, services) = (Rc::downgrade(self), self.services.clone());
        spawn_local(async move {
            while weak.strong_count() > 0 {
                let changed = services.tick_changed.notified();
                match services.tick.get() {
                    None => changed.await,
                    Some(period) => tokio::select! {
                        () = changed => continue,
                        // A period of nought must not keep the loop busy.
                        () = sleep(period.max(Duration::from_millis(1))) => {
                            let Some(hosted) = weak.upgrade() else { return };
                            if hosted.is_out_of_cpu() {
                                services.stats.cpu_limited.inc();
                                continue;
                            }
                            hosted.run(Instance::on_tick);
                        }
                    },
                }
            }
        });
    }

    pub fn on_queue_ready(self: &Rc<Hosted>, queue: u32) {
        self.run(|i| i.on_queue_ready(queue));
    }

    pub fn is_dead(&self) -> bool {
        self.instance.borrow().is_none()
    }

    /// Streams, callouts and commands still need it.
    pub fn is_busy(&self) -> bool {
        self.open.get() > 0 || self.services.outstanding.get() > 0
    }

    /// Whether the plugin has used up its share of the CPUs.
    pub fn is_out_of_cpu(&self) -> bool {
        self.generation.plugin.limits.cpu_millis > 0 && self.slot.cpu.is_spent(cpu::now())
    }

    /// Why another instance of the same version should take over, if one should.
    pub fn to_replace(&self) -> Option<Replace> {
        let instance = self.instance.try_borrow().ok()?;
        let instance = instance.as_ref()?;
        if instance.wants_rebuild() {
            return Some(Replace::Asked);
        }
        let limits = &self.generation.plugin.limits;
        let over = |limit: u64, now: u64| limit > 0 && now > limit;
        // One that starts as large already is no leak.
        let (memory, least) = (instance.memory_bytes() as u64, self.started_with + self.started_with / 2);
        let grown = over(limits.retire_above_bytes, memory) && memory > least;
        if grown || over(limits.retire_after_requests.into(), self.requests.get()) {
            return Some(Replace::Retired);
        }
        (instance.compiler() != self.generation.compiled.compiler()).then_some(Replace::Optimized)
    }

    /// The end of the root context, for an instance that nothing needs any more.
    pub fn shut_down(self: &Rc<Hosted>) {
        if let Some(false) = self.run(Instance::begin_shutdown) {
            return;
        }
        self.run(Instance::finish_shutdown);
    }

    /// For a guest whose root context is not done in time.
    pub fn is_done(&self) -> bool {
        self.instance.try_borrow().is_ok_and(|i| i.as_ref().is_none_or(Instance::is_done))
    }

    /// Brings the memory gauge and the count of host calls up to date.
    pub fn measure(&self) {
        if let Ok(Some(calls)) = self.instance.try_borrow().map(|i| i.as_ref().map(Instance::host_calls)) {
            self.services.stats.host_calls.add(calls - self.host_calls.replace(calls));
        }
        let now = self.instance.try_borrow().ok().map_or(self.memory.get(), |i| i.as_ref().map_or(0, |i| i.memory_bytes() as i64));
        self.services.stats.memory_bytes.add(now - self.memory.replace(now));
    }

    /// Runs guest code. `None`: there was a trap, now or before.
    fn run<T>(self: &Rc<Hosted>, call: impl FnOnce(&mut Instance) -> Result<T, Trap>) -> Option<T> {
        let Ok(mut place) = self.instance.try_borrow_mut() else {
            debug_assert!(false, "guest code is entered twice");
            return None;
        };
        let instance = place.as_mut()?;
        let optimized = instance.compiler() == Compiler::Cranelift;
        let begun = Instant::now();
        let result = call(instance);
        let (stats, took) = (&self.services.stats, begun.elapsed());
        stats.calls.inc();
        stats.call_nanoseconds.add_time(took);
        // A new version is not judged by the time of its baseline code.
        if optimized {
            self.services.tally.ran(took);
        }
        stats.call_time.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let share = self.generation.plugin.limits.cpu_millis;
        if share > 0 {
            self.slot.cpu.spend(took, share, cpu::now());
        }
        match result {
            Ok(value) => Some(value),
            Err(trap) => {
                let gone = place.take();
                drop(place);
                let callbacks = &self.generation.compiled.callbacks;
                let waits = |context: ContextId| gone.as_ref().is_some_and(|i| i.holds(context));
                let waiting: Vec<_> =
                    self.streams.borrow_mut().drain().filter(|(c, s)| waits(*c) || s.is_needed(callbacks)).map(|(_, s)| s).collect();
                drop(gone);
                self.trapped(trap, waiting);
                None
            }
        }
    }

    /// Fails the streams that the instance holds, since nothing else would resume them, and those whose response it still had to see.
    /// The others continue, and fail at their next callback if they have one.
    fn trapped(self: &Rc<Hosted>, trap: Trap, waiting: Vec<Rc<Attached>>) {
        let stats = &self.services.stats;
        stats.traps.inc();
        match trap.kind {
            TrapKind::Deadline => stats.deadlines.inc(),
            TrapKind::Memory => stats.memory_limits.inc(),
            _ => {}
        }
        let text = explain(trap, &self.generation.plugin, "call-deadline");
        Logger::Wasm.write(crate::app_log::Level::Error, format_args!("{}: {text}", self.slot.name));
        self.slot.lock_status().last_trap = Some(text);
        self.measure();
        self.services.set_idle();
        if let Some(owner) = self.owner.upgrade() {
            owner.lost(self);
        }
        for attached in waiting {
            self.fail(&attached);
        }
    }

    /// A context for a stream; made when the first callback needs it.
    fn context(self: &Rc<Hosted>, attached: &Rc<Attached>) -> Option<ContextId> {
        let context = self.run(|i| i.create_stream(attached.stream.clone()))?;
        self.streams.borrow_mut().insert(context, attached.clone());
        Some(context)
    }

    /// One that has seen nothing of a stream is still told of its end.
    fn end_stream(self: &Rc<Hosted>, context: Option<ContextId>, attached: &Rc<Attached>) {
        let callbacks = &self.generation.compiled.callbacks;
        let wanted = callbacks.log || callbacks.done;
        if let Some(context) = context.or_else(|| if wanted { self.context(attached) } else { None }) {
            // First: a trap in these callbacks must not fail a stream that is over.
            self.streams.borrow_mut().remove(&context);
            self.run(|i| i.end_stream(context));
        }
        self.leave();
    }

    fn enter(&self) {
        self.open.set(self.open.get() + 1);
        self.requests.set(self.requests.get() + 1);
    }

    fn leave(&self) {
        self.open.set(self.open.get() - 1);
    }

    /// A stream whose plugin has died: it goes on without it, or is answered. Both only queue.
    fn fail(&self, attached: &Attached) {
        if attached.failed.replace(true) {
            return;
        }
        let (stats, stream) = (&self.services.stats, &attached.stream);
        if self.slot.fail_strategy() == FailStrategy::FailOpen {
            stats.skipped_streams.inc();
            stream.continue_stream(StreamType::Request);
            stream.continue_stream(StreamType::Response);
        } else {
            stats.failed_streams.inc();
            stream.send_local_response(LocalResponse {
                status: 503,
                details: self.slot.failure.as_bytes(),
                body: b"",
                headers: Pairs::EMPTY,
                grpc_status: None,
            });
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let stats = &self.services.stats;
        stats.instances.dec();
        stats.memory_bytes.add(-self.memory.get());
        self.services.tick_changed.notify_one();
    }
}

/// A stream at one plugin.
struct Attached {
    stream: Rc<dyn Stream>,
    /// The plugin has died, and the stream has been failed or continued.
    failed: Cell<bool>,
    /// It has seen the response's head.
    responded: Cell<bool>,
}

impl Attached {
    /// Whether the plugin has more to see of the stream, by what its module exports.
    fn is_needed(&self, callbacks: &Callbacks) -> bool {
        callbacks.response_body || callbacks.response_trailers || callbacks.response_headers && !self.responded.get()
    }
}

/// A stream's way into the instance that it began with. Callbacks that the module does not export cost nothing.
pub struct PluginStream {
    slot: Arc<PluginSlot>,
    /// The generation that the stream began with.
    generation: Arc<Generation>,
    /// Replaced only while the stream has no context.
    hosted: RefCell<Rc<Hosted>>,
    attached: Rc<Attached>,
    context: Cell<Option<ContextId>>,
    ended: Cell<bool>,
}

impl PluginStream {
    pub(super) fn new(hosted: Rc<Hosted>, stream: Rc<dyn Stream>) -> PluginStream {
        hosted.enter();
        let (slot, generation) = (hosted.slot.clone(), hosted.generation.clone());
        let attached = Rc::new(Attached { stream, failed: Cell::new(false), responded: Cell::new(false) });
        PluginStream { slot, generation, hosted: RefCell::new(hosted), attached, context: Cell::new(None), ended: Cell::new(false) }
    }

    /// What the module exports: a direction without a body callback streams by.
    pub fn callbacks(&self) -> &Callbacks {
        &self.generation.compiled.callbacks
    }

    pub fn limits(&self) -> &WasmLimits {
        &self.generation.plugin.limits
    }

    /// For messages and answers that name the plugin.
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// The number of the generation that it began with.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Whether this plugin is known to make bodies longer or shorter than their `content-length`.
    pub fn resizes(&self, direction: Direction) -> bool {
        self.slot.resizes[direction as usize].load(Ordering::Relaxed)
    }

    /// Records that a body did not match its `content-length`: later heads are sent without one.
    pub fn has_resized(&self, direction: Direction) {
        if !self.slot.resizes[direction as usize].swap(true, Ordering::Relaxed) {
            let (body, header) = match direction {
                Direction::Request => ("request's", "a request's"),
                Direction::Response => ("response's", "a response's"),
            };
            Logger::Wasm.warning(format_args!(
                "{}: it changed the length of a {body} body after the content-length was sent, and broke that one; from now on {header} \
                 content-length is removed before this plugin sees the body, as it should do itself",
                self.name()
            ));
        }
    }

    /// Counts a body that outgrew its limit.
    pub fn body_overflow(&self) {
        self.hosted.borrow().services.stats.body_overflows.inc();
    }

    pub fn on_request_headers(&self, end_of_stream: bool) -> Action {
        self.run(Action::StopAllIterationAndWatermark, |i, c| i.on_request_headers(c, end_of_stream))
    }
    /// `size`: all that the plugin can read, what is held included.
    pub fn on_request_body(&self, size: usize, end_of_stream: bool) -> Action {
        self.run(Action::StopIterationNoBuffer, |i, c| i.on_request_body(c, size, end_of_stream))
    }
    pub fn on_request_trailers(&self) -> Action {
        self.run(Action::StopIteration, |i, c| i.on_request_trailers(c))
    }
    pub fn on_response_headers(&self, end_of_stream: bool) -> Action {
        self.attached.responded.set(true);
        self.run(Action::StopAllIterationAndWatermark, |i, c| i.on_response_headers(c, end_of_stream))
    }
    pub fn on_response_body(&self, size: usize, end_of_stream: bool) -> Action {
        self.run(Action::StopIterationNoBuffer, |i, c| i.on_response_body(c, size, end_of_stream))
    }
    pub fn on_response_trailers(&self) -> Action {
        self.run(Action::StopIteration, |i, c| i.on_response_trailers(c))
    }

    /// Counts a stream that the plugin is for.
    pub fn begin(&self) {
        self.hosted.borrow().services.stats.streams.inc();
    }

    /// The plugin is not for this stream: the guest never learns of it.
    pub fn leave(&self) {
        if !self.ended.replace(true) {
            let hosted = self.hosted.borrow();
            hosted.services.stats.unmatched_streams.inc();
            hosted.leave();
        }
    }

    /// Counts the stream by the status of its answer; 0 for none.
    pub fn answered(&self, status: u16) {
        self.hosted.borrow().services.tally.ended(status);
    }

    /// `on_log`, `on_done`, `on_delete`: once, when the stream is over. Not from within a callback.
    pub fn end(&self) {
        if !self.ended.replace(true) {
            let hosted = self.hosted.borrow().clone();
            hosted.end_stream(self.context.take(), &self.attached);
        }
    }

    /// `stop` is for a stream that fails here: its answer is already queued.
    fn run(&self, stop: Action, call: impl FnOnce(&mut Instance, ContextId) -> Result<Action, Trap>) -> Action {
        if self.attached.failed.get() || self.ended.get() {
            // The stream has been failed or continued already; a reply to it passes here on its way out.
            return Action::Continue;
        }
        let hosted = self.living();
        let context = match self.context.get() {
            Some(context) => Some(context),
            None => hosted.context(&self.attached).inspect(|context| self.context.set(Some(*context))),
        };
        match context.and_then(|context| hosted.run(|i| call(i, context))) {
            Some(action) => action,
            None => {
                hosted.fail(&self.attached);
                if self.slot.fail_strategy() == FailStrategy::FailOpen { Action::Continue } else { stop }
            }
        }
    }

    /// The instance for this stream. If it has died before it saw the stream, its replacement takes over; that must be of the same
    /// generation, since the stream was set up for that one.
    fn living(&self) -> Rc<Hosted> {
        let mut hosted = self.hosted.borrow_mut();
        if self.context.get().is_none()
            && hosted.is_dead()
            && let Some(other) =
                hosted.owner.upgrade().and_then(|owner| owner.active()).filter(|o| o.generation.number == self.generation.number)
        {
            hosted.leave();
            other.enter();
            *hosted = other;
        }
        hosted.clone()
    }
}

impl Drop for PluginStream {
    /// Guest code may be what drops this: the end runs in the next turn of the loop.
    fn drop(&mut self) {
        if !self.ended.replace(true) {
            let (hosted, context, attached) = (self.hosted.borrow().clone(), self.context.take(), self.attached.clone());
            spawn_local(async move { hosted.end_stream(context, &attached) });
        }
    }
}
