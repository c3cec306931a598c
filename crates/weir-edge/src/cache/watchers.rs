//! Who watches a set here, and what has changed in it lately.
use crate::apimachinery::event::EventKind;
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};
use tokio::sync::broadcast;

/// Changes that a watcher may be behind; then its watch ends, and the client goes on where it was, or lists again.
const BEHIND: usize = 256;
/// Changes of one set that are remembered, and their bytes: a watch may begin at any of them.
const RECENT: usize = 1000;
const RECENT_BYTES: usize = 4 << 20;

/// A change of a set: a whole object of the set's media type.
#[derive(Clone, Debug)]
pub struct Changed {
    pub kind: EventKind,
    pub object: Bytes,
    /// The object before the change, where the set remembers its changes.
    pub before: Option<Bytes>,
    /// The resource version that the set has with this change. `None`: it was made here, and the object has no version of the API server.
    pub version: Option<u64>,
}

#[derive(Default)]
pub struct Watchers(Mutex<HashMap<String, Watched>>);

struct Watched {
    changes: broadcast::Sender<Changed>,
    recent: Option<Recent>,
}

/// The changes after a resource version.
#[derive(Default)]
struct Recent {
    /// `None` until the set is whole for the first time.
    floor: Option<u64>,
    /// The version of the last list: what that has changed has versions before it.
    listed: Option<u64>,
    changes: VecDeque<Changed>,
    bytes: usize,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched { changes: broadcast::channel(BEHIND).0, recent: None }
    }
}

impl Watchers {
    /// The changes of a set from now on.
    pub fn subscribe(&self, set: &str) -> broadcast::Receiver<Changed> {
        self.entry(set, |watched| watched.changes.subscribe())
    }

    /// The changes of a set after a resource version: those that were already, and those from now on. `None` where they are not known.
    pub fn subscribe_after(&self, set: &str, version: u64) -> Option<(Vec<Changed>, broadcast::Receiver<Changed>)> {
        self.entry(set, |watched| {
            let recent = watched.recent.as_ref()?;
            recent.floor.filter(|floor| version >= *floor)?;
            let later = recent.changes.iter().filter(|change| change.version.is_some_and(|v| v > version)).cloned().collect();
            Some((later, watched.changes.subscribe()))
        })
    }

    fn entry<T>(&self, set: &str, get: impl FnOnce(&mut Watched) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, watched| watched.changes.receiver_count() > 0 || watched.recent.is_some());
        get(all.entry(set.to_string()).or_default())
    }

    /// The sets that somebody watches.
    pub fn sets(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, watched)| watched.changes.receiver_count() > 0).map(|(set, _)| set.clone()).collect()
    }

    /// How many watches there are, of all sets or of one.
    pub fn count(&self, set: Option<&str>) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(name, _)| set.is_none_or(|set| set == *name)).map(|(_, watched)| watched.changes.receiver_count()).sum()
    }

    pub fn tell(&self, set: &str, change: impl FnOnce() -> Changed) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watched) = all.get_mut(set) else { return };
        let change = change();
        if let Some(recent) = &mut watched.recent {
            recent.add(&change);
        }
        let _ = watched.changes.send(change);
    }

    /// Remembers the changes of a set from now on; `from`: the resource version that it has, if it is whole.
    pub fn remember(&self, set: &str, from: Option<u64>) {
        self.entry(set, |watched| watched.recent = Some(Recent { floor: from, listed: from, ..Recent::default() }));
    }

    pub fn forget(&self, set: &str) {
        self.entry(set, |watched| watched.recent = None);
    }

    /// Whether every change after a resource version was an event of a watch, with a version of its own.
    pub fn has_events_since(&self, set: &str, version: u64) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = all.get(set).and_then(|watched| watched.recent.as_ref());
        recent.is_some_and(|recent| recent.listed.is_some_and(|listed| version >= listed))
    }

    /// Whether the changes of a set are remembered.
    pub fn remembers(&self, set: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(set).is_some_and(|watched| watched.recent.is_some())
    }

    /// The set was replaced by a complete list of a resource version, and its differences were told.
    pub fn replaced(&self, set: &str, version: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = all.get_mut(set).and_then(|watched| watched.recent.as_mut()) {
            recent.floor.get_or_insert(version);
            recent.listed = Some(version);
        }
    }
}

impl Recent {
    fn add(&mut self, change: &Changed) {
        // What was made here is laid over the set for every watch that begins.
        if change.version.is_none() || change.kind == EventKind::Bookmark {
            return;
        }
        self.bytes += change.bytes();
        // Copies: what came in one piece with it is not held.
        let owned = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        self.changes.push_back(Changed { object: owned(&change.object), before: change.before.as_ref().map(owned), ..*change });
        while self.changes.len() > RECENT || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.floor = self.floor.max(oldest.version);
        }
    }
}

impl Changed {
    fn bytes(&self) -> usize {
        self.object.len() + self.before.as_ref().map_or(0, Bytes::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(version: Option<u64>, bytes: usize) -> Changed {
        Changed { kind: EventKind::Modified, object: vec![0; bytes].into(), before: None, version }
    }

    #[test]
    fn a_watch_begins_at_any_change_that_is_remembered() {
        let watchers = Watchers::default();
        let after =
            |version| watchers.subscribe_after("s", version).map(|(changes, _)| changes.iter().map(|c| c.version).collect::<Vec<_>>());
        assert_eq!(after(1), None, "nothing is remembered");
        watchers.remember("s", None);
        assert_eq!(after(1), None, "it never was whole");
        watchers.replaced("s", 5);
        (6..9).for_each(|version| watchers.tell("s", || changed(Some(version), 1)));
        watchers.tell("s", || changed(None, 1));
        watchers.tell("other", || panic!("nobody watches it"));
        // Listed again: two changes of one version.
        (0..2).for_each(|_| watchers.tell("s", || changed(Some(12), 1)));
        assert!(watchers.has_events_since("s", 5) && !watchers.has_events_since("s", 4) && !watchers.has_events_since("other", 5));
        watchers.replaced("s", 12);
        assert!(watchers.has_events_since("s", 12) && !watchers.has_events_since("s", 11));
        for (version, wanted) in [
            (4, None),
            (5, Some(vec![6, 7, 8, 12, 12])),
            (7, Some(vec![8, 12, 12])),
            (10, Some(vec![12, 12])),
            (12, Some(vec![])),
            (99, Some(vec![])),
        ] {
            assert_eq!(after(version), wanted.map(|wanted: Vec<u64>| wanted.into_iter().map(Some).collect()), "{version}");
        }
        // By number and by bytes.
        (0..RECENT as u64).for_each(|i| watchers.tell("s", || changed(Some(100 + i), 1)));
        assert_eq!((after(11), after(12).map(|all| all.len())), (None, Some(RECENT)));
        watchers.tell("s", || changed(Some(5000), RECENT_BYTES - 1));
        assert_eq!((after(1097), after(1098).map(|all| all.len())), (None, Some(2)));
        watchers.forget("s");
        assert_eq!(after(5000), None);
    }

    #[test]
    fn changes_reach_those_who_watch() {
        let watchers = Watchers::default();
        let mut one = watchers.subscribe("s");
        watchers.tell("s", || changed(Some(1), 1));
        assert_eq!((one.try_recv().unwrap().version, watchers.sets(), watchers.count(None)), (Some(1), vec!["s".to_string()], 1));
        drop(one);
        assert_eq!((watchers.sets(), watchers.count(Some("s"))), (Vec::new(), 0));
    }
}
