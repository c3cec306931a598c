//! The control plane: sources of objects, the index of what is derived from what, and translation into the model.
//!
//! Layers, lowest first; each uses only those before it:
//!
//! - [`object::meta`]: kinds, keys, metadata and documents
//! - [`api`]: the types of each kind and the decoders that make them
//! - [`object`]: an object of any kind
//! - `aspect`: the parts of objects that others depend on
//! - [`source`]: files and folders, read and watched
//! - [`kubernetes`]: the objects of a cluster, read and watched
//! - [`status`]: what to show of each object
//! - [`store`]: objects by key
//! - [`registry`]: services of registries, as objects
//! - [`translate`]: from objects to resources, one module per API
//! - [`index`]: what is derived from what
//! - [`control`]: all of it, as a thread
//!
//! The result is a [`weir_config::delta::Delta`] for each change.
#![forbid(unsafe_code)]

mod addresses;
pub mod api;
mod artifact;
mod aspect;
pub mod control;
mod dense;
mod direct;
mod guard;
pub mod index;
pub mod kubernetes;
pub mod migrate;
pub mod object;
pub mod registry;
pub mod source;
pub mod status;
pub mod store;
pub mod translate;

pub use api::gateway_api::features::{FEATURES, Feature, supported as supported_features};
pub use control::{Control, Read, Sources, Update};
pub use direct::Direct;
pub use status::Status;

use object::Key;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};
use weir_config::model::{AccessLog, CidrRange, Name};

/// Those of Istio, Higress and Weir.
const SYSTEM_NAMESPACES: [&str; 3] = ["istio-system", "higress-system", "weir-system"];

/// How objects become a configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// For kinds that name no port, as Ingress. Default 8080.
    pub http_port: u16,
    /// As `http_port`, with TLS. Default 8443.
    pub https_port: u16,
    /// What listeners bind to; 0.0.0.0 by default.
    pub address: IpAddr,
    /// Addresses for Gateways without `spec.addresses`, one for each; without a range they share `address`.
    pub gateway_address_pool: Option<CidrRange>,
    /// The ConfigMap with the target ports of Gateways that have a Service each.
    pub target_ports: Option<Key>,
    /// The folder whose files objects of a cluster may name; without it they may name none.
    pub file_references: Option<PathBuf>,
    /// The namespaces whose McpBridge is used, and of a cluster whose ConfigMaps are settings of the whole gateway.
    pub system_namespaces: Vec<Name>,
    /// The labels of this workload, which Istio's selectors ask for: `selector` of Gateways, `workloadSelector` of
    /// DestinationRules, `sourceLabels` of VirtualServices. Empty opens every Gateway.
    pub labels: BTreeMap<String, String>,
    /// Where the status of objects is written.
    pub status: Status,
    /// Tells how the connection to a cluster is.
    pub kubernetes: kubernetes::Stats,
    /// How the servers of registries are reached, and how they are.
    pub registries: registry::Options,
    /// A Gateway or an Ingress needs a class object of Weir's controller, as in a cluster that others use, too. Without this, every
    /// class is Weir's that no object gives to another controller.
    pub needs_class: bool,
    /// Expect a PROXY protocol header on every listener.
    pub proxy_protocol: bool,
    /// Of every listener.
    pub access_log: Vec<AccessLog>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            http_port: 8080,
            https_port: 8443,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            gateway_address_pool: None,
            target_ports: None,
            file_references: None,
            system_namespaces: SYSTEM_NAMESPACES.map(Name::from).into(),
            labels: BTreeMap::new(),
            status: Status::default(),
            kubernetes: kubernetes::Stats::default(),
            registries: registry::Options::default(),
            needs_class: false,
            proxy_protocol: false,
            access_log: Vec::new(),
        }
    }
}
