//! Servers of `AUTO_PASSTHROUGH`: the server name says the cluster, as `outbound_.PORT_.SUBSET_.HOST`, without a VirtualService.
use super::{place::IDLE_TIMEOUT, upstream};
use crate::{
    api::istio::{gateway::Server, read::covers},
    object::{Kind, Object, Spec},
    translate::{ClusterKey, Cx, Part, PortKind, Purpose},
};
use weir_config::model::{Name, TcpProxy};

/// Every port and subset of every host that the server is for.
pub fn translate(cx: &Cx<'_>, gateway: &Object, server: &Server, part: &mut Part) -> PortKind {
    let mut sni_clusters: Vec<Name> = Vec::new();
    for (host, ports) in hosts(cx, gateway, server) {
        for port in ports {
            let whole = ClusterKey::new(port, "", &host, Purpose::ServerName);
            let subsets =
                upstream::subsets(cx, &whole).into_iter().map(|subset| ClusterKey::new(port, &subset, &host, Purpose::ServerName));
            let keys: Vec<ClusterKey> = subsets.chain([whole.clone()]).collect();
            sni_clusters.extend(keys.into_iter().map(|key| part.use_cluster(key)));
        }
    }
    sni_clusters.sort();
    sni_clusters.dedup();
    let proxy = TcpProxy {
        stat_prefix: gateway.title(),
        clusters: Vec::new(),
        sni_clusters,
        idle_timeout: IDLE_TIMEOUT,
        max_connect_attempts: TcpProxy::MAX_CONNECT_ATTEMPTS,
        access_log: cx.options.access_log.clone(),
    };
    PortKind::Passthrough { server_names: server_names(server), proxy }
}

/// A host stands at the end of the server name.
fn server_names(server: &Server) -> Vec<String> {
    let under = |host: &str| if host.starts_with('*') { host.to_string() } else { format!("*.{host}") };
    let names: Vec<String> = server.hosts.iter().map(|h| under(&h.host)).collect();
    if names.iter().any(|n| n == "*") { Vec::new() } else { names }
}

/// The hosts of Services and ServiceEntries that the server is for, with their ports.
fn hosts(cx: &Cx<'_>, gateway: &Object, server: &Server) -> Vec<(Name, Vec<u16>)> {
    let is_for = |namespace: &str, host: &str| {
        let mut all = server.hosts.iter();
        all.any(|own| own.namespace.as_ref().is_none_or(|n| **n == *namespace) && covers(&own.host, host))
    };
    let mut found = Vec::new();
    for object in cx.all(Kind::Service) {
        let Spec::Service(service) = &object.spec else { continue };
        let host: Name = ClusterKey::service(&object.key.namespace, &object.key.name, 0).host().into();
        if is_for(&object.key.namespace, &host) {
            found.push((host, service.ports.iter().map(|p| p.port).collect()));
        }
    }
    for object in cx.all(Kind::ServiceEntry) {
        let Spec::ServiceEntry(entry) = &object.spec else { continue };
        let seen = entry.export_to.sees(&object.key.namespace, &gateway.key.namespace);
        let own = entry.hosts.iter().filter(|host| seen && !host.contains('*') && is_for(&object.key.namespace, host));
        found.extend(own.map(|host| (host.clone(), entry.ports.iter().map(|p| p.number).collect())));
    }
    found
}
