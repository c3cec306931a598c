//! Who watches a set here, while the link is down.
use crate::event::EventKind;
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokio::sync::broadcast;

/// Changes that a watcher may be behind; then its watch ends, and the client lists again.
const BEHIND: usize = 256;

/// A change of a set: a whole object of the set's media type.
#[derive(Clone, Debug)]
pub struct Changed {
    pub kind: EventKind,
    pub object: Bytes,
    /// It was made here: the resource version of the object is not one of the API server.
    pub local: bool,
}

#[derive(Default)]
pub struct Watchers(Mutex<HashMap<String, broadcast::Sender<Changed>>>);

impl Watchers {
    /// The changes of a set from now on.
    pub fn subscribe(&self, set: &str) -> broadcast::Receiver<Changed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, changes| changes.receiver_count() > 0);
        all.entry(set.to_string()).or_insert_with(|| broadcast::channel(BEHIND).0).subscribe()
    }

    /// The sets that somebody watches.
    pub fn sets(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(_, changes)| changes.receiver_count() > 0).map(|(set, _)| set.clone()).collect()
    }

    pub fn tell(&self, set: &str, change: impl FnOnce() -> Changed) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = all.get(set) {
            let _ = changes.send(change());
        }
    }
}
