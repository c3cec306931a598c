//! Whom a plugin means by the name of an upstream: a cluster, a name from its own configuration, or a host and a port.
use super::embedded::{self, Instance};
use crate::cluster::{ClusterRegistry, ClusterSlot};
use std::{collections::HashMap, fmt, iter::once, sync::Arc};
use weir_net::redis::{Kind, Target, TargetError, redact};

/// Where calls go.
#[derive(Clone)]
pub enum Upstream {
    Cluster(Arc<ClusterSlot>),
    /// A host under the wildcard that the cluster is for (a ServiceEntry of `*.example.com`).
    Wildcard {
        slot: Arc<ClusterSlot>,
        host: String,
        port: u16,
    },
    /// Not in the configuration of the gateway: reached by its own name.
    Direct(Target),
}

/// What the calls speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Redis,
}

/// What is the plugin's own: its upstreams, which are the object `upstreams` at the top of its configuration with `name: host:port` or
/// a URL, and the other hosts that it may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    targets: HashMap<String, Target>,
    /// Names that mean an embedded Redis, with the name of that.
    embedded: HashMap<String, String>,
    /// Of the plugin: plugins of another namespace do not share its embedded Redis.
    namespace: String,
    /// `HOST`, `*.SUFFIX` or `*`; without a list, any.
    hosts: Option<Vec<String>>,
}

impl Own {
    /// Reads the configuration of the plugin of this name; the second part says which entries name nothing.
    pub fn of(plugin: &str, configuration: &str, hosts: Option<Vec<String>>) -> (Own, Vec<String>) {
        let namespace = plugin.rsplit_once('/').map(|(namespace, _)| namespace.to_string()).unwrap_or_default();
        let (mut own, mut findings) = (Own { namespace, hosts, ..Own::default() }, Vec::new());
        let Ok(serde_json::Value::Object(top)) = serde_json::from_str(configuration) else { return (own, findings) };
        let Some(serde_json::Value::Object(map)) = top.get("upstreams") else { return (own, findings) };
        // A plugin may have a field of that name itself: only what looks like ours is taken.
        for (name, value) in map {
            let Some(text) = value.as_str() else { continue };
            let read = match embedded::name(text) {
                Some(instance) => instance.map(|instance| drop(own.embedded.insert(name.clone(), instance))),
                None => target(text).map(|target| drop(own.targets.insert(name.clone(), target))),
            };
            if let Err(e) = read {
                findings.push(format!("upstreams.{name}: {e}"));
            }
        }
        (own, findings)
    }

    /// The embedded Redis that `name` means, if it means one.
    pub fn embedded(&self, name: &str) -> Option<Instance> {
        let host = Outbound::parse(name).map_or(name, |p| p.host);
        let known = self.embedded.get(name).or_else(|| self.embedded.get(host)).cloned();
        let instance = known.or_else(|| embedded::name(name)?.ok())?;
        Some(Instance { namespace: self.namespace.clone(), name: instance })
    }

    /// Whether the plugin may call a host that no configuration names.
    fn permits(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let is = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == *pattern,
        };
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|pattern| is(pattern) || *pattern == format!("[{host}]")))
    }

    fn direct(&self, target: Target) -> Result<Upstream, NoUpstream> {
        let mut hosts = once(&target.host).chain(target.others.iter().map(|(host, _)| host));
        match hosts.find(|host| !self.permits(host)) {
            None => Ok(Upstream::Direct(target)),
            Some(host) => Err(NoUpstream::NotAllowed { host: cut(host).into() }),
        }
    }
}

/// Why a call has nowhere to go.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoUpstream {
    #[error(transparent)]
    Unknown(UnknownUpstream),
    #[error(
        "the plugin may not call `{host}`: the annotation weir.dev/callout-hosts (--plugin-limit callout-hosts=VALUE) does not list it"
    )]
    NotAllowed { host: String },
}

/// A name that means no upstream.
#[derive(Clone, Debug)]
pub struct UnknownUpstream {
    name: String,
    host: String,
    speaks: Speaks,
    /// As in the name, or the usual one of Redis.
    port: u16,
}

impl std::error::Error for UnknownUpstream {}

/// With what is accepted.
impl fmt::Display for UnknownUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownUpstream { name, host, speaks, port } = self;
        let urls = match speaks {
            Speaks::Redis => {
                "redis://host:port, redis+cluster://host:port,…, redis+sentinel://host:port,…/master (rediss for TLS), redis://embedded"
            }
            Speaks::Http => "http://host:port, https://host:port",
        };
        write!(
            f,
            "there is no upstream `{name}`; accepted: the name of a cluster, host:port, {urls}, or a name that the plugin's configuration \
             gives an address under `upstreams` (upstreams: {{ \"{host}\": \"127.0.0.1:{port}\" }})"
        )
    }
}

