//! Events of a watch: one frame, and the object in it.
use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::apimachinery::json::{Cursor, JsonError};
use crate::apimachinery::media::Encoding;
use crate::apimachinery::object::{self, Object, ObjectError};
use crate::apimachinery::wire::{Fields, WireError, put_bytes, put_header, varint_len};

/// Annotation of the bookmark behind the initial events of a watch with `sendInitialEvents`.
pub const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    /// Only a resource version: the client has seen all events up to it.
    Bookmark,
    /// The object is a Status, and the watch ends.
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("unknown type {0:?} of a watch event")]
    Type(String),
    #[error("a watch event without an object")]
    NoObject,
    #[error("a watch event with an object without a name")]
    Unnamed,
}

impl From<JsonError> for EventError {
    fn from(error: JsonError) -> EventError {
        EventError::Object(error.into())
    }
}

impl From<WireError> for EventError {
    fn from(error: WireError) -> EventError {
        EventError::Object(error.into())
    }
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
            EventKind::Bookmark => "BOOKMARK",
            EventKind::Error => "ERROR",
        }
    }

    fn read(name: &str) -> Result<EventKind, EventError> {
        let kinds = [EventKind::Added, EventKind::Modified, EventKind::Deleted, EventKind::Bookmark, EventKind::Error];
        kinds.into_iter().find(|kind| kind.name() == name).ok_or_else(|| EventError::Type(name.chars().take(64).collect()))
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// A slice of the frame.
    pub object: Object,
}

impl Event {
    /// Reads a frame as the splitter finds it.
    pub fn read(frame: &Bytes, encoding: Encoding) -> Result<Event, EventError> {
        let event = match encoding {
            Encoding::Json => json(frame)?,
            Encoding::Protobuf => protobuf(frame)?,
            Encoding::Cbor | Encoding::Yaml => return Err(ObjectError::Encoding(encoding).into()),
        };
        match event.kind {
            EventKind::Added | EventKind::Modified | EventKind::Deleted if event.object.meta.name.is_empty() => Err(EventError::Unnamed),
            _ => Ok(event),
        }
    }

    /// Whether this is the bookmark behind the initial events.
    pub fn ends_initial_events(&self) -> Result<bool, ObjectError> {
        Ok(self.kind == EventKind::Bookmark && self.object.annotations()?.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true"))
    }
}

fn json(frame: &Bytes) -> Result<Event, EventError> {
    let mut cursor = Cursor::new(frame)?;
    let (mut kind, mut object) = (String::new(), None);
    cursor.object(|name, cursor| {
        match name {
            "type" => object::json::once(&mut kind, cursor)?,
            "object" => {
                cursor.peek()?;
                let start = cursor.at();
                if object.is_some() {
                    return Err(JsonError::Duplicate { at: start }.into());
                }
                let found = object::json::event_object(cursor)?;
                object = Some(found.into_object(frame.slice(start..cursor.at()), Encoding::Json, start));
            }
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, EventError>(())
    })?;
    cursor.end()?;
    Ok(Event { kind: EventKind::read(&kind)?, object: object.ok_or(EventError::NoObject)? })
}

/// Fields of WatchEvent, and of the RawExtension in it.
const TYPE: u32 = 1;
const OBJECT: u32 = 2;
const RAW: u32 = 1;

fn protobuf(frame: &Bytes) -> Result<Event, EventError> {
    let (mut kind, mut object) = (None, None);
    let fields = Fields::of(frame, 0..frame.len());
    let texts = fields.clone();
    for field in fields {
        let field = field?;
        match field.number {
            TYPE => kind = Some(EventKind::read(texts.text(&field)?)?),
            OBJECT => {
                for field in Fields::of(frame, field.bytes()?) {
                    let field = field?;
                    if field.number == RAW {
                        object = Some(field.bytes()?);
                    }
                }
            }
            _ => {}
        }
    }
    let kind = kind.ok_or_else(|| EventError::Type(String::new()))?;
    let object = frame.slice(object.ok_or(EventError::NoObject)?);
    Ok(Event { kind, object: Object::read(object, Encoding::Protobuf)? })
}

/// A frame as the API server sends it, with its line break or length. The object is whole, and in one of the two encodings.
pub fn encode(kind: EventKind, object: &[u8], encoding: Encoding) -> Result<Bytes, ObjectError> {
    match encoding {
        Encoding::Json => {
            let object = object.trim_ascii();
            let parts: [&[u8]; 5] = [b"{\"type\":\"", kind.name().as_bytes(), b"\",\"object\":", object, b"}\n"];
            Ok(parts.concat().into())
        }
        Encoding::Protobuf => {
            let extension = 1 + varint_len(object.len() as u64) + object.len();
            let length = 2 + kind.name().len() + 1 + varint_len(extension as u64) + extension;
            let mut frame = Vec::with_capacity(4 + length);
            frame.extend_from_slice(&(length as u32).to_be_bytes());
            put_bytes(&mut frame, TYPE, kind.name().as_bytes());
            put_header(&mut frame, OBJECT, extension);
            put_bytes(&mut frame, RAW, object);
            Ok(frame.into())
        }
        Encoding::Cbor | Encoding::Yaml => Err(ObjectError::Encoding(encoding)),
    }
}

#[cfg(test)]
mod tests;
