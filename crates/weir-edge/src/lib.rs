//! The edge hub: a node's caching gateway of the Kubernetes API. While the link to the API server is up it passes requests on and
//! keeps what passes; without the link it answers from what it has kept.
#![forbid(unsafe_code)]

pub mod event;
pub mod frame;
pub mod json;
pub mod list;
pub mod media;
pub mod object;
pub mod request;
pub mod store;
pub mod wire;
