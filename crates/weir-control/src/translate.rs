//! From objects to resources. Every object that acts is a unit of its own ([`Unit`]): its translator looks up what it
//! refers to through a [`Cx`], which notes what was looked at, and fills a [`Part`]. When an object changes, only the units
//! that looked at it (or looked for it) are translated again.
mod class;
mod cluster;
mod cluster_key;
mod context;
mod draft;
mod endpoints;
mod file_reference;
mod gateway_api;
mod ingress;
mod istio;
mod mcp_bridge;
mod plugin;
mod secret;
mod settings;

pub use cluster_key::{ClusterKey, Purpose};
pub use context::{Cx, Dep, Fingerprints, Look, Looks};

use crate::{
    Options,
    api::settings::{CONFIG_MAPS, Settings},
    object::{Created, Finding, Key, Kind, Object, Spec},
    status::condition::{Condition, Scope},
};
use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        Cluster, ClusterLoadAssignment, DownstreamTls, Name, RbacAction, RbacPolicy, Route, Secret, SocketProtocol, TcpProxy, UdpProxy,
        WasmPlugin,
    },
    node::Chars,
    recent,
};

/// What is translated as one. Copies are cheap: they share what is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A gateway, route, ingress, policy or plugin.
    Object(Key),
    /// Every Service and ServiceEntry, which plugins can call by their names; lives while there are plugins.
    Callable,
    /// A cluster and its endpoints; lives while another unit's part names it.
    Cluster(ClusterKey),
    /// Lives while another unit's part names it.
    Secret(Arc<SecretKey>),
}

impl Unit {
    /// Whether such an object is a unit: the others only serve those.
    pub fn acts(key: &Key) -> bool {
        use Kind::*;
        match key.kind {
            GatewayClass | Gateway | ListenerSet | BackendTlsPolicy | HttpRoute | GrpcRoute | TlsRoute | TcpRoute | UdpRoute | Ingress => {
                true
            }
            IstioGateway | VirtualService | AuthorizationPolicy | WasmPlugin | HigressWasmPlugin | McpBridge => true,
            ConfigMap => CONFIG_MAPS.contains(&&*key.name),
            _ => false,
        }
    }

    /// An object that stands for the unit in messages.
    pub fn object(&self) -> Option<Key> {
        match self {
            Unit::Object(key) => Some(key.clone()),
            Unit::Callable => None,
            Unit::Cluster(key) => key.kubernetes().map(|(namespace, name)| Key::new(Kind::Service, namespace, name)),
            Unit::Secret(key) => Some(Key::new(key.source, &key.namespace, &key.name)),
        }
    }

    pub fn translate(&self, cx: &Cx<'_>) -> Part {
        let mut part = Part::default();
        match self {
            Unit::Object(key) => {
                if let Some(object) = cx.find(key) {
                    translate_object(cx, object, &mut part);
                }
            }
            Unit::Callable => part.clusters = cluster::callable(cx),
            Unit::Cluster(key) => cluster::translate(cx, key, &mut part),
            Unit::Secret(key) => secret::translate(cx, key, &mut part),
        }
        part
    }
}

fn translate_object(cx: &Cx<'_>, object: &Arc<Object>, part: &mut Part) {
    #[cfg(test)]
    assert!(object.meta.annotation("test/panic").is_none(), "as the test asked for");
    match &object.spec {
        Spec::GatewayClass(class) => gateway_api::translate_class(object, class, part),
        Spec::Gateway(gateway) => gateway_api::translate_gateway(cx, object, gateway, part),
        Spec::ListenerSet(set) => gateway_api::translate_listener_set(cx, object, set, part),
        Spec::BackendTlsPolicy(policy) => gateway_api::translate_backend_tls(cx, object, policy, part),
        Spec::HttpRoute(route) => gateway_api::translate_http_route(cx, object, route, part),
        Spec::L4Route(route) => gateway_api::translate_l4_route(cx, object, route, part),
        Spec::Ingress(ingress) => ingress::translate(cx, object, ingress, part),
        Spec::IstioGateway(gateway) => istio::translate_gateway(cx, object, gateway, part),
        Spec::VirtualService(service) => istio::translate_virtual_service(cx, object, service, part),
        Spec::AuthorizationPolicy(policy) => istio::translate_authorization_policy(cx, object, policy, part),
        Spec::WasmPlugin(plugin) => plugin::translate(cx, object, plugin, part),
        Spec::McpBridge(bridge) => mcp_bridge::translate(cx, object, bridge, part),
        Spec::ConfigMap(map) => {
            if let Some(settings) = &map.settings {
                settings::translate(cx, object, settings, part);
            }
        }
        _ => {}
    }
}

