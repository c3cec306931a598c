//! The `status` of an object in the form of its API, made of what the board says.
use crate::{
    api::{
        gateway_api::{
            GROUP, features,
            gateway::Gateway,
            http_route::{ParentKind, ParentRef},
        },
        mcp_bridge::Registry,
    },
    kubernetes::{own, status::validation},
    object::{Key, Kind, Object, Spec},
    status::{Condition, Details, ListenerStatus, ObjectStatus, Scope},
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What the status says beside the board.
pub struct Facts<'a> {
    pub controller: &'a str,
    /// The addresses of a Gateway without `spec.addresses`, and of an Ingress.
    pub addresses: &'a [String],
    /// The addresses of the Service that this Gateway has; `None` where Gateways have none.
    pub own_service: Option<&'a [String]>,
    /// Whether a Gateway or ListenerSet is Weir's.
    pub owns: &'a dyn Fn(&Key) -> bool,
    /// The generation on the server, if that version has errors; see [`Observed`](crate::kubernetes::fetched::Observed).
    pub rejected: Option<i64>,
}

/// Reasons of objects that are not for this gateway, as those of a mesh: their status is not for it to write.
const NOT_OURS: [&str; 3] = ["NotAccepted", "MeshOnly", "NoParents"];

/// Weir's own part of the status; `None` for a kind without one.
pub fn status(object: &Object, of: &ObjectStatus, facts: &Facts<'_>) -> Option<Value> {
    let conditions = |scope: &Scope| -> Vec<Value> {
        of.conditions.iter().filter(|c| c.scope == *scope).map(|c| condition(c, of.observed_generation)).collect()
    };
    let nothing = Details::default();
    let details = of.details.as_deref().unwrap_or(&nothing);
    let listener = |l: &ListenerStatus| listener(l, conditions(&Scope::Listener(l.name.clone())));
    let listeners = || details.listeners.iter().map(listener).collect::<Vec<_>>();
    Some(match &object.spec {
        Spec::GatewayClass(_) => {
            let features: Vec<Value> = features::supported(facts.own_service.is_some()).map(|name| json!({ "name": name })).collect();
            json!({ "conditions": conditions(&Scope::Object), "supportedFeatures": features })
        }
        Spec::Gateway(gateway) => json!({
            "addresses": addresses(gateway, details.address, facts),
            "conditions": conditions(&Scope::Object),
            "listeners": listeners(),
            "attachedListenerSets": details.attached_listener_sets,
        }),
        // That of another controller's Gateway, or of one that is not there, has no conditions.
        Spec::ListenerSet(_) if !of.is_ours => return None,
        Spec::ListenerSet(_) => json!({ "conditions": conditions(&Scope::Object), "listeners": listeners() }),
        Spec::BackendTlsPolicy(_) => {
            let ancestor = |gateway: &Key| {
                let reference = json!({ "group": GROUP, "kind": "Gateway", "namespace": gateway.namespace, "name": gateway.name });
                json!({ "controllerName": facts.controller, "ancestorRef": reference, "conditions": conditions(&Scope::Object) })
            };
            // As many as the API allows.
            json!({ "ancestors": details.ancestors.iter().take(MAX_ANCESTORS).map(ancestor).collect::<Vec<_>>() })
        }
        Spec::HttpRoute(route) => parents(object, &route.parents, conditions, facts),
        Spec::L4Route(route) => parents(object, &route.parents, conditions, facts),
        // Of another class: not ours to touch.
        Spec::Ingress(_) if is_foreign(of) => return None,
        Spec::Ingress(_) => load_balancer(facts.addresses),
        _ if of.conditions.iter().any(|c| NOT_OURS.contains(&c.reason)) => return None,
        Spec::McpBridge(bridge) => {
            let registry = |(index, registry): (usize, &Registry)| {
                let conditions = conditions(&Scope::Registry(index as u32));
                (!conditions.is_empty()).then(|| json!({ "name": registry.name, "type": registry.kind.name(), "conditions": conditions }))
            };
            let registries: Vec<Value> = bridge.registries.iter().enumerate().filter_map(registry).collect();
            json!({ "conditions": conditions(&Scope::Object), "registries": registries })
        }
        _ if validation::has_messages(object.key.kind) => istio(object.key.kind, of, facts.rejected.unwrap_or(of.observed_generation)),
        _ if own::is_written(object.key.kind) => json!({ "conditions": conditions(&Scope::Object) }),
        _ => return None,
    })
}

