//! Deadlines for many connections with one coarse tick: setting one is a store, and a sweep looks at all of them.
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

/// A duration in nanoseconds; longer than 584 years counts as for ever.
pub fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

const NEVER: u64 = u64::MAX;
const FIRED: u64 = 0;

/// The deadlines of one worker, in a row, so that a sweep over ten thousand of them is a short loop.
#[derive(Default)]
pub struct Timers {
    due: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// The one deadline of one connection; the slot is freed on drop.
pub struct Deadline {
    timers: Rc<Timers>,
    slot: usize,
    bound: Cell<bool>,
}

impl Timers {
    pub fn deadline(self: &Rc<Self>) -> Deadline {
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.wakers.borrow_mut().push(None);
            let mut due = self.due.borrow_mut();
            due.push(NEVER);
            due.len() - 1
        });
        Deadline { timers: self.clone(), slot, bound: Cell::new(false) }
    }
    /// Wakes every task whose deadline has passed; `now` is in nanoseconds.
    pub fn sweep(&self, now: u64) {
        let wakers = self.wakers.borrow();
        for (due, waker) in self.due.borrow_mut().iter_mut().zip(wakers.iter()) {
            if *due <= now {
                *due = FIRED;
                if let Some(w) = waker {
                    w.wake_by_ref();
                }
            }
        }
    }
}

impl Deadline {
    /// `deadline` is in nanoseconds of the clock that [`Timers::sweep`] is given; `u64::MAX` is never.
    pub fn set(&self, deadline: u64) {
        self.timers.due.borrow_mut()[self.slot] = deadline.max(1);
    }
    /// Whether the deadline has passed. The first call tells the sweep which task to wake.
    pub fn expired(&self, cx: &Context) -> bool {
        if !self.bound.replace(true) {
            self.timers.wakers.borrow_mut()[self.slot] = Some(cx.waker().clone());
        }
        self.timers.due.borrow()[self.slot] == FIRED
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.timers.due.borrow_mut()[self.slot] = NEVER;
        self.timers.wakers.borrow_mut()[self.slot] = None;
        self.timers.free.borrow_mut().push(self.slot);
    }
}
