//! Gateways: what their listeners ask of ports.
use super::{CONTROLLER, Gateway, GatewayClass, Listener, Protocol, attach, permitted};
use crate::{
    object::Object,
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
        part.condition("", "Accepted", true, "Accepted");
    }
}

pub fn translate_gateway(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) {
    if let Err(why) = attach::class(cx, &gateway.class) {
        let help = format!("use the class weir, or add a GatewayClass with controllerName: {CONTROLLER}");
        let found = Diagnostic::warning("NotAccepted", format!("this Gateway is not Weir's: {why}")).help(help);
        return part.find(object, gateway.class_place, "spec.gatewayClassName", found);
    }
    part.condition("", "Accepted", true, "Accepted");
    let before = part.ports.len();
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        if attach::is_shadowed(gateway, index) {
            let message = format!("another listener of this Gateway has the port {} and this hostname", listener.port);
            let found = Diagnostic::error("HostnameConflict", message).help("take another port or hostname; the first of them serves");
            part.find(object, listener.place, field, found);
            part.condition(&listener.name, "Accepted", false, "HostnameConflict");
            continue;
        }
        part.condition(&listener.name, "Accepted", listener.protocol != Protocol::Other, "Accepted");
        for bind in gateway.binds(listener.port) {
            translate_listener(cx, object, listener, bind, &field, part);
        }
    }
    let programmed = part.ports.len() > before
        || gateway.listeners.iter().any(|l| matches!(l.protocol, Protocol::Tls | Protocol::TlsTerminate | Protocol::Tcp));
    part.condition("", "Programmed", programmed, if programmed { "Programmed" } else { "Invalid" });
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
            part.conditions.append(&mut checked.conditions);
            if fine {
                part.condition(&listener.name, "Programmed", true, "Programmed");
            }
            return;
        }
        Protocol::Tls | Protocol::Tcp => return part.condition(&listener.name, "Programmed", true, "Programmed"),
        Protocol::Other => return,
    };
    part.condition(&listener.name, "Programmed", true, "Programmed");
    part.ports.push(PortPart { bind, object: object.title.clone(), kind });
    if let Some(hostname) = &listener.hostname {
        // Hosts of this listener are not answered for by a wider one, even where no route is.
        let rank = Rank::listed(RankApi::Default, "", object.title.clone(), 0);
        part.routes.push(RouteEntry { table, domain: hostname.clone(), rank, route: None });
    }
}

/// TLS with the certificates that can be had; without any the listener is not opened.
pub(super) fn terminate(cx: &Cx<'_>, object: &Arc<Object>, listener: &Listener, field: &str, part: &mut Part) -> Option<DownstreamTls> {
    let mut certificates: Vec<Name> = Vec::new();
    for (index, reference) in listener.certificates.iter().enumerate() {
        let namespace = reference.namespace.as_ref().unwrap_or(&object.key.namespace);
        let key = SecretKey::certificate(namespace, &reference.name);
        let to = ("", "Secret", &**namespace, &*reference.name);
        let trouble = if !permitted(cx, ("Gateway", &object.key.namespace), to) {
            let help = format!("add a ReferenceGrant to the namespace {namespace}, from Gateways of {}", object.key.namespace);
            Some((
                "RefNotPermitted",
                format!("the Secret {namespace}/{} is in another namespace, without a ReferenceGrant", reference.name),
                help,
            ))
        } else {
            let name = format!("{namespace}/{}", reference.name);
            match secret::check(cx, &key) {
                Ok(()) => None,
                Err(Lacks::Object) => Some(("InvalidCertificateRef", format!("there is no Secret {name}"), "add it".to_string())),
                Err(Lacks::Content) => Some((
                    "InvalidCertificateRef",
                    format!("the Secret {name} has no tls.crt and tls.key"),
                    "use one of the type kubernetes.io/tls".to_string(),
                )),
            }
        };
        match trouble {
            None => certificates.push(part.use_secret(key)),
            Some((reason, message, help)) => {
                part.condition(&listener.name, "ResolvedRefs", false, reason);
                let found = Diagnostic::new(Severity::Error, reason, message).help(help);
                part.find(object, reference.place, format!("{field}.tls.certificateRefs[{index}]"), found);
            }
        }
    }
    if certificates.is_empty() {
        part.condition(&listener.name, "Programmed", false, "Invalid");
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
                part.condition(&listener.name, "ResolvedRefs", false, reason);
                part.condition(&listener.name, "Programmed", false, "Invalid");
                return None;
            }
        }
        tls.client_certificate = if validation.insecure { ClientCertificate::AcceptUntrusted } else { ClientCertificate::Required };
    }
    Some(tls)
}