/// Of an object of Istio's API. One that never had a version without errors has a status, too.
pub fn istio(kind: Kind, of: &ObjectStatus, generation: i64) -> Value {
    json!({
        "conditions": of.conditions.iter().map(|c| condition(c, generation)).collect::<Vec<_>>(),
        "validationMessages": validation::messages(kind, of.findings.iter().map(|finding| &**finding)),
    })
}

/// Whether another controller is responsible for an Ingress.
pub fn is_foreign(of: &ObjectStatus) -> bool {
    of.findings.iter().any(|finding| finding.reason == "NotAccepted")
}

/// The status of an Ingress.
pub fn load_balancer(addresses: &[String]) -> Value {
    let addresses = addresses.iter().map(|address| match address.parse::<IpAddr>() {
        Ok(_) => json!({ "ip": address }),
        Err(_) => json!({ "hostname": address }),
    });
    json!({ "loadBalancer": { "ingress": addresses.collect::<Vec<_>>() } })
}

/// `lastTransitionTime` is set where it is written.
fn condition(of: &Condition, generation: i64) -> Value {
    let status = if of.status { "True" } else { "False" };
    // As long as the API allows.
    let message: String = of.message.chars().take(MAX_MESSAGE).collect();
    json!({ "type": of.kind, "status": status, "reason": of.reason, "message": message, "observedGeneration": generation })
}

const MAX_MESSAGE: usize = 32768;
const MAX_ANCESTORS: usize = 16;

/// Those of its Service, else what it asks for, else what it was given, else what all others have.
fn addresses(gateway: &Gateway, given: Option<IpAddr>, facts: &Facts<'_>) -> Vec<Value> {
    let address = |value: &str| {
        let kind = if value.parse::<IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
        json!({ "type": kind, "value": value })
    };
    if let Some(addresses) = facts.own_service {
        return addresses.iter().map(|a| address(a)).collect();
    }
    match (&gateway.addresses[..], given) {
        ([], Some(given)) => vec![address(&given.to_string())],
        ([], None) => facts.addresses.iter().map(|a| address(a)).collect(),
        (all, _) => all.iter().map(|a| address(&a.to_string())).collect(),
    }
}

fn listener(of: &ListenerStatus, conditions: Vec<Value>) -> Value {
    let kinds: Vec<Value> = of.supported_kinds.iter().map(|kind| json!({ "group": GROUP, "kind": kind.info().name })).collect();
    json!({ "name": of.name, "supportedKinds": kinds, "attachedRoutes": of.attached_routes, "conditions": conditions })
}

/// An entry for each parent that is a Gateway of Weir, or a ListenerSet of one.
fn parents(object: &Object, refs: &[ParentRef], conditions: impl Fn(&Scope) -> Vec<Value>, facts: &Facts<'_>) -> Value {
    let entries = refs.iter().enumerate().filter_map(|(index, parent)| {
        let namespace = parent.namespace.as_ref().unwrap_or(&object.key.namespace);
        let kind = match parent.kind {
            ParentKind::Gateway => Kind::Gateway,
            ParentKind::ListenerSet => Kind::ListenerSet,
            ParentKind::Foreign => return None,
        };
        if !(facts.owns)(&Key::new(kind, namespace, &parent.name)) {
            return None;
        }
        let conditions = conditions(&Scope::parent(index));
        (!conditions.is_empty())
            .then(|| json!({ "controllerName": facts.controller, "parentRef": parent_ref(parent, kind), "conditions": conditions }))
    });
    json!({ "parents": entries.collect::<Vec<_>>() })
}

fn parent_ref(parent: &ParentRef, kind: Kind) -> Value {
    let mut reference = json!({ "group": GROUP, "kind": kind.info().name, "name": parent.name });
    if let Some(namespace) = &parent.namespace {
        reference["namespace"] = json!(namespace);
    }
    if let Some(section) = &parent.section {
        reference["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        reference["port"] = json!(port);
    }
    reference
}
