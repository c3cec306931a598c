//! A YAML (or JSON) document as a tree that remembers where everything stood.
mod build;
pub mod deserialize;
mod explain;
mod flow;

pub use build::parse;

use crate::source::{Place, Source};
use std::sync::Arc;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub value: Value,
    pub span: Chars,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Box<str>),
    List(Vec<Node>),
    /// In the order of the text; no key stands twice.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub text: Box<str>,
    pub span: Chars,
}

/// A range of characters in a source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chars {
    start: u32,
    end: u32,
}

/// Nowhere: of what did not come from a text.
impl Default for Chars {
    fn default() -> Chars {
        Chars { start: u32::MAX, end: u32::MAX }
    }
}

impl Chars {
    /// Characters of the text.
    pub(crate) fn range(self) -> (u32, u32) {
        (self.start, self.end)
    }

    /// The place in `source`, from which the node was read.
    pub fn place(self, source: &Arc<Source>) -> Place {
        source.place(self.start, self.end)
    }
}

impl Node {
    pub fn null() -> Node {
        Node { value: Value::Null, span: Chars::default() }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| &*k.text == key).map(|(_, n)| n),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(f) => serde_json::Number::from_f64(*f).map_or(Json::Null, Json::Number),
            Value::String(s) => Json::String(s.to_string()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.to_string(), v.to_json())).collect()),
        }
    }

    /// From JSON that came without a text, as from an API server; it has no places.
    pub fn from_json(json: &serde_json::Value) -> Node {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or_default()), Value::Int),
            Json::String(s) => Value::String(s.as_str().into()),
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(map) => {
                let entry = |(k, v): (&String, &Json)| (Key { text: k.as_str().into(), span: Chars::default() }, Node::from_json(v));
                Value::Map(map.iter().map(entry).collect())
            }
        };
        Node { value, span: Chars::default() }
    }
}
