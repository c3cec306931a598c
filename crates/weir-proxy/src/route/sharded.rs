//! A map that shares what did not change with its copies: the entries are spread over shards by their hash, a copy of the map copies
//! the pointers of its shards only, and a change copies the one shard that it falls into.
use super::index::Fast;
use hashbrown::HashTable;
use std::{hash::Hasher, sync::Arc};

/// Entries of a shard, on average, before the number of shards grows.
const FULL: usize = 256;
/// By how much it grows: shards stay about as long as there are many, so that a change costs about the square root of the size.
const GROWTH: usize = 4;

#[derive(Clone)]
pub struct Sharded<V> {
    /// A power of two; empty while the map is.
    shards: Vec<Arc<HashTable<Entry<V>>>>,
    len: usize,
}

#[derive(Clone)]
struct Entry<V> {
    key: Arc<[u8]>,
    value: V,
}

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        Sharded { shards: Vec::new(), len: 0 }
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = Fast::default();
    hasher.write(key);
    hasher.finish()
}

/// The shard of a hash. The table within the shard takes its bucket from the low bits and its tag from the highest.
fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 32) as usize & shards.wrapping_sub(1)
}

impl<V: Clone> Sharded<V> {
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        let hash = hash(key);
        let shard = self.shards.get(shard_of(hash, self.shards.len()))?;
        shard.find(hash, |e| *e.key == *key).map(|e| &e.value)
    }

    pub fn insert(&mut self, key: Arc<[u8]>, value: V) {
        if self.len >= self.shards.len() * FULL {
            self.grow();
        }
        let hash = hash(&key);
        let at = shard_of(hash, self.shards.len());
        let shard = Arc::make_mut(&mut self.shards[at]);
        match shard.find_mut(hash, |e| *e.key == *key) {
            Some(entry) => entry.value = value,
            None => {
                shard.insert_unique(hash, Entry { key, value }, |e| self::hash(&e.key));
                self.len += 1;
            }
        }
    }

    pub fn remove(&mut self, key: &[u8]) {
        let hash = hash(key);
        let at = shard_of(hash, self.shards.len());
        let Some(shard) = self.shards.get_mut(at) else { return };
        if shard.find(hash, |e| *e.key == *key).is_none() {
            return;
        }
        if let Ok(entry) = Arc::make_mut(shard).find_entry(hash, |e| *e.key == *key) {
            entry.remove();
            self.len -= 1;
        }
        if self.len == 0 {
            self.shards = Vec::new();
        }
    }

    fn grow(&mut self) {
        let count = (self.shards.len() * GROWTH).max(1);
        let mut shards: Vec<HashTable<Entry<V>>> = (0..count).map(|_| HashTable::new()).collect();
        for entry in self.shards.iter().flat_map(|s| s.iter()) {
            let hash = hash(&entry.key);
            shards[shard_of(hash, count)].insert_unique(hash, entry.clone(), |e| self::hash(&e.key));
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Random;
    use std::collections::HashMap;

    #[test]
    fn it_is_a_map_and_copies_stay_as_they_were() {
        let (mut random, mut map, mut expected) = (Random::new(7), Sharded::default(), HashMap::new());
        let mut copies = Vec::new();
        for step in 0..20_000u64 {
            let key = format!("host-{}.test", random.next() % 3000).into_bytes();
            if random.next().is_multiple_of(3) {
                map.remove(&key);
                expected.remove(&key);
            } else {
                map.insert(key.as_slice().into(), step);
                expected.insert(key, step);
            }
            if step % 5000 == 0 {
                copies.push((map.clone(), expected.clone()));
            }
        }
        copies.push((map, expected));
        for (map, expected) in copies {
            assert_eq!(map.len, expected.len());
            for n in 0..3000 {
                let key = format!("host-{n}.test").into_bytes();
                assert_eq!(map.get(&key), expected.get(&key));
            }
        }
        assert_eq!(Sharded::<u8>::default().get(b"a"), None);
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map = Sharded::default();
        for n in 0..50_000u32 {
            map.insert(format!("host-{n}.test").as_bytes().into(), n);
        }
        let before = map.clone();
        map.insert(b"host-7.test"[..].into(), 8);
        let copied: Vec<_> = before.shards.iter().zip(&map.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).map(|(a, _)| a.len()).collect();
        assert!(copied.len() == 1 && copied[0] < 2 * FULL, "{copied:?} of {}", before.shards.len());
        assert!(map.shards.iter().all(|s| s.len() < 2 * FULL), "the shards are even");
    }
}
