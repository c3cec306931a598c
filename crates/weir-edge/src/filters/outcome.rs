//! What a filter says of an object.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client sees it, as the filter may have changed it.
    Keep,
    /// The client does not see it.
    Drop,
}
