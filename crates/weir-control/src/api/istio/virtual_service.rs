//! VirtualService: how requests to some hosts are routed. All that needs no other object is in the model's terms already.
mod action;

use super::read::{At, ExportTo, Headers, Matcher, full_host, headers, host_field, string_match};
use crate::{
    api::{
        checks::header_name,
        labels::{Labels, labels},
    },
    object::meta::Meta,
};
use std::{sync::Arc, time::Duration};
use weir_config::{
    model::{
        Cors, Fault, Fraction, HeaderMatch, Name, PathMatch, PathRewrite, QueryMatch, Redirect, RetryPolicy, RouteMatch, StringMatch,
        ValueMatch,
    },
    reader::{Field, Object},
};

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// Full names or patterns; none in a delegate.
    pub hosts: Vec<Name>,
    pub gateways: Vec<GatewayRef>,
    pub export_to: ExportTo,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<L4Route>,
    pub tcp: Vec<L4Route>,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRef {
    pub namespace: Name,
    pub name: Name,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Empty where it has none.
    pub name: Box<str>,
    /// Lines below the start of the object.
    pub line: u32,
    /// `None` matches everything; an empty list, nothing at a gateway.
    pub matches: Option<Vec<HttpMatch>>,
    pub action: Action,
    pub headers: Headers,
    pub cors: Option<Arc<Cors>>,
    pub fault: Option<Arc<Fault>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpMatch {
    pub name: Box<str>,
    /// The conditions; `path` is `None` where any path will do.
    pub path: Option<PathMatch>,
    pub ignore_case: bool,
    pub headers: Vec<HeaderMatch>,
    pub query_parameters: Vec<QueryMatch>,
    pub scope: Scope,
}

/// Where a match holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// The port that the gateway listens on.
    pub port: Option<u16>,
    /// `namespace/name`; empty for all of the VirtualService.
    pub gateways: Vec<Box<str>>,
    /// Says nothing where `gateways` does.
    pub source: Option<Source>,
}

