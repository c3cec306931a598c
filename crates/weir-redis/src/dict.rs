//! A map that keeps the order of insertion and can be walked with a cursor.
use crate::weigh::Weigh;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

/// Each entry has a number that grows with insertion. A cursor is such a number: what is there during the whole walk is seen once.
#[derive(Clone, Debug)]
pub struct Dict<V> {
    entries: HashMap<Bytes, (u64, V)>,
    order: BTreeMap<u64, Bytes>,
    next: u64,
    bytes: usize,
}

impl<V> Default for Dict<V> {
    fn default() -> Self {
        Dict { entries: HashMap::new(), order: BTreeMap::new(), next: 1, bytes: 0 }
    }
}

/// What an entry costs apart from its key and value.
const OVERHEAD: usize = 96;

impl<V: Weigh> Dict<V> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    /// Changes a value in place.
    pub fn edit<R>(&mut self, key: &[u8], edit: impl FnOnce(&mut V) -> R) -> Option<R> {
        let (_, value) = self.entries.get_mut(key)?;
        let before = value.weight();
        let result = edit(value);
        self.bytes = self.bytes - before + value.weight();
        Some(result)
    }

    /// An entry keeps its place when its value is replaced.
    pub fn insert(&mut self, key: Bytes, value: V) -> Option<V> {
        if let Some((_, known)) = self.entries.get_mut(&key) {
            self.bytes = self.bytes - known.weight() + value.weight();
            return Some(std::mem::replace(known, value));
        }
        self.bytes += OVERHEAD + key.len() + value.weight();
        self.order.insert(self.next, key.clone());
        self.entries.insert(key, (self.next, value));
        self.next += 1;
        None
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let (number, value) = self.entries.remove(key)?;
        self.order.remove(&number);
        self.bytes -= OVERHEAD + key.len() + value.weight();
        Some(value)
    }

    /// In the order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &V)> {
        self.order.values().filter_map(|key| Some((key, &self.entries.get(key)?.1)))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.order.values()
    }

    /// Up to `count` entries from the cursor on, and the next cursor: 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<(&Bytes, &V)>) {
        let mut walk = self.order.range((Bound::Included(cursor), Bound::Unbounded));
        let seen = walk.by_ref().take(count).filter_map(|(_, key)| Some((key, &self.entries.get(key)?.1))).collect();
        (walk.next().map_or(0, |(number, _)| *number), seen)
    }

    /// Some entry, by a random number: of equal chance where nothing was removed.
    pub fn random(&self, random: u64) -> Option<&Bytes> {
        let (first, last) = (*self.order.first_key_value()?.0, *self.order.last_key_value()?.0);
        let at = first + random % (last - first + 1);
        self.order.range(at..).next().map(|(_, key)| key)
    }
}

impl<V: Weigh> Weigh for Dict<V> {
    fn weight(&self) -> usize {
        self.bytes
    }
}
