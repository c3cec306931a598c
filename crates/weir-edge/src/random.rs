//! Waits that differ, so that many do not do the same at once.
use std::time::Duration;

/// Somewhere between two durations.
pub fn between(low: Duration, high: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness it is the middle.
    let part = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    };
    low + high.saturating_sub(low).mul_f64(part)
}

/// Up to a duration that doubles with each failure, from `first` to `longest`, and never less than half of it.
pub fn backoff(first: Duration, longest: Duration, failures: u32) -> Duration {
    let whole = first.saturating_mul(1 << failures.min(20)).min(longest);
    between(whole / 2, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_lie_where_they_should_and_differ() {
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(3));
        let waits: Vec<Duration> = (0..100).map(|_| between(low, high)).collect();
        assert!(waits.iter().all(|wait| (low..=high).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
        for (failures, most) in [(0, 1), (1, 2), (2, 3), (40, 3)] {
            let (wait, most) = (backoff(low, high, failures), Duration::from_secs(most));
            assert!((most / 2..=most).contains(&wait), "{failures}: {wait:?}");
        }
    }
}
