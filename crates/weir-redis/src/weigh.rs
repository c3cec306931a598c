//! What values cost.
use bytes::Bytes;

/// Bytes that count against the memory limit, known without a walk.
pub trait Weigh {
    fn weight(&self) -> usize;
}

impl Weigh for Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weigh for () {
    fn weight(&self) -> usize {
        0
    }
}

impl Weigh for f64 {
    fn weight(&self) -> usize {
        8
    }
}
