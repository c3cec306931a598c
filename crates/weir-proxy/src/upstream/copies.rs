//! How many mirrored requests one worker has under way.
use std::{cell::Cell, rc::Rc};

pub struct Copies {
    count: Cell<u32>,
    bytes: Cell<u64>,
    max_count: u32,
    max_bytes: u64,
}

/// One copy, counted while it lives.
pub struct Copy {
    of: Rc<Copies>,
    bytes: u64,
}

impl Copies {
    /// At most this many requests that wait for a response, with so many bytes of bodies together.
    pub fn new(max_count: u32, max_bytes: u64) -> Copies {
        Copies { count: Cell::new(0), bytes: Cell::new(0), max_count, max_bytes }
    }

    /// `None` where there are too many.
    pub fn begin(self: &Rc<Self>, bytes: usize) -> Option<Copy> {
        let bytes = bytes as u64;
        if self.count.get() >= self.max_count || self.bytes.get().saturating_add(bytes) > self.max_bytes {
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
