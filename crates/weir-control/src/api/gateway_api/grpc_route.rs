//! Reading GRPCRoute: an HTTPRoute whose paths are `/SERVICE/METHOD`.
use super::{
    backend_ref::BackendKind,
    filters::GRPC_TYPES,
    http_route::{HttpRoute, Match, Rule, add_headers, decode_parents, everything},
};
use crate::{
    api::checks::{check_regex, hostname},
    object::meta::Meta,
};
use weir_config::{
    model::{HeaderMatch, Name, PathMatch, StringMatch, ValueMatch},
    reader::{Field, Object},
};

impl HttpRoute {
    /// A GRPCRoute is found by the services that it sends requests to: these speak HTTP/2 unless they say otherwise.
    pub fn index_keys(&self, meta: &Meta) -> Vec<Name> {
        let services = self.rules.iter().flat_map(|r| &r.backends).map(|b| &b.reference).filter(|r| r.kind == BackendKind::Service);
        let mut index_keys: Vec<Name> =
            services.map(|r| format!("{}/{}", r.namespace.as_deref().unwrap_or(&meta.key.namespace), r.name).into()).collect();
        index_keys.sort();
        index_keys.dedup();
        index_keys
    }
}

pub fn decode(root: &Object<'_>) -> Option<HttpRoute> {
    let spec = root.required("spec")?.object()?;
    spec.unsupported(&["useDefaultGateways"]);
    let parents = decode_parents(&spec);
    let hostnames = spec.list("hostnames").iter().filter_map(hostname).collect();
    let rule = |field: &Field<'_>| {
        let object = field.object()?;
        let mut rule = Rule::decode(&object, GRPC_TYPES, decode_match);
        if !object.has("matches") {
            rule.matches.iter_mut().for_each(calls_only);
        }
        Some(rule)
    };
    // None is none: the API has no default here.
    let rules = spec.distinct("rules", "name").iter().filter_map(rule).collect();
    Some(HttpRoute { parents, hostnames, rules })
}

/// What is not gRPC is left to HTTPRoutes of the same host.
fn calls_only(made: &mut Match) {
    if made.matches.headers.iter().all(|h| h.name != "content-type") {
        let value = ValueMatch::Text(StringMatch::Prefix("application/grpc".into()));
        made.edit().headers.push(HeaderMatch { name: "content-type".into(), value, invert: false, ignore_case: false });
    }
}

fn decode_match(field: &Field<'_>) -> Option<Match> {
    let object = field.object()?;
    let mut made = everything();
    let method = object.get("method");
    if let Some(method) = &method {
        decode_method(method, &mut made)?;
    }
    add_headers(&object, &mut made)?;
    if method.is_none() {
        calls_only(&mut made);
    }
    Some(made)
}

/// More of the service's name comes first, then more of the method's.
fn decode_method(field: &Field<'_>, made: &mut Match) -> Option<()> {
    let object = field.object()?;
    let regex = object.get("type").map_or(Some(false), |f| f.choice(&[("Exact", false), ("RegularExpression", true)]))?;
    let part = |name: &'static str| -> Option<Option<&str>> {
        let Some(value) = object.get(name) else { return Some(None) };
        let text = value.str()?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == '.' && name == "service");
        if regex {
            check_regex(&value, text)?;
        } else if !text.chars().all(word) {
            value.invalid(format!("\"{text}\" is not the name of a {name}"), "letters, digits, _ and, in services, .");
            return None;
        }
        Some(Some(text).filter(|t| !t.is_empty()))
    };
    let (service, method) = (part("service")?, part("method")?);
    let length = |text: Option<&str>| text.map_or(0, str::len).min(0xffff) as u32;
    made.path_length = length(service) << 16 | length(method);
    made.edit().path = match (service, method) {
        (None, None) => {
            field.error("MissingField", "a match of methods names a service or a method", "add service, method or both");
            return None;
        }
        (service, method) if regex => {
            let any = "[^/]+";
            PathMatch::Regex(format!("/(?:{})/(?:{})", service.unwrap_or(any), method.unwrap_or(any)))
        }
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}/")),
        (None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{method}")),
    };
    Some(())
}
