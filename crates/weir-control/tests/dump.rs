//! A configuration as a short text, for tests to compare.
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use weir_config::model::*;

pub fn dump(config: &Config) -> String {
    let mut out = String::new();
    config.listeners.values().for_each(|l| listener(&mut out, l));
    config.routes.values().for_each(|t| table(&mut out, t));
    config.clusters.values().for_each(|c| cluster(&mut out, c, config));
    for secret in config.secrets.values() {
        let what = match &secret.content {
            SecretContent::TlsCertificate { .. } => "certificate",
            SecretContent::ValidationContext { .. } => "roots",
        };
        line(&mut out, format_args!("secret {}: {what}", secret.name));
    }
    for plugin in config.plugins.values() {
        line(&mut out, format_args!("plugin {}: {}", plugin.name, terse(plugin, &["name", "origin", "limits"])));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{}", text.to_string().trim_end()).expect("a String takes all");
}

fn listener(out: &mut String, l: &Listener) {
    let proxy = if l.proxy_protocol { " proxy_protocol" } else { "" };
    let most = if l.max_connections == 1 << 20 { String::new() } else { format!(" max_connections {}", l.max_connections) };
    line(out, format_args!("listener {}{proxy}{most}", l.name));
    for chain in &l.filter_chains {
        let names = if chain.server_names.is_empty() { String::new() } else { format!(" for {}", chain.server_names.join(" ")) };
        let tls = chain.tls.as_ref().map_or(String::new(), |tls| format!(" tls {}", terse(tls, &[])));
        let filter = |filter: &NetworkFilter| match filter {
            NetworkFilter::Rbac(rbac) => format!("rbac {}", terse(rbac, &[])),
            NetworkFilter::HttpConnectionManager(h) => manager(h),
            NetworkFilter::TcpProxy(t) if !t.sni_clusters.is_empty() => format!("tcp by server name {}", t.sni_clusters.join(" ")),
            NetworkFilter::TcpProxy(t) => format!("tcp {}", terse(&t.clusters, &[])),
            NetworkFilter::UdpProxy(u) => format!("udp {}", terse(&u.clusters, &[])),
        };
        let to = chain.filters.iter().map(filter).collect::<Vec<_>>().join(" -> ");
        line(out, format_args!("  {}{names}{tls} -> {to}", chain.name));
    }
}

/// Its table, its plugins, and what differs from the defaults.
fn manager(h: &HttpConnectionManager) -> String {
    let default = HttpConnectionManager::new(h.stat_prefix.clone(), h.route_config.clone());
    // Here null differs from the default: a limit that is switched off.
    let changed = without(&json(h), &json(&default));
    let changed = match changed {
        Value::Object(map) => render(&Value::Object(map.into_iter().filter(|(k, _)| k != "http_filters").collect())),
        _ => String::new(),
    };
    let plugins: Vec<&str> = h.http_filters.iter().filter(|f| matches!(f.config, HttpFilterConfig::Wasm(_))).map(|f| &*f.name).collect();
    let plugins = if plugins.is_empty() { String::new() } else { format!(" plugins {}", plugins.join(" ")) };
    format!("{}{plugins} {changed}", h.route_config)
}

fn table(out: &mut String, t: &RouteConfiguration) {
    line(out, format_args!("routes {}", t.name));
    for host in &t.virtual_hosts {
        let attempts = if host.include_request_attempt_count { " +attempts" } else { "" };
        line(out, format_args!("  {}{attempts}", host.domains.join(" ")));
        for r in &host.routes {
            let rest = terse(&**r, &["name", "match", "action", "origin"]);
            line(out, format_args!("    {}: {} -> {} {rest}", r.name, matches(&r.matches), action(&r.action)));
        }
    }
}

fn matches(m: &RouteMatch) -> String {
    let mut out = match &m.path {
        PathMatch::Exact(p) => format!("={p}"),
        PathMatch::Prefix(p) => format!("{p}*"),
        PathMatch::PathSeparatedPrefix(p) => format!("{p}/**"),
        PathMatch::Regex(p) => format!("~{p}"),
    };
    if m.ignore_case {
        out += " (any case)";
    }
    for h in &m.headers {
        let (not, case) = (if h.invert { "!" } else { "" }, if h.ignore_case { " (any case)" } else { "" });
        write!(out, " {not}{}{}{case}", h.name, value(&h.value)).expect("a String takes all");
    }
    for q in &m.query_parameters {
        write!(out, " ?{}{}", q.name, value(&q.value)).expect("a String takes all");
    }
    out
}

fn value(v: &ValueMatch) -> String {
    match v {
        ValueMatch::Present => String::new(),
        ValueMatch::Range { start, end } => format!("={start}..{end}"),
        ValueMatch::Text(t) => match t {
            StringMatch::Exact(t) => format!("={t}"),
            StringMatch::Prefix(t) => format!("={t}*"),
            StringMatch::Suffix(t) => format!("=*{t}"),
            StringMatch::Contains(t) => format!("=*{t}*"),
            StringMatch::Regex(t) => format!("~{t}"),
        },
    }
}

fn action(a: &RouteAction) -> String {
    match a {
        RouteAction::Forward(f) => {
            let one = |c: &WeightedCluster| {
                let to = c.cluster.as_deref().map_or_else(|| c.unresolved_status.to_string(), str::to_string);
                let rest = terse(c, &["cluster", "weight", "unresolved_status"]);
                let weight = if f.clusters.len() > 1 { format!(" {}", c.weight) } else { String::new() };
                format!("{to}{weight} {rest}").trim_end().to_string()
            };
            let to: Vec<String> = f.clusters.iter().map(one).collect();
            format!("{} {}", to.join(", "), terse(&**f, &["clusters"])).trim_end().to_string()
        }
        RouteAction::Redirect(r) => format!("redirect {}", terse(r, &[])),
        RouteAction::DirectResponse(direct) => format!("answer {} {:?}", direct.status, direct.body),
    }
}

fn cluster(out: &mut String, c: &Cluster, config: &Config) {
    let found = match &c.discovery {
        Discovery::Eds => config.endpoints.get(&c.name).map_or("no endpoints".into(), |a| format!("EDS {}", endpoints(a))),
        Discovery::Static(a) => format!("STATIC {}", endpoints(a)),
        Discovery::StrictDns(a) => format!("STRICT_DNS {}", endpoints(a)),
        Discovery::LogicalDns(a) => format!("LOGICAL_DNS {}", endpoints(a)),
        Discovery::DynamicForwardProxy { port } => format!("by the request's host, port {port}"),
    };
    let plain = Cluster::new(c.name.clone(), c.discovery.clone());
    let differs = without(&json(c), &json(&plain));
    let rest = render(&prune(differs, &["origin", "name", "discovery"]));
    line(out, format_args!("cluster {}: {found} {rest}", c.name));
}

fn endpoints(a: &ClusterLoadAssignment) -> String {
    let one = |e: &std::sync::Arc<Endpoint>| {
        let address = match &e.address {
            Address::Socket(s) => s.to_string(),
            Address::Name { host, port } => format!("{host}:{port}"),
        };
        let plain = json(&Endpoint::new(e.address.clone()));
        format!("{address} {}", render(&prune(without(&json(e), &plain), &["address"]))).trim_end().to_string()
    };
    if a.endpoints.is_empty() { "none".into() } else { a.endpoints.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// As JSON without what is empty, null or false, without quotes.
fn terse<T: Serialize>(t: &T, but: &[&str]) -> String {
    render(&prune(json(t), but))
}

fn json<T: Serialize>(t: &T) -> Value {
    serde_json::to_value(t).expect("the model serializes")
}

/// The fields of an object that differ from another's.
fn without(a: &Value, b: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a.clone() };
    Value::Object(
        a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, v)| (k.clone(), without(v, b.get(k).unwrap_or(&Value::Null)))).collect(),
    )
}

fn prune(v: Value, but: &[&str]) -> Value {
    match v {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(k, _)| !but.contains(&k.as_str()))
                .map(|(k, v)| (k, prune(v, &[])))
                .filter(|(_, v)| !empty(v))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(|v| prune(v, &[])).collect()),
        other => other,
    }
}

fn empty(v: &Value) -> bool {
    match v {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

fn render(v: &Value) -> String {
    match v {
        Value::Object(map) if map.is_empty() => String::new(),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(k, v)| format!("{k}: {}", render(v))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(render).collect::<Vec<_>>().join(", ")),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
