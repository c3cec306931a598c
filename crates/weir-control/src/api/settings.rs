//! Settings of the whole gateway: the ConfigMap `istio` (its key `mesh` is Istio's MeshConfig) and Higress' `higress-config`
//! (the keys `mesh` and `higress`). What they do not say stays as it is by default; of several, `higress-config` comes last.
mod compression;
mod inner;

use crate::object::meta::Meta;
use std::time::Duration;
use weir_config::{
    model::{CompressorLibrary, ForwardClientCertDetails, LogFormat},
    reader::{Field, Object},
};

/// The ConfigMaps that are read as settings, in the order in which they apply.
pub const CONFIG_MAPS: [&str; 2] = ["istio", "higress-config"];

/// What settings say; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub access_log_file: Option<String>,
    pub access_log_json: Option<bool>,
    pub access_log_format: Option<LogFormat>,
    pub paths: Option<Paths>,
    pub trusted_hops: Option<u32>,
    pub client_certificates: Option<ForwardClientCertDetails>,
    pub proxy_protocol: Option<bool>,
    pub no_envoy_headers: Option<bool>,
    pub real_ip: Option<bool>,
    /// Its AuthorizationPolicies are for all gateways.
    pub root_namespace: Option<String>,
    pub upstream_idle: Option<Duration>,
    /// Of responses; empty for none.
    pub compression: Option<Vec<CompressorLibrary>>,
    pub limits: Limits,
    pub response_head_bytes: Option<u32>,
    pub response_headers: Option<u32>,
    pub interim_responses: Option<u32>,
    /// Of TCP proxies.
    pub max_connect_attempts: Option<u32>,
}

/// `pathNormalization.normalization`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Paths {
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// `downstream` of Higress' settings, and the limits of Envoy that it has no word for, under Envoy's names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub head_bytes: Option<u32>,
    pub headers: Option<u32>,
    pub buffer: Option<u32>,
    pub connections: Option<u32>,
    pub requests: Option<u32>,
    pub streams: Option<u32>,
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
    pub idle: Option<Duration>,
    pub head: Option<Duration>,
    pub request: Option<Duration>,
    pub stream_idle: Option<Duration>,
    pub route: Option<Duration>,
    pub stream_flush: Option<Duration>,
    pub delayed_close: Option<Duration>,
    pub udp_idle: Option<Duration>,
}

/// An access log that is no file.
pub const STDOUT: &str = "/dev/stdout";
pub const STDERR: &str = "/dev/stderr";

