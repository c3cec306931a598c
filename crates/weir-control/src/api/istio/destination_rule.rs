//! DestinationRule: how to talk to the endpoints of a host, and which of them a subset has.
use super::{
    locality::{self, LocalitySetting},
    read::{At, CertificateFiles, ExportTo, ca_crl, certificate_files, full_host, host_field},
};
use crate::{
    api::labels::{Labels, labels, selector},
    object::meta::Meta,
};
use std::{net::IpAddr, time::Duration};
use weir_config::{
    model::{
        CircuitBreakers, HashOf, LbPolicy, Name, OutlierDetection, ProxyProtocolVersion, RetryBudget, SlowStart, TcpKeepalive,
        TunnelingConfig,
    },
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Full name or pattern.
    pub host: Name,
    /// Labels of the workloads that it is for; `None` for all.
    pub selector: Option<(Labels, At)>,
    pub export_to: ExportTo,
    pub policy: Policy,
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    pub name: Name,
    pub labels: Labels,
    pub policy: Policy,
    pub at: At,
}

/// A `trafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub settings: Settings,
    /// By port: in place of `settings`, not on top of them.
    pub ports: Vec<(u16, Settings)>,
    /// Of all ports, as the next.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    pub tunnel: Option<TunnelingConfig>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub balancer: Option<Balancer>,
    pub pool: Option<Pool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<Tls>,
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    pub policy: LbPolicy,
    pub hash: Option<HashOf>,
    pub locality: Option<LocalitySetting>,
    pub slow_start: Option<SlowStart>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    pub breakers: CircuitBreakers,
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<TcpKeepalive>,
    /// Of connections that are passed on as bytes.
    pub tcp_idle_timeout: Option<Duration>,
    pub http_idle_timeout: Option<Duration>,
    pub max_requests_per_connection: u32,
    pub upgrade: bool,
    pub use_client_protocol: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// `None` is plain text (`DISABLE`).
    pub originate: Option<Originate>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Originate {
    /// A Secret with the client's certificate (`MUTUAL`) or the roots (`SIMPLE`).
    pub credential: Option<Box<str>>,
    pub mutual: bool,
    pub files: Option<CertificateFiles>,
    /// `system`, or a path.
    pub ca_file: Option<String>,
    /// Goes with `ca_file`.
    pub ca_crl: Option<Box<str>>,
    pub subject_alt_names: Vec<String>,
    pub sni: Option<String>,
    pub insecure_skip_verify: bool,
    pub at: At,
}

impl Policy {
    /// For a subset: its own, or the host's.
    pub fn proxy_protocol(&self, subset: Option<&Policy>) -> Option<ProxyProtocolVersion> {
        subset.and_then(|s| s.proxy_protocol).or(self.proxy_protocol)
    }
    /// For a subset: its own, or the host's.
    pub fn tunnel(&self, subset: Option<&Policy>) -> Option<TunnelingConfig> {
        subset.and_then(|s| s.tunnel.clone()).or_else(|| self.tunnel.clone())
    }
    fn at_port(&self, port: u16) -> &Settings {
        self.ports.iter().find(|(p, _)| *p == port).map_or(&self.settings, |(_, settings)| settings)
    }
    /// For a port of a subset: what the subset sets overrides what the host has.
    pub fn merged(&self, subset: Option<&Policy>, port: u16) -> Settings {
        let (base, over) = (self.at_port(port), subset.map(|s| s.at_port(port)));
        fn pick<T: Clone>(over: Option<&Option<T>>, base: &Option<T>) -> Option<T> {
            over.and_then(Clone::clone).or_else(|| base.clone())
        }
        Settings {
            balancer: pick(over.map(|s| &s.balancer), &base.balancer),
            pool: pick(over.map(|s| &s.pool), &base.pool),
            outlier_detection: pick(over.map(|s| &s.outlier_detection), &base.outlier_detection),
            tls: pick(over.map(|s| &s.tls), &base.tls),
            retry_budget: pick(over.map(|s| &s.retry_budget), &base.retry_budget),
        }
    }
}

/// The word for rules whose host is a wildcard that every Service matches.
pub const EVERY_SERVICE: &str = "every Service";

impl DestinationRule {
    /// Its full host; wildcards as they stand.
    /// By its host, and all that mean every Service also by one word.
    pub fn index_keys(&self) -> Vec<Name> {
        let end = self.host.strip_prefix('*').filter(|end| end.is_empty() || end.starts_with('.'));
        let means_all = end.is_some_and(|end| ".svc.cluster.local".ends_with(end));
        means_all.then(|| EVERY_SERVICE.into()).into_iter().chain([self.host.clone()]).collect()
    }
}

pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<DestinationRule> {
    let spec = root.required("spec")?.object()?;
    let selector = spec.get("workloadSelector").and_then(|f| Some((selector(&f, "matchLabels")?, At::of(&f))));
    let host = full_host(&host_field(&spec.required("host")?)?, &meta.key.namespace);
    let policy = spec.get("trafficPolicy").and_then(|f| policy(&f)).unwrap_or_default();
    let mut subsets: Vec<Subset> = Vec::new();
    for item in spec.distinct("subsets", "name") {
        let Some(subset) = item.object() else { continue };
        let name = subset.required("name").and_then(|f| f.str());
        let labels = labels(&subset, "labels");
        let policy = subset.get("trafficPolicy").and_then(|f| self::policy(&f)).unwrap_or_default();
        let Some(name) = name else { continue };
        subsets.push(Subset { name: name.into(), labels, policy, at: At::of(&item) });
    }
    let export_to = ExportTo::decode(&spec);
    Some(DestinationRule { host, selector, export_to, policy, subsets })
}

fn policy(field: &Field<'_>) -> Option<Policy> {
    let object = field.object()?;
    let tunnel = object.get("tunnel").and_then(|f| tunnel(&f));
    let proxy_protocol = object.object("proxyProtocol").map(|proxy| {
        let words = [("V1", ProxyProtocolVersion::V1), ("V2", ProxyProtocolVersion::V2)];
        // V1 is the zero value of Istio's enum.
        proxy.choice("version", &words).unwrap_or(ProxyProtocolVersion::V1)
    });
    let settings = settings(&object);
    let mut ports = Vec::new();
    for item in object.list("portLevelSettings") {
        let Some(level) = item.object() else { continue };
        let port = level.required("port").and_then(|f| f.object()).and_then(|p| p.required("number")?.port());
        let settings = self::settings(&level);
        ports.extend(port.map(|port| (port, settings)));
    }
    Some(Policy { settings, ports, proxy_protocol, tunnel })
}

fn tunnel(field: &Field<'_>) -> Option<TunnelingConfig> {
    let object = field.object()?;
    let use_post = object.choice("protocol", &[("CONNECT", false), ("POST", true)]).unwrap_or(false);
    let given = object.required("targetHost");
    let port = object.required("targetPort").and_then(|f| f.port());
    let host = given.and_then(|f| {
        let host = f.str()?;
        match host.parse() {
            Ok(IpAddr::V6(ip)) => Some(format!("[{ip}]")),
            Ok(IpAddr::V4(ip)) => Some(ip.to_string()),
            Err(_) => {
                let name = host_field(&f)?;
                if name.contains('*') {
                    f.invalid("is a pattern: a tunnel leads to one host", "a DNS name as shop.test, or an IP address");
                }
                Some(name)
            }
        }
    });
    Some(TunnelingConfig { hostname: format!("{}:{}", host?, port?), use_post })
}

fn settings(object: &Object<'_>) -> Settings {
    Settings {
        balancer: object.get("loadBalancer").and_then(|f| balancer(&f)),
        pool: object.get("connectionPool").and_then(|f| pool(&f)),
        outlier_detection: object.get("outlierDetection").and_then(|f| outlier_detection(&f)),
        tls: object.get("tls").and_then(|f| tls(&f)),
        retry_budget: object.get("retryBudget").and_then(|f| retry_budget(&f)),
    }
}

fn balancer(field: &Field<'_>) -> Option<Balancer> {
    let object = field.object()?;
    object.unsupported(&["zoneAwareLbSetting"]);
    object.describe(&[
        ("simple", "LEAST_REQUEST", "How an endpoint is chosen, without `consistentHash`."),
        ("warmupDurationSecs", "", "The older form of `warmup.duration`."),
    ]);
    let least = LbPolicy::default();
    let mut policy = least.clone();
    if let Some(f) = object.get("simple") {
        policy = match f.str()? {
            "UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN" => least,
            "ROUND_ROBIN" => LbPolicy::RoundRobin,
            "RANDOM" => LbPolicy::Random,
            "PASSTHROUGH" => {
                f.warning(
                    "UnsupportedValue",
                    "needs a connection's original destination, which a gateway does not have: LEAST_REQUEST is used",
                    "LEAST_REQUEST",
                );
                least
            }
            other => {
                f.unknown_value(other, "one of ROUND_ROBIN, LEAST_REQUEST, RANDOM, PASSTHROUGH");
                return None;
            }
        };
    }
    let hash = object.get("consistentHash").and_then(|f| consistent_hash(&f));
    let locality = object.get("localityLbSetting").and_then(|f| locality::decode(&f));
    let slow_start = warmup(&object);
    Some(match hash {
        Some((hash, ring)) => Balancer { policy: ring, hash: Some(hash), locality, slow_start },
        None => Balancer { policy, hash: None, locality, slow_start },
    })
}

