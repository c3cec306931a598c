//! Statistics of plugins.
use super::{
    Counter, Declared, Gauge, Histogram, Kind, Table, Total, Totals,
    table::{kind, table, total},
};

table! {
    /// Statistics of a plugin, `weir_wasm_….<plugin>`.
    PluginStats, "weir_wasm", "plugin";
    streams: Counter = "streams" "streams that the plugin has seen",
    unmatched_streams: Counter = "unmatched_streams" "streams that did not reach the guest because no rule or target of the plugin matched",
    calls: Counter = "calls" "callbacks run in the guest",
    call_nanoseconds: Counter = "call_nanoseconds" "time spent in callbacks",
    call_time: Histogram = "call_time" "time of each callback, in milliseconds",
    host_calls: Counter = "host_calls" "calls of the guest to the gateway",
    cpu_limited: Counter = "cpu_limited" "streams and ticks that met a plugin which had used up its CPU (`weir.dev/cpu-limit`)",
    contexts_dropped: Counter = "contexts_dropped" "contexts ended because too many waited for `proxy_done`",
    traps: Counter = "traps" "instances that trapped",
    deadlines: Counter = "deadlines" "traps because a callback exceeded its time limit",
    memory_limits: Counter = "memory_limits" "traps because the guest exceeded its memory limit",
    failed_streams: Counter = "failed_streams" "streams answered with 503 because the plugin could not run",
    skipped_streams: Counter = "skipped_streams" "streams that continued without the plugin (`failStrategy: FAIL_OPEN`)",
    starts: Counter = "starts" "instances started",
    start_nanoseconds: Counter = "start_nanoseconds" "time spent in starts",
    start_failures: Counter = "start_failures" "instances that failed to start",
    waited_streams: Counter = "waited_streams" "streams that waited for an instance to start",
    rebuilds: Counter = "rebuilds" "instances replaced because the guest asked for it",
    retired: Counter = "retired" "instances replaced because they reached a limit of `weir.dev/retire-…`",
    optimized: Counter = "optimized" "instances replaced because optimized code was ready",
    vm_reload_success: Counter = "vm_reload_success" "instances started after a trap",
    vm_reload_failure: Counter = "vm_reload_failure" "instances that failed to start after a trap",
    vm_reload_backoff: Counter = "vm_reload_backoff" "times that an instance was needed during the pause after a failed start",
    instances: Gauge = "instances" "instances now, including spare and retiring ones",
    memory_bytes: Gauge = "memory_bytes" "linear memory of the instances now",
    log_dropped: Counter = "log_dropped" "log records dropped because a callback wrote more than its limit",
    body_overflows: Counter = "body_overflows" "bodies that exceeded the buffer limit of the plugin",
    http_calls: Counter = "http_calls" "HTTP callouts",
    http_call_failures: Counter = "http_call_failures" "HTTP callouts without a response",
    http_call_nanoseconds: Counter = "http_call_nanoseconds" "time until the responses of HTTP callouts",
    grpc_calls: Counter = "grpc_calls" "gRPC callouts and streams",
    grpc_failures: Counter = "grpc_failures" "gRPC callouts and streams that ended with a status other than 0",
    callout_overflows: Counter = "callout_overflows" "callouts and commands rejected because too many were in progress",
    unknown_foreign_functions: Counter = "unknown_foreign_functions" "calls of foreign functions that Weir does not have",
    redis_commands: Counter = "redis_commands" "Redis commands",
    redis_failures: Counter = "redis_failures" "Redis commands without a reply",
    redis_errors: Counter = "redis_errors" "error replies of Redis",
    redis_nanoseconds: Counter = "redis_nanoseconds" "time until the replies of Redis",
}

