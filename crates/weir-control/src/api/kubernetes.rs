//! Kubernetes' own kinds that routes refer to: Service, EndpointSlice, Secret, ConfigMap, Namespace.
mod endpoints;
pub mod pem;

pub use endpoints::{Endpoints, Pod, decode_endpoints, decode_pod, index_keys as pod_index_keys, key as pod_label_key};

use crate::{
    api::{
        settings::{self, Settings},
        target_ports::{self, TargetPorts},
    },
    object::{meta::Meta, pairs::Pairs},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use pem::{is_certificates, is_private_key, is_revocation_lists};
use std::{cell::RefCell, collections::BTreeMap, net::IpAddr, sync::Arc};
use weir_config::{
    model::{HealthStatus, Name, SocketProtocol, UpstreamProtocol},
    node::Chars,
    reader::{Field, Object},
    recent::{self, Recent},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Those of TCP. Equal lists are shared.
    pub ports: Arc<[ServicePort]>,
    /// Labels of the Pods that serve it; empty for none.
    pub selector: Pairs,
    rare: Option<Box<RareService>>,
    pub place: Chars,
}

/// What few Services have.
#[derive(Clone, Debug, PartialEq)]
struct RareService {
    udp_ports: Box<[ServicePort]>,
    external_name: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Empty where a single port has none.
    pub name: Box<str>,
    pub port: u16,
    pub app_protocol: Option<Box<str>>,
    pub target: Target,
}

/// A port of the Pods of a Service.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Number(u16),
    Name(Box<str>),
}

impl Service {
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number)
    }
    pub fn udp_port(&self, number: u16) -> Option<&ServicePort> {
        self.udp_ports().iter().find(|p| p.port == number)
    }
    pub fn udp_ports(&self) -> &[ServicePort] {
        self.rare.as_ref().map_or(&[], |rare| &rare.udp_ports)
    }
    /// Set for the type `ExternalName`.
    pub fn external_name(&self) -> Option<&str> {
        self.rare.as_ref()?.external_name.as_deref()
    }
}

impl ServicePort {
    /// Whether `appProtocol` says that the endpoints speak TLS.
    pub fn speaks_tls(&self) -> bool {
        matches!(self.app_protocol.as_deref(), Some("https" | "tls" | "kubernetes.io/wss"))
    }
    /// What the endpoints speak, by `appProtocol`, else by Istio's prefixes of the port's name; `None` where neither tells.
    pub fn protocol(&self) -> Option<UpstreamProtocol> {
        let word = self.app_protocol.as_deref().unwrap_or_else(|| self.name.split('-').next().unwrap_or_default());
        match word.strip_prefix("kubernetes.io/").unwrap_or(word).to_ascii_lowercase().as_str() {
            "h2c" | "http2" | "grpc" | "grpc-web" => Some(UpstreamProtocol::Http2),
            "http" | "https" | "tls" | "tcp" | "ws" | "wss" => Some(UpstreamProtocol::Http1),
            _ => None,
        }
    }
}

/// Transport protocols; `None` for what a gateway does not speak.
pub const TRANSPORTS: &[(&str, Option<SocketProtocol>)] =
    &[("TCP", Some(SocketProtocol::Tcp)), ("UDP", Some(SocketProtocol::Udp)), ("SCTP", None)];

const SERVICE_FIELDS_OF_OTHERS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamily",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
];