/// `warmup`, or the older `warmupDurationSecs`.
fn warmup(object: &Object<'_>) -> Option<SlowStart> {
    let old = object.duration("warmupDurationSecs");
    let given = object.object("warmup");
    let window = given.as_ref().and_then(|w| w.required("duration")?.duration());
    let least = |w: &Object<'_>, name: &'static str, bounds: std::ops::RangeInclusive<f64>| {
        let field = w.get(name)?;
        let number = field.number()?;
        if !bounds.contains(&number) {
            field.invalid(format!("{number} is out of bounds"), format!("a number from {} to {}", bounds.start(), bounds.end()));
        }
        Some(number)
    };
    let min_weight_percent = given.as_ref().and_then(|w| least(w, "minimumPercent", 0.0..=100.0)).unwrap_or(10.0);
    let aggression = given.as_ref().and_then(|w| least(w, "aggression", 1.0..=1000.0)).unwrap_or(1.0);
    let window = window.or(old).filter(|w| !w.is_zero())?;
    Some(SlowStart { window, aggression, min_weight_percent })
}

/// Envoy's upper bound, which Istio leaves as it is.
const MAXIMUM_RING_SIZE: u32 = 8 << 20;

fn consistent_hash(field: &Field<'_>) -> Option<(HashOf, LbPolicy)> {
    let object = field.object()?;
    object.describe(&[
        ("httpHeaderName", "", "Hash this header."),
        ("httpQueryParameterName", "", "Hash this query parameter."),
        ("useSourceIp", "false", "Hash the client's address."),
        ("minimumRingSize", "1024", "The older name of `ringHash.minimumRingSize`."),
    ]);
    let old = object.int("minimumRingSize", 0..=i64::from(MAXIMUM_RING_SIZE));
    let new = object.object("ringHash").and_then(|ring| ring.int("minimumRingSize", 0..=i64::from(MAXIMUM_RING_SIZE)));
    let minimum_ring_size = new.or(old).filter(|n| *n > 0).unwrap_or(1024) as u32;
    let policy = match object.object("maglev") {
        Some(maglev) => LbPolicy::Maglev { table_size: table_size(&maglev) },
        None => LbPolicy::RingHash { minimum_ring_size, maximum_ring_size: MAXIMUM_RING_SIZE },
    };
    let header = object.str("httpHeaderName").map(|n| HashOf::Header(n.to_ascii_lowercase()));
    let query = object.str("httpQueryParameterName").map(|n| HashOf::QueryParameter(n.into()));
    let source = object.bool("useSourceIp").filter(|on| *on).map(|_| HashOf::SourceIp);
    let cookie = object.object("httpCookie").and_then(|cookie| {
        cookie.unsupported(&["attributes"]);
        cookie.describe(&[
            ("name", "", "Hash this cookie."),
            ("path", "", "The path of a cookie that Weir sets."),
            ("ttl", "", "With it, Weir sets the cookie where a client has none."),
        ]);
        let ttl = cookie.duration("ttl");
        let path = cookie.str("path").unwrap_or_default().into();
        Some(HashOf::Cookie { name: cookie.required("name")?.str()?.into(), path, ttl })
    });
    let hash = header.or(cookie).or(source).or(query);
    if hash.is_none() {
        field.invalid("says nothing to hash", "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
    }
    Some((hash?, policy))
}

/// Envoy's default and greatest size of a maglev table.
const TABLE_SIZE: u32 = 65_537;
const MAXIMUM_TABLE_SIZE: u32 = 5_000_011;

fn table_size(maglev: &Object<'_>) -> u32 {
    let Some(field) = maglev.get("tableSize") else { return TABLE_SIZE };
    let Some(size) = field.int(0..=i64::from(MAXIMUM_TABLE_SIZE)).filter(|n| *n > 0) else { return TABLE_SIZE };
    if size < 2 || (2..).take_while(|d| d * d <= size).any(|d| size % d == 0) {
        field.invalid(format!("{size} is not a prime"), format!("a prime number up to {MAXIMUM_TABLE_SIZE}, as {TABLE_SIZE}"));
        return TABLE_SIZE;
    }
    size as u32
}

fn count(object: &Object<'_>, name: &'static str) -> Option<u32> {
    object.int(name, 0..=i64::from(i32::MAX)).map(|n| n as u32)
}

fn pool(field: &Field<'_>) -> Option<Pool> {
    let object = field.object()?;
    let mut pool = Pool::default();
    // In Istio's API 0 stands for the default, in effect no limit.
    let limit = |given: Option<u32>| given.filter(|n| *n > 0).unwrap_or(u32::MAX);
    if let Some(tcp) = object.object("tcp") {
        tcp.unsupported(&["maxConnectionDuration"]);
        tcp.describe(&[
            ("maxConnections", "", "Connections to the service; 0 or none for no limit."),
            ("connectTimeout", "5s", "Time to connect to an endpoint."),
            ("idleTimeout", "1h", "How long a connection of a TCP or TLS route may be idle."),
        ]);
        pool.breakers.max_connections = limit(count(&tcp, "maxConnections"));
        pool.connect_timeout = tcp.duration("connectTimeout");
        pool.tcp_idle_timeout = tcp.duration("idleTimeout");
        if let Some(keepalive) = tcp.object("tcpKeepalive") {
            keepalive.describe(&[
                ("probes", "9", "Probes without an answer before the connection is closed."),
                ("time", "2h", "Idle time before the first probe."),
                ("interval", "75s", "Time between probes."),
            ]);
            pool.keepalive = Some(TcpKeepalive {
                probes: count(&keepalive, "probes").unwrap_or(9),
                time: keepalive.duration("time").unwrap_or(Duration::from_secs(7200)),
                interval: keepalive.duration("interval").unwrap_or(Duration::from_secs(75)),
            });
        }
    }
    if let Some(http) = object.object("http") {
        http.unsupported(&["maxConcurrentStreams"]);
        http.describe(&[
            ("http1MaxPendingRequests", "", "Requests that wait for a connection; 0 or none for no limit."),
            ("http2MaxRequests", "", "Requests in progress; 0 or none for no limit."),
            ("maxRetries", "", "Retries in progress; 0 or none for no limit."),
            ("maxRequestsPerConnection", "0", "Requests on one connection before it is closed; 0 for no limit."),
            ("idleTimeout", "1h", "How long a connection may be idle; 0 for no limit."),
            ("h2UpgradePolicy", "DEFAULT", "`UPGRADE` speaks HTTP/2 to the service."),
            ("useClientProtocol", "false", "Speak the version of HTTP to the service that the client speaks."),
        ]);
        pool.breakers.max_pending_requests = limit(count(&http, "http1MaxPendingRequests"));
        pool.breakers.max_requests = limit(count(&http, "http2MaxRequests"));
        pool.breakers.max_retries = limit(count(&http, "maxRetries"));
        pool.max_requests_per_connection = count(&http, "maxRequestsPerConnection").unwrap_or(0);
        pool.http_idle_timeout = http.duration("idleTimeout");
        pool.upgrade = http.choice("h2UpgradePolicy", &[("DEFAULT", false), ("DO_NOT_UPGRADE", false), ("UPGRADE", true)]).unwrap_or(false);
        pool.use_client_protocol = http.bool("useClientProtocol").unwrap_or(false);
    }
    Some(pool)
}

fn outlier_detection(field: &Field<'_>) -> Option<OutlierDetection> {
    let object = field.object()?;
    object.describe(&[
        ("consecutive5xxErrors", "5", "Responses 5xx in a row after which an endpoint is ejected; 0 disables it."),
        ("consecutiveErrors", "5", "The older name of `consecutive5xxErrors`."),
        ("consecutiveGatewayErrors", "0", "Responses 502, 503 or 504 in a row after which an endpoint is ejected; 0 disables it."),
        ("consecutiveLocalOriginFailures", "5", "Failures to connect and timeouts in a row, with `splitExternalLocalOriginErrors`."),
        ("splitExternalLocalOriginErrors", "false", "Count failures to connect and timeouts apart from responses."),
        ("interval", "10s", "Time between checks whether ejected endpoints return."),
        ("baseEjectionTime", "30s", "How long the first ejection lasts; each further one lasts longer by this."),
        ("maxEjectionPercent", "10", "Share of the endpoints that may be ejected."),
        ("minHealthPercent", "0", "Below this share of healthy endpoints ejections do not count."),
    ]);
    let mut made = OutlierDetection::default();
    let (new, old) = (count(&object, "consecutive5xxErrors"), count(&object, "consecutiveErrors"));
    let errors = new.or(old);
    made.consecutive_5xx = errors.unwrap_or(made.consecutive_5xx);
    made.consecutive_gateway_failure = count(&object, "consecutiveGatewayErrors").unwrap_or(made.consecutive_gateway_failure);
    made.consecutive_local_origin_failure =
        count(&object, "consecutiveLocalOriginFailures").unwrap_or(made.consecutive_local_origin_failure);
    made.split_external_local_origin_errors = object.bool("splitExternalLocalOriginErrors").unwrap_or(false);
    made.interval = object.duration("interval").unwrap_or(made.interval);
    made.base_ejection_time = object.duration("baseEjectionTime").unwrap_or(made.base_ejection_time);
    made.max_ejection_time = made.max_ejection_time.max(made.base_ejection_time);
    made.max_ejection_percent = object.int("maxEjectionPercent", 0..=100).map_or(made.max_ejection_percent, |n| n as u32);
    made.min_health_percent = object.int("minHealthPercent", 0..=100).map_or(made.min_health_percent, |n| n as u32);
    Some(made)
}

fn retry_budget(field: &Field<'_>) -> Option<RetryBudget> {
    let object = field.object()?;
    object.describe(&[
        ("percent", "20", "Retries in progress as a share of the requests in progress."),
        ("minRetryConcurrency", "3", "Retries that may always be in progress."),
    ]);
    let given = object.get("percent").and_then(|f| {
        let percent = f.number()?;
        if !(0.0..=100.0).contains(&percent) {
            f.invalid(format!("{percent} is out of bounds"), "a number from 0 to 100");
        }
        Some(percent)
    });
    Some(RetryBudget { budget_percent: given.unwrap_or(20.0), min_retry_concurrency: count(&object, "minRetryConcurrency").unwrap_or(3) })
}

fn tls(field: &Field<'_>) -> Option<Tls> {
    let object = field.object()?;
    object.describe(&[
        ("mode", "DISABLE", "How connections to the service are secured."),
        ("credentialName", "", "A Secret with the client's certificate (`MUTUAL`) or the authorities (`SIMPLE`)."),
        ("clientCertificate", "", "A file with the client's certificate, for `MUTUAL`."),
        ("privateKey", "", "A file with the key of `clientCertificate`."),
        ("caCertificates", "", "A file with the authorities that verify the service, or `system`."),
        ("caCrl", "", "A file with a revocation list, beside `caCertificates`."),
        ("subjectAltNames", "", "Names of which the service's certificate must have one."),
        ("sni", "", "The server name that is sent. By default the request's host."),
        ("insecureSkipVerify", "false", "Do not verify the service's certificate."),
    ]);
    let words = [("DISABLE", Some(false)), ("SIMPLE", Some(true)), ("MUTUAL", Some(true)), ("ISTIO_MUTUAL", None)];
    let mode = object.get("mode");
    let kind = mode.as_ref().map_or(Some(Some(false)), |f| f.choice(&words))?;
    let mutual = mode.as_ref().and_then(|f| f.node().as_str()) == Some("MUTUAL");
    let insecure_skip_verify = object.bool("insecureSkipVerify").unwrap_or(false);
    let ca_file = object.str("caCertificates").map(str::to_string);
    let verifies = kind == Some(true) && !insecure_skip_verify && !object.has("credentialName");
    let originate = Originate {
        credential: object.str("credentialName").map(|n| n.trim_start_matches("kubernetes://").into()),
        ca_crl: ca_crl(&object, verifies && ca_file.as_ref().is_some_and(|file| file != "system")),
        mutual,
        files: certificate_files(&object, "clientCertificate", "privateKey"),
        ca_file,
        subject_alt_names: object.strings("subjectAltNames"),
        sni: object.str("sni").map(str::to_string),
        insecure_skip_verify,
        at: At::of(field),
    };
    match kind {
        Some(on) => {
            if mutual && originate.credential.is_none() && originate.files.is_none() {
                let help = "add credentialName with the name of a Secret, or clientCertificate and privateKey with paths";
                field.error("MissingField", "MUTUAL needs a certificate of the client", help);
            }
            Some(Tls { originate: on.then_some(originate) })
        }
        None => {
            mode?.warning(
                "UnsupportedValue",
                "needs a mesh's certificates, which are not supported yet: taken as DISABLE",
                "DISABLE, SIMPLE or MUTUAL",
            );
            Some(Tls { originate: None })
        }
    }
}
