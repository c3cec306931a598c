//! Clusters and endpoints (`config.cluster.v3`, `config.endpoint.v3`).
use super::{Common, Name, Origin, Rare, TlsVersion, maybe_seconds, seconds};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
    time::Duration,
};

/// A set of endpoints that answer the same, and how to talk to them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// Istio's form for services, `outbound|80|v1|reviews.default.svc.cluster.local`, so that plugins and dashboards fit.
    pub name: Name,
    pub discovery: Discovery,
    pub tls: Option<Box<UpstreamTls>>,
    pub protocol: UpstreamProtocol,
    /// Read and set as fields of the cluster.
    #[serde(flatten)]
    settings: Arc<ClusterSettings>,
    /// Begin every connection with a PROXY protocol header that names the client (`upstream_proxy_protocol`). A connection then
    /// serves one request.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// Its endpoints are forward proxies: connections that are passed on as bytes go through a tunnel (of Envoy's TCP proxy; here
    /// it is the cluster's, as in Istio).
    pub tunneling_config: Option<Box<TunnelingConfig>>,
    /// Names of endpoints come from a registry: what they resolve to may be no protected address.
    pub guard_names: bool,
    pub origin: Option<Origin>,
}

/// What most clusters have in common. Copies of a cluster share it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterSettings {
    pub lb_policy: LbPolicy,
    /// For consistent hashing: in order; the first that yields a hash (or is `terminal`) ends the list. Of the cluster, as Istio
    /// has it, so that it holds for whichever API's route leads here.
    pub hash_policy: Box<[HashPolicy]>,
    /// For round robin and least request.
    pub slow_start: Option<Box<SlowStart>>,
    #[serde(serialize_with = "seconds")]
    pub connect_timeout: Duration,
    pub circuit_breakers: CircuitBreakers,
    pub outlier_detection: Option<Box<OutlierDetection>>,
    /// Requests on one connection before it is closed; 0 for any number.
    pub max_requests_per_connection: u32,
    pub response_limits: ResponseLimits,
    /// An idle upstream connection is closed after this time.
    #[serde(serialize_with = "maybe_seconds")]
    pub idle_timeout: Option<Duration>,
    pub tcp_keepalive: Option<Box<TcpKeepalive>>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        ClusterSettings {
            lb_policy: LbPolicy::default(),
            hash_policy: Box::default(),
            slow_start: None,
            connect_timeout: Duration::from_secs(5),
            circuit_breakers: CircuitBreakers::default(),
            outlier_detection: None,
            max_requests_per_connection: 0,
            response_limits: ResponseLimits::default(),
            idle_timeout: Some(Duration::from_secs(3600)),
            tcp_keepalive: None,
        }
    }
}

impl Deref for Cluster {
    type Target = ClusterSettings;

    fn deref(&self) -> &ClusterSettings {
        &self.settings
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut ClusterSettings {
        Arc::make_mut(&mut self.settings)
    }
}

impl Cluster {
    /// A cluster with every default.
    pub fn new(name: Name, discovery: Discovery) -> Self {
        static DEFAULT: LazyLock<Arc<ClusterSettings>> = LazyLock::new(Arc::default);
        Cluster {
            name,
            discovery,
            tls: None,
            protocol: UpstreamProtocol::default(),
            settings: DEFAULT.clone(),
            proxy_protocol: None,
            tunneling_config: None,
            guard_names: false,
            origin: None,
        }
    }

    /// Shares the settings with another cluster that has equal ones.
    pub fn share_settings(&mut self, with: &Cluster) {
        if self.settings == with.settings {
            self.settings = with.settings.clone();
        }
    }

    /// Requests on one connection before it is closed; 0 for any number.
    pub fn requests_per_connection(&self) -> u32 {
        if self.proxy_protocol.is_some() { 1 } else { self.max_requests_per_connection }
    }
}

/// What an endpoint may send before the body of a response (`HttpProtocolOptions` of a cluster); 502 beyond. Envoy's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ResponseLimits {
    pub max_response_headers_bytes: u32,
    pub max_headers_count: u32,
    /// Interim responses (1xx) before a response. Envoy has no limit.
    pub max_interim_responses: u32,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        ResponseLimits { max_response_headers_bytes: 80 * 1024, max_headers_count: 100, max_interim_responses: 100 }
    }
}

/// `TcpProxy.TunnelingConfig`. The version of HTTP is that of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TunnelingConfig {
    /// Where the tunnel leads: `HOST:PORT`.
    pub hostname: String,
    /// Ask by POST instead of CONNECT.
    pub use_post: bool,
}

/// `ProxyProtocolConfig.Version`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Discovery {
    /// Addresses known in advance.
    Static(Arc<ClusterLoadAssignment>),
    /// [`super::Config::endpoints`] under the cluster's name.
    Eds,
    /// Every address of every name is an endpoint; followed by the record's time to live.
    StrictDns(Arc<ClusterLoadAssignment>),
    /// One address at a time, of the first name.
    LogicalDns(Arc<ClusterLoadAssignment>),
    /// The address that the client asked for by its Host header (Istio's `DYNAMIC_DNS` and resolution NONE).
    DynamicForwardProxy { port: u16 },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClusterLoadAssignment {
    pub cluster: Option<Name>,
    /// Shared with the proxy's own record of each.
    pub endpoints: Box<[Arc<Endpoint>]>,
}

