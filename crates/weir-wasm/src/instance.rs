//! A running plugin: one store with its guest, started, and the callbacks that the proxy makes.
mod exports;

use crate::{
    declared::Abi,
    engine::Compiler,
    host::{Action, ContextId, HttpAnswer, PeerType, PluginSpec, RedisAnswer, Services, Status, Stream, StreamType},
    module::Module,
    state::{Answer, Host, PENDING_DONE, ROOT, on_tick},
    trap::{Circumstances, StartError, Stop, Trap},
};
use bytes::Bytes;
use exports::Exports;
pub use exports::{ABSENT_CALLBACKS, CALLBACKS};
use std::{rc::Rc, sync::Arc, time::Duration};
use wasmtime::{Memory, Store};

/// One guest for one plugin configuration on one thread. After a [`Trap`] every call answers [`TrapKind::Dead`](crate::TrapKind::Dead).
///
/// Dropping it runs no guest code; [`Instance::begin_shutdown`] does.
pub struct Instance {
    store: Store<Host>,
    exports: Exports,
    memory: Memory,
    compiler: Compiler,
    dead: bool,
    root_done: bool,
}

/// An instance that has started but does not belong to a thread yet. Its services keep the calls that it made to the proxy.
pub struct Started(Instance);

impl Started {
    /// Moves the instance to this thread for good.
    pub fn adopt(self, services: Rc<dyn Services>) -> Instance {
        let mut instance = self.0;
        instance.store.data_mut().adopt(services);
        instance
    }
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Baseline code is slower, so that it gets more time.
fn scaled(deadline: Duration, compiler: Compiler) -> Duration {
    match compiler {
        Compiler::Winch => deadline.saturating_mul(3),
        Compiler::Cranelift => deadline,
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Instance {
    /// Runs the module's own start, then creates and configures its root context. The instance lives on this thread.
    pub fn start(module: &Module, spec: &PluginSpec, services: Rc<dyn Services>) -> Result<Instance, StartError> {
        let shared = module.engine().shared().clone();
        Instance::run(module, spec, Host::here(Arc::new(spec.clone()), module.abi(), services, shared))
    }

    /// The same, but away from the workers' threads; [`Started::adopt`] moves the instance to the thread that needs it.
    pub fn start_apart(module: &Module, spec: &PluginSpec, services: Box<dyn Services + Send>) -> Result<Started, StartError> {
        let shared = module.engine().shared().clone();
        Instance::run(module, spec, Host::starting(Arc::new(spec.clone()), module.abi(), services, shared)).map(Started)
    }

    fn run(module: &Module, spec: &PluginSpec, host: Host) -> Result<Instance, StartError> {
        module.engine().run_clock(module.compiler())?;
        let mut store = Store::new(module.pre().module().engine(), host);
        store.limiter(|host| &mut host.bounds);
        store.epoch_deadline_callback(on_tick);
        store.set_epoch_deadline(1);
        let host = store.data_mut();
        host.deadline = scaled(spec.limits.start_deadline, module.compiler());
        host.enter(0);

        let instance = module.pre().instantiate(&mut store).map_err(|e| trap(&mut store, "start", &e))?;
        let wrong = |e: wasmtime::Error| StartError::Export { name: "memory", message: e.to_string() };
        let memory = instance.get_memory(&mut store, "memory").ok_or_else(|| wrong(wasmtime::Error::msg("not a memory")))?;
        store.data_mut().memory = Some(memory);
        let exports = Exports::find(&mut store, &instance)?;
        let allocate = exports::find(&mut store, &instance, module.allocator())?.map(Arc::new);

        let mut started = Instance { store, exports, memory, compiler: module.compiler(), dead: false, root_done: false };
        started.initialize(&instance, allocate)?;
        started.configure()?;
        started.store.data_mut().deadline = scaled(spec.limits.call_deadline, module.compiler());
        Ok(started)
    }

    /// `_initialize`, then `main`; or `_start`. Only then may the allocator be called.
    fn initialize(
        &mut self,
        instance: &wasmtime::Instance,
        allocate: Option<Arc<wasmtime::TypedFunc<u32, u32>>>,
    ) -> Result<(), StartError> {
        let Some(initialize) = exports::find::<(), ()>(&mut self.store, instance, "_initialize")? else {
            if let Some(start) = exports::find::<(), ()>(&mut self.store, instance, "_start")? {
                self.run_start("_start", |store| start.call(store, ()))?;
            }
            self.store.data_mut().allocate = allocate;
            return Ok(());
        };
        self.run_start("_initialize", |store| initialize.call(store, ()))?;
        self.store.data_mut().allocate = allocate;
        if let Some(main) = exports::find_of_type::<(u32, u32), u32>(&mut self.store, instance, "main") {
            self.run_start("main", |store| main.call(store, (0, 0)).map(drop))?;
        } else if let Some(main) = exports::find_of_type::<(), u32>(&mut self.store, instance, "__main_void") {
            self.run_start("__main_void", |store| main.call(store, ()).map(drop))?;
        }
        Ok(())
    }

    /// A start that ends with `proc_exit(0)` has ended well.
    fn run_start(&mut self, name: &'static str, run: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<()>) -> Result<(), Trap> {
        self.call(name, 0, |store, _| match run(store) {
            Err(e) if matches!(e.downcast_ref(), Some(Stop::Exit(0))) => Ok(()),
            other => other,
        })
    }

    fn configure(&mut self) -> Result<(), StartError> {
        self.call("proxy_on_context_create", ROOT, |store, exports| exports.context_create(store, ROOT, 0))?;
        let size = count(self.store.data().spec.vm_configuration.len());
        if !self.call("proxy_on_vm_start", ROOT, |store, exports| exports.vm_start(store, ROOT, size))? {
            return Err(StartError::VmStart);
        }
        let size = count(self.store.data().spec.configuration.len());
        self.store.data_mut().configured = true;
        if !self.call("proxy_validate_configuration", ROOT, |store, exports| exports.validate(store, ROOT, size))? {
            return Err(StartError::Validate);
        }
        if !self.call("proxy_on_configure", ROOT, |store, exports| exports.configure(store, ROOT, size))? {
            return Err(StartError::Configure);
        }
        Ok(())
    }

    /// Runs guest code on behalf of a context: bounds it, and buries the instance when it traps.
    fn call<R>(
        &mut self,
        name: &'static str,
        context: u32,
        run: impl FnOnce(&mut Store<Host>, &Exports) -> wasmtime::Result<R>,
    ) -> Result<R, Trap> {
        if self.dead {
            return Err(Trap::dead(name));
        }
        self.store.set_epoch_deadline(1);
        self.store.data_mut().enter(context);
        match run(&mut self.store, &self.exports) {
            Ok(value) => {
                self.store.data_mut().leave();
                if self.store.data().now_done.is_empty() { Ok(value) } else { self.delete_done().map(|()| value) }
            }
            Err(error) => {
                self.dead = true;
                let trap = trap(&mut self.store, name, &error);
                let host = self.store.data_mut();
                host.leave();
                host.answer = Answer::default();
                host.clear_streams();
                host.pending_done.clear();
                host.now_done.clear();
                Err(trap)
            }
        }
    }

    /// Ends the contexts that have called `proxy_done` meanwhile.
    fn delete_done(&mut self) -> Result<(), Trap> {
        while let Some(context) = self.store.data_mut().now_done.pop() {
            if context == ROOT {
                self.root_done = true;
            } else {
                self.delete(context)?;
            }
        }
        Ok(())
    }

    fn delete(&mut self, context: u32) -> Result<(), Trap> {
        self.store.data_mut().pending_done.remove(&context);
        let deleted = match self.exports.has_delete() {
            true => self.call("proxy_on_delete", context, |store, exports| exports.delete(store, context)),
            false => Ok(()),
        };
        self.store.data_mut().remove_stream(context);
        deleted
    }

    /// Creates a context for one stream and calls the guest with it.
    pub fn create_stream(&mut self, stream: Rc<dyn Stream>) -> Result<ContextId, Trap> {
        if self.dead {
            return Err(Trap::dead("proxy_on_context_create"));
        }
        let id = self.store.data_mut().add_stream(stream);
        if self.exports.has_context_create() {
            self.call("proxy_on_context_create", id, |store, exports| exports.context_create(store, id, ROOT))?;
        }
        Ok(ContextId(id))
    }

    /// Ends a stream's context: `proxy_on_log`, `proxy_on_done`, `proxy_on_delete`, in Envoy's order for HTTP. When the guest says
    /// "not yet", the context and its [`Stream`] stay until it calls `proxy_done`, or too many wait.
    pub fn end_stream(&mut self, context: ContextId) -> Result<(), Trap> {
        let id = context.0;
        if !self.store.data().has_stream(id) || self.store.data().pending_done.contains(&id) {
            return if self.dead { Err(Trap::dead("proxy_on_done")) } else { Ok(()) };
        }
        if self.exports.has_log() {
            self.call("proxy_on_log", id, |store, exports| exports.log(store, id))?;
        }
        if self.is_done_now(id)? {
            return self.delete(id);
        }
        let host = self.store.data();
        let oldest = host.pending_done.range(ROOT + 1..).next().copied();
        match oldest.filter(|_| host.pending_done.len() > PENDING_DONE) {
            Some(oldest) => {
                host.services().context_dropped();
                self.delete(oldest)
            }
            None => Ok(()),
        }
    }

    /// `proxy_on_done`; a guest may call `proxy_done` from within it and still say "not yet".
    fn is_done_now(&mut self, id: u32) -> Result<bool, Trap> {
        if !self.exports.has_done() {
            // on_log may have ended it.
            return Ok(id == ROOT || self.store.data().has_stream(id));
        }
        self.store.data_mut().pending_done.insert(id);
        let done = self.call("proxy_on_done", id, |store, exports| exports.done(store, id))?;
        if done {
            self.store.data_mut().pending_done.remove(&id);
        }
        // Ended by proxy_done already.
        Ok(done && (id == ROOT || self.store.data().has_stream(id)))
    }

    /// `proxy_on_done` of the root context: true when the instance may go now; else it goes when [`Instance::is_done`], or after a
    /// bounded wait.
    pub fn begin_shutdown(&mut self) -> Result<bool, Trap> {
        if !self.root_done && !self.store.data().pending_done.contains(&ROOT) {
            self.root_done |= self.is_done_now(ROOT)?;
        }
        Ok(self.root_done)
    }

    /// Whether the root context is done, by its answer or by `proxy_done`.
    pub fn is_done(&self) -> bool {
        self.root_done || self.dead
    }

    /// `proxy_on_delete` of the root context, the last call.
    pub fn finish_shutdown(&mut self) -> Result<(), Trap> {
        self.delete(ROOT)?;
        self.dead = true;
        Ok(())
    }

    fn headers_action(&mut self, result: u32) -> Action {
        let host = self.store.data();
        if host.replied {
            return Action::StopAllIterationAndWatermark;
        }
        match result {
            0 => Action::Continue,
            // An honest StopIteration only where the guest can expect it.
            1 if host.abi == Abi::V0_2_100 || host.spec.allow_on_headers_stop_iteration => Action::StopIteration,
            2 => Action::ContinueAndEndStream,
            3 => Action::StopAllIterationAndBuffer,
            _ => Action::StopAllIterationAndWatermark,
        }
    }

    fn data_action(&mut self, result: u32) -> Action {
        match result {
            _ if self.store.data().replied => Action::StopIterationNoBuffer,
            0 => Action::Continue,
            1 => Action::StopIterationAndBuffer,
            2 => Action::StopIterationAndWatermark,
            _ => Action::StopIterationNoBuffer,
        }
    }

    fn trailers_action(&mut self, result: u32) -> Action {
        if result == 0 && !self.store.data().replied { Action::Continue } else { Action::StopIteration }
    }

    /// Records whether the guest now holds this stream.
    fn held(&mut self, context: ContextId, direction: StreamType, action: Action) -> Action {
        self.store.data_mut().hold(context.0, direction, action.stops());
        action
    }

    /// Whether the guest holds this stream, so that only the guest can resume it. Still valid after a trap.
    pub fn holds(&self, context: ContextId) -> bool {
        self.store.data().holds(context.0)
    }

    fn fields(&self, context: u32, map: crate::MapType) -> u32 {
        self.store.data().stream_of(context).map_or(0, |stream| stream.header_count(map))
    }

    /// Yields `Continue`, `StopIteration`, `ContinueAndEndStream` or a `StopAllIteration…`.
    pub fn on_request_headers(&mut self, context: ContextId, end_stream: bool) -> Result<Action, Trap> {
        if self.exports.request_headers.is_none() {
            return Ok(Action::Continue);
        }
        let (id, fields) = (context.0, self.fields(context.0, crate::MapType::RequestHeaders));
        let result = self.call("proxy_on_request_headers", id, |s, e| e.request_headers.call(s, id, fields, end_stream))?;
        let action = self.headers_action(result);
        Ok(self.held(context, StreamType::Request, action))
    }

    /// `size`: all that the guest can read now, what is held and the frame at hand. Yields `Continue` or a `StopIteration…`.
    pub fn on_request_body(&mut self, context: ContextId, size: usize, end_stream: bool) -> Result<Action, Trap> {
        let args = (context.0, count(size), u32::from(end_stream));
        let result = self.call("proxy_on_request_body", context.0, |s, e| exports::action(s, &e.request_body, args))?;
        let action = self.data_action(result);
        Ok(self.held(context, StreamType::Request, action))
    }

    /// Yields `Continue` or `StopIteration`.
    pub fn on_request_trailers(&mut self, context: ContextId) -> Result<Action, Trap> {
        let args = (context.0, self.fields(context.0, crate::MapType::RequestTrailers));
        let result = self.call("proxy_on_request_trailers", context.0, |s, e| exports::action(s, &e.request_trailers, args))?;
        let action = self.trailers_action(result);
        Ok(self.held(context, StreamType::Request, action))
    }

    /// As [`Instance::on_request_headers`].
    pub fn on_response_headers(&mut self, context: ContextId, end_stream: bool) -> Result<Action, Trap> {
        if self.exports.response_headers.is_none() {
            return Ok(Action::Continue);
        }
        let (id, fields) = (context.0, self.fields(context.0, crate::MapType::ResponseHeaders));
        let result = self.call("proxy_on_response_headers", id, |s, e| e.response_headers.call(s, id, fields, end_stream))?;
        let action = self.headers_action(result);
        Ok(self.held(context, StreamType::Response, action))
    }

    /// As [`Instance::on_request_body`].
    pub fn on_response_body(&mut self, context: ContextId, size: usize, end_stream: bool) -> Result<Action, Trap> {
        let args = (context.0, count(size), u32::from(end_stream));
        let result = self.call("proxy_on_response_body", context.0, |s, e| exports::action(s, &e.response_body, args))?;
        let action = self.data_action(result);
        Ok(self.held(context, StreamType::Response, action))
    }

    /// As [`Instance::on_request_trailers`].
    pub fn on_response_trailers(&mut self, context: ContextId) -> Result<Action, Trap> {
        let args = (context.0, self.fields(context.0, crate::MapType::ResponseTrailers));
        let result = self.call("proxy_on_response_trailers", context.0, |s, e| exports::action(s, &e.response_trailers, args))?;
        let action = self.trailers_action(result);
        Ok(self.held(context, StreamType::Response, action))
    }

    /// TCP: yields `Continue` or `StopIteration`, as the three below.
    pub fn on_new_connection(&mut self, context: ContextId) -> Result<Action, Trap> {
        let result = self.call("proxy_on_new_connection", context.0, |s, e| exports::action(s, &e.new_connection, context.0))?;
        Ok(self.trailers_action(result))
    }

    pub fn on_downstream_data(&mut self, context: ContextId, size: usize, end_stream: bool) -> Result<Action, Trap> {
        let args = (context.0, count(size), u32::from(end_stream));
        let result = self.call("proxy_on_downstream_data", context.0, |s, e| exports::action(s, &e.downstream_data, args))?;
        Ok(self.trailers_action(result))
    }

    pub fn on_upstream_data(&mut self, context: ContextId, size: usize, end_stream: bool) -> Result<Action, Trap> {
        let args = (context.0, count(size), u32::from(end_stream));
        let result = self.call("proxy_on_upstream_data", context.0, |s, e| exports::action(s, &e.upstream_data, args))?;
        Ok(self.trailers_action(result))
    }

    pub fn on_downstream_connection_close(&mut self, context: ContextId, peer: PeerType) -> Result<(), Trap> {
        let args = (context.0, peer as u32);
        self.call("proxy_on_downstream_connection_close", context.0, |s, e| exports::event(s, &e.downstream_close, args))
    }

    pub fn on_upstream_connection_close(&mut self, context: ContextId, peer: PeerType) -> Result<(), Trap> {
        let args = (context.0, peer as u32);
        self.call("proxy_on_upstream_connection_close", context.0, |s, e| exports::event(s, &e.upstream_close, args))
    }

    /// Runs on the root context with an answer in sight, which is gone afterwards.
    fn answer(
        &mut self,
        name: &'static str,
        answer: Answer,
        status: (u32, Bytes),
        run: impl FnOnce(&mut Store<Host>, &Exports) -> wasmtime::Result<()>,
    ) -> Result<(), Trap> {
        let host = self.store.data_mut();
        host.answer = answer;
        host.status = status;
        let result = self.call(name, ROOT, run);
        let host = self.store.data_mut();
        host.answer = Answer::default();
        host.status = (0, Bytes::new());
        result
    }

    /// `proxy_get_status` in the callback of a call without answer.
    fn broken(failed: bool) -> (u32, Bytes) {
        if failed { (Status::BrokenConnection as u32, Bytes::from_static(b"reset")) } else { (0, Bytes::new()) }
    }

    pub fn on_http_call_response(&mut self, token: u32, answer: HttpAnswer) -> Result<(), Trap> {
        let (headers, body, trailers) = (count(answer.headers.len()), count(answer.body.len()), count(answer.trailers.len()));
        let status = Self::broken(answer.headers.is_empty());
        let answer = Answer { maps: [Fields::new(), Fields::new(), answer.headers, answer.trailers], body: Some((4, answer.body)) };
        let args = (ROOT, token, headers, body, trailers);
        self.answer("proxy_on_http_call_response", answer, status, |s, e| exports::event(s, &e.http_call_response, args))
    }

    pub fn on_redis_call_response(&mut self, token: u32, answer: RedisAnswer) -> Result<(), Trap> {
        let failed = answer.is_none();
        let body = answer.unwrap_or_default();
        let args = (ROOT, token, u32::from(failed), count(body.len()));
        let answer = Answer { body: Some((9, body)), ..Answer::default() };
        self.answer("proxy_on_redis_call_response", answer, Self::broken(failed), |s, e| exports::event(s, &e.redis_call_response, args))
    }

    pub fn on_grpc_receive_initial_metadata(&mut self, token: u32, metadata: Fields) -> Result<(), Trap> {
        let args = (ROOT, token, count(metadata.len()));
        let answer = Answer { maps: [metadata, Fields::new(), Fields::new(), Fields::new()], body: None };
        self.answer("proxy_on_grpc_receive_initial_metadata", answer, (0, Bytes::new()), |s, e| {
            exports::event(s, &e.grpc_initial_metadata, args)
        })
    }

    /// One message; for a unary call also its end.
    pub fn on_grpc_receive(&mut self, token: u32, message: Bytes) -> Result<(), Trap> {
        let args = (ROOT, token, count(message.len()));
        let answer = Answer { body: Some((5, message)), ..Answer::default() };
        self.answer("proxy_on_grpc_receive", answer, (0, Bytes::new()), |s, e| exports::event(s, &e.grpc_receive, args))
    }

    pub fn on_grpc_receive_trailing_metadata(&mut self, token: u32, metadata: Fields) -> Result<(), Trap> {
        let args = (ROOT, token, count(metadata.len()));
        let answer = Answer { maps: [Fields::new(), metadata, Fields::new(), Fields::new()], body: None };
        self.answer("proxy_on_grpc_receive_trailing_metadata", answer, (0, Bytes::new()), |s, e| {
            exports::event(s, &e.grpc_trailing_metadata, args)
        })
    }

    /// `status`: the gRPC status code, with its message for `proxy_get_status`.
    pub fn on_grpc_close(&mut self, token: u32, status: u32, message: Bytes) -> Result<(), Trap> {
        let args = (ROOT, token, status);
        self.answer("proxy_on_grpc_close", Answer::default(), (status, message), |s, e| exports::event(s, &e.grpc_close, args))
    }

    pub fn on_tick(&mut self) -> Result<(), Trap> {
        self.call("proxy_on_tick", ROOT, |s, e| exports::event(s, &e.tick, ROOT))
    }

    pub fn on_queue_ready(&mut self, queue: u32) -> Result<(), Trap> {
        self.call("proxy_on_queue_ready", ROOT, |s, e| exports::event(s, &e.queue_ready, (ROOT, queue)))
    }

    /// What has compiled the code that it runs.
    pub fn compiler(&self) -> Compiler {
        self.compiler
    }

    /// Linear memory now; it never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }

    /// Calls that the guest has made to the host so far.
    pub fn host_calls(&self) -> u64 {
        self.store.data().host_calls
    }

    /// Stream contexts that have not ended.
    pub fn streams(&self) -> usize {
        self.store.data().streams()
    }

    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The plugin has asked for a new instance (Higress' property `wasm_need_rebuild`).
    pub fn wants_rebuild(&self) -> bool {
        self.store.data().rebuild
    }
}

fn trap(store: &mut Store<Host>, callback: &'static str, error: &wasmtime::Error) -> Trap {
    let host = store.data();
    let limits = &host.spec.limits;
    Trap::new(error, &Circumstances { callback, limits, refused: host.bounds.refused, last_words: &host.last_words })
}
