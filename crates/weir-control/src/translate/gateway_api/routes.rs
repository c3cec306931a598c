//! HTTPRoutes and GRPCRoutes: routes of the tables of the listeners that they attach to.
use super::{
    attach::{self, Attached, Parent, Refused},
    backend_tls,
    permitted::permitted,
};
use crate::{
    api::gateway_api::{
        backend_ref::{BackendKind, BackendRef},
        filters::Filters,
        http_route::{Backend, HttpRoute, Match, ParentKind, ParentRef, Rule, RuleOptions},
    },
    object::{Key, Kind, Object, Spec},
    status::condition::Scope,
    translate::{ByName, ClusterKey, Cx, Part, Purpose, Rank, RankApi, RankPath, RouteEntry},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        Cors, Forward, ForwardOptions, HostRewrite, HttpFilterConfig, Mirror, Name, Origin, PathMatch, PathRewrite, Rare, RetryPolicy,
        Route, RouteAction, SessionCarrier, SessionPersistence, TargetOptions, WeightedCluster,
    },
};

pub fn translate_http_route(cx: &Cx<'_>, object: &Arc<Object>, route: &HttpRoute, part: &mut Part) {
    // By the Gateway whose own certificate upstreams are shown, where it has one.
    let mut all: BTreeMap<Option<Key>, BTreeSet<(Name, Name)>> = BTreeMap::new();
    let mut accepted = Vec::new();
    let mut gateways = BTreeSet::new();
    for (index, parent) in route.parents.iter().enumerate().filter(|(_, p)| p.kind != ParentKind::Foreign) {
        let found = attach_parent(cx, object, &route.hostnames, parent, index, part);
        if let Some((parent, attached)) = found {
            all.entry(client(parent.gateway)).or_default().extend(places(cx, &parent, &attached));
            gateways.insert(&parent.gateway.key);
            accepted.push(index);
        }
    }
    let refused = route.refused_rules().len();
    if refused > 0 && refused == route.rules.len() {
        for index in std::mem::take(&mut accepted) {
            part.condition(Scope::parent(index), "Accepted", false, "UnsupportedValue");
        }
    }
    backend_tls::note_ancestors(cx, object, route, &gateways, part);
    for (client, places) in all.into_iter().filter(|(_, places)| !places.is_empty()) {
        let maker = Maker { cx, object, origin: object.origin(), client };
        for (index, rule) in route.rules.iter().enumerate() {
            maker.rule(rule, index, &places, part);
        }
    }
    conditions(&accepted, part);
    for index in accepted.iter().filter(|_| refused > 0) {
        part.condition(Scope::parent(*index), "PartiallyInvalid", true, "UnsupportedValue");
    }
}

/// Reasons of the condition `ResolvedRefs`.
const RESOLVE: [&str; 3] = ["BackendNotFound", "RefNotPermitted", "InvalidKind"];

/// What a route is attached to by one of its parents, with the Gateway; reports a parent that does not take it.
pub fn attach_parent<'a>(
    cx: &Cx<'a>,
    object: &Arc<Object>,
    hostnames: &[Name],
    parent: &ParentRef,
    index: usize,
    part: &mut Part,
) -> Option<(Parent<'a>, Vec<Attached<'a>>)> {
    let namespace = parent.namespace.as_ref().unwrap_or(&object.key.namespace);
    let mut refuse = |found: Diagnostic| {
        part.condition(Scope::parent(index), "Accepted", false, found.reason);
        part.report(object, parent.place, format!("spec.parentRefs[{index}]"), found);
        None
    };
    let found = match attach::parent(cx, namespace, parent) {
        Ok(found) => found,
        Err(why) => return refuse(why),
    };
    match attach::attach(cx, &found, parent, (object.key.kind, &object.key.namespace), hostnames) {
        Ok(attached) => {
            attached.iter().for_each(|a| part.attach(&a.entry.owner.key, &a.entry.listener.name));
            Some((found, attached))
        }
        Err(why) => {
            let kind = found.set.unwrap_or(found.gateway).key.kind.info().name;
            let message = format!("the {kind} {namespace}/{} {}", parent.name, Refused::words(why));
            refuse(Diagnostic::warning(why.reason(), message).help(why.help()))
        }
    }
}

/// The Gateway, where it has a certificate of its own for upstreams.
pub fn client(gateway: &Object) -> Option<Key> {
    let own = matches!(&gateway.spec, Spec::Gateway(spec) if spec.client_certificate.is_some());
    own.then(|| gateway.key.clone())
}

