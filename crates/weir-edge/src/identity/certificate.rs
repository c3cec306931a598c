//! The certificates of the hub: what it shows to API servers, and what its clients see.
pub mod manager;
pub mod pair;
pub mod request;
pub mod self_signed;
pub mod validity;
