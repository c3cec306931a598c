//! Frames of a JSON watch: objects one after the other. The API server ends each with a line break, which is not relied on.
use super::{Problem, Step};
use crate::apimachinery::json::{Nesting, TooDeep};

#[derive(Debug, Default)]
pub(super) struct Scanner {
    nesting: Nesting,
}

impl Scanner {
    pub(super) fn scan(&mut self, piece: &[u8]) -> Result<Step, Problem> {
        if self.nesting.is_empty() {
            match whitespace(piece) {
                0 if piece[0] != b'{' => return Err(Problem::NotAnObject),
                0 => {}
                length => return Ok(Step::Between(length)),
            }
        }
        match self.nesting.scan(piece).map_err(|TooDeep(at)| Problem::TooDeep(at))? {
            Some(length) => Ok(Step::Content { length, last: true }),
            None => Ok(Step::Content { length: piece.len(), last: false }),
        }
    }
}

/// How many bytes of whitespace a piece begins with.
pub(super) fn whitespace(piece: &[u8]) -> usize {
    piece.iter().take_while(|byte| matches!(byte, b'\n' | b' ' | b'\r' | b'\t')).count()
}
