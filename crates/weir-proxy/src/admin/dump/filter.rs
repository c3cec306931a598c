//! HTTP filters in the shapes of Envoy's messages.
use super::shape::{Message, variant};
use serde_json::{Map, Value, json};

/// Envoy's message for a kind of filter, in the list of a connection manager and on a virtual host or route.
fn message(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "basic_auth" => ("basic_auth.v3.BasicAuth", "basic_auth.v3.BasicAuthPerRoute"),
        "compressor" => ("compressor.v3.Compressor", "compressor.v3.CompressorPerRoute"),
        "cors" => ("cors.v3.Cors", "cors.v3.CorsPolicy"),
        "fault" => ("fault.v3.HTTPFault", "fault.v3.HTTPFault"),
        "rbac" => ("rbac.v3.RBAC", "rbac.v3.RBACPerRoute"),
        "local_rate_limit" => ("local_ratelimit.v3.LocalRateLimit", "local_ratelimit.v3.LocalRateLimit"),
        _ => ("wasm.v3.Wasm", "wasm.v3.Wasm"),
    }
}

fn typed(name: &str, policy: Value) -> Value {
    Message::of(policy, &format!("extensions.filters.http.{name}")).done()
}

/// `HttpFilter`. A plugin's configuration is among the ECDS filters.
pub fn http_filter(value: Value) -> Value {
    let mut filter = Message::of(value, "");
    let (kind, policy) = variant(filter.take("config").unwrap_or_default());
    if kind == "wasm" {
        filter.put("config_discovery", json!({ "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"] }));
    } else {
        filter.put("typed_config", typed(message(&kind).0, policy));
    }
    filter.done()
}

/// The map `typed_per_filter_config`.
pub fn per_filter_config(value: Value) -> Value {
    let Value::Object(entries) = value else { return value };
    let entry = |(name, entry): (String, Value)| {
        let config = match variant(entry) {
            (kind, inner) if kind == "config" => {
                let (kind, policy) = variant(inner);
                typed(message(&kind).1, if kind == "wasm" { json!({}) } else { policy })
            }
            _ => Message::of(json!({ "disabled": true }), "config.route.v3.FilterConfig").done(),
        };
        (name, config)
    };
    entries.into_iter().map(entry).collect::<Map<_, _>>().into()
}
