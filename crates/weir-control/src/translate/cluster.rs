//! Clusters: one for every port of a service that a route refers to.
use super::{
    ClusterKey, Cx, Part, Purpose, endpoints, gateway_api, ingress, istio,
    kubernetes::{EndpointSlice, PodRef, Service, ServicePort, SliceAddress, Target},
};
use crate::object::{Kind, Object, Spec};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Address, Cluster, ClusterLoadAssignment, Discovery, Endpoint, UpstreamProtocol},
};

/// A cluster before subsets and traffic policy are applied to it.
pub struct Draft {
    /// Its `discovery` is filled in at the end, from the other two fields.
    pub cluster: Cluster,
    pub endpoints: Vec<Endpoint>,
    pub found_by: FoundBy,
}

/// How the endpoints of a draft are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// As they are listed; kept apart from the cluster, as they change more often.
    List,
    StrictDns,
    LogicalDns,
    /// By the request's host.
    Request,
}

/// Every port of every Service and ServiceEntry, in order: what plugins can name in a callout is known to them alone.
pub fn callable(cx: &Cx<'_>) -> Vec<ClusterKey> {
    let mut keys = BTreeSet::new();
    for object in cx.all(Kind::Service).chain(cx.all(Kind::ServiceEntry)) {
        match &object.spec {
            Spec::Service(service) => {
                keys.extend(service.ports.iter().map(|p| ClusterKey::service(&object.key.namespace, &object.key.name, p.port)));
            }
            Spec::ServiceEntry(entry) => {
                let hosts = entry.hosts.iter().filter(|host| !host.contains('*'));
                keys.extend(hosts.flat_map(|host| entry.ports.iter().map(|p| ClusterKey::host(p.number, host.clone()))));
            }
            _ => {}
        }
    }
    keys.into_iter().collect()
}

pub fn translate(cx: &Cx<'_>, key: &ClusterKey, part: &mut Part) {
    let own = key.kubernetes().and_then(|(namespace, name)| cx.get(Kind::Service, namespace, name));
    let draft = match own {
        Some(object) => kubernetes_service(cx, key, object, part),
        None => istio::service_entry(cx, key, part),
    };
    let Some(mut draft) = draft else { return };
    if own.is_some() && key.purpose != Purpose::ServerName {
        ingress::apply_to_cluster(cx, key, &mut draft.cluster, part);
    }
    istio::traffic_policy(cx, key, &mut draft, part);
    if key.purpose == Purpose::ServerName {
        return finish(draft, key.port, part);
    }
    if let Some(Spec::Service(service)) = own.map(|o| &o.spec) {
        let port = service.port(key.port).map(|p| &*p.name);
        if let Some(mut tls) = gateway_api::backend_tls(cx, key, port, part) {
            tls.certificate = match &key.purpose {
                Purpose::Gateway(gateway) => gateway_api::client_certificate(cx, gateway, part),
                _ => None,
            };
            draft.cluster.tls = Some(tls);
        }
    }
    if draft.cluster.tls.is_none()
        && let Some(object) = own
    {
        plain_text(key, object, part);
    }
    finish(draft, key.port, part);
}

fn finish(draft: Draft, port: u16, part: &mut Part) {
    let mut cluster = draft.cluster;
    let assignment = ClusterLoadAssignment { cluster: Some(cluster.name.clone()), endpoints: draft.endpoints };
    cluster.discovery = match draft.found_by {
        FoundBy::List => {
            part.endpoints = Some(assignment);
            Discovery::Eds
        }
        FoundBy::StrictDns => Discovery::StrictDns(Arc::new(assignment)),
        FoundBy::LogicalDns => Discovery::LogicalDns(Arc::new(assignment)),
        FoundBy::Request => Discovery::DynamicForwardProxy { port },
    };
    part.cluster = Some(cluster);
}

fn kubernetes_service(cx: &Cx<'_>, key: &ClusterKey, object: &Arc<Object>, part: &mut Part) -> Option<Draft> {
    let Spec::Service(service) = &object.spec else { return None };
    let port = service.port(key.port);
    let mut cluster = Cluster::new(key.name(), Discovery::Eds);
    cluster.origin = Some(object.origin());
    let word = format!("{}/{}", object.key.namespace, object.key.name);
    cluster.protocol = port.and_then(ServicePort::protocol).unwrap_or_else(|| match cx.by_word(Kind::GrpcRoute, &word).next() {
        Some(_) => UpstreamProtocol::Http2,
        None => UpstreamProtocol::Http1,
    });
    if let Some(name) = &service.external_name {
        let port = match port.map(|p| &p.target) {
            Some(Target::Number(number)) => *number,
            _ => key.port,
        };
        let address = match name.parse() {
            Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
            Err(_) => Address::Name { host: name.to_string(), port },
        };
        return Some(Draft { cluster, endpoints: vec![Endpoint::new(address)], found_by: FoundBy::StrictDns });
    }
    let Some((endpoints, found_by)) = endpoints_of(cx, object, service, port?) else {
        no_endpoints(object, service, part);
        return Some(Draft { cluster, endpoints: Vec::new(), found_by: FoundBy::List });
    };
    Some(Draft { cluster, endpoints, found_by })
}

