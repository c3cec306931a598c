//! Settings of the whole gateway: the ConfigMap `istio` (its key `mesh` is Istio's MeshConfig) and Higress' `higress-config`
//! (the keys `mesh` and `higress`). What they do not say stays as it is by default; of several, `higress-config` comes last.
mod inner;

use crate::object::Meta;
use std::time::Duration;
use weir_config::{
    model::{AccessLog, EscapedSlashes, ForwardClientCertDetails, HttpConnectionManager, Listener, LogFormat, LogSink, ResponseLimits},
    reader::{Field, Object},
};

/// The ConfigMaps that are read as settings, in the order in which they apply.
pub const CONFIG_MAPS: [&str; 2] = ["istio", "higress-config"];

/// What settings say; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    access_log_file: Option<String>,
    access_log_json: Option<bool>,
    access_log_format: Option<LogFormat>,
    paths: Option<Paths>,
    trusted_hops: Option<u32>,
    client_certificates: Option<ForwardClientCertDetails>,
    proxy_protocol: Option<bool>,
    no_envoy_headers: Option<bool>,
    real_ip: Option<bool>,
    upstream_idle: Option<Duration>,
    limits: Limits,
    response_head_bytes: Option<u32>,
    response_headers: Option<u32>,
}

/// `pathNormalization.normalization`
#[derive(Clone, Copy, Debug, PartialEq)]
enum Paths {
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// `downstream` of Higress' settings, and the limits of Envoy that it has no word for, under Envoy's names.
#[derive(Clone, Debug, Default, PartialEq)]
struct Limits {
    head_bytes: Option<u32>,
    headers: Option<u32>,
    buffer: Option<u32>,
    connections: Option<u32>,
    requests: Option<u32>,
    streams: Option<u32>,
    stream_window: Option<u32>,
    connection_window: Option<u32>,
    idle: Option<Duration>,
    head: Option<Duration>,
    request: Option<Duration>,
    stream_idle: Option<Duration>,
    route: Option<Duration>,
}

/// Reads the settings of a ConfigMap, if it is one that has some.
pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<Box<Settings>> {
    if !CONFIG_MAPS.contains(&&*meta.name) {
        return None;
    }
    let mut settings = Settings::default();
    for (key, text) in root.entries("data") {
        match key {
            "mesh" => inner::read(&text, key, |mesh| settings.mesh(mesh)),
            "higress" => inner::read(&text, key, |higress| settings.higress(higress)),
            "meshNetworks" | "injectedConfig" => text.unsupported(),
            _ => {}
        }
    }
    Some(Box::new(settings))
}

impl Settings {
    /// MeshConfig (istio.mesh.v1alpha1).
    fn mesh(&mut self, mesh: &Object<'_>) {
        if let Some(file) = mesh.str("accessLogFile") {
            self.access_log_file = Some(file.to_string());
        }
        self.access_log_json = mesh.choice("accessLogEncoding", &[("TEXT", false), ("JSON", true)]);
        if let Some(format) = mesh.get("accessLogFormat") {
            self.access_log_format = log_format(&format, self.access_log_json == Some(true));
        }
        if let Some(paths) = mesh.object("pathNormalization") {
            let words = [
                ("DEFAULT", Paths::Base),
                ("NONE", Paths::None),
                ("BASE", Paths::Base),
                ("MERGE_SLASHES", Paths::MergeSlashes),
                ("DECODE_AND_MERGE_SLASHES", Paths::DecodeAndMergeSlashes),
            ];
            self.paths = paths.choice("normalization", &words);
        }
        if let Some(proxy) = mesh.object("defaultConfig") {
            if let Some(topology) = proxy.object("gatewayTopology") {
                let hops = topology.int("numTrustedProxies", 0..=255);
                self.trusted_hops = hops.and_then(|n| u32::try_from(n).ok());
                // An empty object switches it on.
                if topology.object("proxyProtocol").is_some() {
                    self.proxy_protocol = Some(true);
                }
                let words = [
                    ("UNDEFINED", ForwardClientCertDetails::default()),
                    ("SANITIZE", ForwardClientCertDetails::Sanitize),
                    ("FORWARD_ONLY", ForwardClientCertDetails::ForwardOnly),
                    ("APPEND_FORWARD", ForwardClientCertDetails::AppendForward),
                    ("SANITIZE_SET", ForwardClientCertDetails::SanitizeSet),
                    ("ALWAYS_FORWARD_ONLY", ForwardClientCertDetails::AlwaysForwardOnly),
                ];
                self.client_certificates = topology.choice("forwardClientCertDetails", &words);
            }
            proxy.unsupported(PROXY_CONFIG);
        }
        mesh.unsupported(MESH_CONFIG);
    }

