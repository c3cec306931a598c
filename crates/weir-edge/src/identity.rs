//! Who the hub is to API servers and clients, and who its clients are.
pub mod bootstrap;
pub mod caller;
pub mod certificate;
pub mod serving;
pub mod stamp;
