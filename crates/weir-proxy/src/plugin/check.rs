//! The plugins of a configuration, tried without a gateway around them (`weir check`).
use super::{CODE_UNAVAILABLE, Manager, ManagerOptions};
use crate::breaker::Breakers;
use crate::cluster::{ClusterRegistry, ClusterRt};
use crate::outlier::Outliers;
use arc_swap::ArcSwap;
use std::{path::PathBuf, sync::Arc};
use tokio::runtime::Handle;
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{Config, WasmCode},
};
use weir_net::dial::GuardedResolver;

/// Compiles, starts and configures each plugin once and returns what is wrong. Opens no listener and connects to no upstream, but
/// fetches code that has a URL. If `cache_dir` is unusable, code is compiled without it.
pub async fn check(config: &Config, cache_dir: Option<PathBuf>) -> std::io::Result<Vec<Diagnostic>> {
    let clusters = Arc::new(ClusterRegistry::default());
    let mut slots = Vec::with_capacity(config.clusters.len());
    for (name, cluster) in &config.clusters {
        // Plugins only ask whether the cluster exists.
        let rt = ClusterRt {
            config: cluster.clone(),
            endpoints: ArcSwap::default(),
            tls: None,
            breakers: Arc::new(Breakers::default()),
            outliers: Arc::new(Outliers::default()),
            forward: None,
            warming: None,
        };
        let slot = clusters.slot(name);
        slot.publish(Some(Arc::new(rt)));
        slots.push(slot);
    }
    let resolver = Arc::new(GuardedResolver::system()?);
    let options = ManagerOptions { cache_dir, only_try: true, ..ManagerOptions::new(Handle::current(), resolver) };
    let manager = Manager::new(options, clusters)?;
    let plugins: Vec<_> = config.plugins.values().cloned().collect();
    let mut found = manager.apply(&plugins, &[], 0).finished().await;
    for finding in found.iter_mut().filter(|d| d.reason == CODE_UNAVAILABLE) {
        let plugin = config.plugins.values().find(|p| finding.object.as_ref() == Some(&p.origin.object));
        if plugin.is_some_and(|p| matches!(p.code, WasmCode::Http { .. })) {
            // The gateway may be able to reach the server even if this machine cannot.
            finding.severity = Severity::Warning;
        }
    }
    drop(slots);
    Ok(found)
}
