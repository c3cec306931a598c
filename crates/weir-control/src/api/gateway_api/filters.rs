//! Filters of HTTPRoute rules and backends.
use super::backend_ref::{self, BackendRef};
use crate::api::checks::{check_path, hostname};
use std::{cell::RefCell, sync::Arc, time::Duration};
use weir_config::{
    model::{Cors, Fraction, HeaderEdits, PathRewrite, Redirect, RedirectPort, StringMatch},
    reader::{Field, Object},
    recent::Recent,
    text::is_token,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    pub request: HeaderEdits,
    pub response: HeaderEdits,
    pub redirect: Option<Box<Redirect>>,
    pub rewrite_host: Option<String>,
    pub rewrite_path: Option<Box<PathRewrite>>,
    pub mirrors: Vec<(BackendRef, Fraction)>,
    pub cors: Option<Arc<Cors>>,
    /// There is a filter that cannot be applied. It must not be skipped: requests are answered with 500.
    pub refused: bool,
    /// The rule has errors: it is refused while the other rules of its route serve.
    pub invalid: bool,
}

#[derive(Clone, Copy)]
pub enum Type {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    UrlRewrite,
    Cors,
    NotYet,
}

/// Of an HTTPRoute.
pub const HTTP_TYPES: &[(&str, Type)] = &[
    ("RequestHeaderModifier", Type::RequestHeaderModifier),
    ("ResponseHeaderModifier", Type::ResponseHeaderModifier),
    ("RequestMirror", Type::RequestMirror),
    ("RequestRedirect", Type::RequestRedirect),
    ("URLRewrite", Type::UrlRewrite),
    ("CORS", Type::Cors),
    ("ExtensionRef", Type::NotYet),
    ("ExternalAuth", Type::NotYet),
];

/// Of a GRPCRoute.
pub const GRPC_TYPES: &[(&str, Type)] = &[
    ("RequestHeaderModifier", Type::RequestHeaderModifier),
    ("ResponseHeaderModifier", Type::ResponseHeaderModifier),
    ("RequestMirror", Type::RequestMirror),
    ("ExtensionRef", Type::NotYet),
];

/// `None` for a list without any filter. Equal lists are shared.
pub fn decode_filters(list: &Field<'_>, types: &[(&'static str, Type)]) -> Option<Arc<Filters>> {
    let mut filters = Filters::default();
    let items = list.list();
    for field in &items {
        if let Some(object) = field.object() {
            decode_filter(&object, types, &mut filters);
        }
    }
    if filters.redirect.is_some() && (filters.rewrite_host.is_some() || filters.rewrite_path.is_some()) {
        list.error("IncompatibleFilters", "a rule redirects or rewrites, not both", "remove one of RequestRedirect and URLRewrite");
    }
    thread_local! {
        static RECENT: RefCell<Recent<Filters>> = const { RefCell::new(Recent::new()) };
    }
    (!items.is_empty()).then(|| RECENT.with_borrow_mut(|recent| recent.share(filters)))
}

fn decode_filter(object: &Object<'_>, types: &[(&'static str, Type)], filters: &mut Filters) -> Option<()> {
    let kind = object.required("type")?;
    let word = kind.str()?;
    match kind.choice(types)? {
        Type::RequestHeaderModifier => filters.request = decode_edits(&object.required("requestHeaderModifier")?, &filters.request)?,
        Type::ResponseHeaderModifier => filters.response = decode_edits(&object.required("responseHeaderModifier")?, &filters.response)?,
        Type::RequestMirror => filters.mirrors.push(decode_mirror(&object.required("requestMirror")?)?),
        Type::RequestRedirect => filters.redirect = Some(Box::new(decode_redirect(&object.required("requestRedirect")?)?)),
        Type::UrlRewrite => {
            let rewrite = object.required("urlRewrite")?.object()?;
            filters.rewrite_host = rewrite.get("hostname").and_then(|f| hostname(&f)).map(|h| h.to_string());
            filters.rewrite_path = rewrite.get("path").and_then(|f| decode_path(&f)).map(Box::new);
        }
        Type::Cors => filters.cors = Some(Arc::new(decode_cors(&object.required("cors")?)?)),
        Type::NotYet => {
            object.ignore(&["extensionRef", "externalAuth"]);
            // It refuses its requests, not the whole route.
            let message = format!("the filter {word} is not supported yet: requests of this rule are answered with 500");
            let list: Vec<&str> = types.iter().filter(|(_, t)| !matches!(t, Type::NotYet)).map(|(w, _)| *w).collect();
            kind.warning("UnsupportedValue", message, format!("one of {}", list.join(", ")));
            filters.refused = true;
        }
    }
    Some(())
}

/// The edits, behind those of a filter `before` it.
fn decode_edits(field: &Field<'_>, before: &HeaderEdits) -> Option<HeaderEdits> {
    let object = field.object()?;
    let pairs = |name: &'static str, before: &[(String, String)]| {
        let mut pairs = before.to_vec();
        for item in object.list(name) {
            let pair = item.object().and_then(|o| {
                let name = header_name(&o.required("name")?)?;
                // A text as it stands: the model's operators begin with a percent sign.
                Some((name, header_value(&o.required("value")?)?.replace('%', "%%")))
            });
            pairs.extend(pair);
        }
        pairs
    };
    let (set, add) = (pairs("set", &before.set), pairs("add", &before.add));
    let remove = before.remove.iter().cloned().chain(object.list("remove").iter().filter_map(header_name)).collect();
    Some(HeaderEdits::new(remove, set, add))
}

