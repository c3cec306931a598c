//! The databases: keys, their expiry, and the memory that they use.
use crate::{
    dict::Dict,
    reply::Refusal,
    value::{Kind, Value},
    weigh::Weigh,
};
use bytes::Bytes;
use std::collections::BTreeSet;

pub const DATABASES: usize = 16;

/// What a key costs apart from its name and value.
const ENTRY: usize = 48;

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    /// Unix time in milliseconds.
    expires: Option<u64>,
}

impl Weigh for Entry {
    fn weight(&self) -> usize {
        ENTRY + self.value.weight() + if self.expires.is_some() { ENTRY } else { 0 }
    }
}

/// All databases. Time stands still while a command runs: [`Store::tick`] moves it.
pub struct Store {
    databases: Vec<Dict<Entry>>,
    /// What ends next, first.
    expiry: BTreeSet<(u64, usize, Bytes)>,
    now: u64,
    pub max_memory: usize,
    pub expired: u64,
    pub refused: u64,
}

impl Store {
    pub fn new(max_memory: usize) -> Store {
        let databases = (0..DATABASES).map(|_| Dict::default()).collect();
        Store { databases, expiry: BTreeSet::new(), now: 0, max_memory, expired: 0, refused: 0 }
    }

    /// Moves the clock, and removes what has ended.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        while let Some((when, ..)) = self.expiry.first() {
            if *when > now {
                break;
            }
            let Some((_, database, key)) = self.expiry.pop_first() else { break };
            self.databases[database].remove(&key);
            self.expired += 1;
        }
    }

    /// When the next key ends.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiry.first().map(|(when, ..)| *when)
    }

    pub fn used_memory(&self) -> usize {
        self.databases.iter().map(Weigh::weight).sum()
    }

    pub fn keys(&self) -> usize {
        self.databases.iter().map(Dict::len).sum()
    }

    pub fn database(&mut self, number: usize) -> Database<'_> {
        Database { store: self, number: number.min(DATABASES - 1) }
    }

    /// Before a command that may need memory.
    pub fn room(&mut self) -> Result<(), Refusal> {
        if self.used_memory() < self.max_memory {
            return Ok(());
        }
        self.refused += 1;
        Err(Refusal::OutOfMemory)
    }

    pub fn flush(&mut self) {
        self.databases.iter_mut().for_each(|d| *d = Dict::default());
        self.expiry.clear();
    }
}

/// One database of the store.
pub struct Database<'a> {
    store: &'a mut Store,
    number: usize,
}

impl Database<'_> {
    fn dict(&self) -> &Dict<Entry> {
        &self.store.databases[self.number]
    }

    fn dict_mut(&mut self) -> &mut Dict<Entry> {
        &mut self.store.databases[self.number]
    }

    /// Unix time in milliseconds, as of the last tick.
    pub fn now(&self) -> u64 {
        self.store.now
    }

    pub fn len(&self) -> usize {
        self.dict().len()
    }

    pub fn other(&mut self, number: usize) -> Database<'_> {
        self.store.database(number)
    }

    pub fn max_bulk(&self) -> usize {
        self.store.max_memory.min(512 << 20)
    }

    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.dict().get(key).map(|e| &e.value)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.dict().contains(key)
    }

    /// The value as a type; an error where the key holds another.
    pub fn read<K: Kind>(&self, key: &[u8]) -> Result<Option<&K>, Refusal> {
        self.get(key).map(|v| K::of(v).ok_or(Refusal::WrongType)).transpose()
    }

    /// Changes what is there; `None` without the key. The key goes when nothing is left of the value.
    pub fn edit<K: Kind, R>(&mut self, key: &Bytes, edit: impl FnOnce(&mut K) -> Result<R, Refusal>) -> Result<Option<R>, Refusal> {
        let edited = self.dict_mut().edit(key, |entry| {
            let value = K::of_mut(&mut entry.value).ok_or(Refusal::WrongType)?;
            let result = edit(value);
            Ok((result, value.is_gone()))
        });
        let Some((result, gone)) = edited.transpose()? else { return Ok(None) };
        if gone {
            self.remove(key);
        }
        result.map(Some)
    }

    /// As [`Database::edit`], of a new value where there is none. A refusal leaves none behind.
    pub fn edit_or_new<K: Kind, R>(&mut self, key: &Bytes, edit: impl FnOnce(&mut K) -> Result<R, Refusal>) -> Result<R, Refusal> {
        if !self.contains(key) {
            let mut value = K::default();
            let result = edit(&mut value)?;
            if !value.is_gone() {
                self.put(key.clone(), value.wrap());
            }
            return Ok(result);
        }
        self.edit(key, edit)?.ok_or(Refusal::NoSuchKey)
    }

    /// The new value, without an end.
    pub fn put(&mut self, key: Bytes, value: Value) {
        self.forget_expiry(&key);
        self.dict_mut().insert(key, Entry { value, expires: None });
    }

    /// The new value; its end stays.
    pub fn replace(&mut self, key: Bytes, value: Value) {
        let expires = self.expires(&key).flatten();
        self.dict_mut().insert(key, Entry { value, expires });
    }

    pub fn remove(&mut self, key: &Bytes) -> Option<Value> {
        self.forget_expiry(key);
        self.dict_mut().remove(key).map(|e| e.value)
    }

    /// `None` without the key.
    pub fn expires(&self, key: &[u8]) -> Option<Option<u64>> {
        self.dict().get(key).map(|e| e.expires)
    }

    /// False without the key. An end that has passed removes it.
    pub fn expire(&mut self, key: &Bytes, when: Option<u64>) -> bool {
        if !self.contains(key) {
            return false;
        }
        if when.is_some_and(|w| w <= self.now()) {
            self.remove(key);
            return true;
        }
        self.forget_expiry(key);
        self.dict_mut().edit(key, |e| e.expires = when);
        if let Some(when) = when {
            self.store.expiry.insert((when, self.number, key.clone()));
        }
        true
    }

    fn forget_expiry(&mut self, key: &Bytes) {
        if let Some(Some(when)) = self.expires(key) {
            self.store.expiry.remove(&(when, self.number, key.clone()));
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.dict().keys()
    }

    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<(&Bytes, &Value)>) {
        let (next, seen) = self.dict().scan(cursor, count);
        (next, seen.into_iter().map(|(key, entry)| (key, &entry.value)).collect())
    }

    pub fn random(&self, random: u64) -> Option<&Bytes> {
        self.dict().random(random)
    }

    pub fn flush_all(&mut self) {
        self.store.flush();
    }

    pub fn flush(&mut self) {
        *self.dict_mut() = Dict::default();
        let number = self.number;
        self.store.expiry.retain(|(_, database, _)| *database != number);
    }
}
