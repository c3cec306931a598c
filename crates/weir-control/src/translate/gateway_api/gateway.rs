//! Gateways: what their listeners ask of ports.
use super::{attach, permitted::permitted};
use crate::{
    api::gateway_api::{
        CONTROLLER, GatewayClass,
        gateway::{CertificateRef, Gateway, Listener, Protocol},
    },
    object::{Key, Object, Spec},
    status::condition::Scope,
    translate::{
        Bind, Cx, Part, PortKind, PortPart, Rank, RankApi, RouteEntry, SecretKey, http_table,
        secret::{self, Lacks},
    },
};
use std::sync::Arc;
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{ClientCertificate, DownstreamTls, Name},
};

pub fn translate_class(_: &Arc<Object>, class: &GatewayClass, part: &mut Part) {
    if *class.controller == *CONTROLLER {
        part.condition(Scope::Object, "Accepted", true, "Accepted");
    }
}

pub fn translate_gateway(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) {
    if let Err(why) = attach::class(cx, &gateway.class) {
        let help = format!("use another class, or write controllerName: {CONTROLLER} in that GatewayClass");
        let found = Diagnostic::warning("NotAccepted", format!("Weir does not serve this Gateway: {why}")).help(help);
        return part.report(object, gateway.class_place, "spec.gatewayClassName", found);
    }
    if let Some(unsupported) = &gateway.unsupported_address {
        part.condition(Scope::Object, "Accepted", false, "UnsupportedAddress");
        part.condition(Scope::Object, "Programmed", false, "AddressNotUsable");
        let message = format!("addresses of the type {} are not supported: the Gateway is not opened", unsupported.kind);
        let found = Diagnostic::error("UnsupportedAddress", message).help("the type IPAddress, or no addresses for the default one");
        return part.report(object, unsupported.place, "spec.addresses", found);
    }
    part.condition(Scope::Object, "Accepted", true, "Accepted");
    if let Some(pool) = &cx.options.gateway_address_pool
        && gateway.addresses.is_empty()
        && cx.gateway_address(&object.key).is_none()
    {
        part.condition(Scope::Object, "Programmed", false, "AddressNotAssigned");
        let message = format!("all addresses of {pool} belong to other Gateways: the Gateway is not opened");
        let found = Diagnostic::error("AddressNotAssigned", message).help("a wider --gateway-address-pool, or spec.addresses");
        return part.report(object, gateway.class_place, "spec.addresses", found);
    }
    let before = part.ports.len();
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        if attach::is_shadowed(gateway, index) {
            let message = format!("another listener of this Gateway has the port {} and this hostname", listener.port);
            let found = Diagnostic::error("HostnameConflict", message).help("take another port or hostname; the first of them serves");
            part.report(object, listener.place, field, found);
            part.condition(Scope::listener(&listener.name), "Accepted", false, "HostnameConflict");
            part.condition(Scope::listener(&listener.name), "Conflicted", true, "HostnameConflict");
        } else {
            for bind in gateway.binds(&object.key, listener, cx) {
                translate_listener(cx, object, listener, bind, &field, part);
            }
        }
        conclude_listener(listener, part);
    }
    let programmed = part.ports.len() > before
        || gateway.listeners.iter().any(|l| matches!(l.protocol, Protocol::Tls | Protocol::TlsTerminate | Protocol::Tcp | Protocol::Udp));
    part.condition(Scope::Object, "Programmed", programmed, if programmed { "Programmed" } else { "Invalid" });
    let trouble = client_trouble(cx, object, gateway, part).or_else(|| {
        let unresolved = part.conditions.iter().any(|c| c.kind == "ResolvedRefs" && !c.status);
        unresolved.then_some("ListenersNotResolved")
    });
    part.condition(Scope::Object, "ResolvedRefs", trouble.is_none(), trouble.unwrap_or("ResolvedRefs"));
}

/// What the status of a listener says where nothing else was found: of each type one condition.
fn conclude_listener(listener: &Listener, part: &mut Part) {
    let scope = Scope::listener(&listener.name);
    if listener.protocol == Protocol::Other {
        part.condition(scope.clone(), "Accepted", false, "UnsupportedProtocol");
    }
    if listener.has_invalid_kinds {
        part.condition(scope.clone(), "ResolvedRefs", false, "InvalidRouteKinds");
    }
    let says = |part: &Part, kind: &str| part.conditions.iter().any(|c| c.scope == scope && c.kind == kind);
    for (kind, status, reason) in [("Accepted", true, "Accepted"), ("Programmed", false, "Invalid"), ("ResolvedRefs", true, "ResolvedRefs")]
    {
        if !says(part, kind) {
            part.condition(scope.clone(), kind, status, reason);
        }
    }
}

/// Why the Gateway's own certificate cannot be had, which is reported.
fn client_trouble(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) -> Option<&'static str> {
    let reference = gateway.client_certificate.as_ref()?;
    let (reason, message, help) = certificate(cx, &object.key, reference, "InvalidClientCertificateRef").err()?;
    let message = format!("{message}: upstreams that a BackendTLSPolicy is for are not connected to");
    let found = Diagnostic::new(Severity::Error, reason, message).help(help);
    part.report(object, reference.place, "spec.tls.backend.clientCertificateRef", found);
    Some(reason)
}

