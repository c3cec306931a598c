//! Objects by key, with the indexes that translation asks by.
use crate::{
    dense,
    object::{Key, Kind, Object},
};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

#[derive(Default)]
pub struct Store {
    objects: BTreeSet<ByKey>,
    /// By the fingerprint of kind and word, the objects that [`Object::index_keys`] files under it, in the order of their keys.
    by_word: BTreeMap<(Word, Key), Arc<Object>>,
    fingerprints: RandomState,
}

/// An object, in the order of the keys.
struct ByKey(Arc<Object>);

impl Borrow<Key> for ByKey {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &ByKey) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &ByKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

/// The fingerprint of a word and its kind. There are as many as there are objects, and most have one: a text for each would take more
/// than the object's entry. Two of a million share one with a probability of 1 in 37 million.
type Word = u64;

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key).map(|found| &found.0)
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key::new(kind, "", "");
        self.objects.range(first..).map(|found| &found.0).take_while(move |o| o.key.kind == kind)
    }

    pub fn by_word(&self, kind: Kind, word: &str) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let word = self.word(kind, word);
        let first = Key::new(kind, "", "");
        self.by_word.range((word, first)..).take_while(move |((w, _), _)| *w == word).map(|(_, object)| object)
    }

    /// Puts or removes an object; returns the one that was there.
    pub fn set(&mut self, key: &Key, object: Option<Arc<Object>>) -> Option<Arc<Object>> {
        let old = match &object {
            Some(o) => self.objects.replace(ByKey(o.clone())),
            None => self.objects.take(key),
        };
        let old = old.map(|found| found.0);
        for word in old.iter().flat_map(|o| o.index_keys()) {
            self.by_word.remove(&(self.word(key.kind, &word), key.clone()));
        }
        if let Some(object) = object {
            for word in object.index_keys() {
                self.by_word.insert((self.word(key.kind, &word), key.clone()), object.clone());
            }
        }
        old
    }

    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// After many changes.
    pub fn pack(&mut self) {
        dense::pack(&mut self.objects);
        dense::pack(&mut self.by_word);
    }

    fn word(&self, kind: Kind, word: &str) -> Word {
        self.fingerprints.hash_one((kind, word))
    }
}
