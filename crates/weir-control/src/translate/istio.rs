//! Istio's networking kinds: Gateway, VirtualService, DestinationRule, ServiceEntry, WorkloadEntry.
//!
//! Each is read into small values by the module of its name. A Gateway becomes what it asks of ports (`server`), a
//! VirtualService becomes routes (`route`, `delegate`) and byte streams (`stream`), the other two become clusters (`upstream`).
mod auto_passthrough;
mod delegate;
mod destination_rule;
mod gateway;
mod locality;
mod read;
mod route;
mod server;
mod service_entry;
mod stream;
mod upstream;
mod virtual_service;

pub use destination_rule::{DestinationRule, decode as decode_destination_rule};
pub use gateway::{Gateway, decode as decode_gateway};
pub use read::{Labels, header_name, labels, selects};
pub use route::translate as translate_virtual_service;
pub use server::translate as translate_gateway;
pub use service_entry::{ServiceEntry, WorkloadEntry, decode as decode_service_entry, decode_workload as decode_workload_entry};
pub use upstream::{service_entry, traffic_policy};
pub use virtual_service::{VirtualService, decode as decode_virtual_service};

use crate::object::Meta;
use weir_config::model::Name;

/// Its hosts: those that meet there are put together.
pub fn virtual_service_index_keys(_: &Meta, service: &VirtualService) -> Vec<Name> {
    service.hosts.clone()
}

/// Its full host; wildcards as they stand.
pub fn destination_rule_index_keys(_: &Meta, rule: &DestinationRule) -> Vec<Name> {
    vec![rule.host.clone()]
}

/// Its hosts; wildcards as they stand.
pub fn service_entry_index_keys(_: &Meta, entry: &ServiceEntry) -> Vec<Name> {
    entry.hosts.clone()
}
