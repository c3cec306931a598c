//! Listeners: what gateways, ingresses and servers ask of one port, put together.
use crate::{
    Options,
    api::settings::Settings,
    object::{Key, Kind},
    translate::{Bind, PluginPart, PolicyPart, PortKind, PortPart, Unit, http_table},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        DownstreamTls, FilterChain, HttpConnectionManager, HttpFilter, Listener, Name, NetworkFilter, PluginPhase, Rbac, RbacAction,
        RbacRules, TcpProxy, UdpProxy,
    },
};

/// Connections open at once on one listener.
const MAX_CONNECTIONS: u32 = 1 << 20;

/// As Istio names them: `0.0.0.0_8080`; `udp_0.0.0.0_8080` for UDP. The name ends with the port that clients connect to:
/// `0.0.0.0_20001_80` where a Service maps 80 to 20001.
pub fn name(options: &Options, bind: Bind) -> Name {
    let (address, port) = (bind.address.unwrap_or(options.address), bind.port);
    let protocol = if bind.protocol.is_tcp() { "" } else { "udp_" };
    let advertised = bind.advertised.map(|port| format!("_{port}")).unwrap_or_default();
    format!("{protocol}{address}_{port}{advertised}").into()
}

/// What all listeners are built with.
pub struct Common<'a> {
    pub options: &'a Options,
    pub settings: Vec<&'a Settings>,
    pub plugins: &'a BTreeMap<Unit, Vec<PluginPart>>,
    pub policies: &'a BTreeMap<Unit, Vec<PolicyPart>>,
}

/// The first part (the oldest of routes, else in the order of objects) decides what the port speaks; parts that do not fit are reported.
pub fn build(
    common: &Common<'_>,
    bind: Bind,
    units: &BTreeMap<Unit, Vec<PortPart>>,
    old: Option<&Arc<Listener>>,
) -> (Option<Listener>, Vec<(Unit, Diagnostic)>) {
    let options = common.options;
    let mut findings = Vec::new();
    let mut drafts = Drafts::default();
    let mut parts: Vec<(&Unit, &PortPart)> = units.iter().flat_map(|(unit, parts)| parts.iter().map(move |p| (unit, p))).collect();
    parts.sort_by_key(|(_, part)| part.created);
    for (unit, part) in parts {
        if let Err(why) = drafts.add(part) {
            let found = Diagnostic::error("PortConflict", format!("port {} {why}", bind.public_port()));
            findings.push((unit.clone(), found.help("take another port or other hostnames for one of them").object(&part.object)));
        }
    }
    let listener = name(options, bind);
    let domains: Arc<[String]> = domains_of_listeners(units).into();
    let filter_chains: Vec<Arc<FilterChain>> =
        drafts.chains.into_iter().map(|draft| Arc::new(draft.finish(common, bind, &listener, &domains))).collect();
    // Chains of one name have different server names.
    let known: HashMap<(&Name, &[String]), &Arc<FilterChain>> =
        old.into_iter().flat_map(|l| &l.filter_chains).map(|c| ((&c.name, &*c.server_names), c)).collect();
    let keep = |chain: Arc<FilterChain>| {
        let same = known.get(&(&chain.name, &*chain.server_names)).filter(|c| ***c == chain);
        same.copied().cloned().unwrap_or(chain)
    };
    let mut listener = Listener {
        name: listener,
        address: SocketAddr::new(bind.address.unwrap_or(options.address), bind.port),
        protocol: bind.protocol,
        filter_chains: filter_chains.into_iter().map(keep).collect(),
        proxy_protocol: options.proxy_protocol,
        max_connections: MAX_CONNECTIONS,
        origins: Vec::new(),
    };
    common.settings.iter().for_each(|s| s.apply_to_listener(&mut listener));
    // Datagrams have no header in front.
    listener.proxy_protocol &= bind.protocol.is_tcp();
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
    matches!(key.kind, Kind::Gateway | Kind::ListenerSet)
}

struct Draft {
    kind: PortKind,
    gateways: HashSet<Key>,
    object: Name,
    /// It has the server names of more parts than that which made it.
    grown: bool,
}

