//! The edge hub: a node's caching gateway of the Kubernetes API. While the link to the API server is up it passes requests on and
//! keeps what passes; without the link it answers from what it has kept.
#![forbid(unsafe_code)]

pub mod admin;
pub mod apimachinery;
pub mod asked;
pub mod body;
pub mod cache;
pub mod convert;
pub mod drain;
pub mod dummy;
pub mod durable;
pub mod filters;
pub mod follow;
pub mod handover;
pub mod hub;
pub mod identity;
pub mod offline;
mod random;
pub mod recent;
pub mod run;
pub mod settings;
pub mod store;
pub mod tunnel;
pub mod upstream;