pub fn decode_service(root: &Object<'_>) -> Option<Service> {
    let field = root.required("spec")?;
    let spec = field.object()?;
    // What concerns nodes, load balancers and kube-proxy is none of a gateway's business.
    spec.ignore(SERVICE_FIELDS_OF_OTHERS);
    if let Some(affinity) = spec.get("sessionAffinity")
        && affinity.str() == Some("ClientIP")
    {
        let help = "a DestinationRule with loadBalancer.consistentHash.useSourceIp";
        affinity.warning("UnsupportedValue", "affinity of Services has no effect at a gateway", help);
    }
    let (mut ports, mut udp_ports) = (Vec::new(), Vec::new());
    for item in spec.distinct("ports", "name") {
        let Some(port) = item.object() else { continue };
        port.ignore(&["nodePort"]);
        let list = match port.choice("protocol", TRANSPORTS).unwrap_or(Some(SocketProtocol::Tcp)) {
            Some(SocketProtocol::Tcp) => Some(&mut ports),
            Some(SocketProtocol::Udp) => Some(&mut udp_ports),
            None => None,
        };
        let name = port.str("name").unwrap_or_default().into();
        let app_protocol = port.str("appProtocol").map(Into::into);
        let target = port.get("targetPort").and_then(|f| target_port(&f));
        if let Some(port) = port.required("port").and_then(|f| f.port())
            && let Some(list) = list
        {
            list.push(ServicePort { name, port, app_protocol, target: target.unwrap_or(Target::Number(port)) });
        }
    }
    let selector = spec.entries("selector").into_iter().filter_map(|(k, v)| Some((k, v.str()?.to_string()))).collect();
    let words = [("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("ExternalName", true)];
    let external = spec.choice("type", &words).unwrap_or(false);
    let given = if external { spec.required("externalName") } else { spec.get("externalName") };
    let external_name: Option<Box<str>> = given.and_then(|f| f.str()).filter(|_| external).map(|name| name.to_ascii_lowercase().into());
    let rare = (!udp_ports.is_empty() || external_name.is_some()).then(|| RareService { udp_ports: udp_ports.into(), external_name });
    thread_local! {
        static PORTS: RefCell<Recent<[ServicePort]>> = const { RefCell::new(Recent::new()) };
    }
    let ports = PORTS.with_borrow_mut(|recent| recent.share(ports));
    Some(Service { ports, selector, rare: rare.map(Box::new), place: field.node().span })
}

/// A number, or the name of a port of the Pods' containers.
fn target_port(field: &Field<'_>) -> Option<Target> {
    let Some(name) = field.node().as_str() else { return field.port().map(Target::Number) };
    let good = !name.is_empty() && name.len() <= 15 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !good {
        field.invalid(format!("\"{name}\" is not a port"), "write a number, or the name of a port of the Pods");
    }
    good.then(|| Target::Name(name.into()))
}

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// From its label.
    pub service: Option<Name>,
    /// Equal lists are shared.
    pub ports: Arc<[SlicePort]>,
    pub endpoints: Box<[SliceEndpoint]>,
}

impl EndpointSlice {
    /// Whether addresses are names (`addressType: FQDN`).
    pub fn is_fqdn(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.address, SliceAddress::Name(_)))
    }
    /// A slice is found by `namespace/service`.
    pub fn index_keys(&self, meta: &Meta) -> Vec<Name> {
        self.service.iter().map(|service| format!("{}/{service}", meta.key.namespace).into()).collect()
    }
}

/// A port of TCP or UDP; within a Service their names tell them apart.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    pub name: Box<str>,
    pub port: u16,
}

/// An address of an endpoint, which hardly ever has several.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    pub address: SliceAddress,
    pub health: HealthStatus,
    pub zone: Option<Name>,
    /// Whose labels are those of the endpoint.
    pub pod: Option<PodRef>,
}

/// The `targetRef` of an endpoint, where that is a Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodRef {
    /// `None` for that of the object that refers.
    pub namespace: Option<Name>,
    pub name: Name,
}

/// Reads `targetRef`; what is no Pod, or not told well, has no labels.
pub fn pod_ref(endpoint: &Object<'_>) -> Option<PodRef> {
    let target = endpoint.object("targetRef")?;
    target.ignore(&["apiVersion", "fieldPath", "resourceVersion", "uid"]);
    let (kind, name) = (target.str("kind"), target.str("name"));
    let namespace = target.str("namespace").map(recent::name);
    Some(PodRef { namespace, name: name.filter(|_| kind == Some("Pod"))?.into() })
}