/// Why a part cannot share a port with the parts before it.
#[derive(Debug, thiserror::Error)]
enum Conflict {
    #[error("already speaks {protocol} for {object}")]
    Protocol { protocol: &'static str, object: Name },
    #[error("already has {name} from {object}")]
    ServerName { name: String, object: Name },
    #[error("has TLS with other options for {names} from {object}")]
    TlsOptions { names: String, object: Name },
}

/// The chains of a port so far, and what they are found by.
#[derive(Default)]
struct Drafts {
    chains: Vec<Draft>,
    /// The first chain with a server name; the empty name is that of chains for any.
    by_name: HashMap<String, usize>,
    /// The HTTPS chain with these server names, of those that did not grow.
    by_names: HashMap<Vec<String>, usize>,
    /// The first HTTPS chain with server names that has these certificates, options and table.
    by_options: HashMap<(DownstreamTls, Name), usize>,
}

impl Drafts {
    /// Adds a part to a chain that it can share, or as a new one.
    fn add(&mut self, part: &PortPart) -> Result<(), Conflict> {
        let gateway = Some(part.gateway.clone());
        if let Some(first) = self.chains.first_mut() {
            match (&first.kind, &part.kind) {
                (PortKind::Http, PortKind::Http) => {
                    first.gateways.extend(gateway);
                    return Ok(());
                }
                (old, new) if by_name(old) && by_name(new) => {}
                _ => return Err(Conflict::Protocol { protocol: protocol(&first.kind), object: first.object.clone() }),
            }
        }
        let names = server_names(&part.kind).unwrap_or_default();
        let shared = self.shared_name(names);
        if let PortKind::Https { tls, table, .. } = &part.kind {
            let same = self.by_names.get(names).copied();
            let options = self.by_options.get(&(tls.clone(), table.clone())).copied().filter(|_| !names.is_empty());
            let found = same.into_iter().chain(options).min();
            // The first chain that has to do with the part decides.
            if let Some(at) = found.filter(|at| shared.as_ref().is_none_or(|(other, _)| at <= other)) {
                self.join(at, tls, table, names)?;
                self.chains[at].gateways.extend(gateway);
                return Ok(());
            }
        }
        if let Some((other, name)) = shared {
            return Err(Conflict::ServerName { name, object: self.chains[other].object.clone() });
        }
        let at = self.chains.len();
        self.chains.push(Draft {
            kind: part.kind.clone(),
            gateways: gateway.into_iter().collect(),
            object: part.object.clone(),
            grown: false,
        });
        self.note_names(at, names);
        if let PortKind::Https { tls, table, .. } = &part.kind {
            self.by_names.insert(names.to_vec(), at);
            self.note_options(at, tls, table, names);
        }
        Ok(())
    }

    /// The first chain that answers for one of these server names, with the name.
    fn shared_name(&self, names: &[String]) -> Option<(usize, String)> {
        if names.is_empty() {
            return self.by_name.get("").map(|at| (*at, words(names)));
        }
        let found = names.iter().filter_map(|name| Some((*self.by_name.get(name)?, name)));
        found.min_by_key(|(at, _)| *at).map(|(at, name)| (at, name.clone()))
    }

    fn note_names(&mut self, at: usize, names: &[String]) {
        if names.is_empty() {
            self.by_name.entry(String::new()).or_insert(at);
        }
        for name in names {
            self.by_name.entry(name.clone()).or_insert(at);
        }
    }

    fn note_options(&mut self, at: usize, tls: &DownstreamTls, table: &Name, names: &[String]) {
        if !names.is_empty() {
            self.by_options.entry((tls.clone(), table.clone())).or_insert(at);
        }
    }

    /// Adds certificates and server names to an HTTPS chain.
    fn join(&mut self, at: usize, theirs: &DownstreamTls, their_table: &Name, names: &[String]) -> Result<(), Conflict> {
        let Draft { kind, object, grown, .. } = &mut self.chains[at];
        let PortKind::Https { server_names, tls, table } = kind else { return Ok(()) };
        if !compatible(tls, theirs) || table != their_table {
            return Err(Conflict::TlsOptions { names: words(names), object: object.clone() });
        }
        let new: Vec<String> = names.iter().filter(|name| self.by_name.get(*name) != Some(&at)).cloned().collect();
        if !new.is_empty() && !std::mem::replace(grown, true) {
            self.by_names.remove(server_names);
        }
        server_names.extend(new.iter().cloned());
        let certificates: Vec<Name> = theirs.certificates.iter().filter(|c| !tls.certificates.contains(c)).cloned().collect();
        if !certificates.is_empty() {
            let before = (tls.clone(), table.clone());
            tls.certificates.extend(certificates);
            let (now, names) = ((tls.clone(), table.clone()), !server_names.is_empty());
            if self.by_options.get(&before) == Some(&at) {
                self.by_options.remove(&before);
            }
            if names {
                self.by_options.entry(now).or_insert(at);
            }
        }
        self.note_names(at, &new);
        Ok(())
    }
}

fn compatible(a: &DownstreamTls, b: &DownstreamTls) -> bool {
    DownstreamTls { certificates: Vec::new(), ..a.clone() } == DownstreamTls { certificates: Vec::new(), ..b.clone() }
}

fn server_names(kind: &PortKind) -> Option<&[String]> {
    match kind {
        PortKind::Https { server_names, .. } | PortKind::Passthrough { server_names, .. } | PortKind::Tls { server_names, .. } => {
            Some(server_names)
        }
        PortKind::Http | PortKind::Tcp { .. } | PortKind::Udp { .. } => None,
    }
}

/// Whether it shares its port with others by the server names of TLS.
fn by_name(kind: &PortKind) -> bool {
    server_names(kind).is_some()
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
        PortKind::Udp { .. } => "UDP",
    }
}

