//! McpBridge of Higress: service registries whose services are destinations of routes.
use super::istio::{
    destination_rule::Originate,
    read::ExportTo,
    service_entry::{Endpoint, EndpointAddress, Port, Resolution, ServiceEntry},
};
use crate::api::labels::Labels;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use weir_config::{
    model::{Name, UpstreamProtocol},
    node::Chars,
    reader::{Field, Object},
};

pub const GROUP: &str = "networking.higress.io";
/// The only name that a McpBridge may have.
pub const NAME: &str = "default";

#[derive(Clone, Debug, PartialEq)]
pub struct McpBridge {
    pub registries: Vec<Registry>,
    pub place: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    pub name: Name,
    pub kind: RegistryKind,
    pub source: Source,
    /// One-based line in the document.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegistryKind {
    Static,
    Dns,
    /// With the protocol of Nacos 2.
    Nacos,
    Nacos2,
    Nacos3,
    Consul,
    Zookeeper,
    Eureka,
}

const KINDS: &[(&str, RegistryKind)] = &[
    ("static", RegistryKind::Static),
    ("dns", RegistryKind::Dns),
    ("nacos", RegistryKind::Nacos),
    ("nacos2", RegistryKind::Nacos2),
    ("nacos3", RegistryKind::Nacos3),
    ("consul", RegistryKind::Consul),
    ("zookeeper", RegistryKind::Zookeeper),
    ("eureka", RegistryKind::Eureka),
];

impl RegistryKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Where the services of a registry are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the registry's own fields.
    Listed(Box<ServiceEntry>),
    /// On a server, which is followed.
    Server(Arc<Server>),
}

#[derive(Debug, PartialEq)]
pub struct Server {
    pub host: Box<str>,
    pub port: u16,
    /// The Secret with user and password, or a token.
    pub secret: Option<Box<str>>,
    pub speaks: Speaks,
}

/// The protocol of a server.
#[derive(Debug, PartialEq)]
pub enum Speaks {
    Nacos(Nacos),
    Consul(Consul),
    Zookeeper(Zookeeper),
    Eureka,
}

#[derive(Debug, PartialEq)]
pub struct Nacos {
    /// 2 or 3.
    pub version: u8,
    /// The id of the namespace.
    pub namespace: Box<str>,
    /// What hosts have of the namespace.
    pub shown_namespace: Box<str>,
    pub groups: Vec<Box<str>>,
    pub access_key: Option<AccessKey>,
    /// How often the list of services is read.
    pub refresh_interval: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AccessKey {
    pub id: String,
    pub secret: Hidden,
}

/// A text that is not shown.
#[derive(Clone, PartialEq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Debug, PartialEq)]
pub struct Consul {
    /// Empty for that of the agent.
    pub datacenter: Box<str>,
    /// Only services with this tag.
    pub tag: Option<Box<str>>,
}

#[derive(Debug, PartialEq)]
pub struct Zookeeper {
    /// Under which Spring Cloud has its services.
    pub paths: Vec<Box<str>>,
}

/// What the endpoints of a registry's service speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The name of the port.
    pub name: &'static str,
    pub upstream: UpstreamProtocol,
    pub tls: bool,
}

const PROTOCOLS: &[(&str, Protocol)] = &[
    ("http", Protocol { name: "http", upstream: UpstreamProtocol::Http1, tls: false }),
    ("https", Protocol { name: "https", upstream: UpstreamProtocol::Http1, tls: true }),
    ("http2", Protocol { name: "http2", upstream: UpstreamProtocol::Http2, tls: false }),
    ("grpc", Protocol { name: "grpc", upstream: UpstreamProtocol::Http2, tls: false }),
    ("triple", Protocol { name: "grpc", upstream: UpstreamProtocol::Http2, tls: false }),
    ("tri", Protocol { name: "grpc", upstream: UpstreamProtocol::Http2, tls: false }),
    ("grpcs", Protocol { name: "grpcs", upstream: UpstreamProtocol::Http2, tls: true }),
    ("tcp", Protocol { name: "tcp", upstream: UpstreamProtocol::Http1, tls: false }),
    ("redis", Protocol { name: "redis", upstream: UpstreamProtocol::Http1, tls: false }),
    ("dubbo", Protocol { name: "dubbo", upstream: UpstreamProtocol::Http1, tls: false }),
];

impl Protocol {
    pub const HTTP: Protocol = PROTOCOLS[0].1;

    pub fn named(word: &str) -> Option<Protocol> {
        PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, protocol)| *protocol)
    }

    /// A port of a service; with TLS, `sni` is the server name.
    pub fn port(self, number: u16, sni: Option<String>) -> Port {
        let originate = self.tls.then(|| Box::new(Originate { sni, ..Originate::default() }));
        Port { number, name: self.name.into(), target: number, protocol: self.upstream, tls: self.tls, originate }
    }
}

/// The service of a registry.
pub fn service(host: &str, port: Port, resolution: Resolution, endpoints: Vec<Endpoint>) -> ServiceEntry {
    ServiceEntry {
        hosts: vec![host.to_ascii_lowercase().into()],
        ports: vec![port],
        resolution,
        endpoints,
        selector: None,
        export_to: ExportTo::default(),
        subject_alt_names: Vec::new(),
        registered: false,
    }
}

