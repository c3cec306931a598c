//! The polite end of connections: told first, waited for, cut at last.
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A connection counts as idle when no byte has arrived for this long: a client that was just answered, or has just connected, may
/// have sent a request that is still on its way.
pub const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Serving,
    /// Answers carry `connection: close`, HTTP/2 connections get a GOAWAY; new requests are still served.
    Draining,
    /// Idle connections close now, see [`IDLE_GRACE`]; streams under way are waited for.
    Closing,
    /// Nothing is waited for any more.
    Cutting,
}

/// The drain signal of the connections of one filter chain on one worker. Phases only rise.
#[derive(Default)]
pub struct Drain {
    phase: Cell<Phase>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }
    /// Whether a connection should be ended at the next good moment.
    pub fn is_draining(&self) -> bool {
        self.phase.get() >= Phase::Draining
    }
    /// Raises the phase and wakes who watches.
    pub fn advance(&self, to: Phase) {
        if to > self.phase.get() {
            self.phase.set(to);
            self.wakers.borrow().iter().flatten().for_each(Waker::wake_by_ref);
        }
    }
    pub fn watch(self: &Rc<Self>) -> Watch {
        Watch { drain: self.clone(), slot: Cell::new(None) }
    }
}

/// A drain as one task sees it: the first look says whom to wake, every other is a load.
pub struct Watch {
    drain: Rc<Drain>,
    slot: Cell<Option<usize>>,
}

impl Watch {
    /// The phase as of now; the task is woken when it rises.
    pub fn phase(&self, cx: &Context) -> Phase {
        if self.slot.get().is_none() {
            let mut wakers = self.drain.wakers.borrow_mut();
            let slot = self.drain.free.borrow_mut().pop().unwrap_or_else(|| {
                wakers.push(None);
                wakers.len() - 1
            });
            wakers[slot] = Some(cx.waker().clone());
            self.slot.set(Some(slot));
        }
        self.drain.phase()
    }
    /// Whether idle connections are being closed.
    pub fn is_closing(&self) -> bool {
        self.drain.phase() >= Phase::Closing
    }
    /// Waits until idle connections are to close, and then for the grace time.
    pub async fn idle(&self) {
        self.reached(Phase::Closing).await;
        tokio::time::sleep(IDLE_GRACE).await;
    }
    /// Waits until `phase` or a later one is reached; at once if it is.
    pub async fn reached(&self, phase: Phase) {
        poll_fn(|cx| if self.phase(cx) >= phase { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.get() {
            self.drain.wakers.borrow_mut()[slot] = None;
            self.drain.free.borrow_mut().push(slot);
        }
    }
}