/// Whether there is somewhere to send requests for this port of a Service.
pub fn has_endpoints(cx: &Cx<'_>, object: &Arc<Object>, port: u16) -> bool {
    let Spec::Service(service) = &object.spec else { return false };
    let listed = |port| endpoints_of(cx, object, service, port).is_some_and(|(endpoints, _)| !endpoints.is_empty());
    service.external_name.is_some() || service.port(port).is_some_and(listed)
}

/// From the EndpointSlices of a Service, else its Endpoints, else its Pods; `None` where there is none of these.
fn endpoints_of(cx: &Cx<'_>, object: &Arc<Object>, service: &Service, port: &ServicePort) -> Option<(Vec<Endpoint>, FoundBy)> {
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
    let found_by = if slices.iter().any(|(_, s)| s.fqdn) { FoundBy::StrictDns } else { FoundBy::List };
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
            let mut made = Endpoint::new(Address::Socket(SocketAddr::new(address.ip, number)));
            made.labels = pod_labels(cx, object, address.pod.as_ref()).unwrap_or_else(|| own.clone());
            endpoints.push(made);
        }
    }
    Some(endpoints)
}

/// The Pods that a Service selects; `None` where there are none.
fn selected(cx: &Cx<'_>, object: &Object, service: &Service, port: &ServicePort) -> Option<Vec<Endpoint>> {
    let namespace = &object.key.namespace;
    let (label, value) = service.selector.first_key_value()?;
    let mut endpoints = Vec::new();
    let mut any = false;
    for pod in cx.by_word(Kind::Pod, &endpoints::word(namespace, label, value)) {
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
            endpoints.push(Endpoint { labels: labels_of(&pod.meta.labels), ..Endpoint::new(Address::Socket(SocketAddr::new(ip, number))) });
        }
    }
    any.then_some(endpoints)
}

fn no_endpoints(object: &Object, service: &Service, part: &mut Part) {
    let key = &object.key;
    let name = format!("{}/{}", key.namespace, key.name);
    let message = format!("the Service {name} has no EndpointSlice, Endpoints or Pods: requests to it are answered with 503");
    let help = format!(
        "add an EndpointSlice with the label kubernetes.io/service-name: {}, or write type: ExternalName and externalName with an address",
        key.name
    );
    part.report(object, service.place, "spec", Diagnostic::warning("NoEndpoints", message).help(help));
}

/// Reports a port that says that it speaks TLS, where nothing originates it.
fn plain_text(key: &ClusterKey, object: &Object, part: &mut Part) {
    let Spec::Service(service) = &object.spec else { return };
    if service.port(key.port).is_some_and(ServicePort::speaks_tls) {
        let message = format!("port {} speaks TLS by its appProtocol, and nothing originates it: plain text is sent there", key.port);
        let help = "add a BackendTLSPolicy, or a DestinationRule with trafficPolicy.tls.mode: SIMPLE (or DISABLE, to be plain about it)";
        part.report(object, service.place, "spec", Diagnostic::warning("PlainText", message).help(help));
    }
}

/// A service's port and a slice's port belong together by their name.
fn slice_endpoints(cx: &Cx<'_>, object: &Object, slice: &EndpointSlice, port: &ServicePort) -> Vec<Endpoint> {
    let Some(port) = slice.ports.iter().find(|p| p.name == port.name).map(|p| p.port) else { return Vec::new() };
    let own = labels(object);
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        let labels = pod_labels(cx, object, endpoint.pod.as_ref()).unwrap_or_else(|| own.clone());
        for address in &endpoint.addresses {
            let address = match address {
                SliceAddress::Ip(ip) => Address::Socket(SocketAddr::new(*ip, port)),
                SliceAddress::Name(name) => Address::Name { host: name.to_string(), port },
            };
            let mut made = Endpoint::new(address);
            made.health = endpoint.health;
            // Region, zone and subzone; a slice knows the zone.
            made.locality = endpoint.zone.as_ref().map(|zone| format!("/{zone}").into());
            made.labels.clone_from(&labels);
            endpoints.push(made);
        }
    }
    endpoints
}

/// What subsets select by: the labels of an endpoint's Pod, where that is there.
fn pod_labels(cx: &Cx<'_>, owner: &Object, pod: Option<&PodRef>) -> Option<BTreeMap<String, String>> {
    let PodRef { namespace, name } = pod?;
    let pod = cx.get(Kind::Pod, namespace.as_ref().unwrap_or(&owner.key.namespace), name)?;
    Some(labels_of(&pod.meta.labels))
}

fn labels_of(labels: &[(Box<str>, Box<str>)]) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Without the Pod, the labels of the object that lists it stand for its own.
fn labels(object: &Object) -> BTreeMap<String, String> {
    let own = object.meta.labels.iter().filter(|(name, _)| !name.contains("kubernetes.io/"));
    own.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}
