//! The few messages of the Kubernetes API that the hub reads and writes whole, in JSON and in protobuf: what kubelet reports of nodes and
//! pods, the Lease of a node, and how long a token lasts.
//!
//! kubelet reads pods and nodes in protobuf, and patches their status in JSON. All else the hub keeps as it came, but a patch has to be
//! applied to what was kept. So these parts are converted by tables of their fields. Asking the API server for everything a second time
//! in JSON would cost memory and traffic all the time, and would not give kubelet its watch in protobuf.
//!
//! A field that the tables do not have, because a later version of Kubernetes added it, is left out of what is converted. That
//! concerns only the local view of an object that was changed without the link: what is sent later is the change itself.
mod error;
mod lossless;
mod pod;
mod served;
mod tables;

use crate::apimachinery::{
    object::time,
    wire::{Fields, WireError, put_bytes, put_varint},
};
pub use error::ContentError;
pub use pod::POD_SPEC;
use serde_json::{Map as JsonMap, Value};
pub use served::{CONFIG_MAP, ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE};
use std::ops::Range;
pub use tables::{LEASE_SPEC, NODE_STATUS, POD_STATUS, TOKEN_REQUEST_STATUS};
use thiserror::Error;

/// Fields in the order of their numbers.
pub struct Message(&'static [(u32, &'static str, Type)]);

