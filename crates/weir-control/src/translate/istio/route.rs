//! VirtualServices to routes: in the order of their lists, once for each gateway and port.
use super::{
    delegate::{self, Said},
    destination::resolve,
    place::{Place, Serves},
    redirect, stream,
};
use crate::{
    api::istio::{
        VirtualService,
        read::At,
        virtual_service::{Action, Forward, HttpMatch, Retry},
    },
    aspect::Aspect,
    object::{Kind, Object, Spec},
    translate::{Cx, Part, Rank, RankApi, RankPath, RouteEntry},
};
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{
        self, ForwardOptions, HostRewrite, HttpFilterConfig, Mirror, Name, Origin, PathMatch, Rare, RetryPolicy, Route, RouteAction,
        RouteMatch, TargetOptions, WeightedCluster,
    },
};

/// A route with its place in the whole list, whichever of the list's routes hold at a gateway: two Gateways on one port put
/// what each takes of it together.
type Placed = (u32, Arc<Route>);

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, service: &VirtualService, part: &mut Part) {
    if service.hosts.is_empty() {
        // A delegate: its routes are translated with those who delegate to it.
        return;
    }
    let said = delegate::unfold(cx, object, service, part);
    said.iter().for_each(|s| sources(cx, s, part));
    let mut made: HashMap<(String, u16), Vec<Placed>> = HashMap::new();
    for reference in &service.gateways {
        let found = cx.aspects(Kind::IstioGateway, &reference.namespace, &reference.name, &[Aspect::General]);
        let Some((gateway, Spec::IstioGateway(spec))) = found.map(|g| (g, &g.spec)) else {
            let found = cx.missing(Kind::IstioGateway, &reference.namespace, &reference.name, "GatewayNotFound");
            report(part, object, &reference.at, found);
            continue;
        };
        if !spec.is_here(cx.options) {
            continue;
        }
        let mut bound = false;
        for server in &spec.servers {
            let place = Place { gateway, bind: server.bind(cx.options) };
            let hosts = server.hosts_of(gateway, object, service);
            bound |= !hosts.is_empty();
            match server.serves(gateway, cx.options) {
                Some(Serves::Routes(table)) => {
                    let routes = made
                        .entry((place.name(), place.bind.port))
                        .or_insert_with(|| said.iter().enumerate().flat_map(|(nth, s)| http_routes(cx, s, nth, &place, part)).collect());
                    put(object, &table, &hosts, routes, part);
                }
                Some(Serves::Redirect(table)) => put(object, &table, &hosts, &[(0, redirect::route(gateway, spec, server))], part),
                Some(serves @ (Serves::Passthrough | Serves::Terminate | Serves::Bytes)) => {
                    stream::translate(cx, object, service, &place, server, &serves, part);
                }
                // Needs no routes.
                Some(Serves::AutoPassthrough) | None => {}
            }
        }
        if !bound {
            let message = format!("no server of the Gateway {}/{} takes these hosts from here", reference.namespace, reference.name);
            report(
                part,
                object,
                &reference.at,
                Diagnostic::warning("NoMatchingHost", message).help("see the hosts of its servers, and exportTo"),
            );
        }
    }
    meets(cx, object, service, part);
}

fn put(object: &Object, table: &Name, hosts: &[Name], routes: &[Placed], part: &mut Part) {
    for host in hosts {
        let entry = |rank, route| RouteEntry { table: table.clone(), domain: host.clone(), rank, route };
        if routes.is_empty() {
            part.routes.push(entry(Rank::listed(RankApi::VirtualService, object.meta.created, object.key.clone(), 0), None));
        }
        let mut all_taken = false;
        for (index, route) in routes {
            // Where two VirtualServices share a host, what takes everything comes after the routes of both, with what follows it in
            // its own list.
            all_taken |= takes_all(&route.matches);
            let path = if all_taken { RankPath::Prefix } else { RankPath::Exact };
            let listed = Rank::listed(RankApi::VirtualService, object.meta.created, object.key.clone(), *index);
            let rank = Rank { path, ..listed };
            part.routes.push(entry(rank, Some(route.clone())));
        }
    }
}

fn takes_all(matches: &RouteMatch) -> bool {
    let any_path = match &matches.path {
        PathMatch::Prefix(text) => text == "/" || text.is_empty(),
        PathMatch::Regex(text) => [".*", "/.*"].contains(&text.as_str()),
        PathMatch::Exact(_) | PathMatch::PathSeparatedPrefix(_) => false,
    };
    any_path && matches.headers.is_empty() && matches.query_parameters.is_empty()
}

/// Another VirtualService with the same host on the same gateway is put together with this one; said by the later one.
fn meets(cx: &Cx<'_>, object: &Arc<Object>, service: &VirtualService, part: &mut Part) {
    for host in &service.hosts {
        let earlier = cx.by_word(Kind::VirtualService, host).find(|other| {
            let Spec::VirtualService(theirs) = &other.spec else { return false };
            let shared =
                theirs.gateways.iter().any(|g| service.gateways.iter().any(|o| (&o.namespace, &o.name) == (&g.namespace, &g.name)));
            shared && other.age() < object.age()
        });
        if let Some(other) = earlier {
            let message = format!(
                "{} has the host {host} too: its routes come first, these after them, and those that take everything last",
                other.title()
            );
            let help = "keep the routes of a host in one VirtualService, or delegate, where their order matters";
            report(part, object, &service.at, Diagnostic::new(Severity::Info, "SharedHost", message).help(help));
        }
    }
}

