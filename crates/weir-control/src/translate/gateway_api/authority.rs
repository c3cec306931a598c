//! References to the certificates of authorities: of Gateways, for their clients, and of BackendTLSPolicies.
use super::permitted;
use crate::{
    object::{Kind, Object},
    translate::{
        Cx, Part, SecretKey, SecretUse,
        secret::{self, Lacks},
    },
};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::Name,
    node::Chars,
    reader::{Field, Object as Fields},
};

/// A ConfigMap or Secret with `ca.crt`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorityRef {
    /// [`Kind::Secret`] or [`Kind::ConfigMap`].
    pub kind: Kind,
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
    let kind = match (group, kind) {
        ("" | "core", "ConfigMap") => Kind::ConfigMap,
        ("" | "core", "Secret") => Kind::Secret,
        _ => {
            let message = format!("{kind} of the group \"{group}\" holds no certificates of authorities");
            field.error("InvalidKind", message, "a ConfigMap or Secret of the core group, with ca.crt");
            return None;
        }
    };
    let namespace = reference.str("namespace").map(Name::from);
    Some(AuthorityRef { kind, namespace, name: reference.required("name")?.str()?.into(), place: field.node().span })
}

impl AuthorityRef {
    /// The secret with the roots; `Err` with the reason of the condition where they cannot be had, which is reported at `field`.
    pub fn resolve(&self, cx: &Cx<'_>, owner: &Object, field: &str, part: &mut Part) -> Result<SecretKey, &'static str> {
        let own = &owner.key.namespace;
        let namespace = self.namespace.as_ref().unwrap_or(own);
        let kind = self.kind.info().name;
        let key = SecretKey { source: self.kind, namespace: namespace.clone(), name: self.name.clone(), content: SecretUse::Roots };
        let from = owner.key.kind.info().name;
        let (reason, message, help) = if !permitted(cx, (from, own), ("", kind, namespace, &self.name)) {
            let message = format!("the {kind} {namespace}/{} is in another namespace, without a ReferenceGrant", self.name);
            ("RefNotPermitted", message, format!("add a ReferenceGrant to the namespace {namespace}, from {from}s of {own}"))
        } else {
            match secret::check(cx, &key) {
                Ok(()) => return Ok(key),
                Err(Lacks::Object) => {
                    ("InvalidCACertificateRef", format!("there is no {kind} {namespace}/{}", self.name), "add it, with ca.crt".to_string())
                }
                Err(Lacks::Content) => {
                    let message = format!("the {kind} {namespace}/{} has no ca.crt", self.name);
                    ("InvalidCACertificateRef", message, "add ca.crt with the authority's certificate to it".to_string())
                }
            }
        };
        part.report(owner, self.place, field, Diagnostic::new(Severity::Error, reason, message).help(help));
        Err(reason)
    }
}
