//! What an instance on a worker may ask for apart from its streams: callouts, Redis, metrics, ticks, queues, the log.
use super::{
    Generation, PluginSlot,
    asked::{Ask, Asked, Posted},
    callout,
    grpc::{self, Event, INTERNAL},
    metrics::{Custom, Defined},
    property,
    redis::{self, Pool, Server},
    tally::Tally,
    upstream::{self, Speaks},
};
use crate::{
    app_log::{Level, Logger},
    cluster::ClusterRegistry,
    stats::{PluginRedisStats, PluginStats},
    upstream::direct::DirectClusters,
    worker::Worker,
};
use bytes::Bytes;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_local,
};
use weir_config::model::WasmPlugin;
use weir_net::redis::{Query, QueryError};
use weir_wasm::{
    ContextId, GrpcCall, HttpAnswer, HttpCall, LogLevel, MetricType, PropertyPath, QueueWaker, RedisAnswer, RedisInit, Services, Status,
    pairs::Pairs,
};

/// What all instances of a worker share.
pub(super) struct Common {
    /// The worker's number.
    pub number: usize,
    pub worker: Weak<Worker>,
    pub clusters: Arc<ClusterRegistry>,
    pub custom: Arc<Custom>,
    pub directs: Rc<DirectClusters>,
    pub redis: Pool,
    pub post: mpsc::UnboundedSender<Posted>,
}

/// The instance itself, once it has started: what it sent before is answered after.
pub(super) type Link = Rc<OnceCell<Weak<dyn Guest>>>;

/// The instance that the services belong to. They call it from the event loop, when no guest is on the stack.
pub(super) trait Guest {
    fn on_http_call_response(self: Rc<Self>, token: u32, answer: HttpAnswer);
    fn on_grpc(self: Rc<Self>, token: u32, event: Event);
    fn on_redis_call_response(self: Rc<Self>, token: u32, answer: RedisAnswer);
    /// Logs a warning, at most once a second: the guest can cause one at each call.
    fn say(&self, message: &dyn Fn() -> String);
    fn services(&self) -> &HostServices;
}

/// A Redis upstream of an instance.
#[derive(Clone)]
struct Redis {
    server: Rc<Server>,
    stats: Arc<PluginRedisStats>,
}

/// Of one instance.
pub(super) struct HostServices {
    slot: Arc<PluginSlot>,
    generation: Arc<Generation>,
    common: Rc<Common>,
    pub stats: Arc<PluginStats>,
    pub tally: Arc<Tally>,
    pub link: Link,
    defined: RefCell<Defined>,
    redis: RefCell<HashMap<String, Redis>>,
    /// By token.
    grpc: RefCell<HashMap<u32, grpc::Handle>>,
    pub tick: Cell<Option<Duration>>,
    pub tick_changed: Notify,
    pub outstanding: Cell<usize>,
    /// Bytes of the HTTP calls and commands that are under way.
    outstanding_bytes: Cell<usize>,
}

/// Redis servers of one instance.
const MAX_REDIS: usize = 256;
/// Entries of queues that an instance has not been told of yet.
const MAX_WAKES: usize = 1 << 14;

impl HostServices {
    /// For an instance that has started, with what it has asked for. [`HostServices::carry_out`] then makes its calls.
    pub fn new(
        slot: Arc<PluginSlot>,
        generation: Arc<Generation>,
        common: Rc<Common>,
        stats: Arc<PluginStats>,
        asked: &mut Asked,
    ) -> HostServices {
        HostServices {
            slot,
            tally: generation.tally(common.number),
            generation,
            common,
            stats,
            link: Link::default(),
            defined: RefCell::new(std::mem::take(&mut asked.defined)),
            redis: RefCell::default(),
            grpc: RefCell::default(),
            tick: Cell::new(asked.tick),
            tick_changed: Notify::new(),
            outstanding: Cell::new(0),
            outstanding_bytes: Cell::new(0),
        }
    }