#[derive(Clone, Debug, PartialEq)]
pub enum SliceAddress {
    Ip(IpAddr),
    Name(Box<str>),
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub fn decode_endpoint_slice(root: &Object<'_>, meta: &Meta) -> Option<EndpointSlice> {
    let service = meta.label(SERVICE_NAME).map(recent::name);
    if service.is_none() {
        let message = format!("the label {SERVICE_NAME} is missing: these endpoints belong to no Service");
        let at = root.get("metadata").and_then(|m| m.object()).and_then(|m| {
            m.ignore_rest();
            m.get("name")
        });
        if let Some(field) = at {
            field.warning("NoService", message, format!("add {SERVICE_NAME}: NAME under metadata.labels"));
        }
    }
    let types = [("IPv4", false), ("IPv6", false), ("FQDN", true)];
    let fqdn = root.required("addressType")?.choice(&types)?;
    let mut ports = Vec::new();
    for item in root.list("ports") {
        let Some(port) = item.object() else { continue };
        port.ignore(&["appProtocol"]);
        let spoken = port.choice("protocol", TRANSPORTS).is_none_or(|protocol| protocol.is_some());
        let name = port.str("name").unwrap_or_default().into();
        if let Some(number) = port.port("port")
            && spoken
        {
            ports.push(SlicePort { name, port: number });
        }
    }
    let endpoints = root.list("endpoints").iter().filter_map(|e| decode_endpoint(e, fqdn)).flatten().collect();
    thread_local! {
        static PORTS: RefCell<Recent<[SlicePort]>> = const { RefCell::new(Recent::new()) };
    }
    Some(EndpointSlice { service, ports: PORTS.with_borrow_mut(|recent| recent.share(ports)), endpoints })
}

/// `None` for an endpoint that can take nothing.
fn decode_endpoint(field: &Field<'_>, fqdn: bool) -> Option<impl Iterator<Item = SliceEndpoint>> {
    let endpoint = field.object()?;
    endpoint.ignore(&["hostname", "nodeName", "hints", "deprecatedTopology"]);
    let (zone, pod) = (endpoint.str("zone").map(recent::name), pod_ref(&endpoint));
    let mut addresses = Vec::new();
    for address in endpoint.list("addresses") {
        let Some(text) = address.str() else { continue };
        match text.parse() {
            Ok(ip) if !fqdn => addresses.push(SliceAddress::Ip(ip)),
            _ if fqdn => addresses.push(SliceAddress::Name(text.to_ascii_lowercase().into())),
            _ => address.invalid(format!("\"{text}\" is not an IP address"), "an IP address, or addressType: FQDN for names"),
        }
    }
    let conditions = endpoint.object("conditions");
    let condition = |name| conditions.as_ref().and_then(|c| c.bool(name));
    // Unset is unknown, which the API says to take as true for `ready`, and `serving` follows `ready`.
    let ready = condition("ready").unwrap_or(true);
    let serving = condition("serving").unwrap_or(ready);
    let terminating = condition("terminating").unwrap_or(false);
    let health = match (ready, serving && terminating) {
        (true, _) => HealthStatus::Healthy,
        (false, true) => HealthStatus::Draining,
        (false, false) => return None,
    };
    Some(addresses.into_iter().map(move |address| SliceEndpoint { address, health, zone: zone.clone(), pod: pod.clone() }))
}

/// The entries that TLS can use, as PEM texts that were checked, and all texts.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// `tls.crt` or `cert`.
    pub certificate_chain: Option<String>,
    /// `tls.key` or `key`.
    pub private_key: Option<String>,
    /// `ca.crt` or `cacert`.
    pub trusted_ca: Option<String>,
    /// `ca.crl` or `crl`.
    pub crl: Option<String>,
    /// Every text, by its key.
    pub data: BTreeMap<Box<str>, String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMap {
    /// `ca.crt` or `cacert`, a PEM text.
    pub trusted_ca: Option<String>,
    /// What it says of the whole gateway, where it is one that does.
    pub settings: Option<Box<Settings>>,
    /// The target ports of Gateways, where it is the one that has them.
    pub target_ports: Option<Box<TargetPorts>>,
}

/// Certificates, keys and roots under the names that Kubernetes and Istio give them.
const CHAIN: [&str; 2] = ["tls.crt", "cert"];
const KEY: [&str; 2] = ["tls.key", "key"];
const ROOTS: [&str; 2] = ["ca.crt", "cacert"];
const REVOKED: [&str; 2] = ["ca.crl", "crl"];

pub fn decode_secret(root: &Object<'_>) -> Option<Secret> {
    root.ignore(&["immutable"]);
    let kind = root.get("type").and_then(|f| f.str()).unwrap_or("Opaque");
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    let mut data = BTreeMap::new();
    let wanted = |key: &str| [CHAIN, KEY, ROOTS, REVOKED].iter().flatten().any(|w| *w == key);
    for map in [root.get("data"), root.get("stringData")].iter().flatten() {
        [CHAIN, KEY, ROOTS, REVOKED].iter().flatten().for_each(|key| map.asks_for(key, &[]));
    }
    for (key, value) in root.entries("data") {
        if !wanted(key) {
            let decoded = plain(&value)
                .and_then(|text| BASE64_STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).ok())
                .and_then(|b| String::from_utf8(b).ok());
            data.extend(decoded.map(|text| (key.into(), text)));
            continue;
        }
        let text = value.str()?;
        let compact: String = text.split_ascii_whitespace().collect();
        match BASE64_STANDARD.decode(compact).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(pem) => _ = texts.insert(key, pem),
            None => report(
                root,
                format!("data[\"{key}\"] is not a PEM text in base64"),
                "encode it with base64, or write it plainly under stringData",
            ),
        }
    }
    for (key, value) in root.entries("stringData") {
        if !wanted(key) {
            data.extend(plain(&value).map(|text| (key.into(), text.to_string())));
            continue;
        }
        texts.insert(key, value.str()?.to_string());
    }
    data.extend(texts.iter().map(|(key, text)| ((*key).into(), text.clone())));
    let mut take = |names: [&'static str; 2]| names.into_iter().find_map(|n| texts.remove(n));
    let secret = Secret { certificate_chain: take(CHAIN), private_key: take(KEY), trusted_ca: take(ROOTS), crl: take(REVOKED), data };
    check_secret(root, kind, &secret);
    Some(secret)
}

