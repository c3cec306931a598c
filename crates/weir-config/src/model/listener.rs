//! Listeners, filter chains and the HTTP connection manager (`config.listener.v3`, `http_connection_manager.v3`).
use super::{HttpFilter, Name, Origin, Rbac, maybe_seconds, seconds};
use serde::Serialize;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// One bound address. Its name is its identity: a change of anything but the address keeps the socket and every connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    pub name: Name,
    pub address: SocketAddr,
    #[serde(skip_serializing_if = "SocketProtocol::is_tcp")]
    pub protocol: SocketProtocol,
    /// Chosen by the most specific match; the first of equals wins. A UDP listener has exactly one.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Expect a PROXY protocol header (v1 or v2) before anything else.
    pub proxy_protocol: bool,
    /// Connections (or UDP sessions) open at once, over all workers.
    pub max_connections: u32,
    pub origins: Vec<Origin>,
}

/// `SocketAddress.Protocol`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SocketProtocol {
    #[default]
    Tcp,
    Udp,
}

impl SocketProtocol {
    pub fn is_tcp(&self) -> bool {
        *self == SocketProtocol::Tcp
    }
}

/// What happens to a connection that this chain matches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterChain {
    pub name: Name,
    /// TLS server names, exact or `*.suffix`; empty matches any, and plain text.
    pub server_names: Vec<String>,
    /// Terminates TLS where present. A chain with `server_names` and without TLS passes it through.
    pub tls: Option<DownstreamTls>,
    /// A connection passes them in order. The last one is an HTTP connection manager, a TCP proxy or, for UDP, a UDP proxy, and only
    /// the last one.
    pub filters: Vec<NetworkFilter>,
}

impl FilterChain {
    pub fn http_connection_manager(&self) -> Option<&Arc<HttpConnectionManager>> {
        match self.filters.last() {
            Some(NetworkFilter::HttpConnectionManager(hcm)) => Some(hcm),
            _ => None,
        }
    }
    pub fn tcp_proxy(&self) -> Option<&TcpProxy> {
        match self.filters.last() {
            Some(NetworkFilter::TcpProxy(proxy)) => Some(proxy),
            _ => None,
        }
    }
    pub fn udp_proxy(&self) -> Option<&UdpProxy> {
        match self.filters.last() {
            Some(NetworkFilter::UdpProxy(proxy)) => Some(proxy),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkFilter {
    /// Closes connections that it does not allow. It knows nothing of requests.
    Rbac(Arc<Rbac>),
    HttpConnectionManager(Arc<HttpConnectionManager>),
    TcpProxy(TcpProxy),
    /// Envoy has it among the listener filters.
    UdpProxy(UdpProxy),
}

impl NetworkFilter {
    /// Whether it serves connections itself, so that no filter follows it.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, NetworkFilter::Rbac(_))
    }
}

/// Bytes both ways to a weighted choice of clusters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpProxy {
    pub stat_prefix: Name,
    pub clusters: Vec<(Name, u32)>,
    /// In place of `clusters`: the server name of TLS is the name of one of these (Envoy's filter `sni_cluster`).
    pub sni_clusters: Vec<Name>,
    #[serde(serialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// Endpoints that are tried before the client is turned away.
    pub max_connect_attempts: u32,
    pub access_log: Vec<AccessLog>,
}

impl TcpProxy {
    /// Envoy's default.
    pub const MAX_CONNECT_ATTEMPTS: u32 = 1;
}

/// Datagrams both ways between a client and one endpoint of a weighted choice of clusters (`udp_proxy.v3.UdpProxyConfig`). The choice
/// is made once for a session: the datagrams from one address and port of a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UdpProxy {
    pub stat_prefix: Name,
    pub clusters: Vec<(Name, u32)>,
    /// A session without a datagram in either direction ends.
    #[serde(serialize_with = "seconds")]
    pub idle_timeout: Duration,
    pub access_log: Vec<AccessLog>,
}

impl UdpProxy {
    /// Envoy's default.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
}

/// TLS towards the client (`DownstreamTlsContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct DownstreamTls {
    /// Secrets with certificates; the one whose names fit the server name is served, else the first.
    pub certificates: Vec<Name>,
    /// Offered in this order; empty offers `h2` and `http/1.1` where HTTP is served, and nothing else.
    pub alpn: Vec<String>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    pub client_certificate: ClientCertificate,
    /// Secret with the roots that client certificates are verified against.
    pub client_ca: Option<Name>,
    /// A client certificate must carry one of these subject alternative names, where any are given.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of client certificates that are let in, as lower-case hexadecimal digits; empty for any. One that fits
    /// `verify_certificate_spki` is let in too.
    pub verify_certificate_hash: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of client certificates that are let in, in base64; empty for any.
    pub verify_certificate_spki: Vec<String>,
    /// Of [`CIPHER_SUITES`]; empty for all of them. Those of TLS 1.3 cannot be chosen, as in Envoy.
    pub cipher_suites: Vec<String>,
}

