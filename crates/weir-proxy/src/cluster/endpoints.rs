//! The addresses of a cluster as they are right now.
use crate::outlier::HostState;
use std::{net::SocketAddr, sync::Arc, time::Instant};
use weir_config::model::{Address, ClusterLoadAssignment, Endpoint, HealthStatus};

/// One usable address.
#[derive(Debug, PartialEq)]
pub struct EndpointRt {
    pub address: SocketAddr,
    /// The name that the address comes from, weight, priority, locality, labels, and what the source says of its health.
    pub config: Arc<Endpoint>,
    /// What requests to it came to.
    pub outlier: HostState,
    /// When it was first seen.
    pub since: Instant,
}

/// All usable addresses. An endpoint that stays keeps its `Arc` from one set to the next.
#[derive(Debug, Default)]
pub struct EndpointSet {
    pub endpoints: Box<[Arc<EndpointRt>]>,
}

impl EndpointSet {
    /// The endpoints of `assignment`, with `resolve` giving the addresses of a name (in the order of preference, empty
    /// while it is unknown). What was there before keeps its identity; an address that stands twice counts once.
    pub fn build(
        assignment: &ClusterLoadAssignment,
        previous: &EndpointSet,
        resolve: &dyn Fn(&str) -> Vec<std::net::IpAddr>,
    ) -> EndpointSet {
        let mut endpoints = Vec::with_capacity(assignment.endpoints.len());
        let mut seen = std::collections::HashSet::with_capacity(assignment.endpoints.len());
        let old: std::collections::HashMap<_, _> = previous.endpoints.iter().map(|e| (e.address, e)).collect();
        let mut add = |address: SocketAddr, hostname: Option<&str>, config: &Arc<Endpoint>| {
            if !seen.insert(address) {
                return;
            }
            let kept = old.get(&address).filter(|e| e.hostname() == hostname && *e.config == **config);
            let new = || Arc::new(EndpointRt::new(address, config.clone()));
            endpoints.push(kept.map_or_else(new, |e| (*e).clone()));
        };
        for e in &assignment.endpoints {
            match &e.address {
                Address::Socket(a) => add(*a, None, e),
                Address::Name { host, port } => {
                    for ip in resolve(host) {
                        add(SocketAddr::new(ip, *port), Some(host), e);
                    }
                }
            }
        }
        EndpointSet { endpoints: endpoints.into() }
    }

    /// Whether both hold the same endpoints in the same order.
    pub fn same(&self, other: &EndpointSet) -> bool {
        self.endpoints.len() == other.endpoints.len() && self.endpoints.iter().zip(&other.endpoints).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl EndpointRt {
    /// One that was not there before.
    pub fn new(address: SocketAddr, config: Arc<Endpoint>) -> EndpointRt {
        EndpointRt { address, config, outlier: HostState::default(), since: Instant::now() }
    }
    /// The name that it was resolved from: for `auto_host_rewrite` and for TLS.
    pub fn hostname(&self) -> Option<&str> {
        match &self.config.address {
            Address::Name { host, .. } => Some(host),
            Address::Socket(_) => None,
        }
    }
    /// Whether the source lets it take new requests.
    pub fn accepts_requests(&self) -> bool {
        self.config.health == HealthStatus::Healthy
    }
}
