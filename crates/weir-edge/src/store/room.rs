//! Room for what is to be written: cleaning first, and then eviction of sets of less importance. A full disk is a smaller quota; a file
//! that is held in reserve then makes the room that cleaning needs to begin.
use super::{Priority, WriteError, hint, log::Log, record::Meta};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    sync::{PoisonError, atomic::Ordering},
};

const RESERVE: &str = "reserve";

impl Log {
    /// Makes room for a record of a set of this priority, or says that there is none.
    pub fn make_room(&self, len: u64, priority: Priority) -> Result<(), WriteError> {
        // Each segment that is there now is cleaned once at most before something must go.
        let mut cleanings = self.index().segments.len();
        loop {
            let (total, live) = {
                let index = self.index();
                (index.total(), index.live())
            };
            let limit = self.limit(total + len);
            if total + len <= limit {
                return Ok(());
            }
            // The segment that is written next, and what cleaning one of them carries over.
            let slack = 2 * u64::from(self.options.segment_size);
            if live + len + slack <= limit && cleanings > 0 {
                cleanings -= 1;
                self.clean_oldest()?;
                continue;
            }
            if !self.evict(priority)? {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                return Err(WriteError::Full { needed: len, limit });
            }
            cleanings = self.index().segments.len();
        }
    }

    /// Makes room on a disk that is full.
    pub fn make_room_on_disk(&self, len: u64, priority: Priority) -> Result<(), WriteError> {
        let _one = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = fs::remove_file(self.folder.join(RESERVE));
        self.limit.store(self.index().total(), Ordering::Relaxed);
        self.remove_hints();
        let made = self.make_room(len + self.reserve_size(), priority);
        self.reserve();
        made
    }

    /// Hints only save time when the store is opened; cleaning needs their room more. They are written again once the disk has room.
    fn remove_hints(&self) {
        for info in self.index_mut().segments.values_mut().filter(|info| info.hinted) {
            let _ = fs::remove_file(hint::path(&info.file));
            info.hinted = false;
        }
    }

    /// Whether the disk was full and has no more room since.
    pub fn disk_is_full(&self) -> bool {
        self.limit.load(Ordering::Relaxed) != self.options.quota
    }

    /// Takes a part of the disk that cleaning can use when the rest is full. Without it a full disk stays full.
    pub fn reserve(&self) {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.folder.join(RESERVE));
        let kept = file.and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, self.reserve_size()).map_err(io::Error::from)
        });
        if kept.is_err() {
            let _ = fs::remove_file(self.folder.join(RESERVE));
        }
    }

    fn reserve_size(&self) -> u64 {
        2 * u64::from(self.options.segment_size)
    }

    /// The quota, unless the disk was full and has no more room since.
    fn limit(&self, wanted: u64) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        if wanted <= limit || limit == self.options.quota {
            return limit;
        }
        let room = rustix::fs::statvfs(&self.folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if room < 2 * self.reserve_size() {
            return limit;
        }
        self.limit.store(self.options.quota, Ordering::Relaxed);
        self.reserve();
        self.options.quota
    }

    /// Drops the least important set; of several, the one that changed longest ago. `false`: all are as important as the writer's.
    fn evict(&self, priority: Priority) -> Result<bool, WriteError> {
        let mut writer = self.writer();
        let victim = {
            let index = self.index();
            let sets = index.sets.iter().filter(|(_, set)| !set.objects.is_empty());
            let ranked = sets.map(|(id, set)| (self.priority(set.name.as_deref().unwrap_or_default()), set.last, *id));
            ranked.filter(|(rank, ..)| *rank < priority).min()
        };
        let Some((_, _, id)) = victim else { return Ok(false) };
        self.append(&mut writer, id, Meta::Drop, None)?;
        self.stats.evicted_sets.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
