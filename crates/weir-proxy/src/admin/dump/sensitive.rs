//! Hides secrets in the resources of a dump; [`weir_config::redact`] decides what is one.
use serde_json::Value;
use weir_config::redact;

/// Hides them, wherever they are in a dump.
pub fn hide(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(redacted) = redact::text(text) {
                *text = redacted;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(map) => {
            for (name, member) in map.iter_mut() {
                match (name.as_str(), &mut *member) {
                    // Of a plugin.
                    ("configuration", Value::String(text)) => *text = redact::source(text).into_owned(),
                    ("environment", Value::Array(variables)) => variables.iter_mut().filter_map(|v| v.get_mut(1)).for_each(scalars),
                    _ => hide(member),
                }
            }
            // `core.v3.HeaderValue`.
            let key = map.get("key").and_then(Value::as_str).unwrap_or_default();
            let secret = redact::is_secret_name(key);
            if let Some(value) = map.get_mut("value").filter(|_| secret) {
                scalars(value);
            }
            // `route.v3.HeaderMatcher` and `QueryParameterMatcher`.
            let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
            let secret = redact::is_secret_name(name);
            if let Some(matched) = map.get_mut("string_match").filter(|_| secret) {
                scalars(matched);
            }
        }
        _ => {}
    }
}

/// All texts and numbers.
fn scalars(value: &mut Value) {
    match value {
        Value::String(_) | Value::Number(_) => *value = redact::REDACTED.into(),
        Value::Array(items) => items.iter_mut().for_each(scalars),
        Value::Object(map) => map.values_mut().for_each(scalars),
        Value::Null | Value::Bool(_) => {}
    }
}
