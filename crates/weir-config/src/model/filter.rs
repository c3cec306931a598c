//! HTTP filters: the list of a connection manager, and what virtual hosts and routes change about it.
use super::{BasicAuth, Common, Compressor, Cors, Fault, LocalRateLimit, Name, PluginPhase, Rare, Rbac};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

/// One filter of a connection manager (`http_connection_manager.v3.HttpFilter`). Requests pass the list in order, responses in
/// reverse. The router is not listed: it is always last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpFilter {
    /// Unique in its list. Virtual hosts and routes refer to the filter by this name.
    pub name: Name,
    pub config: HttpFilterConfig,
    /// The filter runs only where a virtual host or route has a configuration for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpFilterConfig {
    BasicAuth(Arc<BasicAuth>),
    Compressor(Arc<Compressor>),
    Cors(Arc<Cors>),
    Fault(Arc<Fault>),
    Rbac(Arc<Rbac>),
    LocalRateLimit(Arc<LocalRateLimit>),
    /// The name of a [`super::WasmPlugin`].
    Wasm(Name),
}

/// What a virtual host or a route has in place of a filter's own configuration. The route's entry goes before that of its host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterOverride {
    /// Must be of the same kind as the filter. Enables a filter that is disabled.
    Config(HttpFilterConfig),
    Disabled,
}

/// By the names of filters (`typed_per_filter_config`). A name that the connection manager does not list has no effect.
pub type PerFilterConfig = Rare<BTreeMap<Name, FilterOverride>>;

impl Common for BTreeMap<Name, FilterOverride> {
    fn common() -> &'static Self {
        static COMMON: BTreeMap<Name, FilterOverride> = BTreeMap::new();
        &COMMON
    }
}

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(pub static $name: LazyLock<Name> = LazyLock::new(|| $text.into());)*
    };
}

names! {
    BASIC_AUTH = "envoy.filters.http.basic_auth";
    COMPRESSOR = "envoy.filters.http.compressor";
    CORS = "envoy.filters.http.cors";
    INGRESS_CORS = "envoy.filters.http.cors.ingress";
    FAULT = "envoy.filters.http.fault";
    RBAC = "envoy.filters.http.rbac";
    AUTHORIZATION_POLICY = "envoy.filters.http.rbac.authorization_policy";
    LOCAL_RATE_LIMIT = "envoy.filters.http.local_ratelimit";
}

impl HttpFilterConfig {
    /// The usual name of a filter of this kind: Envoy's, or that of the plugin.
    pub fn usual_name(&self) -> Name {
        match self {
            HttpFilterConfig::BasicAuth(_) => BASIC_AUTH.clone(),
            HttpFilterConfig::Compressor(_) => COMPRESSOR.clone(),
            HttpFilterConfig::Cors(_) => CORS.clone(),
            HttpFilterConfig::Fault(_) => FAULT.clone(),
            HttpFilterConfig::Rbac(_) => RBAC.clone(),
            HttpFilterConfig::LocalRateLimit(_) => LOCAL_RATE_LIMIT.clone(),
            HttpFilterConfig::Wasm(plugin) => plugin.clone(),
        }
    }
}

impl HttpFilter {
    /// A filter under the usual name.
    pub fn new(config: HttpFilterConfig) -> HttpFilter {
        HttpFilter { name: config.usual_name(), config, disabled: false }
    }

    /// A filter that runs only where a virtual host or route configures it.
    fn on_demand(config: HttpFilterConfig) -> HttpFilter {
        HttpFilter { disabled: true, ..HttpFilter::new(config) }
    }

    /// The filters of a connection manager that translation makes, in their order. `plugins` are in the order of their phases.
    ///
    /// - Source ranges and rate limits of routes come first: a request that they refuse costs nothing else.
    /// - CORS of an Ingress comes next, as in Higress and ingress-nginx: a preflight request carries no credentials, so what
    ///   is behind it would refuse it.
    /// - Basic authentication of an Ingress is next: plugins and the upstream only see clients that were let in.
    /// - Plugins and `policies` follow in the order of Istio: the phases AUTHN and AUTHZ, AuthorizationPolicy, the phase STATS, and the
    ///   plugins without a phase.
    /// - Fault injection and the CORS of an HTTPRoute or VirtualService are last, in this order, as in Istio. So a policy or plugin
    ///   can refuse a preflight request, and both filters act on the route that the request finally takes.
    pub fn list(policies: Option<Arc<Rbac>>, plugins: impl IntoIterator<Item = (PluginPhase, Name)>) -> Vec<HttpFilter> {
        let mut filters = vec![
            HttpFilter::on_demand(HttpFilterConfig::Rbac(Arc::default())),
            HttpFilter::on_demand(HttpFilterConfig::LocalRateLimit(Arc::default())),
            HttpFilter { name: INGRESS_CORS.clone(), ..HttpFilter::on_demand(HttpFilterConfig::Cors(Arc::default())) },
            HttpFilter::on_demand(HttpFilterConfig::BasicAuth(Arc::default())),
        ];
        let (before, behind): (Vec<_>, Vec<_>) =
            plugins.into_iter().partition(|(phase, _)| matches!(phase, PluginPhase::Authn | PluginPhase::Authz));
        let wasm = |(_, plugin)| HttpFilter::new(HttpFilterConfig::Wasm(plugin));
        filters.extend(before.into_iter().map(wasm));
        filters.extend(
            policies.map(|rbac| HttpFilter { name: AUTHORIZATION_POLICY.clone(), ..HttpFilter::new(HttpFilterConfig::Rbac(rbac)) }),
        );
        filters.extend(behind.into_iter().map(wasm));
        filters.push(HttpFilter::on_demand(HttpFilterConfig::Fault(Arc::default())));
        filters.push(HttpFilter::on_demand(HttpFilterConfig::Cors(Arc::default())));
        filters
    }
}
