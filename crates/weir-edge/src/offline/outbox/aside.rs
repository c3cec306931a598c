//! When something that the API server keeps answering with errors makes way for what waits behind it. Pure: it is told the time.
use super::item::Item;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Waits after failures in a row.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The longest time that something is set aside.
const LONGEST: Duration = Duration::from_secs(300);

/// The wait after so many failures in a row.
pub fn backoff(failures: u32) -> Duration {
    (BACKOFF.0 * (1 << failures.min(6))).min(BACKOFF.1)
}

/// What to do with an item that was answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try the same again after this time.
    Again(Duration),
    /// Try others first. `first`: it was not set aside before.
    SetAside { first: bool },
}

pub struct Aside {
    /// How long an item is tried before it is set aside.
    patience: Duration,
    failing: HashMap<Item, Failing>,
}

struct Failing {
    since: Instant,
    failures: u32,
    /// It is set aside until then, and was for so long.
    until: Option<(Instant, Duration)>,
}

impl Aside {
    pub fn new(patience: Duration) -> Aside {
        Aside { patience, failing: HashMap::new() }
    }

    pub fn failed(&mut self, item: &Item, now: Instant) -> Next {
        let failing = self.failing.entry(item.clone()).or_insert(Failing { since: now, failures: 0, until: None });
        failing.failures = failing.failures.saturating_add(1);
        if now.saturating_duration_since(failing.since) < self.patience {
            return Next::Again(backoff(failing.failures - 1));
        }
        let before = failing.until.map(|(_, wait)| wait);
        let wait = before.map_or(BACKOFF.1, |before| before * 2).min(LONGEST);
        failing.until = Some((now + wait, wait));
        Next::SetAside { first: before.is_none() }
    }

    pub fn failures(&self, item: &Item) -> u32 {
        self.failing.get(item).map_or(0, |failing| failing.failures)
    }

    /// It was sent, or need not be.
    pub fn done(&mut self, item: &Item) {
        self.failing.remove(item);
    }

    /// Nothing waits any more.
    pub fn clear(&mut self) {
        self.failing.clear();
    }

    /// Whether others are tried first.
    pub fn is_aside(&self, item: &Item, now: Instant) -> bool {
        self.failing.get(item).and_then(|failing| failing.until).is_some_and(|(until, _)| until > now)
    }

    /// When the first of what is set aside is tried again.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.failing.values().filter_map(|failing| failing.until).map(|(until, _)| until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_failing_makes_way() {
        let (start, item) = (Instant::now(), Item::Event(1));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut aside = Aside::new(Duration::from_secs(30));
        let waits: Vec<Next> = (0..3).map(|i| aside.failed(&item, at(i))).collect();
        let again = |millis| Next::Again(Duration::from_millis(millis));
        assert_eq!(waits, [again(500), again(1000), again(2000)]);
        assert!(!aside.is_aside(&item, at(29)) && aside.next(at(29)).is_none());
        assert_eq!((aside.failed(&item, at(30)), aside.failures(&item)), (Next::SetAside { first: true }, 4));
        assert!(aside.is_aside(&item, at(59)) && !aside.is_aside(&item, at(60)) && !aside.is_aside(&Item::Event(2), at(31)));
        assert_eq!(aside.next(at(31)), Some(at(60)));
        // Then for longer and longer.
        let mut now = 60;
        for wait in [60, 120, 240, 300, 300] {
            assert_eq!(aside.failed(&item, at(now)), Next::SetAside { first: false });
            assert_eq!(aside.next(at(now)), Some(at(now + wait)));
            now += wait;
        }
        aside.done(&item);
        assert_eq!((aside.failures(&item), aside.failed(&item, at(now))), (0, again(500)));
    }
}
