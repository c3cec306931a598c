//! The status of every object: what the control plane made of it, what was found about it, and what the proxy says of the resources
//! that it became. The control plane and the proxy's verdicts edit one board, in the work of what changed; reports, `/objects` and
//! the writer of Kubernetes status read it.
mod board;
pub mod condition;
mod findings;
mod json;
mod show;

pub use board::{Details, Edit, ListenerStatus, ObjectStatus, Translated};
pub use condition::{Condition, Scope};
pub use findings::Owner;
pub use show::IS_OF_ADDRESS;

use crate::object::Key;
use board::Board;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::Notify;
use weir_config::{delta::VerdictChanges, diagnostic::Diagnostic};

/// Objects that a reader may leave unread before it gets all of them instead.
const MAX_UNREAD: usize = 100_000;

/// The board, shared by those who edit it and those who read it.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    board: Board,
    readers: Vec<Weak<Unread>>,
}

#[derive(Default)]
struct Unread {
    changed: Mutex<Changed>,
    notify: Notify,
}

enum Changed {
    Some(BTreeSet<Key>),
    /// Too many to name.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Changed::Some(BTreeSet::new())
    }
}

/// Objects whose status changed since the reader last asked.
#[derive(Debug, PartialEq)]
pub struct ChangedObjects {
    /// `keys` are all objects that there are.
    pub whole: bool,
    /// [`Status::status`] tells what to show of each; those it knows nothing of are gone.
    pub keys: BTreeSet<Key>,
}

/// The objects whose status changes. Several changes of one object are read as one. A change of the configuration is reported when the
/// proxy has taken it over, so that `Programmed` is not first false and then true.
pub struct StatusStream {
    status: Status,
    unread: Arc<Unread>,
}

impl Status {
    /// Takes over a change of the configuration.
    pub fn edit(&self, edit: Edit) {
        let mut inner = self.lock();
        let changed = inner.board.edit(edit);
        inner.tell(changed);
    }

    /// Takes over what the proxy says. A board that never heard of a proxy takes every change for applied; give it the first
    /// [`VerdictChanges`] before the first change of the configuration.
    pub fn apply_verdicts(&self, changes: VerdictChanges) {
        let mut inner = self.lock();
        let changed = inner.board.apply_verdicts(changes);
        inner.tell(changed);
    }

    /// What to show of an object now; `None` if nothing is to be said of it.
    pub fn status(&self, key: &Key) -> Option<ObjectStatus> {
        self.lock().board.status(key)
    }

    /// The conditions to show of an object now.
    pub fn conditions(&self, key: &Key) -> Vec<Condition> {
        self.status(key).map(|status| status.conditions).unwrap_or_default()
    }

    /// All objects that there is something to say of.
    pub fn keys(&self) -> BTreeSet<Key> {
        self.lock().board.keys()
    }

    /// From now on; the first item is all objects.
    pub fn stream(&self) -> StatusStream {
        let unread = Arc::new(Unread { changed: Mutex::new(Changed::All), notify: Notify::new() });
        unread.notify.notify_one();
        let mut inner = self.lock();
        inner.readers.retain(|r| r.strong_count() > 0);
        inner.readers.push(Arc::downgrade(&unread));
        StatusStream { status: self.clone(), unread }
    }

    /// All findings, each once: errors first, then by file and line.
    pub fn findings(&self) -> Vec<Arc<Diagnostic>> {
        self.lock().board.findings().all()
    }

    /// The findings that came since this was last called and still stand, in the same order. For one reader.
    pub fn take_new_findings(&self) -> Vec<Arc<Diagnostic>> {
        self.lock().board.findings_mut().take_new()
    }

    /// How many of the findings are errors.
    pub fn errors(&self) -> usize {
        self.lock().board.findings().errors()
    }

    /// A list of the objects whose `Kind/namespace/name` is wanted, each with its place, its conditions and its findings.
    pub fn json(&self, wanted: &dyn Fn(&str) -> bool) -> Value {
        json::list(&self.lock().board, wanted)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

impl Inner {
    fn tell(&self, keys: BTreeSet<Key>) {
        if keys.is_empty() {
            return;
        }
        for reader in self.readers.iter().filter_map(Weak::upgrade) {
            let mut changed = lock(&reader.changed);
            if let Changed::Some(unread) = &mut *changed {
                unread.extend(keys.iter().cloned());
                if unread.len() > MAX_UNREAD {
                    *changed = Changed::All;
                }
            }
            reader.notify.notify_one();
        }
    }
}

impl StatusStream {
    /// Waits for changes.
    pub async fn next(&mut self) -> ChangedObjects {
        self.unread.notify.notified().await;
        let inner = self.status.lock();
        match std::mem::take(&mut *lock(&self.unread.changed)) {
            Changed::Some(keys) => ChangedObjects { whole: false, keys },
            Changed::All => ChangedObjects { whole: true, keys: inner.board.keys() },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Status")
    }
}

#[cfg(test)]
mod tests;