pub fn decode(root: &Object<'_>) -> Option<McpBridge> {
    let field = root.required("spec")?;
    let spec = field.object()?;
    spec.unsupported(&["proxies"]);
    spec.describe(&[("registries", "", "Where services are found. Each has a `type` and a `name` of its own.")]);
    let mut registries: Vec<Registry> = Vec::new();
    for entry in spec.list("registries") {
        let Some(registry) = registry(&entry) else { continue };
        if registries.iter().any(|other| (other.kind, &other.name) == (registry.kind, &registry.name)) {
            entry.error("Duplicate", format!("there are two registries {} of this type", registry.name), "give each a name of its own");
        }
        registries.push(registry);
    }
    let place = root.get("kind").map_or(field.node().span, |kind| kind.node().span);
    Some(McpBridge { registries, place })
}

fn registry(entry: &Field<'_>) -> Option<Registry> {
    let fields = entry.object()?;
    fields.unsupported(&[
        "allowMcpServers",
        "consulNamespace",
        "enableMCPServer",
        "enableScopeMcpServers",
        "mcpServerBaseUrl",
        "mcpServerExportDomains",
        "metadata",
        "nacosAddressServer",
        "proxyName",
        "vport",
    ]);
    fields.describe(&[
        ("type", "", "What kind of registry it is."),
        ("name", "", "The name of the registry. The host of a `static` or `dns` service is `NAME.TYPE`."),
        ("authSecretName", "", "A Secret in the namespace of the object, with `nacosUsername` and `nacosPassword`, or `consulToken`."),
        ("nacosNamespaceId", "public", "The id of the namespace."),
        ("nacosNamespace", "", "What hosts have of the namespace. By default the id."),
        ("nacosGroups", "DEFAULT_GROUP", "The groups whose services are read."),
        ("nacosAccessKey", "", "The access key. With `nacosSecretKey` it signs requests."),
        ("nacosSecretKey", "", "The secret key."),
        ("nacosRefreshInterval", "500000000", "How often the list of services is read, in nanoseconds. Instances come by push."),
        ("consulDatacenter", "", "The datacenter, which hosts have too. By default that of the agent, without a part of hosts."),
        ("consulServiceTag", "", "Only services with this tag."),
        ("zkServicesPath", "", "Paths, beside `/services`, under which Spring Cloud has services."),
        ("domain", "", "With `static`, the addresses as `IP:PORT`, and with `dns`, the names, with commas between. Else the server."),
        ("port", "", "With `static`, the port of the service. With `dns`, the port of the endpoints too. Else the port of the server."),
        ("protocol", "http", "What the endpoints of a `static` or `dns` service speak, as `http`, `https`, `grpc`, `grpcs` or `tcp`."),
        ("sni", "", "The server name with `https` and `grpcs`. By default the name in `domain`, if it is the only one."),
    ]);
    // Blocking queries say at once what changed.
    fields.ignore(&["consulRefreshInterval"]);
    let kind = fields.required("type").and_then(|f| f.choice(KINDS));
    let name = fields.required("name").and_then(|f| host_part(&f));
    let (domain, port) = (fields.required("domain"), fields.required("port").and_then(|f| f.port()));
    let (kind, name, domain, port) = (kind?, name?, domain?, port?);
    let source = match kind {
        RegistryKind::Static | RegistryKind::Dns => Source::Listed(Box::new(listed(&fields, kind, name, &domain, port)?)),
        _ => Source::Server(Arc::new(server(&fields, kind, &domain, port)?)),
    };
    Some(Registry { name: name.into(), kind, source, line: entry.document_line() })
}

/// A text that can be a part of a host.
fn host_part<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.str()?;
    let good = !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !good {
        field.invalid(format!("\"{text}\" cannot be a part of a host name"), "letters, digits, -, _ and .");
    }
    good.then_some(text)
}

fn server(fields: &Object<'_>, kind: RegistryKind, domain: &Field<'_>, port: u16) -> Option<Server> {
    let host = domain.str()?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare.parse::<IpAddr>().is_err() && (host.len() > 253 || !host.split('.').all(label)) {
        domain.invalid(format!("\"{host}\" is not the name or address of a server"), "one DNS name or IP address, without a port");
        return None;
    }
    let speaks = match kind {
        RegistryKind::Consul => Speaks::Consul(Consul {
            datacenter: fields.str("consulDatacenter").unwrap_or_default().into(),
            tag: fields.str("consulServiceTag").map(str::trim).filter(|tag| !tag.is_empty()).map(Into::into),
        }),
        RegistryKind::Zookeeper => Speaks::Zookeeper(zookeeper(fields)?),
        RegistryKind::Eureka => Speaks::Eureka,
        RegistryKind::Nacos | RegistryKind::Nacos2 | RegistryKind::Nacos3 => {
            if kind == RegistryKind::Nacos
                && let Some(field) = fields.get("type")
            {
                let message = "the protocol of Nacos 1 is not supported: the registry is followed by gRPC, at the port 1000 above";
                field.warning("UnsupportedValue", message, "nacos2 or nacos3");
            }
            Speaks::Nacos(nacos(fields, if kind == RegistryKind::Nacos3 { 3 } else { 2 })?)
        }
        RegistryKind::Static | RegistryKind::Dns => return None,
    };
    let secret = fields.str("authSecretName").filter(|name| !name.is_empty()).map(Into::into);
    Some(Server { host: bare.into(), port, secret, speaks })
}