/// The cipher suites of TLS 1.2 that are spoken, by the names that Envoy and Istio use.
pub const CIPHER_SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificate {
    #[default]
    None,
    Optional,
    Required,
    /// Requested, and accepted even if it cannot be verified (`trust_chain_verification: ACCEPT_UNTRUSTED`). Upstreams see only a
    /// verified one.
    AcceptUntrusted,
}

/// How the header `x-forwarded-client-cert` is set (`forward_client_cert_details`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCertDetails {
    Sanitize,
    /// As the client sent it, if it showed a certificate.
    ForwardOnly,
    AppendForward,
    /// What the client sent is replaced by the certificate that it showed.
    #[default]
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "TLSv1_2")]
    V1_2,
    #[serde(rename = "TLSv1_3")]
    V1_3,
}

/// The HTTP connection manager: protocol limits, the route configuration, the filters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpConnectionManager {
    pub stat_prefix: Name,
    /// Name of a [`super::RouteConfiguration`]. One that is missing answers 404 with the flag `NR`.
    pub route_config: Name,
    /// In the order in which requests pass them.
    pub http_filters: Vec<HttpFilter>,
    pub access_log: Vec<AccessLog>,
    /// How many proxies in front of this one are trusted: their `x-forwarded-for` and `x-forwarded-proto` count.
    pub xff_num_trusted_hops: u32,
    /// Take the peer's address as the client's and append it to `x-forwarded-for`.
    pub use_remote_address: bool,
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// Generate `x-request-id` where the client sent none.
    pub generate_request_id: bool,
    /// Keep the client's `x-request-id` (an edge proxy would not trust it).
    pub preserve_external_request_id: bool,
    /// Tell upstreams the client's address by `x-real-ip` (Higress' `addXRealIpHeader`).
    pub add_x_real_ip: bool,
    /// No `x-envoy-original-path`, `x-envoy-upstream-service-time` and `x-envoy-overloaded` (of Envoy's router).
    pub suppress_envoy_headers: bool,
    /// The `server` header of answers; `None` passes the upstream's through.
    pub server_name: Option<String>,
    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    /// The port in a Host header takes no part in matching.
    pub strip_any_host_port: bool,
    /// The port that clients connect to, where that is another one than the listener's: a Service maps it. Redirects say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_port: Option<u16>,
    /// Where TLS is terminated for several hosts apart from each other (listeners of a Gateway): their domains, as those of a
    /// virtual host. A request whose Host belongs to another one than the server name of its connection is answered with 421.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub server_domains: Arc<[String]>,
    pub limits: HttpLimits,
    pub timeouts: HttpTimeouts,
}

/// `path_with_escaped_slashes_action`: what `%2F` and `%5C` in a path lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EscapedSlashes {
    #[default]
    KeepUnchanged,
    RejectRequest,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// Limits on what one client can make grow. Each has a counter of its own in the listener's statistics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpLimits {
    /// Bytes of a request head (`max_request_headers_kb`).
    pub max_request_headers_bytes: u32,
    /// Header fields of a request (`max_headers_count`).
    pub max_headers_count: u32,
    /// HTTP/2 streams open at once on a connection.
    pub max_concurrent_streams: u32,
    pub initial_stream_window_bytes: u32,
    pub initial_connection_window_bytes: u32,
    /// Bytes of a body that are held for filters that want it whole (`per_connection_buffer_limit_bytes`).
    pub buffer_limit_bytes: u32,
    /// Requests on one connection before it is closed politely; 0 for any number.
    pub max_requests_per_connection: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            max_request_headers_bytes: 60 * 1024,
            max_headers_count: 100,
            max_concurrent_streams: 100,
            initial_stream_window_bytes: 256 * 1024,
            initial_connection_window_bytes: 1024 * 1024,
            buffer_limit_bytes: 1024 * 1024,
            max_requests_per_connection: 0,
        }
    }
}

