//! Group commit: one thread syncs what was written within an interval, or as soon as it is much, and cleans in between.
use super::{WriteError, log::Log, record::Meta, segment::sync_folder};
use std::{
    mem,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

impl Log {
    /// The thread's work until the store is closed.
    pub fn run(&self) {
        // When to write down how far the log is synced, if nothing else is written that says so.
        let mut mark: Option<Instant> = None;
        loop {
            let mut control = self.control();
            let (stop, flush, clean) = loop {
                let now = Instant::now();
                let flush = control.wanted > self.durable.load(Ordering::Acquire);
                let full = control.bytes >= self.options.commit_bytes;
                let due = control.since.map(|since| since + self.options.commit_interval);
                if control.stop || flush || control.clean || full || [due, mark].into_iter().flatten().any(|at| at <= now) {
                    break (control.stop, flush || full || due.is_some_and(|at| at <= now), mem::take(&mut control.clean));
                }
                let next = [due, mark].into_iter().flatten().min();
                let wait = next.map_or(Duration::from_secs(3600), |at| at - now);
                control = self.work.wait_timeout(control, wait).unwrap_or_else(PoisonError::into_inner).0;
            };
            drop(control);
            if flush || stop {
                let _ = self.sync();
                mark = Some(Instant::now() + self.options.commit_interval);
            }
            if stop || mark.is_some_and(|at| at <= Instant::now()) {
                mark = None;
                self.mark();
            }
            if stop {
                return;
            }
            if clean {
                self.write_hints();
                while self.wants_cleaning() && !self.control().stop {
                    if self.clean_oldest().is_err() {
                        break;
                    }
                }
            }
        }
    }

    /// Syncs all that is written.
    pub fn sync(&self) -> Result<(), WriteError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (segments, named, seq) = {
            let mut writer = self.writer();
            (mem::take(&mut writer.unsynced), mem::take(&mut writer.named), writer.seq)
        };
        {
            let mut control = self.control();
            (control.since, control.bytes) = (None, 0);
        }
        let synced = segments.iter().try_for_each(|segment| segment.file.sync_data());
        let synced = synced.and_then(|()| if named { sync_folder(&self.folder) } else { Ok(()) });
        if synced.is_ok() {
            self.stats.syncs.fetch_add(u64::from(!segments.is_empty()), Ordering::Relaxed);
            self.durable.fetch_max(seq, Ordering::AcqRel);
        } else {
            self.stats.sync_errors.fetch_add(1, Ordering::Relaxed);
            let mut writer = self.writer();
            // The kernel may have dropped what it could not write. Nothing more goes behind it.
            self.seal(&mut writer);
            writer.named = true;
        }
        let mut control = self.control();
        control.failures += u64::from(synced.is_err());
        self.synced.notify_all();
        drop(control);
        Ok(synced?)
    }

    /// Writes down how far the log is synced, unless the last record says so.
    fn mark(&self) {
        let mut writer = self.writer();
        if writer.writes() && writer.seq == self.durable.load(Ordering::Acquire) {
            // Without it, damage of the last records passes for a torn tail.
            let meta = Meta::Mark { oldest: writer.oldest };
            let _ = self.append(&mut writer, 0, meta, None);
            writer.mark = writer.seq;
        }
    }

    /// Waits until all that was written before is synced.
    pub fn flush(&self) -> Result<(), WriteError> {
        let wanted = {
            let writer = self.writer();
            writer.seq - u64::from(writer.seq == writer.mark)
        };
        let mut control = self.control();
        let failures = control.failures;
        control.wanted = control.wanted.max(wanted);
        self.work.notify_one();
        while self.durable.load(Ordering::Acquire) < wanted {
            if control.failures > failures || control.stop {
                control.wanted = 0;
                return Err(WriteError::Sync);
            }
            control = self.synced.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
