//! The services of an instance while it starts, away from the workers' threads. Calls that need a worker wait until one adopts it.
use super::{
    Generation,
    asked::{Ask, Asked, Posted, RedisWish},
    callout,
    metrics::Custom,
    property, redis,
    upstream::{self, Own, Speaks},
};
use crate::cluster::ClusterRegistry;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use weir_wasm::{
    GrpcCall, HttpCall, Instance, LogLevel, MetricType, PropertyPath, QueueWaker, RedisInit, Services, StartError, Started, Status, Trap,
    TrapKind, pairs,
};

/// How many of the guest's log records the reason of a failed start quotes, and how many characters of each.
const SAID: (usize, usize) = (3, 300);
/// How many log lines of a trial are remembered, so that the workers' starts do not repeat them.
const KNOWN_LINES: usize = 64;
/// How many refused calls of one start are logged.
const WARNINGS: usize = 16;

/// What an instance is started for.
pub(super) enum For {
    /// A test: the instance is dropped once it is configured. It counts nothing and sends nothing.
    Trial,
    /// A worker. Lines that the trial has logged are not logged again.
    Worker { slot: usize, post: mpsc::UnboundedSender<Posted>, known: Arc<[String]> },
}

/// Everything that a start needs.
pub(super) struct Startup {
    pub plugin: Arc<weir_config::model::WasmPlugin>,
    pub own: Own,
    pub clusters: Arc<ClusterRegistry>,
    pub custom: Arc<Custom>,
    pub whose: For,
}

/// Why an instance did not start, without the values of Secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    /// With the trap as text.
    #[error("{0}")]
    Trap(String),
    #[error("{error}; it said: {}", said.join("; "))]
    Said { error: StartError, said: Vec<String> },
    #[error(transparent)]
    Start(StartError),
    /// A bug, or the process ends.
    #[error("{0}")]
    Host(String),
}

/// The result of a start.
pub(super) struct Outcome {
    pub started: Result<Started, NotStarted>,
    pub asked: Asked,
}

impl Outcome {
    /// Takes the lines that the guest has logged, for later starts to leave out.
    pub fn lines(&mut self) -> Arc<[String]> {
        std::mem::take(&mut self.asked.logged).into()
    }
}

impl Startup {
    pub fn of(generation: &Generation, clusters: &Arc<ClusterRegistry>, custom: &Arc<Custom>, whose: For) -> Startup {
        Startup {
            plugin: generation.plugin.clone(),
            own: generation.upstreams.clone(),
            clusters: clusters.clone(),
            custom: custom.clone(),
            whose,
        }
    }

    /// Starts and configures an instance. Blocks until the guest is done.
    pub fn run(self, module: &weir_wasm::Module, spec: &weir_wasm::PluginSpec) -> Outcome {
        let services = Arc::new(Starting { startup: self, asked: Mutex::default() });
        let started = Instance::start_apart(module, spec, Box::new(Kept(services.clone())));
        let mut asked = std::mem::take(&mut *services.asked());
        let plugin = &services.startup.plugin;
        let started = started.map_err(|e| reason(e, plugin, &asked.said));
        let quoted = started.as_ref().err().map(NotStarted::to_string).unwrap_or_default();
        for (level, line) in std::mem::take(&mut asked.held) {
            // The reason quotes these lines already.
            let shown = plugin.configuration.redacted(&line);
            if started.is_ok() || !quoted.contains(shown.trim()) {
                super::host_services::log(plugin, level, &line);
            }
        }
        Outcome { started, asked }
    }
}

/// Why the start failed, with the guest's own log lines where there are some; a trap carries its own.
fn reason(error: StartError, plugin: &weir_config::model::WasmPlugin, said: &[String]) -> NotStarted {
    match error {
        StartError::Trap(trap) => {
            // In Go `main` never runs, so a plugin that registers its contexts there fails at the first one.
            let in_main = trap.callback == "proxy_on_context_create" && trap.said.contains("panic: ");
            let hint = if in_main { "; is everything set up in init()? main() of a plugin in Go does not run" } else { "" };
            NotStarted::Trap(explain(trap, plugin, "start-deadline") + hint)
        }
        StartError::VmStart | StartError::Validate | StartError::Configure if !said.is_empty() => {
            NotStarted::Said { error, said: said.to_vec() }
        }
        _ => NotStarted::Start(error),
    }
}

