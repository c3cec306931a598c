//! What a route of a VirtualService does with its requests.
use super::{Action, Forward, Retry, Rewrite, destination, destination_at};
use crate::{
    api::istio::read::{At, Matcher, fraction, regex, string_match},
    object::meta::Meta,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{sync::Arc, time::Duration};
use weir_config::{
    model::{Abort, Cors, Delay, Fault, PathRewrite, Redirect, RedirectPort, RetryOn, RetryPolicy, StringMatch},
    reader::{Field, Object},
};

pub(super) fn action(object: &Object<'_>, meta: &Meta) -> Option<Action> {
    let kinds = ["route", "redirect", "directResponse", "delegate"];
    let given: Vec<&str> = kinds.into_iter().filter(|name| object.has(name)).collect();
    if given.len() != 1 {
        let message = match &given[..] {
            [] => "a route does nothing".to_string(),
            more => format!("a route has one of them, not {}", more.join(" and ")),
        };
        object.ignore_rest();
        object.field().error("InvalidValue", message, "one of route, redirect, directResponse, delegate");
        return None;
    }
    let forward = Box::new(forward(object, meta));
    match given[0] {
        "redirect" => redirect(&object.get("redirect")?).map(Action::Redirect),
        "directResponse" => direct_response(&object.get("directResponse")?),
        "delegate" => {
            let delegate = object.object("delegate")?;
            let name = delegate.required("name")?;
            let namespace = delegate.str("namespace").unwrap_or(&meta.key.namespace);
            Some(Action::Delegate { namespace: namespace.into(), name: name.str()?.into(), at: At::of(&name), forward })
        }
        _ => Some(Action::Forward(forward)),
    }
}

/// Reads its fields whatever the action is, so that none is left unread.
fn forward(object: &Object<'_>, meta: &Meta) -> Forward {
    let mut destinations: Vec<_> = object.list("route").iter().filter_map(|f| destination(f, meta)).collect();
    if let [only] = &mut destinations[..]
        && only.weight == 0
    {
        only.weight = 1;
    }
    if destinations.len() > 1 && destinations.iter().all(|d| d.weight == 0) {
        object.field().invalid("the weights of its destinations come to 0", "give each entry of route a weight");
    }
    let (rewrite, authority) = object.get("rewrite").and_then(|f| rewrite(&f)).unwrap_or_default();
    let timeout = object.duration("timeout").filter(|t| !t.is_zero());
    let retry = match object.get("retries") {
        None => Retry::Unset,
        Some(f) => retries(&f).map_or(Retry::Off, |policy| Retry::On(Arc::new(policy))),
    };
    let share = fraction(object, &["mirrorPercent", "mirror_percent"]);
    let mut mirrors: Vec<_> = object.get("mirror").and_then(|f| destination_at(&f, meta)).map(|d| (d, share)).into_iter().collect();
    for item in object.list("mirrors") {
        let Some(mirror) = item.object() else { continue };
        let share = fraction(&mirror, &[]);
        mirrors.extend(mirror.required("destination").and_then(|f| destination_at(&f, meta)).map(|d| (d, share)));
    }
    mirrors.retain(|(_, share)| share.0 > 0);
    Forward { destinations, rewrite, authority, timeout, retry, mirrors }
}

fn rewrite(field: &Field<'_>) -> Option<(Option<Rewrite>, Option<String>)> {
    let object = field.object()?;
    let authority = object.str("authority").map(str::to_string);
    let uri = object.str("uri").map(|uri| Rewrite::Uri(uri.into()));
    let by_regex = object.object("uriRegexRewrite").and_then(|r| {
        let pattern = regex(&r.required("match")?)?;
        Some(Rewrite::Regex { pattern, substitution: r.str("rewrite").unwrap_or_default().into() })
    });
    if uri.is_some() && by_regex.is_some() {
        field.invalid("says both uri and uriRegexRewrite", "one of them");
    }
    Some((by_regex.or(uri), authority))
}

fn redirect(field: &Field<'_>) -> Option<Redirect> {
    let object = field.object()?;
    let status = object.int("redirectCode", 301..=308).unwrap_or(301);
    if ![301, 302, 303, 307, 308].contains(&status) {
        object.get("redirectCode")?.invalid(format!("{status} is no redirect"), "301, 302, 303, 307 or 308");
    }
    let derived = object
        .choice("derivePort", &[("FROM_PROTOCOL_DEFAULT", RedirectPort::FromProtocol), ("FROM_REQUEST_PORT", RedirectPort::FromRequest)]);
    let port = object.port("port").map(RedirectPort::Literal).or(derived);
    Some(Redirect {
        scheme: object.choice("scheme", &[("http", "http"), ("https", "https")]).map(str::to_string),
        host: object.str("authority").map(str::to_string),
        port,
        path: object.str("uri").map(|uri| PathRewrite::Full(uri.into())),
        status: status as u16,
        strip_query: false,
    })
}

fn direct_response(field: &Field<'_>) -> Option<Action> {
    let object = field.object()?;
    let status = object.required("status")?.int(200..=599)? as u16;
    let mut body = String::new();
    if let Some(given) = object.object("body") {
        if let Some(text) = given.str("string") {
            body = text.into();
        }
        if let Some(f) = given.get("bytes") {
            match BASE64_STANDARD.decode(f.str()?).ok().and_then(|b| String::from_utf8(b).ok()) {
                Some(text) => body = text,
                None => f.invalid("is not a text in base64", "base64 of a UTF-8 text, or string"),
            }
        }
    }
    Some(Action::DirectResponse { status, body })
}

/// `None` where there are to be none.
fn retries(field: &Field<'_>) -> Option<RetryPolicy> {
    let object = field.object()?;
    object.unsupported(&["retryRemoteLocalities"]);
    let mut policy = RetryPolicy::default();
    if let Some(attempts) = object.int("attempts", 0..=i64::from(i32::MAX)) {
        policy.num_retries = attempts as u32;
    }
    policy.per_try_timeout = object.duration("perTryTimeout").filter(|t| !t.is_zero());
    if let Some(base) = object.duration("backoff").filter(|t| !t.is_zero()) {
        // As Envoy: ten times the base at most.
        (policy.backoff_base, policy.backoff_max) = (base, base.saturating_mul(10));
    }
    if let Some(ignore) = object.bool("retryIgnorePreviousHosts") {
        policy.avoid_previous_hosts = ignore;
    }
    if let Some(f) = object.get("retryOn") {
        conditions(&f, &mut policy)?;
    }
    (policy.num_retries > 0).then_some(policy)
}

const CONDITIONS: &[(&str, RetryOn)] = &[
    ("5xx", RetryOn::ServerError),
    ("gateway-error", RetryOn::GatewayError),
    ("reset", RetryOn::Reset),
    ("reset-before-request", RetryOn::ResetBeforeRequest),
    ("connect-failure", RetryOn::ConnectFailure),
    ("envoy-ratelimited", RetryOn::EnvoyRatelimited),
    ("retriable-4xx", RetryOn::Retriable4xx),
    ("refused-stream", RetryOn::RefusedStream),
    ("retriable-status-codes", RetryOn::RetriableStatusCodes),
    ("cancelled", RetryOn::GrpcCancelled),
    ("deadline-exceeded", RetryOn::GrpcDeadlineExceeded),
    ("internal", RetryOn::GrpcInternal),
    ("resource-exhausted", RetryOn::GrpcResourceExhausted),
    ("unavailable", RetryOn::GrpcUnavailable),
];

/// Words and status codes, with commas between.
fn conditions(field: &Field<'_>, policy: &mut RetryPolicy) -> Option<()> {
    let text = field.str()?;
    let mut found = Vec::new();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        if let Some((_, condition)) = CONDITIONS.iter().find(|(w, _)| *w == word) {
            found.push(*condition);
        } else if let Some(code) = word.parse().ok().filter(|c| (200..600).contains(c)) {
            policy.status_codes.push(code);
        } else {
            let words: Vec<&str> = CONDITIONS.iter().map(|(w, _)| *w).collect();
            field.unknown_value(word, format!("status codes and {}", words.join(", ")));
        }
    }
    if !policy.status_codes.is_empty() && !found.contains(&RetryOn::RetriableStatusCodes) {
        found.push(RetryOn::RetriableStatusCodes);
    }
    if !found.is_empty() {
        policy.conditions = found;
    }
    Some(())
}

