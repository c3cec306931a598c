//! Parts of objects that many units read: a change of such an object that leaves an aspect as it was does not reach the units
//! that read only that aspect.
use crate::{
    api::{
        gateway_api::{GROUP, gateway::Gateway, grant::ReferenceGrant, listener::Listener},
        istio::{
            self,
            gateway::{Mode, Protocol, Server, ServerHost},
        },
        kubernetes,
        labels::Labels,
        target_ports::PortsOfGateway,
    },
    object::{Kind, Object, Spec},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_config::model::Name;

/// What is read of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aspect<'a> {
    /// Whether it is there, with
    /// - the controller of a GatewayClass,
    /// - the class and addresses of a Gateway, who may add ListenerSets, of whom it asks certificates, and whether it has a
    ///   certificate for upstreams,
    /// - the servers of an Istio Gateway, as VirtualServices see them,
    /// - whether a Service has an external name.
    General,
    /// Which ports a Gateway listens on.
    Ports,
    /// The listeners of a Gateway on a port, as routes see them. The name of a Service's port.
    Port(u16),
    /// The port of the listener of a Gateway with this name.
    Section(&'a str),
    /// The target ports that a ConfigMap has for the Gateway with this uid.
    TargetPorts(&'a str),
    /// The value of a label.
    Label(&'a str),
    /// Whether a Secret or ConfigMap is there, and holds a certificate with its key.
    Certificate,
    /// Whether a Secret or ConfigMap is there, and holds roots.
    Roots,
    /// Whether the ReferenceGrants of a namespace, which is that of the object without a name, let objects of a kind and namespace
    /// refer to this: (group, kind, name); `None` for any name.
    Grant { from: (&'a str, &'a str), to: (&'a str, &'a str, Option<&'a str>) },
}

/// Tells `changed` each aspect in which two versions of an object differ.
pub fn compare(kind: Kind, old: Option<&Object>, new: Option<&Object>, changed: &mut dyn FnMut(Aspect<'_>)) {
    match kind {
        Kind::GatewayClass => {
            let controller = |o: Option<&Object>| match o.map(|o| &o.spec) {
                Some(Spec::GatewayClass(class)) => Some(class.controller.clone()),
                _ => None,
            };
            if controller(old) != controller(new) {
                changed(Aspect::General);
            }
        }
        Kind::Gateway => gateways(as_gateway(old), as_gateway(new), changed),
        Kind::IstioGateway if istio_servers(old) != istio_servers(new) => changed(Aspect::General),
        Kind::Namespace => {
            let labels = |o: Option<&'_ Object>| o.map(|o| o.meta.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
            let (old, new): (BTreeSet<_>, BTreeSet<_>) = (labels(old).unwrap_or_default(), labels(new).unwrap_or_default());
            let names: BTreeSet<&String> = old.symmetric_difference(&new).map(|(name, _)| name).collect();
            names.into_iter().for_each(|name| changed(Aspect::Label(name)));
        }
        Kind::Service => services(as_service(old), as_service(new), changed),
        Kind::Secret | Kind::ConfigMap => {
            let ((certificate, roots), (has_certificate, has_roots)) = (holds(old), holds(new));
            if certificate != has_certificate {
                changed(Aspect::Certificate);
            }
            if roots != has_roots {
                changed(Aspect::Roots);
            }
            let (old, new) = (target_ports(old), target_ports(new));
            let differ = |uid: &&str| old.get(*uid) != new.get(*uid);
            let uids: BTreeSet<&str> = old.keys().chain(new.keys()).copied().filter(differ).collect();
            uids.into_iter().for_each(|uid| changed(Aspect::TargetPorts(uid)));
        }
        Kind::ReferenceGrant => {
            let (old, new) = (grants(old), grants(new));
            old.symmetric_difference(&new).for_each(|(from, to)| changed(Aspect::Grant { from: *from, to: *to }));
        }
        _ => {}
    }
}

fn as_gateway(object: Option<&Object>) -> Option<&Gateway> {
    match &object?.spec {
        Spec::Gateway(gateway) => Some(gateway),
        _ => None,
    }
}

fn as_service(object: Option<&Object>) -> Option<&kubernetes::Service> {
    match &object?.spec {
        Spec::Service(service) => Some(service),
        _ => None,
    }
}

/// By the uid of their Gateways.
fn target_ports(object: Option<&Object>) -> BTreeMap<&str, &PortsOfGateway> {
    match object.map(|o| &o.spec) {
        Some(Spec::ConfigMap(c)) => c.target_ports.iter().flat_map(|all| all.iter()).collect(),
        _ => BTreeMap::new(),
    }
}

/// Whether it is there and holds a certificate with its key, and roots.
fn holds(object: Option<&Object>) -> (Option<bool>, Option<bool>) {
    match object.map(|o| &o.spec) {
        Some(Spec::Secret(s)) => (Some(s.certificate_chain.is_some() && s.private_key.is_some()), Some(s.trusted_ca.is_some())),
        Some(Spec::ConfigMap(c)) => (Some(false), Some(c.trusted_ca.is_some())),
        _ => (None, None),
    }
}

fn gateways(old: Option<&Gateway>, new: Option<&Gateway>, changed: &mut dyn FnMut(Aspect<'_>)) {
    fn general(gateway: Option<&Gateway>) -> Option<impl PartialEq> {
        gateway.map(|g| {
            let validated =
                g.frontend.as_ref().map(|f| (f.default.is_some(), f.ports.iter().map(|(p, v)| (*p, v.is_some())).collect::<Vec<_>>()));
            let taken = (g.unsupported_address.is_none(), g.parameters.is_none(), g.client_certificate.is_some());
            (&g.uid, &g.class, &g.addresses, &g.allowed_listeners, validated, taken)
        })
    }
    if general(old) != general(new) {
        changed(Aspect::General);
    }
    fn listeners(gateway: Option<&Gateway>) -> impl Iterator<Item = &Listener> {
        gateway.into_iter().flat_map(|g| &g.listeners)
    }
    let ports = |gateway| listeners(gateway).map(|l| l.port).collect::<BTreeSet<u16>>();
    let (before, now) = (ports(old), ports(new));
    if before != now {
        changed(Aspect::Ports);
    }
    for port in &before | &now {
        let seen = |gateway| listeners(gateway).filter(move |l| l.port == port).map(seen_by_routes);
        if !seen(old).eq(seen(new)) {
            changed(Aspect::Port(port));
        }
    }
    let sections = |gateway| listeners(gateway).map(|l| (&*l.name, l.port)).collect::<BTreeSet<(&str, u16)>>();
    let differ: BTreeSet<&str> = sections(old).symmetric_difference(&sections(new)).map(|(name, _)| *name).collect();
    differ.into_iter().for_each(|name| changed(Aspect::Section(name)));
}

/// All that HTTPRoutes and GRPCRoutes read of a listener.
fn seen_by_routes(listener: &Listener) -> impl PartialEq + use<'_> {
    let Listener { name, port, hostname, protocol, validation, from, kinds, .. } = listener;
    (name, port, hostname, protocol, validation.is_some(), from, kinds)
}

fn services(old: Option<&kubernetes::Service>, new: Option<&kubernetes::Service>, changed: &mut dyn FnMut(Aspect<'_>)) {
    let general = |s: Option<&kubernetes::Service>| s.map(|s| s.external_name().is_some());
    if general(old) != general(new) {
        changed(Aspect::General);
    }
    let ports = |service: Option<&kubernetes::Service>| -> BTreeSet<u16> {
        service.map(|s| s.ports.iter().chain(s.udp_ports()).map(|p| p.port).collect()).unwrap_or_default()
    };
    for port in &ports(old) | &ports(new) {
        let names = |service: Option<&kubernetes::Service>| {
            let name = |port: Option<&kubernetes::ServicePort>| port.map(|p| p.name.clone());
            service.map(|s| (name(s.port(port)), name(s.udp_port(port))))
        };
        if names(old) != names(new) {
            changed(Aspect::Port(port));
        }
    }
}

/// With where the object is: that is the origin of redirects, which VirtualServices make.
fn istio_servers(object: Option<&Object>) -> Option<(u32, Option<&Name>, SeenServers<'_>)> {
    match object.map(|o| (o, &o.spec)) {
        Some((object, Spec::IstioGateway(gateway))) => Some((object.line, object.document.file(), seen_servers(gateway))),
        _ => None,
    }
}

/// The selector, and of each server where it listens, what it does with TLS, and its hosts.
type SeenServers<'a> = (&'a Labels, Vec<((u16, Option<IpAddr>), (Protocol, Option<(Mode, bool)>), &'a [ServerHost])>);

/// All that VirtualServices read of a Gateway, but those that pass on bytes of TLS that ends here.
fn seen_servers(gateway: &istio::gateway::Gateway) -> SeenServers<'_> {
    let seen = |s: &'_ Server| ((s.port, s.address), (s.protocol, s.tls.as_ref().map(|t| (t.mode, t.https_redirect))));
    let one = |s| {
        let (at, tls) = seen(s);
        (at, tls, &*s.hosts)
    };
    (&gateway.selector, gateway.servers.iter().map(one).collect())
}

type Granted<'a> = ((&'a str, &'a str), (&'a str, &'a str, Option<&'a str>));

fn grants(object: Option<&Object>) -> BTreeSet<Granted<'_>> {
    let Some(Spec::ReferenceGrant(grant)) = object.map(|o| &o.spec) else { return BTreeSet::new() };
    let ReferenceGrant { from, to } = &**grant;
    let from = from.iter().filter(|(group, ..)| **group == *GROUP);
    let pairs = from
        .flat_map(|(_, kind, namespace)| to.iter().map(move |to| ((&**kind, &**namespace), (&*to.group, &*to.kind, to.name.as_deref()))));
    pairs.collect()
}