/// The workload whose requests are meant; here that is the gateway itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub labels: Labels,
    pub namespace: Option<Box<str>>,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    DirectResponse {
        status: u16,
        body: String,
    },
    /// To the routes of another VirtualService; `forward` is what those inherit, and has no destinations.
    Delegate {
        namespace: Name,
        name: Name,
        at: At,
        forward: Box<Forward>,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    pub destinations: Vec<Destination>,
    pub rewrite: Option<Rewrite>,
    pub authority: Option<String>,
    pub timeout: Option<Duration>,
    pub retry: Retry,
    pub mirrors: Vec<(Destination, Fraction)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Retry {
    /// Not said: Istio's default.
    #[default]
    Unset,
    Off,
    On(Arc<RetryPolicy>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Rewrite {
    /// In place of what the match's path covers.
    Uri(String),
    Regex {
        pattern: String,
        substitution: String,
    },
}

impl Rewrite {
    pub fn for_path(&self, path: Option<&PathMatch>) -> PathRewrite {
        match (self, path) {
            (Rewrite::Regex { pattern, substitution }, _) => {
                PathRewrite::Regex { pattern: pattern.clone(), substitution: substitution.clone() }
            }
            (Rewrite::Uri(uri), Some(PathMatch::Exact(_) | PathMatch::Regex(_))) => PathRewrite::Full(uri.clone()),
            (Rewrite::Uri(uri), _) => PathRewrite::Prefix(uri.clone()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Full.
    pub host: Name,
    pub subset: Name,
    pub port: Option<u16>,
    pub weight: u32,
    pub headers: Headers,
    pub at: At,
}

/// One entry of `tls` or `tcp`.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Route {
    /// Server names and where they hold; a single one with no names where there is no match.
    pub matches: Vec<(Vec<String>, Scope)>,
    pub destinations: Vec<Destination>,
    pub at: At,
}

impl VirtualService {
    /// Its hosts: VirtualServices that share one are put together.
    pub fn index_keys(&self) -> Vec<Name> {
        self.hosts.clone()
    }
}

pub fn decode(root: &Object<'_>, meta: &Meta) -> Option<VirtualService> {
    let first = root.field().line();
    let spec = root.required("spec")?.object()?;
    spec.describe(&[
        ("hosts", "", "The hosts of the routes, or patterns as `*.shop.test`."),
        ("gateways", "", "The Gateways that the routes apply to, as `NAME` or `NAMESPACE/NAME`."),
    ]);
    let hosts: Vec<Name> = spec.list("hosts").iter().filter_map(host_field).map(|host| full_host(&host, &meta.key.namespace)).collect();
    let names = spec.list("gateways");
    if names.is_empty() && !hosts.is_empty() {
        let help = "name the Gateways under gateways";
        spec.field().warning("MeshOnly", "without gateways this VirtualService is for sidecars only and has no effect here", help);
    }
    let gateways: Vec<GatewayRef> = names.iter().filter_map(|f| gateway_ref(f, meta)).collect();
    if gateways.is_empty()
        && let Some(mesh) = names.first()
    {
        mesh.warning("MeshOnly", "mesh means sidecars: this VirtualService has no effect here", "name a Gateway beside it");
    }
    let export_to = ExportTo::decode(&spec);
    let http = spec.list("http").iter().filter_map(|f| http_route(f, meta, first)).collect();
    let tls = spec.list("tls").iter().filter_map(|f| l4_route(f, meta, true)).collect();
    let tcp = spec.list("tcp").iter().filter_map(|f| l4_route(f, meta, false)).collect();
    Some(VirtualService { hosts, gateways, export_to, http, tls, tcp, at: At::of(spec.field()) })
}

/// `None` for `mesh`, whose sidecars are none of a gateway's business.
fn gateway_ref(field: &Field<'_>, meta: &Meta) -> Option<GatewayRef> {
    let full = gateway_name(field.str()?, meta)?;
    let (namespace, name) = full.split_once('/')?;
    Some(GatewayRef { namespace: namespace.into(), name: name.into(), at: At::of(field) })
}

/// `namespace/name` of `name`, `namespace/name` or the older `name.namespace.svc.cluster.local`.
fn gateway_name(text: &str, meta: &Meta) -> Option<Box<str>> {
    if text == "mesh" {
        return None;
    }
    let old = text.strip_suffix(".svc.cluster.local").and_then(|t| t.split_once('.'));
    let (namespace, name) = match text.split_once('/') {
        Some((".", name)) => (&*meta.key.namespace, name),
        Some(both) => both,
        None => old.map_or((&*meta.key.namespace, text), |(name, namespace)| (namespace, name)),
    };
    Some(format!("{namespace}/{name}").into())
}

fn http_route(field: &Field<'_>, meta: &Meta, first: u32) -> Option<HttpRoute> {
    let object = field.object()?;
    let name = object.str("name").unwrap_or_default().into();
    let matches = match object.list("match") {
        list if list.is_empty() => None,
        list => Some(list.iter().filter_map(|f| http_match(f, meta)).collect()),
    };
    let headers = headers(&object);
    let cors = object.get("corsPolicy").and_then(|f| action::cors(&f)).map(Arc::new);
    let fault = object.get("fault").and_then(|f| action::fault(&f)).map(Arc::new);
    let action = action::action(&object, meta)?;
    Some(HttpRoute { name, line: field.line() - first, matches, action, headers, cors, fault })
}

/// `None` for a match that no gateway takes part in.
fn http_match(field: &Field<'_>, meta: &Meta) -> Option<HttpMatch> {
    let object = field.object()?;
    object.ignore(&["statPrefix"]);
    object.describe(&[("ignoreUriCase", "false", "Match `uri` in any case."), ("name", "", "A name for logs, behind that of the route.")]);
    let path = object.get("uri").and_then(|f| match string_match(&f)? {
        Matcher::Any => None,
        Matcher::Text(StringMatch::Exact(text)) => Some(PathMatch::Exact(text)),
        Matcher::Text(StringMatch::Prefix(text)) if text == "/" => None,
        Matcher::Text(StringMatch::Regex(text)) => Some(PathMatch::Regex(text)),
        Matcher::Text(StringMatch::Prefix(text) | StringMatch::Suffix(text) | StringMatch::Contains(text)) => Some(PathMatch::Prefix(text)),
    });
    let mut headers = Vec::new();
    for (field, name) in [("scheme", ":scheme"), ("method", ":method"), ("authority", ":authority")] {
        if let Some(Matcher::Text(text)) = object.get(field).and_then(|f| string_match(&f)) {
            headers.push(HeaderMatch { name: name.into(), value: ValueMatch::Text(text), invert: false, ignore_case: false });
        }
    }
    for (list, invert) in [("headers", false), ("withoutHeaders", true)] {
        for (name, value) in object.entries(list) {
            if ["uri", "scheme", "method", "authority"].contains(&name) {
                value.warning("UnusedField", format!("{name} is no header here and has no effect"), format!("write {name} beside headers"));
                continue;
            }
            let Some(name) = header_name(name, &value) else { continue };
            let value = match string_match(&value) {
                Some(Matcher::Text(text)) => ValueMatch::Text(text),
                Some(Matcher::Any) => ValueMatch::Present,
                None => continue,
            };
            headers.push(HeaderMatch { name, value, invert, ignore_case: false });
        }
    }
    let query = object.entries("queryParams").into_iter().filter_map(|(name, value)| {
        let value = match string_match(&value)? {
            Matcher::Text(text) => ValueMatch::Text(text),
            Matcher::Any => ValueMatch::Present,
        };
        Some(QueryMatch { name: name.into(), value })
    });
    let query_parameters = query.collect();
    let ignore_case = object.bool("ignoreUriCase").unwrap_or(false);
    let name = object.str("name").unwrap_or_default().into();
    let scope = scope(&object, meta)?;
    Some(HttpMatch { name, path, ignore_case, headers, query_parameters, scope })
}

impl HttpMatch {
    pub fn conditions(&self) -> RouteMatch {
        RouteMatch {
            path: self.path.clone().unwrap_or_else(|| PathMatch::Prefix("/".into())),
            ignore_case: self.ignore_case,
            headers: self.headers.clone(),
            query_parameters: self.query_parameters.clone(),
        }
    }
}

/// `None` where the match is for sidecars only.
fn scope(object: &Object<'_>, meta: &Meta) -> Option<Scope> {
    object.describe(&[
        ("port", "", "Only requests to this port of the gateway."),
        ("gateways", "", "Only requests to these Gateways. By default those of the VirtualService."),
        ("sourceLabels", "", "Labels that the gateway must have."),
        ("sourceNamespace", "", "The namespace that the gateway must be in."),
    ]);
    let port = object.port("port");
    let named = object.list("gateways");
    let gateways: Vec<Box<str>> = named.iter().filter_map(|f| gateway_name(f.str()?, meta)).collect();
    let mesh_only = !named.is_empty() && gateways.is_empty();
    let (labels, namespace) = (labels(object, "sourceLabels"), object.str("sourceNamespace").map(Box::from));
    let at = object.get("sourceLabels").map_or_else(|| At::of(object.field()), |f| At::of(&f));
    let source = (!labels.is_empty() || namespace.is_some()).then_some(Source { labels, namespace, at });
    (!mesh_only).then_some(Scope { port, gateways, source })
}

fn l4_route(field: &Field<'_>, meta: &Meta, tls: bool) -> Option<L4Route> {
    let object = field.object()?;
    let list = if tls { object.required("match")?.list() } else { object.list("match") };
    let matches =
        if list.is_empty() { vec![(Vec::new(), Scope::default())] } else { list.iter().filter_map(|f| l4_match(f, meta, tls)).collect() };
    let destinations: Vec<Destination> = object.required("route")?.list().iter().filter_map(|f| destination(f, meta)).collect();
    Some(L4Route { matches, destinations, at: At::of(field) })
}

fn l4_match(field: &Field<'_>, meta: &Meta, tls: bool) -> Option<(Vec<String>, Scope)> {
    let object = field.object()?;
    object.unsupported(&["destinationSubnets", "sourceSubnet"]);
    let names = if tls { object.required("sniHosts")?.list().iter().filter_map(host_field).collect() } else { Vec::new() };
    Some((names, scope(&object, meta)?))
}

/// An entry of `route`: `destination`, `weight`, `headers`.
fn destination(field: &Field<'_>, meta: &Meta) -> Option<Destination> {
    let object = field.object()?;
    object.describe(&[(
        "weight",
        "0",
        "The destination's share of requests, relative to the other weights. A single destination needs none.",
    )]);
    let weight = object.get("weight").map(|f| f.int(0..=i64::from(u32::MAX)).unwrap_or_default() as u32);
    let headers = headers(&object);
    let mut to = destination_at(&object.required("destination")?, meta)?;
    // Weights are left out where there is one destination only.
    to.weight = weight.unwrap_or(0);
    to.headers = headers;
    Some(to)
}

/// `{host, subset, port}`
fn destination_at(field: &Field<'_>, meta: &Meta) -> Option<Destination> {
    let object = field.object()?;
    object.describe(&[
        ("host", "", "The service: a Service by its name or full name, or the host of a ServiceEntry."),
        ("subset", "", "A subset of the service that a DestinationRule defines."),
    ]);
    let host_at = object.required("host")?;
    let host = full_host(&host_field(&host_at)?, &meta.key.namespace);
    let subset = object.str("subset").unwrap_or_default().into();
    let port = object.object("port").and_then(|p| p.port("number"));
    Some(Destination { host, subset, port, weight: 1, headers: Headers::default(), at: At::of(&host_at) })
}
