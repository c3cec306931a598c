//! The plugins of a configuration, tried without a gateway around them (`weir check`).
use super::{
    Manager, ManagerOptions,
    code::{FetchOptions, RegistrySettings},
};
use crate::breaker::Breakers;
use crate::cluster::{ClusterOptions, ClusterRegistry, ClusterRt, EndpointSet};
use crate::verdict::state_of;
use std::{path::PathBuf, sync::Arc};
use tokio::runtime::Handle;
use weir_config::{
    delta::{Id, PLUGIN_CODE_UNAVAILABLE, ResourceKind, Verdict},
    diagnostic::{Diagnostic, Severity},
    model::{Config, Name},
};
use weir_net::dial::GuardedResolver;

/// Compiles, starts and configures each plugin once. Opens no listener and connects to no upstream, but
/// fetches code that has a URL. If `cache_dir` is unusable, code is compiled without it.
pub async fn check(config: &Config, cache_dir: Option<PathBuf>, registry: RegistrySettings) -> std::io::Result<Vec<Verdict>> {
    let clusters = Arc::new(ClusterRegistry::default());
    let mut slots = Vec::with_capacity(config.clusters.len());
    for (name, cluster) in &config.clusters {
        // Plugins only ask whether the cluster exists.
        let breakers = Arc::new(Breakers::default());
        let rt = ClusterRt::new(cluster.clone(), EndpointSet::default(), breakers, ClusterOptions::default());
        let slot = clusters.slot(name);
        slot.publish(Some(Arc::new(rt)));
        slots.push(slot);
    }
    let resolver = Arc::new(GuardedResolver::system()?);
    let fetch = FetchOptions { registry, ..FetchOptions::new(resolver.clone()) };
    let options = ManagerOptions { cache_dir, fetch, only_try: true, ..ManagerOptions::new(Handle::current(), resolver) };
    let manager = Manager::new(options, clusters)?;
    let plugins: Vec<_> = config.plugins.values().cloned().collect();
    let found = manager.apply(&plugins, &[], 0).finished().await;
    drop(slots);
    let verdict = |(name, mut findings): (Name, Vec<Diagnostic>)| {
        let remote = config.plugins.get(&name).is_some_and(|p| p.code.is_remote());
        for finding in findings.iter_mut().filter(|d| remote && d.reason == PLUGIN_CODE_UNAVAILABLE) {
            // The gateway may be able to reach the server even if this machine cannot.
            finding.severity = Severity::Warning;
        }
        Verdict { id: Id::new(ResourceKind::Plugin, name), revision: 0, state: state_of(&findings, false), findings }
    };
    Ok(found.into_iter().map(verdict).collect())
}
