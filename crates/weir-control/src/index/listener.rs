//! Listeners: what gateways, ingresses and servers ask of one port, put together.
use crate::{
    Options,
    api::settings::Settings,
    object::{Key, Kind},
    translate::{Bind, PluginPart, PortKind, PortPart, Unit, http_table},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{DownstreamTls, FilterChain, HttpConnectionManager, HttpFilter, Listener, Name, NetworkFilter, PluginPhase, TcpProxy},
};

/// Connections open at once on one listener.
const MAX_CONNECTIONS: u32 = 1 << 20;

/// As Istio names them: `0.0.0.0_8080`.
pub fn name(options: &Options, bind: Bind) -> Name {
    format!("{}_{}", bind.address.unwrap_or(options.address), bind.port).into()
}

/// The first part (in the order of objects) decides what the port speaks; parts that do not fit are reported.
pub fn build(
    options: &Options,
    settings: &[&Settings],
    bind: Bind,
    units: &BTreeMap<Unit, Vec<PortPart>>,
    plugins: &BTreeMap<Unit, Vec<PluginPart>>,
    old: Option<&Arc<Listener>>,
) -> (Option<Listener>, Vec<(Unit, Diagnostic)>) {
    let mut findings = Vec::new();
    let mut chains: Vec<Draft> = Vec::new();
    for (unit, parts) in units {
        for part in parts {
            if let Err(why) = add(&mut chains, unit, part) {
                let found = Diagnostic::error("PortConflict", format!("port {} {why}", bind.port));
                findings.push((unit.clone(), found.help("take another port or other hostnames for one of them").object(&part.object)));
            }
        }
    }
    let listener = name(options, bind);
    let domains = domains_of_listeners(units);
    let filter_chains: Vec<Arc<FilterChain>> =
        chains.into_iter().map(|draft| Arc::new(draft.finish(options, settings, bind, &listener, plugins, &domains))).collect();
    let keep = |chain: Arc<FilterChain>| {
        let same = old.and_then(|l| l.filter_chains.iter().find(|c| **c == chain));
        same.cloned().unwrap_or(chain)
    };
    let mut listener = Listener {
        name: listener,
        address: SocketAddr::new(bind.address.unwrap_or(options.address), bind.port),
        filter_chains: filter_chains.into_iter().map(keep).collect(),
        proxy_protocol: options.proxy_protocol,
        max_connections: MAX_CONNECTIONS,
        origins: Vec::new(),
    };
    settings.iter().for_each(|s| s.apply_to_listener(&mut listener));
    ((!listener.filter_chains.is_empty()).then_some(listener), findings)
}

/// The hostnames of the HTTPS listeners of Gateways on one port, `*` for any, where there are several.
fn domains_of_listeners(units: &BTreeMap<Unit, Vec<PortPart>>) -> Vec<String> {
    let mut all = BTreeSet::new();
    for (_, parts) in units.iter().filter(|(unit, _)| matches!(unit, Unit::Object(key) if is_gateway(key))) {
        for part in parts {
            match &part.kind {
                PortKind::Https { server_names, .. } if server_names.is_empty() => drop(all.insert("*".to_string())),
                PortKind::Https { server_names, .. } => all.extend(server_names.iter().cloned()),
                _ => {}
            }
        }
    }
    if all.len() > 1 { all.into_iter().collect() } else { Vec::new() }
}

/// Gateway API's, not Istio's.
fn is_gateway(key: &Key) -> bool {
    key.kind == Kind::Gateway
}

struct Draft {
    kind: PortKind,
    gateways: Vec<Key>,
    object: Name,
}

/// Adds a part to a chain that it can share, or as a new one.
fn add(chains: &mut Vec<Draft>, unit: &Unit, part: &PortPart) -> Result<(), String> {
    let mut new = Draft { kind: part.kind.clone(), gateways: Vec::new(), object: part.object.clone() };
    if let Unit::Object(key) = unit {
        new.gateways.push(key.clone());
    }
    for chain in chains.iter_mut() {
        match (&mut chain.kind, &mut new.kind) {
            (PortKind::Http, PortKind::Http) => {
                chain.gateways.append(&mut new.gateways);
                return Ok(());
            }
            (PortKind::Https { server_names, tls, table }, PortKind::Https { server_names: names, tls: theirs, table: their_table })
                if server_names == names || (tls == theirs && table == their_table && !names.is_empty() && !server_names.is_empty()) =>
            {
                if !compatible(tls, theirs) || table != their_table {
                    return Err(format!("has TLS with other options for {} from {}", words(names), chain.object));
                }
                for certificate in &theirs.certificates {
                    if !tls.certificates.contains(certificate) {
                        tls.certificates.push(certificate.clone());
                    }
                }
                for name in names {
                    if !server_names.contains(name) {
                        server_names.push(name.clone());
                    }
                }
                chain.gateways.append(&mut new.gateways);
                return Ok(());
            }
            (old, new) if by_name(old) && by_name(new) => {
                if let Some(name) = shared_name(old, new) {
                    return Err(format!("already has {name} from {}", chain.object));
                }
            }
            _ => return Err(format!("already speaks {} for {}", protocol(&chain.kind), chain.object)),
        }
    }
    chains.push(new);
    Ok(())
}

