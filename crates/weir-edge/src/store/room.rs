//! Room for what is to be written: cleaning first, and then eviction of sets of less importance.
use super::{
    Priority, WriteError,
    log::Log,
    record::{Meta, Stored},
};
use std::sync::atomic::Ordering;

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
            // The segment that is written next, and what cleaning one of them carries over.
            let slack = 2 * u64::from(self.options.segment_size);
            if total + len <= self.options.quota {
                return Ok(());
            }
            if live + len + slack <= self.options.quota && cleanings > 0 {
                cleanings -= 1;
                self.clean_oldest()?;
                continue;
            }
            if !self.evict(priority)? {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                return Err(WriteError::Full { needed: len, quota: self.options.quota });
            }
            cleanings = self.index().segments.len();
        }
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
        self.append(&mut writer, id, Meta::Drop, Stored::NONE)?;
        self.stats.evicted_sets.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
