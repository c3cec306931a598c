//! The filters that are part of a route: header edits, cross-origin sharing, fault injection.
pub mod cors;
pub mod fault;
pub mod headers;
