//! What a node wrote while the API server could not be reached, kept until it has been sent: events, the status of pods and of the node,
//! and its Lease. It lies in the store beside the cache, in sets that are never evicted, so that it survives a restart.
//!
//! Every record can be sent twice without harm, because a crash may come between sending and writing down that it was sent: events have
//! names, and a second one of a name is refused; a change of a status leads to the same status; and an older renewal of a Lease is not
//! sent.
pub mod aside;
pub mod events;
pub mod item;
pub mod lease;
pub mod refused;
pub mod statuses;

use crate::store::{Listing, ObjectName, ReadError, Store};
use events::Events;
use item::Item;
use lease::Lease;
use refused::Refused;
use statuses::Statuses;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, broadcast};

/// Counters, for the metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Writes that were taken in place of the API server.
    pub accepted: AtomicU64,
    /// Records that the API server has taken over.
    pub sent: AtomicU64,
    /// Attempts that failed and are made again.
    pub retried: AtomicU64,
    /// Records that the API server refused for good.
    pub refused: AtomicU64,
    /// Records of objects that are gone, or were made again meanwhile.
    pub gone: AtomicU64,
    /// Events that made room for later ones.
    pub dropped: AtomicU64,
    /// Writes that were not taken because there was no room.
    pub full: AtomicU64,
    /// Parts of the outbox that were lost to damage on disk.
    pub damaged: AtomicU64,
}

/// How much the outbox may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of events; beyond it the oldest are dropped. As many bytes of statuses are held; beyond it they are not taken.
    pub bytes: usize,
    /// Events that are sent in a second, and half of those that are sent at once.
    pub events_per_second: u32,
    /// How long something that the API server answers with an error is tried before what waits behind it.
    pub retry_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        // The rate is kubelet's own (eventRecordQPS).
        Limits { bytes: 16 << 20, events_per_second: 50, retry_timeout: Duration::from_secs(30) }
    }
}

pub struct Outbox {
    pub events: Events,
    pub statuses: Statuses,
    pub lease: Lease,
    pub refused: Refused,
    pub stats: Arc<Stats>,
    pub limits: Limits,
    /// Something is to be sent.
    pub work: Notify,
    /// What an operator should know, a line each.
    notices: broadcast::Sender<String>,
}

/// Notices that a reader may be behind.
const NOTICES: usize = 256;

impl Outbox {
    pub fn open(store: &Arc<Store>, limits: Limits) -> Outbox {
        let stats = Arc::new(Stats::default());
        let (notices, _) = broadcast::channel(NOTICES);
        Outbox {
            events: Events::open(store, limits.bytes, &stats),
            statuses: Statuses::open(store, limits.bytes, &stats),
            lease: Lease::default(),
            refused: Refused::open(store, &stats),
            stats,
            limits,
            work: Notify::new(),
            notices,
        }
    }

    /// How many records wait.
    pub fn waiting(&self) -> usize {
        self.events.len() + self.statuses.waiting() + usize::from(self.lease.waits())
    }

    /// The next item to be sent that is wanted: the Lease, then statuses, then events.
    pub fn next(&self, wanted: impl Fn(&Item) -> bool) -> Option<Item> {
        let lease = self.lease.waits().then_some(Item::Lease).filter(&wanted);
        let status = || self.statuses.next(|kind, name| wanted(&Item::Status(kind, name.clone())));
        let event = || self.events.next(|number| wanted(&Item::Event(number)));
        lease.or_else(|| status().map(|(kind, name)| Item::Status(kind, name))).or_else(|| event().map(Item::Event))
    }

    pub fn notice(&self, text: String) {
        let _ = self.notices.send(text);
    }

    pub fn notices(&self) -> broadcast::Receiver<String> {
        self.notices.subscribe()
    }
}

/// Why a write is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("what waits for the API server may have {limit} bytes, and there is no room for {size} more")]
    Full { size: usize, limit: usize },
    #[error(transparent)]
    Store(#[from] crate::store::WriteError),
}

/// The head of all sets of the outbox.
pub(crate) const HEAD: &[u8] = b"1";

/// The records of a set. A set that was damaged begins again: what it held cannot be trusted to be what was written.
pub(crate) fn records(store: &Store, set: &str, stats: &Stats) -> Vec<(ObjectName, bytes::Bytes)> {
    let items = match store.list(set) {
        Ok(Some(Listing { items, .. })) => return items,
        Ok(None) => Vec::new(),
        Err(ReadError::Damaged { .. } | ReadError::Io(_) | ReadError::Closed) => {
            stats.damaged.fetch_add(1, Relaxed);
            Vec::new()
        }
    };
    // Where this fails, each write fails, and says so.
    let _ = store.replace(set, HEAD, []);
    items
}

/// The name of a record that is found by its number. Numbers are in the order of their texts.
fn numbered(number: u64) -> ObjectName {
    ObjectName { namespace: String::new(), name: format!("{number:020}") }
}
