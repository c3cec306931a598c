//! Route configurations, edited host by host.
use crate::{
    cluster::ClusterRegistry,
    route::{RouteConfigRt, RouteTable, matcher::Patterns},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, RouteConfiguration, VirtualHost},
};

#[derive(Default)]
pub(super) struct Routes {
    configs: HashMap<Name, RouteConfigRt>,
    /// Routes in all virtual hosts.
    count: usize,
}

/// What a delta does to route configurations.
#[derive(Default)]
pub(super) struct Edits {
    patterns: Patterns,
    /// Route configurations that have changed.
    pub configs: BTreeSet<Name>,
    /// Virtual hosts whose findings may be others, with their route configurations.
    pub hosts: BTreeSet<(Name, Name)>,
}

impl Routes {
    pub fn set(&mut self, name: &Name, host: &Arc<VirtualHost>, clusters: &ClusterRegistry, edits: &mut Edits) {
        let config = self.configs.entry(name.clone()).or_insert_with(|| RouteConfigRt::new(name.clone()));
        self.count -= config.host(&host.name).map_or(0, |h| h.config().routes.len());
        self.count += host.routes.len();
        let touched = config.set(host, &mut |name| clusters.slot(name), &mut edits.patterns);
        edits.note(name, touched);
    }

    pub fn remove(&mut self, name: &Name, host: &Name, edits: &mut Edits) {
        let Some(config) = self.configs.get_mut(name) else { return };
        self.count -= config.host(host).map_or(0, |h| h.config().routes.len());
        let touched = config.remove(host);
        if config.is_empty() {
            self.configs.remove(name);
        }
        edits.note(name, touched);
    }

    /// `None` once it has no virtual host.
    pub fn table(&self, name: &Name) -> Option<Arc<RouteTable>> {
        self.configs.get(name).map(|c| c.table().clone())
    }

    /// `None`: there is no such virtual host.
    pub fn findings(&self, name: &Name, host: &Name) -> Option<Vec<Diagnostic>> {
        let config = self.configs.get(name)?;
        config.host(host).map(|_| config.findings(host))
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Virtual hosts that were compiled so far.
    #[cfg(test)]
    pub fn compiled(&self) -> usize {
        self.configs.values().map(|c| c.compiled).sum()
    }

    /// As they were given, the virtual hosts by name.
    pub fn given(&self) -> impl Iterator<Item = (Name, Arc<RouteConfiguration>)> {
        self.configs.iter().map(|(name, config)| {
            let mut virtual_hosts: Vec<_> = config.hosts().map(|h| h.config().clone()).collect();
            virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
            (name.clone(), Arc::new(RouteConfiguration { name: name.clone(), virtual_hosts }))
        })
    }
}

impl Edits {
    fn note(&mut self, name: &Name, touched: BTreeSet<Name>) {
        self.configs.insert(name.clone());
        self.hosts.extend(touched.into_iter().map(|host| (name.clone(), host)));
    }
}
