//! Clusters at run time. Compiled routes hold a [`ClusterSlot`], which is made once per name and filled, refilled and
//! emptied as clusters come and go, so that a changed cluster recompiles no route.
mod discovery;
mod dynamic_forward_proxy;
mod endpoints;
pub(crate) mod manager;
mod registry;

pub use dynamic_forward_proxy::{DnsCacheStats, ForwardProxy, Unresolved};
pub use endpoints::{EndpointRt, EndpointSet};
pub use registry::ClusterRegistry;
use registry::Slots;

use crate::{breaker::Breakers, outlier::Outliers};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use weir_config::model::{Cluster, Name};
use weir_net::{
    http::{client::ResponseLimits, parse},
    tls,
};

/// The place of one cluster name. An empty slot answers 503 with the flag `NC` and the detail `cluster_not_found`.
pub struct ClusterSlot {
    pub name: Name,
    /// Index for per-worker tables; taken again by another name once nothing holds this slot.
    pub id: u32,
    current: ArcSwapOption<ClusterRt>,
    version: AtomicU64,
    /// Where it is found by its name.
    registry: Weak<Mutex<Slots>>,
}

/// Requests wait for the names of a new cluster at most this long.
pub const WARM: Duration = Duration::from_secs(2);

/// Never twice the same number in one process: a worker that finds a reused id still notices.
fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl ClusterSlot {
    pub(crate) fn new(name: Name, id: u32) -> ClusterSlot {
        ClusterSlot { name, id, current: ArcSwapOption::empty(), version: AtomicU64::new(next_version()), registry: Weak::new() }
    }
    /// Changes with every change of the cluster or of its endpoints: the one thing that a worker compares per request.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
    pub fn current(&self) -> Option<Arc<ClusterRt>> {
        self.current.load_full()
    }
    pub(crate) fn publish(&self, cluster: Option<Arc<ClusterRt>>) {
        self.current.store(cluster);
        self.version.store(next_version(), Ordering::Release);
    }
    /// New endpoints for the same cluster. Without effect once `of` is no longer the current one.
    pub(crate) fn publish_endpoints(&self, of: &Arc<ClusterRt>, endpoints: EndpointSet) {
        of.endpoints.store(Arc::new(endpoints));
        self.version.store(next_version(), Ordering::Release);
    }
}

/// A cluster that can be used.
pub struct ClusterRt {
    pub config: Arc<Cluster>,
    /// Resolved addresses; replaced as DNS or the configuration changes. May be empty: 503 with the flag `UH`.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Kept over all versions of a cluster.
    pub breakers: Arc<Breakers>,
    /// Read as fields of the cluster; `None` for one that has none of them.
    options: Option<Box<ClusterOptions>>,
}

/// What a cluster may have beside its endpoints.
#[derive(Default)]
pub struct ClusterOptions {
    /// `None` for plain text. Kept as it is as long as neither its options nor its secrets change.
    pub tls: Option<Arc<tls::Client>>,
    /// Kept over all versions of a cluster; `None` as long as no version has outlier detection.
    pub outliers: Option<Arc<Outliers>>,
    /// Of a cluster whose endpoints the request names; its `endpoints` are empty.
    pub forward: Option<Arc<ForwardProxy>>,
    /// Of a cluster that was published without addresses for its names.
    pub warming: Option<watch::Receiver<Resolved>>,
}

impl Deref for ClusterRt {
    type Target = ClusterOptions;

    fn deref(&self) -> &ClusterOptions {
        static NONE: ClusterOptions = ClusterOptions { tls: None, outliers: None, forward: None, warming: None };
        self.options.as_deref().unwrap_or(&NONE)
    }
}

/// How far the names of a cluster have been resolved for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolved {
    No,
    /// Some have addresses.
    Some,
    /// Each was asked for.
    All,
}

impl ClusterRt {
    pub fn new(config: Arc<Cluster>, endpoints: EndpointSet, breakers: Arc<Breakers>, options: ClusterOptions) -> ClusterRt {
        let ClusterOptions { tls, outliers, forward, warming } = &options;
        let any = tls.is_some() || outliers.is_some() || forward.is_some() || warming.is_some();
        ClusterRt { config, endpoints: ArcSwap::from_pointee(endpoints), breakers, options: any.then(|| Box::new(options)) }
    }
    /// Waits until a new cluster has an address, or no name has any, or it takes too long. Without effect for other clusters.
    pub async fn warmed(&self) {
        if let Some(warming) = &self.warming {
            // An error says that a newer version of the cluster has taken its place.
            let _ = tokio::time::timeout(WARM, warming.clone().wait_for(|resolved| *resolved > Resolved::No)).await;
        }
    }
    /// What its endpoints may send before the body of a response.
    pub fn response_limits(&self) -> ResponseLimits {
        let limits = self.config.response_limits;
        let head = parse::Limits { bytes: limits.max_response_headers_bytes as usize, fields: limits.max_headers_count as usize };
        ResponseLimits { head, interim: limits.max_interim_responses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as there are clusters: what few of them have is boxed.
    #[test]
    fn clusters_are_small() {
        let sizes = [size_of::<ClusterRt>(), size_of::<ClusterSlot>(), size_of::<Breakers>(), size_of::<EndpointRt>()];
        assert!(sizes.iter().zip([32, 48, 48, 80]).all(|(size, most)| *size <= most), "{sizes:?}");
    }
}
