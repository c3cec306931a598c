//! The host functions of module `env`, by subject. All of them are there for every ABI version: a guest imports what its SDK knows.
mod callout;
mod context;
mod foreign;
mod headers;
mod metrics;
mod shared;
mod stream;

pub use context::{OWN_PROPERTIES, OWN_SPECIAL_KEYS};
pub use foreign::{ABSENT as ABSENT_FOREIGN_FUNCTIONS, FOREIGN_FUNCTIONS};

use crate::{
    functions::Functions,
    memory::{Guest, finish},
    row::Row,
};

/// Declares host functions: name, implementation and its parameters, and its row; each yields a status.
macro_rules! functions {
    ($functions:ident, $($name:literal => $function:path [$($arg:ident: $type:ty),*] $abi:literal, $does:literal, $test:literal;)*) => {
        $($functions.add("env", Row { name: $name, abi: $abi, does: $does, test: $test }, |mut guest: Guest<'_>, $($arg: $type),*| {
            guest.data_mut().host_calls += 1;
            finish($function(&mut guest, $($arg),*))
        });)*
    };
}

pub(crate) fn register(functions: &mut Functions) {
    functions! { functions,
        "proxy_log" => context::log[level: u32, p: u32, l: u32]
            "all", "Writes to the log of the plugin; a level above 5 is `BadArgument`. `weir.dev/log-limit` limits one callback.",
            "plugin_messages::what_a_plugin_adds_to_a_stream_and_logs_is_bounded";
        "proxy_get_log_level" => context::get_log_level[out: u32]
            "0.2.1", "Returns the level of the logger `wasm`.",
            "plugin_host_calls::calls_that_few_plugins_make";
        "proxy_get_status" => context::get_status[code: u32, pp: u32, lp: u32]
            "all", "Returns the status and message of the last gRPC close, or `BrokenConnection` (11) and `reset` in the callback of a failed HTTP call or Redis command.",
            "plugin_callout::http_calls_by_every_name_and_with_every_end";
        "proxy_get_current_time_nanoseconds" => context::get_current_time[out: u32]
            "all", "Returns the wall clock.",
            "plugin_host_calls::calls_that_few_plugins_make";
        "proxy_set_tick_period_milliseconds" => context::set_tick_period[ms: u32]
            "all", "Calls `proxy_on_tick` at this interval, in each worker; 0 stops it.",
            "plugin_shared::ticks_change_their_pace_and_stop";
        "proxy_set_effective_context" => context::set_effective_context[id: u32]
            "all", "Selects the context for the calls that follow; `BadArgument` for an unknown one.",
            "plugin_shared::rules_of_metrics_and_of_contexts";
        "proxy_done" => context::done[]
            "all", "Ends a context whose `proxy_on_done` returned false; `NotFound` otherwise.",
            "wasm::actions::ends_of_streams_and_of_the_plugin";
        "proxy_get_configuration" => context::get_configuration[pp: u32, lp: u32]
            "0.1.0", "Returns the VM configuration during `proxy_on_vm_start`, then the plugin configuration.",
            "plugin_abi::a_plugin_of_abi_0_1_0";
        "proxy_get_property" => context::get_property[p: u32, l: u32, pp: u32, lp: u32]
            "all", "Returns a property in the encoding of Envoy; `NotFound` for an unknown one.",
            "plugin_stream::properties_are_those_of_envoy";
        "proxy_set_property" => context::set_property[p: u32, l: u32, vp: u32, vl: u32]
            "all", "Stores filter state `wasm.<path>` for the stream, or acts on a special key. `Ok` without effect outside of a stream.",
            "plugin_shared::one_plugin_reads_what_another_has_set";

        "proxy_get_header_map_size" => headers::size[map: u32, out: u32]
            "all", "Returns the bytes of all names and values, as Envoy does (the specification says the number of pairs).",
            "plugin_host_calls::calls_that_few_plugins_make";
        "proxy_get_header_map_pairs" => headers::pairs[map: u32, pp: u32, lp: u32]
            "all", "Returns all fields in order, pseudo-headers first; empty for a map that is not available.",
            "plugin_phases::headers_of_any_bytes_and_repeated_ones";
        "proxy_set_header_map_pairs" => headers::set_pairs[map: u32, p: u32, l: u32]
            "all", "Replaces the map; at most 1,024 pairs and 1 MiB, else `BadArgument`.",
            "plugin_phases::maps_beyond_their_limits_are_refused_and_change_nothing";
        "proxy_get_header_map_value" => headers::value[map: u32, p: u32, l: u32, pp: u32, lp: u32]
            "all", "Returns the first value. A missing header is `NotFound`, and `Ok` with an empty value in 0.1.0.",
            "plugin_phases::headers_of_any_bytes_and_repeated_ones";
        "proxy_add_header_map_value" => headers::add[map: u32, p: u32, l: u32, vp: u32, vl: u32]
            "all", "Adds a field. `Ok` without effect once the map has been forwarded.",
            "plugin_phases::headers_of_any_bytes_and_repeated_ones";
        "proxy_replace_header_map_value" => headers::replace[map: u32, p: u32, l: u32, vp: u32, vl: u32]
            "all", "Leaves one field of that name with the value.",
            "plugin_phases::headers_of_any_bytes_and_repeated_ones";
        "proxy_remove_header_map_value" => headers::remove[map: u32, p: u32, l: u32]
            "all", "Removes all fields of that name; `Ok` if there is none.",
            "plugin_phases::headers_of_any_bytes_and_repeated_ones";

        "proxy_get_buffer_bytes" => stream::get_buffer[buffer: u32, start: u32, max: u32, pp: u32, lp: u32]
            "all", "Returns bytes from buffers 0, 1, 4 to 7 and 9; clamps the range. Buffers 2 and 3 (TCP) and 8 are `NotFound`.",
            "plugin_phases::bodies_by_action_size_and_protocol";
        "proxy_get_buffer_status" => stream::buffer_status[buffer: u32, len: u32, flags: u32]
            "all", "Returns the length of a buffer, and 0 as flags.",
            "plugin_host_calls::calls_that_few_plugins_make";
        "proxy_set_buffer_bytes" => stream::set_buffer[buffer: u32, start: u32, len: u32, p: u32, l: u32]
            "all", "Prepends to, replaces or appends to a body; other ranges are `BadArgument`.",
            "plugin_phases::edits_of_bodies_in_every_place";
        "proxy_continue_stream" => stream::continue_stream[stream: u32]
            "0.2.0", "Resumes a direction after the callback returns; harmless if it is not paused.",
            "plugin_holds::a_held_head_lets_bodies_of_every_size_flow_once_it_is_resumed";
        "proxy_continue_request" => stream::continue_request[]
            "0.1.0", "Resumes the request.",
            "plugin_abi::a_plugin_of_abi_0_1_0";
        "proxy_continue_response" => stream::continue_response[]
            "0.1.0", "Resumes the response.",
            "plugin_abi::a_plugin_of_abi_0_1_0";
        "proxy_close_stream" => stream::close_stream[stream: u32]
            "0.2.0", "Resets the stream after the callback returns.",
            "plugin_host_calls::a_plugin_closes_its_stream";
        "proxy_send_local_response" => stream::send_local_response[
            code: u32, dp: u32, dl: u32, bp: u32, bl: u32, hp: u32, hl: u32, grpc: i32]
            "all", "Responds in place of the upstream after the callback returns; once per plugin and stream.",
            "plugin_phases::replies_in_every_phase";
        "proxy_clear_route_cache" => stream::clear_route_cache[]
            "0.1.0", "Looks up the route again.",
            "plugin_abi::a_plugin_of_abi_0_1_0";
        "proxy_inject_encoded_data_to_filter_chain" => stream::inject_encoded_data[p: u32, l: u32, end: u32]
            "Higress", "Adds bytes to the response behind this plugin, in order; waits for a slow client.",
            "plugin_phases::injected_bytes_keep_their_order_and_wait_for_a_slow_reader";
        "proxy_get_upstream_hosts" => stream::get_upstream_hosts[pp: u32, lp: u32]
            "Higress", "Returns the endpoints of the cluster of the route, with `{\"health_status\":\"Healthy\"}` or `Unhealthy`.",
            "plugin_rules::a_plugin_is_told_of_the_hosts_of_its_route";
        "proxy_set_upstream_override_host" => stream::set_upstream_override_host[p: u32, l: u32]
            "Higress", "Sends the request to this endpoint of the cluster; an address that is no endpoint has no effect.",
            "plugin_host_calls::a_plugin_chooses_the_endpoint";

        "proxy_get_shared_data" => shared::get[p: u32, l: u32, pp: u32, lp: u32, cas: u32]
            "all", "Returns a value of the `vm_id` and its CAS number; `NotFound`.",
            "plugin_shared::shared_data_counts_right_across_workers_and_outlives_versions";
        "proxy_set_shared_data" => shared::set[p: u32, l: u32, vp: u32, vl: u32, cas: u32]
            "all", "Sets a value; a CAS number that is not 0 must match. All data of a `vm_id` is limited.",
            "plugin_shared::shared_data_counts_right_across_workers_and_outlives_versions";
        "proxy_register_shared_queue" => shared::register_queue[p: u32, l: u32, out: u32]
            "all", "Creates a queue of the `vm_id`, or finds it; the last to register is notified.",
            "plugin_shared::queues_between_two_plugins";
        "proxy_resolve_shared_queue" => shared::resolve_queue[vp: u32, vl: u32, p: u32, l: u32, out: u32]
            "all", "Finds a queue by `vm_id` and name; an empty `vm_id` is that of the caller.",
            "plugin_shared::queues_between_two_plugins";
        "proxy_enqueue_shared_queue" => shared::enqueue[queue: u32, p: u32, l: u32]
            "all", "Adds an entry and notifies the owner; `NotFound` for an unknown queue; a full one drops its oldest entry.",
            "plugin_shared::queues_between_two_plugins";
        "proxy_dequeue_shared_queue" => shared::dequeue[queue: u32, pp: u32, lp: u32]
            "all", "Takes the oldest entry; `Empty` if there is none.",
            "plugin_shared::queues_between_two_plugins";

        "proxy_http_call" => callout::http_call[
            up: u32, ul: u32, hp: u32, hl: u32, bp: u32, bl: u32, tp: u32, tl: u32, timeout: i32, out: u32]
            "all", "Calls a cluster or a host over HTTP. The answer comes by `proxy_on_http_call_response`; a call that fails has 0 headers.",
            "plugin_callout::http_calls_by_every_name_and_with_every_end";
        "proxy_grpc_call" => callout::grpc_call[
            sp: u32, sl: u32, np: u32, nl: u32, mp: u32, ml: u32, ip: u32, il: u32, bp: u32, bl: u32, timeout: i32, out: u32]
            "all", "Makes a unary gRPC call to a cluster or a host, named by text or by a `GrpcService` message.",
            "plugin_callout::grpc_calls_and_streams";
        "proxy_grpc_stream" => callout::grpc_stream[sp: u32, sl: u32, np: u32, nl: u32, mp: u32, ml: u32, ip: u32, il: u32, out: u32]
            "all", "Opens a gRPC stream.",
            "plugin_callout::grpc_calls_and_streams";
        "proxy_grpc_send" => callout::grpc_send[token: u32, p: u32, l: u32, end: u32]
            "all", "Sends a message on a gRPC stream.",
            "plugin_callout::grpc_calls_and_streams";
        "proxy_grpc_cancel" => callout::grpc_cancel[token: u32]
            "all", "Ends a gRPC call or stream; no callback follows.",
            "plugin_callout::grpc_calls_and_streams";
        "proxy_grpc_close" => callout::grpc_close[token: u32]
            "all", "Ends the sending side of a gRPC stream; cancels a unary call.",
            "plugin_callout::grpc_calls_and_streams";
        "proxy_redis_init" => callout::redis_init[cp: u32, cl: u32, up: u32, ul: u32, pp: u32, pl: u32, timeout: u32]
            "Higress", "Names a Redis server with user, password, timeout and `?db=N`: a cluster, a host and port, or a URL.",
            "plugin_redis::every_way_to_name_and_ask_a_server";
        "proxy_redis_call" => callout::redis_call[cp: u32, cl: u32, qp: u32, ql: u32, out: u32]
            "Higress", "Sends one command in RESP. The reply comes by `proxy_on_redis_call_response` in buffer 9.",
            "plugin_redis::every_way_to_name_and_ask_a_server";

        "proxy_define_metric" => metrics::define[kind: u32, p: u32, l: u32, out: u32]
            "all", "Defines the metric `wasmcustom.<name>`; the same name returns the same id.",
            "plugin_shared::rules_of_metrics_and_of_contexts";
        "proxy_increment_metric" => metrics::increment[id: u32, delta: i64]
            "all", "Adds to a counter (more than 0) or a gauge; a histogram is `BadArgument`.",
            "plugin_shared::rules_of_metrics_and_of_contexts";
        "proxy_record_metric" => metrics::record[id: u32, value: u64]
            "all", "Adds to a counter, sets a gauge, records in a histogram.",
            "plugin_shared::rules_of_metrics_and_of_contexts";
        "proxy_get_metric" => metrics::get[id: u32, out: u32]
            "all", "Returns a counter or a gauge; a histogram is `BadArgument`.",
            "plugin_shared::rules_of_metrics_and_of_contexts";

        "proxy_call_foreign_function" => foreign::call[np: u32, nl: u32, ap: u32, al: u32, pp: u32, lp: u32]
            "0.2.0", "Calls a function of the table below; `NotFound` for others. Null result pointers are allowed.",
            "plugin_host_calls::foreign_functions";
        "envoy_resolve_dns" => context::resolve_dns[p: u32, l: u32, out: u32]
            "Envoy", "Always `Unimplemented`: modules that import it load.",
            "plugin_host_calls::calls_that_few_plugins_make";
    }
    context::register_runtimes(functions);
}
