//! TLSRoute, TCPRoute and UDPRoute: bytes or datagrams to a weighted choice of backends, by the server name or by the port alone.
use super::{attach::Attached, routes, tls::terminate};
use crate::{
    api::gateway_api::{L4Route, gateway::Gateway, http_route::ParentKind, listener::Protocol},
    object::{Key, Object},
    translate::{Cx, Part, PortKind, PortPart},
};
use std::{sync::Arc, time::Duration};
use weir_config::model::{TcpProxy, UdpProxy};

/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Where connections go that a broken reference stands for: nowhere. Istio's name for it.
const NOWHERE: &str = "BlackHoleCluster";

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, route: &L4Route, part: &mut Part) {
    let mut accepted = Vec::new();
    for (index, parent) in route.parents.iter().enumerate().filter(|(_, p)| p.kind != ParentKind::Foreign) {
        let found = routes::attach_parent(cx, object, &route.hostnames, parent, index, part);
        let Some((parent, attached)) = found else { continue };
        accepted.push(index);
        let proxy = make(cx, object, route, routes::client(parent.gateway), part);
        for a in attached.into_iter().filter(|a| !a.domains.is_empty()) {
            for bind in parent.spec.binds(parent.gateway, a.entry.listener, cx) {
                let port = port(cx, parent.spec, &a, &proxy, part);
                part.ports.extend(port.map(|kind| PortPart {
                    bind,
                    gateway: parent.gateway.key.clone(),
                    object: object.title(),
                    line: 0,
                    created: object.meta.created,
                    kind,
                }));
            }
        }
    }
    routes::conditions(&accepted, part);
}

/// What the route makes of a listener's port; `None` where the listener lacks its certificate, which its Gateway reports.
fn port(cx: &Cx<'_>, gateway: &Gateway, attached: &Attached<'_>, proxy: &TcpProxy, part: &mut Part) -> Option<PortKind> {
    let proxy = proxy.clone();
    let any = attached.domains.iter().any(|d| &**d == "*");
    let server_names = if any { Vec::new() } else { attached.domains.iter().map(|d| d.to_string()).collect() };
    match attached.entry.listener.protocol {
        Protocol::Tcp => Some(PortKind::Tcp { proxy }),
        Protocol::Udp => Some(PortKind::Udp {
            proxy: UdpProxy {
                stat_prefix: proxy.stat_prefix,
                clusters: proxy.clusters,
                idle_timeout: UdpProxy::IDLE_TIMEOUT,
                access_log: proxy.access_log,
            },
        }),
        Protocol::TlsTerminate => {
            // All of the Gateway is read.
            cx.find(&attached.entry.gateway.key);
            let mut own = Part::default();
            let tls = terminate(cx, gateway, &attached.entry, "", &mut own)?;
            own.secrets.into_iter().for_each(|key| drop(part.use_secret(key)));
            Some(PortKind::Tls { server_names, tls, proxy })
        }
        _ => Some(PortKind::Passthrough { server_names, proxy }),
    }
}

fn make(cx: &Cx<'_>, object: &Arc<Object>, route: &L4Route, client: Option<Key>, part: &mut Part) -> TcpProxy {
    let maker = routes::Maker { cx, object, origin: object.origin(), client };
    let mut clusters = Vec::new();
    for (nth, backend) in route.backends.iter().enumerate() {
        let field = format!("spec.rules[0].backendRefs[{nth}]");
        let cluster = maker.resolve(&backend.reference, &field, "its connections are closed", part);
        clusters.push((cluster.unwrap_or_else(|| NOWHERE.into()), backend.weight));
    }
    TcpProxy {
        stat_prefix: object.title(),
        clusters,
        sni_clusters: Vec::new(),
        idle_timeout: IDLE_TIMEOUT,
        max_connect_attempts: TcpProxy::MAX_CONNECT_ATTEMPTS,
        access_log: cx.options.access_log.clone(),
    }
}