/// Reports matches by the labels of a source where it has none.
fn sources(cx: &Cx<'_>, said: &Said<'_>, part: &mut Part) {
    let scopes = said.route.matches.iter().flatten().map(|m| &m.scope);
    for source in scopes.filter(|s| s.gateways.is_empty()).filter_map(|s| s.source.as_ref()) {
        if !source.labels.is_empty() && cx.options.labels.is_empty() {
            let found = Diagnostic::warning("NoLabels", "this gateway was given no labels: this match never holds here");
            report(part, said.object, &source.at, found.help("start it with --labels, or match headers or gateways"));
        }
    }
}

/// One route for each of its matches that hold at this place.
fn http_routes(cx: &Cx<'_>, said: &Said<'_>, nth: usize, place: &Place<'_>, part: &mut Part) -> Vec<Placed> {
    let route = &*said.route;
    let matches: Vec<(usize, Option<&HttpMatch>, RouteMatch)> = match &route.matches {
        None => vec![(0, None, RouteMatch::any())],
        Some(list) => {
            let here = list.iter().enumerate().filter(|(_, m)| m.scope.holds(cx.options, place));
            here.map(|(i, m)| (i, Some(m), m.conditions())).collect()
        }
    };
    let key = &said.object.key;
    let origin = said.object.origin();
    let origin = Origin { line: origin.line.below(route.line), ..origin };
    let made = matches.into_iter().map(|(index, found, matches)| {
        let mut name = route.name.to_string();
        if name.is_empty() {
            name = format!("{}/{}/{}", key.namespace, key.name, said.index);
        }
        if let Some(m) = found.filter(|m| !m.name.is_empty()) {
            name = format!("{name}.{}", m.name);
        }
        let action = match &route.action {
            Action::Redirect(redirect) => RouteAction::Redirect(Box::new(redirect.clone())),
            Action::DirectResponse { status, body } => RouteAction::direct_response(*status, body),
            Action::Forward(forward) => {
                let path = found.and_then(|m| m.path.as_ref());
                RouteAction::Forward(Box::new(forward_to(cx, said, forward, path, place, part)))
            }
            // Unfolded before, or without a VirtualService to go to.
            Action::Delegate { .. } => RouteAction::direct_response(503, ""),
        };
        let mut made = Route {
            request_headers: route.headers.request.clone(),
            response_headers: route.headers.response.clone(),
            ..Route::new(name.into(), matches, action, origin.clone())
        };
        let cors = route.cors.clone().map(HttpFilterConfig::Cors);
        cors.into_iter().chain(route.fault.clone().map(HttpFilterConfig::Fault)).for_each(|filter| made.set_filter(filter));
        (((nth as u32) << 16) | index as u32, Arc::new(made))
    });
    made.collect()
}

fn forward_to(
    cx: &Cx<'_>,
    said: &Said<'_>,
    forward: &Forward,
    path: Option<&PathMatch>,
    place: &Place<'_>,
    part: &mut Part,
) -> model::Forward {
    let mut clusters = Vec::with_capacity(forward.destinations.len());
    for to in &forward.destinations {
        let key = resolve(cx, said.object, to, place.bind.port, true, part);
        let cluster = key.map(|key| part.use_cluster(key));
        clusters.push(WeightedCluster {
            weight: to.weight,
            unresolved_status: 503,
            options: Rare::from(TargetOptions {
                request_headers: to.headers.request.clone(),
                response_headers: to.headers.response.clone(),
                host_rewrite: to.headers.host.as_deref().map(|host| HostRewrite::Literal(host.into())),
                ..TargetOptions::default()
            }),
            cluster,
        });
    }
    let mut mirrors = Vec::with_capacity(forward.mirrors.len());
    for (to, fraction) in &forward.mirrors {
        let Some(key) = resolve(cx, said.object, to, place.bind.port, true, part) else { continue };
        mirrors.push(Mirror { cluster: part.use_cluster(key), fraction: *fraction, disable_shadow_host_suffix_append: false });
    }
    let authority = forward.authority.as_ref().or(said.route.headers.host.as_ref());
    let options = ForwardOptions {
        path_rewrite: forward.rewrite.as_ref().map(|r| Box::new(r.for_path(path))),
        host_rewrite: authority.map(|host| HostRewrite::Literal(host.as_str().into())),
        timeout: forward.timeout,
        idle_timeout: None,
        retry: match &forward.retry {
            Retry::Unset => Some(Arc::new(RetryPolicy::default())),
            Retry::Off => None,
            Retry::On(policy) => Some(policy.clone()),
        },
        mirrors: mirrors.into(),
        session: None,
        error_backend: None,
    };
    model::Forward { clusters, options: options.into() }
}

fn report(part: &mut Part, object: &Object, at: &At, diagnostic: Diagnostic) {
    part.report(object, at.span, &*at.field, diagnostic);
}