fn compatible(a: &DownstreamTls, b: &DownstreamTls) -> bool {
    DownstreamTls { certificates: Vec::new(), ..a.clone() } == DownstreamTls { certificates: Vec::new(), ..b.clone() }
}

fn server_names(kind: &PortKind) -> Option<&[String]> {
    match kind {
        PortKind::Https { server_names, .. } | PortKind::Passthrough { server_names, .. } | PortKind::Tls { server_names, .. } => {
            Some(server_names)
        }
        PortKind::Http | PortKind::Tcp { .. } => None,
    }
}

/// Whether it shares its port with others by the server names of TLS.
fn by_name(kind: &PortKind) -> bool {
    server_names(kind).is_some()
}

/// A server name that both would answer for.
fn shared_name(a: &PortKind, b: &PortKind) -> Option<String> {
    let (a, b) = (server_names(a)?, server_names(b)?);
    if a.is_empty() && b.is_empty() {
        return Some(words(a));
    }
    a.iter().find(|n| b.contains(n)).cloned()
}

fn words(names: &[String]) -> String {
    if names.is_empty() { "any server name".into() } else { names.join(", ") }
}

fn protocol(kind: &PortKind) -> &'static str {
    match kind {
        PortKind::Http => "HTTP",
        PortKind::Https { .. } => "HTTPS",
        PortKind::Passthrough { .. } | PortKind::Tls { .. } => "TLS",
        PortKind::Tcp { .. } => "TCP",
    }
}

impl Draft {
    /// Whether its hosts are kept apart from those of other listeners.
    fn has_apart(&self) -> bool {
        matches!(self.kind, PortKind::Https { .. }) && self.gateways.iter().any(is_gateway)
    }

    fn finish(
        self,
        options: &Options,
        settings: &[&Settings],
        bind: Bind,
        listener: &Name,
        plugins: &BTreeMap<Unit, Vec<PluginPart>>,
        domains: &[String],
    ) -> FilterChain {
        let port = bind.port;
        let domains = if self.has_apart() { domains } else { &[] };
        let http = |table: Name| {
            let mut manager = HttpConnectionManager::new(listener.clone(), table);
            manager.access_log.clone_from(&options.access_log);
            manager.http_filters = HttpFilter::list(chain_plugins(&self.gateways, port, plugins));
            manager.server_domains = domains.to_vec();
            settings.iter().for_each(|s| s.apply_to_manager(&mut manager));
            NetworkFilter::HttpConnectionManager(manager)
        };
        let tcp = |mut proxy: TcpProxy| {
            settings.iter().for_each(|s| s.apply_to_log(&mut proxy.access_log));
            NetworkFilter::TcpProxy(proxy)
        };
        match self.kind {
            PortKind::Http => FilterChain { name: http_table(bind), server_names: Vec::new(), tls: None, filter: http(http_table(bind)) },
            PortKind::Https { server_names, tls, table } => {
                FilterChain { name: chain_name("https", port, &server_names), filter: http(table), server_names, tls: Some(tls) }
            }
            PortKind::Passthrough { server_names, proxy } => {
                FilterChain { name: chain_name("tls", port, &server_names), server_names, tls: None, filter: tcp(proxy) }
            }
            PortKind::Tls { server_names, tls, proxy } => {
                FilterChain { name: chain_name("tls", port, &server_names), server_names, tls: Some(tls), filter: tcp(proxy) }
            }
            PortKind::Tcp { proxy } => {
                FilterChain { name: chain_name("tcp", port, &[]), server_names: Vec::new(), tls: None, filter: tcp(proxy) }
            }
        }
    }
}

/// Keeps its name while its first server name stays.
fn chain_name(protocol: &str, port: u16, server_names: &[String]) -> Name {
    match server_names.first() {
        None => format!("{protocol}.{port}").into(),
        Some(first) => format!("{protocol}.{port}.{first}").into(),
    }
}

/// The plugins that run for any of these gateways, in the order in which requests meet them.
fn chain_plugins(gateways: &[Key], port: u16, plugins: &BTreeMap<Unit, Vec<PluginPart>>) -> Vec<(PluginPhase, Name)> {
    let here = |part: &&PluginPart| part.gateways.as_ref().is_none_or(|only| only.iter().any(|g| gateways.contains(g)));
    let listed = |part: &&PluginPart| part.ports.is_empty() || part.ports.contains(&port);
    let mut found: Vec<&PluginPart> = plugins.values().flatten().filter(here).filter(listed).collect();
    found.sort_by_key(|p| (p.plugin.phase, p.plugin.priority.is_none(), std::cmp::Reverse(p.plugin.priority), p.plugin.name.clone()));
    found.into_iter().map(|p| (p.plugin.phase, p.plugin.name.clone())).collect()
}
