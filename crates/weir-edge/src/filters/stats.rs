//! What filters have done, for the metrics.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of one filter and one resource.
#[derive(Debug)]
pub struct Count {
    pub filter: &'static str,
    pub resource: &'static str,
    /// Objects that came to the filter.
    pub seen: AtomicU64,
    /// Objects that it has changed.
    pub changed: AtomicU64,
    /// Objects that it has hidden.
    pub dropped: AtomicU64,
}

#[derive(Debug)]
pub struct Stats {
    counts: Vec<Count>,
    /// Answers, events and objects that could not be read, and passed as they are.
    pub unreadable: AtomicU64,
    /// Open watches that went over to another context.
    pub reapplied: AtomicU64,
}

impl Stats {
    /// Of these filters and resources.
    pub fn new(all: impl IntoIterator<Item = (&'static str, &'static str)>) -> Stats {
        let count = |(filter, resource)| Count {
            filter,
            resource,
            seen: AtomicU64::default(),
            changed: AtomicU64::default(),
            dropped: AtomicU64::default(),
        };
        let counts = all.into_iter().map(count).collect();
        Stats { counts, unreadable: AtomicU64::default(), reapplied: AtomicU64::default() }
    }

    pub fn counts(&self) -> &[Count] {
        &self.counts
    }

    /// Adds one to a number of a filter and a resource.
    pub fn add(&self, filter: &str, resource: &str, number: impl Fn(&Count) -> &AtomicU64) {
        if let Some(count) = self.counts.iter().find(|count| count.filter == filter && count.resource == resource) {
            number(count).fetch_add(1, Relaxed);
        }
    }

    pub fn unreadable(&self) {
        self.unreadable.fetch_add(1, Relaxed);
    }
}