    /// Higress' global configuration.
    fn higress(&mut self, root: &Object<'_>) {
        if let Some(downstream) = root.object("downstream") {
            self.limits.read(&downstream);
        }
        if let Some(upstream) = root.object("upstream") {
            self.response_head_bytes = head_bytes(&upstream, "maxResponseHeadersKb");
            self.response_headers = headers(&upstream);
            self.upstream_idle = upstream.get("idleTimeout").and_then(|f| seconds(&f));
            // What is held of a body is the listener's to limit; there are no other buffers to set.
            upstream.unsupported(&["connectionBufferLimits"]);
        }
        self.no_envoy_headers = root.bool("disableXEnvoyHeaders");
        self.real_ip = root.bool("addXRealIpHeader");
        root.unsupported(&["tracing", "gzip", "mcpServer"]);
    }

    /// Changes a connection manager to what these settings say.
    pub fn apply_to_manager(&self, manager: &mut HttpConnectionManager) {
        self.limits.apply(manager);
        put(&mut manager.suppress_envoy_headers, self.no_envoy_headers);
        put(&mut manager.add_x_real_ip, self.real_ip);
        if let Some(hops) = self.trusted_hops {
            manager.xff_num_trusted_hops = hops;
        }
        if let Some(details) = self.client_certificates {
            manager.forward_client_cert_details = details;
        }
        if let Some(paths) = self.paths {
            manager.normalize_path = paths != Paths::None;
            manager.merge_slashes = matches!(paths, Paths::MergeSlashes | Paths::DecodeAndMergeSlashes);
            manager.escaped_slashes = match paths {
                Paths::DecodeAndMergeSlashes => EscapedSlashes::UnescapeAndForward,
                _ => EscapedSlashes::KeepUnchanged,
            };
        }
        self.apply_to_log(&mut manager.access_log);
    }

    /// What holds for every cluster; the idle timeout for those that were told none of their own.
    pub fn apply_to_upstreams(&self, limits: &mut ResponseLimits, idle: &mut Option<Duration>) {
        put(&mut limits.max_response_headers_bytes, self.response_head_bytes);
        put(&mut limits.max_headers_count, self.response_headers);
        put(idle, time(self.upstream_idle));
    }

    pub fn apply_to_listener(&self, listener: &mut Listener) {
        if let Some(on) = self.proxy_protocol {
            listener.proxy_protocol = on;
        }
        if let Some(most) = self.limits.connections {
            listener.max_connections = most;
        }
    }

    pub fn apply_to_log(&self, logs: &mut Vec<AccessLog>) {
        let format = self.access_log_format.clone().or_else(|| match self.access_log_json? {
            true => Some(LogFormat::default_json()),
            false => Some(LogFormat::Text(LogFormat::DEFAULT_TEXT.into())),
        });
        if let Some(file) = &self.access_log_file {
            let sink = match &**file {
                "" => return logs.clear(),
                "/dev/stdout" => LogSink::Stdout,
                "/dev/stderr" => LogSink::Stderr,
                file => LogSink::File(file.into()),
            };
            let before = logs.drain(..).next().map(|log| log.format);
            let format = before.unwrap_or_else(|| LogFormat::Text(LogFormat::DEFAULT_TEXT.into()));
            logs.push(AccessLog { sink, format });
        }
        for log in logs {
            if let Some(format) = &format {
                log.format.clone_from(format);
            }
        }
    }
}

impl Limits {
    fn read(&mut self, from: &Object<'_>) {
        let most = |name, bounds| from.int(name, bounds).and_then(|n| u32::try_from(n).ok());
        self.head_bytes = head_bytes(from, "maxRequestHeadersKb");
        self.headers = headers(from);
        self.buffer = most("connectionBufferLimits", 1..=i64::from(u32::MAX));
        self.connections = most("maxConnections", 1..=i64::from(u32::MAX));
        self.requests = most("maxRequestsPerConnection", 0..=i64::from(u32::MAX));
        self.idle = from.get("idleTimeout").and_then(|f| seconds(&f));
        self.head = from.get("requestHeadersTimeout").and_then(|f| seconds(&f));
        self.request = from.get("requestTimeout").and_then(|f| seconds(&f));
        self.stream_idle = from.get("streamIdleTimeout").and_then(|f| seconds(&f));
        if let Some(http2) = from.object("http2") {
            let most = |name, bounds| http2.int(name, bounds).and_then(|n| u32::try_from(n).ok());
            self.streams = most("maxConcurrentStreams", 1..=i64::from(i32::MAX));
            self.stream_window = most("initialStreamWindowSize", 65535..=i64::from(i32::MAX));
            self.connection_window = most("initialConnectionWindowSize", 65535..=i64::from(i32::MAX));
        }
        self.route = from.get("routeTimeout").and_then(|f| seconds(&f));
    }