    /// Makes the calls that the instance asked for during its start. The answers arrive later, as usual.
    pub fn carry_out(&self, asks: Vec<Ask>) {
        let context = ContextId(1);
        for ask in asks {
            match ask {
                Ask::Http { token, upstream, headers, body, trailers, timeout } => {
                    let (headers, trailers) = (pairs(&headers), pairs(&trailers));
                    let call = HttpCall { context, upstream: &upstream, headers, body: &body, trailers, timeout };
                    if self.http_call(token, call).is_err() {
                        self.later(move |hosted| hosted.on_http_call_response(token, HttpAnswer::failed()));
                    }
                }
                Ask::Grpc { token, upstream, service, method, metadata, message, timeout, unary } => {
                    let call = GrpcCall {
                        context,
                        upstream: &upstream,
                        service_name: &service,
                        method: &method,
                        initial_metadata: pairs(&metadata),
                        message: &message,
                        timeout,
                    };
                    if self.start_grpc(token, &call, unary).is_err() {
                        self.later(move |hosted| hosted.on_grpc(token, Event::Closed(INTERNAL, Bytes::new())));
                    }
                }
                Ask::GrpcSend { token, message, end } => _ = self.grpc_send(token, &message, end),
                Ask::GrpcCancel { token } => _ = self.drop_grpc(token),
                Ask::RedisInit { cluster, user, password, timeout } => {
                    _ = self.redis_init(RedisInit { cluster: &cluster, user: &user, password: &password, timeout });
                }
                Ask::Redis { token, cluster, query } => {
                    if self.redis_call(token, &cluster, &query).is_err() {
                        self.later(move |hosted| hosted.on_redis_call_response(token, None));
                    }
                }
            }
        }
    }

    /// Reports the failure of a call that was accepted during the start but cannot be made.
    fn later(&self, give: impl FnOnce(Rc<dyn Guest>) + 'static) {
        let link = self.link.clone();
        spawn_local(async move {
            if let Some(hosted) = link.get().and_then(Weak::upgrade) {
                give(hosted);
            }
        });
    }

    /// Takes a place among what may be under way.
    fn begin(&self, bytes: usize) -> Result<Rc<Worker>, Status> {
        let worker = self.common.worker.upgrade().ok_or(Status::InternalFailure)?;
        self.take_place(bytes)?;
        Ok(worker)
    }

    fn take_place(&self, bytes: usize) -> Result<(), Status> {
        if self.outstanding.get() >= self.generation.plugin.limits.max_callouts as usize || !self.has_room(bytes) {
            self.stats.callout_overflows.inc();
            return Err(Status::InternalFailure);
        }
        self.outstanding.set(self.outstanding.get() + 1);
        self.outstanding_bytes.set(self.outstanding_bytes.get() + bytes);
        Ok(())
    }

    /// Whether the instance may have so many bytes more under way.
    fn has_room(&self, bytes: usize) -> bool {
        let queued: usize = self.grpc.borrow().values().map(grpc::Handle::queued).sum();
        let all = self.outstanding_bytes.get().saturating_add(queued).saturating_add(bytes);
        all <= self.generation.plugin.limits.callout_bytes as usize
    }

    fn free_place(&self, bytes: usize) {
        self.outstanding.set(self.outstanding.get().saturating_sub(1));
        self.outstanding_bytes.set(self.outstanding_bytes.get().saturating_sub(bytes));
    }

