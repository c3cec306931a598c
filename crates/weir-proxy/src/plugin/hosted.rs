//! One running instance on a worker, and a stream's way into it.
use super::{
    Generation, PluginSlot,
    grpc::Event,
    metrics::{add, add_time},
    services::HostServices,
    worker::Entry,
};
use crate::{logging::Logger, stream::Direction};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{task::spawn_local, time::sleep};
use weir_config::model::{FailStrategy, WasmLimits};
use weir_net::redis;
use weir_wasm::{
    Action, Callbacks, ContextId, HttpAnswer, Instance, LocalResponse, RedisAnswer, Stream, StreamType, Trap, TrapKind, pairs::Pairs,
};

/// Said of streams that a plugin should have seen but cannot; [`PluginSlot::failure`] names the plugin too.
pub const FAILED: &str = "wasm_fail_stream";

/// What becomes of a stream at one plugin.
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
    entry: Weak<Entry>,
    /// `None` after a trap: its memory is given back at once, whoever still holds this.
    instance: RefCell<Option<Instance>>,
    /// Streams that have a context in it.
    streams: RefCell<HashMap<ContextId, Rc<dyn Stream>>>,
    /// Handles given to streams, with or without a context yet.
    pub open: Cell<usize>,
    /// As it was added to the gauge.
    pub memory: Cell<u64>,
}

