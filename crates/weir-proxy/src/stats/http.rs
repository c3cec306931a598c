//! Statistics of HTTP connection managers.
use super::{
    CompressorsStats, Counter, Declared, Gauge, Histogram, Kind, Table, Total, Totals,
    table::{kind, table, total},
};

table! {
    /// Statistics of an HTTP connection manager, `http.<stat_prefix>.…`.
    HttpStats, "http", "envoy_http_conn_manager_prefix";
    downstream_cx_total: Counter = "downstream_cx_total" "connections",
    downstream_cx_active: Gauge = "downstream_cx_active" "connections open now",
    downstream_cx_http1_total: Counter = "downstream_cx_http1_total" "HTTP/1 connections",
    downstream_cx_http1_active: Gauge = "downstream_cx_http1_active" "HTTP/1 connections open now",
    downstream_cx_http2_total: Counter = "downstream_cx_http2_total" "HTTP/2 connections",
    downstream_cx_http2_active: Gauge = "downstream_cx_http2_active" "HTTP/2 connections open now",
    downstream_cx_ssl_total: Counter = "downstream_cx_ssl_total" "TLS connections",
    downstream_cx_ssl_active: Gauge = "downstream_cx_ssl_active" "TLS connections open now",
    downstream_cx_upgrades_total: Counter = "downstream_cx_upgrades_total" "connections upgraded to another protocol",
    downstream_cx_upgrades_active: Gauge = "downstream_cx_upgrades_active" "upgraded connections open now",
    downstream_cx_destroy: Counter = "downstream_cx_destroy" "connections closed",
    downstream_cx_destroy_local: Counter = "downstream_cx_destroy_local" "connections closed by the proxy",
    downstream_cx_destroy_remote: Counter = "downstream_cx_destroy_remote" "connections closed by the client",
    downstream_cx_destroy_active_rq: Counter = "downstream_cx_destroy_active_rq" "connections closed while requests were in progress",
    downstream_cx_idle_timeout: Counter = "downstream_cx_idle_timeout" "connections closed because they were idle",
    downstream_cx_max_requests_reached: Counter = "downstream_cx_max_requests_reached" "connections closed because they reached the maximum number of requests",
    downstream_cx_delayed_close_timeout: Counter = "downstream_cx_delayed_close_timeout" "connections closed because the client did not close them in time after their last response",
    downstream_cx_drain_close: Counter = "downstream_cx_drain_close" "connections closed because of draining",
    downstream_cx_protocol_error: Counter = "downstream_cx_protocol_error" "connections closed because of a protocol error",
    downstream_cx_length_ms: Histogram = "downstream_cx_length_ms" "lifetime of connections",
    downstream_cx_rx_bytes_total: Counter = "downstream_cx_rx_bytes_total" "bytes received",
    downstream_cx_tx_bytes_total: Counter = "downstream_cx_tx_bytes_total" "bytes sent",
    downstream_rq_total: Counter = "downstream_rq_total" "requests",
    downstream_rq_active: Gauge = "downstream_rq_active" "requests in progress now",
    downstream_rq_http1_total: Counter = "downstream_rq_http1_total" "HTTP/1 requests",
    downstream_rq_http2_total: Counter = "downstream_rq_http2_total" "HTTP/2 requests",
    downstream_rq_completed: Counter = "downstream_rq_completed" "requests with a response",
    downstream_rq_1xx: Counter = "downstream_rq_1xx" "responses 100 to 199",
    downstream_rq_2xx: Counter = "downstream_rq_2xx" "responses 200 to 299",
    downstream_rq_3xx: Counter = "downstream_rq_3xx" "responses 300 to 399",
    downstream_rq_4xx: Counter = "downstream_rq_4xx" "responses 400 to 499",
    downstream_rq_5xx: Counter = "downstream_rq_5xx" "responses 500 to 599",
    downstream_rq_time: Histogram = "downstream_rq_time" "time from the first byte of a request to the last byte of its response",
    downstream_rq_rx_reset: Counter = "downstream_rq_rx_reset" "requests reset by the client",
    downstream_rq_tx_reset: Counter = "downstream_rq_tx_reset" "requests reset by the proxy",
    downstream_rq_timeout: Counter = "downstream_rq_timeout" "requests that were not complete in time",
    downstream_rq_header_timeout: Counter = "downstream_rq_header_timeout" "requests whose head did not arrive in time",
    downstream_rq_idle_timeout: Counter = "downstream_rq_idle_timeout" "requests without progress for too long",
    downstream_rq_flush_timeout: Counter = "downstream_rq_flush_timeout" "responses of the proxy that the client did not read in time",
    downstream_rq_too_large: Counter = "downstream_rq_too_large" "requests rejected because the body exceeds the buffer limit (413)",
    downstream_rq_headers_too_large: Counter = "downstream_rq_headers_too_large" "requests rejected because the head is too long or has too many fields (431)",
    downstream_rq_non_relative_path: Counter = "downstream_rq_non_relative_path" "requests whose path is neither absolute nor a URL",
    downstream_rq_failed_path_normalization: Counter = "downstream_rq_failed_path_normalization" "requests whose path could not be normalized",
    downstream_rq_response_before_rq_complete: Counter = "downstream_rq_response_before_rq_complete" "responses sent before the request was complete",
    downstream_rq_overload_close: Counter = "downstream_rq_overload_close" "requests rejected because memory is short (503)",
    downstream_rq_http2_flood: Counter = "downstream_rq_http2_flood" "HTTP/2 connections closed for a flood of frames or resets",
    downstream_rq_http2_refused: Counter = "downstream_rq_http2_refused" "HTTP/2 streams refused because the connection has the maximum number of streams",
    no_route: Counter = "no_route" "requests that no route matched",
    no_cluster: Counter = "no_cluster" "requests whose cluster does not exist",
    rq_total: Counter = "rq_total" "requests that reached the router",
    rq_direct_response: Counter = "rq_direct_response" "requests that the route answered directly",
    basic_auth_allowed: Counter = "basic_auth.allowed" "requests with a user and password that basic authentication accepted",
    basic_auth_denied: Counter = "basic_auth.denied" "requests that basic authentication denied (401)",
    rbac_allowed: Counter = "rbac.allowed" "requests that RBAC allowed",
    rbac_denied: Counter = "rbac.denied" "requests that RBAC denied (403)",
    rbac_shadow_allowed: Counter = "rbac.shadow_allowed" "requests that RBAC rules in dry-run mode would allow",
    rbac_shadow_denied: Counter = "rbac.shadow_denied" "requests that RBAC rules in dry-run mode would deny",
    local_rate_limit_enabled: Counter = "http_local_rate_limit.enabled" "requests checked against a local rate limit",
    local_rate_limit_ok: Counter = "http_local_rate_limit.ok" "requests within the local rate limit",
    local_rate_limit_rate_limited: Counter = "http_local_rate_limit.rate_limited" "requests beyond the local rate limit",
    local_rate_limit_enforced: Counter = "http_local_rate_limit.enforced" "requests rejected because of the local rate limit (429)",
    rq_redirect: Counter = "rq_redirect" "requests redirected by the route",
    rq_reset_after_downstream_response_started: Counter = "rq_reset_after_downstream_response_started" "responses that were cut off",
    ;
    compressors: CompressorsStats,
}

impl HttpStats {
    /// Counts a response by its class.
    pub fn answered(&self, status: u16) {
        self.downstream_rq_completed.inc();
        match status / 100 {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}
