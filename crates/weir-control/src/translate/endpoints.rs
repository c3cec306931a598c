//! The endpoints of a port of a Service: from its EndpointSlices, its Endpoints or its Pods.
use super::{Cx, draft::FoundBy};
use crate::{
    api::kubernetes::{EndpointSlice, PodRef, Service, ServicePort, SliceAddress, Target, pod_label_key},
    object::{Kind, Object, Pairs, Spec},
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};
use weir_config::{
    model::{Address, Endpoint, EndpointOptions},
    recent,
};

/// Whether there is somewhere to send requests for this port of a Service.
pub fn has_endpoints(cx: &Cx<'_>, object: &Arc<Object>, port: u16) -> bool {
    let Spec::Service(service) = &object.spec else { return false };
    let listed = |port| endpoints_of(cx, object, service, port).is_some_and(|(endpoints, _)| !endpoints.is_empty());
    service.external_name().is_some() || service.port(port).is_some_and(listed)
}

/// From the EndpointSlices of a Service, else its Endpoints, else its Pods; `None` where there is none of these.
pub fn endpoints_of(cx: &Cx<'_>, object: &Arc<Object>, service: &Service, port: &ServicePort) -> Option<(Vec<Endpoint>, FoundBy)> {
    let slices: Vec<(&Object, &EndpointSlice)> = cx
        .by_word(Kind::EndpointSlice, &format!("{}/{}", object.key.namespace, object.key.name))
        .filter_map(|o| match &o.spec {
            Spec::EndpointSlice(s) => Some((&**o, &**s)),
            _ => None,
        })
        .collect();
    if slices.is_empty() {
        let endpoints = listed(cx, object, port).or_else(|| selected(cx, object, service, port))?;
        return Some((endpoints, FoundBy::List));
    }
    let found_by = if slices.iter().any(|(_, s)| s.is_fqdn()) { FoundBy::StrictDns } else { FoundBy::List };
    let endpoints = slices.into_iter().flat_map(|(object, slice)| slice_endpoints(cx, object, slice, port)).collect();
    Some((endpoints, found_by))
}

/// The endpoints of the Endpoints object of a Service; `None` where there is none.
fn listed(cx: &Cx<'_>, service: &Object, port: &ServicePort) -> Option<Vec<Endpoint>> {
    let object = cx.get(Kind::Endpoints, &service.key.namespace, &service.key.name)?;
    let Spec::Endpoints(all) = &object.spec else { return None };
    let own = labels(object);
    let mut endpoints = Vec::new();
    for subset in &all.subsets {
        let Some(number) = subset.ports.iter().find(|p| p.name == port.name).map(|p| p.port) else { continue };
        for address in &subset.addresses {
            let labels = pod_labels(cx, object, address.pod.as_ref()).unwrap_or_else(|| own.clone());
            let options = EndpointOptions { labels, ..EndpointOptions::default() }.into();
            endpoints.push(Endpoint { options, ..Endpoint::new(Address::Socket(SocketAddr::new(address.ip, number))) });
        }
    }
    Some(endpoints)
}

/// The Pods that a Service selects; `None` where there are none.
fn selected(cx: &Cx<'_>, object: &Object, service: &Service, port: &ServicePort) -> Option<Vec<Endpoint>> {
    let namespace = &object.key.namespace;
    let (label, value) = service.selector.iter().next()?;
    let mut endpoints = Vec::new();
    let mut any = false;
    for pod in cx.by_word(Kind::Pod, &pod_label_key(namespace, label, value)) {
        let Spec::Pod(spec) = &pod.spec else { continue };
        if !service.selector.iter().all(|(label, value)| pod.meta.label(label) == Some(value)) {
            continue;
        }
        any = true;
        let number = match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => spec.ports.iter().find(|(n, _)| n == name).map(|(_, number)| *number),
        };
        if let (Some(ip), Some(number)) = (spec.ip, number) {
            let options = EndpointOptions { labels: labels_of(&pod.meta.labels), ..EndpointOptions::default() }.into();
            endpoints.push(Endpoint { options, ..Endpoint::new(Address::Socket(SocketAddr::new(ip, number))) });
        }
    }
    any.then_some(endpoints)
}

/// A service's port and a slice's port belong together by their name.
fn slice_endpoints(cx: &Cx<'_>, object: &Object, slice: &EndpointSlice, port: &ServicePort) -> Vec<Endpoint> {
    let Some(port) = slice.ports.iter().find(|p| p.name == port.name).map(|p| p.port) else { return Vec::new() };
    let own = labels(object);
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        let labels = pod_labels(cx, object, endpoint.pod.as_ref()).unwrap_or_else(|| own.clone());
        let address = match &endpoint.address {
            SliceAddress::Ip(ip) => Address::Socket(SocketAddr::new(*ip, port)),
            SliceAddress::Name(name) => Address::Name { host: name.clone(), port },
        };
        // Region, zone and subzone; a slice knows the zone.
        let locality = endpoint.zone.as_ref().map(|zone| recent::name(&format!("/{zone}")));
        let options = EndpointOptions { locality, labels, ..EndpointOptions::default() }.into();
        endpoints.push(Endpoint { health: endpoint.health, options, ..Endpoint::new(address) });
    }
    endpoints
}

/// What subsets select by: the labels of an endpoint's Pod, where that is there.
fn pod_labels(cx: &Cx<'_>, owner: &Object, pod: Option<&PodRef>) -> Option<BTreeMap<String, String>> {
    let PodRef { namespace, name } = pod?;
    let pod = cx.get(Kind::Pod, namespace.as_ref().unwrap_or(&owner.key.namespace), name)?;
    Some(labels_of(&pod.meta.labels))
}

fn labels_of(labels: &Pairs) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Without the Pod, the labels of the object that lists it stand for its own.
fn labels(object: &Object) -> BTreeMap<String, String> {
    let own = object.meta.labels.iter().filter(|(name, _)| !name.contains("kubernetes.io/"));
    own.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}
