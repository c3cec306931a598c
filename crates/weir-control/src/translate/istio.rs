//! Istio's networking kinds. A Gateway becomes what it asks of ports (`server`), a VirtualService becomes routes (`route`,
//! `delegate`) and byte streams (`stream`), DestinationRules and ServiceEntries become clusters (`upstream`).
mod authorization_policy;
mod auto_passthrough;
mod delegate;
mod destination;
mod files;
mod locality;
mod place;
mod redirect;
mod route;
mod server;
mod stream;
mod terminate;
mod upstream;

pub use authorization_policy::translate as translate_authorization_policy;
pub use destination::resolve as resolve_destination;
pub use route::translate as translate_virtual_service;
pub use server::translate as translate_gateway;
pub use upstream::{service_entry, traffic_policy};