    /// Starts a call or a stream; what comes of it is told to the instance.
    fn start_grpc(&self, token: u32, call: &GrpcCall<'_>, unary: bool) -> Result<(), Status> {
        let known = upstream::resolve(call.upstream, Speaks::Http, &self.generation.upstreams, &self.common.clusters);
        let to = known.map_err(|e| {
            self.say(|| format!("gRPC call: {e}"));
            Status::ParseFailure
        })?;
        let head = grpc::request(call).ok_or(Status::ParseFailure)?;
        let worker = self.begin(0)?;
        if !self.has_room(call.message.len()) {
            self.free_place(0);
            self.stats.callout_overflows.inc();
            return Err(Status::InternalFailure);
        }
        self.stats.grpc_calls.inc();
        let (mut handle, out) = grpc::queue();
        if unary {
            handle.send(call.message, true);
        }
        let (link, directs, timeout) = (self.link.clone(), self.common.directs.clone(), call.timeout);
        let mut answer = None;
        let task = spawn_local(async move {
            grpc::run(&directs, worker, to, head, out, timeout, |event| {
                let Some(hosted) = link.get().and_then(Weak::upgrade) else { return };
                match event {
                    // Of a unary call the plugin learns its answer or its failure, not both.
                    Event::InitialMetadata(_) | Event::TrailingMetadata(_) if unary => {}
                    Event::Message(message) if unary => answer = Some(message),
                    Event::Closed(0, _) if unary && answer.is_some() => {
                        hosted.services().end_grpc(token, true);
                        hosted.on_grpc(token, Event::Message(answer.take().unwrap_or_default()));
                    }
                    Event::Closed(code, message) => {
                        hosted.services().end_grpc(token, code == 0);
                        // An answer without a message is none.
                        let code = if unary && code == 0 { INTERNAL } else { code };
                        hosted.on_grpc(token, Event::Closed(code, message));
                    }
                    other => hosted.on_grpc(token, other),
                }
            })
            .await;
        });
        handle.task = Some(task.abort_handle());
        self.grpc.borrow_mut().insert(token, handle);
        Ok(())
    }

    /// The server has ended it.
    fn end_grpc(&self, token: u32, well: bool) {
        if let Some(mut handle) = self.grpc.borrow_mut().remove(&token) {
            // It is this very task that says so.
            handle.task = None;
            self.free_place(0);
        }
        if !well {
            self.stats.grpc_failures.inc();
        }
    }

    fn drop_grpc(&self, token: u32) -> Status {
        let known = self.grpc.borrow_mut().remove(&token);
        if known.is_none() {
            return Status::NotFound;
        }
        self.free_place(0);
        Status::Ok
    }

    /// Hands an answer to the instance, if it lives. Always from the event loop: no guest is on the stack.
    fn answer(link: &Link, bytes: usize, give: impl FnOnce(Rc<dyn Guest>)) {
        if let Some(hosted) = link.get().and_then(Weak::upgrade) {
            hosted.services().free_place(bytes);
            give(hosted);
        }
    }

    /// The instance is dead: nobody waits for answers any more.
    pub fn set_idle(&self) {
        self.outstanding.set(0);
        self.outstanding_bytes.set(0);
        self.grpc.borrow_mut().clear();
        self.tick.set(None);
        self.tick_changed.notify_one();
    }

    /// See [`Guest::say`].
    fn say(&self, message: impl Fn() -> String) {
        if let Some(hosted) = self.link.get().and_then(Weak::upgrade) {
            hosted.say(&message);
        }
    }

    fn server(&self, cluster: &str) -> Result<Redis, Status> {
        let (name, own) = (redis::key(cluster), &self.generation.upstreams);
        if let Some(known) = self.redis.borrow().get(name) {
            return Ok(known.clone());
        }
        let exists = own.embedded(name).is_some() || upstream::resolve(name, Speaks::Redis, own, &self.common.clusters).is_ok();
        Err(if exists { Status::InternalFailure } else { Status::BadArgument })
    }
}

/// The low bits of a unary call's token.
pub(super) const GRPC_CALL: u32 = 1;

pub(super) fn queue_waker(slot: usize, post: &mpsc::UnboundedSender<Posted>) -> QueueWaker {
    let (post, waiting) = (post.clone(), Arc::new(AtomicUsize::new(0)));
    Arc::new(move |queue| {
        // A plugin that fills a queue faster than its reader is notified must not fill the worker's inbox.
        if waiting.load(Ordering::Relaxed) < MAX_WAKES {
            waiting.fetch_add(1, Ordering::Relaxed);
            let _ = post.send(Posted::Queue { slot, queue, waiting: waiting.clone() });
        }
    })
}

