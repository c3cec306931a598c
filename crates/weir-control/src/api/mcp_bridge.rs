//! McpBridge of Higress: service registries whose services are destinations of routes.
use super::istio::{
    destination_rule::Originate,
    read::ExportTo,
    service_entry::{Endpoint, EndpointAddress, Port, Resolution, ServiceEntry},
};
use crate::api::labels::Labels;
use std::net::{IpAddr, SocketAddr};
use weir_config::{
    model::{Name, UpstreamProtocol},
    node::Chars,
    reader::{Field, Object},
};

pub const GROUP: &str = "networking.higress.io";
/// The only name that a McpBridge may have.
pub const NAME: &str = "default";
/// The namespaces that a McpBridge may be in.
pub const NAMESPACES: [&str; 2] = ["higress-system", "weir-system"];

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
}

/// Where the services of a registry are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the registry's own fields.
    Listed(Box<ServiceEntry>),
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
        ("domain", "", "With `static`, the addresses as `IP:PORT`, and with `dns`, the names, with commas between."),
        ("port", "", "With `static`, the port of the service. With `dns`, the port of the endpoints too."),
        ("protocol", "http", "What the endpoints of a `static` or `dns` service speak, as `http`, `https`, `grpc`, `grpcs` or `tcp`."),
        ("sni", "", "The server name with `https` and `grpcs`. By default the name in `domain`, if it is the only one."),
    ]);
    let kind = fields.required("type").and_then(|f| f.choice(&[("static", RegistryKind::Static), ("dns", RegistryKind::Dns)]));
    let name = fields.required("name").and_then(|f| host_part(&f));
    let (domain, port) = (fields.required("domain"), fields.required("port").and_then(|f| f.port()));
    let (kind, name, domain, port) = (kind?, name?, domain?, port?);
    let source = Source::Listed(Box::new(listed(&fields, kind, name, &domain, port)?));
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
                RegistryKind::Dns => ("a DNS name", "a name as api.example.com; the port is the field port"),
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
        RegistryKind::Dns => ("dns", Resolution::Dns),
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
