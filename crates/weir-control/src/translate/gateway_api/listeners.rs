//! The listeners of a Gateway: its own, and those of the ListenerSets that are attached to it.
use super::namespaces::allows;
use crate::{
    api::gateway_api::{
        ListenerSet,
        gateway::Gateway,
        listener::{Listener, Protocol},
        namespaces::From,
    },
    object::{Key, Kind, Object, Spec},
    translate::Cx,
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use weir_config::model::Name;

/// A listener with where it comes from.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub gateway: &'a Arc<Object>,
    /// The Gateway or ListenerSet.
    pub owner: &'a Arc<Object>,
    /// Within its owner.
    pub index: usize,
    pub listener: &'a Listener,
    pub conflict: Option<Conflict>,
}

/// Why a listener cannot be together with one that comes before it: the reason of the condition `Conflicted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    Protocol,
    Hostname,
}

impl Conflict {
    pub fn reason(self) -> &'static str {
        match self {
            Conflict::Protocol => "ProtocolConflict",
            Conflict::Hostname => "HostnameConflict",
        }
    }
}

/// All listeners of a Gateway: its own come first, then those of its ListenerSets, the oldest set first.
pub fn all<'a>(cx: &Cx<'a>, object: &'a Arc<Object>, gateway: &'a Gateway) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = entries(object, object, &gateway.listeners).collect();
    for (set, spec) in sets(cx, &object.key, gateway) {
        entries.extend(self::entries(object, set, &spec.listeners));
    }
    let found = conflicts(&entries.iter().map(|e| e.listener).collect::<Vec<_>>());
    entries.iter_mut().zip(found).for_each(|(entry, conflict)| entry.conflict = conflict);
    entries
}

fn entries<'a>(gateway: &'a Arc<Object>, owner: &'a Arc<Object>, listeners: &'a [Listener]) -> impl Iterator<Item = Entry<'a>> {
    listeners.iter().enumerate().map(move |(index, listener)| Entry { gateway, owner, index, listener, conflict: None })
}

/// The ListenerSets that a Gateway takes, in their order.
pub fn sets<'a>(cx: &Cx<'a>, gateway: &Key, spec: &Gateway) -> Vec<(&'a Arc<Object>, &'a ListenerSet)> {
    if spec.allowed_listeners == From::None {
        return Vec::new();
    }
    let all = cx.by_word(Kind::ListenerSet, &format!("{}/{}", gateway.namespace, gateway.name));
    let mut sets: Vec<(&Arc<Object>, &ListenerSet)> = all
        .filter_map(|object| match &object.spec {
            Spec::ListenerSet(set) => Some((object, &**set)),
            _ => None,
        })
        .filter(|(object, _)| allows(cx, &spec.allowed_listeners, &gateway.namespace, &object.key.namespace))
        .collect();
    sets.sort_by_key(|(object, _)| object.age());
    sets
}

/// What each of these conflicts with, of those before it that do not conflict themselves.
fn conflicts<'a>(listeners: &[&'a Listener]) -> Vec<Option<Conflict>> {
    /// What is spoken on a port, and for which host names.
    type Spoken<'a> = (Family, HashSet<Option<&'a Name>>);
    let mut ports: HashMap<(u16, bool), Spoken<'a>> = HashMap::new();
    let conflict = |listener: &&'a Listener| {
        let family = family(listener.protocol)?;
        // Ports of UDP are others than those of TCP.
        let port = ports.entry((listener.port, family == Family::Udp));
        let (first, hostnames) = port.or_insert_with(|| (family, HashSet::new()));
        if *first != family {
            return Some(Conflict::Protocol);
        }
        (!hostnames.insert(listener.hostname.as_ref())).then_some(Conflict::Hostname)
    };
    listeners.iter().map(conflict).collect()
}

/// Protocols that share a port, told apart by the host name.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Http,
    Tls,
    Tcp,
    Udp,
}

fn family(protocol: Protocol) -> Option<Family> {
    match protocol {
        Protocol::Http => Some(Family::Http),
        Protocol::Https | Protocol::Tls | Protocol::TlsTerminate => Some(Family::Tls),
        Protocol::Tcp => Some(Family::Tcp),
        Protocol::Udp => Some(Family::Udp),
        Protocol::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_config::node::Chars;

    #[test]
    fn the_first_listener_of_a_port_stands() {
        use Conflict::{Hostname, Protocol as Other};
        use Protocol::{Http, Https, Tcp, Tls, Udp};
        let listener = |(port, protocol, hostname): (u16, Protocol, &str)| Listener {
            name: "l".into(),
            port,
            hostname: Some(hostname).filter(|h| !h.is_empty()).map(Into::into),
            protocol,
            unsupported: None,
            certificates: Vec::new(),
            validation: None,
            from: From::Same,
            kinds: Vec::new(),
            invalid_kinds: false,
            place: Chars::default(),
            line: 1,
        };
        let cases = [
            (vec![(80, Http, ""), (80, Http, "a.test"), (81, Http, "")], vec![None, None, None]),
            (vec![(80, Http, "a.test"), (80, Http, "a.test"), (80, Http, "b.test")], vec![None, Some(Hostname), None]),
            (vec![(443, Https, "a.test"), (443, Tls, "b.test"), (443, Tls, "a.test")], vec![None, None, Some(Hostname)]),
            // One that conflicts takes nothing from those behind it.
            (vec![(80, Http, "a.test"), (80, Tcp, ""), (80, Tcp, ""), (80, Http, "b.test")], vec![None, Some(Other), Some(Other), None]),
            (vec![(53, Tcp, ""), (53, Udp, ""), (53, Udp, "")], vec![None, None, Some(Hostname)]),
            (vec![(80, Protocol::Other, ""), (80, Http, "")], vec![None, None]),
        ];
        for (given, want) in cases {
            let listeners: Vec<Listener> = given.iter().copied().map(listener).collect();
            assert_eq!(conflicts(&listeners.iter().collect::<Vec<_>>()), want, "{given:?}");
        }
    }
}