impl Draft {
    /// Whether its hosts are kept apart from those of other listeners.
    fn has_apart(&self) -> bool {
        matches!(self.kind, PortKind::Https { .. }) && self.gateways.iter().any(is_gateway)
    }

    fn finish(self, common: &Common<'_>, bind: Bind, listener: &Name, domains: &Arc<[String]>) -> FilterChain {
        let Common { options, settings, plugins, policies } = common;
        let rbac = chain_policies(&self.gateways, policies);
        let port = bind.public_port();
        let domains = if self.has_apart() { domains.clone() } else { Arc::default() };
        let http = |table: Name| {
            let mut manager = HttpConnectionManager::new(listener.clone(), table);
            manager.access_log.clone_from(&options.access_log);
            manager.http_filters = HttpFilter::list(rbac.clone(), chain_plugins(&self.gateways, port, plugins));
            manager.server_domains = domains.clone();
            manager.advertised_port = bind.advertised;
            settings.iter().for_each(|s| s.apply_to_manager(&mut manager));
            vec![NetworkFilter::HttpConnectionManager(Arc::new(manager))]
        };
        let behind_rbac = |last: NetworkFilter| {
            let rbac = rbac.as_ref().map(|rbac| NetworkFilter::Rbac(Arc::new(rbac.for_connections())));
            rbac.into_iter().chain([last]).collect()
        };
        let tcp = |mut proxy: TcpProxy| {
            settings.iter().for_each(|s| s.apply_to_tcp_proxy(&mut proxy));
            behind_rbac(NetworkFilter::TcpProxy(proxy))
        };
        let udp = |mut proxy: UdpProxy| {
            settings.iter().for_each(|s| s.apply_to_udp_proxy(&mut proxy));
            behind_rbac(NetworkFilter::UdpProxy(proxy))
        };
        match self.kind {
            PortKind::Http => FilterChain { name: http_table(bind), server_names: Vec::new(), tls: None, filters: http(http_table(bind)) },
            PortKind::Https { server_names, tls, table } => {
                FilterChain { name: chain_name("https", port, &server_names), filters: http(table), server_names, tls: Some(tls) }
            }
            PortKind::Passthrough { server_names, proxy } => {
                FilterChain { name: chain_name("tls", port, &server_names), server_names, tls: None, filters: tcp(proxy) }
            }
            PortKind::Tls { server_names, tls, proxy } => {
                FilterChain { name: chain_name("tls", port, &server_names), server_names, tls: Some(tls), filters: tcp(proxy) }
            }
            PortKind::Tcp { proxy } => {
                FilterChain { name: chain_name("tcp", port, &[]), server_names: Vec::new(), tls: None, filters: tcp(proxy) }
            }
            PortKind::Udp { proxy } => {
                FilterChain { name: chain_name("udp", port, &[]), server_names: Vec::new(), tls: None, filters: udp(proxy) }
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
fn chain_plugins(gateways: &HashSet<Key>, port: u16, plugins: &BTreeMap<Unit, Vec<PluginPart>>) -> Vec<(PluginPhase, Name)> {
    let here = |part: &&PluginPart| part.gateways.as_ref().is_none_or(|only| only.iter().any(|g| gateways.contains(g)));
    let listed = |part: &&PluginPart| part.ports.is_empty() || part.ports.contains(&port);
    // A canary runs where the plugin does that it takes streams of.
    let alone = |part: &&PluginPart| part.plugin.canary.is_none();
    let mut found: Vec<&PluginPart> = plugins.values().flatten().filter(here).filter(listed).filter(alone).collect();
    found.sort_by_key(|p| (p.plugin.phase, p.plugin.priority.is_none(), std::cmp::Reverse(p.plugin.priority), p.plugin.name.clone()));
    found.into_iter().map(|p| (p.plugin.phase, p.plugin.name.clone())).collect()
}

/// The rules that are enforced for any of these gateways: what DENY refuses comes first, as in Istio.
fn chain_policies(gateways: &HashSet<Key>, policies: &BTreeMap<Unit, Vec<PolicyPart>>) -> Option<Arc<Rbac>> {
    let here = |part: &&PolicyPart| part.gateways.as_ref().is_none_or(|only| only.iter().any(|g| gateways.contains(g)));
    let parts: Vec<&PolicyPart> = policies.values().flatten().filter(here).collect();
    let rules = |action, dry_run| {
        let of: Vec<&&PolicyPart> = parts.iter().filter(|p| p.action == action && p.dry_run == dry_run).collect();
        (!of.is_empty()).then(|| RbacRules { action, policies: of.iter().flat_map(|p| p.policies.clone()).collect() })
    };
    let all = |dry_run| [RbacAction::Deny, RbacAction::Allow].into_iter().filter_map(|action| rules(action, dry_run)).collect();
    (!parts.is_empty()).then(|| Arc::new(Rbac { rules: all(false), shadow_rules: all(true) }))
}
