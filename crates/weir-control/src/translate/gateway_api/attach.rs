//! Which listeners a route attaches to, and for which host names.
use super::{
    listeners::{self, Entry},
    namespaces::allows,
};
use crate::{
    api::gateway_api::{
        CONTROLLER,
        gateway::Gateway,
        http_route::{ParentKind, ParentRef},
        listener::Listener,
    },
    aspect::Aspect,
    object::{Kind, Object, Spec},
    translate::{Cx, class::ForeignClass},
};
use std::{collections::BTreeSet, sync::Arc};
use weir_config::{diagnostic::Diagnostic, model::Name};

/// Whether a class is Weir's; else why not. See [`Options::needs_class`](crate::Options::needs_class).
pub fn class(cx: &Cx<'_>, name: &str) -> Result<(), ForeignClass> {
    match cx.aspects(Kind::GatewayClass, "", name, &[Aspect::General]).map(|o| &o.spec) {
        Some(Spec::GatewayClass(class)) if *class.controller != *CONTROLLER => {
            Err(ForeignClass::Named { kind: "GatewayClass", name: name.into(), controller: class.controller.clone() })
        }
        None if cx.options.needs_class => Err(ForeignClass::Missing { kind: "GatewayClass", name: name.into() }),
        _ => Ok(()),
    }
}

/// A parent that was found.
pub struct Parent<'a> {
    pub gateway: &'a Arc<Object>,
    pub spec: &'a Gateway,
    /// The ListenerSet, where that is the parent.
    pub set: Option<&'a Arc<Object>>,
}

/// A listener that a route is attached to, and the domains that it has there.
pub struct Attached<'a> {
    pub entry: Entry<'a>,
    pub domains: Vec<Name>,
}

/// Why a route is not attached to a parent: reasons of the condition `Accepted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    NoMatchingParent,
    NotAllowedByListeners,
    NoMatchingListenerHostname,
}

impl Refused {
    pub fn reason(self) -> &'static str {
        match self {
            Refused::NoMatchingParent => "NoMatchingParent",
            Refused::NotAllowedByListeners => "NotAllowedByListeners",
            Refused::NoMatchingListenerHostname => "NoMatchingListenerHostname",
        }
    }
    pub fn words(self) -> &'static str {
        match self {
            Refused::NoMatchingParent => "has no listener of this name or port",
            Refused::NotAllowedByListeners => "allows no routes of this kind and namespace",
            Refused::NoMatchingListenerHostname => "has no listener whose hostname goes together with this route's",
        }
    }
    pub fn help(self) -> &'static str {
        match self {
            Refused::NoMatchingParent => "sectionName is the name of a listener, port its port",
            Refused::NotAllowedByListeners => "see allowedRoutes of the listener: kinds, and namespaces.from, which is Same by default",
            Refused::NoMatchingListenerHostname => "change the hostnames of the route, or the hostname of the listener",
        }
    }
}

/// The Gateway of a parent, and its ListenerSet. Of a Gateway's own listeners only those are read that [`attach`] asks for.
pub fn parent<'a>(cx: &Cx<'a>, namespace: &str, parent: &ParentRef) -> Result<Parent<'a>, Diagnostic> {
    if parent.kind == ParentKind::ListenerSet {
        let set = cx.get(Kind::ListenerSet, namespace, &parent.name);
        let missing = || cx.missing(Kind::ListenerSet, namespace, &parent.name, Refused::NoMatchingParent.reason());
        let set = set.ok_or_else(missing)?;
        return of_set(cx, set).map_err(|found| Diagnostic { reason: Refused::NoMatchingParent.reason(), ..found });
    }
    let aspects = |aspects: &[Aspect<'_>]| cx.aspects(Kind::Gateway, namespace, &parent.name, aspects);
    let object = aspects(&[Aspect::General]);
    let Some((gateway, Spec::Gateway(spec))) = object.map(|o| (o, &o.spec)) else {
        return Err(cx.missing(Kind::Gateway, namespace, &parent.name, Refused::NoMatchingParent.reason()));
    };
    let ports: Vec<u16> = match (&parent.section, parent.port) {
        (Some(section), _) => {
            aspects(&[Aspect::Section(section)]);
            spec.listeners.iter().filter(|l| l.name == *section).map(|l| l.port).collect()
        }
        (None, Some(port)) => vec![port],
        (None, None) => {
            aspects(&[Aspect::Ports]);
            spec.listeners.iter().map(|l| l.port).collect()
        }
    };
    let ports: BTreeSet<u16> = ports.into_iter().collect();
    aspects(&ports.into_iter().map(Aspect::Port).collect::<Vec<_>>());
    served(cx, gateway, spec)?;
    Ok(Parent { gateway, spec, set: None })
}

