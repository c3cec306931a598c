//! What happens to the requests of an Ingress on their way: headers, cross-origin sharing, limits, timeouts, retries, mirrors.
use super::given::{Given, split};
use crate::api::checks::header_name;
use std::{sync::Arc, time::Duration};
use weir_config::{
    model::{Cors, Fraction, HeaderEdits, LocalRateLimit, Name, Rbac, RetryOn, RetryPolicy, StringMatch, TokenBucket},
    node::Chars,
    reader::Field,
};

/// How requests are forwarded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub mirror: Option<Box<MirrorTo>>,
    pub fallback: Option<Box<Fallback>>,
}

/// A Service as annotations name it: `[NAMESPACE/]NAME[:PORT]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRef {
    pub namespace: Option<Name>,
    pub name: Name,
    /// `None` for its first.
    pub port: Option<u16>,
    pub place: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MirrorTo {
    pub service: ServiceRef,
    pub fraction: Fraction,
}

/// Takes the requests of a backend without endpoints (`default-backend`).
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    pub service: ServiceRef,
    /// It also takes the place of a backend that answers with one of these.
    pub statuses: Vec<u16>,
}

/// Of requests and responses.
pub fn headers(given: &Given<'_>) -> (HeaderEdits, HeaderEdits) {
    let edits = |kind: &str| {
        let pairs = |verb: &str| given.get(&format!("{kind}-header-control-{verb}")).map(lines).unwrap_or_default();
        let removed = given.text(&format!("{kind}-header-control-remove"));
        let remove = removed.map(|(field, text)| split(text).filter_map(|name| header_name(name, field)).collect());
        let mut update = pairs("update");
        if kind == "request"
            && let Some((_, prefix)) = given.text("x-forwarded-prefix")
        {
            update.push(("x-forwarded-prefix".into(), prefix.into()));
        }
        HeaderEdits::new(remove.unwrap_or_default(), update, pairs("add"))
    };
    (edits("request"), edits("response"))
}

/// `NAME VALUE` in each line, either of them in quotes or not.
fn lines(field: &Field<'_>) -> Vec<(String, String)> {
    fn bare(text: &str) -> &str {
        let text = text.trim();
        let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
        inside('"').or_else(|| inside('\'')).unwrap_or(text)
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in field.node().as_str().unwrap_or_default().lines().map(str::trim).filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(char::is_whitespace) else {
            field.invalid(format!("\"{line}\" has no value"), "lines of NAME VALUE");
            continue;
        };
        let Some(name) = header_name(bare(name), field) else { continue };
        pairs.retain(|(other, _)| *other != name);
        pairs.push((name, bare(value).to_string()));
    }
    pairs
}

pub fn cors(given: &Given<'_>) -> Option<Cors> {
    let on = given.is_on("enable-cors");
    let list = |name: &str, default: &str| {
        let items: Vec<String> = split(given.text(name).map_or(default, |(_, text)| text)).map(str::to_string).collect();
        if items.iter().any(|item| item == "*") { vec!["*".into()] } else { items }
    };
    let mut allow_origins = Vec::new();
    match given.text("cors-allow-origin") {
        None => allow_origins.push(StringMatch::Exact("*".into())),
        Some((field, text)) => allow_origins.extend(split(text).filter_map(|text| origin(field, text))),
    }
    let made = Cors {
        allow_origins,
        allow_methods: list("cors-allow-methods", "GET, PUT, POST, DELETE, PATCH, OPTIONS"),
        allow_headers: list(
            "cors-allow-headers",
            "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Authorization",
        ),
        expose_headers: list("cors-expose-headers", ""),
        max_age: Some(Duration::from_secs(given.number("cors-max-age", 0).unwrap_or(1_728_000).into())),
        allow_credentials: given.bool("cors-allow-credentials").unwrap_or(true),
        forward_not_matching_preflights: true,
    };
    on.then_some(made)
}

/// `*`, an origin, or one whose host is `*.` and a name.
fn origin(field: &Field<'_>, text: &str) -> Option<StringMatch> {
    if !text.contains('*') || text == "*" {
        return Some(StringMatch::Exact(text.into()));
    }
    let found = text.split_once("://*.").filter(|(scheme, rest)| !scheme.contains('*') && !rest.contains('*'));
    let Some((scheme, rest)) = found else {
        field.invalid(format!("the origin \"{text}\" has a * that is not accepted"), "*, an origin, or one as https://*.shop.test");
        return None;
    };
    Some(StringMatch::Regex(format!(r"{}://[^/]+\.{}", regex::escape(scheme), regex::escape(rest))))
}

