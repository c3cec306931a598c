//! Clusters: one for every port of a service that a route refers to.
use super::{
    ClusterKey, Cx, Part, Purpose,
    draft::{Draft, FoundBy},
    endpoints::endpoints_of,
    gateway_api, ingress, istio,
};
use crate::{
    api::kubernetes::{Service, ServicePort, Target},
    object::{Kind, Object, Spec},
};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Address, Cluster, ClusterLoadAssignment, Discovery, Endpoint, UpstreamProtocol},
};

/// Every port of every Service and ServiceEntry, in order: what plugins can name in a callout is known to them alone.
pub fn callable(cx: &Cx<'_>) -> Vec<ClusterKey> {
    let mut keys = BTreeSet::new();
    for object in cx.all(Kind::Service).chain(cx.all(Kind::ServiceEntry)) {
        match &object.spec {
            Spec::Service(service) => {
                keys.extend(service.ports.iter().map(|p| ClusterKey::service(&object.key.namespace, &object.key.name, p.port)));
            }
            Spec::ServiceEntry(entry) => {
                keys.extend(entry.hosts.iter().flat_map(|host| entry.ports.iter().map(|p| ClusterKey::host(p.number, host))));
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
    if own.is_some() && !matches!(key.purpose(), Purpose::ServerName | Purpose::Udp) {
        ingress::apply_to_cluster(cx, key, &mut draft.cluster, part);
    }
    istio::traffic_policy(cx, key, &mut draft, part);
    if key.purpose() == Purpose::Udp {
        draft.cluster.tls = None;
    }
    if matches!(key.purpose(), Purpose::ServerName | Purpose::Udp) {
        return finish(draft, key.port, part);
    }
    if let Some(Spec::Service(service)) = own.map(|o| &o.spec) {
        let port = service.port(key.port).map(|p| &*p.name);
        match gateway_api::backend_tls(cx, key, port, part) {
            Some(Ok(mut tls)) => {
                tls.certificate = match key.purpose() {
                    Purpose::Gateway(gateway) => gateway_api::client_certificate(cx, &gateway, part),
                    _ => None,
                };
                draft.cluster.tls = Some(Box::new(tls));
            }
            // Not in plain text either, as before the policy.
            Some(Err(_)) => {
                draft.endpoints.clear();
                return finish(draft, key.port, part);
            }
            None => {}
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
    let assignment = ClusterLoadAssignment::new(Some(cluster.name.clone()), draft.endpoints);
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
    let port = key.service_port(service);
    let mut cluster = Cluster::new(key.name.clone(), Discovery::Eds);
    cluster.origin = Some(object.origin());
    let word = format!("{}/{}", object.key.namespace, object.key.name);
    cluster.protocol = port.and_then(ServicePort::protocol).unwrap_or_else(|| match cx.by_word(Kind::GrpcRoute, &word).next() {
        Some(_) => UpstreamProtocol::Http2,
        None => UpstreamProtocol::Http1,
    });
    if let Some(name) = service.external_name() {
        let port = match port.map(|p| &p.target) {
            Some(Target::Number(number)) => *number,
            _ => key.port,
        };
        let address = match name.parse() {
            Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
            Err(_) => Address::Name { host: name.into(), port },
        };
        return Some(Draft { cluster, endpoints: vec![Endpoint::new(address)], found_by: FoundBy::StrictDns });
    }
    let Some((endpoints, found_by)) = endpoints_of(cx, object, service, port?) else {
        no_endpoints(object, service, part);
        return Some(Draft { cluster, endpoints: Vec::new(), found_by: FoundBy::List });
    };
    Some(Draft { cluster, endpoints, found_by })
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
