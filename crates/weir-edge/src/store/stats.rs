//! What a store counts.
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Stats {
    pub written: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_errors: AtomicU64,
    pub write_errors: AtomicU64,
    pub damaged_reads: AtomicU64,
    pub evicted_sets: AtomicU64,
    pub refused: AtomicU64,
    pub cleaned_segments: AtomicU64,
    pub moved: AtomicU64,
}

/// A reading of the counters and sizes of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub encrypted: bool,
    pub sets: usize,
    pub objects: usize,
    /// Sets that are unreadable because something was lost.
    pub damaged_sets: usize,
    pub segments: usize,
    /// Bytes of the log, and those of them that hold current values.
    pub bytes: u64,
    pub live_bytes: u64,
    pub quota: u64,
    /// Bytes written since the store was opened, with what cleaning moved.
    pub written_bytes: u64,
    pub moved_bytes: u64,
    pub syncs: u64,
    pub sync_errors: u64,
    pub write_errors: u64,
    /// Reads that found a damaged record.
    pub damaged_reads: u64,
    pub evicted_sets: u64,
    /// Writes refused because of the quota.
    pub refused_writes: u64,
    pub cleaned_segments: u64,
    /// Records that are not synced yet.
    pub unsynced_records: u64,
}

impl Stats {
    pub fn fill(&self, out: &mut StoreStats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.written_bytes = read(&self.written);
        out.moved_bytes = read(&self.moved);
        out.syncs = read(&self.syncs);
        out.sync_errors = read(&self.sync_errors);
        out.write_errors = read(&self.write_errors);
        out.damaged_reads = read(&self.damaged_reads);
        out.evicted_sets = read(&self.evicted_sets);
        out.refused_writes = read(&self.refused);
        out.cleaned_segments = read(&self.cleaned_segments);
    }
}
