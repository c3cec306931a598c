//! Distributions of times, in buckets that are a sixteenth of their power of two wide: any value is off by 6 % at most.
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Microseconds up to 2^40: twelve days.
const BUCKETS: usize = 38 * 16;

/// Upper bounds in milliseconds of the buckets that Prometheus gets (Envoy's defaults).
pub const BUCKETS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The quantiles of `/stats`, in percent.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Written by one thread. Takes no memory for its buckets before the first value.
#[derive(Default)]
pub struct Histogram(OnceLock<Box<Buckets>>);

struct Buckets {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    /// Notes a time in nanoseconds.
    pub fn record(&self, nanos: u64) {
        let micros = nanos / 1000;
        let b = self.0.get_or_init(|| Box::new(Buckets { counts: [const { AtomicU64::new(0) }; BUCKETS], micros: AtomicU64::new(0) }));
        let add = |to: &AtomicU64, n| to.store(to.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        add(&b.counts[index(micros)], 1);
        add(&b.micros, micros);
    }
}

fn index(micros: u64) -> usize {
    if micros < 16 {
        return micros as usize;
    }
    let power = 63 - micros.leading_zeros() as usize;
    ((power - 3) * 16 + (micros >> (power - 4) & 15) as usize).min(BUCKETS - 1)
}

/// The smallest number of microseconds in a bucket; that of the next is where it ends.
fn start(index: usize) -> f64 {
    match index / 16 {
        0 => index as f64,
        row => ((16 + index % 16) as f64) * 2f64.powi(row as i32 - 1),
    }
}

/// Several histograms as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    counts: Vec<u64>,
    pub count: u64,
    pub sum_ms: f64,
}

impl Totals {
    pub fn of<'a>(all: impl Iterator<Item = &'a Histogram>) -> Totals {
        let mut out = Totals::default();
        for b in all.filter_map(|h| h.0.get()) {
            out.counts.resize(BUCKETS, 0);
            for (sum, n) in out.counts.iter_mut().zip(&b.counts) {
                *sum += n.load(Ordering::Relaxed);
            }
            out.sum_ms += b.micros.load(Ordering::Relaxed) as f64 / 1000.0;
        }
        out.count = out.counts.iter().sum();
        out
    }

    /// The value in milliseconds below which `percent` of all lie; none for an empty histogram.
    pub fn quantile(&self, percent: f64) -> Option<f64> {
        let wanted = self.count as f64 * percent / 100.0;
        let mut seen = 0.0;
        let mut last = None;
        for (i, n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = *n as f64;
            if seen + n >= wanted {
                let share = ((wanted - seen) / n).clamp(0.0, 1.0);
                return Some((start(i) + (start(i + 1) - start(i)) * share) / 1000.0);
            }
            seen += n;
            last = Some(start(i + 1) / 1000.0);
        }
        last
    }

    /// How many were at most `ms`, to the width of a bucket.
    pub fn up_to(&self, ms: f64) -> u64 {
        self.counts.iter().enumerate().take_while(|(i, _)| start(i + 1) <= ms * 1000.0 * 1.07).map(|(_, n)| n).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_value_falls_in_its_bucket() {
        for micros in (0..100_000).chain((17..40).map(|p| 1u64 << p)).chain([u64::MAX / 1000]) {
            let i = index(micros);
            assert!(start(i) <= micros as f64, "{micros}");
            assert!((micros as f64) < start(i + 1) || i == BUCKETS - 1, "{micros}");
        }
    }

    #[test]
    fn quantiles_and_buckets_add_up() {
        let all = [Histogram::default(), Histogram::default(), Histogram::default()];
        for ms in 1..=1000u64 {
            all[ms as usize % 2].record(ms * 1_000_000);
        }
        let t = Totals::of(all.iter());
        assert_eq!((t.count, t.sum_ms), (1000, 500_500.0));
        for (percent, expect) in [(0.0, 1.0), (50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let got = t.quantile(percent).unwrap();
            assert!((got - expect).abs() <= expect * 0.07, "P{percent}: {got}");
        }
        let up_to: Vec<_> = BUCKETS_MS.iter().map(|ms| t.up_to(*ms)).collect();
        assert!(up_to.is_sorted() && up_to[18] == 1000);
        assert!(t.up_to(100.0).abs_diff(100) <= 8, "{}", t.up_to(100.0));
        assert_eq!(Totals::of([Histogram::default()].iter()).quantile(50.0), None);
    }
}
