//! Kubernetes Ingress and IngressClass (networking.k8s.io/v1).
pub mod annotations;
pub mod index_keys;

use crate::api::{
    checks::{check_path, check_regex, hostname},
    mcp_bridge,
};
use annotations::Annotations;
use weir_config::{
    model::{Name, PathMatch},
    node::{Chars, Value},
    reader::{Field, Object},
};

/// The `controller` of IngressClasses that are Weir's.
pub const CONTROLLERS: [&str; 2] = ["weir.dev/ingress-controller", "higress.io/higress-controller"];

#[derive(Clone, Debug, PartialEq)]
pub struct IngressClass {
    pub controller: Box<str>,
}

pub fn decode_class(root: &Object<'_>) -> Option<IngressClass> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["parameters"]);
    Some(IngressClass { controller: spec.required("controller")?.str()?.into() })
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ingress {
    pub class: Option<Box<str>>,
    pub class_place: Chars,
    pub default_backend: Option<Backend>,
    pub tls: Vec<Tls>,
    pub rules: Vec<Rule>,
    pub annotations: Option<Box<Annotations>>,
    /// Stands in for an object in error that guards access: its requests are answered with 503.
    pub closed: bool,
}

impl Ingress {
    /// Whether annotations keep requests out.
    pub fn guards(&self) -> bool {
        self.annotations.as_deref().is_some_and(|notes| notes.guards)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Empty for any.
    pub hosts: Vec<Name>,
    pub secret: Option<Name>,
    pub place: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `None` for any.
    pub host: Option<Name>,
    pub paths: Vec<Path>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    pub matches: PathMatch,
    /// Of the path as it is written, without a slash at its end; [`Path::UNKNOWN`] for one that could not be read.
    pub length: u32,
    pub backend: Backend,
    /// One-based line in the document.
    pub line: u32,
}

impl Path {
    pub const UNKNOWN: u32 = u32::MAX;

    /// For a path that could not be read: it may be any. Only what stands in for an object in error has it.
    fn unknown(field: &Field<'_>) -> Path {
        let (backend, line) = (Backend::nowhere(field), field.document_line());
        Path { matches: PathMatch::Prefix("/".into()), length: Path::UNKNOWN, backend, line }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathType {
    Exact,
    /// By segments; `ImplementationSpecific` is the same here.
    Prefix,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// `None` for a resource.
    pub service: Option<(Name, PortRef)>,
    /// The resource is the McpBridge: the annotation `destination` says where requests go.
    pub bridge: bool,
    pub place: Chars,
    /// One-based line in the document.
    pub line: u32,
}

impl Backend {
    fn nowhere(field: &Field<'_>) -> Backend {
        Backend { service: None, bridge: false, place: field.node().span, line: field.document_line() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum PortRef {
    Number(u16),
    Name(Box<str>),
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortRef::Number(n) => n.fmt(f),
            PortRef::Name(n) => n.fmt(f),
        }
    }
}

pub fn decode(root: &Object<'_>) -> Option<Ingress> {
    let field = root.required("spec")?;
    let spec = field.object()?;
    let class = spec.get("ingressClassName");
    let place = root.get("kind").map_or(field.node().span, |k| k.node().span);
    let annotations = annotations::decode(root);
    let none = Annotations::default();
    let notes = annotations.as_deref().unwrap_or(&none);
    let rules = spec.list("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        field.error("MissingField", "an Ingress has rules or a defaultBackend", "add one of them");
    }
    Some(Ingress {
        class: class.as_ref().and_then(|f| f.str()).map(Into::into),
        class_place: class.map_or(place, |f| f.node().span),
        default_backend: spec.get("defaultBackend").map(|f| decode_backend(&f).unwrap_or_else(|| Backend::nowhere(&f))),
        tls: spec.list("tls").iter().filter_map(decode_tls).collect(),
        rules: rules.iter().filter_map(|f| decode_rule(f, notes)).collect(),
        annotations,
        closed: false,
    })
}

fn decode_tls(field: &Field<'_>) -> Option<Tls> {
    let tls = field.object()?;
    let hosts = tls.list("hosts").iter().filter_map(hostname).collect();
    Some(Tls { hosts, secret: tls.str("secretName").map(Into::into), place: field.node().span })
}

fn decode_rule(field: &Field<'_>, notes: &Annotations) -> Option<Rule> {
    let rule = field.object()?;
    let paths = rule.get("http").map(|http| decode_paths(&http, notes)).unwrap_or_default();
    let host = match rule.get("host").filter(|f| f.node().as_str() != Some("")) {
        // One that is wrong is no host: it must not become any host.
        Some(host) => Some(hostname(&host)?),
        None => None,
    };
    Some(Rule { host, paths })
}

fn decode_paths(http: &Field<'_>, notes: &Annotations) -> Vec<Path> {
    let paths = http.object().and_then(|http| http.required("paths"));
    match paths {
        Some(paths) if matches!(paths.node().value, Value::List(_)) => paths.list().iter().map(|f| decode_path(f, notes)).collect(),
        Some(paths) => {
            paths.list();
            vec![Path::unknown(&paths)]
        }
        None => vec![Path::unknown(http)],
    }
}

/// Errors were reported: the result only closes what the path would have taken.
fn decode_path(field: &Field<'_>, notes: &Annotations) -> Path {
    let Some(object) = field.object() else { return Path::unknown(field) };
    let matches = decode_match(field, &object, notes);
    let backend = object.required("backend").and_then(|f| decode_backend(&f));
    let Some((matches, length)) = matches else { return Path::unknown(field) };
    Path { matches, length, backend: backend.unwrap_or_else(|| Backend::nowhere(field)), line: field.document_line() }
}

/// With the length of the path.
fn decode_match(field: &Field<'_>, object: &Object<'_>, notes: &Annotations) -> Option<(PathMatch, u32)> {
    let words = [("Exact", PathType::Exact), ("Prefix", PathType::Prefix), ("ImplementationSpecific", PathType::Prefix)];
    // The wider one for a type that is wrong.
    let kind = object.required("pathType").and_then(|f| f.choice(&words)).unwrap_or(PathType::Prefix);
    let given = object.get("path");
    let text = given.as_ref().map_or(Some("/"), |f| f.str())?;
    let at = given.as_ref().unwrap_or(field);
    if let Some(pattern) = notes.rewrite.pattern(text) {
        check_regex(at, &pattern)?;
        notes.rewrite.check_groups(at, &pattern)?;
        return Some((PathMatch::Regex(pattern), text.len() as u32));
    }
    if let Some(given) = &given {
        check_path(given, text)?;
    }
    let bare = text.trim_end_matches('/');
    let matches = match (kind, bare) {
        (PathType::Exact, _) => PathMatch::Exact(text.into()),
        (PathType::Prefix, "") => PathMatch::Prefix("/".into()),
        (PathType::Prefix, _) => PathMatch::PathSeparatedPrefix(bare.into()),
    };
    Some((matches, bare.len().max(1) as u32))
}

fn decode_backend(field: &Field<'_>) -> Option<Backend> {
    let backend = field.object()?;
    let mut made = Backend::nowhere(field);
    if let Some(resource) = backend.get("resource") {
        let resource = resource.object()?;
        let [group, kind, name] = ["apiGroup", "kind", "name"].map(|field| resource.str(field).unwrap_or_default());
        // Others are reported where they are used.
        made.bridge = (group, kind, name) == (mcp_bridge::GROUP, "McpBridge", mcp_bridge::NAME);
        if !backend.has("service") {
            return Some(made);
        }
    }
    let service = backend.required("service")?.object()?;
    let port = service.required("port")?.object()?;
    let port = match (port.get("name"), port.get("number")) {
        (Some(name), None) => PortRef::Name(name.str()?.into()),
        (None, Some(number)) => PortRef::Number(number.port()?),
        _ => {
            port.field().error("InvalidValue", "a port is named or numbered", "either name or number");
            return None;
        }
    };
    made.service = Some((service.required("name")?.str()?.into(), port));
    Some(made)
}

/// The namespace whose Ingress objects Higress names without it.
const SYSTEM_NAMESPACE: &str = "higress-system";

/// The name of an Ingress' routes, as in Higress.
pub fn route_name(namespace: &str, name: &str) -> Name {
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