pub(super) fn dropped_lines(records: u64) -> String {
    format!(
        "{records} more lines of one callback are dropped; the annotation weir.dev/log-limit (--plugin-limit log-limit=VALUE) raises the limit"
    )
}

/// Decodes a map that has been checked already.
fn pairs(bytes: &[u8]) -> Pairs<'_> {
    Pairs::decode(bytes).unwrap_or(Pairs::EMPTY)
}

/// Levels are those of the application log.
pub(super) fn log(plugin: &WasmPlugin, level: LogLevel, message: &str) {
    let level = match level {
        LogLevel::Trace => Level::Trace,
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warning,
        LogLevel::Error => Level::Error,
        LogLevel::Critical => Level::Critical,
    };
    Logger::Wasm.write(level, format_args!("{}: {}", plugin.name, plugin.configuration.redacted(message)));
}

pub(super) fn log_level() -> LogLevel {
    match Logger::Wasm.level() {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warning => LogLevel::Warn,
        Level::Error => LogLevel::Error,
        Level::Critical | Level::Off => LogLevel::Critical,
    }
}

impl Services for HostServices {
    fn log(&self, level: LogLevel, message: &str) {
        log(&self.generation.plugin, level, message);
    }
    fn log_dropped(&self, records: u64) {
        self.stats.log_dropped.add(records);
        self.say(|| dropped_lines(records));
    }
    fn context_dropped(&self) {
        self.stats.contexts_dropped.inc();
    }
    fn log_level(&self) -> LogLevel {
        log_level()
    }

    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        property::without_stream(path, out)
    }

    fn http_call(&self, token: u32, call: HttpCall<'_>) -> Result<(), Status> {
        let to = upstream::resolve(call.upstream, Speaks::Http, &self.generation.upstreams, &self.common.clusters).map_err(|e| {
            self.say(|| format!("HTTP call: {e}"));
            Status::BadArgument
        })?;
        let request = callout::request(&call).ok_or(Status::BadArgument)?;
        let bytes =
            call.body.len() + [call.headers, call.trailers].iter().flat_map(|p| p.iter()).map(|(n, v)| n.len() + v.len()).sum::<usize>();
        let worker = self.begin(bytes)?;
        self.stats.http_calls.inc();
        let (link, stats, directs) = (self.link.clone(), self.stats.clone(), self.common.directs.clone());
        let (timeout, begun, name) = (call.timeout, Instant::now(), upstream::cut(call.upstream).to_string());
        spawn_local(async move {
            let answer = callout::call(&directs, worker, to, request, timeout).await;
            stats.http_call_nanoseconds.add_time(begun.elapsed());
            if answer.is_err() {
                stats.http_call_failures.inc();
            }
            HostServices::answer(&link, bytes, |hosted| {
                let answer = answer.unwrap_or_else(|e| {
                    hosted.say(&|| format!("HTTP call to `{name}`: {e}"));
                    HttpAnswer::failed()
                });
                hosted.on_http_call_response(token, answer);
            });
        });
        Ok(())
    }

    fn grpc_call(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.start_grpc(token, &call, true)
    }
    fn grpc_stream(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.start_grpc(token, &call, false)
    }
    fn grpc_send(&self, token: u32, message: &[u8], end_stream: bool) -> Status {
        let open = self.grpc.borrow();
        let Some(stream) = open.get(&token) else { return Status::NotFound };
        // The Rust SDK takes no other status that says no.
        if !message.is_empty() && !self.has_room(message.len()) {
            self.stats.callout_overflows.inc();
            return Status::BadArgument;
        }
        if stream.send(message, end_stream) {
            return Status::Ok;
        }
        self.stats.callout_overflows.inc();
        Status::BadArgument
    }
    fn grpc_cancel(&self, token: u32) -> Status {
        self.drop_grpc(token)
    }
    /// Ends the plugin's side of a stream; the server's is waited for. A call is cancelled.
    fn grpc_close(&self, token: u32) -> Status {
        if token & 3 == GRPC_CALL {
            return self.drop_grpc(token);
        }
        self.grpc_send(token, &[], true)
    }

    fn redis_init(&self, init: RedisInit<'_>) -> Result<(), Status> {
        let (to, options) = redis::resolve(&init, &self.generation.upstreams, &self.common.clusters).map_err(|e| {
            self.say(|| format!("Redis: {e}"));
            Status::BadArgument
        })?;
        let (name, mut servers) = (redis::key(init.cluster), self.redis.borrow_mut());
        if servers.len() >= MAX_REDIS && !servers.contains_key(name) {
            self.stats.callout_overflows.inc();
            return Err(Status::InternalFailure);
        }
        let stats = self.slot.shards.redis(self.common.number, &to.to_string());
        let server = self.common.redis.server(to, options);
        servers.insert(name.to_string(), Redis { server, stats });
        Ok(())
    }

    fn redis_call(&self, token: u32, cluster: &str, query: &[u8]) -> Result<(), Status> {
        let Redis { server, stats: upstream } = self.server(cluster)?;
        let bytes = query.len();
        self.take_place(bytes)?;
        self.stats.redis_commands.inc();
        let (link, stats, begun) = (self.link.clone(), self.stats.clone(), Instant::now());
        let query = match Query::new(Bytes::copy_from_slice(query)) {
            Ok(query) => query,
            Err(e) => {
                let reply = refusal(&e);
                stats.redis_errors.inc();
                spawn_local(async move {
                    HostServices::answer(&link, bytes, |hosted| hosted.on_redis_call_response(token, Some(reply)));
                });
                return Ok(());
            }
        };
        upstream.rq_total.inc();
        upstream.rq_active.inc();
        server.call(query, move |answer| {
            stats.redis_nanoseconds.add_time(begun.elapsed());
            match &answer {
                Ok(reply) if reply.starts_with(b"-") => stats.redis_errors.inc(),
                Ok(_) => {}
                Err(_) => stats.redis_failures.inc(),
            }
            redis::count(&upstream, &answer, begun.elapsed());
            HostServices::answer(&link, bytes, |hosted| {
                if let Err(e) = &answer {
                    hosted.say(&|| format!("Redis: {e}"));
                }
                hosted.on_redis_call_response(token, answer.ok());
            });
        });
        Ok(())
    }

    fn define_metric(&self, kind: MetricType, name: &str) -> Result<u32, Status> {
        self.defined.borrow_mut().define(&self.common.custom, &self.generation.plugin, kind, name)
    }
    fn increment_metric(&self, kind: MetricType, id: u32, delta: i64) -> Status {
        self.defined.borrow().increment(kind, id, delta)
    }
    fn record_metric(&self, kind: MetricType, id: u32, value: u64) -> Status {
        self.defined.borrow().record(kind, id, value)
    }
    fn metric(&self, kind: MetricType, id: u32) -> Option<u64> {
        self.defined.borrow().get(kind, id)
    }

    fn set_tick_period(&self, period: Option<Duration>) {
        self.tick.set(period);
        self.tick_changed.notify_one();
    }

    fn unknown_foreign_function(&self, name: &[u8]) {
        self.stats.unknown_foreign_functions.inc();
        self.say(|| format!("there is no foreign function `{}`", upstream::cut(&String::from_utf8_lossy(name))));
    }

    fn queue_waker(&self) -> QueueWaker {
        queue_waker(self.slot.id, &self.common.post)
    }
}

/// What a server would say of a command that is not sent to it.
fn refusal(error: &QueryError) -> Bytes {
    Bytes::from(format!("-ERR {error}\r\n"))
}