fn nacos(fields: &Object<'_>, version: u8) -> Option<Nacos> {
    let namespace = fields.str("nacosNamespaceId").filter(|id| !id.is_empty()).unwrap_or("public");
    let shown = fields.get("nacosNamespace").filter(|f| f.node().as_str() != Some(""));
    let shown = shown.map_or(Some(namespace), |f| host_part(&f))?;
    let mut groups: Vec<Box<str>> = fields.list("nacosGroups").iter().filter_map(|f| Some(host_part(f)?.into())).collect();
    if groups.is_empty() {
        groups.push("DEFAULT_GROUP".into());
    }
    let access_key = match (fields.str("nacosAccessKey"), fields.str("nacosSecretKey")) {
        (Some(id), Some(secret)) if !id.is_empty() => Some(AccessKey { id: id.into(), secret: Hidden(secret.into()) }),
        _ => None,
    };
    let interval = fields.int("nacosRefreshInterval", 100_000_000..=86_400_000_000_000);
    let refresh_interval = interval.map_or(Duration::from_millis(500), |nanos| Duration::from_nanos(nanos.unsigned_abs()));
    Some(Nacos { version, namespace: namespace.into(), shown_namespace: shown.into(), groups, access_key, refresh_interval })
}

fn zookeeper(fields: &Object<'_>) -> Option<Zookeeper> {
    let mut paths: Vec<Box<str>> = vec!["/services".into()];
    for field in fields.list("zkServicesPath") {
        let text = field.str()?;
        if !text.starts_with('/') || text.contains("//") || text.contains(['\0', ' ']) {
            field.invalid(format!("\"{text}\" is not a path of ZooKeeper"), "an absolute path, as /spring/services");
            return None;
        }
        let path = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        if path != "/dubbo" && !paths.iter().any(|known| **known == *path) {
            paths.push(path.into());
        }
    }
    Some(Zookeeper { paths })
}

fn listed(fields: &Object<'_>, kind: RegistryKind, name: &str, domain: &Field<'_>, port: u16) -> Option<ServiceEntry> {
    let protocol = match fields.get("protocol") {
        None => Protocol::HTTP,
        Some(field) => {
            let word = field.str()?;
            let found = Protocol::named(word);
            if found.is_none() {
                let words: Vec<&str> = PROTOCOLS.iter().map(|(word, _)| *word).collect();
                field.unknown_value(word, format!("one of {}", words.join(", ")));
            }
            found?
        }
    };
    let items: Vec<&str> = domain.str()?.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.is_empty() {
        domain.invalid("is empty", "addresses or names, with commas between");
        return None;
    }
    let endpoint = |item: &&str| {
        let found = if kind == RegistryKind::Static { socket(item, protocol) } else { named(item) };
        if found.is_none() {
            let (what, help) = match kind {
                RegistryKind::Static => ("an IP address with a port", "IP:PORT, as 10.0.0.1:8080 or [2001:db8::1]:8080"),
                _ => ("a DNS name", "a name as api.example.com; the port is the field port"),
            };
            domain.invalid(format!("\"{item}\" is not {what}"), help);
        }
        found
    };
    let endpoints: Vec<Endpoint> = items.iter().map(endpoint).collect::<Option<_>>()?;
    let own_name = match (kind, &items[..]) {
        (RegistryKind::Dns, [only]) => Some(*only),
        _ => None,
    };
    let sni = fields.str("sni").filter(|sni| !sni.is_empty()).or(own_name).map(str::to_string);
    let (suffix, resolution) = match kind {
        RegistryKind::Static => ("static", Resolution::Static),
        _ => ("dns", Resolution::Dns),
    };
    Some(service(&format!("{name}.{suffix}"), protocol.port(port, sni), resolution, endpoints))
}

fn socket(text: &str, protocol: Protocol) -> Option<Endpoint> {
    let at: SocketAddr = text.parse().ok()?;
    let address = EndpointAddress::Ip(at.ip());
    (at.port() > 0).then(|| endpoint(address, vec![(protocol.name.into(), at.port())]))
}

fn named(text: &str) -> Option<Endpoint> {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let good = text.len() <= 253 && text.contains('.') && text.split('.').all(label) && text.parse::<IpAddr>().is_err();
    good.then(|| endpoint(EndpointAddress::Name(text.to_ascii_lowercase().into()), Vec::new()))
}

fn endpoint(address: EndpointAddress, ports: Vec<(Box<str>, u16)>) -> Endpoint {
    Endpoint { address, ports, labels: Labels::new(), weight: 1, locality: None }
}
