//! A list in protobuf: an envelope, in it the message of the list, and in that the messages of the items.
use super::{Place, Step};
use crate::apimachinery::{list::ListError, object::ObjectError, wire::WireError};

const MAGIC: &[u8] = b"k8s\0";
/// The message, a field of the envelope.
const MESSAGE: u64 = 2;
/// Items, fields of the message.
const ITEMS: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The magic bytes were read.
    begun: bool,
    /// The key and the length of a field, as far as they have come.
    header: Vec<u8>,
    /// The field that is read, and the bytes of it that are yet to come.
    field: Option<(Place, usize)>,
    /// Bytes of the message that are yet to come.
    message: usize,
    /// The message was there.
    seen: bool,
}

impl Scanner {
    pub(super) fn is_finished(&self) -> bool {
        self.seen && self.message == 0 && self.field.is_none() && self.header.is_empty()
    }

    pub(super) fn take_header(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.header)
    }

    /// `at`: the byte of the body with which the piece begins.
    pub(super) fn scan(&mut self, piece: &[u8], at: usize) -> Result<Step, ListError> {
        if let Some((place, left)) = self.field {
            let length = left.min(piece.len());
            let last = length == left;
            self.field = (!last).then_some((place, left - length));
            if place != Place::Envelope {
                self.message -= length;
            }
            return Ok(match place {
                Place::Item => Step::Item { length, last },
                Place::Envelope => Step::Envelope(length),
                Place::Message | Place::Rest => Step::Rest(length),
            });
        }
        for (offset, byte) in piece.iter().enumerate() {
            self.header.push(*byte);
            let of = if self.begun { self.place(at + offset)? } else { self.magic()? };
            if of.is_some() {
                return Ok(Step::Header { length: offset + 1, of });
            }
        }
        Ok(Step::Header { length: piece.len(), of: None })
    }

    fn magic(&mut self) -> Result<Option<Place>, ListError> {
        if !MAGIC.starts_with(&self.header) {
            return Err(ObjectError::Magic.into());
        }
        self.begun = self.header.len() == MAGIC.len();
        Ok(self.begun.then_some(Place::Envelope))
    }

    /// Where the field is whose key and length have been read.
    fn place(&mut self, at: usize) -> Result<Option<Place>, ListError> {
        let header = &self.header[..];
        let truncated = WireError::Truncated { at };
        let Some((key, rest)) = varint(header, at)? else { return Ok(None) };
        let (number, wire_type) = (key >> 3, (key & 7) as u8);
        let content = match wire_type {
            0 => match varint(rest, at)? {
                Some(_) => 0,
                None => return Ok(None),
            },
            1 => 8,
            2 => match varint(rest, at)? {
                Some((length, _)) => usize::try_from(length).map_err(|_| truncated.clone())?,
                None => return Ok(None),
            },
            5 => 4,
            wire_type => return Err(WireError::WireType { at, wire_type }.into()),
        };
        let in_message = self.message > 0;
        if in_message {
            // The message ends with one of its fields.
            self.message = self.message.checked_sub(header.len()).filter(|left| content <= *left).ok_or(truncated)?;
        }
        let place = match (in_message, number, wire_type) {
            (true, ITEMS, 2) => Place::Item,
            (true, ..) => Place::Rest,
            (false, MESSAGE, 2) if self.seen => return Err(WireError::FieldType { at, number: MESSAGE as u32 }.into()),
            (false, MESSAGE, 2) => {
                (self.seen, self.message) = (true, content);
                return Ok(Some(Place::Message));
            }
            (false, ..) => Place::Envelope,
        };
        // An item may be empty, too: then it comes with the next step.
        self.field = (content > 0 || place == Place::Item).then_some((place, content));
        Ok(Some(place))
    }
}

/// A number and what follows it; `None`: it has not all come.
fn varint(bytes: &[u8], at: usize) -> Result<Option<(u64, &[u8])>, WireError> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 || i > 9 {
            return Err(WireError::Varint { at });
        }
        value |= bits << (7 * i);
        if *byte < 0x80 {
            return Ok(Some((value, &bytes[i + 1..])));
        }
    }
    Ok(None)
}
