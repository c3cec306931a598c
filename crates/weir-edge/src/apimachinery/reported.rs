//! What a node reports of an object: the status of pods and nodes with their labels and annotations, and the spec of a Lease. It is read
//! out of an object in either encoding, and put back; everything else of the object stays as it was.
use crate::apimachinery::{
    media::Encoding,
    object::{Envelope, Object, ObjectError},
    request::GroupVersionResource,
    schema::{ContentError, LEASE_SPEC, Message, NODE_STATUS, POD_STATUS, SchemaError, TOKEN_REQUEST_STATUS},
    wire::{Fields, WireError, put_bytes},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// A kind of objects of which the hub writes a part.
pub struct Kind {
    /// As [`GroupVersionResource`] prints it.
    pub resource: &'static str,
    /// The part, in JSON and as a field of the message.
    pub part: &'static str,
    number: u32,
    message: &'static Message,
}

pub static POD: Kind = Kind { resource: "pods.v1", part: "status", number: 3, message: &POD_STATUS };
pub static NODE: Kind = Kind { resource: "nodes.v1", part: "status", number: 3, message: &NODE_STATUS };
pub static LEASE: Kind = Kind { resource: "leases.v1.coordination.k8s.io", part: "spec", number: 2, message: &LEASE_SPEC };

/// What the API server answers when a token is asked for.
pub static TOKEN_REQUEST: Kind = Kind { resource: "serviceaccounts.v1", part: "status", number: 3, message: &TOKEN_REQUEST_STATUS };

/// Fields of objects, of their metadata, of the spec of a pod, and of an entry of a map.
const METADATA: u32 = 1;
const SPEC: u32 = 2;
const RESOURCE_VERSION: u32 = 6;
const LABELS: u32 = 11;
const ANNOTATIONS: u32 = 12;
const NODE_NAME: u32 = 10;
const KEY: u32 = 1;
const VALUE: u32 = 2;

impl Kind {
    pub fn of(resource: &GroupVersionResource) -> Option<&'static Kind> {
        let name = resource.to_string();
        [&POD, &NODE, &LEASE].into_iter().find(|kind| kind.resource == name)
    }

    /// `{"metadata":{"labels":…,"annotations":…},"status":…}`.
    pub fn read(&self, object: &Object) -> Result<Value, ContentError> {
        let part = match object.encoding() {
            Encoding::Protobuf => {
                let [_, part] = self.fields(object.bytes())?;
                self.message.decode(object.bytes(), part)?
            }
            _ => match serde_json::from_slice::<Value>(object.bytes())?.get_mut(self.part) {
                Some(part) if part.is_object() => part.take(),
                _ => json!({}),
            },
        };
        let mut view = json!({ "metadata": { "labels": object.labels()?, "annotations": object.annotations()? } });
        view[self.part] = part;
        Ok(view)
    }

    /// The object with another report and resource version.
    pub fn write(&self, object: &Object, report: &Value, resource_version: &str) -> Result<Bytes, ContentError> {
        if object.encoding() == Encoding::Protobuf {
            return self.write_protobuf(object, report, resource_version);
        }
        let mut whole: Value = serde_json::from_slice(object.bytes())?;
        whole[self.part] = report[self.part].clone();
        whole["metadata"]["resourceVersion"] = resource_version.into();
        for field in ["labels", "annotations"] {
            let Some(metadata) = whole["metadata"].as_object_mut() else { break };
            match entries(report, field) {
                Some(entries) => drop(metadata.insert(field.to_string(), entries.clone().into())),
                None => drop(metadata.shift_remove(field)),
            }
        }
        Ok(whole.to_string().into())
    }

    fn write_protobuf(&self, object: &Object, report: &Value, resource_version: &str) -> Result<Bytes, ContentError> {
        let buffer = object.bytes();
        let [metadata, part] = self.fields(buffer)?;
        let mut message = Vec::with_capacity(buffer.len() + 256);
        let mut of_metadata = Vec::new();
        put_bytes(&mut of_metadata, RESOURCE_VERSION, resource_version.as_bytes());
        for (number, field) in [(LABELS, "labels"), (ANNOTATIONS, "annotations")] {
            for (key, value) in entries(report, field).into_iter().flatten() {
                let value = value.as_str().ok_or_else(|| SchemaError::Expected { field: field.into(), expected: "strings" })?;
                let mut entry = Vec::new();
                put_bytes(&mut entry, KEY, key.as_bytes());
                put_bytes(&mut entry, VALUE, value.as_bytes());
                put_bytes(&mut of_metadata, number, &entry);
            }
        }
        copy(buffer, metadata, &mut of_metadata, |number| ![RESOURCE_VERSION, LABELS, ANNOTATIONS].contains(&number))?;
        put_bytes(&mut message, METADATA, &of_metadata);
        let mut of_part = self.message.encode(&report[self.part])?;
        copy(buffer, part, &mut of_part, |number| !self.message.knows(number))?;
        put_bytes(&mut message, self.number, &of_part);
        copy(buffer, Envelope::read(buffer)?.raw, &mut message, |number| number != METADATA && number != self.number)?;
        Ok(Envelope::wrap(&object.api_version, &object.kind, &message))
    }

    /// Where the metadata and the part lie; empty where there are none.
    fn fields(&self, buffer: &[u8]) -> Result<[Range<usize>; 2], ObjectError> {
        let (mut metadata, mut part) = (0..0, 0..0);
        for field in Fields::of(buffer, Envelope::read(buffer)?.raw) {
            let field = field?;
            match field.number {
                METADATA => metadata = field.bytes()?,
                number if number == self.number => part = field.bytes()?,
                _ => {}
            }
        }
        Ok([metadata, part])
    }
}