/// A Secret or ConfigMap in one of its two uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey {
    /// [`Kind::Secret`] or [`Kind::ConfigMap`].
    pub source: Kind,
    pub namespace: Name,
    pub name: Name,
    pub content: SecretUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretUse {
    /// `tls.crt` and `tls.key`.
    Certificate,
    /// `ca.crt`.
    Roots,
    /// Files: the key's name is their paths, `CHAIN~KEY`.
    CertificateFiles,
    /// Files: the key's name is their paths, `CA` or `CA~CRL`.
    RootsFile,
}

impl SecretKey {
    pub fn certificate(namespace: &str, name: &str) -> SecretKey {
        SecretKey { source: Kind::Secret, namespace: namespace.into(), name: name.into(), content: SecretUse::Certificate }
    }
    pub fn certificate_files(chain: &Path, key: &Path) -> SecretKey {
        Self::files(format!("{}~{}", chain.display(), key.display()), SecretUse::CertificateFiles)
    }
    pub fn roots_file(ca: &Path, crl: Option<&Path>) -> SecretKey {
        let crl = crl.map(|path| format!("~{}", path.display())).unwrap_or_default();
        Self::files(format!("{}{crl}", ca.display()), SecretUse::RootsFile)
    }
    fn files(name: String, content: SecretUse) -> SecretKey {
        SecretKey { source: Kind::Secret, namespace: "".into(), name: name.into(), content }
    }
    /// As Istio names them over SDS: `kubernetes://NAMESPACE/NAME`, with `-cacert` for the roots; `file-cert:CHAIN~KEY`.
    pub fn resource(&self) -> Name {
        match self.content {
            SecretUse::CertificateFiles => return format!("file-cert:{}", self.name).into(),
            SecretUse::RootsFile => return format!("file-root:{}", self.name).into(),
            _ => {}
        }
        let scheme = if self.source == Kind::ConfigMap { "configmap" } else { "kubernetes" };
        let end = if self.content == SecretUse::Roots { "-cacert" } else { "" };
        format!("{scheme}://{}/{}{end}", self.namespace, self.name).into()
    }
}

/// What one unit comes to. Parts that meet on a port or a domain are put together by the index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub ports: Vec<PortPart>,
    pub routes: Vec<RouteEntry>,
    /// Clusters that the resources here refer to: makes them exist.
    pub clusters: Vec<ClusterKey>,
    /// Any cluster may be called: makes them all exist.
    pub calls: bool,
    /// Secrets that the resources here refer to: makes them exist.
    pub secrets: Vec<SecretKey>,
    pub plugins: Vec<PluginPart>,
    pub policies: Vec<PolicyPart>,
    pub cluster: Option<Cluster>,
    /// A DestinationRule says when idle connections of the cluster are closed.
    pub own_idle_timeout: bool,
    pub endpoints: Option<ClusterLoadAssignment>,
    pub secret: Option<Secret>,
    /// What holds for every listener.
    pub settings: Option<Box<Settings>>,
    pub findings: Vec<Finding>,
    /// Listeners that it is attached to, each once.
    pub attached: Vec<Attachment>,
    /// For the object's `status`, as a controller would write it.
    pub conditions: Vec<Condition>,
    /// Of a Gateway or ListenerSet.
    pub listeners: Vec<ListenerPart>,
    /// Of a Gateway.
    pub attached_listener_sets: u32,
    /// Of a Gateway that has a Service of its own: the ports that it should have.
    pub service_ports: Vec<(u16, SocketProtocol)>,
    /// BackendTLSPolicies of what a route sends requests to, with the Gateways that do so by it.
    pub ancestors: BTreeSet<(Key, Key)>,
    /// DestinationRules, ServiceEntries and WorkloadEntries that a cluster is made of.
    pub uses: BTreeSet<Key>,
}

