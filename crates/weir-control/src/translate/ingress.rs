//! Kubernetes Ingress and IngressClass (networking.k8s.io/v1). An Ingress names no port: it is served on the port for HTTP,
//! and on the one for HTTPS for the hosts that any Ingress has a certificate for.
mod decode;

pub use decode::{Backend, Ingress, IngressClass, Path, PathType, PortRef, Rule, Tls, decode, decode_class};

use super::{
    Bind, ClusterKey, Cx, Part, PortKind, PortPart, Rank, RankApi, RankPath, RouteEntry, SecretKey, http_table, https_table,
    secret::{self, Lacks},
};
use crate::object::{Key, Kind, Object, Spec};
use std::{cmp::Reverse, sync::Arc};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{
        DownstreamTls, Forward, HeaderMatch, Name, Origin, PathMatch, Route, RouteAction, RouteMatch, StringMatch, ValueMatch,
        WeightedCluster,
    },
};

/// The `controller` of IngressClasses that are Weir's.
pub const CONTROLLERS: [&str; 2] = ["weir.dev/ingress-controller", "higress.io/higress-controller"];
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// An Ingress is found by the hosts that it has certificates for; `*` for one without hosts.
pub fn words(ingress: &Ingress) -> Vec<Name> {
    let hosts = |tls: &Tls| if tls.hosts.is_empty() { vec!["*".into()] } else { tls.hosts.clone() };
    ingress.tls.iter().filter(|tls| tls.secret.is_some()).flat_map(hosts).collect()
}

/// The namespace whose Ingress objects Higress names without it.
const SYSTEM_NAMESPACE: &str = "higress-system";

/// The name of an Ingress' routes, as in Higress.
fn route_name(namespace: &str, name: &str) -> Name {
    if namespace == SYSTEM_NAMESPACE { name.into() } else { format!("{namespace}/{name}").into() }
}

/// The route names that a plugin's rule means by `named`: `namespace/name` of an Ingress, `name` of one in the plugin's own namespace,
/// or the name of another API's route.
pub fn route_names(named: &str, namespace: &str) -> Vec<String> {
    let own = match named.split_once('/') {
        Some((namespace, name)) => route_name(namespace, name),
        None => route_name(namespace, named),
    };
    if *own == *named { vec![named.into()] } else { vec![own.to_string(), named.into()] }
}

pub fn translate(cx: &Cx<'_>, object: &Arc<Object>, ingress: &Ingress, part: &mut Part) {
    if let Err(why) = class(cx, object, ingress) {
        let found = Diagnostic::warning("NotAccepted", format!("Weir does not serve this Ingress: {why}"))
            .help("use another class, or write controller: weir.dev/ingress-controller in that IngressClass");
        return part.find(object, ingress.class_place, "spec.ingressClassName", found);
    }
    annotations(object, ingress, part);
    part.ports.push(PortPart { bind: Bind::port(cx.options.http_port), object: object.title.clone(), line: 0, kind: PortKind::Http });
    for (index, tls) in ingress.tls.iter().enumerate() {
        translate_tls(cx, object, tls, index, part);
    }
    let Key { namespace, name, .. } = &object.key;
    let maker = Maker { cx, object, owner: format!("{namespace}/{name}").into(), route_name: route_name(namespace, name) };
    let mut nth = 0;
    for (index, rule) in ingress.rules.iter().enumerate() {
        for (path_index, path) in rule.paths.iter().enumerate() {
            let field = format!("spec.rules[{index}].http.paths[{path_index}].backend");
            let action = maker.action(&path.backend, &field, part);
            let (matches, rank) = (maker.matches(path.matches.clone(), rule.host.as_ref()), maker.rank(path, nth));
            maker.add(rule.host.as_ref(), rank, maker.route(matches, action, path.line), part);
            nth += 1;
        }
    }
    if let Some(backend) = &ingress.default_backend {
        maker.default_backend(ingress, backend, part);
    }
}

