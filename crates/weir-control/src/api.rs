//! The APIs that Weir reads: for each kind its own small types and the decoder that makes them of a document. Nothing here
//! knows another object: what objects mean together is translation.
pub mod checks;
pub mod gateway_api;
pub mod ingress;
pub mod istio;
pub mod kubernetes;
pub mod labels;
pub mod mcp_bridge;
pub mod plugin;
pub mod settings;
pub mod target_ports;