/// The secret that a Gateway shows to upstreams. One that cannot be had is named all the same: nobody is to be talked to as
/// if no certificate were asked for.
pub fn client_certificate(cx: &Cx<'_>, gateway: &Key, part: &mut Part) -> Option<Name> {
    let Spec::Gateway(spec) = &cx.find(gateway)?.spec else { return None };
    let reference = spec.client_certificate.as_ref()?;
    let secret = match certificate(cx, gateway, reference, "") {
        Ok(key) => key,
        Err(("RefNotPermitted", ..)) => SecretKey::certificate(&gateway.namespace, ""),
        Err(_) => SecretKey::certificate(reference.namespace.as_ref().unwrap_or(&gateway.namespace), &reference.name),
    };
    Some(part.use_secret(secret))
}

/// The secret that a Gateway refers to; else the reason (`invalid`, or that it may not), what to say, and what would help.
fn certificate(
    cx: &Cx<'_>,
    gateway: &Key,
    reference: &CertificateRef,
    invalid: &'static str,
) -> Result<SecretKey, (&'static str, String, String)> {
    let own = &gateway.namespace;
    let namespace = reference.namespace.as_ref().unwrap_or(own);
    let name = format!("{namespace}/{}", reference.name);
    if !permitted(cx, ("Gateway", own), ("", "Secret", namespace, &reference.name)) {
        let help = format!("add a ReferenceGrant to the namespace {namespace}, from Gateways of {own}");
        return Err(("RefNotPermitted", format!("the Secret {name} is in another namespace, without a ReferenceGrant"), help));
    }
    let key = SecretKey::certificate(namespace, &reference.name);
    match secret::check(cx, &key) {
        Ok(()) => Ok(key),
        Err(Lacks::Object) => Err((invalid, format!("there is no Secret {name}"), "add it".to_string())),
        Err(Lacks::Content) => {
            Err((invalid, format!("the Secret {name} has no tls.crt and tls.key"), "use one of the type kubernetes.io/tls".to_string()))
        }
    }
}

fn translate_listener(cx: &Cx<'_>, object: &Arc<Object>, listener: &Listener, bind: Bind, field: &str, part: &mut Part) {
    let (kind, table) = match listener.protocol {
        Protocol::Http => (PortKind::Http, http_table(bind)),
        Protocol::Https => {
            let Some(tls) = terminate(cx, object, listener, field, part) else { return };
            let table = listener.table((&object.key.namespace, &object.key.name), bind);
            let server_names = listener.hostname.iter().map(|h| h.to_string()).collect();
            (PortKind::Https { server_names, tls, table: table.clone() }, table)
        }
        // Routes say where the bytes go; what is wrong with the certificate is said here.
        Protocol::TlsTerminate => {
            let mut checked = Part::default();
            let fine = terminate(cx, object, listener, field, &mut checked).is_some();
            part.findings.append(&mut checked.findings);
            checked.conditions.into_iter().for_each(|c| part.condition(c.scope, c.kind, c.status, c.reason));
            if fine {
                part.condition(Scope::listener(&listener.name), "Programmed", true, "Programmed");
            }
            return;
        }
        Protocol::Tls | Protocol::Tcp | Protocol::Udp => {
            return part.condition(Scope::listener(&listener.name), "Programmed", true, "Programmed");
        }
        Protocol::Other => return,
    };
    part.condition(Scope::listener(&listener.name), "Programmed", true, "Programmed");
    part.ports.push(PortPart { bind, gateway: object.key.clone(), object: object.title(), line: listener.line, created: "".into(), kind });
    if let Some(hostname) = &listener.hostname {
        // Hosts of this listener are not answered for by a wider one, even where no route is.
        let rank = Rank::listed(RankApi::Default, "", object.title(), 0);
        part.routes.push(RouteEntry { table, domain: hostname.clone(), rank, route: None });
    }
}

/// TLS with the certificates that can be had; without any the listener is not opened.
pub(super) fn terminate(cx: &Cx<'_>, object: &Arc<Object>, listener: &Listener, field: &str, part: &mut Part) -> Option<DownstreamTls> {
    let mut certificates: Vec<Name> = Vec::new();
    for (index, reference) in listener.certificates.iter().enumerate() {
        match certificate(cx, &object.key, reference, "InvalidCertificateRef") {
            Ok(key) => certificates.push(part.use_secret(key)),
            Err((reason, message, help)) => {
                part.condition(Scope::listener(&listener.name), "ResolvedRefs", false, reason);
                let found = Diagnostic::new(Severity::Error, reason, message).help(help);
                part.report(object, reference.place, format!("{field}.tls.certificateRefs[{index}]"), found);
            }
        }
    }
    if certificates.is_empty() {
        part.condition(Scope::listener(&listener.name), "Programmed", false, "Invalid");
        return None;
    }
    let mut tls = DownstreamTls { certificates, ..DownstreamTls::default() };
    if let Some(validation) = &listener.validation {
        let resolved = match &validation.authority {
            Some(authority) => authority.resolve(cx, object, &validation.field, part),
            None => Err("InvalidCACertificateRef"),
        };
        match resolved {
            Ok(key) => tls.client_ca = Some(part.use_secret(key)),
            // Without roots to verify against, nobody may enter.
            Err(reason) => {
                part.condition(Scope::listener(&listener.name), "Accepted", false, "NoValidCACertificate");
                part.condition(Scope::listener(&listener.name), "ResolvedRefs", false, reason);
                part.condition(Scope::listener(&listener.name), "Programmed", false, "Invalid");
                return None;
            }
        }
        tls.client_certificate = if validation.insecure { ClientCertificate::AcceptUntrusted } else { ClientCertificate::Required };
    }
    Some(tls)
}
