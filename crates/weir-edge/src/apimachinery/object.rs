//! What the hub reads of an object without its schema: its kind and its metadata.
pub(crate) mod json;
pub(crate) mod protobuf;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

use crate::apimachinery::json::JsonError;
use crate::apimachinery::media::Encoding;
use crate::apimachinery::wire::WireError;

pub use protobuf::Envelope;

/// Most labels, annotations or owners of an object that are read.
pub const MAX_ENTRIES: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ObjectError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("objects in {0} are not read")]
    Encoding(Encoding),
    #[error("a protobuf object begins with `k8s` and a zero byte")]
    Magic,
    #[error("an object in a protobuf envelope of content type {content_type:?} and content encoding {content_encoding:?}")]
    Content { content_type: String, content_encoding: String },
    #[error("byte {at} of the object: not a time of RFC 3339")]
    Time { at: usize },
    #[error("byte {at} of the object: more than {MAX_ENTRIES} labels, annotations or owners")]
    TooMany { at: usize },
}

/// An object as it came, with what was read of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    bytes: Bytes,
    encoding: Encoding,
    /// Of a list: in protobuf it has no envelope.
    item: bool,
    /// Where the metadata lies in the bytes; empty where there is none.
    metadata: Range<usize>,
    /// `v1`, `apps/v1`; empty in items of lists that do not say it.
    pub api_version: String,
    /// Empty in items of lists that do not say it.
    pub kind: String,
    pub meta: Meta,
}

/// The part of ObjectMeta that says which object this is, and which version of it. What is not set is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    /// Seconds since 1970.
    pub deletion_timestamp: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
}

/// What the readers of the encodings find.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) meta: Meta,
    pub(crate) metadata: Range<usize>,
}

impl Found {
    /// The object, which begins at byte `start` of the buffer in which it was found.
    pub(crate) fn into_object(self, bytes: Bytes, encoding: Encoding, start: usize) -> Object {
        let metadata = self.metadata.start.saturating_sub(start)..self.metadata.end.saturating_sub(start);
        Object { bytes, encoding, item: false, metadata, api_version: self.api_version, kind: self.kind, meta: self.meta }
    }
}

/// A map of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Labels,
    Annotations,
}

impl Object {
    /// Reads a whole object: in protobuf with its envelope.
    pub fn read(bytes: Bytes, encoding: Encoding) -> Result<Object, ObjectError> {
        let found = match encoding {
            Encoding::Json => json::whole(&bytes)?,
            Encoding::Protobuf => protobuf::whole(&bytes)?,
            Encoding::Cbor | Encoding::Yaml => return Err(ObjectError::Encoding(encoding)),
        };
        Ok(found.into_object(bytes, encoding, 0))
    }

    /// Reads an item of a list, which need not say its version and kind.
    pub fn read_item(bytes: Bytes, encoding: Encoding, api_version: &str, kind: &str) -> Result<Object, ObjectError> {
        let found = match encoding {
            Encoding::Json => json::whole(&bytes)?,
            Encoding::Protobuf => protobuf::message(&bytes, 0..bytes.len())?,
            Encoding::Cbor | Encoding::Yaml => return Err(ObjectError::Encoding(encoding)),
        };
        let object = Object { item: true, ..found.into_object(bytes, encoding, 0) };
        Ok(match object.kind.is_empty() {
            true => Object { api_version: api_version.into(), kind: kind.into(), ..object },
            false => object,
        })
    }

    /// Where the object itself is in the bytes of protobuf.
    pub fn message(&self) -> Result<Range<usize>, ObjectError> {
        match self.item {
            true => Ok(0..self.bytes.len()),
            false => Ok(Envelope::read(&self.bytes)?.raw),
        }
    }

    /// Another message of protobuf in place of the one of this object.
    pub fn with_message(&self, message: Vec<u8>) -> Bytes {
        match self.item {
            true => message.into(),
            false => Envelope::wrap(&self.api_version, &self.kind, &message),
        }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn labels(&self) -> Result<BTreeMap<String, String>, ObjectError> {
        self.map(Map::Labels)
    }

    pub fn annotations(&self) -> Result<BTreeMap<String, String>, ObjectError> {
        self.map(Map::Annotations)
    }

    fn map(&self, map: Map) -> Result<BTreeMap<String, String>, ObjectError> {
        match self.encoding {
            _ if self.metadata.is_empty() => Ok(BTreeMap::new()),
            Encoding::Protobuf => protobuf::map(&self.bytes, self.metadata.clone(), map),
            _ => json::map(&self.bytes[self.metadata.clone()], map),
        }
    }

    pub fn owner_references(&self) -> Result<Vec<OwnerReference>, ObjectError> {
        match self.encoding {
            _ if self.metadata.is_empty() => Ok(Vec::new()),
            Encoding::Protobuf => protobuf::owners(&self.bytes, self.metadata.clone()),
            _ => json::owners(&self.bytes[self.metadata.clone()]),
        }
    }
}

/// Refuses one entry too many.
fn bounded(entries: usize, at: usize) -> Result<(), ObjectError> {
    if entries < MAX_ENTRIES { Ok(()) } else { Err(ObjectError::TooMany { at }) }
}

#[cfg(test)]
mod tests;
