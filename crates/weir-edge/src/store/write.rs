//! Changes of sets: room, the record, and the sync that follows.
use super::{
    StoreStats, WriteError,
    log::{Log, Value},
    record::{HEAD, MAX_HEAD, Meta},
};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// How often a write to a full disk is tried.
const MAX_TRIES: u32 = 4;

impl Log {
    /// One change of a set, which begins if there is none.
    pub fn write(&self, set: &str, meta: Meta, value: Option<Value<'_>>) -> Result<(), WriteError> {
        self.with_room(set, value.map_or(0, |value| value.bytes.len()), || {
            let mut writer = self.writer();
            let id = self.define(&mut writer, set)?;
            self.append(&mut writer, id, meta.clone(), value).map(|loc| u64::from(loc.len))
        })
    }

    pub fn begin(&self, set: &str) -> Result<u64, WriteError> {
        let mut begin = 0;
        self.with_room(set, 0, || {
            let mut writer = self.writer();
            let id = self.define(&mut writer, set)?;
            let loc = self.append(&mut writer, id, Meta::Begin, None)?;
            begin = writer.seq;
            Ok(u64::from(loc.len))
        })?;
        Ok(begin)
    }

    pub fn add(&self, begin: u64, value: Value<'_>) -> Result<(), WriteError> {
        self.with_room(value.set, value.bytes.len(), || {
            let mut writer = self.writer();
            let (id, _) = self.pending(begin)?;
            self.append(&mut writer, id, Meta::Item { begin, key: value.key.into() }, Some(value)).map(|loc| u64::from(loc.len))
        })
    }

    pub fn commit(&self, set: &str, begin: u64, head: Bytes) -> Result<(), WriteError> {
        self.with_room(set, 0, || {
            let mut writer = self.writer();
            let (id, count) = self.pending(begin)?;
            let meta = Meta::Commit { begin, count, head: head.clone() };
            let loc = self.append(&mut writer, id, meta, None)?;
            self.learn(&mut writer, id);
            Ok(u64::from(loc.len))
        })
    }

    /// The set of a list that is being written, and how many objects it has.
    fn pending(&self, begin: u64) -> Result<(u32, u64), WriteError> {
        let index = self.index();
        let pending = index.pending.get(&begin).ok_or(WriteError::Dropped)?;
        Ok((pending.set, pending.objects.len() as u64))
    }

    fn with_room(&self, set: &str, value: usize, mut write: impl FnMut() -> Result<u64, WriteError>) -> Result<(), WriteError> {
        let policy = (self.options.policy)(set);
        let len = (HEAD + MAX_HEAD.min(4096) + value) as u64;
        let mut tries = 1;
        let written = loop {
            // Cleaning writes as well, and the disk may give the room of a removed file back a moment later: another thread still has it open.
            match self.make_room(len, policy.priority).and_then(|()| write()) {
                Err(e) if e.is_full_disk() && tries < MAX_TRIES => match self.make_room_on_disk(len, policy.priority) {
                    Err(e) if !e.is_full_disk() => return Err(e),
                    _ => tries += 1,
                },
                written => break written?,
            }
        };
        if policy.synced {
            self.sync_soon(written);
        }
        Ok(())
    }

    pub fn read_stats(&self) -> StoreStats {
        let seq = self.writer().seq;
        let mut stats = StoreStats { quota: self.options.quota, encrypted: self.format.cipher.encrypts(), ..StoreStats::default() };
        self.stats.fill(&mut stats);
        stats.unsynced_records = seq.saturating_sub(self.durable.load(Ordering::Acquire));
        let index = self.index();
        stats.sets = index.sets.len();
        stats.objects = index.sets.values().map(|set| set.objects.len()).sum();
        stats.damaged_sets = index.sets.values().filter(|set| !set.readable()).count();
        stats.segments = index.segments.len();
        (stats.bytes, stats.live_bytes) = (index.total(), index.live());
        stats
    }
}
