//! The share of the CPUs that a plugin may use, over all workers.
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A plugin may use its share of so long a time at once.
const WINDOW: Duration = Duration::from_secs(1);

/// What a plugin has used: the time at which its share will have paid for it.
#[derive(Debug, Default)]
pub(crate) struct CpuBudget(AtomicU64);

impl CpuBudget {
    /// Adds what a callback took. `share`: thousandths of a CPU.
    pub fn spend(&self, took: Duration, share: u32, now: Duration) {
        let (now, cost) = (nanos(now), nanos(took).saturating_mul(1000) / u64::from(share.max(1)));
        let _ = self.0.fetch_update(Relaxed, Relaxed, |paid| Some(paid.max(now).saturating_add(cost)));
    }

    /// Whether nothing is left of the window.
    pub fn is_spent(&self, now: Duration) -> bool {
        self.0.load(Relaxed) > nanos(now + WINDOW)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Since the first call in this process.
pub(crate) fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_comes_back() {
        let budget = CpuBudget::default();
        let (ms, at) = (Duration::from_millis, Duration::from_secs(100));
        // Half a CPU: half a second at once.
        budget.spend(ms(500), 500, at);
        assert!(!budget.is_spent(at));
        budget.spend(ms(100), 500, at);
        assert!(budget.is_spent(at));
        assert!(budget.is_spent(at + ms(199)) && !budget.is_spent(at + ms(200)));
        // What was not used is not saved up.
        let later = at + ms(60_000);
        budget.spend(ms(501), 500, later);
        assert!(budget.is_spent(later));
        // Two CPUs.
        let other = CpuBudget::default();
        other.spend(ms(2000), 2000, at);
        assert!(!other.is_spent(at));
    }
}