/// Reads the settings of a ConfigMap, if it is one that has some.
pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<Box<Settings>> {
    if !CONFIG_MAPS.contains(&&*meta.key.name) {
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
    pub fn mesh(&mut self, mesh: &Object<'_>) {
        mesh.describe(&[
            (
                "accessLogFile",
                "",
                "Where the access log goes: a path, `/dev/stdout` or `/dev/stderr`; empty disables it. `--access-log` by default. In a cluster, paths need `--allow-file-references`.",
            ),
            ("accessLogEncoding", "", "The form of the access log. `--access-log-format` by default."),
            ("accessLogFormat", "", "Envoy's command operators; for `JSON` a JSON object of them."),
            ("rootNamespace", "istio-system", "AuthorizationPolicies of this namespace apply to all gateways."),
        ]);
        if let Some(file) = mesh.str("accessLogFile") {
            self.access_log_file = Some(file.to_string());
        }
        self.access_log_json = mesh.choice("accessLogEncoding", &[("TEXT", false), ("JSON", true)]);
        if let Some(format) = mesh.get("accessLogFormat") {
            self.access_log_format = log_format(&format, self.access_log_json == Some(true));
        }
        self.root_namespace = mesh.str("rootNamespace").filter(|name| !name.is_empty()).map(str::to_string);
        if let Some(paths) = mesh.object("pathNormalization") {
            paths.describe(&[("normalization", "BASE", "How the path is normalized before routes match it.")]);
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
                topology.describe(&[
                    ("numTrustedProxies", "0", "Proxies in front whose `x-forwarded-for` and `x-forwarded-proto` are trusted."),
                    ("proxyProtocol", "", "If present, every connection must begin with a PROXY protocol header."),
                    ("forwardClientCertDetails", "SANITIZE_SET", "What happens to `x-forwarded-client-cert`."),
                ]);
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
    pub fn higress(&mut self, root: &Object<'_>) {
        root.describe(&[
            (
                "disableXEnvoyHeaders",
                "false",
                "Do not send `x-envoy-original-path`, `x-envoy-upstream-service-time` and `x-envoy-overloaded`.",
            ),
            ("addXRealIpHeader", "false", "Send the client's address to upstreams in `x-real-ip`."),
        ]);
        if let Some(downstream) = root.object("downstream") {
            self.limits.read(&downstream);
        }
        if let Some(upstream) = root.object("upstream") {
            upstream.describe(&[
                ("maxResponseHeadersKb", "80", "KiB of a response head. A larger one becomes 502."),
                ("maxHeadersCount", "100", "Header fields of a response. More become 502."),
                ("maxInterimResponses", "100", "Interim responses (1xx) before a response. More become 502."),
                ("maxConnectAttempts", "1", "Endpoints that a TCP route tries before it closes the client's connection."),
                ("idleTimeout", "3600", "How long an upstream connection may be idle, in seconds or as a duration; 0 for no limit. A DestinationRule overrides it."),
            ]);
            self.response_head_bytes = head_bytes(&upstream, "maxResponseHeadersKb");
            self.response_headers = headers(&upstream);
            self.upstream_idle = upstream.get("idleTimeout").and_then(|f| seconds(&f));
            let most = |name, least| upstream.int(name, least..=i64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
            self.max_connect_attempts = most("maxConnectAttempts", 1);
            self.interim_responses = most("maxInterimResponses", 0);
            // What is held of a body is the listener's to limit; there are no other buffers to set.
            upstream.unsupported(&["connectionBufferLimits"]);
        }
        self.no_envoy_headers = root.bool("disableXEnvoyHeaders");
        self.real_ip = root.bool("addXRealIpHeader");
        self.compression = compression::read(root);
        root.unsupported(&["tracing", "mcpServer"]);
    }
}

impl Limits {
    fn read(&mut self, from: &Object<'_>) {
        from.describe(&[
            ("maxRequestHeadersKb", "60", "KiB of a request head. A larger one gets 431."),
            ("maxHeadersCount", "100", "Header fields of a request. More get 431."),
            ("connectionBufferLimits", "1048576", "Bytes of a body that are held for a filter that wants it whole. A larger request body gets 413, a larger response body 500."),
            ("maxConnections", "1048576", "Connections open at once on each listener. More are closed immediately."),
            ("maxRequestsPerConnection", "0", "Requests on one connection before it is closed; 0 for no limit."),
            ("idleTimeout", "3600", "How long a connection may be without a request, in seconds or as a duration; 0 for no limit."),
            ("requestHeadersTimeout", "10s", "Time from the first byte of a request head to its last. Later is 408."),
            ("requestTimeout", "0", "Time until the whole request has arrived; 0 for no limit. Later is 408."),
            ("streamIdleTimeout", "300", "How long a stream may go without a byte in either direction. Later is 408 or 504."),
            ("routeTimeout", "0", "Time until the whole response has arrived, for routes that set no timeout; 0 for no limit."),
            ("streamFlushTimeout", "60", "Time for the client to read a response that Weir generated."),
            ("delayedCloseTimeout", "1", "How long data is read that a client sends after the last response of its connection; 0 closes at once."),
            ("udpIdleTimeout", "60", "How long a UDP session may go without a datagram in either direction, in seconds or as a duration."),
        ]);
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
            http2.describe(&[
                ("maxConcurrentStreams", "100", "Streams open at once on one connection."),
                ("initialStreamWindowSize", "262144", "Flow control window of a stream, in bytes."),
                ("initialConnectionWindowSize", "1048576", "Flow control window of a connection, in bytes."),
            ]);
            let most = |name, bounds| http2.int(name, bounds).and_then(|n| u32::try_from(n).ok());
            self.streams = most("maxConcurrentStreams", 1..=i64::from(i32::MAX));
            self.stream_window = most("initialStreamWindowSize", 65535..=i64::from(i32::MAX));
            self.connection_window = most("initialConnectionWindowSize", 65535..=i64::from(i32::MAX));
        }
        self.route = from.get("routeTimeout").and_then(|f| seconds(&f));
        self.stream_flush = from.get("streamFlushTimeout").and_then(|f| seconds(&f));
        self.delayed_close = from.get("delayedCloseTimeout").and_then(|f| seconds(&f));
        self.udp_idle = from.get("udpIdleTimeout").and_then(|f| {
            let time = seconds(&f)?;
            if time.is_zero() {
                f.invalid("is no time", "a time above 0: sessions without an end would stay for ever");
            }
            Some(time)
        });
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
