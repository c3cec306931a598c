//! References to the certificates of authorities: of Gateways, for their clients, and of BackendTLSPolicies.
use crate::object::meta::Kind;
use weir_config::{
    model::Name,
    node::Chars,
    reader::{Field, Object as Fields},
};

/// A ConfigMap or Secret with `ca.crt`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorityRef {
    /// [`Kind::Secret`] or [`Kind::ConfigMap`]; for others the words for them.
    pub kind: Result<Kind, Box<str>>,
    pub namespace: Option<Name>,
    pub name: Name,
    pub place: Chars,
}

/// `caCertificateRefs`; only the first is taken.
pub fn decode(validation: &Fields<'_>) -> Option<AuthorityRef> {
    let list = validation.list("caCertificateRefs");
    for more in list.iter().skip(1) {
        if let Some(object) = more.object() {
            object.ignore_rest();
        }
        more.warning("UnsupportedValue", "only the first reference is taken", "one ConfigMap or Secret with all certificates in ca.crt");
    }
    decode_one(list.first()?)
}

fn decode_one(field: &Field<'_>) -> Option<AuthorityRef> {
    let reference = field.object()?;
    let (group, kind) = (reference.str("group").unwrap_or_default(), reference.required("kind")?.str()?);
    let (name, namespace) = (reference.required("name"), reference.str("namespace").map(Name::from));
    let kind = match (group, kind) {
        ("" | "core", "ConfigMap") => Ok(Kind::ConfigMap),
        ("" | "core", "Secret") => Ok(Kind::Secret),
        _ => Err(format!("{kind} of the group \"{group}\"").into()),
    };
    Some(AuthorityRef { kind, namespace, name: name?.str()?.into(), place: field.node().span })
}