/// The Gateway of a ListenerSet, if that takes the set.
pub fn of_set<'a>(cx: &Cx<'a>, set: &'a Arc<Object>) -> Result<Parent<'a>, Diagnostic> {
    let Spec::ListenerSet(spec) = &set.spec else { return Err(Diagnostic::warning("Invalid", "this is no ListenerSet")) };
    if spec.foreign {
        return Err(Diagnostic::warning("Invalid", "the parent of the ListenerSet is no Gateway").help("a Gateway"));
    }
    let namespace = spec.namespace.as_ref().unwrap_or(&set.key.namespace);
    let found = cx.get(Kind::Gateway, namespace, &spec.gateway).map(|o| (o, &o.spec));
    let Some((gateway, Spec::Gateway(gateway_spec))) = found else {
        return Err(cx.missing(Kind::Gateway, namespace, &spec.gateway, "ParentNotAccepted"));
    };
    served(cx, gateway, gateway_spec)?;
    if !allows(cx, &gateway_spec.allowed_listeners, namespace, &set.key.namespace) {
        let message = format!("the Gateway {namespace}/{} does not allow ListenerSets of this namespace", spec.gateway);
        return Err(Diagnostic::warning("NotAllowed", message)
            .help("see allowedListeners.namespaces.from of the Gateway, which is None by default"));
    }
    Ok(Parent { gateway, spec: gateway_spec, set: Some(set) })
}

fn served(cx: &Cx<'_>, gateway: &Object, spec: &Gateway) -> Result<(), Diagnostic> {
    class(cx, &spec.class).map_err(|why| {
        let message = format!("Weir does not serve the Gateway {}/{}: {why}", gateway.key.namespace, gateway.key.name);
        Diagnostic::warning(Refused::NoMatchingParent.reason(), message).help("use a Gateway of another class")
    })
}

/// Attaches a `route` (its kind and namespace) with `hostnames` to the listeners of `parent` that it asks for.
pub fn attach<'a>(
    cx: &Cx<'a>,
    parent: &Parent<'a>,
    asked: &ParentRef,
    (kind, namespace): (Kind, &str),
    hostnames: &[Name],
) -> Result<Vec<Attached<'a>>, Refused> {
    let all = listeners::all(cx, parent.gateway, parent.spec);
    let owner = parent.set.unwrap_or(parent.gateway);
    let mut attached = Vec::new();
    let mut best = Refused::NoMatchingParent;
    for entry in all.iter().filter(|e| Arc::ptr_eq(e.owner, owner) && e.conflict.is_none()) {
        let listener = entry.listener;
        if asked.section.as_ref().is_some_and(|s| *s != listener.name) || asked.port.is_some_and(|p| p != listener.port) {
            continue;
        }
        if !listener.kinds.contains(&kind) || !allows(cx, &listener.from, &owner.key.namespace, namespace) {
            best = best.max(Refused::NotAllowedByListeners);
            continue;
        }
        let mut domains = common_domains(listener.hostname.as_ref(), hostnames);
        if domains.is_empty() {
            best = best.max(Refused::NoMatchingListenerHostname);
            continue;
        }
        domains.retain(|domain| !is_anothers(&all, listener, domain));
        attached.push(Attached { entry: *entry, domains });
    }
    if attached.is_empty() { Err(best) } else { Ok(attached) }
}

/// A more specific listener of the gateway has this domain for itself (listener isolation).
fn is_anothers(all: &[Entry<'_>], listener: &Listener, domain: &str) -> bool {
    all.iter().filter(|e| e.conflict.is_none()).map(|e| e.listener).any(|other| {
        let specific =
            other.hostname.as_ref().filter(|h| covers(h, domain) && other.port == listener.port && other.protocol == listener.protocol);
        specific.is_some_and(|h| listener.hostname.as_ref().is_none_or(|own| own != h && covers(own, h)))
    })
}
/// What both a listener and a route answer for; `*` where neither names a host.
fn common_domains(listener: Option<&Name>, route: &[Name]) -> Vec<Name> {
    match (listener, route) {
        (None, []) => vec![Arc::from("*")],
        (Some(host), []) => vec![host.clone()],
        (None, hosts) => hosts.to_vec(),
        (Some(own), hosts) => hosts.iter().filter_map(|host| common(own, host)).collect(),
    }
}

/// The narrower of two host names that have hosts in common.
fn common(a: &Name, b: &Name) -> Option<Name> {
    if covers(a, b) {
        return Some(b.clone());
    }
    covers(b, a).then(|| a.clone())
}

/// Whether every host of `narrow` is one of `wide`.
pub fn covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide == "*"
        || wide.strip_prefix('*').is_some_and(|suffix| {
            // `*.a.test` covers `b.a.test`, `*.b.a.test` and not `a.test`.
            narrow.strip_suffix(suffix).is_some_and(|rest| !rest.is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_in_common() {
        let cases = [
            (None, vec![], vec!["*"]),
            (Some("a.test"), vec![], vec!["a.test"]),
            (None, vec!["a.test", "*.b.test"], vec!["a.test", "*.b.test"]),
            (
                Some("*.test"),
                vec!["a.test", "b.a.test", "*.c.test", "*.test", "test", "a.tests"],
                vec!["a.test", "b.a.test", "*.c.test", "*.test"],
            ),
            (Some("a.c.test"), vec!["*.test", "*.c.test", "*.d.test", "a.c.test"], vec!["a.c.test", "a.c.test", "a.c.test"]),
            (Some("a.test"), vec!["b.test"], vec![]),
        ];
        for (listener, route, want) in cases {
            let route: Vec<Name> = route.into_iter().map(Name::from).collect();
            let got = common_domains(listener.map(Name::from).as_ref(), &route);
            assert_eq!(got, want.into_iter().map(Name::from).collect::<Vec<_>>(), "{listener:?} {route:?}");
        }
    }
}