table! {
    /// Commands of a plugin to one Redis upstream, `weir_wasm_redis_….<plugin>.<upstream>`.
    PluginRedisStats, "weir_wasm_redis", "upstream";
    rq_total: Counter = "upstream_rq_total" "commands sent to a Redis upstream",
    rq_active: Gauge = "upstream_rq_active" "commands waiting for a reply now",
    rq_time: Histogram = "upstream_rq_time" "time until the reply, in milliseconds",
    rq_error_reply: Counter = "upstream_rq_error_reply" "error replies",
    rq_connect_fail: Counter = "upstream_rq_connect_fail" "commands that failed because there was no connection",
    rq_disconnected: Counter = "upstream_rq_disconnected" "commands that failed because the connection was closed",
    rq_timeout: Counter = "upstream_rq_timeout" "commands that timed out",
    rq_protocol_error: Counter = "upstream_rq_protocol_error" "commands that failed because the reply was not valid or too large",
    rq_overflow: Counter = "upstream_rq_overflow" "commands rejected because too many were waiting",
}

const fn declared(name: &'static str, kind: Kind, help: &'static str) -> Declared {
    Declared { name, kind, help }
}

/// Statistics that are kept per plugin and not per worker, with their full names.
pub const PLUGIN: &[Declared] = &[
    declared("weir_wasm_unavailable", Kind::Gauge, "1 while no version of the plugin is in use; `failStrategy` decides"),
    declared(
        "weir_wasm_refused_versions",
        Kind::Counter,
        "versions that could not be fetched, compiled, started or configured, including retries",
    ),
    declared(
        "weir_wasm_stream_overflows",
        Kind::Counter,
        "edits rejected because the plugin would have added more to a stream than its limit",
    ),
    declared(
        "weir_wasm_metric_overflows",
        Kind::Counter,
        "metrics rejected because the plugin has defined too many, or by the length of the name",
    ),
    declared("weir_wasm_shared_data_bytes", Kind::Gauge, "keys and values of the shared data of its `vm_id`"),
    declared(
        "weir_wasm_shared_data_evicted",
        Kind::Counter,
        "entries of shared data dropped or rejected because there were too many or too large ones",
    ),
    declared("weir_wasm_queue_bytes", Kind::Gauge, "entries of the shared queues of its `vm_id`"),
    declared("weir_wasm_queue_dropped", Kind::Counter, "queue entries dropped, and queues rejected, because there were too many"),
    declared(
        "weir_wasm_rollbacks",
        Kind::Counter,
        "versions that did worse than the previous one, which replaced them, and canaries that did worse than their plugin",
    ),
];

/// Statistics of all plugins together, under the names of Istio's agent where it has them.
pub const PLUGIN_CODE: &[Declared] = &[
    declared("wasm_remote_fetch_count", Kind::Counter, "fetches of code, by `result`: success, download_failure, checksum_mismatched"),
    declared("wasm_cache_lookup_count", Kind::Counter, "lookups of remote code on disk, by `hit`: true, false"),
    declared("wasm_cache_entries", Kind::Gauge, "modules on disk that were fetched"),
    declared("weir_wasm_compiled", Kind::Counter, "modules compiled because no artifact was on disk"),
    declared(
        "weir_wasm_compilations",
        Kind::Counter,
        "compilations, by `compiler`: winch (fast, the first code of a large module), cranelift (optimized)",
    ),
    declared("weir_wasm_compilation_nanoseconds", Kind::Counter, "time spent in compilations, by `compiler`"),
    declared("weir_embedded_redis_used_memory_bytes", Kind::Gauge, "memory of an embedded Redis (`redis://embedded`), by `instance`"),
    declared("weir_embedded_redis_keys", Kind::Gauge, "keys in an embedded Redis"),
    declared("weir_embedded_redis_commands", Kind::Counter, "commands that an embedded Redis has run"),
    declared("weir_embedded_redis_expired_keys", Kind::Counter, "keys that have expired"),
    declared("weir_embedded_redis_oom_errors", Kind::Counter, "commands refused because the memory limit was reached"),
    declared("weir_embedded_redis_stopped_scripts", Kind::Counter, "scripts stopped because they exceeded their instructions or memory"),
    declared("weir_wasm_artifacts_loaded", Kind::Counter, "modules loaded from compiled artifacts on disk"),
];
