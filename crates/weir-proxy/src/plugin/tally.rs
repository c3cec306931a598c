//! What the streams and callbacks of one version came to, for a comparison with another.
use crate::stats::Counter;
use std::time::Duration;

/// Four for each power of two of nanoseconds, up to half an hour.
const BUCKETS: usize = 160;

/// Of one version on one worker.
#[derive(Debug)]
pub struct Tally {
    pub streams: Counter,
    /// Answered with 5xx, by whomever.
    pub errors: Counter,
    /// Callbacks by the time that they took.
    times: Box<[Counter; BUCKETS]>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { streams: Counter::new(), errors: Counter::new(), times: Box::new([const { Counter::new() }; BUCKETS]) }
    }
}

impl Tally {
    /// A stream has ended with this status; 0 for none.
    pub fn ended(&self, status: u16) {
        self.streams.inc();
        if status >= 500 {
            self.errors.inc();
        }
    }

    pub fn ran(&self, time: Duration) {
        self.times[bucket(time)].inc();
    }
}

/// Of one version, at one moment or between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Totals {
    pub streams: u64,
    pub errors: u64,
    pub traps: u64,
    times: [u64; BUCKETS],
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { streams: 0, errors: 0, traps: 0, times: [0; BUCKETS] }
    }
}

impl Totals {
    pub fn of<'a>(tallies: impl Iterator<Item = &'a Tally>, traps: u64) -> Totals {
        let mut all = Totals { traps, ..Totals::default() };
        for tally in tallies {
            all.streams += tally.streams.get();
            all.errors += tally.errors.get();
            all.times.iter_mut().zip(tally.times.iter()).for_each(|(sum, counter)| *sum += counter.get());
        }
        all
    }

    pub fn since(&self, before: &Totals) -> Totals {
        let mut times = self.times;
        times.iter_mut().zip(&before.times).for_each(|(now, before)| *now = now.saturating_sub(*before));
        Totals {
            streams: self.streams.saturating_sub(before.streams),
            errors: self.errors.saturating_sub(before.errors),
            traps: self.traps.saturating_sub(before.traps),
            times,
        }
    }

    pub fn calls(&self) -> u64 {
        self.times.iter().sum()
    }

    /// The time below which `percent` of the callbacks took; none without callbacks.
    pub fn quantile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.calls() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.times.iter().position(|n| {
            seen += n;
            seen >= wanted
        });
        found.map(bound)
    }
}

fn bucket(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(4);
    let power = nanos.ilog2();
    let place = (power - 2) * 4 + (nanos >> (power - 2) & 3) as u32;
    (place as usize).min(BUCKETS - 1)
}

/// The end of a bucket.
fn bound(bucket: usize) -> Duration {
    let (power, quarter) = (bucket / 4 + 2, bucket % 4 + 5);
    Duration::from_nanos((quarter as u64) << (power - 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_that_ends_behind_them() {
        for nanos in [0, 1, 4, 5, 7, 8, 9, 999, 1000, 123_456, 1_000_000, 40_000_000, 1_000_000_000, 1_700_000_000_000] {
            let end = bound(bucket(Duration::from_nanos(nanos))).as_nanos() as u64;
            assert!(end > nanos && end <= (nanos.max(4) * 5).div_ceil(4), "{nanos}: {end}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_differences() {
        let tally = Tally::default();
        assert_eq!(Totals::of([&tally].into_iter(), 0).quantile(50), None);
        (0..90).for_each(|_| tally.ran(Duration::from_micros(1)));
        let before = Totals::of([&tally].into_iter(), 1);
        (0..10).for_each(|_| tally.ran(Duration::from_millis(8)));
        [200, 503, 0, 500].iter().for_each(|status| tally.ended(*status));
        let other = Tally::default();
        other.ended(599);
        let all = Totals::of([&tally, &other].into_iter(), 3);
        assert_eq!((all.streams, all.errors, all.traps, all.calls()), (5, 3, 3, 100));
        let quantile = |totals: &Totals, percent| totals.quantile(percent).unwrap().as_micros();
        assert!((1..2).contains(&quantile(&all, 50)) && (8000..10_001).contains(&quantile(&all, 99)), "{all:?}");
        let between = all.since(&before);
        assert_eq!((between.calls(), between.traps, between.streams), (10, 2, 5));
        assert!(quantile(&between, 1) > 8000);
    }
}