    fn apply(&self, manager: &mut HttpConnectionManager) {
        let limits = &mut manager.limits;
        put(&mut limits.max_request_headers_bytes, self.head_bytes);
        put(&mut limits.max_headers_count, self.headers);
        put(&mut limits.buffer_limit_bytes, self.buffer);
        put(&mut limits.max_requests_per_connection, self.requests);
        put(&mut limits.max_concurrent_streams, self.streams);
        put(&mut limits.initial_stream_window_bytes, self.stream_window);
        put(&mut limits.initial_connection_window_bytes, self.connection_window);
        let timeouts = &mut manager.timeouts;
        put(&mut timeouts.idle_timeout, time(self.idle));
        put(&mut timeouts.request_headers_timeout, time(self.head));
        put(&mut timeouts.request_timeout, time(self.request));
        put(&mut timeouts.stream_idle_timeout, time(self.stream_idle));
        put(&mut timeouts.route_timeout, time(self.route));
    }
}

/// As in Envoy, 0 switches a timeout off.
fn time(said: Option<Duration>) -> Option<Option<Duration>> {
    said.map(|d| (!d.is_zero()).then_some(d))
}

fn put<T: Copy>(at: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *at = said;
    }
}

/// Within Envoy's bounds, as is the number of headers.
fn head_bytes(from: &Object<'_>, name: &'static str) -> Option<u32> {
    from.int(name, 1..=8192).and_then(|kb| u32::try_from(kb * 1024).ok())
}

fn headers(from: &Object<'_>) -> Option<u32> {
    from.int("maxHeadersCount", 1..=65535).and_then(|n| u32::try_from(n).ok())
}

/// Higress writes whole seconds; `1m30s` is taken as well.
fn seconds(field: &Field<'_>) -> Option<Duration> {
    match field.node().as_str() {
        Some(_) => field.duration(),
        None => field.int(0..=31_536_000).and_then(|n| u64::try_from(n).ok()).map(Duration::from_secs),
    }
}

/// A text of command operators, or (for the encoding JSON) a JSON object of them.
fn log_format(field: &Field<'_>, json: bool) -> Option<LogFormat> {
    let text = field.str()?;
    if text.is_empty() {
        return None;
    }
    if !json {
        return Some(LogFormat::Text(format!("{}\n", text.trim_end_matches('\n'))));
    }
    let parsed: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text).ok();
    let pairs = parsed.and_then(|map| map.into_iter().map(|(key, value)| Some((key, value.as_str()?.to_string()))).collect());
    if pairs.is_none() {
        field.invalid("is not a JSON object of texts", "an object as {\"status\": \"%RESPONSE_CODE%\"}, or accessLogEncoding: TEXT");
    }
    pairs.map(LogFormat::Json)
}

/// Fields of MeshConfig that Weir does not honour.
const MESH_CONFIG: &[&str] = &[
    "authPolicy",
    "disableMixerHttpReports",
    "disablePolicyChecks",
    "disableReportBatch",
    "enableClientSidePolicyCheck",
    "mixerCheckServer",
    "mixerReportServer",
    "policyCheckFailOpen",
    "sdsRefreshDelay",
    "sdsUdsPath",
    "thriftConfig",
    "proxyListenPort",
    "proxyInboundListenPort",
    "proxyHttpPort",
    "connectTimeout",
    "tcpKeepalive",
    "ingressClass",
    "ingressService",
    "ingressControllerMode",
    "ingressSelector",
    "enableTracing",
    "enableEnvoyAccessLogService",
    "disableEnvoyListenerLog",
    "outboundTrafficPolicy",
    "inboundTrafficPolicy",
    "configSources",
    "enableAutoMtls",
    "trustDomain",
    "trustDomainAliases",
    "caCertificates",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "defaultDestinationRuleExportTo",
    "rootNamespace",
    "localityLbSetting",
    "dnsRefreshRate",
    "h2UpgradePolicy",
    "inboundClusterStatName",
    "outboundClusterStatName",
    "certificates",
    "serviceSettings",
    "enablePrometheusMerge",
    "verifyCertificateAtClient",
    "ca",
    "extensionProviders",
    "defaultProviders",
    "discoverySelectors",
    "defaultHttpRetryPolicy",
    "meshMTLS",
    "tlsDefaults",
    "serviceScopeConfigs",
    "hboneIdleTimeout",
    "mseIngressGlobalConfig",
];

/// Fields of ProxyConfig that Weir does not honour.
const PROXY_CONFIG: &[&str] = &[
    "availabilityZone",
    "caCertificatesPem",
    "connectTimeout",
    "customConfigFile",
    "discoveryRefreshDelay",
    "envoyMetricsServiceAddress",
    "interceptionMode",
    "parentShutdownDuration",
    "proxyBootstrapTemplatePath",
    "statNameLength",
    "statsdUdpAddress",
    "zipkinAddress",
    "concurrency",
    "configPath",
    "binaryPath",
    "serviceCluster",
    "drainDuration",
    "terminationDrainDuration",
    "discoveryAddress",
    "statusPort",
    "tracing",
    "tracingServiceName",
    "proxyAdminPort",
    "proxyStatsMatcher",
    "proxyMetadata",
    "runtimeValues",
    "controlPlaneAuthPolicy",
    "holdApplicationUntilProxyStarts",
    "image",
    "meshId",
    "extraStatTags",
    "envoyAccessLogService",
    "envoyMetricsService",
    "sds",
    "readinessProbe",
    "privateKeyProvider",
    "proxyHeaders",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
];
