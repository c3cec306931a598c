//! Gateway: its listeners, their TLS and which routes they take.
use super::{
    GROUP,
    authority::{self, AuthorityRef},
};
use crate::{
    api::checks::hostname,
    object::meta::{Kind, Meta},
};
use std::net::IpAddr;
use weir_config::{
    model::Name,
    node::Chars,
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub class: Box<str>,
    pub class_place: Chars,
    /// `addresses`; empty for the default.
    pub addresses: Vec<IpAddr>,
    /// The first address of another type than IPAddress.
    pub unsupported_address: Option<UnsupportedAddress>,
    pub listeners: Vec<Listener>,
    /// `tls.backend.clientCertificateRef`: what upstreams are shown that a BackendTLSPolicy is for.
    pub client_certificate: Option<CertificateRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UnsupportedAddress {
    /// Its type.
    pub kind: Box<str>,
    pub place: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Box<str>,
    pub port: u16,
    /// Exact or `*.suffix`, lower case; `None` for any.
    pub hostname: Option<Name>,
    pub protocol: Protocol,
    pub certificates: Vec<CertificateRef>,
    /// What is asked of clients' certificates.
    pub validation: Option<Validation>,
    pub from: From,
    /// What `allowedRoutes.kinds` takes, of the kinds that the protocol can have.
    pub kinds: Vec<Kind>,
    /// `allowedRoutes.kinds` names others, too.
    pub has_invalid_kinds: bool,
    pub place: Chars,
    /// Of the port.
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Https,
    /// TLS that is passed on.
    Tls,
    /// TLS that ends here, with bytes behind it.
    TlsTerminate,
    Tcp,
    Udp,
    /// Known to the API, not supported yet; reported when it was read.
    Other,
}

/// `frontendValidation`.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// `None` where it was wrong, which was reported: nobody can be let in.
    pub authority: Option<AuthorityRef>,
    /// `mode: AllowInsecureFallback`
    pub insecure: bool,
    /// Path of the reference.
    pub field: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CertificateRef {
    pub namespace: Option<Name>,
    pub name: Name,
    pub place: Chars,
}

/// Namespaces whose routes may attach.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    Same,
    All,
    Selector(Vec<Requirement>),
}

/// Of a label selector.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub key: Box<str>,
    pub operator: Operator,
    pub values: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

pub fn decode(root: &Object<'_>) -> Option<Gateway> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["allowedListeners", "backendTLS", "defaultScope"]);
    spec.describe(&[("gatewayClassName", "", "The GatewayClass of this Gateway.")]);
    if let Some(infrastructure) = spec.object("infrastructure") {
        // What a controller would write on the objects that it makes; there are none.
        infrastructure.ignore(&["labels", "annotations"]);
        infrastructure.unsupported(&["parametersRef"]);
    }
    let (mut addresses, mut unsupported_address) = (Vec::new(), None);
    for field in spec.list("addresses") {
        match decode_address(&field) {
            Ok(address) => addresses.extend(address),
            Err(unsupported) => unsupported_address = unsupported_address.or(Some(unsupported)),
        }
    }
    let class = spec.required("gatewayClassName")?;
    let mut listeners: Vec<Listener> = {
        spec.required("listeners")?;
        spec.distinct("listeners", "name").iter().filter_map(decode_listener).collect()
    };
    let mut client_certificate = None;
    if let Some(tls) = spec.object("tls") {
        if let Some(frontend) = tls.object("frontend") {
            decode_frontend(&frontend, &mut listeners);
        }
        let reference = tls.object("backend").and_then(|backend| backend.get("clientCertificateRef"));
        client_certificate = reference.and_then(|f| decode_certificate(&f, "InvalidClientCertificateRef"));
    }
    let (class, class_place) = (class.str()?.into(), class.node().span);
    Some(Gateway { class, class_place, addresses, unsupported_address, listeners, client_certificate })
}

/// What is asked of the clients of all HTTPS listeners of a port, or of all that no port's own is for.
fn decode_frontend(frontend: &Object<'_>, listeners: &mut [Listener]) {
    let validation = |at: Option<Object<'_>>| at.and_then(|o| o.get("validation")).and_then(|f| decode_validation(&f));
    let mut ports = Vec::new();
    for item in frontend.list("perPort") {
        let Some(own) = item.object() else { continue };
        let port = own.required("port").and_then(|f| f.port());
        ports.extend(port.map(|port| (port, validation(own.object("tls")))));
    }
    let default = validation(frontend.object("default"));
    let https = listeners.iter_mut().filter(|l| l.protocol == Protocol::Https && l.validation.is_none());
    for listener in https {
        let own = ports.iter().find(|(port, _)| *port == listener.port).map(|(_, validation)| validation);
        listener.validation.clone_from(own.unwrap_or(&default));
    }
}

