//! The clusters that TCP and UDP proxies choose from.
use crate::cluster::{ClusterRegistry, ClusterSlot};
use std::sync::Arc;
use weir_config::model::Name;

/// A weighted choice of clusters.
pub(super) struct WeightedClusters {
    clusters: Vec<(Arc<ClusterSlot>, u32)>,
    total_weight: u64,
}

impl WeightedClusters {
    pub fn new(clusters: &[(Name, u32)], registry: &ClusterRegistry) -> WeightedClusters {
        let clusters: Vec<_> = clusters.iter().map(|(name, weight)| (registry.slot(name), *weight)).collect();
        let total_weight = clusters.iter().map(|(_, w)| u64::from(*w)).sum();
        WeightedClusters { clusters, total_weight }
    }

    /// `None` if no cluster has a weight.
    pub fn choose(&self, random: u64) -> Option<&Arc<ClusterSlot>> {
        let mut at = random.checked_rem(self.total_weight)?;
        for (slot, weight) in &self.clusters {
            match at.checked_sub(u64::from(*weight)) {
                None => return Some(slot),
                Some(rest) => at = rest,
            }
        }
        None
    }

    /// Whether the cluster in this slot can be chosen.
    pub fn contains(&self, slot: &Arc<ClusterSlot>) -> bool {
        self.clusters.iter().any(|(known, weight)| Arc::ptr_eq(known, slot) && *weight > 0)
    }
}
