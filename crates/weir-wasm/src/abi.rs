//! The host functions of module `env`, by subject. All of them are there for every ABI version: a guest imports what its SDK knows.
mod callout;
mod context;
mod foreign;
mod headers;
mod metrics;
mod shared;
mod stream;

use crate::{
    functions::Functions,
    memory::{Guest, finish},
};

/// Declares host functions: name, implementation and its parameters; each yields a status.
macro_rules! functions {
    ($functions:ident, $($name:literal => $function:path [$($arg:ident: $type:ty),*];)*) => {
        $($functions.add("env", $name, |mut guest: Guest<'_>, $($arg: $type),*| {
            guest.data_mut().host_calls += 1;
            finish($function(&mut guest, $($arg),*))
        });)*
    };
}

pub(crate) fn register(functions: &mut Functions) {
    functions! { functions,
        "proxy_log" => context::log[level: u32, p: u32, l: u32];
        "proxy_get_log_level" => context::get_log_level[out: u32];
        "proxy_get_status" => context::get_status[code: u32, pp: u32, lp: u32];
        "proxy_get_current_time_nanoseconds" => context::get_current_time[out: u32];
        "proxy_set_tick_period_milliseconds" => context::set_tick_period[ms: u32];
        "proxy_set_effective_context" => context::set_effective_context[id: u32];
        "proxy_done" => context::done[];
        "proxy_get_configuration" => context::get_configuration[pp: u32, lp: u32];
        "proxy_get_property" => context::get_property[p: u32, l: u32, pp: u32, lp: u32];
        "proxy_set_property" => context::set_property[p: u32, l: u32, vp: u32, vl: u32];

        "proxy_get_header_map_size" => headers::size[map: u32, out: u32];
        "proxy_get_header_map_pairs" => headers::pairs[map: u32, pp: u32, lp: u32];
        "proxy_set_header_map_pairs" => headers::set_pairs[map: u32, p: u32, l: u32];
        "proxy_get_header_map_value" => headers::value[map: u32, p: u32, l: u32, pp: u32, lp: u32];
        "proxy_add_header_map_value" => headers::add[map: u32, p: u32, l: u32, vp: u32, vl: u32];
        "proxy_replace_header_map_value" => headers::replace[map: u32, p: u32, l: u32, vp: u32, vl: u32];
        "proxy_remove_header_map_value" => headers::remove[map: u32, p: u32, l: u32];

        "proxy_get_buffer_bytes" => stream::get_buffer[buffer: u32, start: u32, max: u32, pp: u32, lp: u32];
        "proxy_get_buffer_status" => stream::buffer_status[buffer: u32, len: u32, flags: u32];
        "proxy_set_buffer_bytes" => stream::set_buffer[buffer: u32, start: u32, len: u32, p: u32, l: u32];
        "proxy_continue_stream" => stream::continue_stream[stream: u32];
        "proxy_continue_request" => stream::continue_request[];
        "proxy_continue_response" => stream::continue_response[];
        "proxy_close_stream" => stream::close_stream[stream: u32];
        "proxy_send_local_response" => stream::send_local_response[
            code: u32, dp: u32, dl: u32, bp: u32, bl: u32, hp: u32, hl: u32, grpc: i32];
        "proxy_clear_route_cache" => stream::clear_route_cache[];
        "proxy_inject_encoded_data_to_filter_chain" => stream::inject_encoded_data[p: u32, l: u32, end: u32];
        "proxy_get_upstream_hosts" => stream::get_upstream_hosts[pp: u32, lp: u32];
        "proxy_set_upstream_override_host" => stream::set_upstream_override_host[p: u32, l: u32];

        "proxy_get_shared_data" => shared::get[p: u32, l: u32, pp: u32, lp: u32, cas: u32];
        "proxy_set_shared_data" => shared::set[p: u32, l: u32, vp: u32, vl: u32, cas: u32];
        "proxy_register_shared_queue" => shared::register_queue[p: u32, l: u32, out: u32];
        "proxy_resolve_shared_queue" => shared::resolve_queue[vp: u32, vl: u32, p: u32, l: u32, out: u32];
        "proxy_enqueue_shared_queue" => shared::enqueue[queue: u32, p: u32, l: u32];
        "proxy_dequeue_shared_queue" => shared::dequeue[queue: u32, pp: u32, lp: u32];

        "proxy_http_call" => callout::http_call[
            up: u32, ul: u32, hp: u32, hl: u32, bp: u32, bl: u32, tp: u32, tl: u32, timeout: i32, out: u32];
        "proxy_grpc_call" => callout::grpc_call[
            sp: u32, sl: u32, np: u32, nl: u32, mp: u32, ml: u32, ip: u32, il: u32, bp: u32, bl: u32, timeout: i32, out: u32];
        "proxy_grpc_stream" => callout::grpc_stream[sp: u32, sl: u32, np: u32, nl: u32, mp: u32, ml: u32, ip: u32, il: u32, out: u32];
        "proxy_grpc_send" => callout::grpc_send[token: u32, p: u32, l: u32, end: u32];
        "proxy_grpc_cancel" => callout::grpc_cancel[token: u32];
        "proxy_grpc_close" => callout::grpc_close[token: u32];
        "proxy_redis_init" => callout::redis_init[cp: u32, cl: u32, up: u32, ul: u32, pp: u32, pl: u32, timeout: u32];
        "proxy_redis_call" => callout::redis_call[cp: u32, cl: u32, qp: u32, ql: u32, out: u32];

        "proxy_define_metric" => metrics::define[kind: u32, p: u32, l: u32, out: u32];
        "proxy_increment_metric" => metrics::increment[id: u32, delta: i64];
        "proxy_record_metric" => metrics::record[id: u32, value: u64];
        "proxy_get_metric" => metrics::get[id: u32, out: u32];

        "proxy_call_foreign_function" => foreign::call[np: u32, nl: u32, ap: u32, al: u32, pp: u32, lp: u32];
        "envoy_resolve_dns" => context::resolve_dns[p: u32, l: u32, out: u32];
    }
    context::register_runtimes(functions);
}
