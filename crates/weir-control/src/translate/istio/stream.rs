//! `tls` and `tcp` of a VirtualService: bytes to a weighted choice of clusters.
use super::{
    destination::resolve,
    place::{IDLE_TIMEOUT, Place, Serves},
    terminate::terminate,
    upstream,
};
use crate::{
    api::istio::{VirtualService, gateway::Server, read::intersection, virtual_service::L4Route},
    object::{Created, Object},
    translate::{Cx, Part, PortKind, PortPart},
};
use weir_config::model::{Name, TcpProxy};

pub fn translate(
    cx: &Cx<'_>,
    object: &Object,
    service: &VirtualService,
    place: &Place<'_>,
    server: &Server,
    serves: &Serves,
    part: &mut Part,
) {
    let hosts = server.hosts_of(place.gateway, object, service);
    if hosts.is_empty() {
        return;
    }
    let routes = if *serves == Serves::Passthrough { &service.tls } else { &service.tcp };
    for found in routes {
        for (names, _) in found.matches.iter().filter(|(_, scope)| scope.holds(cx.options, place)) {
            if *serves != Serves::Passthrough {
                // The first that matches takes the port, or its server names.
                let proxy = proxy(cx, object, place, found, part);
                let kind = match server.tls.as_ref().filter(|_| *serves == Serves::Terminate) {
                    None => PortKind::Tcp { proxy },
                    Some(tls) => {
                        // Errors are reported on the Gateway; this unit depends on all of it.
                        cx.find(&place.gateway.key);
                        let mut own = Part::default();
                        let Some(tls) = terminate(cx, place.gateway, tls, &mut own) else { return };
                        own.secrets.into_iter().for_each(|key| drop(part.use_secret(key)));
                        PortKind::Tls { server_names: server.server_names(), tls, proxy }
                    }
                };
                return part.ports.push(PortPart {
                    bind: place.bind,
                    gateway: place.gateway.key.clone(),
                    object: object.title(),
                    line: 0,
                    created: Created::default(),
                    kind,
                });
            }
            let within = |name: &String| hosts.iter().find_map(|host| intersection(host, name)).map(str::to_string);
            let names: Vec<String> = names.iter().filter_map(within).collect();
            if names.is_empty() {
                continue;
            }
            let server_names = if names.iter().any(|n| n == "*") { Vec::new() } else { names };
            let kind = PortKind::Passthrough { server_names, proxy: proxy(cx, object, place, found, part) };
            part.ports.push(PortPart {
                bind: place.bind,
                gateway: place.gateway.key.clone(),
                object: object.title(),
                line: 0,
                created: Created::default(),
                kind,
            });
        }
    }
}

fn proxy(cx: &Cx<'_>, object: &Object, place: &Place<'_>, route: &L4Route, part: &mut Part) -> TcpProxy {
    let only = route.destinations.len() == 1;
    let mut clusters: Vec<(Name, u32)> = Vec::new();
    let mut idle_timeout = IDLE_TIMEOUT;
    for to in &route.destinations {
        let Some(key) = resolve(cx, object, to, place.bind.port, false, part) else { continue };
        if let Some(pool) = upstream::settings(cx, &key).pool {
            idle_timeout = pool.tcp_idle_timeout.unwrap_or(idle_timeout);
        }
        clusters.push((part.use_cluster(key), if only { 1 } else { to.weight }));
    }
    TcpProxy {
        stat_prefix: object.title(),
        clusters,
        sni_clusters: Vec::new(),
        idle_timeout,
        max_connect_attempts: TcpProxy::MAX_CONNECT_ATTEMPTS,
        access_log: cx.options.access_log.clone(),
    }
}