impl Hosted {
    /// Starts and configures an instance; blocks for as long as the guest takes.
    pub fn start(entry: &Rc<Entry>, generation: &Arc<Generation>, services: HostServices) -> Result<Rc<Hosted>, String> {
        let services = Rc::new(services);
        let begun = Instant::now();
        let started = Instance::start(&generation.module, &generation.spec, services.clone());
        let shard = &services.shard;
        add(&shard.starts, 1);
        add_time(&shard.start_nanoseconds, begun.elapsed());
        let instance = started.map_err(|e| {
            add(&shard.start_failures, 1);
            e.to_string()
        })?;
        let hosted = Rc::new(Hosted {
            slot: entry.slot.clone(),
            generation: generation.clone(),
            services,
            entry: Rc::downgrade(entry),
            instance: RefCell::new(Some(instance)),
            streams: RefCell::default(),
            open: Cell::new(0),
            memory: Cell::new(0),
        });
        let _ = hosted.services.link.set(Rc::downgrade(&hosted));
        add(&hosted.services.shard.instances, 1);
        hosted.measure();
        Ok(hosted)
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
                            hosted.run(Instance::on_tick);
                        }
                    },
                }
            }
        });
    }

    pub fn on_http_call_response(self: &Rc<Hosted>, token: u32, answer: HttpAnswer) {
        self.run(|i| i.on_http_call_response(token, answer));
    }

    pub fn on_grpc(self: &Rc<Hosted>, token: u32, event: Event) {
        self.run(|i| match event {
            Event::InitialMetadata(fields) => i.on_grpc_receive_initial_metadata(token, fields),
            Event::Message(message) => i.on_grpc_receive(token, message),
            Event::TrailingMetadata(fields) => i.on_grpc_receive_trailing_metadata(token, fields),
            Event::Closed(code, message) => i.on_grpc_close(token, code, message),
        });
    }

    pub fn on_redis_call_response(self: &Rc<Hosted>, token: u32, answer: RedisAnswer) {
        self.run(|i| i.on_redis_call_response(token, answer));
    }

    pub fn on_queue_ready(self: &Rc<Hosted>, queue: u32) {
        self.run(|i| i.on_queue_ready(queue));
    }

    /// Says it once per kind of failure and second, not for each command.
    pub fn redis_failed(&self, error: &redis::Error) {
        if let Some(entry) = self.entry.upgrade() {
            entry.say(|| format!("Redis: {error}"));
        }
    }

    pub fn is_dead(&self) -> bool {
        self.instance.borrow().is_none()
    }

    /// Streams, callouts and commands still need it.
    pub fn is_busy(&self) -> bool {
        self.open.get() > 0 || self.services.outstanding.get() > 0
    }

    pub fn wants_rebuild(&self) -> bool {
        self.instance.try_borrow().is_ok_and(|i| i.as_ref().is_some_and(Instance::wants_rebuild))
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

    /// Brings the memory gauge up to date.
    pub fn measure(&self) {
        let now = self.instance.try_borrow().ok().map_or(self.memory.get(), |i| i.as_ref().map_or(0, |i| i.memory_bytes() as u64));
        add(&self.services.shard.memory_bytes, now.wrapping_sub(self.memory.replace(now)));
    }

    /// Runs guest code. `None`: there was a trap, now or before.
    fn run<T>(self: &Rc<Hosted>, call: impl FnOnce(&mut Instance) -> Result<T, Trap>) -> Option<T> {
        let Ok(mut place) = self.instance.try_borrow_mut() else {
            debug_assert!(false, "guest code is entered twice");
            return None;
        };
        let instance = place.as_mut()?;
        let begun = Instant::now();
        let result = call(instance);
        let shard = &self.services.shard;
        add(&shard.calls, 1);
        add_time(&shard.call_nanoseconds, begun.elapsed());
        match result {
            Ok(value) => Some(value),
            Err(trap) => {
                let gone = place.take();
                drop(place);
                drop(gone);
                self.trapped(&trap);
                None
            }
        }
    }

    fn trapped(self: &Rc<Hosted>, trap: &Trap) {
        let shard = &self.services.shard;
        add(&shard.traps, 1);
        match trap.kind {
            TrapKind::Deadline => add(&shard.deadlines, 1),
            TrapKind::Memory => add(&shard.memory_limits, 1),
            _ => {}
        }
        Logger::Wasm.write(crate::logging::Level::Error, format_args!("{}: {trap}", self.slot.name));
        self.slot.lock_status().last_trap = Some(trap.to_string());
        self.measure();
        self.services.set_idle();
        if let Some(entry) = self.entry.upgrade() {
            entry.lost(self);
        }
        for (_, stream) in std::mem::take(&mut *self.streams.borrow_mut()) {
            self.fail(&*stream);
        }
    }

    /// A context for a stream; made when the first callback needs it.
    fn context(self: &Rc<Hosted>, stream: &Rc<dyn Stream>) -> Option<ContextId> {
        let context = self.run(|i| i.create_stream(stream.clone()))?;
        self.streams.borrow_mut().insert(context, stream.clone());
        Some(context)
    }

    /// One that has seen nothing of a stream is still told of its end.
    fn end_stream(self: &Rc<Hosted>, context: Option<ContextId>, stream: &Rc<dyn Stream>) {
        let callbacks = self.generation.module.callbacks();
        let wanted = callbacks.log || callbacks.done;
        if let Some(context) = context.or_else(|| if wanted { self.context(stream) } else { None }) {
            self.run(|i| i.end_stream(context));
            self.streams.borrow_mut().remove(&context);
        }
        self.open.set(self.open.get() - 1);
    }

    /// A stream whose plugin has died: it goes on without it, or is answered. Both only queue.
    fn fail(&self, stream: &dyn Stream) {
        let shard = &self.services.shard;
        if self.slot.fail_strategy() == FailStrategy::FailOpen {
            add(&shard.skipped_streams, 1);
            stream.continue_stream(StreamType::Request);
            stream.continue_stream(StreamType::Response);
        } else {
            add(&shard.failed_streams, 1);
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
        let shard = &self.services.shard;
        add(&shard.instances, 1u64.wrapping_neg());
        add(&shard.memory_bytes, self.memory.get().wrapping_neg());
        self.services.tick_changed.notify_one();
    }
}

/// A stream's way into the instance that it began with. Callbacks that the module does not export cost nothing.
pub struct PluginStream {
    hosted: Rc<Hosted>,
    stream: Rc<dyn Stream>,
    context: Cell<Option<ContextId>>,
    ended: Cell<bool>,
}

impl PluginStream {
    pub(super) fn new(hosted: Rc<Hosted>, stream: Rc<dyn Stream>) -> PluginStream {
        hosted.open.set(hosted.open.get() + 1);
        add(&hosted.services.shard.streams, 1);
        PluginStream { hosted, stream, context: Cell::new(None), ended: Cell::new(false) }
    }

    /// What the module exports: a direction without a body callback streams by.
    pub fn callbacks(&self) -> &Callbacks {
        self.hosted.generation.module.callbacks()
    }

    pub fn limits(&self) -> &WasmLimits {
        &self.hosted.generation.plugin.limits
    }

    /// For messages and answers that name the plugin.
    pub fn name(&self) -> &str {
        &self.hosted.slot.name
    }

    /// The number of the generation that it began with.
    pub fn generation(&self) -> u64 {
        self.hosted.generation.number
    }

    /// Whether the length that a head says can no longer be trusted, once this plugin sees the body.
    pub fn resizes(&self, direction: Direction) -> bool {
        self.hosted.slot.resizes[direction as usize].load(Ordering::Relaxed)
    }

    /// The body was not as long as its head had said: from now on such heads do not say a length.
    pub fn has_resized(&self, direction: Direction) {
        if !self.hosted.slot.resizes[direction as usize].swap(true, Ordering::Relaxed) {
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
        add(&self.hosted.services.shard.body_overflows, 1);
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
        self.run(Action::StopAllIterationAndWatermark, |i, c| i.on_response_headers(c, end_of_stream))
    }
    pub fn on_response_body(&self, size: usize, end_of_stream: bool) -> Action {
        self.run(Action::StopIterationNoBuffer, |i, c| i.on_response_body(c, size, end_of_stream))
    }
    pub fn on_response_trailers(&self) -> Action {
        self.run(Action::StopIteration, |i, c| i.on_response_trailers(c))
    }

    /// `on_log`, `on_done`, `on_delete`: once, when the stream is over. Not from within a callback.
    pub fn end(&self) {
        if !self.ended.replace(true) {
            self.hosted.end_stream(self.context.take(), &self.stream);
        }
    }

    /// `stop` is for a stream that fails here: its answer is already queued.
    fn run(&self, stop: Action, call: impl FnOnce(&mut Instance, ContextId) -> Result<Action, Trap>) -> Action {
        if self.hosted.is_dead() || self.ended.get() {
            // What becomes of the stream was said when the instance died; its reply passes here on its way out.
            return Action::Continue;
        }
        let context = match self.context.get() {
            Some(context) => Some(context),
            None => self.hosted.context(&self.stream).inspect(|context| self.context.set(Some(*context))),
        };
        match context.and_then(|context| self.hosted.run(|i| call(i, context))) {
            Some(action) => action,
            None => {
                if context.is_none() {
                    self.hosted.fail(&*self.stream);
                }
                if self.hosted.slot.fail_strategy() == FailStrategy::FailOpen { Action::Continue } else { stop }
            }
        }
    }
}

impl Drop for PluginStream {
    /// Guest code may be what drops this: the end runs in the next turn of the loop.
    fn drop(&mut self) {
        if !self.ended.replace(true) {
            let (hosted, context, stream) = (self.hosted.clone(), self.context.take(), self.stream.clone());
            spawn_local(async move { hosted.end_stream(context, &stream) });
        }
    }
}
