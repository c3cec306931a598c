//! What filters know beside the object: the node, its pool, the topology that Services ask for, the address of the hub.
use crate::store::ObjectName;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The name of the node.
    pub node: String,
    pub settings: Settings,
    /// The node pool of the node.
    pub pool: Option<String>,
    /// The nodes of that pool; `None` while they are not known.
    pub pool_nodes: Option<BTreeSet<String>>,
    /// `openyurt.io/topologyKeys` of the Services that have it.
    pub topology: Arc<BTreeMap<ObjectName, String>>,
    /// The Services were read once, or are not waited for any longer.
    pub settled: bool,
    /// Where pods of this node reach the hub; `None`: they do not.
    pub hub: Option<SocketAddr>,
    /// Pods whose status was changed without the API server.
    pub repairs: Arc<BTreeMap<ObjectName, Repair>>,
    /// The newest resource version that was given to a client before this context. A client that goes on from a later one has seen
    /// everything with this context.
    pub mark: u64,
}

/// Which filters there are, and for which clients beside those of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub off: bool,
    pub disabled: BTreeSet<String>,
    /// Clients by the name of a filter.
    pub agents: BTreeMap<String, BTreeSet<String>>,
}

/// What a pod's endpoints are, as kubelet reported it without the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub uid: String,
    pub ips: Vec<IpAddr>,
    pub ready: bool,
    /// The resource version with which the API server took it. What it wrote later than that counts.
    pub sent: Option<u64>,
}