/// Services that some registry outside of this gateway would have to know.
const REGISTRIES: [&str; 6] = [".static", ".dns", ".nacos", ".consul", ".zookeeper", ".eureka"];

/// Resolves `name` (its query string, if any, already cut off).
pub fn resolve(name: &str, speaks: Speaks, own: &Own, clusters: &ClusterRegistry) -> Result<Upstream, NoUpstream> {
    let parts = Outbound::parse(name);
    let host = parts.as_ref().map_or(name, |p| p.host);
    let spoken = |target: &Target| speaks == Speaks::Redis || target.kind == Kind::Server;
    if let Some(target) = own.targets.get(name).or_else(|| own.targets.get(host)).filter(|t| spoken(t)) {
        return Ok(Upstream::Direct(target.clone()));
    }
    let filled = |name: &str| clusters.find(name).filter(|slot| slot.current().is_some());
    if let Some(slot) = filled(name).or_else(|| filled(host)) {
        return Ok(Upstream::Cluster(slot));
    }
    // The hosts of clusters are in lower case; registries have services as `provider.DEFAULT-GROUP.public.nacos`.
    let lower = host.to_ascii_lowercase();
    let parts = parts.map(|parts| Outbound { host: &lower, ..parts });
    if let Some(slot) = parts.as_ref().and_then(|p| filled(&format!("outbound|{}|{}|{lower}", p.port, p.subset))) {
        return Ok(Upstream::Cluster(slot));
    }
    if let Some(parts) = &parts {
        if let Some(upstream) = wildcard(parts, clusters) {
            return Ok(upstream);
        }
        if let Some(slot) = another_port(parts, clusters) {
            return Ok(Upstream::Cluster(slot));
        }
        if parts.is_direct(speaks) {
            return own.direct(Target::server(parts.host, parts.port));
        }
    } else if let Ok(target) = target(name)
        && spoken(&target)
    {
        return own.direct(target);
    }
    // A guest may ask for anything.
    let port = parts.as_ref().map_or(6379, |p| p.port);
    Err(NoUpstream::Unknown(UnknownUpstream { name: redact(cut(name)), host: redact(cut(host)), speaks, port }))
}

/// How many characters of a name a message quotes.
const QUOTED: usize = 256;

pub(super) fn cut(name: &str) -> &str {
    name.char_indices().nth(QUOTED).map_or(name, |(end, _)| &name[..end])
}

/// `outbound|port|subset|host`.
struct Outbound<'a> {
    port: u16,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Outbound<'a> {
    fn parse(name: &'a str) -> Option<Outbound<'a>> {
        let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
        let port = parts.next()?.parse().ok()?;
        Some(Outbound { port, subset: parts.next()?, host: parts.next()? })
    }

    /// A host that needs no registry: an address, or a name for DNS. For HTTP a name of the Kubernetes cluster must be in
    /// the configuration: asking DNS for it would hide that its Service is missing.
    fn is_direct(&self, speaks: Speaks) -> bool {
        let known_elsewhere = REGISTRIES.iter().any(|r| self.host.ends_with(r));
        let kubernetes = self.host.ends_with(".svc.cluster.local");
        self.host.parse::<std::net::IpAddr>().is_ok()
            || self.host == "localhost"
            || (self.host.contains('.') && !known_elsewhere && (speaks == Speaks::Redis || !kubernetes))
    }
}

/// The cluster of the longest wildcard that the host is under.
fn wildcard(parts: &Outbound<'_>, clusters: &ClusterRegistry) -> Option<Upstream> {
    let suffixes = parts.host.match_indices('.').map(|(dot, _)| &parts.host[dot..]).chain([""]);
    let named = |suffix| clusters.find(&format!("outbound|{}|{}|*{suffix}", parts.port, parts.subset));
    suffixes.filter_map(named).find_map(|slot| {
        let cluster = slot.current()?;
        Some(match cluster.forward.is_some() {
            true => Upstream::Wildcard { slot, host: parts.host.to_string(), port: parts.port },
            // It lists its endpoints: they serve every host under it.
            false => Upstream::Cluster(slot),
        })
    })
}

/// The console registers static services on port 80 where plugins ask for 6379: one cluster of that host is meant, when
/// there is only one.
fn another_port(parts: &Outbound<'_>, clusters: &ClusterRegistry) -> Option<Arc<ClusterSlot>> {
    if !REGISTRIES.iter().any(|r| parts.host.ends_with(r)) {
        return None;
    }
    let same = |slot: &Arc<ClusterSlot>| Outbound::parse(&slot.name).is_some_and(|o| o.host == parts.host) && slot.current().is_some();
    let mut found = clusters.all().into_iter().filter(same);
    found.next().filter(|_| found.next().is_none())
}

