//! Frames of a protobuf watch: four bytes of length, the highest first, then so many bytes.
use super::{Problem, Step};

const HEADER: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The part of the length that has arrived.
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the frame that are yet to come.
    left: usize,
}

impl Scanner {
    pub(super) fn scan(&mut self, piece: &[u8], max: usize) -> Result<Step, Problem> {
        if self.left > 0 {
            let length = self.left.min(piece.len());
            self.left -= length;
            return Ok(Step::Content { length, last: self.left == 0 });
        }
        let length = piece.len().min(HEADER - self.have);
        self.header[self.have..self.have + length].copy_from_slice(&piece[..length]);
        self.have += length;
        if self.have == HEADER {
            self.have = 0;
            self.left = u32::from_be_bytes(self.header) as usize;
            match self.left {
                0 => return Err(Problem::Empty),
                left if left > max => return Err(Problem::TooLong),
                _ => {}
            }
        }
        Ok(Step::Header(length))
    }
}
