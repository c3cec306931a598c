//! Metadata of objects in protobuf: an envelope (`runtime.Unknown`), and in it a message of which only ObjectMeta, field 1, is read.
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::{Found, Map, Meta, ObjectError, OwnerReference, bounded};
use crate::apimachinery::wire::{Fields, WireError, put_bytes, put_header};

/// What an object with an envelope begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Fields of runtime.Unknown and runtime.TypeMeta.
const TYPE_META: u32 = 1;
pub(crate) const RAW: u32 = 2;
const CONTENT_ENCODING: u32 = 3;
const CONTENT_TYPE: u32 = 4;
const API_VERSION: u32 = 1;
const KIND: u32 = 2;

/// An object's envelope.
#[derive(Debug, Default)]
pub struct Envelope {
    pub api_version: String,
    pub kind: String,
    /// Where the object's message lies in the buffer.
    pub raw: Range<usize>,
}

impl Envelope {
    pub fn read(buffer: &[u8]) -> Result<Envelope, ObjectError> {
        if !buffer.starts_with(MAGIC) {
            return Err(ObjectError::Magic);
        }
        let mut envelope = Envelope::default();
        let mut raw = None;
        let (mut content_encoding, mut content_type) = ("", "");
        let fields = Fields::of(buffer, MAGIC.len()..buffer.len());
        let texts = fields.clone();
        for field in fields {
            let field = field?;
            match field.number {
                TYPE_META => {
                    let fields = Fields::of(buffer, field.bytes()?);
                    let texts = fields.clone();
                    for field in fields {
                        let field = field?;
                        match field.number {
                            API_VERSION => envelope.api_version = texts.text(&field)?.to_string(),
                            KIND => envelope.kind = texts.text(&field)?.to_string(),
                            _ => {}
                        }
                    }
                }
                RAW => raw = Some(field.bytes()?),
                CONTENT_ENCODING => content_encoding = texts.text(&field)?,
                CONTENT_TYPE => content_type = texts.text(&field)?,
                _ => {}
            }
        }
        // The API server writes an empty message too.
        envelope.raw = raw.ok_or(WireError::Truncated { at: buffer.len() })?;
        if !content_encoding.is_empty() || !matches!(content_type, "" | "application/vnd.kubernetes.protobuf") {
            let (content_type, content_encoding) = (content_type.to_string(), content_encoding.to_string());
            return Err(ObjectError::Content { content_type, content_encoding });
        }
        Ok(envelope)
    }

    /// What the API server writes around a message of so many bytes: before and after it.
    pub fn around(api_version: &str, kind: &str, length: usize) -> (Vec<u8>, &'static [u8]) {
        let mut type_meta = Vec::with_capacity(4 + api_version.len() + kind.len());
        put_bytes(&mut type_meta, API_VERSION, api_version.as_bytes());
        put_bytes(&mut type_meta, KIND, kind.as_bytes());
        let mut before = Vec::with_capacity(MAGIC.len() + 12 + type_meta.len());
        before.extend_from_slice(MAGIC);
        put_bytes(&mut before, TYPE_META, &type_meta);
        put_header(&mut before, RAW, length);
        // Empty content encoding and type.
        (before, &[0x1a, 0, 0x22, 0])
    }

    /// A message in an envelope as the API server writes it.
    pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Bytes {
        let (mut whole, after) = Envelope::around(api_version, kind, raw.len());
        whole.reserve_exact(raw.len() + after.len());
        whole.extend_from_slice(raw);
        whole.extend_from_slice(after);
        whole.into()
    }
}

/// Reads an object with its envelope.
pub(super) fn whole(buffer: &[u8]) -> Result<Found, ObjectError> {
    let envelope = Envelope::read(buffer)?;
    // The metadata of a Status is a ListMeta; it names no object.
    let found = match (envelope.kind.as_str(), envelope.api_version.as_str()) {
        ("Status", "v1") => Found::default(),
        _ => message(buffer, envelope.raw)?,
    };
    Ok(Found { api_version: envelope.api_version, kind: envelope.kind, ..found })
}

/// Reads an object's message. The rest of the message is gone through too, so that a message that is cut off is an error.
pub(crate) fn message(buffer: &[u8], message: Range<usize>) -> Result<Found, ObjectError> {
    let mut found = Found::default();
    for field in Fields::of(buffer, message) {
        let field = field?;
        if field.number == 1 {
            found.metadata = field.bytes()?;
            found.meta = meta(buffer, found.metadata.clone())?;
        }
    }
    Ok(found)
}

fn meta(buffer: &[u8], metadata: Range<usize>) -> Result<Meta, WireError> {
    let mut meta = Meta::default();
    let fields = Fields::of(buffer, metadata);
    let texts = fields.clone();
    for field in fields {
        let field = field?;
        match field.number {
            1 => meta.name = texts.text(&field)?.to_string(),
            3 => meta.namespace = texts.text(&field)?.to_string(),
            5 => meta.uid = texts.text(&field)?.to_string(),
            6 => meta.resource_version = texts.text(&field)?.to_string(),
            // Go writes a zero that is not set.
            7 => meta.generation = Some(field.integer()? as i64).filter(|n| *n != 0),
            9 => meta.deletion_timestamp = Some(seconds(buffer, field.bytes()?)?),
            _ => {}
        }
    }
    Ok(meta)
}

/// Seconds of a Timestamp.
fn seconds(buffer: &[u8], time: Range<usize>) -> Result<i64, WireError> {
    let mut seconds = 0;
    for field in Fields::of(buffer, time) {
        let field = field?;
        if field.number == 1 {
            seconds = field.integer()? as i64;
        }
    }
    Ok(seconds)
}

pub(super) fn map(buffer: &[u8], metadata: Range<usize>, map: Map) -> Result<BTreeMap<String, String>, ObjectError> {
    let number = match map {
        Map::Labels => 11,
        Map::Annotations => 12,
    };
    let mut entries = BTreeMap::new();
    for field in Fields::of(buffer, metadata) {
        let field = field?;
        if field.number == number {
            bounded(entries.len(), field.at)?;
            let fields = Fields::of(buffer, field.bytes()?);
            let texts = fields.clone();
            let (mut key, mut value) = (String::new(), String::new());
            for field in fields {
                let field = field?;
                match field.number {
                    1 => key = texts.text(&field)?.to_string(),
                    2 => value = texts.text(&field)?.to_string(),
                    _ => {}
                }
            }
            entries.insert(key, value);
        }
    }
    Ok(entries)
}

pub(super) fn owners(buffer: &[u8], metadata: Range<usize>) -> Result<Vec<OwnerReference>, ObjectError> {
    let mut owners = Vec::new();
    for field in Fields::of(buffer, metadata) {
        let field = field?;
        if field.number == 13 {
            bounded(owners.len(), field.at)?;
            owners.push(owner(buffer, field.bytes()?)?);
        }
    }
    Ok(owners)
}

fn owner(buffer: &[u8], message: Range<usize>) -> Result<OwnerReference, WireError> {
    let mut owner = OwnerReference::default();
    let fields = Fields::of(buffer, message);
    let texts = fields.clone();
    for field in fields {
        let field = field?;
        match field.number {
            1 => owner.kind = texts.text(&field)?.to_string(),
            3 => owner.name = texts.text(&field)?.to_string(),
            4 => owner.uid = texts.text(&field)?.to_string(),
            5 => owner.api_version = texts.text(&field)?.to_string(),
            6 => owner.controller = field.integer()? != 0,
            _ => {}
        }
    }
    Ok(owner)
}
