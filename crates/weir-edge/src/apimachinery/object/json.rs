//! Metadata of objects in JSON, whatever the order of their fields.
use std::collections::BTreeMap;
use std::ops::Range;

use super::{Found, Map, Meta, ObjectError, OwnerReference, bounded, time};
use crate::apimachinery::json::{Cursor, JsonError};

/// Reads an object that fills the buffer.
pub(super) fn whole(bytes: &[u8]) -> Result<Found, ObjectError> {
    let mut cursor = Cursor::new(bytes)?;
    let found = event_object(&mut cursor)?;
    cursor.end()?;
    Ok(found)
}

/// Reads an object at the cursor as watches carry it: a Table of one row is about the object of the row.
pub(crate) fn event_object(cursor: &mut Cursor<'_>) -> Result<Found, ObjectError> {
    let mut start = cursor.clone();
    let found = object(cursor)?;
    if !is_table(&found.kind, &found.api_version) {
        return Ok(found);
    }
    let (mut rows, mut of_row) = (0, Found::default());
    start.object(|name, cursor| match name {
        "rows" if cursor.null()? => Ok::<_, ObjectError>(()),
        "rows" => cursor.array(|cursor| {
            rows += 1;
            of_row = row(cursor)?;
            Ok(())
        }),
        _ => {
            cursor.skip()?;
            Ok(())
        }
    })?;
    Ok(match rows {
        1 if !of_row.metadata.is_empty() => Found { api_version: found.api_version, kind: found.kind, ..of_row },
        _ => found,
    })
}

pub(crate) fn is_table(kind: &str, api_version: &str) -> bool {
    kind == "Table" && api_version.starts_with("meta.k8s.io/")
}

/// Reads a row of a Table: the object that it is about. Clients may ask for rows without objects.
pub(crate) fn row(cursor: &mut Cursor<'_>) -> Result<Found, ObjectError> {
    let mut found = Found::default();
    cursor.object(|name, cursor| {
        match name {
            "object" if cursor.null()? => {}
            "object" => found = object(cursor)?,
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, ObjectError>(())
    })?;
    Ok(found)
}

/// Reads an object at the cursor. Places are those in the cursor's text.
pub(crate) fn object(cursor: &mut Cursor<'_>) -> Result<Found, ObjectError> {
    let mut found = Found::default();
    cursor.object(|name, cursor| {
        match name {
            "apiVersion" => once(&mut found.api_version, cursor)?,
            "kind" => once(&mut found.kind, cursor)?,
            "metadata" => {
                if !found.metadata.is_empty() {
                    return Err(JsonError::Duplicate { at: cursor.at() }.into());
                }
                (found.meta, found.metadata) = meta(cursor)?;
            }
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, ObjectError>(())
    })?;
    Ok(found)
}

/// Reads a string into a field that has none yet.
pub(crate) fn once(field: &mut String, cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
    let at = cursor.at();
    let value = cursor.text()?;
    if !field.is_empty() {
        return Err(JsonError::Duplicate { at });
    }
    *field = value;
    Ok(())
}

fn meta(cursor: &mut Cursor<'_>) -> Result<(Meta, Range<usize>), ObjectError> {
    let mut meta = Meta::default();
    if cursor.null()? {
        return Ok((meta, 0..0));
    }
    let start = cursor.at();
    cursor.object(|name, cursor| {
        match name {
            "namespace" => once(&mut meta.namespace, cursor)?,
            "name" => once(&mut meta.name, cursor)?,
            "uid" => once(&mut meta.uid, cursor)?,
            "resourceVersion" => once(&mut meta.resource_version, cursor)?,
            "generation" => meta.generation = cursor.integer()?,
            "deletionTimestamp" => {
                cursor.peek()?;
                let at = cursor.at();
                let text = cursor.text()?;
                meta.deletion_timestamp = match text.as_str() {
                    "" => None,
                    text => Some(time::seconds(text).ok_or(ObjectError::Time { at })?),
                };
            }
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, ObjectError>(())
    })?;
    Ok((meta, start..cursor.at()))
}

/// Calls `each` with a field of the metadata, unless it is null.
fn field(metadata: &[u8], wanted: &str, mut each: impl FnMut(&mut Cursor<'_>) -> Result<(), ObjectError>) -> Result<(), ObjectError> {
    Cursor::new(metadata)?.object(|name, cursor| {
        if name != wanted {
            cursor.skip()?;
        } else if !cursor.null()? {
            each(cursor)?;
        }
        Ok(())
    })
}

pub(super) fn map(metadata: &[u8], map: Map) -> Result<BTreeMap<String, String>, ObjectError> {
    let name = match map {
        Map::Labels => "labels",
        Map::Annotations => "annotations",
    };
    let mut entries = BTreeMap::new();
    field(metadata, name, |cursor| {
        cursor.object(|key, cursor| {
            bounded(entries.len(), cursor.at())?;
            entries.insert(key.to_string(), cursor.text()?);
            Ok(())
        })
    })?;
    Ok(entries)
}

pub(super) fn owners(metadata: &[u8]) -> Result<Vec<OwnerReference>, ObjectError> {
    let mut owners = Vec::new();
    field(metadata, "ownerReferences", |cursor| {
        cursor.array(|cursor| {
            bounded(owners.len(), cursor.at())?;
            owners.push(owner(cursor)?);
            Ok(())
        })
    })?;
    Ok(owners)
}

fn owner(cursor: &mut Cursor<'_>) -> Result<OwnerReference, JsonError> {
    let mut owner = OwnerReference::default();
    cursor.object(|name, cursor| {
        match name {
            "apiVersion" => once(&mut owner.api_version, cursor)?,
            "kind" => once(&mut owner.kind, cursor)?,
            "name" => once(&mut owner.name, cursor)?,
            "uid" => once(&mut owner.uid, cursor)?,
            "controller" => owner.controller = cursor.boolean()?,
            _ => {
                cursor.skip()?;
            }
        }
        Ok::<_, JsonError>(())
    })?;
    Ok(owner)
}