pub(super) fn fault(field: &Field<'_>) -> Option<Fault> {
    let object = field.object()?;
    let delay = object.object("delay").and_then(|delay| {
        delay.unsupported(&["exponentialDelay"]);
        let percentage = fraction(&delay, &["percent"]);
        Some(Delay { fixed_delay: delay.duration("fixedDelay")?, percentage })
    });
    let abort = object.object("abort").and_then(|abort| {
        abort.unsupported(&["http2Error"]);
        let share = fraction(&abort, &["percent"]);
        let status = abort.int("httpStatus", 200..=599).map(|s| Abort::HttpStatus(s as u16));
        let grpc = abort.get("grpcStatus").and_then(|f| grpc_status(&f)).map(Abort::GrpcStatus);
        let Some(abort) = status.or(grpc) else {
            abort.field().invalid("an abort needs a status", "httpStatus or grpcStatus");
            return None;
        };
        Some((abort, share))
    });
    Some(Fault { delay, abort })
}

const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A name, or its number as a text.
fn grpc_status(field: &Field<'_>) -> Option<u8> {
    let text = field.str()?;
    let number = GRPC.iter().position(|name| *name == text).or_else(|| text.parse().ok().filter(|n| *n < GRPC.len()));
    if number.is_none() {
        field.invalid(format!("\"{text}\" is no gRPC status"), format!("one of {}", GRPC.join(", ")));
    }
    number.map(|n| n as u8)
}

pub(super) fn cors(field: &Field<'_>) -> Option<Cors> {
    let object = field.object()?;
    let mut allow_origins: Vec<StringMatch> = object.strings("allowOrigin").into_iter().map(StringMatch::Exact).collect();
    for origin in object.list("allowOrigins") {
        match string_match(&origin)? {
            Matcher::Text(text) => allow_origins.push(text),
            Matcher::Any => origin.invalid("an origin without exact, prefix or regex", "one of them"),
        }
    }
    // `*` stands for all, as the older field has it.
    for origin in &mut allow_origins {
        if matches!(origin, StringMatch::Exact(text) if text == "*") {
            *origin = StringMatch::Prefix(String::new());
        }
    }
    let max_age: Option<Duration> = object.duration("maxAge");
    let words = [("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)];
    Some(Cors {
        allow_origins,
        allow_methods: object.strings("allowMethods"),
        allow_headers: object.strings("allowHeaders"),
        expose_headers: object.strings("exposeHeaders"),
        max_age,
        allow_credentials: object.bool("allowCredentials").unwrap_or(false),
        forward_not_matching_preflights: object.choice("unmatchedPreflights", &words).unwrap_or(true),
    })
}