/// Whether an Ingress is Weir's, as any is whose class no IngressClass object gives to another controller; else why not.
fn class(cx: &Cx<'_>, object: &Object, ingress: &Ingress) -> Result<(), String> {
    let named = ingress.class.as_deref().or_else(|| object.meta.annotation(CLASS_ANNOTATION));
    let ours = |class: &IngressClass| CONTROLLERS.contains(&&*class.controller);
    match named {
        Some(name) => match cx.get(Kind::IngressClass, "", name).map(|o| &o.spec) {
            Some(Spec::IngressClass(class)) if !ours(class) => {
                Err(format!("the IngressClass {name} belongs to the controller {}", class.controller))
            }
            _ => Ok(()),
        },
        // Without a class: Weir's, unless another controller's class is the default one.
        None => {
            let default = cx.all(Kind::IngressClass).find(|o| o.meta.annotation(DEFAULT_CLASS) == Some("true"));
            match default.map(|o| (&o.key.name, &o.spec)) {
                Some((name, Spec::IngressClass(class))) if !ours(class) => {
                    Err(format!("it has no class, and the default IngressClass {name} belongs to the controller {}", class.controller))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Annotations say much of what an Ingress does elsewhere: say that they do nothing here, once.
fn annotations(object: &Object, ingress: &Ingress, part: &mut Part) {
    let meant = |key: &str| key.contains(".ingress.kubernetes.io/") || key.starts_with("higress.io/");
    let names: Vec<&str> = object.meta.annotations.iter().map(|(key, _)| &**key).filter(|key| meant(key)).collect();
    if !names.is_empty() {
        let message = format!("annotations are not supported yet and have no effect: {}", names.join(", "));
        part.find(object, ingress.place, "metadata.annotations", Diagnostic::new(Severity::Info, "UnsupportedAnnotation", message));
    }
}

fn translate_tls(cx: &Cx<'_>, object: &Arc<Object>, tls: &Tls, index: usize, part: &mut Part) {
    let namespace = &object.key.namespace;
    let trouble = match &tls.secret {
        None => Some(("without secretName there is no certificate".to_string(), "add secretName with the name of a Secret")),
        Some(name) => match secret::check(cx, &SecretKey::certificate(namespace, name)) {
            Ok(()) => None,
            Err(Lacks::Object) => Some((format!("there is no Secret {namespace}/{name}"), "add it")),
            Err(Lacks::Content) => {
                Some((format!("the Secret {namespace}/{name} has no tls.crt and tls.key"), "use one of the type kubernetes.io/tls"))
            }
        },
    };
    if let Some((message, help)) = trouble {
        let found = Diagnostic::error("InvalidCertificateRef", format!("{message}: these hosts are not served over TLS")).help(help);
        return part.find(object, tls.place, format!("spec.tls[{index}]"), found);
    }
    let Some(name) = &tls.secret else { return };
    let certificate = part.use_secret(SecretKey::certificate(namespace, name));
    let kind = PortKind::Https {
        server_names: tls.hosts.iter().map(|h| h.to_string()).collect(),
        tls: DownstreamTls { certificates: vec![certificate], ..DownstreamTls::default() },
        table: https_table(Bind::port(cx.options.https_port), None),
    };
    part.ports.push(PortPart { bind: Bind::port(cx.options.https_port), object: object.title.clone(), line: 0, kind });
}

struct Maker<'a> {
    cx: &'a Cx<'a>,
    object: &'a Arc<Object>,
    /// `namespace/name`
    owner: Name,
    route_name: Name,
}

impl Maker<'_> {
    /// Puts a route into the tables of the ports on which its host is served.
    fn add(&self, host: Option<&Name>, rank: Rank, route: Arc<Route>, part: &mut Part) {
        let domain: Name = host.cloned().unwrap_or_else(|| "*".into());
        let options = self.cx.options;
        let mut tables = vec![http_table(Bind::port(options.http_port))];
        if self.has_certificate(&domain) {
            tables.push(https_table(Bind::port(options.https_port), None));
        }
        for table in tables {
            part.routes.push(RouteEntry { table, domain: domain.clone(), rank: rank.clone(), route: Some(route.clone()) });
        }
    }

    /// Any Ingress will do: hosts are often spread over several, of which one has the certificate.
    fn has_certificate(&self, domain: &str) -> bool {
        let wild = domain.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        [Some(domain.to_string()), wild, Some("*".to_string())]
            .into_iter()
            .flatten()
            .any(|word| self.cx.by_word(Kind::Ingress, &word).next().is_some())
    }

    /// A wildcard stands for one label, while the model's stands for any number.
    fn matches(&self, path: PathMatch, host: Option<&Name>) -> RouteMatch {
        let one_label = host.and_then(|h| h.strip_prefix("*.")).map(|suffix| HeaderMatch {
            name: ":authority".into(),
            value: ValueMatch::Text(StringMatch::Regex(format!(r"(?i)[^.]+\.{}(:\d+)?", regex::escape(suffix)))),
            invert: false,
            ignore_case: false,
        });
        RouteMatch { headers: one_label.into_iter().collect(), ..RouteMatch::path(path) }
    }

    fn rank(&self, path: &Path, nth: u32) -> Rank {
        let rank = if matches!(path.matches, PathMatch::Exact(_)) { RankPath::Exact } else { RankPath::Prefix };
        let listed = Rank::listed(RankApi::Specific, &self.object.meta.created, self.owner.clone(), nth);
        Rank { path: rank, path_length: Reverse(path.length), ..listed }
    }

    fn route(&self, matches: RouteMatch, action: RouteAction, line: u32) -> Arc<Route> {
        let origin = self.object.origin();
        let origin = Origin { line: origin.line.below(line.saturating_sub(self.object.line)), ..origin };
        Arc::new(Route::new(self.route_name.clone(), matches, action, origin))
    }

    fn action(&self, backend: &Backend, field: &str, part: &mut Part) -> RouteAction {
        let cluster = match self.look_up(backend) {
            Ok(key) => WeightedCluster::only(part.use_cluster(key)),
            Err((message, help)) => {
                let found = Diagnostic::warning("BackendNotFound", format!("{message}: its requests are answered with 503")).help(help);
                part.find(self.object, backend.place, field, found);
                WeightedCluster { cluster: None, unresolved_status: 503, ..WeightedCluster::only("".into()) }
            }
        };
        RouteAction::Forward(Box::new(Forward::to(vec![cluster])))
    }

    fn look_up(&self, backend: &Backend) -> Result<ClusterKey, (String, String)> {
        let namespace = &self.object.key.namespace;
        let Some((name, port)) = &backend.service else {
            return Err(("a resource is no backend yet".into(), "use a service".into()));
        };
        let Some(service) = self.cx.service(namespace, name) else {
            return Err((format!("there is no Service {namespace}/{name}"), "add it, or change the name".into()));
        };
        let number = match port {
            PortRef::Number(number) if service.port(*number).is_some() || service.external_name.is_some() => Some(*number),
            PortRef::Number(_) => None,
            PortRef::Name(name) => service.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        };
        let Some(number) = number else {
            let ports: Vec<String> = service.ports.iter().map(|p| format!("{} {}", p.port, p.name).trim_end().to_string()).collect();
            return Err((format!("the Service {namespace}/{name} has no port {port}"), format!("its ports are {}", ports.join(", "))));
        };
        Ok(ClusterKey::service(namespace, name, number))
    }

    /// For what no path matches: of the hosts of this Ingress, and of hosts that no Ingress has.
    fn default_backend(&self, ingress: &Ingress, backend: &Backend, part: &mut Part) {
        let action = self.action(backend, "spec.defaultBackend", part);
        let mut hosts: Vec<Option<&Name>> = ingress.rules.iter().map(|r| r.host.as_ref()).collect();
        hosts.push(None);
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            let rank = Rank::listed(RankApi::Default, &self.object.meta.created, self.owner.clone(), 0);
            let matches = self.matches(PathMatch::Prefix("/".into()), host);
            self.add(host, rank, self.route(matches, action.clone(), backend.line), part);
        }
    }
}
