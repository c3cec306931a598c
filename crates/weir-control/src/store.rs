//! Objects by key, with the indexes that translation asks by.
use crate::{
    dense,
    object::{Key, Kind, Object},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use weir_config::model::Name;

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Object>>,
    /// By kind and word, the objects that [`Object::index_keys`] files under it, in the order of their keys.
    by_word: HashMap<Kind, HashMap<Name, Filed>>,
}

/// Objects under one word: mostly one.
enum Filed {
    One(Arc<Object>),
    // Few words have more than one.
    #[allow(clippy::box_collection)]
    More(Box<BTreeMap<Key, Arc<Object>>>),
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key::new(kind, "", "");
        self.objects.range(first..).take_while(move |(k, _)| k.kind == kind).map(|(_, o)| o)
    }

    pub fn by_word(&self, kind: Kind, word: &str) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let (one, more) = match self.by_word.get(&kind).and_then(|words| words.get(word)) {
            None => (None, None),
            Some(Filed::One(object)) => (Some(object), None),
            Some(Filed::More(all)) => (None, Some(&**all)),
        };
        one.into_iter().chain(more.into_iter().flat_map(BTreeMap::values))
    }

    /// Puts or removes an object; returns the one that was there.
    pub fn set(&mut self, key: &Key, object: Option<Arc<Object>>) -> Option<Arc<Object>> {
        let old = match &object {
            Some(o) => self.objects.insert(key.clone(), o.clone()),
            None => self.objects.remove(key),
        };
        for word in old.iter().flat_map(|o| o.index_keys()) {
            self.take_out(&word, key);
        }
        if let Some(object) = object {
            for word in object.index_keys() {
                self.file(word, &object);
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
    }

    fn file(&mut self, word: Name, object: &Arc<Object>) {
        let words = self.by_word.entry(object.key.kind).or_default();
        match words.get_mut(&word) {
            None => _ = words.insert(word, Filed::One(object.clone())),
            Some(Filed::More(all)) => _ = all.insert(object.key.clone(), object.clone()),
            Some(filed) => {
                let Filed::One(other) = filed else { return };
                if other.key == object.key {
                    *other = object.clone();
                } else {
                    let both = [other, object].map(|o| (o.key.clone(), o.clone()));
                    *filed = Filed::More(Box::new(both.into()));
                }
            }
        }
    }

    fn take_out(&mut self, word: &Name, key: &Key) {
        let Some(words) = self.by_word.get_mut(&key.kind) else { return };
        let empty = match words.get_mut(word) {
            None => false,
            Some(Filed::One(object)) => object.key == *key,
            Some(Filed::More(all)) => {
                all.remove(key);
                all.is_empty()
            }
        };
        if empty {
            words.remove(word);
        }
    }
}
