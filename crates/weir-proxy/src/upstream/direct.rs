//! Clusters made on demand, for hosts that plugins name and no configuration knows. They count, limit and keep connections as
//! others do.
use super::{UpstreamError, WorkerCluster, clusters::WorkerClusters};
use crate::{
    breaker::Breakers,
    cluster::{ClusterOptions, ClusterRt, ClusterSlot, EndpointSet},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use weir_config::model::{Cluster, ClusterLoadAssignment, Discovery, Name, UpstreamProtocol};
use weir_net::tls;

/// The name that hosts outside of the configuration are counted under.
pub const DIRECT: &str = "plugin_callouts";

/// Host, port and whether it is under TLS.
type Key = (String, u16, bool);

/// The clusters of one worker.
#[derive(Default)]
pub struct DirectClusters {
    clusters: RefCell<HashMap<Key, Direct>>,
}

struct Direct {
    cluster: Rc<WorkerCluster>,
    used: Instant,
}

impl DirectClusters {
    /// The cluster of a host. Its endpoints are to be asked for with [`WorkerCluster::named_host`].
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn cluster(&self, w: &WorkerClusters, host: &str, port: u16, tls: bool) -> Result<Rc<WorkerCluster>, UpstreamError> {
        let mut all = self.clusters.borrow_mut();
        let key = (host.to_string(), port, tls);
        // Beyond the limit, the one unused for longest goes.
        if all.len() >= w.shared.options.max_callout_hosts as usize
            && !all.contains_key(&key)
            && let Some(oldest) = all.iter().min_by_key(|(_, d)| d.used).map(|(k, _)| k.clone())
        {
            all.remove(&oldest);
            w.shared.callout_host_overflow.fetch_add(1, Relaxed);
        }
        let known = match all.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Direct { cluster: worker_cluster(w, tls)?, used: Instant::now() })
            }
        };
        known.used = Instant::now();
        Ok(known.cluster.clone())
    }

    /// Closes what nobody has used for a while.
    pub fn sweep(&self, w: &WorkerClusters) {
        let now = w.now();
        self.clusters.borrow().values().for_each(|d| d.cluster.sweep(now));
    }
}

/// A cluster without endpoints of its own, with every default.
///
/// # Errors
/// TLS cannot be set up.
pub fn cluster(tls: bool, breakers: Breakers) -> Result<ClusterRt, UpstreamError> {
    let assignment = ClusterLoadAssignment { cluster: None, endpoints: Box::default() };
    let mut config = Cluster::new(DIRECT.into(), Discovery::Static(Arc::new(assignment)));
    config.protocol = UpstreamProtocol::Auto;
    let tls = tls.then(|| tls::Client::new(tls::ClientOptions::system())).transpose();
    let tls = tls.map_err(|e| UpstreamError::Tls(std::io::Error::other(e)))?.map(Arc::new);
    let options = ClusterOptions { tls, ..ClusterOptions::default() };
    Ok(ClusterRt::new(Arc::new(config), EndpointSet::default(), Arc::new(breakers), options))
}

fn worker_cluster(w: &WorkerClusters, tls: bool) -> Result<Rc<WorkerCluster>, UpstreamError> {
    let name: Name = DIRECT.into();
    let rt = cluster(tls, Breakers::new(w.shared.upstreams.clone()))?;
    // No table knows it: its number is never looked up.
    let slot = ClusterSlot::new(name.clone(), u32::MAX);
    let stats = w.shared.stats.cluster(&name, w.index);
    Ok(Rc::new(WorkerCluster::new(&slot, 0, Arc::new(rt), None, stats, w.random())))
}
