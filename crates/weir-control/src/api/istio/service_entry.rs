//! ServiceEntry: hosts that no Kubernetes Service describes; and WorkloadEntry, which serves them.
use super::{
    destination_rule::Originate,
    read::{ExportTo, host_field},
};
use crate::{
    api::labels::{Labels, labels, selector},
    object::meta::Meta,
};
use std::net::IpAddr;
use weir_config::{
    model::{Name, UpstreamProtocol},
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// Lower case; patterns as they stand.
    pub hosts: Vec<Name>,
    pub ports: Vec<Port>,
    pub resolution: Resolution,
    pub endpoints: Vec<Endpoint>,
    /// In place of `endpoints`: the WorkloadEntries of the namespace with these labels.
    pub selector: Option<Labels>,
    pub export_to: ExportTo,
    pub subject_alt_names: Vec<String>,
    /// A registry named its endpoints: they may not lead to protected addresses.
    pub registered: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub number: u16,
    pub name: Box<str>,
    pub target: u16,
    pub protocol: UpstreamProtocol,
    /// The endpoints speak TLS there (`HTTPS`, `TLS`).
    pub tls: bool,
    /// How TLS is originated where no DestinationRule says it; only services of registries have it.
    pub originate: Option<Box<Originate>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// By the name of the service's port.
    pub ports: Vec<(Box<str>, u16)>,
    pub labels: Labels,
    pub weight: u32,
    pub locality: Option<Name>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EndpointAddress {
    Ip(IpAddr),
    Name(Box<str>),
}

impl ServiceEntry {
    /// Its hosts; wildcards as they stand.
    pub fn index_keys(&self) -> Vec<Name> {
        self.hosts.clone()
    }
}

pub fn decode(root: &Object<'_>) -> Option<ServiceEntry> {
    let spec = root.required("spec")?.object()?;
    // Virtual addresses and the place in the mesh concern sidecars.
    spec.ignore(&["addresses", "location"]);
    spec.describe(&[
        ("hosts", "", "The names of the service, or patterns as `*.shop.test`."),
        ("resolution", "NONE", "How the endpoints are found."),
        ("subjectAltNames", "", "Names of which the service's certificate must have one."),
    ]);
    let selector = spec.get("workloadSelector").and_then(|f| selector(&f, "labels"));
    let hosts: Vec<Name> = spec.required("hosts")?.list().iter().filter_map(|f| Some(host_field(f)?.into())).collect();
    let ports: Vec<Port> = spec.distinct("ports", "number").iter().filter_map(port).collect();
    if ports.is_empty() {
        spec.required("ports");
    }
    let words = [
        ("NONE", Resolution::None),
        ("STATIC", Resolution::Static),
        ("DNS", Resolution::Dns),
        ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
        ("DYNAMIC_DNS", Resolution::DynamicDns),
    ];
    let given = spec.get("resolution");
    let resolution = given.as_ref().map_or(Some(Resolution::None), |f| f.choice(&words))?;
    let listed = spec.get("endpoints");
    let endpoints: Vec<Endpoint> = spec.list("endpoints").iter().filter_map(|f| endpoint(f, resolution, Some(&ports))).collect();
    let by_dns = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if by_dns && endpoints.is_empty() && hosts.iter().any(|h| h.contains('*')) {
        let help = "list endpoints, or write resolution: DYNAMIC_DNS to follow the request's host";
        spec.get("hosts")?.invalid("a pattern cannot be resolved by DNS", help);
    }
    if let (Some(f), true) = (&listed, selector.is_some()) {
        f.invalid("endpoints and workloadSelector exclude each other", "one of them");
    }
    match (resolution, &listed) {
        (Resolution::Static, None) if selector.is_none() => {
            let help = "list endpoints with their IP addresses, or write resolution: DNS";
            given?.warning("NoEndpoints", "STATIC without endpoints: requests are answered with 503", help);
        }
        (Resolution::None | Resolution::DynamicDns, Some(f)) => {
            f.warning("UnusedField", "has no effect with this resolution", "resolution: STATIC or DNS");
        }
        (Resolution::DnsRoundRobin, Some(f)) if endpoints.len() > 1 => {
            f.invalid("DNS_ROUND_ROBIN takes one endpoint", "one endpoint, or resolution: DNS");
        }
        _ => {}
    }
    let subject_alt_names = spec.strings("subjectAltNames");
    let export_to = ExportTo::decode(&spec);
    Some(ServiceEntry { hosts, ports, resolution, endpoints, selector, export_to, subject_alt_names, registered: false })
}

fn port(field: &Field<'_>) -> Option<Port> {
    let object = field.object()?;
    object.describe(&[
        ("number", "", "The port of the service."),
        ("name", "", "Its name. Without `protocol`, a name that begins with `http2` or `grpc` selects HTTP/2."),
        ("protocol", "", "What the service speaks. By default by the name."),
        ("targetPort", "", "The port of the endpoints. By default `number`."),
    ]);
    let number = object.required("number")?.port()?;
    let name = object.required("name")?.str()?;
    let target = object.port("targetPort").unwrap_or(number);
    let protocol = match object.get("protocol") {
        None => by_name(name),
        Some(f) => match f.str()?.to_ascii_uppercase().as_str() {
            "HTTP2" | "GRPC" | "GRPC-WEB" => UpstreamProtocol::Http2,
            "HTTP" | "HTTPS" | "TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => UpstreamProtocol::Http1,
            other => {
                f.unknown_value(other, "one of HTTP, HTTPS, HTTP2, GRPC, TLS, TCP");
                return None;
            }
        },
    };
    let tls =
        object.get("protocol").and_then(|f| f.node().as_str()).is_some_and(|p| ["HTTPS", "TLS"].iter().any(|t| p.eq_ignore_ascii_case(t)));
    Some(Port { number, name: name.into(), target, protocol, tls, originate: None })
}

/// As Istio reads the prefix of a port's name.
fn by_name(name: &str) -> UpstreamProtocol {
    match name.split('-').next() {
        Some("http2" | "grpc") => UpstreamProtocol::Http2,
        _ => UpstreamProtocol::Http1,
    }
}

/// One workload, as a virtual machine, outside of Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry(pub Endpoint);

/// Labels of the metadata count too, and before those of the spec.
pub fn decode_workload(root: &Object<'_>, meta: &Meta) -> Option<WorkloadEntry> {
    let mut endpoint = endpoint(&root.required("spec")?, Resolution::Dns, None)?;
    endpoint.labels.extend(meta.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())));
    Some(WorkloadEntry(endpoint))
}

