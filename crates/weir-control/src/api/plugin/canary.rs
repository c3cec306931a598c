//! A plugin that takes a part of the streams of another one, by annotations, with the words of the canaries of an Ingress.
use super::PREFIX;
use crate::object::meta::{Key, Kind, Meta};
use weir_config::{
    model::{CanaryHeader, Name},
    node::Chars,
    reader::{Field, Object},
};

pub const CANARY_OF: &str = "canary-of";
/// The names of the annotations, behind the prefix.
pub const NAMES: [&str; 6] =
    [CANARY_OF, "canary-by-header", "canary-by-header-value", "canary-by-cookie", "canary-routes", "canary-weight"];

const ROUTES: [(&str, Kind); 4] =
    [("HTTPRoute", Kind::HttpRoute), ("GRPCRoute", Kind::GrpcRoute), ("Ingress", Kind::Ingress), ("VirtualService", Kind::VirtualService)];

#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// The plugin that it takes streams of. With errors, one that does not exist.
    pub of: Key,
    pub of_at: Chars,
    /// `None` for all.
    pub routes: Option<Vec<(Key, Chars)>>,
    pub by_header: Option<CanaryHeader>,
    pub by_cookie: Option<Name>,
    pub weight: u32,
}

/// Where the canaries of a plugin are found.
pub fn index_key(of: &Key) -> Name {
    format!("canary-of/{}/{}", of.namespace, of.name).into()
}

/// Reads the annotations. Whatever is wrong with them, an object with `canary-of` is a canary.
pub fn read(root: &Object<'_>, meta: &Meta) -> Option<Canary> {
    let metadata = root.object("metadata")?;
    metadata.ignore_rest();
    let all = metadata.entries("annotations");
    let get = |name: &str| all.iter().find(|(n, _)| n.strip_prefix(PREFIX) == Some(name)).map(|(_, field)| field);
    let text = |name: &str| get(name).and_then(|field| Some((field, field.str()?.trim())));
    let Some(of_field) = get(CANARY_OF) else {
        for field in NAMES.iter().filter_map(|name| get(name)) {
            field.warning("UnusedField", "has no effect without weir.dev/canary-of", "name the plugin there");
        }
        return None;
    };
    let of = of_field.str().unwrap_or_default().trim();
    if of.is_empty() || of.contains('/') {
        of_field.invalid(format!("\"{of}\" is not the name of a WasmPlugin"), "the name of one in the same namespace and API group");
    }
    let header = text("canary-by-header").and_then(|(field, name)| {
        let valid = http_name(name);
        if !valid {
            field.invalid(format!("\"{name}\" is not the name of a header"), "letters, digits and -");
        }
        valid.then(|| name.to_ascii_lowercase())
    });
    let value = text("canary-by-header-value");
    if let (None, Some((field, _))) = (&header, &value) {
        field.warning("UnusedField", "has no effect without weir.dev/canary-by-header", "name the header there");
    }
    let by_header = header.map(|name| CanaryHeader { name: name.into(), value: value.map(|(_, text)| text.into()) });
    let by_cookie = text("canary-by-cookie").and_then(|(field, name)| {
        let valid = http_name(name);
        if !valid {
            field.invalid(format!("\"{name}\" is not the name of a cookie"), "letters, digits, - and _");
        }
        valid.then(|| name.into())
    });
    let routes = text("canary-routes").map(|(field, text)| {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.filter_map(|item| Some((route(field, item, &meta.key.namespace)?, field.node().span))).collect::<Vec<_>>()
    });
    let weight = text("canary-weight").map(|(field, text)| {
        let weight = text.parse::<u32>().ok().filter(|n| *n <= 100);
        if weight.is_none() {
            field.invalid(format!("\"{text}\" is not a percentage"), "a whole number from 0 to 100, in quotes");
        }
        weight.unwrap_or(0)
    });
    // Where nothing divides the streams of a route, all are meant.
    let undivided = by_header.is_none() && by_cookie.is_none();
    if weight.is_none() && undivided && routes.is_none() {
        of_field.warning(
            "NoEffect",
            "this canary takes no requests",
            "add weir.dev/canary-weight, canary-by-header, canary-by-cookie or canary-routes",
        );
    }
    let default = if undivided && routes.is_some() { 100 } else { 0 };
    Some(Canary {
        of: Key::new(meta.key.kind, &meta.key.namespace, of),
        of_at: of_field.node().span,
        routes,
        by_header,
        by_cookie,
        weight: weight.unwrap_or(default),
    })
}

fn http_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `KIND/NAME` or `KIND/NAMESPACE/NAME`.
fn route(field: &Field<'_>, text: &str, namespace: &str) -> Option<Key> {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, namespace, name) = match parts[..] {
        [kind, name] => (kind, namespace, name),
        [kind, namespace, name] => (kind, namespace, name),
        _ => ("", "", ""),
    };
    let found = ROUTES.iter().find(|(word, _)| *word == kind).filter(|_| !namespace.is_empty() && !name.is_empty());
    if found.is_none() {
        let kinds = ROUTES.map(|(word, _)| word).join(", ");
        field.invalid(format!("\"{text}\" is not a route"), format!("KIND/NAME or KIND/NAMESPACE/NAME, of the kinds {kinds}"));
    }
    found.map(|(_, kind)| Key::new(*kind, namespace, name))
}