enum Type {
    Text,
    Bool,
    Int,
    /// A time in whole seconds.
    Time,
    /// With microseconds.
    MicroTime,
    Quantity,
    Message(&'static Message),
    List(&'static Type),
    /// With strings as keys.
    Map(&'static Type),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SchemaError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{field}: expected {expected}")]
    Expected { field: String, expected: &'static str },
}

impl Message {
    fn number(&self, number: u32) -> Option<&(u32, &'static str, Type)> {
        self.0.iter().find(|(n, ..)| *n == number)
    }

    /// Whether the tables have a field.
    pub fn knows(&self, number: u32) -> bool {
        self.number(number).is_some()
    }

    /// A message as JSON has it. Empty strings and times are left out, as they are in JSON.
    pub fn decode(&self, buffer: &[u8], message: Range<usize>) -> Result<Value, WireError> {
        let mut object = JsonMap::new();
        let fields = Fields::of(buffer, message);
        let texts = fields.clone();
        for field in fields {
            let field = field?;
            let Some((_, name, of)) = self.number(field.number) else { continue };
            let one = |of: &Type| -> Result<Value, WireError> {
                Ok(match of {
                    Type::Text => texts.text(&field)?.into(),
                    Type::Bool => (field.integer()? != 0).into(),
                    Type::Int => (field.integer()? as i64).into(),
                    of => of.decode(buffer, field.bytes()?)?,
                })
            };
            match of {
                Type::List(of) => {
                    let list = object.entry(*name).or_insert_with(|| Value::Array(Vec::new()));
                    let value = one(of)?;
                    list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
                }
                Type::Map(of) => {
                    let (key, value) = entry(of, buffer, field.bytes()?)?;
                    let map = object.entry(*name).or_insert_with(|| Value::Object(JsonMap::new()));
                    map.as_object_mut().into_iter().for_each(|map| drop(map.insert(key.clone(), value.clone())));
                }
                of => {
                    let value = one(of)?;
                    if !value.is_null() && value != "" {
                        object.insert((*name).to_string(), value);
                    }
                }
            }
        }
        Ok(Value::Object(object))
    }

    /// A message as protobuf has it.
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, SchemaError> {
        let mut out = Vec::new();
        let object = value.as_object().ok_or_else(|| expected("", "an object"))?;
        for (number, name, of) in self.0 {
            let Some(value) = object.get(*name).filter(|value| !value.is_null()) else { continue };
            match of {
                Type::List(of) => {
                    let list = value.as_array().ok_or_else(|| expected(name, "a list"))?;
                    list.iter().try_for_each(|value| of.put(&mut out, *number, name, value))?;
                }
                Type::Map(of) => {
                    let map = value.as_object().ok_or_else(|| expected(name, "an object"))?;
                    for (key, value) in map {
                        let mut entry = Vec::new();
                        put_bytes(&mut entry, 1, key.as_bytes());
                        of.put(&mut entry, 2, name, value)?;
                        put_bytes(&mut out, *number, &entry);
                    }
                }
                of => of.put(&mut out, *number, name, value)?,
            }
        }
        Ok(out)
    }
}

fn entry(of: &Type, buffer: &[u8], message: Range<usize>) -> Result<(String, Value), WireError> {
    let fields = Fields::of(buffer, message);
    let texts = fields.clone();
    let (mut key, mut value) = (String::new(), Value::Null);
    for field in fields {
        let field = field?;
        match (field.number, of) {
            (1, _) => key = texts.text(&field)?.to_string(),
            (2, Type::Text) => value = texts.text(&field)?.into(),
            (2, of) => value = of.decode(buffer, field.bytes()?)?,
            _ => {}
        }
    }
    Ok((key, value))
}

impl Type {
    /// A value that is a message on the wire.
    fn decode(&self, buffer: &[u8], message: Range<usize>) -> Result<Value, WireError> {
        let fields = Fields::of(buffer, message.clone());
        let texts = fields.clone();
        match self {
            Type::Message(of) => of.decode(buffer, message),
            Type::Quantity => {
                let mut text = "0";
                for field in fields {
                    let field = field?;
                    text = if field.number == 1 { texts.text(&field)? } else { text };
                }
                Ok(text.into())
            }
            // A time that is not set is an empty message.
            Type::Time | Type::MicroTime if message.is_empty() => Ok(Value::Null),
            _ => {
                let (mut seconds, mut nanos) = (0, 0);
                for field in fields {
                    let field = field?;
                    match field.number {
                        1 => seconds = field.integer()? as i64,
                        2 => nanos = field.integer()?,
                        _ => {}
                    }
                }
                let micros = matches!(self, Type::MicroTime).then_some((nanos / 1000) as u32);
                Ok(time::text(seconds, micros).into())
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>, number: u32, name: &str, value: &Value) -> Result<(), SchemaError> {
        let varint = |out: &mut Vec<u8>, number: u32, value: u64| {
            put_varint(out, u64::from(number) << 3);
            put_varint(out, value);
        };
        match self {
            Type::Text => put_bytes(out, number, value.as_str().ok_or_else(|| expected(name, "a string"))?.as_bytes()),
            Type::Bool => varint(out, number, value.as_bool().ok_or_else(|| expected(name, "true or false"))?.into()),
            Type::Int => varint(out, number, value.as_i64().ok_or_else(|| expected(name, "a whole number"))? as u64),
            Type::Quantity => {
                // In JSON a quantity may be a number, too.
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return Err(expected(name, "a quantity")),
                };
                let mut quantity = Vec::new();
                put_bytes(&mut quantity, 1, text.as_bytes());
                put_bytes(out, number, &quantity);
            }
            Type::Time | Type::MicroTime => {
                let text = value.as_str().ok_or_else(|| expected(name, "a time of RFC 3339"))?;
                let seconds = time::seconds(text).ok_or_else(|| expected(name, "a time of RFC 3339"))?;
                let mut time = Vec::new();
                varint(&mut time, 1, seconds as u64);
                varint(&mut time, 2, if matches!(self, Type::MicroTime) { u64::from(time::micros(text)) * 1000 } else { 0 });
                put_bytes(out, number, &time);
            }
            Type::Message(of) => put_bytes(out, number, &of.encode(value).map_err(|e| e.within(name))?),
            // Nothing in the tables nests these.
            Type::List(_) | Type::Map(_) => return Err(expected(name, "a single value")),
        }
        Ok(())
    }
}

fn expected(field: &str, expected: &'static str) -> SchemaError {
    SchemaError::Expected { field: field.to_string(), expected }
}

impl SchemaError {
    fn within(self, name: &str) -> SchemaError {
        match self {
            SchemaError::Expected { field, expected } => {
                let field = if field.is_empty() { name.to_string() } else { format!("{name}.{field}") };
                SchemaError::Expected { field, expected }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_values_name_their_field() {
        let table = [
            (json!([]), ": expected an object"),
            (json!({ "phase": 1 }), "phase: expected a string"),
            (json!({ "conditions": {} }), "conditions: expected a list"),
            (json!({ "conditions": [{ "lastProbeTime": "yesterday" }] }), "conditions.lastProbeTime: expected a time of RFC 3339"),
            (
                json!({ "containerStatuses": [{ "state": { "terminated": { "exitCode": "1" } } }] }),
                "containerStatuses.state.terminated.exitCode: expected a whole number",
            ),
            (json!({ "allocatedResources": [] }), "allocatedResources: expected an object"),
            (json!({ "allocatedResources": { "cpu": [] } }), "allocatedResources: expected a quantity"),
            (json!({ "containerStatuses": [{ "ready": 1 }] }), "containerStatuses.ready: expected true or false"),
        ];
        for (value, wanted) in table {
            assert_eq!(POD_STATUS.encode(&value).unwrap_err().to_string(), wanted);
        }
    }

    #[test]
    fn what_is_not_set_and_what_is_not_known_is_left_out() {
        let status =
            json!({ "phase": "", "reason": null, "later": { "x": 1 }, "conditions": [{ "type": "Ready", "lastProbeTime": null }] });
        let bytes = POD_STATUS.encode(&status).unwrap();
        assert_eq!(POD_STATUS.decode(&bytes, 0..bytes.len()).unwrap(), json!({ "conditions": [{ "type": "Ready" }] }));
        // Negative numbers, and a time without content.
        let bytes = POD_STATUS.encode(&json!({ "containerStatuses": [{ "restartCount": -1 }] })).unwrap();
        assert_eq!(POD_STATUS.decode(&bytes, 0..bytes.len()).unwrap(), json!({ "containerStatuses": [{ "restartCount": -1 }] }));
        assert_eq!(POD_STATUS.decode(&[0x3a, 0], 0..2).unwrap(), json!({}));
    }
}
