//! Cuts a list into its items as it comes, so that nobody needs to hold it whole.
mod json;
mod protobuf;

use super::{ListError, ListHead, MAX_ITEMS};
use crate::apimachinery::{frame::MAX_FRAME, media::Encoding, object::ObjectError};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Most bytes of a list beside its items: metadata, and the columns of a Table.
const MAX_REST: usize = 4 << 20;

/// What a list consists of, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is no item, up to the bracket before the first one, and from the bracket behind the last one on. In JSON only: what a list
    /// in protobuf begins with depends on how long all of it is.
    Rest(Bytes),
    /// The comma between two items, in JSON.
    Separator(Bytes),
    Item(Bytes),
}

/// What a piece of a body begins with.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Rest(usize),
    /// So many bytes of the key and the length of a field in protobuf, and where the field is if that is all of them.
    Header {
        length: usize,
        of: Option<Place>,
    },
    /// So many bytes around the message in protobuf.
    Envelope(usize),
    /// All of it, or a part of it.
    Separator {
        length: usize,
        last: bool,
    },
    Item {
        length: usize,
        last: bool,
    },
}

/// Where a field is in protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Envelope,
    /// The message of the list itself.
    Message,
    Rest,
    Item,
}

#[derive(Debug)]
enum Format {
    Json(json::Scanner),
    Protobuf(protobuf::Scanner),
}

/// Cuts a body in whatever pieces it arrives. What lies in one piece is not copied. After an error there is nothing more.
#[derive(Debug)]
pub struct Parts {
    format: Format,
    /// Pieces that were not looked at yet.
    pieces: VecDeque<Bytes>,
    /// The beginning of an item or a separator that continues in a later piece.
    partial: BytesMut,
    /// All that is around the message in protobuf, before it and after it.
    envelope: (Vec<u8>, Vec<u8>),
    /// The message has begun.
    in_message: bool,
    rest: Vec<u8>,
    items: usize,
    scanned: usize,
    /// The items do not say their kind.
    bare: Option<bool>,
}

impl Parts {
    pub fn new(encoding: Encoding) -> Result<Parts, ListError> {
        let format = match encoding {
            Encoding::Json => Format::Json(json::Scanner::default()),
            Encoding::Protobuf => Format::Protobuf(protobuf::Scanner::default()),
            Encoding::Cbor | Encoding::Yaml => return Err(ObjectError::Encoding(encoding).into()),
        };
        Ok(Parts {
            format,
            pieces: VecDeque::new(),
            partial: BytesMut::new(),
            envelope: Default::default(),
            in_message: false,
            rest: Vec::new(),
            items: 0,
            scanned: 0,
            bare: None,
        })
    }

    /// The next piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// The next part. `None`: it has not arrived yet.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Part>, ListError> {
        while let Some(piece) = self.pieces.front_mut() {
            let at = self.scanned;
            let step = match &mut self.format {
                Format::Json(scanner) => scanner.scan(piece, at)?,
                Format::Protobuf(scanner) => scanner.scan(piece, at)?,
            };
            let (Step::Rest(length)
            | Step::Header { length, .. }
            | Step::Envelope(length)
            | Step::Separator { length, .. }
            | Step::Item { length, .. }) = step;
            let content = piece.split_to(length);
            self.scanned += length;
            if !piece.has_remaining() {
                self.pieces.pop_front();
            }
            match step {
                Step::Rest(_) => {
                    // Behind the last item there is no comma but perhaps space.
                    let content = self.joined(content, true, at)?.unwrap_or_default();
                    self.rest.extend_from_slice(&content);
                    self.bounded(at)?;
                    if matches!(self.format, Format::Json(_)) {
                        return Ok(Some(Part::Rest(content)));
                    }
                }
                Step::Header { of, .. } => {
                    let Format::Protobuf(scanner) = &mut self.format else { continue };
                    match of {
                        None => {}
                        Some(Place::Message) => {
                            scanner.take_header();
                            self.in_message = true;
                        }
                        Some(Place::Item) => drop(scanner.take_header()),
                        Some(Place::Rest) => self.rest.append(&mut scanner.take_header()),
                        Some(Place::Envelope) => {
                            let mut header = scanner.take_header();
                            self.envelope().append(&mut header);
                        }
                    }
                }
                Step::Envelope(_) => {
                    self.envelope().extend_from_slice(&content);
                    self.bounded(at)?;
                }
                Step::Separator { last, .. } => {
                    if let Some(whole) = self.joined(content, last, at)? {
                        return Ok(Some(Part::Separator(whole)));
                    }
                }
                Step::Item { last, .. } => {
                    if let Some(whole) = self.joined(content, last, at)? {
                        self.items += 1;
                        if self.items > MAX_ITEMS {
                            return Err(ListError::TooMany { at });
                        }
                        return Ok(Some(Part::Item(whole)));
                    }
                }
            }
        }
        Ok(None)
    }

    fn envelope(&mut self) -> &mut Vec<u8> {
        if self.in_message { &mut self.envelope.1 } else { &mut self.envelope.0 }
    }

    fn bounded(&self, at: usize) -> Result<(), ListError> {
        let rest = self.rest.len() + self.envelope.0.len() + self.envelope.1.len();
        if rest > MAX_REST { Err(ListError::TooLong { at, max: MAX_REST }) } else { Ok(()) }
    }

    /// A part that may have begun in an earlier piece.
    fn joined(&mut self, content: Bytes, last: bool, at: usize) -> Result<Option<Bytes>, ListError> {
        if self.partial.len() + content.len() > MAX_FRAME {
            return Err(ListError::TooLong { at, max: MAX_FRAME });
        }
        if last && self.partial.is_empty() {
            return Ok(Some(content));
        }
        self.partial.extend_from_slice(&content);
        Ok(last.then(|| std::mem::take(&mut self.partial).freeze()))
    }

    /// What has come and is no part yet.
    pub fn take_unread(&mut self) -> Vec<Bytes> {
        let partial = std::mem::take(&mut self.partial).freeze();
        std::iter::once(partial).chain(self.pieces.drain(..)).collect()
    }

    /// Whether the first item says its kind: the others do as it does.
    pub fn saw_kind(&mut self, says: bool) {
        self.bare.get_or_insert(!says);
    }

    /// The list without its items, as far as it has come. Where the metadata stands behind the items, it is known at the end only.
    pub fn head(&self) -> Result<ListHead, ListError> {
        match &self.format {
            Format::Json(scanner) => super::json::without_items(&self.rest, scanner.unfinished(), self.bare),
            Format::Protobuf(_) => super::protobuf::without_items(&self.envelope.0, &self.rest, &self.envelope.1),
        }
    }

    /// The list with other items, in protobuf.
    pub fn assemble(&self, items: Vec<Bytes>) -> Vec<Bytes> {
        super::protobuf::assemble(&self.envelope.0, &self.rest, items, &self.envelope.1)
    }

    /// The body has ended: in the middle of the list that is an error.
    pub fn finish(&self) -> Result<ListHead, ListError> {
        let whole = match &self.format {
            Format::Json(scanner) => scanner.is_finished(),
            Format::Protobuf(scanner) => scanner.is_finished(),
        };
        if whole && self.pieces.is_empty() { self.head() } else { Err(ListError::Truncated { at: self.scanned }) }
    }
}

#[cfg(test)]
mod tests;
