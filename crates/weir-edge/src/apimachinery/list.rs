//! Lists without schemas: a body is cut into its items, and put together again from objects.
//!
//! Three forms of one object pass on the wire. A GET and a watch carry it *whole*: with its kind, and in protobuf with its envelope. A
//! list carries it as an *item*: lists of built-in kinds leave out kind and version, protobuf the envelope. A Table carries it as a row.
//! The hub keeps whole objects, so that events and answers to GET are slices of what is kept, and lists are slices between separators.
mod json;
pub mod parts;
mod protobuf;

use bytes::Bytes;
use thiserror::Error;

use crate::apimachinery::json::JsonError;
use crate::apimachinery::media::Encoding;
use crate::apimachinery::object::{Object, ObjectError};
use crate::apimachinery::wire::WireError;

/// Most items of a list that is read.
pub const MAX_ITEMS: usize = 500_000;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ListError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("{kind:?} is not a list")]
    NotAList { kind: String },
    #[error("byte {at} of the list: an item without a name")]
    Unnamed { at: usize },
    #[error("byte {at} of the list: more than {MAX_ITEMS} items")]
    TooMany { at: usize },
    #[error("byte {at} of the list: a part of more than {max} bytes")]
    TooLong { at: usize, max: usize },
    #[error("byte {at} of the list: it ends in the middle")]
    Truncated { at: usize },
    #[error("a Table without column definitions")]
    NoColumns,
    #[error("an object of another form than the list")]
    Form,
}

impl From<JsonError> for ListError {
    fn from(error: JsonError) -> ListError {
        ListError::Object(error.into())
    }
}

impl From<WireError> for ListError {
    fn from(error: WireError) -> ListError {
        ListError::Object(error.into())
    }
}

#[derive(Clone, Debug)]
pub struct List {
    pub head: ListHead,
    /// Slices of the body, as items. Their kind is empty where they do not say it.
    pub items: Vec<Object>,
}

/// A list without its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListHead {
    pub api_version: String,
    /// `PodList`, `Table`, …
    pub kind: String,
    pub resource_version: String,
    /// Not empty: there are more pages.
    pub continue_token: String,
    /// Items on later pages, if the API server knows it.
    pub remaining: Option<i64>,
    layout: Layout,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    Json(json::Layout),
    Protobuf(protobuf::Layout),
}

/// What the readers of the encodings find in a list's metadata.
#[derive(Debug, Default)]
struct Found {
    api_version: String,
    kind: String,
    resource_version: String,
    continue_token: String,
    remaining: Option<i64>,
}

impl Found {
    fn into_head(self, layout: Layout) -> ListHead {
        let Found { api_version, kind, resource_version, continue_token, remaining } = self;
        ListHead { api_version, kind, resource_version, continue_token, remaining, layout }
    }
}

impl List {
    /// Cuts the body of a list or a Table.
    pub fn split(body: &Bytes, encoding: Encoding) -> Result<List, ListError> {
        match encoding {
            Encoding::Json => json::split(body),
            Encoding::Protobuf => protobuf::split(body),
            Encoding::Cbor | Encoding::Yaml => Err(ObjectError::Encoding(encoding).into()),
        }
    }
}

impl ListHead {
    /// The head of a list of objects that came by a watch only, with one of them or a bookmark as the model. Of Tables, only the first
    /// event of a watch is one: it has the columns.
    pub fn of_objects(model: &Object, resource_version: &str) -> Result<ListHead, ListError> {
        match model.encoding() {
            Encoding::Json => json::of_objects(model, resource_version),
            Encoding::Protobuf => protobuf::empty(&model.api_version, &format!("{}List", model.kind), resource_version),
            encoding => Err(ObjectError::Encoding(encoding).into()),
        }
    }

    pub fn encoding(&self) -> Encoding {
        match &self.layout {
            Layout::Json(_) => Encoding::Json,
            Layout::Protobuf(_) => Encoding::Protobuf,
        }
    }

    /// The kind of the items: `Pod` of a PodList.
    pub fn item_kind(&self) -> &str {
        self.kind.strip_suffix("List").unwrap_or(&self.kind)
    }

    pub fn is_table(&self) -> bool {
        matches!(&self.layout, Layout::Json(layout) if layout.is_table())
    }

    /// Reads an item of a list, or a row of a Table.
    pub fn item(bytes: Bytes, encoding: Encoding, of_table: bool) -> Result<Object, ListError> {
        match of_table {
            true => json::row(bytes),
            false => Ok(Object::read_item(bytes, encoding, "", "")?),
        }
    }

    /// The head in a form to be kept; [`ListHead::load`] reads it.
    pub fn save(&self) -> Bytes {
        match &self.layout {
            Layout::Json(layout) => layout.save(),
            Layout::Protobuf(layout) => layout.save(&self.api_version, &self.kind),
        }
    }

    pub fn load(saved: &Bytes) -> Result<ListHead, ListError> {
        match saved.first() {
            Some(&protobuf::SAVED) => Ok(protobuf::split(&saved.slice(1..))?.head),
            _ => json::load(saved),
        }
    }

    /// The head of the complete list at another resource version: one page.
    pub fn at_version(&self, resource_version: &str) -> Result<ListHead, ListError> {
        match &self.layout {
            Layout::Json(layout) => layout.at_version(resource_version),
            Layout::Protobuf(_) => protobuf::empty(&self.api_version, &self.kind, resource_version),
        }
    }

    /// Makes an item of the list a whole object, as GET answers it and watches carry it.
    pub fn whole(&self, item: &Object) -> Bytes {
        match &self.layout {
            Layout::Json(layout) => layout.whole(self, item),
            Layout::Protobuf(_) => crate::apimachinery::object::Envelope::wrap(&self.api_version, self.item_kind(), item.bytes()),
        }
    }

    /// The object of an event as it is kept: the Table of the first event of a watch without its columns, all others as they are.
    pub fn without_columns(&self, object: &Object) -> Result<Bytes, ListError> {
        match &self.layout {
            Layout::Json(layout) => layout.without_columns(self, object),
            Layout::Protobuf(_) => Ok(object.bytes().clone()),
        }
    }

    /// A kept object as the first event of a watch carries it, and as GET answers it: a Table with its columns, all others as they are.
    pub fn with_columns(&self, whole: &Bytes) -> Result<Bytes, ListError> {
        match &self.layout {
            Layout::Json(layout) => layout.with_columns(whole),
            Layout::Protobuf(_) => Ok(whole.clone()),
        }
    }

    /// The pieces of a list of whole objects. The objects are not copied.
    pub fn assemble(&self, objects: &[Bytes]) -> Result<Vec<Bytes>, ListError> {
        match &self.layout {
            Layout::Json(layout) => layout.assemble(self, objects),
            Layout::Protobuf(layout) => layout.assemble(&self.api_version, &self.kind, objects),
        }
    }
}

#[cfg(test)]
mod tests;
