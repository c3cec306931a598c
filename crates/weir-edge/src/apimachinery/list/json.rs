//! Lists and Tables in JSON. The text of a list without its items is kept, whatever the order of its fields.
use std::ops::Range;

use bytes::Bytes;

use super::{Found, List, ListError, ListHead, MAX_ITEMS};
use crate::apimachinery::json::{Cursor, JsonError};
use crate::apimachinery::media::Encoding;
use crate::apimachinery::object::{Object, json as object};

/// First byte of a saved head, by whether items leave out kind and version.
const SAVED: u8 = b'J';
const SAVED_BARE: u8 = b'j';

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The list without items.
    text: Bytes,
    /// Where `[]` or `null` stands for the items or rows.
    items: Range<usize>,
    metadata: Range<usize>,
    /// The column definitions of a Table.
    columns: Option<Range<usize>>,
    /// The metadata says `continue` also where there are no more pages, as that of lists of custom resources does.
    always_continue: bool,
    /// Items leave out kind and version.
    bare: bool,
}

pub(super) fn split(body: &Bytes) -> Result<List, ListError> {
    let mut cursor = Cursor::new(body)?;
    let mut items: Vec<Object> = Vec::new();
    let mut place: Option<Range<usize>> = None;
    cursor.object(|name, cursor| {
        if !matches!(name, "items" | "rows") {
            cursor.skip()?;
            return Ok::<_, ListError>(());
        }
        cursor.peek()?;
        let start = cursor.at();
        if place.is_some() {
            return Err(JsonError::Duplicate { at: start }.into());
        }
        if !cursor.null()? {
            cursor.array(|cursor| {
                cursor.peek()?;
                let at = cursor.at();
                let found = if name == "rows" { object::row(cursor)? } else { object::object(cursor)? };
                if items.len() == MAX_ITEMS {
                    return Err(ListError::TooMany { at });
                }
                if found.meta.name.is_empty() {
                    return Err(ListError::Unnamed { at });
                }
                items.push(found.into_object(body.slice(at..cursor.at()), Encoding::Json, at));
                Ok(())
            })?;
        }
        place = Some(start..cursor.at());
        Ok(())
    })?;
    cursor.end()?;
    let text = match place {
        Some(place) if !items.is_empty() => [&body[..place.start], b"[]", &body[place.end..]].concat().into(),
        // A copy: what is kept of a list does not hold its body.
        _ => Bytes::copy_from_slice(body),
    };
    let head = read(text, items.first().map(|item| item.kind.is_empty()))?;
    Ok(List { head, items })
}

/// The head of a list of which the items were taken out; `unfinished` closes its text.
pub(super) fn without_items(rest: &[u8], unfinished: &[u8], bare: Option<bool>) -> Result<ListHead, ListError> {
    read([rest, unfinished].concat().into(), bare)
}

