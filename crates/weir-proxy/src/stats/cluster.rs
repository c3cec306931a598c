//! Statistics of clusters.
use super::{
    Codes, Counter, Declared, Gauge, Histogram, Kind, Table, Total, Totals,
    table::{kind, table, total},
};

table! {
    /// Statistics of a cluster, `cluster.<name>.…`.
    ClusterStats, "cluster", "envoy_cluster_name";
    upstream_cx_total: Counter = "upstream_cx_total" "connections",
    upstream_cx_active: Gauge = "upstream_cx_active" "connections open now",
    upstream_cx_http1_total: Counter = "upstream_cx_http1_total" "HTTP/1 connections",
    upstream_cx_http2_total: Counter = "upstream_cx_http2_total" "HTTP/2 connections",
    upstream_cx_connect_fail: Counter = "upstream_cx_connect_fail" "failed connection attempts",
    upstream_cx_connect_timeout: Counter = "upstream_cx_connect_timeout" "connection attempts that timed out",
    upstream_cx_connect_ms: Histogram = "upstream_cx_connect_ms" "time to connect",
    upstream_cx_length_ms: Histogram = "upstream_cx_length_ms" "lifetime of connections",
    upstream_cx_destroy: Counter = "upstream_cx_destroy" "connections closed",
    upstream_cx_destroy_local: Counter = "upstream_cx_destroy_local" "connections closed by the proxy",
    upstream_cx_destroy_remote: Counter = "upstream_cx_destroy_remote" "connections closed by the upstream",
    upstream_cx_destroy_with_active_rq: Counter = "upstream_cx_destroy_with_active_rq" "connections closed while requests were in progress",
    upstream_cx_close_notify: Counter = "upstream_cx_close_notify" "connections ended by `connection: close` or GOAWAY",
    upstream_cx_idle_timeout: Counter = "upstream_cx_idle_timeout" "connections closed because they were idle",
    upstream_cx_max_requests: Counter = "upstream_cx_max_requests" "connections closed because they reached the maximum number of requests",
    upstream_cx_none_healthy: Counter = "upstream_cx_none_healthy" "requests without a healthy endpoint",
    upstream_cx_overflow: Counter = "upstream_cx_overflow" "times the connection limit was reached",
    upstream_cx_protocol_error: Counter = "upstream_cx_protocol_error" "connections closed because of a protocol error of the upstream",
    upstream_cx_rx_bytes_total: Counter = "upstream_cx_rx_bytes_total" "bytes received",
    upstream_cx_tx_bytes_total: Counter = "upstream_cx_tx_bytes_total" "bytes sent",
    sess_rx_datagrams: Counter = "udp.sess_rx_datagrams" "datagrams received from endpoints",
    sess_rx_errors: Counter = "udp.sess_rx_errors" "failures to receive datagrams from endpoints",
    sess_tx_datagrams: Counter = "udp.sess_tx_datagrams" "datagrams sent to endpoints",
    sess_tx_errors: Counter = "udp.sess_tx_errors" "datagrams to endpoints that could not be sent",
    upstream_rq_total: Counter = "upstream_rq_total" "requests sent, retries included",
    upstream_rq_active: Gauge = "upstream_rq_active" "requests in progress now",
    upstream_rq_pending_total: Counter = "upstream_rq_pending_total" "requests that waited for a connection",
    upstream_rq_pending_active: Gauge = "upstream_rq_pending_active" "requests waiting for a connection now",
    upstream_rq_pending_overflow: Counter = "upstream_rq_pending_overflow" "requests rejected by a circuit breaker",
    upstream_rq_pending_failure_eject: Counter = "upstream_rq_pending_failure_eject" "requests that failed because their connection failed",
    upstream_rq_cancelled: Counter = "upstream_rq_cancelled" "requests canceled before they had a connection",
    upstream_rq_completed: Counter = "upstream_rq_completed" "responses of the upstream, and local replies in their place",
    upstream_rq_1xx: Counter = "upstream_rq_1xx" "responses 100 to 199",
    upstream_rq_2xx: Counter = "upstream_rq_2xx" "responses 200 to 299",
    upstream_rq_3xx: Counter = "upstream_rq_3xx" "responses 300 to 399",
    upstream_rq_4xx: Counter = "upstream_rq_4xx" "responses 400 to 499",
    upstream_rq_5xx: Counter = "upstream_rq_5xx" "responses 500 to 599",
    upstream_rq_codes: Codes = "upstream_rq_" "responses by status",
    upstream_rq_time: Histogram = "upstream_rq_time" "time from the last byte of the request to the last byte of the response",
    upstream_rq_timeout: Counter = "upstream_rq_timeout" "requests that exceeded the timeout of the route",
    upstream_rq_per_try_timeout: Counter = "upstream_rq_per_try_timeout" "attempts that exceeded the per-try timeout of the route",
    upstream_rq_rx_reset: Counter = "upstream_rq_rx_reset" "requests reset by the upstream",
    upstream_rq_tx_reset: Counter = "upstream_rq_tx_reset" "requests reset by the proxy",
    upstream_rq_retry: Counter = "upstream_rq_retry" "retries",
    upstream_rq_retry_success: Counter = "upstream_rq_retry_success" "retries that succeeded",
    upstream_rq_retry_overflow: Counter = "upstream_rq_retry_overflow" "retries rejected by the circuit breaker or the retry budget",
    upstream_rq_retry_limit_exceeded: Counter = "upstream_rq_retry_limit_exceeded" "requests that reached the retry limit",
    upstream_rq_mirror_total: Counter = "upstream_rq_mirror_total" "mirrored requests sent to this cluster",
    upstream_rq_mirror_overflow: Counter = "upstream_rq_mirror_overflow" "mirrored requests not sent because too many wait for a response",
    retry_or_shadow_abandoned: Counter = "retry_or_shadow_abandoned" "requests whose body is too large to buffer for a retry or a mirror",
    lb_healthy_panic: Counter = "lb_healthy_panic" "requests balanced over all endpoints because too few are healthy",
    outlier_detection_ejections_enforced_total: Counter = "outlier_detection.ejections_enforced_total" "ejections",
    outlier_detection_ejections_enforced_consecutive_5xx: Counter = "outlier_detection.ejections_enforced_consecutive_5xx" "ejections for consecutive 5xx responses",
    outlier_detection_ejections_enforced_consecutive_gateway_failure: Counter = "outlier_detection.ejections_enforced_consecutive_gateway_failure" "ejections for consecutive gateway failures",
    outlier_detection_ejections_enforced_consecutive_local_origin_failure: Counter = "outlier_detection.ejections_enforced_consecutive_local_origin_failure" "ejections for consecutive connection failures, resets and timeouts",
    outlier_detection_ejections_overflow: Counter = "outlier_detection.ejections_overflow" "ejections skipped because the maximum percentage is ejected",
    ssl_handshake: Counter = "ssl.handshake" "TLS handshakes that succeeded",
    ssl_connection_error: Counter = "ssl.connection_error" "TLS handshakes that failed for reasons other than the certificate of the upstream",
    ssl_fail_verify_error: Counter = "ssl.fail_verify_error" "TLS handshakes that failed because the certificate of the upstream is untrusted, expired or revoked",
    ssl_fail_verify_san: Counter = "ssl.fail_verify_san" "TLS handshakes that failed because the certificate of the upstream has other names",
    ssl_session_reused: Counter = "ssl.session_reused" "TLS handshakes that resumed a session",
}

impl ClusterStats {
    /// Counts a response by its status and class: the upstream's, or a local reply in its place.
    pub fn answered(&self, status: u16) {
        self.upstream_rq_completed.inc();
        self.upstream_rq_codes.inc(status);
        match status / 100 {
            1 => self.upstream_rq_1xx.inc(),
            2 => self.upstream_rq_2xx.inc(),
            3 => self.upstream_rq_3xx.inc(),
            4 => self.upstream_rq_4xx.inc(),
            5 => self.upstream_rq_5xx.inc(),
            _ => {}
        }
    }
}
