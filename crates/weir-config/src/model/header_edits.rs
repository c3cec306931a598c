//! Edits of header fields.
use crate::recent::Recent;
use serde::{Serialize, Serializer};
use std::{
    cell::RefCell,
    ops::Deref,
    sync::{Arc, LazyLock},
};

/// Edits of a header map. Copies share the lists; a route without edits holds none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderEdits(Option<Arc<EditLists>>);

/// Applied in the order remove, set, add.
#[derive(Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct EditLists {
    pub remove: Box<[String]>,
    /// Overwrites. Values may hold Envoy's command operators.
    pub set: Box<[(String, String)]>,
    /// Appends to what is there.
    pub add: Box<[(String, String)]>,
}

impl HeaderEdits {
    pub fn new(remove: Vec<String>, set: Vec<(String, String)>, add: Vec<(String, String)>) -> HeaderEdits {
        thread_local! {
            static RECENT: RefCell<Recent<EditLists>> = const { RefCell::new(Recent::new()) };
        }
        let empty = remove.is_empty() && set.is_empty() && add.is_empty();
        let lists = || EditLists { remove: remove.into(), set: set.into(), add: add.into() };
        HeaderEdits((!empty).then(|| RECENT.with_borrow_mut(|recent| recent.share(lists()))))
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for HeaderEdits {
    type Target = EditLists;

    fn deref(&self) -> &EditLists {
        static NONE: LazyLock<EditLists> = LazyLock::new(EditLists::default);
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl Serialize for HeaderEdits {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        EditLists::serialize(self, s)
    }
}