/// `host:port` and URLs; HTTP's schemes give their own ports.
fn target(text: &str) -> Result<Target, TargetError> {
    let http = |rest: &str, scheme: &str, port: u16, tls: bool| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let target = Target::parse(&format!("redis://{authority}"))?;
        let given = url::Url::parse(&format!("{scheme}://{authority}")).ok().and_then(|u| u.port());
        Ok(Target { tls, port: given.unwrap_or(port), ..target })
    };
    if embedded::name(text).is_some() {
        return Err(TargetError::new(format!("`{text}` is no server in the network")));
    }
    match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => http(rest, "http", 80, false),
        (_, Some(rest)) => http(rest, "https", 443, true),
        _ => Target::parse(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn direct(name: &str, speaks: Speaks, own: &Own) -> Option<String> {
        if let (Speaks::Redis, Some(instance)) = (speaks, own.embedded(name)) {
            return Some(format!("embedded {}/{}", instance.namespace, instance.name));
        }
        match resolve(name, speaks, own, &ClusterRegistry::default()) {
            Ok(Upstream::Direct(t)) => Some(format!("{}{}", if t.tls { "tls " } else { "" }, t.authority())),
            _ => None,
        }
    }

    #[test]
    fn names_that_are_no_cluster() {
        let (own, findings) = Own::of(
            "shop/limits",
            r#"{"upstreams": {"redis.static": "10.0.0.1:7000", "auth": "https://auth.example", "bad": "x", "n": 1, "local.static": "redis://embedded/counters", "worse": "redis://embedded/../x"}}"#,
            None,
        );
        assert_eq!(findings.len(), 2, "{findings:?}");
        use Speaks::{Http, Redis};
        for (name, speaks, want) in [
            ("outbound|6379||redis.static", Redis, Some("10.0.0.1:7000")),
            ("redis.static", Redis, Some("10.0.0.1:7000")),
            ("auth", Http, Some("tls auth.example:443")),
            ("outbound|80||auth", Http, Some("tls auth.example:443")),
            ("127.0.0.1:6379", Redis, Some("127.0.0.1:6379")),
            ("redis://ann:pw@cache:6380/2", Redis, Some("cache:6380")),
            ("rediss://cache", Redis, Some("tls cache:6379")),
            ("http://cache", Http, Some("cache:80")),
            ("http://cache:8080/x", Http, Some("cache:8080")),
            ("outbound|6379||127.0.0.1", Redis, Some("127.0.0.1:6379")),
            ("outbound|8080||localhost", Http, Some("localhost:8080")),
            ("outbound|6379||redis.default.svc.cluster.local", Redis, Some("redis.default.svc.cluster.local:6379")),
            ("outbound|80||auth.default.svc.cluster.local", Http, None),
            ("outbound|443||api.example.com", Http, Some("api.example.com:443")),
            ("outbound|6379||other.static", Redis, None),
            ("outbound|6379||other.dns", Redis, None),
            ("outbound|x||127.0.0.1", Redis, None),
            ("redis://embedded", Redis, Some("embedded shop/default")),
            ("redis://embedded/", Redis, Some("embedded shop/default")),
            ("redis://embedded/a-1", Redis, Some("embedded shop/a-1")),
            ("redis://embedded/a/b", Redis, None),
            ("outbound|6379||local.static", Redis, Some("embedded shop/counters")),
            ("redis://embedded", Http, None),
            ("local.static", Http, None),
            ("redis://embedded:6380", Redis, Some("embedded:6380")),
            ("nothing", Redis, None),
            ("", Redis, None),
        ] {
            assert_eq!(direct(name, speaks, &own).as_deref(), want, "{name}");
        }
        let hosts = |list: &[&str]| Own { hosts: Some(list.iter().map(ToString::to_string).collect()), ..own.clone() };
        for (list, name, permitted) in [
            (&["api.example.com", "*.example.org", "10.0.0.7"][..], "api.example.com:443", true),
            (&["api.example.com"], "https://API.example.com", true),
            (&["api.example.com"], "outbound|443||api.example.com", true),
            (&["api.example.com"], "other.example.com:443", false),
            (&["*.example.org"], "a.b.example.org:80", true),
            (&["*.example.org"], "example.org:80", false),
            (&["10.0.0.7"], "10.0.0.7:80", true),
            (&["::1"], "[::1]:80", true),
            (&["*"], "anything:80", true),
            (&[], "10.0.0.7:80", false),
            // Its own upstreams need no entry.
            (&[], "auth", true),
            (&[], "redis.static", true),
        ] {
            let found = resolve(name, Http, &hosts(list), &ClusterRegistry::default());
            assert_eq!(found.is_ok(), permitted, "{list:?} {name}");
        }
        let said = resolve("outbound|6379||other.static", Redis, &own, &ClusterRegistry::default()).err().unwrap().to_string();
        assert!(said.contains("no upstream `outbound|6379||other.static`") && said.contains("\"other.static\""), "{said}");
    }
}
