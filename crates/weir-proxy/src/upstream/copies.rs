//! How many mirrored requests one worker has under way.
use std::{cell::Cell, rc::Rc};

/// Mirrored requests of one worker that wait for a response, and the bytes of their bodies.
const MAX_COPIES: usize = 1024;
const MAX_BYTES: usize = 32 << 20;

#[derive(Default)]
pub struct Copies {
    count: Cell<usize>,
    bytes: Cell<usize>,
}

/// One copy, counted while it lives.
pub struct Copy {
    of: Rc<Copies>,
    bytes: usize,
}

impl Copies {
    /// `None` where there are too many.
    pub fn begin(self: &Rc<Self>, bytes: usize) -> Option<Copy> {
        if self.count.get() >= MAX_COPIES || self.bytes.get() + bytes > MAX_BYTES {
            return None;
        }
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        Some(Copy { of: self.clone(), bytes })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.of.count.set(self.of.count.get() - 1);
        self.of.bytes.set(self.of.bytes.get() - self.bytes);
    }
}
