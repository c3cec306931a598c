//! Lists in protobuf: metadata is field 1 of the message, items are fields 2.
use bytes::Bytes;

use super::{Found, List, ListError, ListHead, MAX_ITEMS};
use crate::apimachinery::media::Encoding;
use crate::apimachinery::object::{Envelope, protobuf as object};
use crate::apimachinery::wire::{Fields, put_bytes, put_header, varint_len};

/// First byte of a saved head.
pub(super) const SAVED: u8 = b'P';

const METADATA: u32 = 1;
const ITEMS: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The message without its items.
    rest: Bytes,
}

pub(super) fn split(body: &Bytes) -> Result<List, ListError> {
    let envelope = Envelope::read(body)?;
    if !envelope.kind.ends_with("List") {
        return Err(ListError::NotAList { kind: envelope.kind });
    }
    let mut found = Found { api_version: envelope.api_version, kind: envelope.kind, ..Found::default() };
    let (mut rest, mut items) = (Vec::new(), Vec::new());
    let mut fields = Fields::of(body, envelope.raw);
    while let Some(field) = fields.next() {
        let field = field?;
        if field.number == ITEMS {
            if items.len() == MAX_ITEMS {
                return Err(ListError::TooMany { at: field.at });
            }
            let range = field.bytes()?;
            let item = object::message(body, range.clone())?;
            if item.meta.name.is_empty() {
                return Err(ListError::Unnamed { at: range.start });
            }
            items.push(item.into_object(body.slice(range.clone()), Encoding::Protobuf, range.start));
            continue;
        }
        if field.number == METADATA {
            let fields = Fields::of(body, field.bytes()?);
            let texts = fields.clone();
            for field in fields {
                let field = field?;
                match field.number {
                    2 => found.resource_version = texts.text(&field)?.to_string(),
                    3 => found.continue_token = texts.text(&field)?.to_string(),
                    4 => found.remaining = Some(field.integer()? as i64),
                    _ => {}
                }
            }
        }
        rest.extend_from_slice(&body[field.at..fields.at()]);
    }
    let layout = Layout { rest: rest.into() };
    Ok(List { head: found.into_head(super::Layout::Protobuf(layout)), items })
}

/// The head of a list of which the items were taken out: the envelope before its message, the rest of the message, the envelope behind it.
pub(super) fn without_items(before: &[u8], rest: &[u8], after: &[u8]) -> Result<ListHead, ListError> {
    let mut body = before.to_vec();
    put_bytes(&mut body, object::RAW, rest);
    body.extend_from_slice(after);
    Ok(split(&body.into())?.head)
}

/// The pieces of a list with these items.
pub(super) fn assemble(before: &[u8], rest: &[u8], items: Vec<Bytes>, after: &[u8]) -> Vec<Bytes> {
    let length = |item: &Bytes| 1 + varint_len(item.len() as u64) + item.len();
    let mut opening = before.to_vec();
    put_header(&mut opening, object::RAW, rest.len() + items.iter().map(length).sum::<usize>());
    opening.extend_from_slice(rest);
    let mut pieces = Vec::with_capacity(2 * items.len() + 2);
    pieces.push(opening.into());
    for item in items {
        let mut header = Vec::with_capacity(6);
        put_header(&mut header, ITEMS, item.len());
        pieces.extend([header.into(), item]);
    }
    pieces.push(Bytes::copy_from_slice(after));
    pieces
}

/// The head of a list of one page as the API server writes it.
pub(super) fn empty(api_version: &str, kind: &str, resource_version: &str) -> Result<ListHead, ListError> {
    let mut metadata = Vec::new();
    // selfLink and continue are there though they are empty.
    put_bytes(&mut metadata, 1, b"");
    put_bytes(&mut metadata, 2, resource_version.as_bytes());
    put_bytes(&mut metadata, 3, b"");
    let mut raw = Vec::new();
    put_bytes(&mut raw, METADATA, &metadata);
    Ok(split(&Envelope::wrap(api_version, kind, &raw))?.head)
}

impl Layout {
    pub(super) fn save(&self, api_version: &str, kind: &str) -> Bytes {
        [&[SAVED], Envelope::wrap(api_version, kind, &self.rest).as_ref()].concat().into()
    }

    pub(super) fn assemble(&self, api_version: &str, kind: &str, objects: &[Bytes]) -> Result<Vec<Bytes>, ListError> {
        let mut length = self.rest.len();
        let mut items = Vec::with_capacity(2 * objects.len());
        for whole in objects {
            let raw = Envelope::read(whole)?.raw;
            length += 1 + varint_len(raw.len() as u64) + raw.len();
            let mut header = Vec::with_capacity(6);
            put_header(&mut header, ITEMS, raw.len());
            items.push(Bytes::from(header));
            items.push(whole.slice(raw));
        }
        let (mut opening, closing) = Envelope::around(api_version, kind, length);
        opening.extend_from_slice(&self.rest);
        let mut pieces = Vec::with_capacity(items.len() + 2);
        pieces.push(opening.into());
        pieces.append(&mut items);
        pieces.push(Bytes::from_static(closing));
        Ok(pieces)
    }
}
