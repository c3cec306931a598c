//! The routes of an Ingress: one for each of its paths, with what its annotations say of them.
use super::{auth, canary, tls::secured};
use crate::{
    api::ingress::{
        Backend, Ingress, Path, PortRef,
        annotations::{Annotations, ServiceRef},
        route_name,
    },
    api::istio::virtual_service::Destination,
    object::{Kind, Object},
    translate::{Bind, ClusterKey, Cx, Part, Rank, RankApi, RankPath, RouteEntry, endpoints, http_table, istio::resolve_destination},
};
use std::{cmp::Reverse, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{
        BasicAuth, ErrorBackend, Forward, ForwardOptions, HeaderEdits, HeaderMatch, HostRewrite, HttpFilterConfig, INGRESS_CORS, Mirror,
        Name, Origin, PathMatch, PathRewrite, Redirect, RedirectPort, Route, RouteAction, RouteMatch, StringMatch, ValueMatch,
        WeightedCluster,
    },
};

pub struct Maker<'a> {
    pub cx: &'a Cx<'a>,
    pub object: &'a Arc<Object>,
    pub ingress: &'a Ingress,
    pub notes: &'a Annotations,
    /// `namespace/name`
    /// Whom basic authentication lets in, if it is asked for.
    pub basic_auth: Option<Arc<BasicAuth>>,
    /// Its requests are answered with 503.
    pub closed: bool,
}

/// What a route has beside its match.
struct Draft<'a> {
    object: &'a Arc<Object>,
    action: RouteAction,
    request_headers: HeaderEdits,
    response_headers: HeaderEdits,
    line: u32,
}

/// In place of every route of an Ingress that must not be open.
const CLOSED: u16 = 503;