/// The `ports` that it may name are unknown to a WorkloadEntry.
fn endpoint(field: &Field<'_>, resolution: Resolution, ports: Option<&[Port]>) -> Option<Endpoint> {
    let object = field.object()?;
    object.ignore(&["network", "serviceAccount"]);
    object.describe(&[
        ("address", "", "An IP address, or a name with `resolution: DNS`."),
        ("weight", "1", "The endpoint's share of requests, relative to the other weights."),
        ("locality", "", "Where the endpoint is: `region/zone/subzone`."),
    ]);
    let at = object.required("address")?;
    let text = at.str()?;
    if text.starts_with("unix://") {
        at.warning(
            "UnsupportedValue",
            "sockets of the Unix domain are not supported yet: the endpoint is left out",
            "an IP address or a DNS name",
        );
        object.ignore_rest();
        return None;
    }
    let address = match text.parse() {
        Ok(ip) => EndpointAddress::Ip(ip),
        Err(_) if resolution == Resolution::Static => {
            at.invalid(format!("\"{text}\" is not an IP address"), "an IP address, or resolution: DNS for names");
            return None;
        }
        Err(_) => EndpointAddress::Name(host_field(&at)?.into()),
    };
    let mut mapped = Vec::new();
    for (name, number) in object.entries("ports") {
        if let Some(ports) = ports
            && !ports.iter().any(|p| *p.name == *name)
        {
            let names: Vec<&str> = ports.iter().map(|p| &*p.name).collect();
            number.invalid(format!("this ServiceEntry has no port {name}"), format!("one of {}", names.join(", ")));
        }
        mapped.extend(number.port().map(|n| (name.into(), n)));
    }
    let labels = labels(&object, "labels");
    // Envoy's bounds; a 0 counts as unset.
    let weight = object.int("weight", 0..=i64::from(u32::MAX)).map_or(1, |n| n.clamp(1, 128) as u32);
    let locality = object.str("locality").map(Name::from);
    Some(Endpoint { address, ports: mapped, labels, weight, locality })
}