/// The (table, domain) pairs that a route has by what it is attached to.
fn places(cx: &Cx<'_>, parent: &Parent<'_>, attached: &[Attached<'_>]) -> Vec<(Name, Name)> {
    let mut places = Vec::new();
    for a in attached {
        for bind in parent.spec.binds(parent.gateway, a.entry.listener, cx) {
            let table = parent.spec.table(a.entry.listener, &parent.gateway.key, bind);
            places.extend(a.domains.iter().map(|domain| (table.clone(), domain.clone())));
        }
    }
    places
}

/// Of its parents, with those that took the route.
pub fn conditions(accepted: &[usize], part: &mut Part) {
    let trouble = part.findings.iter().map(|f| f.diagnostic.reason).find(|r| RESOLVE.contains(r));
    for index in accepted {
        part.condition(Scope::parent(*index), "Accepted", true, "Accepted");
    }
    let all: Vec<Scope> = part.conditions.iter().filter(|c| c.kind == "Accepted").map(|c| c.scope.clone()).collect();
    for parent in all {
        part.condition(parent, "ResolvedRefs", trouble.is_none(), trouble.unwrap_or("ResolvedRefs"));
    }
}

/// Makes a route's rules into the model's.
pub struct Maker<'a> {
    pub cx: &'a Cx<'a>,
    pub object: &'a Arc<Object>,
    pub origin: Origin,
    /// From [`client`], of the Gateway that the resources are for.
    pub client: Option<Key>,
}

