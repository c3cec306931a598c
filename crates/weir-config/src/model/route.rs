//! Route configurations (`config.route.v3`).
use super::{
    Common, FilterOverride, Fraction, HeaderEdits, HttpFilterConfig, Name, Origin, PerFilterConfig, Rare, StringMatch, maybe_seconds,
    seconds,
};
use serde::Serialize;
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
    time::Duration,
};

/// The routes of one listener or port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteConfiguration {
    pub name: Name,
    /// No domain stands in two of them.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
}

/// The routes of some hosts. The first route that matches is taken; the builder sorts them by the precedence of its API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VirtualHost {
    pub name: Name,
    /// `shop.test`, `*.shop.test`, `shop.*` or `*`, in lower case, without a port unless it takes part in matching.
    pub domains: Box<[Name]>,
    pub routes: Box<[Arc<Route>]>,
    /// `x-envoy-attempt-count` towards the upstream.
    pub include_request_attempt_count: bool,
    /// Requests that no route here matches are tried with the virtual host of the wildcard that covers the name, if that says the same
    /// (Ingress).
    pub fall_back_to_wildcard: bool,
    pub per_filter_config: PerFilterConfig,
}

impl VirtualHost {
    pub fn new(name: Name, domains: Vec<Name>, routes: Vec<Arc<Route>>) -> VirtualHost {
        let (include_request_attempt_count, fall_back_to_wildcard, per_filter_config) = Default::default();
        let (domains, routes) = (domains.into(), routes.into());
        VirtualHost { name, domains, routes, include_request_attempt_count, fall_back_to_wildcard, per_filter_config }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// What access logs (`%ROUTE_NAME%`) and the property `route_name` say.
    pub name: Name,
    /// Shared with the object that it was made from.
    #[serde(rename = "match")]
    pub matches: Arc<RouteMatch>,
    pub action: RouteAction,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Goes before that of the virtual host.
    pub per_filter_config: PerFilterConfig,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub ignore_case: bool,
    /// All must hold. The method is the header `:method`, the host `:authority`, the scheme `:scheme`.
    pub headers: Vec<HeaderMatch>,
    pub query_parameters: Vec<QueryMatch>,
}

impl Route {
    /// One that changes no headers and configures no filters.
    pub fn new(name: Name, matches: impl Into<Arc<RouteMatch>>, action: RouteAction, origin: Origin) -> Route {
        let (request_headers, response_headers, per_filter_config) = Default::default();
        let matches = matches.into();
        Route { name, matches, action, request_headers, response_headers, per_filter_config, origin }
    }
    /// Configures a filter for this route, under its usual name.
    pub fn set_filter(&mut self, config: HttpFilterConfig) {
        self.set_filter_named(config.usual_name(), config);
    }
    /// Configures the filter of this name for this route.
    pub fn set_filter_named(&mut self, name: Name, config: HttpFilterConfig) {
        self.per_filter_config.insert(name, FilterOverride::Config(config));
    }
}

impl RouteMatch {
    /// Every request.
    pub fn any() -> RouteMatch {
        RouteMatch::path(PathMatch::Prefix("/".into()))
    }
    /// Every request with this path.
    pub fn path(path: PathMatch) -> RouteMatch {
        RouteMatch { path, ignore_case: false, headers: Vec::new(), query_parameters: Vec::new() }
    }
}

/// Matches the path without its query, after normalisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    Exact(String),
    /// Any text that begins so (Envoy's `prefix`, Istio's `prefix`).
    Prefix(String),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab` (Gateway API `PathPrefix`, Ingress `Prefix`).
    PathSeparatedPrefix(String),
    /// Must match the whole path.
    Regex(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    #[serde(rename = "match")]
    pub value: ValueMatch,
    pub invert: bool,
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct QueryMatch {
    pub name: String,
    #[serde(rename = "match")]
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    Present,
    Text(StringMatch),
    /// A whole number in `start..end`.
    Range {
        start: i64,
        end: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse(Box<DirectResponse>),
}

/// Answers without an upstream (`DirectResponseAction`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirectResponse {
    pub status: u16,
    pub body: String,
}

impl RouteAction {
    pub fn direct_response(status: u16, body: impl Into<String>) -> RouteAction {
        RouteAction::DirectResponse(Box::new(DirectResponse { status, body: body.into() }))
    }
}

/// To an upstream (`RouteAction`). Its options are read and set as fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forward {
    /// At least one entry; a request takes one by weight. All weights 0 answers 500.
    pub clusters: Vec<WeightedCluster>,
    #[serde(flatten)]
    pub options: Rare<ForwardOptions>,
}

/// What a route may ask for beside its clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ForwardOptions {
    pub path_rewrite: Option<Box<PathRewrite>>,
    pub host_rewrite: Option<HostRewrite>,
    /// Until the whole response has been received, from the whole request; `None` has no limit. Envoy's default is 15 s;
    /// Gateway API and Istio have none.
    #[serde(serialize_with = "maybe_seconds")]
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's `stream_idle_timeout`.
    #[serde(serialize_with = "maybe_seconds")]
    pub idle_timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub mirrors: Box<[Mirror]>,
    pub session: Option<Arc<SessionPersistence>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_backend: Option<Box<ErrorBackend>>,
}

/// Takes the place of a backend that answers with certain statuses (`custom-http-errors` of ingress-nginx): it is sent the request for
/// `/`, with the same method and body, and its response goes to the client. `X-Code`, `X-Format` and `X-Original-URI` say what the
/// status was, what the client accepts, and what it requested.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorBackend {
    pub statuses: Vec<u16>,
    pub cluster: Name,
    pub request_headers: HeaderEdits,
}

impl Forward {
    /// Unchanged, to these clusters, for as long as it takes.
    pub fn to(clusters: Vec<WeightedCluster>) -> Forward {
        Forward { clusters, options: Rare::default() }
    }
}

impl Deref for Forward {
    type Target = ForwardOptions;

    fn deref(&self) -> &ForwardOptions {
        &self.options
    }
}

impl DerefMut for Forward {
    fn deref_mut(&mut self) -> &mut ForwardOptions {
        &mut self.options
    }
}

impl Common for ForwardOptions {
    fn common() -> &'static ForwardOptions {
        static COMMON: LazyLock<ForwardOptions> = LazyLock::new(ForwardOptions::default);
        &COMMON
    }
}

/// A client's requests go to the endpoint that answered its first (Envoy's filter `stateful_session`): the response carries a
/// token that says which. A session whose endpoint takes no requests starts over with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionPersistence {
    pub carrier: SessionCarrier,
    /// From its beginning, whatever happens.
    #[serde(serialize_with = "maybe_seconds")]
    pub absolute_timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionCarrier {
    /// A `permanent` one outlives the browser, for as long as the session lasts.
    Cookie { name: String, path: String, permanent: bool },
    /// In lower case; the client sends back what it was sent.
    Header { name: String },
}

/// One of the clusters that a route splits between. Its options are read and set as fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightedCluster {
    /// `None` is a reference that could not be resolved: these requests are answered with `unresolved_status`.
    pub cluster: Option<Name>,
    pub weight: u32,
    pub unresolved_status: u16,
    #[serde(flatten)]
    pub options: Rare<TargetOptions>,
}

/// What a cluster of a split may have beside its weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TargetOptions {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub host_rewrite: Option<HostRewrite>,
    pub path_rewrite: Option<Box<PathRewrite>>,
    /// These requests are redirected instead of being sent there.
    pub redirect: Option<Box<Redirect>>,
    /// Beside those of the route.
    pub mirrors: Box<[Mirror]>,
}

impl WeightedCluster {
    /// All requests to `cluster`.
    pub fn only(cluster: Name) -> Self {
        WeightedCluster { cluster: Some(cluster), weight: 1, unresolved_status: 500, options: Rare::default() }
    }
}

impl Deref for WeightedCluster {
    type Target = TargetOptions;

    fn deref(&self) -> &TargetOptions {
        &self.options
    }
}

impl DerefMut for WeightedCluster {
    fn deref_mut(&mut self) -> &mut TargetOptions {
        &mut self.options
    }
}

impl Common for TargetOptions {
    fn common() -> &'static TargetOptions {
        static COMMON: LazyLock<TargetOptions> = LazyLock::new(TargetOptions::default);
        &COMMON
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The whole path; the query stays.
    Full(String),
    /// What the route's prefix matched, segment-aware (Gateway API `ReplacePrefixMatch`): `/` never doubles or vanishes.
    ReplacePrefixMatch(String),
    /// What the route's prefix matched, as text (Envoy's `prefix_rewrite`, Istio's `rewrite.uri`).
    Prefix(String),
    /// Every match of the pattern; `\1` in the substitution stands for a group.
    Regex { pattern: String, substitution: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostRewrite {
    Literal(Box<str>),
    /// The endpoint's host name, where it has one (`auto_host_rewrite`).
    Auto,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<RedirectPort>,
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPort {
    Literal(u16),
    /// The port that the request came in by (Istio's `FROM_REQUEST_PORT`).
    FromRequest,
    /// None written: the default of the scheme (Istio's `FROM_PROTOCOL_DEFAULT`).
    FromProtocol,
}

/// When and how often to try again (`RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    pub conditions: Vec<RetryOn>,
    pub status_codes: Vec<u16>,
    pub num_retries: u32,
    #[serde(serialize_with = "maybe_seconds")]
    pub per_try_timeout: Option<Duration>,
    /// Full jitter between 0 and `base * 2^n`, at most `max`.
    #[serde(serialize_with = "seconds")]
    pub backoff_base: Duration,
    #[serde(serialize_with = "seconds")]
    pub backoff_max: Duration,
    /// Do not use a host again that this request has tried (`previous_hosts`).
    pub avoid_previous_hosts: bool,
}