/// How long a client may take. `None` waits for ever.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpTimeouts {
    /// A connection without a request.
    #[serde(serialize_with = "maybe_seconds")]
    pub idle_timeout: Option<Duration>,
    /// From the first byte of a request head to its last.
    #[serde(serialize_with = "maybe_seconds")]
    pub request_headers_timeout: Option<Duration>,
    /// A stream on which no byte moves in either direction.
    #[serde(serialize_with = "maybe_seconds")]
    pub stream_idle_timeout: Option<Duration>,
    /// Until the whole request has been received.
    #[serde(serialize_with = "maybe_seconds")]
    pub request_timeout: Option<Duration>,
    /// Until the whole response has been received, for routes that have no timeout of their own.
    #[serde(serialize_with = "maybe_seconds")]
    pub route_timeout: Option<Duration>,
    /// For the client to read a response that the proxy itself made.
    #[serde(serialize_with = "maybe_seconds")]
    pub stream_flush_timeout: Option<Duration>,
    /// What a client still sends after a response that closes its connection is read for this long, so that no reset takes the
    /// response with it. `None` closes at once.
    #[serde(serialize_with = "maybe_seconds")]
    pub delayed_close_timeout: Option<Duration>,
    /// Between the notice that a connection is closing and its close.
    #[serde(serialize_with = "seconds")]
    pub drain_timeout: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        HttpTimeouts {
            idle_timeout: Some(Duration::from_secs(3600)),
            request_headers_timeout: Some(Duration::from_secs(10)),
            stream_idle_timeout: Some(Duration::from_secs(300)),
            request_timeout: None,
            route_timeout: None,
            stream_flush_timeout: Some(Duration::from_secs(60)),
            delayed_close_timeout: Some(Duration::from_secs(1)),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl HttpConnectionManager {
    /// A connection manager with every default and no plugins, for `route_config`.
    pub fn new(stat_prefix: Name, route_config: Name) -> Self {
        HttpConnectionManager {
            stat_prefix,
            route_config,
            http_filters: HttpFilter::list(None, []),
            access_log: Vec::new(),
            xff_num_trusted_hops: 0,
            use_remote_address: true,
            forward_client_cert_details: ForwardClientCertDetails::default(),
            generate_request_id: true,
            preserve_external_request_id: true,
            add_x_real_ip: false,
            suppress_envoy_headers: false,
            server_name: None,
            normalize_path: true,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::KeepUnchanged,
            strip_any_host_port: true,
            advertised_port: None,
            server_domains: Arc::default(),
            limits: HttpLimits::default(),
            timeouts: HttpTimeouts::default(),
        }
    }
}

/// One access log (`config.accesslog.v3`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    pub sink: LogSink,
    pub format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSink {
    Stdout,
    Stderr,
    File(String),
}

/// For messages.
impl std::fmt::Display for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogSink::Stdout => "standard output",
            LogSink::Stderr => "standard error",
            LogSink::File(path) => path,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text with Envoy's command operators; [`LogFormat::DEFAULT_TEXT`] by default.
    Text(String),
    /// Keys with a text of operators each; a value that is a single operator keeps its type (numbers stay numbers).
    Json(Vec<(String, String)>),
}

impl LogFormat {
    /// Envoy's default format string with the fields of Istio's that say why a request ended as it did. The rest of Istio's
    /// fields would cost each request a tenth more instructions.
    pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

    /// The default fields of a JSON log, named as Istio names them.
    pub fn default_json() -> LogFormat {
        let field = |(key, operator): (&str, &str)| (key.to_string(), format!("%{operator}%"));
        LogFormat::Json(
            [
                ("start_time", "START_TIME"),
                ("method", "REQ(:METHOD)"),
                ("path", "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)"),
                ("protocol", "PROTOCOL"),
                ("response_code", "RESPONSE_CODE"),
                ("response_flags", "RESPONSE_FLAGS"),
                ("response_code_details", "RESPONSE_CODE_DETAILS"),
                ("bytes_received", "BYTES_RECEIVED"),
                ("bytes_sent", "BYTES_SENT"),
                ("duration", "DURATION"),
                ("upstream_service_time", "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)"),
                ("x_forwarded_for", "REQ(X-FORWARDED-FOR)"),
                ("user_agent", "REQ(USER-AGENT)"),
                ("request_id", "REQ(X-REQUEST-ID)"),
                ("authority", "REQ(:AUTHORITY)"),
                ("upstream_host", "UPSTREAM_HOST"),
                ("upstream_cluster", "UPSTREAM_CLUSTER"),
                ("upstream_transport_failure_reason", "UPSTREAM_TRANSPORT_FAILURE_REASON"),
                ("downstream_local_address", "DOWNSTREAM_LOCAL_ADDRESS"),
                ("downstream_remote_address", "DOWNSTREAM_REMOTE_ADDRESS"),
                ("requested_server_name", "REQUESTED_SERVER_NAME"),
                ("route_name", "ROUTE_NAME"),
            ]
            .into_iter()
            .map(field)
            .collect(),
        )
    }
}