impl Maker<'_> {
    fn rule(&self, rule: &Rule, index: usize, places: &BTreeSet<(Name, Name)>, part: &mut Part) {
        let key = &self.object.key;
        let name: Name = rule.options().name.clone().unwrap_or_else(|| format!("{}/{}/{index}", key.namespace, key.name).into());
        let no_filters = Filters::default();
        let filters = rule.filters.as_deref().unwrap_or(&no_filters);
        let action = self.action(rule, filters, index, part);
        let cors = filters.cors.as_ref().or_else(|| shared_cors(rule)).cloned();
        let line = self.origin.line.below(rule.line.saturating_sub(self.object.line));
        for (nth, matched) in rule.matches.iter().enumerate() {
            let origin = Origin { line: line.clone(), ..self.origin.clone() };
            let mut route = Route {
                request_headers: filters.request.clone(),
                response_headers: filters.response.clone(),
                ..Route::new(name.clone(), matched.matches.clone(), self.fit(&action, matched), origin)
            };
            cors.iter().for_each(|cors| route.set_filter(HttpFilterConfig::Cors(cors.clone())));
            let route = Arc::new(route);
            for (table, domain) in places {
                let rank = rank(matched, self.object, index, nth);
                part.routes.push(RouteEntry { table: table.clone(), domain: domain.clone(), rank, route: Some(route.clone()) });
            }
        }
    }

    /// A rewrite of the prefix needs a prefix that was matched.
    fn fit(&self, action: &RouteAction, matched: &Match) -> RouteAction {
        let mut action = action.clone();
        if matches!(matched.matches.path, PathMatch::PathSeparatedPrefix(_) | PathMatch::Prefix(_)) {
            return action;
        }
        let is_prefix = |p: &PathRewrite| matches!(p, PathRewrite::ReplacePrefixMatch(_));
        let prefix = |p: &mut Option<Box<PathRewrite>>| {
            if p.as_deref().is_some_and(is_prefix) {
                *p = None;
            }
        };
        match &mut action {
            RouteAction::Forward(forward) => {
                if forward.path_rewrite.is_some() {
                    prefix(&mut forward.path_rewrite);
                }
                for cluster in &mut forward.clusters {
                    if cluster.path_rewrite.is_some() {
                        prefix(&mut cluster.path_rewrite);
                    }
                    if cluster.redirect.is_some()
                        && let Some(redirect) = &mut cluster.redirect
                    {
                        redirect.path.take_if(|p| is_prefix(p));
                    }
                }
            }
            RouteAction::Redirect(redirect) => _ = redirect.path.take_if(|p| is_prefix(p)),
            RouteAction::DirectResponse(_) => {}
        }
        action
    }

    fn action(&self, rule: &Rule, filters: &Filters, index: usize, part: &mut Part) -> RouteAction {
        if let (Some(redirect), false) = (&filters.redirect, filters.refused) {
            return RouteAction::Redirect(redirect.clone());
        }
        if rule.backends.is_empty() && !filters.refused && self.object.key.kind == Kind::HttpRoute {
            return RouteAction::direct_response(500, "");
        }
        let mut clusters: Vec<WeightedCluster> = Vec::with_capacity(rule.backends.len().max(1));
        for (nth, backend) in rule.backends.iter().enumerate().filter(|_| !filters.refused) {
            let field = format!("spec.rules[{index}].backendRefs[{nth}]");
            let mut made = self.backend(backend, &field, part);
            if backend.filters.as_ref().is_some_and(|f| f.cors.is_some()) && shared_cors(rule).is_none() {
                made.cluster = None;
                if made.redirect.is_some() {
                    made.redirect = None;
                }
            }
            clusters.push(made);
        }
        if clusters.is_empty() {
            // Nothing to forward to, or a filter that must not be skipped.
            clusters.push(self.weighted(None, 1));
        }
        let mirrors = self.mirrors(filters, &format!("spec.rules[{index}].filters"), part);
        let options = ForwardOptions {
            path_rewrite: filters.rewrite_path.clone(),
            host_rewrite: filters.rewrite_host.as_deref().map(|host| HostRewrite::Literal(host.into())),
            timeout: rule.options().timeout,
            idle_timeout: None,
            retry: retry(rule),
            mirrors,
            session: rule.options().session.as_deref().map(|session| self.session(session, index)),
            error_backend: None,
        };
        RouteAction::Forward(Box::new(Forward { clusters, options: options.into() }))
    }

    /// A cookie without a name has one of the rule's own.
    fn session(&self, session: &SessionPersistence, rule: usize) -> Arc<SessionPersistence> {
        let mut session = session.clone();
        if let SessionCarrier::Cookie { name, .. } = &mut session.carrier
            && name.is_empty()
        {
            let key = &self.object.key;
            *name = format!("weir-{}-{}-{rule}", key.namespace, key.name);
        }
        Arc::new(session)
    }

    /// What a reference that leads nowhere is answered with: for gRPC, what its clients read as UNAVAILABLE.
    fn unresolved_status(&self) -> u16 {
        if self.object.key.kind == Kind::GrpcRoute { 503 } else { 500 }
    }

    fn weighted(&self, cluster: Option<Name>, weight: u32) -> WeightedCluster {
        WeightedCluster { cluster, weight, unresolved_status: self.unresolved_status(), ..WeightedCluster::only("".into()) }
    }

    fn backend(&self, backend: &Backend, field: &str, part: &mut Part) -> WeightedCluster {
        let status = self.unresolved_status();
        let so = format!("its requests are answered with {status}");
        let mut made = self.weighted(self.resolve(&backend.reference, field, &so, part), backend.weight);
        let Some(filters) = &backend.filters else { return made };
        if filters.refused {
            made.cluster = None;
            return made;
        }
        made.options = Rare::from(TargetOptions {
            request_headers: filters.request.clone(),
            response_headers: filters.response.clone(),
            redirect: filters.redirect.clone(),
            mirrors: self.mirrors(filters, &format!("{field}.filters"), part),
            host_rewrite: filters.rewrite_host.as_deref().map(|host| HostRewrite::Literal(host.into())),
            path_rewrite: filters.rewrite_path.clone(),
        });
        made
    }

    fn mirrors(&self, filters: &Filters, field: &str, part: &mut Part) -> Box<[Mirror]> {
        let all = filters.mirrors.iter().enumerate();
        let resolved = all.filter_map(|(nth, (reference, fraction))| {
            let cluster = self.resolve(reference, &format!("{field}: mirror {nth}"), "nothing is mirrored there", part)?;
            Some(Mirror { cluster, fraction: *fraction, disable_shadow_host_suffix_append: true })
        });
        resolved.collect()
    }

    /// The cluster of a reference; reports one that leads nowhere.
    pub fn resolve(&self, reference: &BackendRef, field: &str, so: &str, part: &mut Part) -> Option<Name> {
        match self.look_up(reference) {
            Ok(key) => Some(part.use_cluster(key)),
            Err((reason, message, help)) => {
                let found = Diagnostic::warning(reason, format!("{message}: {so}")).help(help);
                part.report(self.object, reference.place, field, found);
                None
            }
        }
    }

    fn look_up(&self, reference: &BackendRef) -> Result<ClusterKey, (&'static str, String, String)> {
        let name = &reference.name;
        let own = &self.object.key.namespace;
        let port = |what: &str| reference.port.ok_or_else(|| ("BackendNotFound", format!("a {what} needs a port"), "add port".to_string()));
        match &reference.kind {
            BackendKind::Service => {
                let namespace = reference.namespace.as_ref().unwrap_or(own);
                let kind = self.object.key.kind.info().name;
                if !permitted(self.cx, (kind, own), ("", "Service", namespace, name)) {
                    let help = format!("add a ReferenceGrant to the namespace {namespace}, from {kind}s of {own} to Services");
                    let message = format!("the Service {namespace}/{name} is in another namespace, without a ReferenceGrant");
                    return Err(("RefNotPermitted", message, help));
                }
                let Some(service) = self.cx.service_port(namespace, name, reference.port.unwrap_or_default()) else {
                    return Err((
                        "BackendNotFound",
                        format!("there is no Service {namespace}/{name}"),
                        "add it, or change the name".into(),
                    ));
                };
                let port = port("Service")?;
                let udp = self.object.key.kind == Kind::UdpRoute;
                let key = ClusterKey::service(namespace, name, port);
                let key = if udp { key.with_purpose(Purpose::Udp) } else { key };
                if key.service_port(service).is_none() && service.external_name().is_none() {
                    self.cx.service(namespace, name);
                    let (transport, ports) = if udp { ("UDP port", service.udp_ports()) } else { ("port", &*service.ports) };
                    let ports: Vec<String> = ports.iter().map(|p| p.port.to_string()).collect();
                    let help = format!("its {transport}s are {}", ports.join(", "));
                    return Err(("BackendNotFound", format!("the Service {namespace}/{name} has no {transport} {port}"), help));
                }
                if udp {
                    return Ok(key);
                }
                let shown = |_: &&Key| backend_tls::policy(self.cx, &key, service.port(port).map(|p| &*p.name)).is_some();
                Ok(match self.client.as_ref().filter(shown) {
                    Some(gateway) => key.with_purpose(Purpose::Gateway(gateway.clone())),
                    None => key,
                })
            }
            BackendKind::Hostname => {
                let host = name.to_ascii_lowercase();
                let port = port("Hostname")?;
                if self.cx.by_word(Kind::ServiceEntry, &host).next().is_none() {
                    return Err(("BackendNotFound", format!("no ServiceEntry has the host {host}"), "add one".into()));
                }
                Ok(ClusterKey::host(port, &host))
            }
            BackendKind::Registry => {
                let host = name.to_ascii_lowercase();
                let ports: BTreeSet<u16> = self
                    .cx
                    .by_word(Kind::ServiceEntry, &host)
                    .filter_map(|object| if let Spec::ServiceEntry(entry) = &object.spec { Some(entry) } else { None })
                    .flat_map(|entry| entry.ports.iter().map(|p| p.number))
                    .collect();
                let list = || ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                match (reference.port, ports.first()) {
                    (_, None) => {
                        let help = "see the registries of the McpBridge";
                        Err(("BackendNotFound", format!("no registry has a service {host}"), help.into()))
                    }
                    (None, Some(only)) if ports.len() == 1 => Ok(ClusterKey::host(*only, &host)),
                    (Some(port), _) if ports.contains(&port) => Ok(ClusterKey::host(port, &host)),
                    (Some(port), _) => Err(("BackendNotFound", format!("{host} has no port {port}"), format!("one of {}", list()))),
                    (None, _) => Err(("BackendNotFound", format!("{host} has several ports"), format!("add port, one of {}", list()))),
                }
            }
            BackendKind::Other(kind) => Err(("InvalidKind", format!("{kind} is no backend"), "a Service".into())),
        }
    }
}

