//! Read buffers that a connection borrows from its worker only while bytes wait in them.
//!
//! An idle connection holds none, so ten thousand of them cost no buffer memory, and the buffer handed out next is the
//! one used last, which is still in the cache.
use std::cell::RefCell;

/// A buffer with a consumed front and a filled middle. `Buf::default()` owns no memory.
#[derive(Default)]
pub struct Buf {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buf {
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    pub fn is_full(&self) -> bool {
        !self.data.is_empty() && self.end - self.start == self.data.len()
    }
    /// Marks `n` bytes at the front as used up.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(self.start + n <= self.end);
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
    /// Room to read into; moves the filled bytes to the front when the room behind them is gone.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.end == self.data.len() && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.data[self.end..]
    }
    /// Marks `n` bytes of the spare room as filled.
    pub fn filled_more(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= self.data.len());
    }
    fn has_memory(&self) -> bool {
        !self.data.is_empty()
    }
}

/// The worker's stack of free buffers.
pub struct BufPool {
    free: RefCell<Vec<Box<[u8]>>>,
    size: usize,
    keep: usize,
}

impl BufPool {
    /// Buffers of `size` bytes, of which up to `keep` free ones are kept.
    pub fn new(size: usize, keep: usize) -> Self {
        BufPool { free: RefCell::new(Vec::new()), size, keep }
    }
    /// Gives `buf` memory if it has none.
    pub fn lend(&self, buf: &mut Buf) {
        if !buf.has_memory() {
            let data = self.free.borrow_mut().pop();
            buf.data = data.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        }
    }
    /// Doubles a buffer for what must lie in one piece, as a head that is longer than a buffer of the pool.
    pub fn enlarge(&self, buf: &mut Buf) {
        let mut data = vec![0; (buf.data.len() * 2).max(self.size)];
        let waiting = buf.filled();
        data[..waiting.len()].copy_from_slice(waiting);
        *buf = Buf { end: waiting.len(), start: 0, data: data.into_boxed_slice() };
    }
    /// Takes the memory back if nothing waits in it.
    pub fn reclaim(&self, buf: &mut Buf) {
        if buf.is_empty() && buf.has_memory() {
            let data = std::mem::take(buf).data;
            let mut free = self.free.borrow_mut();
            if free.len() < self.keep && data.len() == self.size {
                free.push(data);
            }
        }
    }
}