/// What the status of a Gateway or ListenerSet says of a listener beside its conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPart {
    pub name: Box<str>,
    pub supported_kinds: Vec<Kind>,
}

/// A listener of a Gateway or ListenerSet, with a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    pub owner: Key,
    pub listener: Name,
}

impl Part {
    /// Asks for a cluster and gives its name.
    pub fn use_cluster(&mut self, key: ClusterKey) -> Name {
        let name = key.name.clone();
        if !self.clusters.contains(&key) {
            self.clusters.push(key);
        }
        name
    }
    /// Asks for a secret and gives its name.
    pub fn use_secret(&mut self, key: SecretKey) -> Name {
        let name = key.resource();
        if !self.secrets.contains(&key) {
            self.secrets.push(key);
        }
        name
    }
    /// Notes that a route is attached to a listener.
    pub fn attach(&mut self, owner: &Key, listener: &str) {
        let attachment = Attachment { owner: owner.clone(), listener: listener.into() };
        if !self.attached.contains(&attachment) {
            self.attached.push(attachment);
        }
    }
    /// Notes a condition; of several of one scope and type the first that does not hold counts.
    pub fn condition(&mut self, scope: Scope, kind: &'static str, status: bool, reason: &'static str) {
        let condition = Condition { scope, kind, status, reason, message: Box::default() };
        match self.conditions.iter_mut().find(|c| c.scope == condition.scope && c.kind == kind) {
            None => self.conditions.push(condition),
            Some(known) if known.status && !status => *known = condition,
            Some(_) => {}
        }
    }
    /// Adds a finding about `object`; `field` is the path of the field at `span`.
    pub fn report(&mut self, object: &Object, span: Chars, field: impl Into<String>, diagnostic: Diagnostic) {
        self.findings.push(object.finding(span, field, diagnostic));
    }
}

/// Where something is listened on. A listener is made for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bind {
    pub port: u16,
    /// `None` for the address that listeners have by default.
    pub address: Option<IpAddr>,
    pub protocol: SocketProtocol,
    /// The port of the listener, where a Service maps that to `port`.
    pub advertised: Option<u16>,
}

impl Bind {
    /// At the default address.
    pub fn port(port: u16) -> Bind {
        Bind { port, address: None, protocol: SocketProtocol::Tcp, advertised: None }
    }
    /// At an address that is asked for. Who asks for the default address shares its listeners.
    pub fn at(address: Option<IpAddr>, port: u16, options: &Options) -> Bind {
        Bind { address: address.filter(|a| *a != options.address), ..Bind::port(port) }
    }
    /// At the target port of a Service that has `advertised` for it.
    pub fn target(port: u16, advertised: u16) -> Bind {
        Bind { advertised: Some(advertised), ..Bind::port(port) }
    }
    /// The port that clients connect to.
    pub fn public_port(&self) -> u16 {
        self.advertised.unwrap_or(self.port)
    }
    #[must_use]
    pub fn with_protocol(self, protocol: SocketProtocol) -> Bind {
        Bind { protocol, ..self }
    }
}

/// `8080`, `8080.127.0.0.1` where an address is asked for, or `20001_80` for a target port.
impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.address, self.advertised) {
            (None, Some(advertised)) => write!(f, "{}_{advertised}", self.port),
            (None, None) => self.port.fmt(f),
            (Some(address), _) => write!(f, "{}.{address}", self.port),
        }
    }
}

