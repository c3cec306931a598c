//! The certificates of authorities that Gateways and BackendTLSPolicies refer to.
use super::permitted::permitted;
use crate::{
    api::gateway_api::authority::AuthorityRef,
    object::Object,
    translate::{
        Cx, Part, SecretKey, SecretUse,
        secret::{self, Lacks},
    },
};
use weir_config::diagnostic::{Diagnostic, Severity};

impl AuthorityRef {
    /// The secret with the roots; `Err` with the reason of the condition where they cannot be had, which is reported at `field`.
    /// `wrong_kind` is the reason for a reference to something else than a Secret or ConfigMap.
    pub fn resolve(
        &self,
        cx: &Cx<'_>,
        owner: &Object,
        field: &str,
        wrong_kind: &'static str,
        part: &mut Part,
    ) -> Result<SecretKey, &'static str> {
        let source = match &self.kind {
            Ok(kind) => *kind,
            Err(words) => {
                let found = Diagnostic::error(wrong_kind, format!("{words} holds no certificates of authorities"));
                part.report(owner, self.place, field, found.help("a ConfigMap or Secret of the core group, with ca.crt"));
                return Err(wrong_kind);
            }
        };
        let own = &owner.key.namespace;
        let namespace = self.namespace.as_ref().unwrap_or(own);
        let kind = source.info().name;
        let key = SecretKey { source, namespace: namespace.clone(), name: self.name.clone(), content: SecretUse::Roots };
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