fn decode_validation(field: &Field<'_>) -> Option<Validation> {
    let object = field.object()?;
    let insecure = object.choice("mode", &[("AllowValidOnly", false), ("AllowInsecureFallback", true)]).unwrap_or(false);
    object.required("caCertificateRefs")?;
    let field = format!("{}.caCertificateRefs[0]", field.path()).into();
    Some(Validation { authority: authority::decode(&object), insecure, field })
}

/// `None` for one that is to be chosen here: the default.
fn decode_address(field: &Field<'_>) -> Result<Option<IpAddr>, UnsupportedAddress> {
    let Some(object) = field.object() else { return Ok(None) };
    let kind = object.str("type").unwrap_or("IPAddress");
    let Some(value) = object.get("value").filter(|f| f.node().as_str() != Some("")) else { return Ok(None) };
    if kind != "IPAddress" {
        return Err(UnsupportedAddress { kind: kind.into(), place: field.node().span });
    }
    let address = value.str().and_then(|text| text.parse().ok());
    if address.is_none() {
        value.invalid("is not an IP address", "an address of this machine, as 10.0.0.1 or ::1");
    }
    Ok(address)
}

fn decode_listener(field: &Field<'_>) -> Option<Listener> {
    let listener = field.object()?;
    listener.describe(&[
        ("name", "", "Unique among the listeners of the Gateway; routes refer to it by `sectionName`."),
        ("port", "", "The port that is opened."),
        ("protocol", "", "What the listener speaks."),
        ("hostname", "", "Only requests for this host, or for hosts below `*.`. By default any."),
    ]);
    let name = listener.required("name")?.str()?.into();
    let given = listener.required("port")?;
    let (port, line) = (given.port()?, given.document_line());
    let words =
        [("HTTP", Protocol::Http), ("HTTPS", Protocol::Https), ("TLS", Protocol::Tls), ("TCP", Protocol::Tcp), ("UDP", Protocol::Udp)];
    let given = listener.required("protocol")?;
    // HBONE is that of the waypoints of an ambient mesh.
    let mut protocol = if given.node().as_str() == Some("HBONE") { Protocol::Other } else { given.choice(&words)? };
    if protocol == Protocol::Other {
        let message = "listeners of this protocol are not supported yet and are not opened";
        listener.get("protocol")?.warning("UnsupportedValue", message, "HTTP, HTTPS, TLS, TCP or UDP");
    }
    let hostname = listener.get("hostname").and_then(|f| hostname(&f));
    let (mut certificates, mut validation) = (Vec::new(), None);
    let given = listener.get("tls");
    if let Some(tls) = given.as_ref().and_then(|f| f.object()) {
        tls.unsupported(&["options"]);
        tls.describe(&[("mode", "Terminate", "Whether TLS ends here, or passes through to the backends.")]);
        validation = tls.get("frontendValidation").and_then(|f| decode_validation(&f));
        let passthrough = tls.choice("mode", &[("Terminate", false), ("Passthrough", true)]).unwrap_or(false);
        let references = tls.list("certificateRefs");
        certificates = references.iter().filter_map(|f| decode_certificate(f, "InvalidCertificateRef")).collect();
        match protocol {
            Protocol::Https if passthrough => {
                tls.get("mode")?.invalid("a listener of the protocol HTTPS terminates TLS", "Terminate, or the protocol TLS");
            }
            Protocol::Tls if !passthrough => protocol = Protocol::TlsTerminate,
            Protocol::Http | Protocol::Tcp | Protocol::Udp => {
                tls.field().invalid("a listener of this protocol has no TLS", "the protocol HTTPS or TLS")
            }
            _ => {}
        }
        if matches!(protocol, Protocol::Https | Protocol::TlsTerminate) && references.is_empty() {
            let help = "add tls.certificateRefs with the name of a Secret";
            field.error("MissingField", "a listener that terminates TLS needs a certificate", help);
        }
    } else if matches!(protocol, Protocol::Https | Protocol::Tls) && given.is_none() {
        listener.required("tls");
    }
    let allowed = listener.object("allowedRoutes");
    let (kinds, has_invalid_kinds) = decode_kinds(allowed.as_ref(), protocol)?;
    let from = decode_from(allowed.as_ref())?;
    Some(Listener {
        name,
        port,
        hostname,
        protocol,
        certificates,
        validation,
        from,
        kinds,
        has_invalid_kinds,
        place: field.node().span,
        line,
    })
}