/// Reads a list without items. `bare`: whether items leave out kind and version, if items were seen.
fn read(text: Bytes, bare: Option<bool>) -> Result<ListHead, ListError> {
    let mut cursor = Cursor::new(&text)?;
    let mut found = Found::default();
    let (mut items, mut rows, mut metadata, mut columns) = (None, None, None, None);
    let (mut always_continue, mut kind_first) = (false, false);
    cursor.object(|name, cursor| {
        match name {
            "kind" => {
                object::once(&mut found.kind, cursor)?;
                kind_first = found.api_version.is_empty();
            }
            "apiVersion" => object::once(&mut found.api_version, cursor)?,
            "metadata" => {
                cursor.peek()?;
                let start = cursor.at();
                if metadata.is_some() {
                    return Err(JsonError::Duplicate { at: start }.into());
                }
                if !cursor.null()? {
                    always_continue = list_meta(&mut found, cursor)?;
                }
                metadata = Some(start..cursor.at());
            }
            "items" => items = Some(cursor.skip()?),
            "rows" => rows = Some(cursor.skip()?),
            "columnDefinitions" => columns = Some(cursor.skip()?),
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, ListError>(())
    })?;
    cursor.end()?;
    let table = object::is_table(&found.kind, &found.api_version);
    let items = if table { rows } else { items.filter(|_| found.kind.ends_with("List")) };
    let (Some(items), Some(metadata)) = (items, metadata) else { return Err(ListError::NotAList { kind: found.kind }) };
    if !matches!(text[items.start], b'[' | b'n') {
        return Err(JsonError::Expected { at: items.start, expected: "an array" }.into());
    }
    always_continue &= !kind_first;
    let bare = !table && bare.unwrap_or(kind_first && found.kind != "PartialObjectMetadataList");
    let columns = match table {
        true => Some(columns.ok_or(ListError::NoColumns)?),
        false => None,
    };
    let layout = Layout { text, items, metadata, columns, always_continue, bare };
    Ok(found.into_head(super::Layout::Json(layout)))
}

/// Reads the metadata of a list; whether it says `continue` without need.
fn list_meta(found: &mut Found, cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    let mut says_continue = false;
    cursor.object(|name, cursor| {
        match name {
            "resourceVersion" => object::once(&mut found.resource_version, cursor)?,
            "continue" => {
                object::once(&mut found.continue_token, cursor)?;
                says_continue = true;
            }
            "remainingItemCount" => found.remaining = cursor.integer()?,
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, JsonError>(())
    })?;
    Ok(says_continue)
}

pub(super) fn load(saved: &Bytes) -> Result<ListHead, ListError> {
    match saved.first() {
        Some(&SAVED) => read(saved.slice(1..), Some(false)),
        Some(&SAVED_BARE) => read(saved.slice(1..), Some(true)),
        _ => Err(ListError::Form),
    }
}

pub(super) fn of_objects(model: &Object, resource_version: &str) -> Result<ListHead, ListError> {
    if object::is_table(&model.kind, &model.api_version) {
        let head = read(without_rows(model.bytes())?, None)?.at_version(resource_version)?;
        return match &head.layout {
            super::Layout::Json(Layout { text, columns: Some(columns), .. }) if &text[columns.clone()] != b"null" => Ok(head),
            _ => Err(ListError::NoColumns),
        };
    }
    let (mut kind_first, mut seen) = (true, false);
    Cursor::new(model.bytes())?.object(|name, cursor| {
        if matches!(name, "kind" | "apiVersion") && !seen {
            (seen, kind_first) = (true, name == "kind");
        }
        cursor.skip().map(drop)
    })?;
    let (kind, api_version, version) = (quoted(&format!("{}List", model.kind)), quoted(&model.api_version), quoted(resource_version));
    let text = match kind_first {
        true => format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{{\"resourceVersion\":{version}}},\"items\":[]}}\n"),
        // As lists of custom resources are: fields in alphabetical order.
        false => format!(
            "{{\"apiVersion\":{api_version},\"items\":[],\"kind\":{kind},\"metadata\":{{\"continue\":\"\",\"resourceVersion\":{version}}}}}\n"
        ),
    };
    read(text.into(), None)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Reads a row of a Table.
pub(super) fn row(bytes: Bytes) -> Result<Object, ListError> {
    let mut cursor = Cursor::new(&bytes)?;
    let found = object::row(&mut cursor)?;
    cursor.end()?;
    Ok(found.into_object(bytes, Encoding::Json, 0))
}

/// Where the only row of a Table lies.
fn only_row(table: &[u8]) -> Result<Range<usize>, ListError> {
    let mut rows = Vec::new();
    Cursor::new(table)?.object(|name, cursor| {
        match name {
            "rows" => cursor.array(|cursor| {
                let row = cursor.skip()?;
                if rows.len() < 2 {
                    rows.push(row);
                }
                Ok::<_, JsonError>(())
            })?,
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, JsonError>(())
    })?;
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        _ => Err(ListError::Form),
    }
}

/// The Table of an event as a list without rows, with the line break at the end of a body.
fn without_rows(table: &[u8]) -> Result<Bytes, ListError> {
    let row = only_row(table)?;
    Ok([&table[..row.start], &table[row.end..], b"\n"].concat().into())
}

impl Layout {
    pub(super) fn is_table(&self) -> bool {
        self.columns.is_some()
    }

    pub(super) fn save(&self) -> Bytes {
        [&[if self.bare { SAVED_BARE } else { SAVED }], self.text.as_ref()].concat().into()
    }

    pub(super) fn at_version(&self, resource_version: &str) -> Result<ListHead, ListError> {
        let continues = if self.always_continue && self.columns.is_none() { "\"continue\":\"\"," } else { "" };
        let metadata = format!("{{{continues}\"resourceVersion\":{}}}", quoted(resource_version));
        let text = [&self.text[..self.metadata.start], metadata.as_bytes(), &self.text[self.metadata.end..]].concat();
        read(text.into(), Some(self.bare))
    }

    /// What a whole object of the list begins with where items leave it out.
    fn prefix(head: &ListHead) -> String {
        format!("{{\"kind\":{},\"apiVersion\":{},", quoted(head.item_kind()), quoted(&head.api_version))
    }

    pub(super) fn whole(&self, head: &ListHead, item: &Object) -> Bytes {
        if let Some(columns) = &self.columns {
            return self.table(columns, &item.meta.resource_version, item.bytes());
        }
        match self.bare && item.kind.is_empty() {
            true => [Layout::prefix(head).as_bytes(), &item.bytes()[1..]].concat().into(),
            false => item.bytes().clone(),
        }
    }

    /// A Table of one row without columns.
    fn table(&self, columns: &Range<usize>, resource_version: &str, row: &[u8]) -> Bytes {
        let metadata = format!("{{\"resourceVersion\":{}}}", quoted(resource_version));
        let rows = [b"[", row, b"]"].concat();
        self.replaced([(&self.metadata, metadata.as_bytes()), (columns, b"null"), (&self.items, &rows)])
    }

    /// The text with other values in three places, without the line break at its end.
    fn replaced(&self, mut places: [(&Range<usize>, &[u8]); 3]) -> Bytes {
        places.sort_by_key(|(place, _)| place.start);
        let text = self.text.trim_ascii_end();
        let (mut out, mut at) = (Vec::with_capacity(text.len() + places.iter().map(|p| p.1.len()).sum::<usize>()), 0);
        for (place, value) in places {
            out.extend_from_slice(&text[at..place.start]);
            out.extend_from_slice(value);
            at = place.end;
        }
        out.extend_from_slice(&text[at..]);
        out.into()
    }

    pub(super) fn without_columns(&self, head: &ListHead, event_object: &Object) -> Result<Bytes, ListError> {
        if self.columns.is_none() {
            return Ok(event_object.bytes().clone());
        }
        let bytes = event_object.bytes();
        let row = only_row(bytes)?;
        let found = object::row(&mut Cursor::new(&bytes[row.clone()])?)?;
        Ok(self.whole(head, &found.into_object(bytes.slice(row), Encoding::Json, 0)))
    }

    pub(super) fn with_columns(&self, whole: &Bytes) -> Result<Bytes, ListError> {
        let Some(columns) = &self.columns else { return Ok(whole.clone()) };
        let row = only_row(whole)?;
        let mut version = Found::default();
        Cursor::new(whole)?.object(|name, cursor| {
            match name {
                "metadata" => {
                    list_meta(&mut version, cursor)?;
                }
                _ => {
                    cursor.skip()?;
                }
            }
            Ok::<_, JsonError>(())
        })?;
        let metadata = format!("{{\"resourceVersion\":{}}}", quoted(&version.resource_version));
        let rows = [b"[", &whole[row], b"]"].concat();
        let columns = (columns, &self.text[columns.clone()]);
        Ok(self.replaced([(&self.metadata, metadata.as_bytes()), columns, (&self.items, &rows)]))
    }

    pub(super) fn assemble(&self, head: &ListHead, objects: &[Bytes]) -> Result<Vec<Bytes>, ListError> {
        if objects.is_empty() {
            return Ok(vec![self.text.clone()]);
        }
        let prefix = Layout::prefix(head);
        let mut pieces = Vec::with_capacity(2 * objects.len() + 2);
        pieces.push(self.text.slice(..self.items.start));
        for (i, whole) in objects.iter().enumerate() {
            let first = i == 0;
            if self.columns.is_some() {
                pieces.push(Bytes::from_static(if first { b"[" } else { b"," }));
                pieces.push(whole.slice(only_row(whole)?));
            } else if self.bare && whole.starts_with(prefix.as_bytes()) {
                pieces.push(Bytes::from_static(if first { b"[{" } else { b",{" }));
                pieces.push(whole.slice(prefix.len()..whole.trim_ascii_end().len()));
            } else {
                pieces.push(Bytes::from_static(if first { b"[" } else { b"," }));
                pieces.push(whole.slice(..whole.trim_ascii_end().len()));
            }
        }
        pieces.push(Bytes::from_static(b"]"));
        pieces.push(self.text.slice(self.items.end..));
        Ok(pieces)
    }
}
