//! The context that there is now, and what clients were given with it.
use super::context::Context;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::watch;

pub type Published = Arc<Context>;

pub struct Contexts {
    now: watch::Sender<Published>,
    /// The newest resource version that a client has seen.
    newest: AtomicU64,
}

impl Contexts {
    /// `newest`: the newest resource version that was kept. What clients that have it were shown before is not known.
    pub fn new(context: Context, newest: u64) -> Contexts {
        Contexts { now: watch::Sender::new(Arc::new(Context { mark: newest, ..context })), newest: AtomicU64::new(newest) }
    }

    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.now.subscribe()
    }

    pub fn now(&self) -> Published {
        self.now.borrow().clone()
    }

    /// Changes the context; open watches hear of it.
    pub fn update(&self, change: impl FnOnce(&mut Context)) {
        self.now.send_if_modified(|context| {
            let mut next = Context::clone(context);
            change(&mut next);
            let changed = next != **context;
            if changed {
                next.mark = self.newest.load(Relaxed);
                *context = Arc::new(next);
            }
            changed
        });
    }

    /// A client sees a resource version with the context of its watch, which goes over to the next one by itself.
    pub fn seen(&self, version: u64) {
        self.newest.fetch_max(version, Relaxed);
    }

    /// A client sees a list of a resource version with a context: with this one. A context that comes later knows of the version.
    pub fn lists(&self, version: u64) -> Published {
        // Under its lock: a change is before it or behind it.
        let now = self.now.borrow();
        self.seen(version);
        now.clone()
    }

    /// The same for a list that says its version at its end. What has changed since it began is of that version, too.
    pub fn listed(&self, version: u64, with: &Published) {
        self.now.send_if_modified(|context| {
            self.seen(version);
            if !Arc::ptr_eq(context, with) && context.mark < version {
                *context = Arc::new(Context { mark: version, ..Context::clone(context) });
            }
            false
        });
    }
}
