//! Listeners of Gateways and ListenerSets: their TLS and which routes they take.
use super::{
    GROUP,
    authority::{self, AuthorityRef},
    namespaces::{self, From},
};
use crate::{api::checks::hostname, object::meta::Kind};
use weir_config::{
    model::{Name, SocketProtocol},
    node::Chars,
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Box<str>,
    pub port: u16,
    /// Exact or `*.suffix`, lower case; `None` for any.
    pub hostname: Option<Name>,
    pub protocol: Protocol,
    /// The word for the protocol and its place, if it is none that Weir supports.
    pub unsupported: Option<(Box<str>, Chars)>,
    pub certificates: Vec<CertificateRef>,
    /// What is asked of clients' certificates, where the listener says so itself.
    pub validation: Option<Validation>,
    pub from: From,
    /// What `allowedRoutes.kinds` takes, of the kinds that the protocol can have.
    pub kinds: Vec<Kind>,
    /// `allowedRoutes.kinds` has others, which was reported.
    pub invalid_kinds: bool,
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
    /// Not supported.
    Other,
}

impl Protocol {
    pub fn transport(self) -> SocketProtocol {
        if self == Protocol::Udp { SocketProtocol::Udp } else { SocketProtocol::Tcp }
    }
}

/// `frontendValidation`, and `validation` of a Gateway's `tls.frontend`.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// `None` where there is none that can be read, which was reported: nobody can be let in.
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
    /// `KIND of the group "GROUP"`, where that is no Secret.
    pub wrong_kind: Option<Box<str>>,
    pub place: Chars,
}

/// The protocols that Weir supports.
pub const PROTOCOLS: [(&str, Protocol); 5] =
    [("HTTP", Protocol::Http), ("HTTPS", Protocol::Https), ("TLS", Protocol::Tls), ("TCP", Protocol::Tcp), ("UDP", Protocol::Udp)];

pub fn decode_listeners(spec: &Object<'_>) -> Vec<Listener> {
    spec.required("listeners");
    spec.distinct("listeners", "name").iter().filter_map(decode).collect()
}

pub fn decode_validation(field: &Field<'_>) -> Option<Validation> {
    let object = field.object()?;
    let insecure = object.choice("mode", &[("AllowValidOnly", false), ("AllowInsecureFallback", true)]).unwrap_or(false);
    object.required("caCertificateRefs")?;
    let field = format!("{}.caCertificateRefs[0]", field.path()).into();
    Some(Validation { authority: authority::decode(&object), insecure, field })
}

fn decode(field: &Field<'_>) -> Option<Listener> {
    let listener = field.object()?;
    listener.describe(&[
        ("name", "", "Unique among the listeners of the object; routes refer to it by `sectionName`."),
        ("port", "", "The port that is opened."),
        ("protocol", "", "What the listener speaks: HTTP, HTTPS, TLS, TCP or UDP."),
        ("hostname", "", "Only requests for this host, or for hosts below `*.`. By default any."),
    ]);
    let name = listener.required("name")?.str()?.into();
    let given = listener.required("port")?;
    let (port, line) = (given.port()?, given.document_line());
    let given = listener.required("protocol")?;
    let word = given.str()?;
    let mut protocol = PROTOCOLS.iter().find(|(w, _)| *w == word).map_or(Protocol::Other, |(_, protocol)| *protocol);
    let unsupported = (protocol == Protocol::Other).then(|| (word.into(), given.node().span));
    let hostname = listener.get("hostname").and_then(|f| hostname(&f));
    let (mut certificates, mut validation) = (Vec::new(), None);
    let given = listener.get("tls");
    if let Some(tls) = given.as_ref().and_then(|f| f.object()) {
        tls.unsupported(&["options"]);
        tls.describe(&[("mode", "Terminate", "Whether TLS ends here, or passes through to the backends.")]);
        validation = tls.get("frontendValidation").and_then(|f| decode_validation(&f));
        let passthrough = tls.choice("mode", &[("Terminate", false), ("Passthrough", true)]).unwrap_or(false);
        let references = tls.list("certificateRefs");
        certificates = references.iter().filter_map(decode_certificate).collect();
        match protocol {
            Protocol::Https if passthrough => {
                tls.get("mode")?.invalid("a listener of the protocol HTTPS terminates TLS", "Terminate, or the protocol TLS");
            }
            Protocol::Tls if !passthrough => protocol = Protocol::TlsTerminate,
            Protocol::Http | Protocol::Tcp | Protocol::Udp => {
                tls.field().invalid("a listener of this protocol has no TLS", "the protocol HTTPS or TLS");
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
    let (from, kinds, invalid_kinds) = decode_allowed(&listener, protocol)?;
    Some(Listener {
        name,
        port,
        hostname,
        protocol,
        unsupported,
        certificates,
        validation,
        from,
        kinds,
        invalid_kinds,
        place: field.node().span,
        line,
    })
}

pub fn decode_certificate(field: &Field<'_>) -> Option<CertificateRef> {
    let reference = field.object()?;
    let (group, kind) = (reference.str("group").unwrap_or_default(), reference.str("kind").unwrap_or("Secret"));
    let namespace = reference.str("namespace").map(Name::from);
    let name = reference.required("name")?.str()?.into();
    let wrong_kind = ((group, kind) != ("", "Secret")).then(|| format!("{kind} of the group \"{group}\"").into());
    Some(CertificateRef { namespace, name, wrong_kind, place: field.node().span })
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

/// Namespaces, kinds, and whether there are kinds that cannot attach.
fn decode_allowed(listener: &Object<'_>, protocol: Protocol) -> Option<(From, Vec<Kind>, bool)> {
    let possible = route_kinds(protocol);
    let Some(allowed) = listener.object("allowedRoutes") else { return Some((From::Same, possible.to_vec(), false)) };
    // An empty list says nothing.
    let given = allowed.list("kinds");
    let mut kinds = if given.is_empty() { possible.to_vec() } else { Vec::new() };
    let mut invalid = false;
    for item in given {
        let kind = item.object()?;
        let (group, name) = (kind.str("group").unwrap_or(GROUP), kind.required("kind")?.str()?);
        match possible.iter().find(|k| (group, name) == (GROUP, k.info().name)) {
            Some(kind) => kinds.push(*kind),
            None => {
                invalid = true;
                let list: Vec<&str> = possible.iter().map(|k| k.info().name).collect();
                let message = format!("routes of the kind {name} of the group {group} do not attach to this listener");
                item.warning("InvalidRouteKinds", message, list.join(" or "));
            }
        }
    }
    let from = match allowed.object("namespaces") {
        Some(namespaces) => namespaces::decode(&namespaces, From::Same, &["Same", "All", "Selector"])?,
        None => From::Same,
    };
    Some((from, kinds, invalid))
}
