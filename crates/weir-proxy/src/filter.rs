//! The filters that are part of a route: access by address, rate limits, header edits, cross-origin sharing, fault injection.
pub mod compressor;
pub mod cors;
pub mod fault;
pub mod guard;
pub mod headers;
pub mod local_rate_limit;