/// What one listener of a gateway, or one server, asks of a port.
#[derive(Clone, Debug, PartialEq)]
pub struct PortPart {
    pub bind: Bind,
    /// Of any API; an Ingress stands for the gateway that serves it.
    pub gateway: Key,
    /// For messages about conflicts.
    pub object: Name,
    /// Where the object asks for the port, counted from 1 at the beginning of its document; 0 where it does not say.
    pub line: u32,
    /// `creationTimestamp` of a route, of which the oldest gets a port that can have only one; empty for others, which come first.
    pub created: Created,
    pub kind: PortKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PortKind {
    /// Plain text; routes are in the table [`http_table`].
    Http,
    /// TLS is terminated. Parts with the same server names and options share a filter chain.
    Https {
        /// Exact or `*.suffix`, lower case; empty for any.
        server_names: Vec<String>,
        tls: DownstreamTls,
        /// From [`https_table`].
        table: Name,
    },
    /// TLS is passed on by its server name.
    Passthrough {
        server_names: Vec<String>,
        proxy: TcpProxy,
    },
    /// TLS is terminated, and what it carries passed on as bytes.
    Tls {
        server_names: Vec<String>,
        tls: DownstreamTls,
        proxy: TcpProxy,
    },
    Tcp {
        proxy: TcpProxy,
    },
    Udp {
        proxy: UdpProxy,
    },
}

/// Route table of plain text on a port: `http.8080`.
pub fn http_table(bind: Bind) -> Name {
    recent::name(&format!("http.{bind}"))
}

/// Route table of a TLS listener: `https.8443` for all on the port that let any client in, so that a browser may reuse a
/// connection for every host that its certificate fits; a table of its own, with `own`, for one that asks for certificates.
pub fn https_table(bind: Bind, own: Option<&str>) -> Name {
    match own {
        None => recent::name(&format!("https.{bind}")),
        Some(own) => recent::name(&format!("https.{bind}.{own}")),
    }
}

/// A plugin and where it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginPart {
    pub plugin: Arc<WasmPlugin>,
    /// Gateways (of any API) whose connections meet it; `None` for all.
    pub gateways: Option<Vec<Key>>,
    /// Ports that it is for; empty for all.
    pub ports: Vec<u16>,
}

/// Rules of an AuthorizationPolicy, and where they are enforced.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPart {
    /// Gateways (of any API) whose requests are checked; `None` for all.
    pub gateways: Option<Vec<Key>>,
    pub action: RbacAction,
    /// None where nothing is allowed, or nothing denied.
    pub policies: Vec<RbacPolicy>,
    /// Only count.
    pub dry_run: bool,
}

/// A route's place: a domain of a table and its rank there.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteEntry {
    pub table: Name,
    /// `shop.test`, `*.shop.test` or `*`, lower case.
    pub domain: Name,
    pub rank: Rank,
    /// `None` claims the domain without a route, so that a wider domain does not answer for it.
    pub route: Option<Arc<Route>>,
}

/// Order of routes within a domain, first to match first. Gateway API and Ingress meet by how specific they are; the routes
/// of VirtualServices come in the order of their lists, and before these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub api: RankApi,
    pub path: RankPath,
    pub path_length: Reverse<u32>,
    pub method: Reverse<bool>,
    pub headers: Reverse<u16>,
    pub query_parameters: Reverse<u16>,
    /// `creationTimestamp`; the oldest first.
    pub created: Created,
    pub object: ByName,
    /// Within the object.
    pub index: u32,
}

/// An object in the order of its text `namespace/name`, as Gateway API has it. The kind takes no part.
#[derive(Clone, Debug)]
pub struct ByName(pub Key);

impl ByName {
    fn text(&self) -> impl Iterator<Item = u8> {
        self.0.namespace.bytes().chain([b'/']).chain(self.0.name.bytes())
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &ByName) -> Ordering {
        if self.0.namespace == other.0.namespace {
            return self.0.name.cmp(&other.0.name);
        }
        self.text().cmp(other.text())
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &ByName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByName {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RankApi {
    VirtualService,
    /// GRPCRoutes: where they share a host with HTTPRoutes, what is theirs is not left to a wider path.
    Grpc,
    Specific,
    /// Default backends: after everything else.
    Default,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RankPath {
    Exact,
    Regex,
    Prefix,
    /// A regular expression of an Ingress, and its `/` for what is left, as in Higress.
    LateRegex,
    Root,
}

impl Rank {
    /// By place in a list: how specific a route is does not matter.
    pub fn listed(api: RankApi, created: Created, object: Key, index: u32) -> Rank {
        Rank {
            api,
            path: RankPath::Exact,
            path_length: Reverse(0),
            method: Reverse(false),
            headers: Reverse(0),
            query_parameters: Reverse(0),
            created,
            object: ByName(object),
            index,
        }
    }
}
