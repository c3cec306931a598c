//! TLS of listeners: their certificates, and what they ask of clients.
use super::{listeners::Entry, permitted::permitted};
use crate::{
    api::gateway_api::{gateway::Gateway, listener::CertificateRef},
    object::{Key, Object, Spec},
    status::condition::Scope,
    translate::{
        Cx, Part, SecretKey,
        secret::{self, Lacks},
    },
};
use std::sync::Arc;
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{ClientCertificate, DownstreamTls, Name},
};

/// Why a reference to a Secret cannot be used, except that it is not permitted.
#[derive(Clone, Copy)]
pub enum Invalid {
    ListenerCertificate,
    ClientCertificate,
}

impl Invalid {
    fn reason(self) -> &'static str {
        match self {
            Invalid::ListenerCertificate => "InvalidCertificateRef",
            Invalid::ClientCertificate => "InvalidClientCertificateRef",
        }
    }
}

/// Why the Gateway's own certificate cannot be had, which is reported.
pub fn client_trouble(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) -> Option<&'static str> {
    let reference = gateway.client_certificate.as_ref()?;
    let found = certificate(cx, &object.key, reference, Invalid::ClientCertificate).err()?;
    let reason = found.reason;
    let message = format!("{}: upstreams that a BackendTLSPolicy is for are not connected to", found.message);
    part.report(object, reference.place, "spec.tls.backend.clientCertificateRef", Diagnostic { message, ..found });
    Some(reason)
}

/// The secret that a Gateway shows to upstreams. One that cannot be had is named all the same: nobody is to be talked to as
/// if no certificate were asked for.
pub fn client_certificate(cx: &Cx<'_>, gateway: &Key, part: &mut Part) -> Option<Name> {
    let Spec::Gateway(spec) = &cx.find(gateway)?.spec else { return None };
    let reference = spec.client_certificate.as_ref()?;
    let secret = match certificate(cx, gateway, reference, Invalid::ClientCertificate) {
        Ok(key) => key,
        Err(found) if found.reason == "RefNotPermitted" || reference.wrong_kind.is_some() => SecretKey::certificate(&gateway.namespace, ""),
        Err(_) => SecretKey::certificate(reference.namespace.as_ref().unwrap_or(&gateway.namespace), &reference.name),
    };
    Some(part.use_secret(secret))
}

/// The secret that a Gateway or ListenerSet refers to; else the error, with the reason of the condition.
fn certificate(cx: &Cx<'_>, owner: &Key, reference: &CertificateRef, invalid: Invalid) -> Result<SecretKey, Diagnostic> {
    let refuse = |reason, message: String, help: String| Err(Diagnostic::new(Severity::Error, reason, message).help(help));
    if let Some(kind) = &reference.wrong_kind {
        return refuse(invalid.reason(), format!("{kind} holds no certificate"), "a Secret of the core group".into());
    }
    let own = &owner.namespace;
    let namespace = reference.namespace.as_ref().unwrap_or(own);
    let name = format!("{namespace}/{}", reference.name);
    let kind = owner.kind.info().name;
    if !permitted(cx, (kind, own), ("", "Secret", namespace, &reference.name)) {
        let help = format!("add a ReferenceGrant to the namespace {namespace}, from {kind}s of {own}");
        return refuse("RefNotPermitted", format!("the Secret {name} is in another namespace, without a ReferenceGrant"), help);
    }
    let key = SecretKey::certificate(namespace, &reference.name);
    match secret::check(cx, &key) {
        Ok(()) => Ok(key),
        Err(Lacks::Object) => refuse(invalid.reason(), format!("there is no Secret {name}"), "add it".into()),
        Err(Lacks::Content) => {
            let message = format!("the Secret {name} has no tls.crt and tls.key");
            refuse(invalid.reason(), message, "use one of the type kubernetes.io/tls".into())
        }
    }
}

/// TLS with the certificates that can be had; without any the listener is not opened. `field` is the path of the listener.
pub fn terminate(cx: &Cx<'_>, gateway: &Gateway, entry: &Entry<'_>, field: &str, part: &mut Part) -> Option<DownstreamTls> {
    let Entry { owner, listener, .. } = entry;
    let scope = || Scope::listener(&listener.name);
    let mut certificates: Vec<Name> = Vec::new();
    for (index, reference) in listener.certificates.iter().enumerate() {
        match certificate(cx, &owner.key, reference, Invalid::ListenerCertificate) {
            Ok(key) => certificates.push(part.use_secret(key)),
            Err(found) => {
                part.condition(scope(), "ResolvedRefs", false, found.reason);
                part.report(owner, reference.place, format!("{field}.tls.certificateRefs[{index}]"), found);
            }
        }
    }
    let mut tls = DownstreamTls { certificates, ..DownstreamTls::default() };
    if let Some(validation) = gateway.validation(listener) {
        // What is said for all listeners of the Gateway is looked up by it.
        let by = if listener.validation.is_some() { owner } else { cx.find(&entry.gateway.key)? };
        let resolved = match &validation.authority {
            Some(authority) => authority.resolve(cx, by, &validation.field, "InvalidCACertificateKind", part),
            None => Err("InvalidCACertificateRef"),
        };
        match resolved {
            Ok(key) => tls.client_ca = Some(part.use_secret(key)),
            // Without roots to verify against, nobody may enter.
            Err(reason) => {
                part.condition(scope(), "Accepted", false, "NoValidCACertificate");
                part.condition(scope(), "ResolvedRefs", false, reason);
                part.condition(scope(), "Programmed", false, "Invalid");
                return None;
            }
        }
        tls.client_certificate = if validation.insecure { ClientCertificate::AcceptUntrusted } else { ClientCertificate::Required };
    }
    if tls.certificates.is_empty() {
        part.condition(scope(), "Programmed", false, "Invalid");
        return None;
    }
    Some(tls)
}
