//! Gateways to ports.
use super::{auto_passthrough, place::Serves, redirect, terminate::terminate};
use crate::{
    api::istio::{
        Gateway,
        gateway::{Protocol, Server},
    },
    object::{Created, Object},
    translate::{Cx, Part, PortKind, PortPart, Rank, RankApi, RouteEntry},
};
use std::sync::Arc;
use weir_config::model::Name;

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, gateway: &Gateway, part: &mut Part) {
    if !gateway.is_here(cx.options) {
        return;
    }
    for server in &gateway.servers {
        let kind = match server.serves(object, cx.options) {
            Some(Serves::Redirect(table)) => {
                redirect_all(object, gateway, server, &table, part);
                PortKind::Http
            }
            Some(Serves::Routes(table)) => match &server.tls {
                Some(tls) if server.protocol == Protocol::Https => {
                    let Some(tls) = terminate(cx, object, tls, part) else { continue };
                    PortKind::Https { server_names: server.server_names(), tls, table }
                }
                _ => PortKind::Http,
            },
            // VirtualServices say where the bytes go; what is wrong with the certificate is said here.
            Some(Serves::Terminate) => {
                let mut checked = Part::default();
                server.tls.as_ref().and_then(|tls| terminate(cx, object, tls, &mut checked));
                part.findings.append(&mut checked.findings);
                continue;
            }
            Some(Serves::AutoPassthrough) => auto_passthrough::translate(cx, object, server, part),
            Some(Serves::Passthrough | Serves::Bytes) | None => continue,
        };
        part.ports.push(PortPart {
            bind: server.bind(cx.options),
            gateway: object.key.clone(),
            object: object.title(),
            line: server.line,
            created: Created::default(),
            kind,
        });
    }
}

/// Every request to this server's hosts goes to HTTPS.
fn redirect_all(object: &Object, gateway: &Gateway, server: &Server, table: &Name, part: &mut Part) {
    let route = redirect::route(object, gateway, server);
    for host in &server.hosts {
        let rank = Rank::listed(RankApi::VirtualService, Created::default(), object.key.clone(), 0);
        part.routes.push(RouteEntry { table: table.clone(), domain: (&*host.host).into(), rank, route: Some(route.clone()) });
    }
}
