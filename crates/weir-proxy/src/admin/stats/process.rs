//! Statistics of the whole process: one table for `/stats` and for the documentation.
use super::{super::show, Sample};
use crate::{
    Shared, State, Summary,
    access_log::Counts,
    app_log,
    stats::{
        Declared,
        Kind::{self, Counter, Gauge},
        Total,
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A statistic and how it is read.
pub struct Single {
    pub declared: Declared,
    read: fn(&Now<'_>) -> u64,
}

/// What they are read from.
struct Now<'a> {
    shared: &'a Shared,
    /// Bytes of the data segments, and resident bytes.
    memory: (u64, u64),
    logs: Counts,
    summary: Arc<Summary>,
}

const fn single(kind: Kind, name: &'static str, help: &'static str, read: fn(&Now<'_>) -> u64) -> Single {
    Single { declared: Declared { name, kind, help }, read }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// All of them, with their full names.
pub const PROCESS: &[Single] = &[
    single(Gauge, "server.live", "1 while the state is LIVE", |n| u64::from(n.shared.state() == State::Live)),
    // As Envoy numbers its states.
    single(Gauge, "server.state", "0 LIVE, 1 DRAINING, 2 PRE_INITIALIZING, 3 INITIALIZING", |n| match n.shared.state() {
        State::Live => 0,
        State::Draining => 1,
        State::PreInitializing => 2,
        State::Initializing => 3,
    }),
    single(Gauge, "server.uptime", "seconds since the start", |n| n.shared.started.elapsed().as_secs()),
    single(Gauge, "server.concurrency", "worker threads", |n| n.shared.options.workers as u64),
    single(Gauge, "server.configuration_version", "number of the configuration in use; rises with each one", |n| n.summary.version),
    single(Gauge, "server.total_connections", "client connections open now", |n| n.shared.connections().into()),
    single(Gauge, "server.total_connections_limit", "limit on open client connections", |n| n.shared.total.limit.into()),
    single(Gauge, "server.upstream_cx_active", "upstream connections open now", |n| n.shared.upstreams.open.load(Relaxed).into()),
    single(Gauge, "server.upstream_cx_limit", "limit on open upstream connections", |n| n.shared.upstreams.limit.into()),
    single(
        Counter,
        "server.upstream_cx_overflow",
        "requests that had to wait for an upstream connection, and TCP connections that were closed, because of the limit",
        |n| n.shared.upstreams.overflow.get(),
    ),
    single(
        Counter,
        "server.upstream_address_not_allowed",
        "lookups of names chosen by plugins, clients or redirects that found only protected addresses",
        |n| n.shared.guarded.guard.refused(),
    ),
    single(Gauge, "server.memory_allocated", "resident memory in bytes", |n| n.memory.1),
    single(Gauge, "server.memory_heap_size", "size of the data segments in bytes, resident or not", |n| n.memory.0),
    single(Counter, "server.access_log_dropped", "access log records lost because the disk was full or too slow", |n| n.logs.dropped),
    single(Counter, "server.log_lines_dropped", "lines of Weir's own log lost because standard error was too slow", |_| app_log::dropped()),
    single(
        Gauge,
        "overload.envoy.resource_monitors.fixed_heap.pressure",
        "resident memory in percent of the limit; 0 without a limit",
        |n| n.shared.overload.pressure(),
    ),
    single(
        Gauge,
        "overload.envoy.overload_actions.stop_accepting_requests.active",
        "1 while new requests are rejected because memory is short",
        |n| n.shared.overload.refuses_requests().into(),
    ),
    single(
        Gauge,
        "overload.envoy.overload_actions.stop_accepting_connections.active",
        "1 while new connections are rejected because memory is short",
        |n| n.shared.overload.refuses_connections().into(),
    ),
    single(Gauge, "listener_manager.total_listeners_active", "listeners that accept connections", |n| {
        n.shared.listeners.load().len() as u64
    }),
    single(Gauge, "listener_manager.total_listeners_warming", "listeners whose address cannot be bound yet", |n| {
        n.shared.waiting_listeners() as u64
    }),
    single(Counter, "listener_manager.listener_create_failure", "failed attempts to bind the address of a listener", |n| {
        load(&n.shared.listener_create_failure)
    }),
    single(Gauge, "cluster_manager.active_clusters", "clusters in the configuration", |n| n.summary.clusters as u64),
    single(Counter, "filesystem.write_completed", "blocks of access logs written", |n| n.logs.write_completed),
    single(Counter, "filesystem.write_failed", "blocks of access logs that could not be written in full", |n| n.logs.write_failed),
    single(Counter, "dns_cache.dynamic_forward_proxy.dns_query_attempt", "DNS lookups of names chosen by clients", |n| {
        load(&n.shared.dns_cache.dns_query_attempt)
    }),
    single(Counter, "dns_cache.dynamic_forward_proxy.dns_query_failure", "those that found no address", |n| {
        load(&n.shared.dns_cache.dns_query_failure)
    }),
    single(
        Counter,
        "dns_cache.dynamic_forward_proxy.dns_rq_pending_overflow",
        "requests rejected because too many lookups were in progress",
        |n| load(&n.shared.dns_cache.dns_rq_pending_overflow),
    ),
    single(Counter, "dns_cache.dynamic_forward_proxy.host_overflow", "hosts removed before they expired because the cache was full", |n| {
        load(&n.shared.dns_cache.host_overflow)
    }),
    single(Gauge, "dns_cache.dynamic_forward_proxy.num_hosts", "hosts in the cache now", |n| load(&n.shared.dns_cache.num_hosts)),
    single(
        Counter,
        "plugin_callouts.host_overflow",
        "hosts outside of the configuration that a worker forgot because plugins call too many",
        |n| load(&n.shared.callout_host_overflow),
    ),
];

/// Adds their values.
pub(super) fn collect(shared: &Shared, out: &mut Vec<Sample>) {
    let now = Now { shared, memory: show::process_memory(), logs: shared.sinks.counts(), summary: shared.summary.load_full() };
    out.extend(PROCESS.iter().map(|Single { declared, read }| {
        let value = read(&now);
        let value = if declared.kind == Counter { Total::Counter(value) } else { Total::Gauge(value as i64) };
        Sample { name: declared.name.into(), family: format!("envoy_{}", declared.name.replace('.', "_")), labels: Vec::new(), value }
    }));
}
