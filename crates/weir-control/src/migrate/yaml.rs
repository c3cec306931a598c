//! Writes YAML in blocks.
use serde_json::Value;

pub fn text(of: &Value) -> String {
    let mut out = String::new();
    block(of, 0, &mut out);
    out
}

fn block(of: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match of {
        Value::Object(map) => {
            for (key, value) in map {
                *out += &format!("{indent}{}:", scalar(&Value::String(key.clone())));
                // Lists stand as deep as their key.
                let deeper = if value.is_array() { depth } else { depth + 1 };
                nested(value, deeper, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                *out += &format!("{indent}- {}", inner.trim_start());
            }
        }
        scalar_value => *out += &format!("{indent}{}\n", scalar(scalar_value)),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        _ => *out += &format!(" {}\n", scalar(value)),
    }
}

/// Texts without quotes only where they cannot be anything else.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/' | b'_'))
                && !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n");
            if plain { text.clone() } else { value.to_string() }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use weir_config::{node, source::Source};

    #[test]
    fn it_reads_back() {
        let value = json!({ "a": "true", "b": [{ "c": 1, "d": { "e": ["x y", "/p", "*"] } }, { "f": {} }], "k:": "0123", "l": [], "m": [[1, 2]], "n": "a: b # c" });
        let text = text(&value);
        let read = node::parse(&Arc::new(Source::new("x", text.as_str(), 1))).unwrap();
        assert_eq!(read[0].to_json(), value, "{text}");
    }
}