/// Who is let in, by the client's address. An empty or wrong list is an error: it must not let everybody in.
pub fn source_ranges(given: &Given<'_>) -> Option<Rbac> {
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    let mut any = false;
    let names = [
        ("whitelist-source-range", true),
        ("allowlist-source-range", true),
        ("denylist-source-range", false),
        ("blacklist-source-range", false),
    ];
    for (name, allows) in names {
        let Some(field) = given.get(name) else { continue };
        any = true;
        let help = "addresses and ranges as 10.0.0.0/8 or 2001:db8::1, with commas between";
        let mut count = 0;
        for text in split(field.node().as_str().unwrap_or_default()) {
            count += 1;
            let all: &[&str] = if text == "*" { &["0.0.0.0/0", "::/0"] } else { &[text] };
            for range in all {
                match range.parse() {
                    Ok(range) if allows => allow.push(range),
                    Ok(range) => deny.push(range),
                    Err(()) => field.invalid(format!("\"{text}\" is not an address or a range of addresses"), help),
                }
            }
        }
        if count == 0 {
            field.invalid("has no address", help);
        }
    }
    any.then(|| Rbac::by_address(&"source-range".into(), &deny, &allow))
}

pub fn rate_limit(given: &Given<'_>) -> Option<LocalRateLimit> {
    // All are read, used or not.
    let (minute, second) = (given.limit("route-limit-rpm"), given.limit("route-limit-rps"));
    let burst = given.number("route-limit-burst-multiplier", 1).unwrap_or(5);
    let (tokens, interval) = match (minute, second) {
        (Some(tokens), _) => (tokens, 60),
        (None, Some(tokens)) => (tokens, 1),
        (None, None) => return None,
    };
    let fill_interval = Duration::from_secs(interval);
    let token_bucket = TokenBucket { max_tokens: tokens.saturating_mul(burst), tokens_per_fill: tokens, fill_interval };
    Some(LocalRateLimit { token_bucket: Some(token_bucket), enable_x_ratelimit_headers: true })
}

pub fn traffic(given: &Given<'_>) -> Traffic {
    let idle = [given.seconds("proxy-read-timeout"), given.seconds("proxy-send-timeout")];
    let fraction = given.number("mirror-percentage", 0).map_or(Fraction::ALL, |n| Fraction::percent(n.into()));
    let mirror = service(given, "mirror-target-service").map(|service| Box::new(MirrorTo { service, fraction }));
    Traffic {
        timeout: given.seconds("timeout"),
        idle_timeout: idle.into_iter().flatten().max(),
        retry: retry(given).map(Arc::new),
        mirror: mirror.filter(|m| m.fraction.0 > 0),
        fallback: fallback(given).map(Box::new),
    }
}

fn fallback(given: &Given<'_>) -> Option<Fallback> {
    let service = service(given, "default-backend");
    let mut statuses = Vec::new();
    if let Some((field, text)) = given.text("custom-http-errors") {
        for word in split(text) {
            match word.parse().ok().filter(|status| (400..600).contains(status)) {
                Some(status) => statuses.push(status),
                None => field.invalid(format!("\"{word}\" is not the status of an error"), "statuses from 400 to 599, with commas between"),
            }
        }
        if given.get("default-backend").is_none() {
            field.warning("UnusedField", "has no effect without default-backend", "add default-backend with the name of a Service");
        }
    }
    Some(Fallback { service: service?, statuses })
}

fn service(given: &Given<'_>, annotation: &str) -> Option<ServiceRef> {
    let (field, text) = given.text(annotation)?;
    let (path, port) = text.split_once(':').map_or((text, None), |(path, port)| (path, Some(port)));
    let (namespace, name) = path.split_once('/').map_or((None, path), |(namespace, name)| (Some(namespace), name));
    let port = port.map(|p| p.parse::<u16>().ok().filter(|p| *p > 0));
    if name.is_empty() || namespace == Some("") || port == Some(None) {
        field.invalid(format!("\"{text}\" is not a Service"), "[NAMESPACE/]NAME[:PORT]");
        return None;
    }
    Some(ServiceRef { namespace: namespace.map(Into::into), name: name.into(), port: port.flatten(), place: field.node().span })
}

fn retry(given: &Given<'_>) -> Option<RetryPolicy> {
    let tries = given.number("proxy-next-upstream-tries", 0);
    let timeout = given.seconds("proxy-next-upstream-timeout");
    let words = given.text("proxy-next-upstream");
    if tries.is_none() && timeout.is_none() && words.is_none() {
        return None;
    }
    let mut policy = RetryPolicy { conditions: vec![RetryOn::ServerError], num_retries: tries.unwrap_or(3), ..RetryPolicy::default() };
    policy.per_try_timeout = timeout;
    let Some((field, text)) = words else { return Some(policy) };
    policy.conditions.clear();
    for word in text.split([',', ' ']).map(str::trim).filter(|w| !w.is_empty()) {
        let code = word.strip_prefix("http_").and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
        match (word, code) {
            ("off", _) => policy.num_retries = 0,
            ("error" | "timeout" | "invalid_header", _) => policy.conditions.push(RetryOn::ServerError),
            // Any method is tried again.
            ("non_idempotent", _) => {}
            (_, Some(code)) => {
                policy.status_codes.push(code);
                policy.conditions.push(RetryOn::RetriableStatusCodes);
            }
            _ => field.invalid(
                format!("\"{word}\" is not a reason to try again"),
                "error, timeout, invalid_header, http_STATUS, non_idempotent or off, with commas or spaces between",
            ),
        }
    }
    policy.conditions.dedup();
    (policy.num_retries > 0).then_some(policy)
}
