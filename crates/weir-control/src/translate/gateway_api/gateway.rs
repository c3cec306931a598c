//! Gateways and ListenerSets: what their listeners ask of ports, and their conditions.
use super::{
    attach,
    listeners::{self, Conflict, Entry},
    tls,
};
use crate::{
    api::gateway_api::{
        CONTROLLER, GatewayClass, ListenerSet,
        gateway::Gateway,
        listener::{PROTOCOLS, Protocol},
    },
    object::{Created, Object},
    status::condition::{Condition, PENDING, Scope},
    translate::{Bind, Cx, ListenerPart, Part, PortKind, PortPart, Rank, RankApi, RouteEntry, http_table},
};
use std::{collections::BTreeSet, sync::Arc};
use weir_config::{diagnostic::Diagnostic, model::SocketProtocol, reader::nearest};

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
    if let Some(place) = gateway.parameters {
        part.condition(Scope::Object, "Accepted", false, "InvalidParameters");
        part.condition(Scope::Object, "Programmed", false, "Invalid");
        let found = Diagnostic::warning("InvalidParameters", "there is no kind of parameters that Weir knows: the Gateway is not opened");
        return part.report(object, place, "spec.infrastructure.parametersRef", found.help("remove parametersRef"));
    }
    if let Some(pool) = &cx.options.gateway_address_pool
        && gateway.addresses.is_empty()
        && cx.gateway_address(&object.key).is_none()
    {
        part.condition(Scope::Object, "Accepted", true, "Accepted");
        part.condition(Scope::Object, "Programmed", false, "AddressNotAssigned");
        let message = format!("all addresses of {pool} belong to other Gateways: the Gateway is not opened");
        let found = Diagnostic::error("AddressNotAssigned", message).help("a wider --gateway-address-pool, or spec.addresses");
        return part.report(object, gateway.class_place, "spec.addresses", found);
    }
    let entries = listeners::all(cx, object, gateway);
    let own = translate_listeners(cx, object, gateway, &entries, part);
    let accepted = if own.accepted == own.all { "Accepted" } else { "ListenersNotValid" };
    part.condition(Scope::Object, "Accepted", own.accepted > 0, accepted);
    let waits = part.conditions.iter().any(|c| c.kind == "Programmed" && c.reason == PENDING);
    let programmed = match own.programmed {
        0 if waits => PENDING,
        0 => "Invalid",
        _ => "Programmed",
    };
    part.condition(Scope::Object, "Programmed", own.programmed > 0, programmed);
    if gateway.has_service(object, cx) {
        part.service_ports = service_ports(&entries);
    }
    let trouble = tls::client_trouble(cx, object, gateway, part).or_else(|| {
        let unresolved = part.conditions.iter().any(|c| c.kind == "ResolvedRefs" && !c.status);
        unresolved.then_some("ListenersNotResolved")
    });
    part.condition(Scope::Object, "ResolvedRefs", trouble.is_none(), trouble.unwrap_or("ResolvedRefs"));
    let validations = gateway.frontend.iter().flat_map(|f| f.ports.iter().map(|(_, v)| v).chain([&f.default])).flatten();
    if validations.into_iter().any(|v| v.insecure) {
        part.condition(Scope::Object, "InsecureFrontendValidationMode", true, "ConfigurationChanged");
    }
    part.attached_listener_sets = attached_sets(cx, object, gateway, &entries);
}