impl Default for RetryPolicy {
    /// Istio's default: two more tries on another host for connection failures and the like.
    fn default() -> Self {
        RetryPolicy {
            conditions: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GrpcUnavailable, RetryOn::GrpcCancelled],
            status_codes: Vec::new(),
            num_retries: 2,
            per_try_timeout: None,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            avoid_previous_hosts: true,
        }
    }
}

/// Conditions as in `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    #[serde(rename = "5xx")]
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    #[serde(rename = "cancelled")]
    GrpcCancelled,
    #[serde(rename = "deadline-exceeded")]
    GrpcDeadlineExceeded,
    #[serde(rename = "internal")]
    GrpcInternal,
    #[serde(rename = "resource-exhausted")]
    GrpcResourceExhausted,
    #[serde(rename = "unavailable")]
    GrpcUnavailable,
}

/// A copy of the request whose response is discarded. Its host gets the suffix `-shadow`, before the port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mirror {
    pub cluster: Name,
    pub fraction: Fraction,
    /// The host stays as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disable_shadow_host_suffix_append: bool,
}

/// Cross-origin resource sharing (Fetch standard; Envoy's `CorsPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cors {
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    #[serde(serialize_with = "maybe_seconds")]
    pub max_age: Option<Duration>,
    pub allow_credentials: bool,
    /// Preflights from origins that are not allowed go to the upstream (Istio's `unmatchedPreflights: FORWARD`).
    pub forward_not_matching_preflights: bool,
}

/// Fault injection (Envoy's `HTTPFault`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<(Abort, Fraction)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Abort {
    HttpStatus(u16),
    GrpcStatus(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Delay {
    #[serde(serialize_with = "seconds")]
    pub fixed_delay: Duration,
    pub percentage: Fraction,
}
