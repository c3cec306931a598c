//! Istio's kinds: Gateway, VirtualService, DestinationRule, ServiceEntry, WorkloadEntry, AuthorizationPolicy.
pub mod authorization_policy;
pub mod destination_rule;
pub mod gateway;
pub mod locality;
pub mod read;
pub mod service_entry;
pub mod virtual_service;

pub use authorization_policy::{AuthorizationPolicy, decode as decode_authorization_policy};
pub use destination_rule::{DestinationRule, decode as decode_destination_rule};
pub use gateway::{Gateway, decode as decode_gateway};
pub use service_entry::{ServiceEntry, WorkloadEntry, decode as decode_service_entry, decode_workload as decode_workload_entry};
pub use virtual_service::{VirtualService, decode as decode_virtual_service};
