//! Nodes from any format that serde reads, as the JSON of an API server. Such nodes have no places.
use super::{Chars, Key, Node, Value};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let value = deserializer.deserialize_any(Tree { without: &[] })?;
        Ok(Node { value, span: Chars::default() })
    }
}

/// Reads a map without some of its entries, which are skipped and never held in memory.
pub struct Without(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let value = deserializer.deserialize_any(Tree { without: self.0 })?;
        Ok(Node { value, span: Chars::default() })
    }
}

struct Tree {
    without: &'static [&'static str],
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(i64::try_from(v).map_or(Value::Float(v as f64), Value::Int))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or_default().min(64));
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(text) = map.next_key::<Box<str>>()? {
            if self.without.contains(&&*text) {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((Key { text, span: Chars::default() }, map.next_value()?));
            }
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_becomes_the_tree_that_yaml_becomes() {
        let text = r#"{"a":[1,-2,1.5,true,null,"x\n"],"b":{"c":"é"},"n":18446744073709551615}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!(node, Node::from_json(&serde_json::from_str(text).unwrap()));
        let seed = Without(&["b", "n"]);
        let node = seed.deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(node.to_json().to_string(), r#"{"a":[1,-2,1.5,true,null,"x\n"]}"#);
    }
}