/// The trap as text, without the values of Secrets. If a limit caused it, names the setting that raises the limit. `deadline`: the
/// call's time limit.
pub(super) fn explain(mut trap: Trap, plugin: &weir_config::model::WasmPlugin, deadline: &str) -> String {
    // Before the text is cut: half of a value would not be found.
    trap.said = plugin.configuration.redacted(&trap.said).into_owned();
    let limit = match trap.kind {
        TrapKind::Deadline => deadline,
        TrapKind::Memory => "memory-limit",
        _ => return trap.to_string(),
    };
    let setting = match plugin.origin.file() {
        Some(_) => format!("the annotation weir.dev/{limit}"),
        None => format!("--plugin-limit {limit}=VALUE"),
    };
    format!("{trap}; {setting} raises the limit")
}

struct Starting {
    startup: Startup,
    asked: Mutex<Asked>,
}

/// Shared by the instance and the code that starts it.
struct Kept(Arc<Starting>);

impl Starting {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_trial(&self) -> bool {
        matches!(self.startup.whose, For::Trial)
    }

    fn keep(&self, ask: Ask) -> Result<(), Status> {
        if self.is_trial() {
            return Ok(());
        }
        let mut asked = self.asked();
        if asked.asks.len() >= self.limit() {
            return Err(Status::InternalFailure);
        }
        asked.take(ask.bytes())?;
        asked.asks.push(ask);
        Ok(())
    }

    fn limit(&self) -> usize {
        self.startup.plugin.limits.max_callouts as usize
    }

    fn knows(&self, what: &str, upstream: &str, unknown: Status) -> Result<(), Status> {
        let known = upstream::resolve(upstream, Speaks::Http, &self.startup.own, &self.startup.clusters);
        known.map(drop).map_err(|e| {
            self.refuse(&format!("{what}: {e}"));
            self.asked().unknown = true;
            unknown
        })
    }

    fn warn(&self, message: &str) {
        if self.is_new(message) {
            super::host_services::log(&self.startup.plugin, LogLevel::Warn, message);
        }
    }

    /// Warns of a call that is refused, the first few times.
    fn refuse(&self, message: &str) {
        let warned = {
            let mut asked = self.asked();
            asked.warned += 1;
            asked.warned
        };
        if warned <= WARNINGS {
            self.warn(message);
        }
    }

    /// Whether this line has not been logged yet: every start of a version logs the same lines.
    fn is_new(&self, line: &str) -> bool {
        match &self.startup.whose {
            For::Worker { known, .. } => !known.iter().any(|l| l == line),
            For::Trial => {
                let mut asked = self.asked();
                if asked.logged.len() < KNOWN_LINES {
                    asked.logged.push(line.into());
                }
                true
            }
        }
    }

    fn grpc(&self, token: u32, call: &GrpcCall<'_>, unary: bool) -> Result<(), Status> {
        self.knows("gRPC call", call.upstream, Status::ParseFailure)?;
        self.keep(Ask::Grpc {
            token,
            upstream: call.upstream.into(),
            service: call.service_name.into(),
            method: call.method.into(),
            metadata: pairs::encode(call.initial_metadata.iter()),
            message: call.message.into(),
            timeout: call.timeout,
            unary,
        })
    }

    fn has_stream(&self, token: u32) -> bool {
        self.asked().asks.iter().any(|a| matches!(a, Ask::Grpc { token: t, .. } if *t == token))
    }
}

