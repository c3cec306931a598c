//! `httpsRedirect: true` of a server: every request goes to HTTPS.
use crate::{
    api::istio::{
        Gateway,
        gateway::{Protocol, Server},
        read::intersection,
    },
    object::Object,
};
use std::sync::Arc;
use weir_config::model::{Redirect, RedirectPort, Route, RouteAction, RouteMatch};

/// Of `httpsRedirect: true`: to the port where this Gateway has HTTPS for these hosts, else to 443.
pub fn route(object: &Object, gateway: &Gateway, server: &Server) -> Arc<Route> {
    let shares = |other: &&Server| other.hosts.iter().any(|a| server.hosts.iter().any(|b| intersection(&a.host, &b.host).is_some()));
    let secure = gateway.servers.iter().filter(|s| s.protocol == Protocol::Https).find(shares);
    let port = secure.map(|s| s.port).filter(|port| *port != 443).map_or(RedirectPort::FromProtocol, RedirectPort::Literal);
    let redirect = Redirect { scheme: Some("https".into()), host: None, port: Some(port), path: None, status: 301, strip_query: false };
    let name = format!("{}/{}/https-redirect", object.key.namespace, object.key.name);
    Arc::new(Route::new(name.into(), RouteMatch::any(), RouteAction::Redirect(Box::new(redirect)), object.origin()))
}
