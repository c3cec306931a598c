//! A version's first minute: where it traps and the one before it did not, the one before comes back.
use super::Generation;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long a new version is watched.
pub const WINDOW: Duration = Duration::from_secs(60);
/// One trap in so many streams is too many; fewer are taken for the request's fault, not the version's.
const STREAMS_PER_TRAP: u64 = 100;

/// Of the version that serves.
pub(super) struct Probation {
    /// What to go back to; `None` for a canary, whose streams go back to the plugin that it takes them of.
    pub previous: Option<Arc<Generation>>,
    began: Instant,
    /// Of the plugin when this version took over.
    streams: u64,
    limit: u64,
}

impl Probation {
    /// `streams` are the plugin's so far. `None` where there is nothing good to go back to: the version before
    /// was at fault as well, or nobody wants it.
    pub fn of(previous: &Arc<Generation>, limit: u32, streams: u64) -> Option<Probation> {
        let good = !too_many(streams.saturating_sub(previous.streams_before), previous.traps.load(Ordering::Relaxed), 1);
        (limit > 0 && good).then(|| Probation { previous: Some(previous.clone()), began: Instant::now(), streams, limit: limit.into() })
    }

    /// A canary is watched for as long as it is one.
    pub fn of_canary(limit: u32, streams: u64) -> Option<Probation> {
        (limit > 0).then(|| Probation { previous: None, began: Instant::now(), streams, limit: limit.into() })
    }

    /// Whether the version has failed with so many traps of its own and streams of the plugin; what is said of it.
    pub fn failed(&self, streams: u64, traps: u64) -> Option<String> {
        let (served, age) = (streams.saturating_sub(self.streams), self.began.elapsed());
        let failed = (age <= WINDOW || self.previous.is_none()) && too_many(served, traps, self.limit);
        failed.then(|| format!("it trapped {traps} times within its first {served} streams and {} s", age.as_secs().max(1)))
    }
}

fn too_many(streams: u64, traps: u64, limit: u64) -> bool {
    traps >= limit && traps.saturating_mul(STREAMS_PER_TRAP) >= streams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_traps_in_few_streams_are_too_many() {
        for (streams, traps, limit, wanted) in [
            (10, 2, 3, false),
            (10, 3, 3, true),
            (300, 3, 3, true),
            (301, 3, 3, false),
            (10_000, 100, 3, true),
            (0, 3, 3, true),
            (0, 0, 1, false),
        ] {
            assert_eq!(too_many(streams, traps, limit), wanted, "{streams} {traps} {limit}");
        }
    }
}
