//! An object on its way through filters: opened when the first of them looks into it, and written again only if one has changed it.
use super::served::Served;
use crate::apimachinery::{media::Encoding, object::Object, reported::local_version, schema::ContentError};
use bytes::Bytes;
use serde_json::Value;
use std::hash::{DefaultHasher, Hasher};

pub struct Draft<'a> {
    pub object: &'a Object,
    served: &'static Served,
    value: Option<Value>,
    /// How often it was changed.
    edits: usize,
}

/// An object as it was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub bytes: Bytes,
    /// Of its content: the same for the same content.
    pub hash: u64,
    /// Which of the resource versions it got that an object can have here.
    pub mark: u64,
}

/// Resource versions that an object can have here beside that of the API server: see [`local_version`].
const MARKS: u64 = 62;

impl<'a> Draft<'a> {
    pub fn new(object: &'a Object, served: &'static Served) -> Draft<'a> {
        Draft { object, served, value: None, edits: 0 }
    }

    /// The object in JSON, or what the tables have of it.
    pub fn value(&mut self) -> Result<&mut Value, ContentError> {
        let value = match self.value.take() {
            Some(value) => value,
            None => match self.object.encoding() {
                Encoding::Protobuf => self.served.message.open(self.object.bytes(), self.object.message()?)?,
                _ => serde_json::from_slice(self.object.bytes())?,
            },
        };
        Ok(self.value.insert(value))
    }

    /// Changes it. `change` says whether it did.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value) -> bool) -> Result<(), ContentError> {
        let changed = change(self.value()?);
        self.edits += usize::from(changed);
        Ok(())
    }

    pub fn edits(&self) -> usize {
        self.edits
    }

    /// The object as it was changed; `None` if it was not. `before`: the mark of what the client has.
    pub fn finish(self, before: Option<u64>) -> Result<Option<Replaced>, ContentError> {
        let Some(mut value) = self.value.filter(|_| self.edits > 0) else { return Ok(None) };
        let hash = hash(&value);
        let mut mark = 0;
        if self.served.versions {
            mark = 1 + hash % MARKS;
            if before == Some(mark) {
                mark = 1 + mark % MARKS;
            }
            let version = local_version(&self.object.meta.resource_version, mark);
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".into(), version.into());
            }
        }
        let bytes = match self.object.encoding() {
            Encoding::Protobuf => self.object.with_message(self.served.message.close(&value)?),
            _ => value.to_string().into(),
        };
        Ok(Some(Replaced { bytes, hash, mark }))
    }
}

/// Of the content. Items of lists do not say their kind, and have the hash of the same object in a watch.
fn hash(value: &Value) -> u64 {
    let mut hash = DefaultHasher::new();
    for (field, value) in value.as_object().into_iter().flatten().filter(|(field, _)| *field != "kind" && *field != "apiVersion") {
        hash.write(field.as_bytes());
        hash.write(value.to_string().as_bytes());
    }
    hash.finish()
}