impl Services for Kept {
    fn log(&self, level: LogLevel, message: &str) {
        let it = &*self.0;
        if !it.is_new(message) {
            return;
        }
        let mut asked = it.asked();
        if it.is_trial() && level >= LogLevel::Warn && asked.said.len() < SAID.0 {
            asked.said.push(it.startup.plugin.configuration.redacted(message).chars().take(SAID.1).collect());
            asked.held.push((level, message.into()));
            return;
        }
        drop(asked);
        super::host_services::log(&it.startup.plugin, level, message);
    }
    fn log_level(&self) -> LogLevel {
        super::host_services::log_level()
    }
    fn log_dropped(&self, records: u64) {
        self.0.warn(&super::host_services::dropped_lines(records));
    }
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        property::without_stream(path, out)
    }
    fn http_call(&self, token: u32, call: HttpCall<'_>) -> Result<(), Status> {
        self.0.knows("HTTP call", call.upstream, Status::BadArgument)?;
        callout::request(&call).ok_or(Status::BadArgument)?;
        self.0.keep(Ask::Http {
            token,
            upstream: call.upstream.into(),
            headers: pairs::encode(call.headers.iter()),
            body: call.body.into(),
            trailers: pairs::encode(call.trailers.iter()),
            timeout: call.timeout,
        })
    }
    fn grpc_call(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.0.grpc(token, &call, true)
    }
    fn grpc_stream(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.0.grpc(token, &call, false)
    }
    fn grpc_send(&self, token: u32, message: &[u8], end: bool) -> Status {
        if !self.0.has_stream(token) {
            return Status::NotFound;
        }
        // The Rust SDK accepts no other error status here.
        self.0.keep(Ask::GrpcSend { token, message: message.into(), end }).map_or(Status::BadArgument, |()| Status::Ok)
    }
    fn grpc_cancel(&self, token: u32) -> Status {
        if !self.0.has_stream(token) {
            return Status::NotFound;
        }
        self.0.keep(Ask::GrpcCancel { token }).map_or_else(|e| e, |()| Status::Ok)
    }
    fn grpc_close(&self, token: u32) -> Status {
        if token & 3 == super::host_services::GRPC_CALL {
            return self.grpc_cancel(token);
        }
        self.grpc_send(token, &[], true)
    }
    fn redis_init(&self, init: RedisInit<'_>) -> Result<(), Status> {
        let to = redis::resolve(&init, &self.0.startup.own, &self.0.startup.clusters);
        let result = to.as_ref().map(drop).map_err(|e| {
            if !self.0.is_trial() {
                self.0.refuse(&format!("Redis: {e}"));
            }
            Status::BadArgument
        });
        let name = redis::key(init.cluster).to_string();
        {
            let mut asked = self.0.asked();
            asked.unknown |= result.is_err();
            match asked.redis.iter().position(|w| w.name == name) {
                // The last one of a name counts.
                Some(known) => asked.redis[known].to = to,
                None if asked.redis.len() >= self.0.limit() => return Err(Status::InternalFailure),
                None => {
                    asked.take(name.len())?;
                    asked.redis.push(RedisWish { name, to });
                }
            }
        }
        result?;
        let RedisInit { cluster, user, password, timeout } = init;
        self.0.keep(Ask::RedisInit { cluster: cluster.into(), user: user.into(), password: password.into(), timeout })
    }
    fn redis_call(&self, token: u32, cluster: &str, query: &[u8]) -> Result<(), Status> {
        // Nothing answers the commands of a trial.
        let known = self.0.asked().redis.iter().any(|wish| wish.name == redis::key(cluster) && wish.to.is_ok());
        if !known {
            return Err(Status::InternalFailure);
        }
        self.0.keep(Ask::Redis { token, cluster: cluster.into(), query: query.into() })
    }
    fn define_metric(&self, kind: MetricType, name: &str) -> Result<u32, Status> {
        self.0.asked().defined.define(&self.0.startup.custom, &self.0.startup.plugin, kind, name)
    }
    fn increment_metric(&self, kind: MetricType, id: u32, delta: i64) -> Status {
        self.0.asked().defined.increment(kind, id, if self.0.is_trial() { 0 } else { delta })
    }
    fn record_metric(&self, kind: MetricType, id: u32, value: u64) -> Status {
        let asked = self.0.asked();
        match self.0.is_trial() {
            true => asked.defined.get(kind, id).map_or(Status::NotFound, |_| Status::Ok),
            false => asked.defined.record(kind, id, value),
        }
    }
    fn metric(&self, kind: MetricType, id: u32) -> Option<u64> {
        self.0.asked().defined.get(kind, id)
    }
    fn set_tick_period(&self, period: Option<Duration>) {
        self.0.asked().tick = period;
    }
    fn queue_waker(&self) -> QueueWaker {
        match &self.0.startup.whose {
            For::Trial => Arc::new(|_| ()),
            For::Worker { slot, post, .. } => super::host_services::queue_waker(*slot, post),
        }
    }
}
