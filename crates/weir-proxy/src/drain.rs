//! The polite end of connections: told first, waited for, cut at last.
use std::cell::Cell;
use tokio::sync::Notify;

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Serving,
    /// Answers carry `connection: close`, HTTP/2 connections get a GOAWAY; new requests are still served.
    Draining,
    /// What is idle closes now; streams under way are waited for.
    Closing,
    /// Nothing is waited for any more.
    Cutting,
}

/// The drain signal of the connections of one filter chain on one worker. Phases only rise.
#[derive(Default)]
pub struct Drain {
    phase: Cell<Phase>,
    changed: Notify,
}

impl Drain {
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }
    /// Whether a connection should be ended at the next good moment.
    pub fn is_draining(&self) -> bool {
        self.phase.get() >= Phase::Draining
    }
    /// Raises the phase and wakes who waits for it.
    pub fn advance(&self, to: Phase) {
        if to > self.phase.get() {
            self.phase.set(to);
            self.changed.notify_waiters();
        }
    }
    /// Waits until `phase` or a later one is reached; at once if it is.
    pub async fn reached(&self, phase: Phase) {
        while self.phase.get() < phase {
            // One thread only: nothing can advance between the test and the wait.
            self.changed.notified().await;
        }
    }
}
