//! The trial of a version: one instance, started and configured on a thread of its own, that no stream ever sees.
use super::{
    metrics::{Custom, Defined},
    property,
    upstream::{self, Own, Speaks, Upstream},
};
use crate::{cluster::ClusterRegistry, logging::Logger};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};
use weir_net::redis;
use weir_wasm::{
    GrpcCall, HttpCall, Instance, LogLevel, MetricType, Module, PluginSpec, PropertyPath, RedisInit, Services, StartError, Status,
};

/// What a plugin asked for while it was configured.
#[derive(Default)]
pub(super) struct Findings {
    pub redis: Vec<RedisWish>,
    /// An upstream that it named is not there (yet).
    pub unknown: bool,
}

/// A `redis_init`.
pub(super) struct RedisWish {
    pub name: String,
    pub to: Result<(Upstream, redis::Options), String>,
}

/// Starts and configures an instance, and drops it. Blocks for as long as the guest takes.
///
/// # Errors
/// Why it did not start; with what it asked for so far, which may be the reason.
pub(super) fn attempt(
    module: &Module,
    spec: &PluginSpec,
    own: &Own,
    clusters: &Arc<ClusterRegistry>,
    custom: &Arc<Custom>,
) -> (Result<(), String>, Findings) {
    let services = Rc::new(Canary {
        name: spec.name.clone(),
        own: own.clone(),
        clusters: clusters.clone(),
        custom: custom.clone(),
        defined: RefCell::default(),
        findings: RefCell::default(),
        said: RefCell::default(),
    });
    let started = Instance::start(module, spec, services.clone());
    let result = started.map(drop).map_err(|e| services.reason(&e));
    (result, services.findings.take())
}

struct Canary {
    name: String,
    own: Own,
    clusters: Arc<ClusterRegistry>,
    custom: Arc<Custom>,
    defined: RefCell<Defined>,
    findings: RefCell<Findings>,
    /// The first of what the guest warned of.
    said: RefCell<Vec<String>>,
}

/// Of what a guest says, so many records and so many characters of each stand in the reason.
const SAID: (usize, usize) = (3, 300);

impl Canary {
    /// Why it did not start, in its own words where it has some: a trap's are in the trap.
    fn reason(&self, error: &StartError) -> String {
        let said = self.said.take().join("; ");
        match error {
            // In Go `main` never runs; one who sets up there has nothing when the first context comes.
            StartError::Trap(trap) if trap.callback == "proxy_on_context_create" && trap.message.contains("panic: ") => {
                format!("{error}; is everything set up in init()? main() of a plugin in Go does not run")
            }
            StartError::VmStart | StartError::Validate | StartError::Configure if !said.is_empty() => format!("{error}; it said: {said}"),
            _ => error.to_string(),
        }
    }

    /// Nothing is ever sent, so nothing is answered: the instance ends with its configuration.
    fn knows(&self, what: &str, upstream: &str, unknown: Status) -> Result<(), Status> {
        let known = upstream::resolve(upstream, Speaks::Http, &self.own, &self.clusters);
        known.map(drop).map_err(|e| {
            Logger::Wasm.warning(format_args!("{}: {what}: {e}", self.name));
            self.findings.borrow_mut().unknown = true;
            unknown
        })
    }
}

impl Services for Canary {
    fn log(&self, level: LogLevel, message: &str) {
        let mut said = self.said.borrow_mut();
        if level >= LogLevel::Warn && said.len() < SAID.0 {
            said.push(message.chars().take(SAID.1).collect());
        }
        super::services::log(&self.name, level, message);
    }
    fn log_level(&self) -> LogLevel {
        super::services::log_level()
    }
    fn property(&self, path: PropertyPath<'_>, out: &mut Vec<u8>) -> bool {
        property::without_stream(path, out)
    }
    fn http_call(&self, _: u32, call: HttpCall<'_>) -> Result<(), Status> {
        self.knows("HTTP call", call.upstream, Status::BadArgument)
    }
    fn grpc_call(&self, _: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.knows("gRPC call", call.upstream, Status::ParseFailure)
    }
    fn grpc_stream(&self, token: u32, call: GrpcCall<'_>) -> Result<(), Status> {
        self.grpc_call(token, call)
    }
    fn redis_init(&self, init: RedisInit<'_>) -> Result<(), Status> {
        let to = super::redis::resolve(&init, &self.own, &self.clusters);
        let result = to.as_ref().map(drop).map_err(|_| Status::BadArgument);
        let name = init.cluster.split('?').next().unwrap_or_default().to_string();
        let mut findings = self.findings.borrow_mut();
        findings.unknown |= result.is_err();
        findings.redis.push(RedisWish { name, to });
        result
    }
    fn redis_call(&self, _: u32, _: &str, _: &[u8]) -> Result<(), Status> {
        Err(Status::InternalFailure)
    }
    fn define_metric(&self, kind: MetricType, name: &str) -> Result<u32, Status> {
        self.defined.borrow_mut().define(&self.custom, kind, name)
    }
    // A trial counts nothing.
    fn increment_metric(&self, kind: MetricType, id: u32, _: i64) -> Status {
        self.defined.borrow().increment(kind, id, 0)
    }
    fn record_metric(&self, kind: MetricType, id: u32, _: u64) -> Status {
        self.metric(kind, id).map_or(Status::NotFound, |_| Status::Ok)
    }
    fn metric(&self, kind: MetricType, id: u32) -> Option<u64> {
        self.defined.borrow().get(kind, id)
    }
    fn set_tick_period(&self, _: Option<Duration>) {}
}
