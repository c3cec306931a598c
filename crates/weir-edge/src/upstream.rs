//! The way to the API servers.
pub mod api;
pub mod connect;
pub mod credentials;
pub mod health;
pub mod kubeconfig;
pub mod node;
pub mod remote;
