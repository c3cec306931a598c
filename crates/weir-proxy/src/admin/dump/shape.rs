//! The model's JSON in the shapes of Envoy's messages, as tools that read its dumps expect them. Fields are renamed and
//! moved; one that has no place in Envoy's message, or that nobody thought of here, stays under the model's name: nothing
//! that is configured is left out of a dump.
use serde_json::{Map, Value, json};

const TYPES: &str = "type.googleapis.com/envoy.";

/// A message that is being written: what is left of the model's fields, and those that have their place already.
pub struct Message {
    left: Map<String, Value>,
    out: Map<String, Value>,
}

impl Message {
    /// Of the model's JSON; `name` is that of Envoy's message, empty within another.
    pub fn of(value: Value, name: &str) -> Message {
        let left = match value {
            Value::Object(map) => map,
            other => Map::from_iter([("value".to_string(), other)]),
        };
        let mut out = Map::new();
        if !name.is_empty() {
            out.insert("@type".into(), format!("{TYPES}{name}").into());
        }
        Message { left, out }
    }
    /// Takes a field of the model; `None` where it says nothing.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|v| !says_nothing(v))
    }
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.take(name)?.as_str().map(str::to_string)
    }
    pub fn list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        }
    }
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if !says_nothing(&value) {
            self.out.insert(name.into(), value);
        }
    }
    /// As `put`, for a value that Envoy would take to be left out, and which is not its default.
    pub fn put_default(&mut self, name: &str, value: impl Into<Value>) {
        self.out.insert(name.into(), value.into());
    }
    /// Puts a field of the model under another name, after `with` it.
    pub fn rename(&mut self, from: &str, to: &str, with: impl Fn(Value) -> Value) {
        if let Some(value) = self.take(from) {
            self.put(to, with(value));
        }
    }
    /// Puts a field of the model under its own name, after `with` it.
    pub fn map(&mut self, name: &str, with: impl Fn(Value) -> Value) {
        self.rename(name, name, with);
    }
    /// Each item of a list.
    pub fn each(&mut self, from: &str, to: &str, with: impl Fn(Value) -> Value) {
        let items: Vec<Value> = self.list(from).into_iter().map(with).collect();
        self.put(to, items);
    }
    /// Where a resource comes from: in the metadata, where Istio too writes it.
    pub fn sources(&mut self) {
        let mut sources = self.list("origins");
        sources.extend(self.take("origin"));
        if !sources.is_empty() {
            self.put("metadata", json!({ "filter_metadata": { "weir": { "sources": sources } } }));
        }
    }
    pub fn done(mut self) -> Value {
        self.left.retain(|_, v| !says_nothing(v));
        self.out.append(&mut self.left);
        Value::Object(self.out)
    }
}

/// As protobuf's JSON leaves defaults out.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// An enum of the model, `{"exact": "/a"}` or `"present"`: its variant and what that holds.
pub fn variant(value: Value) -> (String, Value) {
    match value {
        Value::Object(map) => map.into_iter().next().unwrap_or_default(),
        Value::String(name) => (name, Value::Null),
        other => (String::new(), other),
    }
}

/// `127.0.0.1:80`, or the model's address of an endpoint, as `core.v3.Address`.
pub fn address(value: Value) -> Value {
    let socket = |host: &str, port: Value| json!({ "socket_address": { "address": host, "port_value": port } });
    match value {
        Value::String(text) => match text.rsplit_once(':') {
            Some((host, port)) => socket(host.trim_matches(['[', ']']), port.parse::<u16>().unwrap_or_default().into()),
            None => json!(text),
        },
        other => match variant(other) {
            (kind, inner) if kind == "socket" => address(inner),
            (_, inner) => socket(inner["host"].as_str().unwrap_or_default(), inner["port"].clone()),
        },
    }
}

/// `type.matcher.v3.StringMatcher`.
pub fn string_match(value: Value) -> Value {
    match variant(value) {
        (kind, pattern) if kind == "regex" => json!({ "safe_regex": { "regex": pattern } }),
        (kind, text) => json!({ kind: text }),
    }
}

fn secret_names(names: Vec<Value>) -> Value {
    names.into_iter().map(|name| json!({ "name": name })).collect()
}

/// The part of `DownstreamTlsContext` and `UpstreamTlsContext` that both have, under the model's names of either.
fn common_tls(tls: &mut Message) {
    let mut common = Message::of(json!({}), "");
    let mut certificates = tls.list("certificates");
    certificates.extend(tls.take("certificate"));
    common.put("tls_certificate_sds_secret_configs", secret_names(certificates));
    common.put("alpn_protocols", tls.list("alpn"));
    let mut parameters = Message::of(json!({}), "");
    for (from, to) in [
        ("min_version", "tls_minimum_protocol_version"),
        ("max_version", "tls_maximum_protocol_version"),
        ("cipher_suites", "cipher_suites"),
    ] {
        parameters.put(to, tls.take(from).unwrap_or_default());
    }
    common.put("tls_params", parameters.done());
    let mut validation = Message::of(json!({}), "");
    for (from, to) in [("verify_certificate_hash", "verify_certificate_hash"), ("verify_certificate_spki", "verify_certificate_spki")] {
        validation.put(to, tls.take(from).unwrap_or_default());
    }
    let exact = |name| json!({ "san_type": "DNS", "matcher": { "exact": name } });
    let names: Vec<Value> = tls.list("subject_alt_names").into_iter().map(exact).collect();
    validation.put("match_typed_subject_alt_names", names);
    let mut combined = Message::of(json!({}), "");
    combined.put("default_validation_context", validation.done());
    if let Some(name) = tls.take("client_ca") {
        combined.put("validation_context_sds_secret_config", json!({ "name": name }));
    }
    common.put("combined_validation_context", combined.done());
    tls.put("common_tls_context", common.done());
}

pub fn upstream_tls(value: Value) -> Value {
    let mut tls = Message::of(value, "extensions.transport_sockets.tls.v3.UpstreamTlsContext");
    common_tls(&mut tls);
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls.done() })
}

pub fn downstream_tls(value: Value) -> Value {
    let mut tls = Message::of(value, "extensions.transport_sockets.tls.v3.DownstreamTlsContext");
    common_tls(&mut tls);
    let asked = tls.take("client_certificate");
    tls.put("require_client_certificate", asked == Some(json!("required")));
    if asked.as_ref().is_some_and(|a| a != "none" && a != "required") {
        tls.put("client_certificate", asked.unwrap_or_default());
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls.done() })
}

/// `extensions.transport_sockets.tls.v3.Secret`.
pub fn secret(value: Value) -> Value {
    let mut secret = Message::of(value, "extensions.transport_sockets.tls.v3.Secret");
    secret.sources();
    if let Some(content) = secret.take("content") {
        let (kind, inner) = variant(content);
        let texts = inner.as_object().into_iter().flatten().map(|(name, text)| (name.clone(), json!({ "inline_string": text })));
        secret.put(&kind, Value::Object(texts.collect()));
    }
    secret.done()
}

/// A plugin as `config.core.v3.TypedExtensionConfig`.
pub fn plugin(value: Value) -> Value {
    let mut plugin = Message::of(value, "extensions.filters.http.wasm.v3.Wasm");
    plugin.sources();
    let name = plugin.take("name");
    let mut extension = Message::of(json!({}), "config.core.v3.TypedExtensionConfig");
    extension.put("name", name.unwrap_or_default());
    extension.put("typed_config", plugin.done());
    extension.done()
}
