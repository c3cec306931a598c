//! Answers in the order of their commands, where these go to several servers.
//!
//! The commands of one turn of the event loop belong together: a plugin sends them from one callback, as a pipeline. Their answers
//! wait for each other, so that a plugin sees the same order as from one server. Commands of other turns do not wait: a slow server
//! holds up its own callers only.
use super::{Answer, node::Done};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

/// The turn under way, if any command was sent in it.
#[derive(Default)]
pub(super) struct Turn(Rc<RefCell<Option<Rc<Batch>>>>);

impl Turn {
    /// Takes a place behind what was sent in this turn; the answer may be given to the result at any time.
    pub fn enter(&self, done: Done) -> Done {
        let batch = self.0.borrow().clone();
        let batch = batch.unwrap_or_else(|| {
            let new = Rc::new(Batch::default());
            *self.0.borrow_mut() = Some(new.clone());
            let turn = self.0.clone();
            // Runs when the task that sends has let go.
            tokio::task::spawn_local(async move { *turn.borrow_mut() = None });
            new
        });
        let place = batch.enter(done);
        Box::new(move |answer| batch.answered(place, answer))
    }
}

#[derive(Default)]
struct Batch {
    waiting: RefCell<VecDeque<Entry>>,
    /// Places that have been answered and left the queue.
    gone: Cell<usize>,
}

struct Entry {
    done: Done,
    answer: Option<Answer>,
}

impl Batch {
    fn enter(&self, done: Done) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(Entry { done, answer: None });
        self.gone.get() + waiting.len() - 1
    }

    fn answered(&self, place: usize, answer: Answer) {
        self.keep(place, answer);
        // Without a borrow: who is answered may send the next command at once.
        while let Some(Entry { done, answer: Some(answer) }) = self.next() {
            done(answer);
        }
    }

    fn keep(&self, place: usize, answer: Answer) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(entry) = place.checked_sub(self.gone.get()).and_then(|at| waiting.get_mut(at)) {
            entry.answer = Some(answer);
        }
    }

    fn next(&self) -> Option<Entry> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.front().filter(|e| e.answer.is_some())?;
        self.gone.set(self.gone.get() + 1);
        waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::redis::Error;
    use bytes::Bytes;

    #[test]
    fn answers_wait_for_those_before_them() {
        let (batch, seen) = (Rc::new(Batch::default()), Rc::new(RefCell::new(Vec::new())));
        let enter = |name: &'static str| {
            let seen = seen.clone();
            batch.enter(Box::new(move |answer: Answer| seen.borrow_mut().push((name, answer.is_ok()))))
        };
        let (a, b, c) = (enter("a"), enter("b"), enter("c"));
        let ok = || Ok(Bytes::from_static(b"+OK\r\n"));
        batch.answered(c, ok());
        assert!(seen.borrow().is_empty());
        batch.answered(a, Err(Error::Timeout));
        assert_eq!(*seen.borrow(), [("a", false)]);
        let d = enter("d");
        batch.answered(b, ok());
        assert_eq!(*seen.borrow(), [("a", false), ("b", true), ("c", true)]);
        batch.answered(d, ok());
        assert_eq!(seen.borrow().len(), 4);
    }
}