/// A text, without a report for what is none: a report shows the line, and these lines are secret.
fn plain<'a>(field: &'a Field<'_>) -> Option<&'a str> {
    field.node().as_str()
}

fn check_secret(root: &Object<'_>, kind: &str, secret: &Secret) {
    if kind == "kubernetes.io/tls" && (secret.certificate_chain.is_none() || secret.private_key.is_none()) {
        return report(root, "a Secret of the type kubernetes.io/tls has tls.crt and tls.key".into(), "add both under data or stringData");
    }
    if secret.certificate_chain.as_deref().is_some_and(|pem| !is_certificates(pem)) {
        report(root, "tls.crt holds no certificate that can be read".into(), "a PEM text with one or more CERTIFICATE blocks");
    }
    if secret.private_key.as_deref().is_some_and(|pem| !is_private_key(pem)) {
        report(
            root,
            "tls.key holds no private key that can be read".into(),
            "a PEM text with a PRIVATE KEY block (PKCS#8, PKCS#1 or SEC1)",
        );
    }
    if secret.trusted_ca.as_deref().is_some_and(|pem| !is_certificates(pem)) {
        report(root, "ca.crt holds no certificate that can be read".into(), "a PEM text with one or more CERTIFICATE blocks");
    }
    if secret.crl.as_deref().is_some_and(|pem| !is_revocation_lists(pem)) {
        report(root, "ca.crl holds no revocation list that can be read".into(), "a PEM text with one or more X509 CRL blocks");
    }
}

/// At the kind, never at the value: a report shows the line, and these lines are secret.
fn report(root: &Object<'_>, message: String, help: &str) {
    if let Some(kind) = root.get("kind") {
        kind.error("InvalidSecret", message, help);
    }
}

pub fn decode_config_map(root: &Object<'_>, meta: &Meta) -> Option<ConfigMap> {
    root.ignore(&["binaryData", "immutable"]);
    let found = root.entries("data").into_iter().find(|(key, _)| ROOTS.contains(key));
    let trusted_ca = match found {
        None => None,
        Some((_, field)) => {
            let pem = field.str()?;
            let good = is_certificates(pem);
            if !good {
                // Its users must not go on with what it held before.
                let message = "holds no certificate that can be read: nobody is trusted by it";
                field.warning("InvalidValue", message, "a PEM text with one or more CERTIFICATE blocks");
            }
            good.then(|| pem.to_string())
        }
    };
    Some(ConfigMap { trusted_ca, settings: settings::decode(root, meta), target_ports: target_ports::decode(root, meta).map(Box::new) })
}
