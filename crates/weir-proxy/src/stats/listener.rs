//! Statistics of listeners.
use super::{
    Declared, Kind, SharedCounter, Table, Total,
    table::{kind, table, total},
};

table! {
    /// Statistics of a listener, `listener.<address>.…`. All workers share them.
    ListenerStats, "listener", "envoy_listener_address";
    downstream_cx_total: SharedCounter = "downstream_cx_total" "connections accepted",
    downstream_cx_destroy: SharedCounter = "downstream_cx_destroy" "connections closed",
    downstream_cx_overflow: SharedCounter = "downstream_cx_overflow" "connections closed because the listener reached its connection limit",
    downstream_global_cx_overflow: SharedCounter = "downstream_global_cx_overflow" "connections closed because the process reached its connection limit",
    downstream_cx_overload_reject: SharedCounter = "downstream_cx_overload_reject" "connections rejected because memory is short",
    downstream_pre_cx_timeout: SharedCounter = "downstream_pre_cx_timeout" "connections that sent no PROXY protocol header or ClientHello in time",
    downstream_listener_filter_error: SharedCounter = "downstream_listener_filter_error" "connections with a malformed PROXY protocol header or ClientHello",
    downstream_accept_error: SharedCounter = "downstream_accept_error" "failures to accept, usually because no file descriptors are left",
    no_filter_chain_match: SharedCounter = "no_filter_chain_match" "connections that match no filter chain",
    proxy_proto_not_found_disallowed: SharedCounter = "proxy_proto.not_found_disallowed" "connections without the required PROXY protocol header",
    rbac_allowed: SharedCounter = "rbac.allowed" "connections that the network filter RBAC let in",
    rbac_denied: SharedCounter = "rbac.denied" "connections that the network filter RBAC closed",
    ssl_handshake: SharedCounter = "ssl.handshake" "TLS handshakes that succeeded",
    ssl_connection_error: SharedCounter = "ssl.connection_error" "TLS handshakes that failed for reasons other than the client certificate",
    ssl_fail_verify_no_cert: SharedCounter = "ssl.fail_verify_no_cert" "TLS handshakes refused because the client sent no certificate",
    ssl_fail_verify_error: SharedCounter = "ssl.fail_verify_error" "TLS handshakes refused because the client certificate is untrusted, expired or revoked",
    ssl_fail_verify_san: SharedCounter = "ssl.fail_verify_san" "TLS handshakes refused because the client certificate has other names",
    ssl_fail_verify_cert_hash: SharedCounter = "ssl.fail_verify_cert_hash" "TLS handshakes refused because the client certificate is not one of the pinned ones",
    ssl_handshake_timeout: SharedCounter = "ssl.handshake_timeout" "TLS handshakes that did not finish in time",
    ssl_session_reused: SharedCounter = "ssl.session_reused" "TLS handshakes that resumed a session",
    ssl_no_certificate: SharedCounter = "ssl.no_certificate" "TLS connections without a client certificate",
    tcp_downstream_cx_no_route: SharedCounter = "tcp.downstream_cx_no_route" "connections to a TCP proxy whose cluster is missing or has no usable endpoint",
    tcp_upstream_cx_connect_fail: SharedCounter = "tcp.upstream_cx_connect_fail" "TCP proxy connections whose upstream could not be reached",
    tcp_downstream_cx_rx_bytes_total: SharedCounter = "tcp.downstream_cx_rx_bytes_total" "bytes from clients through TCP proxies",
    tcp_downstream_cx_tx_bytes_total: SharedCounter = "tcp.downstream_cx_tx_bytes_total" "bytes to clients through TCP proxies",
    tcp_idle_timeout: SharedCounter = "tcp.idle_timeout" "TCP proxy connections closed because they were idle",
    udp_downstream_sess_total: SharedCounter = "udp.downstream_sess_total" "UDP sessions; each counts as a connection of the listener, too",
    udp_downstream_sess_no_route: SharedCounter = "udp.downstream_sess_no_route" "datagrams without a session whose cluster is missing or has no usable endpoint",
    udp_downstream_sess_rx_bytes: SharedCounter = "udp.downstream_sess_rx_bytes" "bytes from clients of UDP proxies",
    udp_downstream_sess_rx_datagrams: SharedCounter = "udp.downstream_sess_rx_datagrams" "datagrams from clients of UDP proxies",
    udp_downstream_sess_rx_errors: SharedCounter = "udp.downstream_sess_rx_errors" "failures to receive datagrams from clients",
    udp_downstream_sess_tx_bytes: SharedCounter = "udp.downstream_sess_tx_bytes" "bytes to clients of UDP proxies",
    udp_downstream_sess_tx_datagrams: SharedCounter = "udp.downstream_sess_tx_datagrams" "datagrams to clients of UDP proxies",
    udp_downstream_sess_tx_errors: SharedCounter = "udp.downstream_sess_tx_errors" "datagrams to clients that could not be sent",
    udp_idle_timeout: SharedCounter = "udp.idle_timeout" "UDP sessions that ended because they were idle",
}

/// A gauge that is read from the listener itself.
pub const DOWNSTREAM_CX_ACTIVE: Declared = Declared { name: "downstream_cx_active", kind: Kind::Gauge, help: "connections open now" };
