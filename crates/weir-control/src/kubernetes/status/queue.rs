//! Objects whose status is to be looked at: each once, whatever happened to it meanwhile, and never twice at the same time.
use crate::object::Key;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    time::{Duration, Instant},
};

/// Between two attempts for the same object.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Queue {
    /// In the order in which they came.
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    busy: HashSet<Key>,
    /// These were asked for while they were busy.
    again: HashSet<Key>,
    later: BTreeMap<Instant, BTreeSet<Key>>,
}

impl Queue {
    pub fn add(&mut self, key: Key) {
        if self.busy.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    /// The next one, which is busy from now on.
    pub fn next(&mut self, now: Instant) -> Option<Key> {
        while let Some(entry) = self.later.first_entry().filter(|entry| *entry.key() <= now) {
            entry.remove().into_iter().for_each(|key| self.add(key));
        }
        let key = self.waiting.pop_front()?;
        self.queued.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// When one that failed is tried again.
    pub fn retry() -> Instant {
        Instant::now() + RETRY
    }

    /// One is done; it comes again at `later`, and as soon as something changes.
    pub fn done(&mut self, key: Key, later: Option<Instant>) {
        self.busy.remove(&key);
        if let Some(later) = later {
            self.later.entry(later).or_default().insert(key.clone());
        }
        if self.again.remove(&key) {
            self.add(key);
        }
    }

    /// Whether one waits that may be next at once.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When there is something to do although nothing is added.
    pub fn wakes(&self) -> Option<Instant> {
        self.later.first_key_value().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn each_object_is_looked_at_once_at_a_time() {
        let key = |name| Key::new(Kind::HttpRoute, "d", name);
        let now = Instant::now();
        let mut queue = Queue::default();
        for name in ["a", "b", "a"] {
            queue.add(key(name));
        }
        assert_eq!(queue.next(now), Some(key("a")));
        // It changes while it is written.
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next(now), Some(key("b")));
        assert_eq!(queue.next(now), None);
        queue.done(key("a"), None);
        assert_eq!(queue.next(now), Some(key("a")));
        queue.done(key("a"), None);
        queue.done(key("b"), Some(now + RETRY));
        assert_eq!((queue.next(now), queue.wakes()), (None, Some(now + RETRY)));
        assert_eq!(queue.next(now + RETRY), Some(key("b")));
        queue.done(key("b"), None);
        assert_eq!((queue.next(now + RETRY), queue.wakes()), (None, None));
    }
}
