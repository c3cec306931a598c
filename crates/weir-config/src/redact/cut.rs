//! What is hidden in a text.
use std::ops::Range;

/// What Envoy prints for a field that is marked as sensitive.
pub const REDACTED: &str = "[redacted]";

/// What to hide in a text, and what to show instead.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cut {
    pub bytes: Range<usize>,
    pub shown: &'static str,
}

impl Cut {
    pub fn of(bytes: Range<usize>) -> Cut {
        Cut { bytes, shown: REDACTED }
    }
}
