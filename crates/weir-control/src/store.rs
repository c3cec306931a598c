//! Objects by key, with the indexes that translation asks by.
use crate::object::{Key, Kind, Object};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use weir_config::model::Name;

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Object>>,
    /// (kind, word) to the objects that [`Object::index_keys`] files under it.
    by_word: HashMap<(Kind, Name), BTreeSet<Key>>,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key { kind, namespace: "".into(), name: "".into() };
        self.objects.range(first..).take_while(move |(k, _)| k.kind == kind).map(|(_, o)| o)
    }

    pub fn by_word(&self, kind: Kind, word: &Name) -> impl Iterator<Item = &Arc<Object>> {
        self.by_word.get(&(kind, word.clone())).into_iter().flatten().filter_map(|k| self.objects.get(k))
    }

    /// Puts or removes an object; returns the one that stood there.
    pub fn set(&mut self, key: &Key, object: Option<Arc<Object>>) -> Option<Arc<Object>> {
        let old = match &object {
            Some(o) => self.objects.insert(key.clone(), o.clone()),
            None => self.objects.remove(key),
        };
        for word in old.iter().flat_map(|o| o.index_keys()) {
            let at = (key.kind, word);
            if let Some(keys) = self.by_word.get_mut(&at) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_word.remove(&at);
                }
            }
        }
        for word in object.iter().flat_map(|o| o.index_keys()) {
            self.by_word.entry((key.kind, word)).or_default().insert(key.clone());
        }
        old
    }
}
