//! A list on its way into the store, item by item: nobody holds all of it. A list in which nothing is new changes only the head of its set.
use super::{
    Cache,
    head::{Head, seconds},
    watchers::Changed,
};
use crate::{
    apimachinery::{
        event::EventKind,
        list::{
            ListError, ListHead,
            parts::{Part, Parts},
        },
        media::{Encoding, MediaType, Shape},
    },
    store::{ObjectName, ReadError, Replacement, WriteError},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

/// Why a list is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotListed {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("an object of the list has no name")]
    Unnamed,
    #[error("the list is a {0}, which was not asked for")]
    Kind(String),
    /// A watch has changed what the list has as it was.
    #[error("{0} was changed while its list came")]
    Overtaken(ObjectName),
    /// Another hub gave something older than what is kept.
    #[error("the list is older than what is kept")]
    Behind,
}

/// All pages of a list. It does not hold the cache, which holds those that wait for their next page.
pub(super) struct Listed {
    pub set: String,
    /// Items that are kept as they are, with their digests, until one comes that is not.
    same: BTreeMap<ObjectName, u64>,
    replacement: Option<Replacement>,
    changes: Option<Changes>,
}

/// What the list changes, for those who watch the set.
#[derive(Default)]
struct Changes {
    found: Vec<(EventKind, Bytes, Option<Bytes>)>,
    names: HashSet<ObjectName>,
}

/// One page of a list.
pub(super) struct Page {
    parts: Parts,
    encoding: Encoding,
    /// The list, as far as it is known when its first item comes.
    head: Option<Option<ListHead>>,
}

impl Page {
    pub fn new(encoding: Encoding) -> Result<Page, ListError> {
        Ok(Page { parts: Parts::new(encoding)?, encoding, head: None })
    }

    /// Reads what comes into a list.
    pub fn push(&mut self, piece: Bytes, cache: &Cache, listed: &mut Listed) -> Result<(), NotListed> {
        self.parts.push(piece);
        while let Some(part) = self.parts.next()? {
            let Part::Item(item) = part else { continue };
            let of_table = self.head.is_none() && self.parts.head().is_ok_and(|head| head.is_table())
                || self.head.as_ref().is_some_and(|head| head.as_ref().is_some_and(ListHead::is_table));
            let object = ListHead::item(item, self.encoding, of_table)?;
            if object.meta.name.is_empty() {
                return Err(NotListed::Unnamed);
            }
            self.parts.saw_kind(!object.kind.is_empty());
            // Where the head of the list stands behind its items, these say their own kind.
            let whole = match self.head.get_or_insert_with(|| self.parts.head().ok()) {
                Some(head) => head.whole(&object),
                None if object.kind.is_empty() => return Err(ListError::Form.into()),
                None => object.bytes().clone(),
            };
            listed.item(cache, ObjectName { namespace: object.meta.namespace, name: object.meta.name }, &whole)?;
        }
        Ok(())
    }

    /// The page has ended. What it is must be what was asked for.
    pub fn finish(&self, media: MediaType) -> Result<ListHead, NotListed> {
        let head = self.parts.finish()?;
        match head.is_table() == matches!(media.shape, Shape::Table { .. }) {
            true => Ok(head),
            false => Err(NotListed::Kind(head.kind)),
        }
    }
}

impl Listed {
    pub fn new(cache: &Cache, set: String) -> Listed {
        let told = cache.watchers.remembers(&set) && cache.store.is_complete(&set);
        Listed { set, same: BTreeMap::new(), replacement: None, changes: told.then(Changes::default) }
    }

    fn item(&mut self, cache: &Cache, name: ObjectName, whole: &Bytes) -> Result<(), NotListed> {
        let store = &cache.store;
        let digest = store.digest(whole);
        let is_kept = store.holds(&self.set, &name, digest);
        if let Some(changes) = &mut self.changes {
            if !is_kept {
                let before = store.get(&self.set, &name)?;
                let kind = if before.is_some() { EventKind::Modified } else { EventKind::Added };
                if before.as_ref() != Some(whole) {
                    // A copy: what is remembered does not hold the piece that it came with.
                    changes.found.push((kind, Bytes::copy_from_slice(whole), before));
                }
            }
            changes.names.insert(name.clone());
        }
        if is_kept && self.replacement.is_none() {
            self.same.insert(name, digest);
            return Ok(());
        }
        Ok(self.replacement(cache)?.add(&name, whole)?)
    }

    /// The list that is written. What was the same so far is added first.
    fn replacement(&mut self, cache: &Cache) -> Result<&mut Replacement, NotListed> {
        let replacement = match self.replacement.take() {
            Some(replacement) => replacement,
            None => {
                let store = &cache.store;
                let mut replacement = store.begin_replace(&self.set)?;
                for (name, digest) in std::mem::take(&mut self.same) {
                    match store.get(&self.set, &name)?.filter(|value| store.digest(value) == digest) {
                        Some(value) => replacement.add(&name, &value)?,
                        None => return Err(NotListed::Overtaken(name)),
                    }
                }
                replacement
            }
        };
        Ok(self.replacement.insert(replacement))
    }

    /// The list is complete. `of_peer`: another hub has given it; it must not be older than what is kept.
    pub fn commit(mut self, cache: &Cache, list: &ListHead, of_peer: bool) -> Result<(), NotListed> {
        let head = Head::of_list(list, seconds(SystemTime::now()));
        let set = self.set.clone();
        if of_peer && cache.head(&set).is_some_and(|kept| head.number() < kept.number()) {
            return Err(NotListed::Behind);
        }
        let gone = match &self.changes {
            None => Vec::new(),
            Some(changes) => {
                let gone = cache.store.names(&set).into_iter().filter(|name| !changes.names.contains(name));
                gone.filter_map(|name| cache.store.get(&set, &name).transpose()).collect::<Result<Vec<_>, _>>()?
            }
        };
        match self.replacement.is_none() && cache.store.is(&set, &self.same) {
            true => cache.store.set_head(&set, &head.to_bytes())?,
            false => {
                self.replacement(cache)?;
                self.replacement.take().map_or(Ok(()), |replacement| replacement.commit(&head.to_bytes()))?;
            }
        }
        let Some(version) = head.number() else { return Ok(()) };
        if let Some(changes) = self.changes.take() {
            let gone = gone.into_iter().map(|object| (EventKind::Deleted, object.clone(), Some(object)));
            for (kind, object, before) in gone.chain(changes.found) {
                cache.watchers.tell(&set, || Changed { kind, object, before, version: Some(version) });
            }
        }
        cache.watchers.replaced(&set, version);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
