//! Counters, gauges and histograms under Envoy's names. Each worker writes to shards of its own with plain loads and
//! stores; readers add the shards up. The tables below declare every name once, for the code, for rendering and for the
//! documentation.
mod codes;
mod histogram;
mod registry;

pub use codes::Codes;
pub use histogram::{BUCKETS_MS, Histogram, QUANTILES, Totals};
pub use registry::{Registry, Scopes};

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// Only rises. Written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }
    pub fn inc(&self) {
        self.add(1);
    }
    pub fn add(&self, n: u64) {
        // No other thread writes: a locked instruction would only cost.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Rises and falls. Written by one thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn inc(&self) {
        self.add(1);
    }
    pub fn dec(&self) {
        self.add(-1);
    }
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One statistic over all shards.
pub enum Total {
    Counter(u64),
    /// The sum of the workers' gauges.
    Gauge(i64),
    Histogram(Totals),
    /// Counters by status, those that are not 0.
    Codes(Vec<(u16, u64)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Of times, in milliseconds.
    Histogram,
    /// A counter for each status, whose number ends the name.
    Codes,
}

/// A statistic as it is declared.
pub struct Declared {
    /// Without the prefix of its table.
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// A table of statistics; one value of it is one worker's shard for one name (a cluster, a connection manager).
pub trait Table: Default + Send + Sync + 'static {
    /// `cluster`, `http`: before the name.
    const PREFIX: &'static str;
    /// The Prometheus label that carries the name.
    const LABEL: &'static str;
    const DECLARED: &'static [Declared];
    /// Adds shards up, in the order of the table.
    fn sum(shards: &[Arc<Self>], each: &mut dyn FnMut(&'static Declared, Total));
}

macro_rules! total {
    (Counter, $shards:ident, $id:ident) => {
        Total::Counter($shards.iter().map(|s| s.$id.get()).sum())
    };
    (Gauge, $shards:ident, $id:ident) => {
        Total::Gauge($shards.iter().map(|s| s.$id.get()).sum())
    };
    (Histogram, $shards:ident, $id:ident) => {
        Total::Histogram(Totals::of($shards.iter().map(|s| &s.$id)))
    };
    (Codes, $shards:ident, $id:ident) => {
        Total::Codes(Codes::sum($shards.iter().map(|s| &s.$id)))
    };
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $label:literal; $($id:ident: $kind:ident = $text:literal $help:literal,)*) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name { $(#[doc = $help] pub $id: $kind,)* }
        impl Table for $name {
            const PREFIX: &'static str = $prefix;
            const LABEL: &'static str = $label;
            const DECLARED: &'static [Declared] = &[$(Declared { name: $text, kind: Kind::$kind, help: $help },)*];
            fn sum(shards: &[Arc<Self>], each: &mut dyn FnMut(&'static Declared, Total)) {
                let mut declared = Self::DECLARED.iter();
                $(if let Some(d) = declared.next() { each(d, total!($kind, shards, $id)); })*
            }
        }
    };
}

table! {
    /// What an HTTP connection manager counts, as `http.<stat_prefix>.…`.
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
    downstream_cx_destroy_active_rq: Counter = "downstream_cx_destroy_active_rq" "connections closed with requests under way",
    downstream_cx_idle_timeout: Counter = "downstream_cx_idle_timeout" "connections closed for being idle",
    downstream_cx_max_requests_reached: Counter = "downstream_cx_max_requests_reached" "connections closed after their most requests",
    downstream_cx_drain_close: Counter = "downstream_cx_drain_close" "connections closed for draining",
    downstream_cx_protocol_error: Counter = "downstream_cx_protocol_error" "connections closed for breaking the protocol",
    downstream_cx_length_ms: Histogram = "downstream_cx_length_ms" "how long connections lived",
    downstream_cx_rx_bytes_total: Counter = "downstream_cx_rx_bytes_total" "bytes received",
    downstream_cx_tx_bytes_total: Counter = "downstream_cx_tx_bytes_total" "bytes sent",
    downstream_rq_total: Counter = "downstream_rq_total" "requests",
    downstream_rq_active: Gauge = "downstream_rq_active" "requests under way now",
    downstream_rq_http1_total: Counter = "downstream_rq_http1_total" "HTTP/1 requests",
    downstream_rq_http2_total: Counter = "downstream_rq_http2_total" "HTTP/2 requests",
    downstream_rq_completed: Counter = "downstream_rq_completed" "requests answered",
    downstream_rq_1xx: Counter = "downstream_rq_1xx" "answers 100 to 199",
    downstream_rq_2xx: Counter = "downstream_rq_2xx" "answers 200 to 299",
    downstream_rq_3xx: Counter = "downstream_rq_3xx" "answers 300 to 399",
    downstream_rq_4xx: Counter = "downstream_rq_4xx" "answers 400 to 499",
    downstream_rq_5xx: Counter = "downstream_rq_5xx" "answers 500 to 599",
    downstream_rq_time: Histogram = "downstream_rq_time" "from the first byte of a request to the last of its answer",
    downstream_rq_rx_reset: Counter = "downstream_rq_rx_reset" "requests reset by the client",
    downstream_rq_tx_reset: Counter = "downstream_rq_tx_reset" "requests reset by the proxy",
    downstream_rq_timeout: Counter = "downstream_rq_timeout" "requests that did not arrive whole in time",
    downstream_rq_header_timeout: Counter = "downstream_rq_header_timeout" "requests whose head did not arrive in time",
    downstream_rq_idle_timeout: Counter = "downstream_rq_idle_timeout" "requests on which no byte moved for too long",
    downstream_rq_too_large: Counter = "downstream_rq_too_large" "requests refused for a body beyond the buffer's limit (413)",
    downstream_rq_headers_too_large: Counter = "downstream_rq_headers_too_large" "requests refused for too long a head or too many fields (431)",
    downstream_rq_non_relative_path: Counter = "downstream_rq_non_relative_path" "requests whose path is neither absolute nor a URL",
    downstream_rq_failed_path_normalization: Counter = "downstream_rq_failed_path_normalization" "requests whose path could not be normalised",
    downstream_rq_response_before_rq_complete: Counter = "downstream_rq_response_before_rq_complete" "answers sent before the request had arrived whole",
    downstream_rq_overload_close: Counter = "downstream_rq_overload_close" "requests refused because memory runs out (503)",
    downstream_rq_http2_flood: Counter = "downstream_rq_http2_flood" "HTTP/2 connections closed for a flood of frames or resets",
    downstream_rq_http2_refused: Counter = "downstream_rq_http2_refused" "HTTP/2 streams refused because their connection had its most at once",
    no_route: Counter = "no_route" "requests that no route matched",
    no_cluster: Counter = "no_cluster" "requests whose route leads to a cluster that does not exist",
    rq_total: Counter = "rq_total" "requests that reached the router",
    rq_direct_response: Counter = "rq_direct_response" "requests answered by the route itself",
    rbac_allowed: Counter = "rbac.allowed" "requests that a route's source ranges let in",
    rbac_denied: Counter = "rbac.denied" "requests that a route's source ranges kept out (403)",
    local_rate_limit_enabled: Counter = "http_local_rate_limit.enabled" "requests that a route's rate limit was asked about",
    local_rate_limit_ok: Counter = "http_local_rate_limit.ok" "requests within a route's rate limit",
    local_rate_limit_rate_limited: Counter = "http_local_rate_limit.rate_limited" "requests beyond a route's rate limit (429)",
    rq_redirect: Counter = "rq_redirect" "requests redirected by the route",
    rq_reset_after_downstream_response_started: Counter = "rq_reset_after_downstream_response_started" "answers that broke off",
}

table! {
    /// What a cluster counts, as `cluster.<name>.…`.
    ClusterStats, "cluster", "envoy_cluster_name";
    upstream_cx_total: Counter = "upstream_cx_total" "connections",
    upstream_cx_active: Gauge = "upstream_cx_active" "connections open now",
    upstream_cx_http1_total: Counter = "upstream_cx_http1_total" "HTTP/1 connections",
    upstream_cx_http2_total: Counter = "upstream_cx_http2_total" "HTTP/2 connections",
    upstream_cx_connect_fail: Counter = "upstream_cx_connect_fail" "connections that failed",
    upstream_cx_connect_timeout: Counter = "upstream_cx_connect_timeout" "connections that took too long",
    upstream_cx_connect_ms: Histogram = "upstream_cx_connect_ms" "how long connecting took",
    upstream_cx_length_ms: Histogram = "upstream_cx_length_ms" "how long connections lived",
    upstream_cx_destroy: Counter = "upstream_cx_destroy" "connections closed",
    upstream_cx_destroy_local: Counter = "upstream_cx_destroy_local" "connections closed by the proxy",
    upstream_cx_destroy_remote: Counter = "upstream_cx_destroy_remote" "connections closed by the upstream",
    upstream_cx_destroy_with_active_rq: Counter = "upstream_cx_destroy_with_active_rq" "connections closed with requests under way",
    upstream_cx_close_notify: Counter = "upstream_cx_close_notify" "connections ended by `connection: close` or GOAWAY",
    upstream_cx_idle_timeout: Counter = "upstream_cx_idle_timeout" "connections closed for being idle",
    upstream_cx_max_requests: Counter = "upstream_cx_max_requests" "connections closed after their most requests",
    upstream_cx_none_healthy: Counter = "upstream_cx_none_healthy" "requests without a healthy endpoint",
    upstream_cx_overflow: Counter = "upstream_cx_overflow" "times the most connections were open",
    upstream_cx_protocol_error: Counter = "upstream_cx_protocol_error" "connections closed because the upstream broke the protocol",
    upstream_cx_rx_bytes_total: Counter = "upstream_cx_rx_bytes_total" "bytes received",
    upstream_cx_tx_bytes_total: Counter = "upstream_cx_tx_bytes_total" "bytes sent",
    upstream_rq_total: Counter = "upstream_rq_total" "requests sent, retries included",
    upstream_rq_active: Gauge = "upstream_rq_active" "requests under way now",
    upstream_rq_pending_total: Counter = "upstream_rq_pending_total" "requests that waited for a connection",
    upstream_rq_pending_active: Gauge = "upstream_rq_pending_active" "requests that wait for a connection now",
    upstream_rq_pending_overflow: Counter = "upstream_rq_pending_overflow" "requests refused by a circuit breaker",
    upstream_rq_pending_failure_eject: Counter = "upstream_rq_pending_failure_eject" "requests failed because their connection did",
    upstream_rq_cancelled: Counter = "upstream_rq_cancelled" "requests given up before they had a connection",
    upstream_rq_completed: Counter = "upstream_rq_completed" "answers received, and those given in their place",
    upstream_rq_1xx: Counter = "upstream_rq_1xx" "answers 100 to 199",
    upstream_rq_2xx: Counter = "upstream_rq_2xx" "answers 200 to 299",
    upstream_rq_3xx: Counter = "upstream_rq_3xx" "answers 300 to 399",
    upstream_rq_4xx: Counter = "upstream_rq_4xx" "answers 400 to 499",
    upstream_rq_5xx: Counter = "upstream_rq_5xx" "answers 500 to 599",
    upstream_rq_codes: Codes = "upstream_rq_" "answers by status",
    upstream_rq_time: Histogram = "upstream_rq_time" "from the request's last byte to the answer's last byte",
    upstream_rq_timeout: Counter = "upstream_rq_timeout" "requests that took longer than the route allows",
    upstream_rq_per_try_timeout: Counter = "upstream_rq_per_try_timeout" "tries that took longer than the route allows",
    upstream_rq_rx_reset: Counter = "upstream_rq_rx_reset" "requests reset by the upstream",
    upstream_rq_tx_reset: Counter = "upstream_rq_tx_reset" "requests reset by the proxy",
    upstream_rq_retry: Counter = "upstream_rq_retry" "retries",
    upstream_rq_retry_success: Counter = "upstream_rq_retry_success" "retries that succeeded",
    upstream_rq_retry_overflow: Counter = "upstream_rq_retry_overflow" "retries refused by the circuit breaker or the budget",
    upstream_rq_retry_limit_exceeded: Counter = "upstream_rq_retry_limit_exceeded" "requests whose retries were used up",
    upstream_rq_mirror_total: Counter = "upstream_rq_mirror_total" "copies sent to this cluster",
    upstream_rq_mirror_overflow: Counter = "upstream_rq_mirror_overflow" "copies not sent to this cluster because too many wait for an answer",
    retry_or_shadow_abandoned: Counter = "retry_or_shadow_abandoned" "requests whose body was too large to be held for a retry or a copy",
    lb_healthy_panic: Counter = "lb_healthy_panic" "picks among all endpoints because too few are healthy",
    outlier_detection_ejections_enforced_total: Counter = "outlier_detection.ejections_enforced_total" "ejections",
    outlier_detection_ejections_enforced_consecutive_5xx: Counter = "outlier_detection.ejections_enforced_consecutive_5xx" "ejections for 5xx in a row",
    outlier_detection_ejections_enforced_consecutive_gateway_failure: Counter = "outlier_detection.ejections_enforced_consecutive_gateway_failure" "ejections for gateway failures in a row",
    outlier_detection_ejections_enforced_consecutive_local_origin_failure: Counter = "outlier_detection.ejections_enforced_consecutive_local_origin_failure" "ejections for failures to connect, resets and timeouts in a row",
    outlier_detection_ejections_overflow: Counter = "outlier_detection.ejections_overflow" "ejections refused because enough are ejected",
    ssl_handshake: Counter = "ssl.handshake" "TLS handshakes that succeeded",
    ssl_connection_error: Counter = "ssl.connection_error" "TLS handshakes that failed for another reason than the upstream's certificate",
    ssl_fail_verify_error: Counter = "ssl.fail_verify_error" "TLS handshakes given up because the upstream's certificate is not trusted, out of date or revoked",
    ssl_fail_verify_san: Counter = "ssl.fail_verify_san" "TLS handshakes given up because the upstream's certificate is for other names",
    ssl_session_reused: Counter = "ssl.session_reused" "TLS handshakes that resumed a session",
}

impl HttpStats {
    /// Counts an answer by its class.
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

impl ClusterStats {
    /// Counts an answer by its status and class: the upstream's, or the gateway's own in place of it.
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