/// The ports that the Service of a Gateway should have.
fn service_ports(entries: &[Entry<'_>]) -> Vec<(u16, SocketProtocol)> {
    let good = entries.iter().filter(|e| e.conflict.is_none() && e.listener.protocol != Protocol::Other);
    let ports: BTreeSet<(u16, SocketProtocol)> = good.map(|e| (e.listener.port, e.listener.protocol.transport())).collect();
    ports.into_iter().collect()
}

/// How many ListenerSets have a listener that is good.
fn attached_sets(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, entries: &[Entry<'_>]) -> u32 {
    let sets = listeners::sets(cx, &object.key, gateway);
    let attached = sets.iter().filter(|(set, _)| translate_listeners(cx, set, gateway, entries, &mut Part::default()).programmed > 0);
    attached.count() as u32
}

pub fn translate_listener_set(cx: &Cx<'_>, object: &Arc<Object>, set: &ListenerSet, part: &mut Part) {
    let refuse = |reason: &'static str, part: &mut Part| {
        part.condition(Scope::Object, "Accepted", false, reason);
        part.condition(Scope::Object, "Programmed", false, reason);
    };
    let parent = match attach::of_set(cx, object) {
        Ok(parent) => parent,
        Err(found) => {
            // What is of another class, or has no Gateway yet, is not Weir's to judge.
            if found.reason == "NotAllowed" {
                refuse("NotAllowed", part);
            }
            return part.report(object, set.place, "spec.parentRef", found);
        }
    };
    if parent.spec.unsupported_address.is_some() || parent.spec.parameters.is_some() {
        refuse("ParentNotAccepted", part);
        let found = Diagnostic::warning(
            "ParentNotAccepted",
            format!("the Gateway {}/{} is not accepted", parent.gateway.key.namespace, parent.gateway.key.name),
        );
        return part.report(object, set.place, "spec.parentRef", found);
    }
    let entries = listeners::all(cx, parent.gateway, parent.spec);
    let own = translate_listeners(cx, object, parent.spec, &entries, part);
    if own.programmed == 0 {
        return refuse("ListenersNotValid", part);
    }
    let reason = if own.programmed == own.all { "Accepted" } else { "ListenersNotValid" };
    part.condition(Scope::Object, "Accepted", true, reason);
    part.condition(Scope::Object, "Programmed", true, "Programmed");
}

/// How many listeners an object has, and how many of them are good.
struct Own {
    all: usize,
    accepted: usize,
    programmed: usize,
}

/// The listeners of `object` among all of the Gateway.
fn translate_listeners(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, entries: &[Entry<'_>], part: &mut Part) -> Own {
    let mut own = Own { all: 0, accepted: 0, programmed: 0 };
    for entry in entries.iter().filter(|e| Arc::ptr_eq(e.owner, object)) {
        translate_listener(cx, gateway, entry, part);
        let holds = |kind| {
            let of = |c: &&Condition| c.kind == kind && matches!(&c.scope, Scope::Listener(name) if **name == *entry.listener.name);
            part.conditions.iter().find(of).is_some_and(|c| c.status)
        };
        own.all += 1;
        own.accepted += usize::from(holds("Accepted"));
        own.programmed += usize::from(holds("Programmed"));
    }
    own
}

fn translate_listener(cx: &Cx<'_>, gateway: &Gateway, entry: &Entry<'_>, part: &mut Part) {
    let Entry { owner, listener, .. } = entry;
    let field = format!("spec.listeners[{}]", entry.index);
    let scope = || Scope::listener(&listener.name);
    part.listeners.push(ListenerPart { name: listener.name.clone(), supported_kinds: listener.kinds.clone() });
    if listener.invalid_kinds {
        part.condition(scope(), "ResolvedRefs", false, "InvalidRouteKinds");
    }
    if let Some((word, place)) = &listener.unsupported {
        part.condition(scope(), "Accepted", false, "UnsupportedProtocol");
        part.condition(scope(), "Programmed", false, "Invalid");
        part.report(owner, *place, format!("{field}.protocol"), unsupported(word));
    } else if let Some(conflict) = entry.conflict {
        conflicted(entry, conflict, &field, part);
    } else {
        let binds = gateway.binds(entry.gateway, listener, cx);
        if binds.is_empty() && gateway.has_service(entry.gateway, cx) {
            part.condition(scope(), "Programmed", false, PENDING);
        }
        for bind in binds {
            open(cx, gateway, entry, bind, &field, part);
        }
        part.condition(scope(), "Conflicted", false, "NoConflicts");
    }
    part.condition(scope(), "Accepted", true, "Accepted");
    part.condition(scope(), "ResolvedRefs", true, "ResolvedRefs");
    part.condition(scope(), "Programmed", true, "Programmed");
}

fn unsupported(word: &str) -> Diagnostic {
    let message = format!("listeners of the protocol {word} are not supported and are not opened");
    // HBONE is that of the waypoints of an ambient mesh; those of other implementations are `DOMAIN/NAME`.
    if word == "HBONE" || word.contains('/') {
        return Diagnostic::warning("UnsupportedProtocol", message).help("HTTP, HTTPS, TLS, TCP or UDP");
    }
    let help = match nearest(word, PROTOCOLS.map(|(known, _)| known)) {
        Some(near) => format!("did you mean {near}?"),
        None => "HTTP, HTTPS, TLS, TCP or UDP".to_string(),
    };
    Diagnostic::error("UnsupportedProtocol", message).help(help)
}

fn conflicted(entry: &Entry<'_>, conflict: Conflict, field: &str, part: &mut Part) {
    let port = entry.listener.port;
    let reason = conflict.reason();
    let (what, help) = match conflict {
        Conflict::Hostname => ("and this hostname", "take another port or hostname; the first of them serves"),
        Conflict::Protocol => ("and another protocol", "take another port; the first of them serves"),
    };
    let scope = || Scope::listener(&entry.listener.name);
    part.condition(scope(), "Accepted", false, reason);
    part.condition(scope(), "Programmed", false, reason);
    part.condition(scope(), "Conflicted", true, reason);
    let message = format!("another listener of this Gateway has the port {port} {what}");
    part.report(entry.owner, entry.listener.place, field, Diagnostic::error(reason, message).help(help));
}

fn open(cx: &Cx<'_>, gateway: &Gateway, entry: &Entry<'_>, bind: Bind, field: &str, part: &mut Part) {
    let Entry { owner, listener, .. } = entry;
    let (kind, table) = match listener.protocol {
        Protocol::Http => (PortKind::Http, http_table(bind)),
        Protocol::Https => {
            let Some(tls) = tls::terminate(cx, gateway, entry, field, part) else { return };
            let table = gateway.table(listener, &entry.gateway.key, bind);
            let server_names = listener.hostname.iter().map(|h| h.to_string()).collect();
            (PortKind::Https { server_names, tls, table: table.clone() }, table)
        }
        // Routes say where the bytes go; what is wrong with the certificate is said here.
        Protocol::TlsTerminate => {
            let mut checked = Part::default();
            let _ = tls::terminate(cx, gateway, entry, field, &mut checked);
            part.findings.append(&mut checked.findings);
            checked.conditions.into_iter().for_each(|c| part.condition(c.scope, c.kind, c.status, c.reason));
            return;
        }
        Protocol::Tls | Protocol::Tcp | Protocol::Udp | Protocol::Other => return,
    };
    let (object, gateway) = (owner.title(), entry.gateway.key.clone());
    part.ports.push(PortPart { bind, gateway, object, line: listener.line, created: Created::default(), kind });
    if let Some(hostname) = &listener.hostname {
        // Hosts of this listener are not answered for by a wider one, even where no route is.
        let rank = Rank::listed(RankApi::Default, Created::default(), owner.key.clone(), 0);
        part.routes.push(RouteEntry { table, domain: hostname.clone(), rank, route: None });
    }
}
