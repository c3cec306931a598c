//! Rewrites JSON bodies: fields are removed from requests and responses, or set to a fixed value. A field is named by a
//! JSON pointer (RFC 6901), as `/user/password`.
//!
//! A body that is no JSON, whatever its content type says, passes as it is.
use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};
use serde_json::Value;
use std::rc::Rc;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// What to do to one direction's bodies.
#[derive(Default)]
struct Edits {
    remove: Vec<String>,
    set: Vec<(String, Value)>,
}

#[derive(Default)]
struct Config {
    request: Edits,
    response: Edits,
}

#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

struct Stream {
    config: Rc<Config>,
    request: bool,
    response: bool,
}

impl Edits {
    fn parse(json: &Value) -> Result<Edits, String> {
        let pointer = |text: &str| {
            if text.starts_with('/') { Ok(text.to_string()) } else { Err(format!("{text:?} is no JSON pointer: it must begin with /")) }
        };
        let mut edits = Edits::default();
        for field in json["remove"].as_array().into_iter().flatten() {
            edits.remove.push(pointer(field.as_str().unwrap_or_default())?);
        }
        for (field, value) in json["set"].as_object().into_iter().flatten() {
            edits.set.push((pointer(field)?, value.clone()));
        }
        Ok(edits)
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// The edited body; `None` where there is nothing to do.
    fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut json: Value = serde_json::from_slice(body).ok()?;
        let before = json.clone();
        for field in &self.remove {
            let (parent, name) = field.rsplit_once('/')?;
            match json.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.remove(&unescape(name))),
                Some(Value::Array(items)) => drop(name.parse().ok().filter(|i| *i < items.len()).map(|i: usize| items.remove(i))),
                _ => {}
            }
        }
        for (field, value) in &self.set {
            let (parent, name) = field.rsplit_once('/')?;
            match json.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.insert(unescape(name), value.clone())),
                Some(Value::Array(items)) => {
                    if let Some(item) = name.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
                        *item = value.clone();
                    }
                }
                _ => {}
            }
        }
        if json == before { None } else { serde_json::to_vec(&json).ok() }
    }
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        let parsed = serde_json::from_slice::<Value>(&bytes)
            .map_err(|e| e.to_string())
            .and_then(|json| Ok(Config { request: Edits::parse(&json["request"])?, response: Edits::parse(&json["response"])? }));
        match parsed {
            Ok(config) => self.config = Rc::new(config),
            Err(e) => {
                log::error!("the configuration is not good: {e}");
                return false;
            }
        }
        true
    }
    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { config: self.config.clone(), request: false, response: false }))
    }
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

fn is_json(content_type: Option<Vec<u8>>) -> bool {
    let text = content_type.unwrap_or_default().to_ascii_lowercase();
    let kind = text.split(|c| *c == b';').next().unwrap_or_default().trim_ascii();
    kind == b"application/json" || kind.ends_with(b"+json")
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.request = !end_of_stream && !self.config.request.is_empty() && is_json(self.get_http_request_header_bytes("content-type"));
        if self.request {
            self.set_http_request_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if !self.request {
            return Action::Continue;
        }
        if !end_of_stream {
            return Action::Pause;
        }
        if let Some(edited) = self.get_http_request_body(0, size).and_then(|body| self.config.request.apply(&body)) {
            self.set_http_request_body(0, size, &edited);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.response = !end_of_stream && !self.config.response.is_empty() && is_json(self.get_http_response_header_bytes("content-type"));
        if self.response {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if !self.response {
            return Action::Continue;
        }
        if !end_of_stream {
            return Action::Pause;
        }
        if let Some(edited) = self.get_http_response_body(0, size).and_then(|body| self.config.response.apply(&body)) {
            self.set_http_response_body(0, size, &edited);
        }
        Action::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::Edits;

    #[test]
    fn edits() {
        let edits =
            Edits::parse(&serde_json::json!({"remove": ["/user/password", "/list/0"], "set": {"/user/name": "x", "/new": 1}})).unwrap();
        for (body, wanted) in [
            (r#"{"user":{"password":"p","name":"n"},"list":[1,2]}"#, Some(r#"{"list":[2],"new":1,"user":{"name":"x"}}"#)),
            (r#"{"user":7}"#, Some(r#"{"new":1,"user":7}"#)),
            ("no json", None),
            ("[]", None),
        ] {
            assert_eq!(edits.apply(body.as_bytes()).as_deref(), wanted.map(str::as_bytes), "{body}");
        }
        assert!(Edits::parse(&serde_json::json!({"remove": ["user"]})).is_err());
    }
}