fn header_name(field: &Field<'_>) -> Option<String> {
    let name = field.str()?;
    if !is_token(name) {
        field.invalid(format!("\"{name}\" is not the name of a header"), "letters, digits and -");
        return None;
    }
    Some(name.to_string())
}

fn header_value<'a>(field: &Field<'a>) -> Option<&'a str> {
    let value = field.str()?;
    if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
        field.invalid("a header's value has no control characters", "a text of one line");
        return None;
    }
    Some(value)
}

fn decode_mirror(field: &Field<'_>) -> Option<(BackendRef, Fraction)> {
    let object = field.object()?;
    let reference = backend_ref::decode(&object.required("backendRef")?.object()?)?;
    object.describe(&[("percent", "100", "Share of the requests that are mirrored.")]);
    let mut fraction = Fraction::ALL;
    if let Some(percent) = object.int("percent", 0..=100) {
        fraction = Fraction::percent(percent as f64);
    }
    if let Some(given) = object.object("fraction") {
        let numerator = given.required("numerator")?.int(0..=i64::from(i32::MAX))?;
        let denominator = given.int("denominator", 1..=i64::from(i32::MAX)).unwrap_or(100);
        if numerator > denominator {
            given.field().invalid("is more than the whole", "a numerator up to the denominator, which is 100 by default");
            return None;
        }
        fraction = Fraction((numerator as u128 * 1_000_000 / denominator as u128) as u32);
        if object.has("percent") {
            given.field().invalid("percent and fraction exclude each other", "one of them");
        }
    }
    Some((reference, fraction))
}

fn decode_redirect(field: &Field<'_>) -> Option<Redirect> {
    let object = field.object()?;
    object.describe(&[
        ("scheme", "", "The scheme of the new location. By default that of the request."),
        ("hostname", "", "The host of the new location. By default that of the request."),
        ("port", "", "The port of the new location. By default that of the scheme, or of the request."),
        ("statusCode", "302", "The status of the redirect."),
    ]);
    let scheme = object.choice("scheme", &[("http", "http"), ("https", "https")]);
    let port = match (object.port("port"), scheme) {
        (Some(port), _) => RedirectPort::Literal(port),
        (None, Some(_)) => RedirectPort::FromProtocol,
        (None, None) => RedirectPort::FromRequest,
    };
    let statuses = [301, 302, 303, 307, 308];
    let status = match object.get("statusCode") {
        None => 302,
        Some(f) => {
            let code = f.int(300..=399)? as u16;
            if !statuses.contains(&code) {
                f.invalid(format!("{code} does not redirect"), "one of 301, 302, 303, 307, 308");
            }
            code
        }
    };
    Some(Redirect {
        scheme: scheme.map(Into::into),
        host: object.get("hostname").and_then(|f| hostname(&f)).map(|h| h.to_string()),
        port: Some(port),
        path: object.get("path").and_then(|f| decode_path(&f)),
        status,
        strip_query: false,
    })
}

fn decode_path(field: &Field<'_>) -> Option<PathRewrite> {
    let object = field.object()?;
    let full = object.required("type")?.choice(&[("ReplaceFullPath", true), ("ReplacePrefixMatch", false)])?;
    let value = object.required(if full { "replaceFullPath" } else { "replacePrefixMatch" })?;
    let path = value.str()?;
    if !path.is_empty() {
        check_path(&value, path)?;
    }
    Some(if full { PathRewrite::Full(path.into()) } else { PathRewrite::ReplacePrefixMatch(path.into()) })
}

fn decode_cors(field: &Field<'_>) -> Option<Cors> {
    let object = field.object()?;
    object.describe(&[
        ("allowOrigins", "", "Origins that may read responses, as `https://shop.test` or `https://*.shop.test`; `*` for all."),
        ("allowMethods", "", "Methods that preflight responses name; `*` for all."),
        ("allowHeaders", "", "Request headers that preflight responses name; `*` for all."),
        ("exposeHeaders", "", "Response headers that scripts may read."),
        ("maxAge", "5", "Seconds for which browsers keep a preflight response."),
        ("allowCredentials", "false", "Whether requests may carry credentials."),
    ]);
    let mut allow_origins = Vec::new();
    for origin in object.list("allowOrigins") {
        allow_origins.push(decode_origin(origin.str()?));
    }
    Some(Cors {
        allow_origins,
        allow_methods: object.strings("allowMethods"),
        allow_headers: object.strings("allowHeaders"),
        expose_headers: object.strings("exposeHeaders"),
        max_age: Some(Duration::from_secs(object.int("maxAge", 1..=i64::from(i32::MAX)).unwrap_or(5) as u64)),
        allow_credentials: object.bool("allowCredentials").unwrap_or(false),
        forward_not_matching_preflights: false,
    })
}

/// `*`, `https://shop.test` or `https://*.shop.test`.
fn decode_origin(text: &str) -> StringMatch {
    match text {
        "*" => StringMatch::Prefix(String::new()),
        _ if text.contains('*') => {
            let parts: Vec<String> = text.split('*').map(regex::escape).collect();
            StringMatch::Regex(parts.join("[^/]+"))
        }
        _ => StringMatch::Exact(text.into()),
    }
}