/// What all backends of a rule say of CORS.
fn shared_cors(rule: &Rule) -> Option<&Arc<Cors>> {
    fn cors(backend: &Backend) -> Option<&Arc<Cors>> {
        backend.filters.as_ref()?.cors.as_ref()
    }
    let first = cors(rule.backends.first()?)?;
    rule.backends.iter().all(|b| cors(b) == Some(first)).then_some(first)
}

fn retry(rule: &Rule) -> Option<Arc<RetryPolicy>> {
    let RuleOptions { retry, backend_timeout, .. } = rule.options();
    let mut policy = match (retry, *backend_timeout) {
        (Some(policy), _) => policy.clone(),
        // One try, with its limit.
        (None, Some(_)) => RetryPolicy { conditions: Vec::new(), num_retries: 0, ..RetryPolicy::default() },
        (None, None) => return None,
    };
    policy.per_try_timeout = *backend_timeout;
    Some(Arc::new(policy))
}

fn rank(matched: &Match, object: &Object, rule: usize, nth: usize) -> Rank {
    let grpc = object.key.kind == Kind::GrpcRoute;
    let path = match &matched.matches.path {
        PathMatch::Prefix(path) if path == "/" => RankPath::Prefix,
        // Paths of methods are compared by the lengths of the names alone.
        _ if grpc => RankPath::Exact,
        PathMatch::Exact(_) => RankPath::Exact,
        PathMatch::Regex(_) => RankPath::Regex,
        PathMatch::Prefix(_) | PathMatch::PathSeparatedPrefix(_) => RankPath::Prefix,
    };
    Rank {
        api: if grpc { RankApi::Grpc } else { RankApi::Specific },
        path,
        path_length: Reverse(matched.path_length),
        method: Reverse(matched.method),
        headers: Reverse(matched.headers),
        query_parameters: Reverse(matched.query_parameters),
        created: object.meta.created,
        object: ByName(object.key.clone()),
        index: ((rule as u32) << 16) | nth as u32,
    }
}