/// `reason` is that of a reference to something else than a Secret.
fn decode_certificate(field: &Field<'_>, reason: &'static str) -> Option<CertificateRef> {
    let reference = field.object()?;
    let (group, kind) = (reference.str("group").unwrap_or_default(), reference.str("kind").unwrap_or("Secret"));
    let namespace = reference.str("namespace").map(Name::from);
    let name = reference.required("name")?.str()?.into();
    if (group, kind) != ("", "Secret") {
        field.error(reason, format!("{kind} of the group \"{group}\" holds no certificate"), "a Secret of the core group");
    }
    Some(CertificateRef { namespace, name, place: field.node().span })
}

/// The kinds of routes that a listener can have at all.
fn route_kinds(protocol: Protocol) -> &'static [Kind] {
    match protocol {
        Protocol::Http | Protocol::Https => &[Kind::HttpRoute, Kind::GrpcRoute],
        Protocol::Tls | Protocol::TlsTerminate => &[Kind::TlsRoute],
        Protocol::Tcp => &[Kind::TcpRoute],
        Protocol::Udp => &[Kind::UdpRoute],
        Protocol::Other => &[],
    }
}

/// The kinds of routes that a listener takes, and whether `allowedRoutes` names others.
fn decode_kinds(allowed: Option<&Object<'_>>, protocol: Protocol) -> Option<(Vec<Kind>, bool)> {
    let possible = route_kinds(protocol);
    let Some(allowed) = allowed else { return Some((possible.to_vec(), false)) };
    let mut kinds = if allowed.has("kinds") { Vec::new() } else { possible.to_vec() };
    let mut invalid = false;
    for item in allowed.list("kinds") {
        let kind = item.object()?;
        let (group, name) = (kind.str("group").unwrap_or(GROUP), kind.required("kind")?.str()?);
        match possible.iter().find(|k| (group, name) == (GROUP, k.info().name)) {
            Some(kind) => kinds.push(*kind),
            None => {
                let list: Vec<&str> = possible.iter().map(|k| k.info().name).collect();
                let message = format!("routes of the kind {name} of the group {group} do not attach to this listener");
                item.warning("InvalidRouteKinds", message, list.join(" or "));
                invalid = true;
            }
        }
    }
    Some((kinds, invalid))
}

fn decode_from(allowed: Option<&Object<'_>>) -> Option<From> {
    let Some(namespaces) = allowed.and_then(|allowed| allowed.object("namespaces")) else { return Some(From::Same) };
    let words = [("Same", From::Same), ("All", From::All), ("Selector", From::Selector(Vec::new())), ("None", From::Selector(Vec::new()))];
    let given = namespaces.get("from").and_then(|f| Some((f.str()?, f)));
    let selector = namespaces.get("selector").map(|s| decode_selector(&s));
    let from = match given {
        None | Some(("Same", _)) => From::Same,
        Some(("All", _)) => From::All,
        Some(("Selector", _)) => match selector {
            Some(selector) => From::Selector(selector?),
            None => {
                namespaces.required("selector");
                return None;
            }
        },
        Some((other, field)) => {
            let list: Vec<&str> = words[..3].iter().map(|(w, _)| *w).collect();
            field.unknown_value(other, format!("one of {}", list.join(", ")));
            return None;
        }
    };
    Some(from)
}

fn decode_selector(field: &Field<'_>) -> Option<Vec<Requirement>> {
    let selector = field.object()?;
    let mut all = Vec::new();
    for (key, value) in selector.entries("matchLabels") {
        all.push(Requirement { key: key.into(), operator: Operator::In, values: vec![value.str()?.into()] });
    }
    let words = [("In", Operator::In), ("NotIn", Operator::NotIn), ("Exists", Operator::Exists), ("DoesNotExist", Operator::DoesNotExist)];
    for item in selector.list("matchExpressions") {
        let expression = item.object()?;
        let key = expression.required("key")?.str()?.into();
        let operator = expression.required("operator")?.choice(&words)?;
        let values = expression.strings("values").into_iter().map(Into::into).collect();
        all.push(Requirement { key, operator, values });
    }
    Some(all)
}

impl Requirement {
    pub fn holds(&self, meta: &Meta) -> bool {
        // Kubernetes gives every namespace this label.
        let value = if &*self.key == "kubernetes.io/metadata.name" { Some(&*meta.key.name) } else { meta.label(&self.key) };
        let listed = value.is_some_and(|v| self.values.iter().any(|w| **w == *v));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