impl<'a> Maker<'a> {
    /// Reports why an Ingress is closed.
    pub fn new(cx: &'a Cx<'a>, object: &'a Arc<Object>, ingress: &'a Ingress, notes: &'a Annotations, part: &mut Part) -> Maker<'a> {
        let asked = notes.basic_auth.as_deref();
        let basic_auth = asked.and_then(|asked| auth::basic(cx, object, asked, part)).map(Arc::new);
        let closed = ingress.closed || notes.refused.is_some() || asked.is_some() && basic_auth.is_none();
        Maker { cx, object, ingress, notes, basic_auth, closed }
    }

    pub fn translate(&self, part: &mut Part) {
        self.check_client_auth(part);
        let mut nth = 0;
        for (index, rule) in self.ingress.rules.iter().enumerate() {
            let host = rule.host.as_ref();
            if let Some(root) = &self.notes.redirects.app_root
                && !rule.paths.is_empty()
            {
                self.app_root(host, root, part);
            }
            for (path_index, path) in rule.paths.iter().enumerate() {
                let field = format!("spec.rules[{index}].http.paths[{path_index}].backend");
                self.path(host, path, nth, &field, part);
                nth += 1;
            }
        }
        if let Some(backend) = &self.ingress.default_backend {
            self.default_backend(backend, part);
        }
    }

    /// Whether clients must show a certificate.
    fn wants_certificates(&self) -> bool {
        self.notes.tls.client.as_ref().is_some_and(|client| !client.optional)
    }

    /// Reports hosts that cannot ask clients for a certificate.
    fn check_client_auth(&self, part: &mut Part) {
        let Some(client) = self.notes.tls.client.as_ref().filter(|_| self.wants_certificates() && !self.closed) else { return };
        let (mut bare, mut unlisted) = (Vec::new(), Vec::new());
        for host in self.ingress.rules.iter().map(|rule| rule.host.as_deref().unwrap_or("*")) {
            let Some(secured) = secured(self.cx, host) else {
                bare.push(host);
                continue;
            };
            match secured.client() {
                None => unlisted.push(host),
                Some((winner, other)) if other.optional => {
                    let message =
                        format!("{} is older and makes certificates optional for {host}: requests are answered with 503", winner.title());
                    let found = Diagnostic::error("InvalidCertificateRef", message).help("say the same in both");
                    part.report(self.object, client.place, "metadata.annotations", found);
                }
                Some(_) => {}
            }
        }
        for (hosts, problem) in [(bare, "there is no certificate for"), (unlisted, "spec.tls of this Ingress does not have")] {
            if !hosts.is_empty() {
                let message = format!("{problem} {}: requests are answered with 503", hosts.join(", "));
                let found = Diagnostic::error("InvalidCertificateRef", message).help("add the host under spec.tls, with its secretName");
                part.report(self.object, client.place, "metadata.annotations", found);
            }
        }
    }

    fn path(&self, host: Option<&Name>, path: &Path, nth: u32, field: &str, part: &mut Part) {
        let (matches, rank) = (self.matches(path.matches.clone(), host), self.rank(path, nth));
        let mut draft = self.draft(path, self.targets(&path.backend, field, part), path.line, part);
        let canaries =
            if matches!(draft.action, RouteAction::Forward(_)) { canary::of(self.cx, self.ingress, host, path) } else { Vec::new() };
        for canary in &canaries {
            let Some(header) = &canary.canary.header else { continue };
            let clusters = self.canary_targets(canary, part);
            let mut action = draft.action.clone();
            if let RouteAction::Forward(forward) = &mut action {
                forward.clusters = clusters;
            }
            let (request_headers, response_headers) = (canary.notes.request_headers.clone(), canary.notes.response_headers.clone());
            let own = Draft { object: canary.object, action, request_headers, response_headers, line: canary.path.line };
            let mut narrower = matches.clone();
            narrower.headers.push(header.clone());
            let rank = Rank { headers: Reverse(rank.headers.0 + 1), created: canary.object.meta.created, ..rank.clone() };
            self.add(host, rank, narrower, own, part);
        }
        self.split(&canaries, &mut draft, part);
        self.add(host, rank, matches, draft, part);
    }

    /// Gives canaries their share of the requests.
    fn split(&self, canaries: &[canary::Found<'_>], draft: &mut Draft<'_>, part: &mut Part) {
        let by_weight: Vec<_> = canaries.iter().filter(|c| c.canary.header.is_none() && c.canary.weight > 0).collect();
        let (Some(first), RouteAction::Forward(forward)) = (by_weight.first(), &mut draft.action) else { return };
        let taken = by_weight.iter().fold(0u32, |sum, c| sum.saturating_add(c.canary.weight));
        let targets: Vec<_> = by_weight.iter().map(|canary| self.canary_targets(canary, part)).collect();
        // Of several destinations each takes a part of the share.
        let several = forward.clusters.len() > 1 || targets.iter().any(|clusters| clusters.len() > 1);
        let unit = if several { 1000 } else { 1 };
        share(&mut forward.clusters, first.canary.weight_total.saturating_sub(taken), unit);
        for cluster in &mut forward.clusters {
            cluster.request_headers = draft.request_headers.clone();
            cluster.response_headers = draft.response_headers.clone();
        }
        (draft.request_headers, draft.response_headers) = Default::default();
        for (found, mut clusters) in by_weight.into_iter().zip(targets) {
            share(&mut clusters, found.canary.weight, unit);
            for cluster in &mut clusters {
                cluster.request_headers = found.notes.request_headers.clone();
                cluster.response_headers = found.notes.response_headers.clone();
            }
            forward.clusters.append(&mut clusters);
        }
    }

    /// What the annotations make of the requests of a path.
    fn draft(&self, path: &Path, targets: Vec<WeightedCluster>, line: u32, part: &mut Part) -> Draft<'a> {
        let notes = self.notes;
        let action = match &notes.redirects.to {
            Some(redirect) => RouteAction::Redirect(Box::new(redirect.clone())),
            None => {
                let options = ForwardOptions {
                    path_rewrite: self.path_rewrite(path).map(Box::new),
                    host_rewrite: notes.rewrite.host.as_ref().map(|host| HostRewrite::Literal(host.as_ref().into())),
                    timeout: notes.traffic.timeout,
                    idle_timeout: notes.traffic.idle_timeout,
                    retry: notes.traffic.retry.clone(),
                    mirrors: self.mirror(part).into_iter().collect(),
                    session: None,
                    error_backend: self.error_backend(&path.backend, part).map(Box::new),
                };
                RouteAction::Forward(Box::new(Forward { clusters: targets, options: options.into() }))
            }
        };
        let (request_headers, response_headers) = (notes.request_headers.clone(), notes.response_headers.clone());
        Draft { object: self.object, action, request_headers, response_headers, line }
    }

    fn path_rewrite(&self, path: &Path) -> Option<PathRewrite> {
        let rewrite = &self.notes.rewrite;
        let prefix = |new: &str| match &path.matches {
            PathMatch::Exact(_) | PathMatch::Regex(_) => PathRewrite::Full(new.into()),
            PathMatch::Prefix(_) | PathMatch::PathSeparatedPrefix(_) => PathRewrite::ReplacePrefixMatch(new.into()),
        };
        match (&rewrite.path, &rewrite.target, &path.matches) {
            (Some(new), ..) => Some(prefix(new)),
            (None, Some(substitution), PathMatch::Regex(pattern)) => {
                let flag = if self.notes.matching.ignore_case { "(?i)" } else { "" };
                Some(PathRewrite::Regex { pattern: format!("{flag}^(?:{pattern})"), substitution: substitution.to_string() })
            }
            (None, Some(new), _) => Some(prefix(new)),
            (None, None, _) => None,
        }
    }

    fn mirror(&self, part: &mut Part) -> Option<Mirror> {
        let mirror = self.notes.traffic.mirror.as_deref()?;
        let key = self.annotated(&mirror.service, "nothing is mirrored", part)?;
        Some(Mirror { cluster: part.use_cluster(key), fraction: mirror.fraction, disable_shadow_host_suffix_append: false })
    }

    /// What takes the place of answers with the statuses of `custom-http-errors`.
    fn error_backend(&self, backend: &Backend, part: &mut Part) -> Option<ErrorBackend> {
        let fallback = self.notes.traffic.fallback.as_deref().filter(|fallback| !fallback.statuses.is_empty())?;
        let key = self.annotated(&fallback.service, "errors are not replaced", part)?;
        let mut headers = vec![
            ("x-namespace".to_string(), self.object.key.namespace.to_string()),
            ("x-ingress-name".to_string(), self.object.key.name.to_string()),
        ];
        if let Some((name, port)) = &backend.service {
            headers.push(("x-service-name".into(), name.to_string()));
            headers.push(("x-service-port".into(), port.to_string()));
        }
        let request_headers = HeaderEdits::new(Vec::new(), headers, Vec::new());
        Some(ErrorBackend { statuses: fallback.statuses.clone(), cluster: part.use_cluster(key), request_headers })
    }

    /// The cluster of a Service that an annotation names.
    fn annotated(&self, service: &ServiceRef, so: &str, part: &mut Part) -> Option<ClusterKey> {
        let namespace = service.namespace.as_ref().unwrap_or(&self.object.key.namespace);
        let found = self.cx.service(namespace, &service.name);
        let port = found.and_then(|s| service.port.or(s.ports.first().map(|p| p.port)));
        if let Some((found, port)) = found.zip(port)
            && (found.port(port).is_some() || found.external_name().is_some())
        {
            return Some(ClusterKey::service(namespace, &service.name, port));
        }
        let message = match found {
            None => format!("there is no Service {namespace}/{}: {so}", service.name),
            Some(_) => format!("the Service {namespace}/{} has no such port: {so}", service.name),
        };
        let found = Diagnostic::warning("BackendNotFound", message).help("see its name, namespace and ports");
        part.report(self.object, service.place, "metadata.annotations", found);
        None
    }

    /// `/` is redirected to the application's own root.
    fn app_root(&self, host: Option<&Name>, root: &str, part: &mut Part) {
        let path = Some(PathRewrite::Full(root.into()));
        let redirect = Redirect { scheme: None, host: None, port: None, path, status: 302, strip_query: false };
        let listed = Rank::listed(RankApi::Specific, self.object.meta.created, self.object.key.clone(), 0);
        let rank = Rank { path: RankPath::Exact, path_length: Reverse(1), headers: Reverse(u16::MAX), ..listed };
        let (request_headers, response_headers) = Default::default();
        let action = RouteAction::Redirect(Box::new(redirect));
        let draft = Draft { object: self.object, action, request_headers, response_headers, line: self.object.line };
        let matches = RouteMatch { ignore_case: false, ..self.matches(PathMatch::Exact("/".into()), host) };
        self.add(host, rank, matches, draft, part);
    }

    /// For what no path matches: of the hosts of this Ingress, and of hosts that no Ingress has.
    fn default_backend(&self, backend: &Backend, part: &mut Part) {
        let targets = self.targets(backend, "spec.defaultBackend", part);
        let mut hosts: Vec<Option<&Name>> = self.ingress.rules.iter().map(|r| r.host.as_ref()).collect();
        hosts.push(None);
        hosts.sort();
        hosts.dedup();
        let root = Path { matches: PathMatch::Prefix("/".into()), length: 1, backend: backend.clone(), line: backend.line };
        for host in hosts {
            let rank = Rank::listed(RankApi::Default, self.object.meta.created, self.object.key.clone(), 0);
            let draft = self.draft(&root, targets.clone(), backend.line, part);
            self.add(host, rank, self.matches(root.matches.clone(), host), draft, part);
        }
    }

    /// Puts a route into the tables of the ports on which its host is served.
    fn add(&self, host: Option<&Name>, rank: Rank, matches: RouteMatch, draft: Draft<'_>, part: &mut Part) {
        let domain: Name = host.cloned().unwrap_or_else(|| "*".into());
        let secured = secured(self.cx, &domain);
        let guarded = secured.as_ref().is_some_and(|s| s.guarded());
        let closed = self.closed || self.wants_certificates() && !guarded;
        let mut made = Route::new(
            route_name(&draft.object.key.namespace, &draft.object.key.name),
            matches,
            draft.action,
            origin(draft.object, draft.line),
        );
        self.notes.rbac.iter().for_each(|rbac| made.set_filter(HttpFilterConfig::Rbac(rbac.clone())));
        let source_ranges = made.per_filter_config.clone();
        if closed {
            made.action = RouteAction::direct_response(CLOSED, "");
        } else {
            (made.request_headers, made.response_headers) = (draft.request_headers, draft.response_headers);
            if let Some(cors) = &self.notes.cors {
                made.set_filter_named(INGRESS_CORS.clone(), HttpFilterConfig::Cors(cors.clone()));
            }
            if let Some(users) = &self.basic_auth {
                made.set_filter(HttpFilterConfig::BasicAuth(users.clone()));
                // As ingress-nginx does: the password is for the gateway.
                let edits = &made.request_headers;
                let remove = edits.remove.iter().cloned().chain(["authorization".to_string()]).collect();
                made.request_headers = HeaderEdits::new(remove, edits.set.to_vec(), edits.add.to_vec());
            }
            if let Some(limit) = &self.notes.local_rate_limit {
                made.set_filter(HttpFilterConfig::LocalRateLimit(limit.clone()));
            }
        }
        // Twice the index: what goes before a route has a place of its own.
        let rank = Rank { index: rank.index * 2 + 1, ..rank };
        let plain = http_table(Bind::port(self.cx.options.http_port));
        if !closed && (self.notes.redirects.https || guarded) {
            let port = if secured.is_some() { self.cx.options.https_port } else { 443 };
            let mut to_https = Route { action: https_redirect(port), per_filter_config: source_ranges, ..made.clone() };
            if !guarded {
                // A trusted proxy in front may have had TLS.
                let value = ValueMatch::Text(StringMatch::Exact("http".into()));
                Arc::make_mut(&mut to_https.matches).headers.push(HeaderMatch {
                    name: ":scheme".into(),
                    value,
                    invert: false,
                    ignore_case: false,
                });
            }
            let rank = Rank { index: rank.index - 1, ..rank.clone() };
            part.routes.push(RouteEntry { table: plain.clone(), domain: domain.clone(), rank, route: Some(Arc::new(to_https)) });
        }
        let route = Arc::new(made);
        for table in (!guarded || closed).then_some(plain).into_iter().chain(secured.map(|s| s.table)) {
            part.routes.push(RouteEntry { table, domain: domain.clone(), rank: rank.clone(), route: Some(route.clone()) });
        }
    }

    /// A wildcard stands for one label, while the model's stands for any number.
    fn matches(&self, path: PathMatch, host: Option<&Name>) -> RouteMatch {
        let one_label = host.and_then(|h| h.strip_prefix("*.")).map(|suffix| HeaderMatch {
            name: ":authority".into(),
            value: ValueMatch::Text(StringMatch::Regex(format!(r"(?i)[^.]+\.{}(:\d+)?", regex::escape(suffix)))),
            invert: false,
            ignore_case: false,
        });
        let notes = &self.notes.matching;
        let headers = one_label.into_iter().chain(notes.headers.iter().cloned()).collect();
        RouteMatch { path, ignore_case: notes.ignore_case, headers, query_parameters: notes.query_parameters.clone() }
    }

    fn rank(&self, path: &Path, nth: u32) -> Rank {
        let notes = &self.notes.matching;
        let conditions = notes.headers.len() + notes.query_parameters.len();
        let rank = match &path.matches {
            // After whatever is more specific, and before another `/`.
            _ if path.length == Path::UNKNOWN => RankPath::Root,
            PathMatch::Exact(_) => RankPath::Exact,
            PathMatch::Regex(_) => RankPath::LateRegex,
            PathMatch::Prefix(_) if conditions == 0 => RankPath::Root,
            PathMatch::Prefix(_) | PathMatch::PathSeparatedPrefix(_) => RankPath::Prefix,
        };
        let listed = Rank::listed(RankApi::Specific, self.object.meta.created, self.object.key.clone(), nth);
        Rank {
            path: rank,
            path_length: Reverse(path.length),
            method: Reverse(notes.method),
            headers: Reverse((notes.headers.len() - usize::from(notes.method)) as u16),
            query_parameters: Reverse(notes.query_parameters.len() as u16),
            ..listed
        }
    }

    /// The clusters of a backend: one, or those of the annotation `destination`. What leads nowhere is reported.
    fn targets(&self, backend: &Backend, field: &str, part: &mut Part) -> Vec<WeightedCluster> {
        if !backend.bridge || self.notes.destinations.is_empty() {
            return vec![self.target(backend, field, part)];
        }
        destinations(self.cx, self.object, &self.notes.destinations, part)
    }

    /// As [`Maker::targets`], of a canary, whose own unit reports.
    fn canary_targets(&self, canary: &canary::Found<'_>, part: &mut Part) -> Vec<WeightedCluster> {
        let backend = &canary.path.backend;
        match backend.bridge && !canary.notes.destinations.is_empty() {
            true => destinations(self.cx, canary.object, &canary.notes.destinations, part),
            false => vec![self.target_of(&canary.object.key.namespace, backend, part).0],
        }
    }

    /// The cluster of a backend; one that leads nowhere is reported.
    fn target(&self, backend: &Backend, field: &str, part: &mut Part) -> WeightedCluster {
        let (mut target, trouble) = self.target_of(&self.object.key.namespace, backend, part);
        if let Some(fallback) = &self.notes.traffic.fallback
            && !self.has_endpoints(backend)
            && let Some(key) = self.annotated(&fallback.service, "it takes no requests", part)
        {
            target = WeightedCluster::only(part.use_cluster(key));
        } else if let Some((message, help)) = trouble.filter(|_| !self.ingress.closed) {
            let found = Diagnostic::warning("BackendNotFound", format!("{message}: its requests are answered with 503")).help(help);
            part.report(self.object, backend.place, field, found);
        }
        target
    }

    /// Of a namespace, with its error.
    fn target_of(&self, namespace: &str, backend: &Backend, part: &mut Part) -> (WeightedCluster, Option<(String, String)>) {
        match self.look_up(namespace, backend) {
            Ok(key) => (WeightedCluster::only(part.use_cluster(key)), None),
            Err(trouble) => {
                let nowhere = WeightedCluster { cluster: None, unresolved_status: 503, ..WeightedCluster::only("".into()) };
                (nowhere, Some(trouble))
            }
        }
    }

    fn look_up(&self, namespace: &str, backend: &Backend) -> Result<ClusterKey, (String, String)> {
        let Some((name, port)) = &backend.service else {
            return Err(match backend.bridge {
                true => (
                    "the McpBridge is a backend, and nothing says which service".into(),
                    "add the annotation higress.io/destination".into(),
                ),
                false => ("this resource is no backend".into(), "a service, or the McpBridge default of networking.higress.io".into()),
            });
        };
        let found = match port {
            PortRef::Number(number) => self.cx.service_port(namespace, name, *number),
            PortRef::Name(_) => self.cx.service(namespace, name),
        };
        let Some(service) = found else {
            return Err((format!("there is no Service {namespace}/{name}"), "add it, or change the name".into()));
        };
        let number = match port {
            PortRef::Number(number) if service.port(*number).is_some() || service.external_name().is_some() => Some(*number),
            PortRef::Number(_) => None,
            PortRef::Name(name) => service.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        };
        let Some(number) = number else {
            self.cx.service(namespace, name);
            let ports: Vec<String> = service.ports.iter().map(|p| format!("{} {}", p.port, p.name).trim_end().to_string()).collect();
            return Err((format!("the Service {namespace}/{name} has no port {port}"), format!("its ports are {}", ports.join(", "))));
        };
        Ok(ClusterKey::service(namespace, name, number))
    }

    fn has_endpoints(&self, backend: &Backend) -> bool {
        let Ok(key) = self.look_up(&self.object.key.namespace, backend) else { return false };
        let service = key.kubernetes().and_then(|(namespace, name)| self.cx.get(Kind::Service, namespace, name));
        service.is_some_and(|service| endpoints::has_endpoints(self.cx, service, key.port))
    }
}

/// The clusters of destinations, which are hosts of registries, ServiceEntries or Services.
fn destinations(cx: &Cx<'_>, object: &Object, all: &[Destination], part: &mut Part) -> Vec<WeightedCluster> {
    let made = all.iter().map(|to| {
        let key = resolve_destination(cx, object, to, cx.options.http_port, true, part);
        let cluster = key.map(|key| part.use_cluster(key));
        WeightedCluster { cluster, weight: to.weight, unresolved_status: 503, ..WeightedCluster::only("".into()) }
    });
    made.collect()
}

/// Gives clusters their parts of a share, in units of which one percent has `unit`.
fn share(clusters: &mut [WeightedCluster], share: u32, unit: u32) {
    let sum: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    for cluster in clusters {
        let part = u64::from(cluster.weight) * u64::from(share) * u64::from(unit) / sum.max(1);
        cluster.weight = part.min(u64::from(u32::MAX)) as u32;
    }
}

fn origin(object: &Arc<Object>, line: u32) -> Origin {
    let origin = object.origin();
    Origin { line: origin.line.below(line.saturating_sub(object.line)), ..origin }
}

/// With the method and the body kept.
fn https_redirect(port: u16) -> RouteAction {
    let port = if port == 443 { RedirectPort::FromProtocol } else { RedirectPort::Literal(port) };
    let redirect = Redirect { scheme: Some("https".into()), host: None, port: Some(port), path: None, status: 308, strip_query: false };
    RouteAction::Redirect(Box::new(redirect))
}