impl ClusterLoadAssignment {
    pub fn new(cluster: Option<Name>, endpoints: Vec<Endpoint>) -> ClusterLoadAssignment {
        ClusterLoadAssignment { cluster, endpoints: endpoints.into_iter().map(Arc::new).collect() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    pub address: Address,
    /// Read and set as fields of the endpoint.
    #[serde(flatten)]
    pub options: Rare<EndpointOptions>,
    /// Said by the source; an endpoint that drains gets no new requests.
    pub health: HealthStatus,
}

/// What an endpoint may have beside its address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointOptions {
    /// At least 1, relative to the others of its priority.
    pub weight: u32,
    /// 0 is used first; a higher one only while no lower one is healthy.
    pub priority: u32,
    /// `region/zone/subzone`, as far as it is known.
    pub locality: Option<Name>,
    pub labels: BTreeMap<String, String>,
}

impl Endpoint {
    pub fn new(address: Address) -> Self {
        Endpoint { address, health: HealthStatus::Healthy, options: Rare::default() }
    }
}

impl Default for EndpointOptions {
    fn default() -> Self {
        EndpointOptions { weight: 1, priority: 0, locality: None, labels: BTreeMap::new() }
    }
}

impl Common for EndpointOptions {
    fn common() -> &'static EndpointOptions {
        static COMMON: LazyLock<EndpointOptions> = LazyLock::new(EndpointOptions::default);
        &COMMON
    }
}

impl Deref for Endpoint {
    type Target = EndpointOptions;

    fn deref(&self) -> &EndpointOptions {
        &self.options
    }
}

impl DerefMut for Endpoint {
    fn deref_mut(&mut self) -> &mut EndpointOptions {
        &mut self.options
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Socket(SocketAddr),
    /// To be resolved.
    Name {
        host: Box<str>,
        port: u16,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HealthStatus {
    #[default]
    Healthy,
    Unhealthy,
    Draining,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LbPolicy {
    RoundRobin,
    /// The less busy of `choice_count` random ones.
    LeastRequest {
        choice_count: u32,
    },
    Random,
    /// Consistent hashing by the cluster's hash policy; without a hash, random.
    RingHash {
        minimum_ring_size: u32,
        maximum_ring_size: u32,
    },
    /// Consistent hashing by a table of this size, a prime: faster than the ring, and more even, but less steady.
    Maglev {
        table_size: u32,
    },
}

impl Default for LbPolicy {
    fn default() -> Self {
        LbPolicy::LeastRequest { choice_count: 2 }
    }
}

/// A new endpoint gets its share little by little (Envoy's `SlowStartConfig`): `(age / window) ^ (1 / aggression)` of it, but
/// never less than `min_weight_percent`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SlowStart {
    #[serde(serialize_with = "seconds")]
    pub window: Duration,
    pub aggression: f64,
    pub min_weight_percent: f64,
}

impl SlowStart {
    /// The part of its weight, above 0 and up to 1, that an endpoint of this age has.
    pub fn share(&self, age: Duration) -> f64 {
        let grown = (age.as_secs_f64() / self.window.as_secs_f64().max(1e-9)).min(1.0).powf(1.0 / self.aggression.max(1e-3));
        grown.max(self.min_weight_percent / 100.0).clamp(1e-3, 1.0)
    }
}

/// The part of a request that consistent hashing uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HashPolicy {
    pub of: HashOf,
    /// Whether the list ends here even without a hash.
    pub terminal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOf {
    /// In lower case.
    Header(String),
    /// With a `ttl` a missing cookie is made and set.
    Cookie {
        name: String,
        path: String,
        #[serde(serialize_with = "maybe_seconds")]
        ttl: Option<Duration>,
    },
    SourceIp,
    QueryParameter(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// HTTP/2 where ALPN agrees on it, else HTTP/1.1; without TLS, HTTP/1.1.
    Auto,
    /// What the client speaks.
    UseDownstream,
}

/// TLS towards an upstream (`UpstreamTlsContext`).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UpstreamTls {
    /// Server name to send; `None` sends the request's host (`auto_sni`).
    pub sni: Option<String>,
    pub verification: UpstreamVerification,
    /// The certificate must carry one of these names; empty asks for the server name.
    pub subject_alt_names: Vec<String>,
    /// Secret with a client certificate.
    pub certificate: Option<Name>,
    pub min_version: Option<TlsVersion>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamVerification {
    /// Against the system's roots.
    #[default]
    System,
    /// Against the roots in a secret.
    Secret(Name),
    /// Against the roots in a file.
    File(String),
    /// Not at all (`insecureSkipVerify`): said in the log when it is loaded.
    Skip,
}

/// Upper bounds per cluster, over all workers; beyond one, 503 with the flag `UO`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Retries at once as a share of active requests; replaces `max_retries`.
    pub retry_budget: Option<Box<RetryBudget>>,
}

impl Default for CircuitBreakers {
    /// Istio's defaults, in effect unlimited; Envoy's 1024 are a trap for a gateway.
    fn default() -> Self {
        CircuitBreakers {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            retry_budget: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetryBudget {
    pub budget_percent: f64,
    pub min_retry_concurrency: u32,
}

/// Passive health (`OutlierDetection`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    /// 0 switches it off.
    pub consecutive_5xx: u32,
    /// 502, 503, 504 and failures to connect; 0 switches it off.
    pub consecutive_gateway_failure: u32,
    /// Failures to connect, resets and timeouts only; 0 switches it off.
    pub consecutive_local_origin_failure: u32,
    pub split_external_local_origin_errors: bool,
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
    /// Times the number of ejections so far.
    #[serde(serialize_with = "seconds")]
    pub base_ejection_time: Duration,
    #[serde(serialize_with = "seconds")]
    pub max_ejection_time: Duration,
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints, all are used (panic).
    pub min_health_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 5,
            split_external_local_origin_errors: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpKeepalive {
    pub probes: u32,
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
}
