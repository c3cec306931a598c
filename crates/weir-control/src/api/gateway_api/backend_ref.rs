//! References of routes to backends.
use crate::api::mcp_bridge;
use weir_config::{model::Name, node::Chars, reader::Object, recent};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendRef {
    pub kind: BackendKind,
    pub namespace: Option<Name>,
    pub name: Name,
    pub port: Option<u16>,
    pub place: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub enum BackendKind {
    Service,
    /// Istio's way to name a host of a ServiceEntry.
    Hostname,
    /// Higress' way to name a service of a registry. Its port may be left out.
    Registry,
    Other(Box<OtherKind>),
}

/// A kind that is no backend.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherKind {
    group: String,
    kind: String,
}

impl std::fmt::Display for OtherKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of the group \"{}\"", self.kind, self.group)
    }
}

pub fn decode(object: &Object<'_>) -> Option<BackendRef> {
    let (group, kind) = (object.str("group").unwrap_or_default(), object.str("kind").unwrap_or("Service"));
    let kind = match (group, kind) {
        ("" | "core", "Service") => BackendKind::Service,
        ("networking.istio.io", "Hostname") => BackendKind::Hostname,
        (mcp_bridge::GROUP, "Service") => BackendKind::Registry,
        _ => BackendKind::Other(Box::new(OtherKind { group: group.to_string(), kind: kind.to_string() })),
    };
    Some(BackendRef {
        kind,
        namespace: object.str("namespace").map(recent::name),
        name: recent::name(object.required("name")?.str()?),
        port: object.port("port"),
        place: object.field().node().span,
    })
}
