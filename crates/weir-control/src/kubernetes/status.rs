//! Writes the `status` of the objects of a cluster.
//!
//! `shape` makes the status of an object by what the board says, `validation` the messages of Istio's kinds, `queue` holds the objects to look at, `service`
//! knows the addresses of the Service in front, `events` says what is found about objects without conditions, `lease` decides who writes, `leader` keeps the Lease, and `writer` does it.
pub mod events;
mod leader;
mod lease;
mod queue;
mod release;
mod service;
mod shape;
pub mod validation;
mod writer;

pub use leader::Leader;
pub use queue::Queue;
pub use service::addresses_of;
pub use writer::{Writer, WriterOptions};