fn entries<'a>(report: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    report["metadata"][field].as_object().filter(|entries| !entries.is_empty())
}

/// Copies the fields of a message that are wanted.
fn copy(buffer: &[u8], message: Range<usize>, out: &mut Vec<u8>, wanted: impl Fn(u32) -> bool) -> Result<(), WireError> {
    let mut fields = Fields::of(buffer, message);
    while let Some(field) = fields.next() {
        let field = field?;
        if wanted(field.number) {
            out.extend_from_slice(&buffer[field.at..fields.at()]);
        }
    }
    Ok(())
}

/// The node on which a pod is to run.
pub fn node_name(pod: &Object) -> Result<String, ContentError> {
    if pod.encoding() != Encoding::Protobuf {
        let whole: Value = serde_json::from_slice(pod.bytes())?;
        return Ok(whole["spec"]["nodeName"].as_str().unwrap_or_default().to_string());
    }
    let buffer = pod.bytes();
    for field in Fields::of(buffer, Envelope::read(buffer)?.raw) {
        let field = field?;
        if field.number != SPEC {
            continue;
        }
        let fields = Fields::of(buffer, field.bytes()?);
        let texts = fields.clone();
        for field in fields {
            let field = field?;
            if field.number == NODE_NAME {
                return Ok(texts.text(&field)?.to_string());
            }
        }
    }
    Ok(String::new())
}

/// The resource version of the `changes`th version that was made here of an object that the API server has at `version`.
///
/// It is that number with zeros in front. The API server never writes such a text, so it collides with no version of its own. The API
/// server reads it as the number: a watch that goes on there from it misses nothing, and an update with it succeeds if the object is
/// still the one that was changed here. It is never lower than the version before it, and never higher than a later one of the API
/// server. The zeros differ from change to change, so that a client which compares texts notices each of them.
pub fn local_version(version: &str, changes: u64) -> String {
    let number = version.trim_start_matches('0');
    let zeros = 1 + (changes.saturating_sub(1) % 63) as usize;
    format!("{}{}", "0".repeat(zeros), if number.is_empty() { "0" } else { number })
}

#[cfg(test)]
mod tests;
