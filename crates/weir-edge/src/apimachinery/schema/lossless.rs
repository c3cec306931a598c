//! Messages of which the tables have only a few fields, as JSON and back: what the tables do not have is carried along as it came. So an
//! object of any version can be changed in one place.
use super::{Message, SchemaError, Type, entry, expected};
use crate::apimachinery::wire::{Fields, WireError, put_bytes};
use data_encoding::BASE64;
use serde_json::{Map as JsonMap, Value};
use std::ops::Range;

/// The name under which the rest of a message is carried. No field has it.
const REST: &str = "";

impl Message {
    /// A message as JSON. Every value that is on the wire is in it, also an empty one.
    pub fn open(&self, buffer: &[u8], message: Range<usize>) -> Result<Value, WireError> {
        let mut object = JsonMap::new();
        let mut rest = Vec::new();
        let mut fields = Fields::of(buffer, message);
        let texts = fields.clone();
        while let Some(field) = fields.next() {
            let field = field?;
            let Some((_, name, of)) = self.number(field.number) else {
                rest.extend_from_slice(&buffer[field.at..fields.at()]);
                continue;
            };
            let one = |of: &Type| -> Result<Value, WireError> {
                Ok(match of {
                    Type::Text => texts.text(&field)?.into(),
                    Type::Bool => (field.integer()? != 0).into(),
                    Type::Int => (field.integer()? as i64).into(),
                    Type::Message(of) => of.open(buffer, field.bytes()?)?,
                    of => of.decode(buffer, field.bytes()?)?,
                })
            };
            match of {
                Type::List(of) => {
                    let value = one(of)?;
                    if let Some(list) = object.entry(*name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
                        list.push(value);
                    }
                }
                Type::Map(of) => {
                    let (key, value) = entry(of, buffer, field.bytes()?)?;
                    if let Some(map) = object.entry(*name).or_insert_with(|| Value::Object(JsonMap::new())).as_object_mut() {
                        map.insert(key, value);
                    }
                }
                of => drop(object.insert((*name).to_string(), one(of)?)),
            }
        }
        if !rest.is_empty() {
            object.insert(REST.to_string(), BASE64.encode(&rest).into());
        }
        Ok(Value::Object(object))
    }

    /// What [`Message::open`] has made, as protobuf.
    pub fn close(&self, value: &Value) -> Result<Vec<u8>, SchemaError> {
        let object = value.as_object().ok_or_else(|| expected("", "an object"))?;
        let mut out = Vec::new();
        for (number, name, of) in self.0 {
            let Some(value) = object.get(*name).filter(|value| !value.is_null()) else { continue };
            match of {
                Type::List(of) => {
                    let list = value.as_array().ok_or_else(|| expected(name, "a list"))?;
                    list.iter().try_for_each(|value| of.put_whole(&mut out, *number, name, value))?;
                }
                Type::Map(of) => {
                    let map = value.as_object().ok_or_else(|| expected(name, "an object"))?;
                    for (key, value) in map {
                        let mut entry = Vec::new();
                        put_bytes(&mut entry, 1, key.as_bytes());
                        of.put_whole(&mut entry, 2, name, value)?;
                        put_bytes(&mut out, *number, &entry);
                    }
                }
                of => of.put_whole(&mut out, *number, name, value)?,
            }
        }
        if let Some(rest) = object.get(REST).and_then(Value::as_str) {
            out.extend_from_slice(&BASE64.decode(rest.as_bytes()).map_err(|_| expected(REST, "base64"))?);
        }
        Ok(out)
    }
}

impl Type {
    fn put_whole(&self, out: &mut Vec<u8>, number: u32, name: &str, value: &Value) -> Result<(), SchemaError> {
        match self {
            Type::Message(of) => {
                put_bytes(out, number, &of.close(value).map_err(|e| e.within(name))?);
                Ok(())
            }
            of => of.put(out, number, name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::apimachinery::{
        schema::{CONFIG_MAP, ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE},
        wire::put_bytes,
    };
    use serde_json::json;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
        out
    }

    #[test]
    fn what_the_tables_do_not_have_is_carried_along() {
        let metadata = message(&[(6, b"7"), (1, b"s")]);
        // A port without a name has an empty one on the wire.
        let port = [message(&[(1, b"")]), vec![0x18, 0x50], message(&[(2, b"TCP")])].concat();
        let spec = message(&[(1, &port), (3, b"10.0.0.1"), (4, b""), (18, b"10.0.0.1"), (18, b""), (99, b"later")]);
        let service = message(&[(1, &metadata), (2, &spec), (3, b"")]);
        let opened = SERVICE.open(&service, 0..service.len()).unwrap();
        assert_eq!(opened["spec"]["ports"][0]["name"], "");
        assert_eq!(opened["spec"]["clusterIPs"], json!(["10.0.0.1", ""]));
        let closed = SERVICE.close(&opened).unwrap();
        assert_eq!(closed.len(), service.len());
        assert_eq!(SERVICE.open(&closed, 0..closed.len()).unwrap(), opened);
        // The bytes are those that came, in another order at most.
        let sorted = |mut bytes: Vec<u8>| {
            bytes.sort_unstable();
            bytes
        };
        assert_eq!(sorted(closed), sorted(service));
    }

    #[test]
    fn messages_that_are_cut_off_or_changed_wrongly_are_errors() {
        let bytes = message(&[(2, &message(&[(1, b"abc")]))]);
        for table in [&SERVICE, &ENDPOINTS, &ENDPOINT_SLICE, &CONFIG_MAP, &POD] {
            for end in 1..bytes.len() {
                assert!(table.open(&bytes, 0..end).is_err(), "{end}");
            }
        }
        let e = SERVICE.close(&json!({ "spec": { "ports": [{ "port": "x" }] } })).unwrap_err();
        assert_eq!(e.to_string(), "spec.ports.port: expected a whole number");
    }
}
