//! Errors of the host in scripts.

/// An error that a function of the host raises: scripts see a table with `err`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);
