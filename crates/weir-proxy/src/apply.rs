//! Taking over a change of the configuration: secrets, clusters, plugins, routes, listeners; then what workers serve by is published, and
//! what is gone goes last. Resources are kept by name with indexes of what refers to what, so the cost is that of what changes.
mod listeners;
mod logs;
mod routes;

use crate::{
    Shared, Summary,
    app_log::Logger,
    cluster::{Resolved, manager::Manager},
    plugin::{FirstTry, Loading},
    route::RouteTable,
    secrets::Secrets,
    snapshot::LEAVES,
    verdict::state_of,
};
use listeners::{Changes, Listeners};
use routes::{Edits, Routes};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::sync::watch;
use weir_config::{
    delta::{Delta, Id, Resource, ResourceKind, State, Verdict},
    model::{Config, Name, WasmPlugin},
};
use weir_net::tls::Details;

/// What the configuring side holds.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    clusters: Manager,
    secrets: Secrets,
    plugins: BTreeMap<Name, Arc<WasmPlugin>>,
    routes: Routes,
    listeners: Listeners,
    revision: u64,
    /// Plugins that were never tried; told when connection managers use them.
    first_tries: HashMap<Name, watch::Receiver<bool>>,
    /// Clusters and endpoints that are gone, since when, while connection managers that wait for plugins, or requests on their way, still go
    /// to them.
    leaving: BTreeMap<Id, Instant>,
    /// Tables that were replaced. Workers may still hold them; they are freed here, as that may take a while.
    replaced: Vec<Arc<RouteTable>>,
    /// A task looks from time to time whether they can be freed.
    pub freeing: bool,
}

/// What is still to come once a delta is applied.
pub(crate) struct Applied {
    pub revision: u64,
    pub loading: Loading,
    /// Plugins that are tried for the first time: [`Applier::use_plugin`] is to be called when they were.
    pub first_tries: Vec<(FirstTry, watch::Sender<bool>)>,
    /// Told when plugins that were never tried are used, by what the delta brings.
    pub plugins: Vec<watch::Receiver<bool>>,
    /// Clusters whose names have no addresses yet.
    pub warming: Vec<watch::Receiver<Resolved>>,
}

/// What a delta brings, by kind.
#[derive(Default)]
struct Sorted {
    changed_secrets: HashSet<Name>,
    clusters: BTreeSet<Name>,
    gone_clusters: BTreeSet<Id>,
    plugins: Vec<Arc<WasmPlugin>>,
    gone_plugins: Vec<Name>,
    listeners: BTreeSet<Name>,
}

impl Applier {
    pub fn new(shared: Arc<Shared>, clusters: Manager) -> Applier {
        Applier {
            listeners: Listeners::new(shared.clone()),
            shared,
            clusters,
            secrets: Secrets::default(),
            plugins: BTreeMap::new(),
            routes: Routes::default(),
            revision: 0,
            first_tries: HashMap::new(),
            leaving: BTreeMap::new(),
            replaced: Vec::new(),
            freeing: false,
        }
    }

    /// Returns at once. What cannot be used yet (names without an address, plugins that were never tried, ports that are taken) holds
    /// back nothing else.
    pub fn apply(&mut self, delta: Delta) -> Applied {
        let shared = self.shared.clone();
        self.revision = delta.revision;
        let (mut edits, mut changes) = (Edits::default(), Changes::default());
        let mut sorted = self.sort(delta, &mut changes, &mut edits);
        let mut warming = Vec::new();

        sorted.clusters.extend(self.clusters.users(&sorted.changed_secrets).cloned());
        for name in &sorted.clusters {
            let Some(built) = self.clusters.build(name, &self.secrets, &sorted.changed_secrets, self.revision) else { continue };
            let state = state_of(&built.findings, built.warming.is_some());
            warming.extend(built.warming);
            let id = Id::new(ResourceKind::Cluster, name.clone());
            shared.verdicts.set(Verdict { id, revision: self.revision, state, findings: built.findings });
        }

        let loading = shared.plugins.apply(&sorted.plugins, &sorted.gone_plugins, self.revision);
        let first_tries: Vec<_> = loading.first_tries().filter(|t| !t.slot.is_tried()).map(|t| (t, watch::Sender::new(false))).collect();
        self.first_tries.extend(first_tries.iter().map(|(t, told)| (t.slot.name.clone(), told.subscribe())));
        let changed_plugins: HashSet<Name> = sorted.plugins.iter().map(|p| p.name.clone()).chain(sorted.gone_plugins).collect();

        for (config, host) in &edits.hosts {
            let id = Id::virtual_host(config, host);
            match self.routes.findings(config, host) {
                None => shared.verdicts.clear(&id),
                Some(findings) => {
                    let state = state_of(&findings, false);
                    shared.verdicts.set(Verdict { id, revision: self.revision, state, findings });
                }
            }
        }

        let holders = self.build_listeners(&sorted.listeners, &sorted.changed_secrets, &changed_plugins, &edits.configs, &mut changes);
        let own = first_tries.iter().map(|(_, told)| told.subscribe());
        let plugins = own.chain(holders.iter().filter_map(|p| self.first_tries.get(p)).cloned()).collect();
        self.publish(changes, &edits);

        let now = Instant::now();
        self.leaving.extend(sorted.gone_clusters.into_iter().map(|id| (id, now)));
        self.leave();
        shared.verdicts.taken_over(self.revision);
        Applied { revision: self.revision, loading, first_tries, plugins, warming }
    }

    /// Notes what the delta brings and takes over what needs nothing else.
    fn sort(&mut self, delta: Delta, changes: &mut Changes, edits: &mut Edits) -> Sorted {
        let (shared, revision) = (self.shared.clone(), self.revision);
        let mut out = Sorted::default();
        for resource in delta.set {
            match resource {
                Resource::Secret(secret) => {
                    let Some(changed) = self.secrets.set(&secret) else { continue };
                    if changed.usable {
                        out.changed_secrets.insert(secret.name.clone());
                    }
                    let (id, state) = (Id::new(ResourceKind::Secret, secret.name.clone()), state_of(&changed.findings, false));
                    shared.verdicts.set(Verdict { id, revision, state, findings: changed.findings });
                }
                Resource::Cluster(cluster) => {
                    self.leaving.remove(&Id::new(ResourceKind::Cluster, cluster.name.clone()));
                    out.clusters.insert(cluster.name.clone());
                    self.clusters.set(cluster);
                }
                Resource::Endpoints(cluster, endpoints) => {
                    self.leaving.remove(&Id::new(ResourceKind::Endpoints, cluster.clone()));
                    self.clusters.set_endpoints(&cluster, Some(endpoints));
                    out.clusters.insert(cluster);
                }
                Resource::Plugin(plugin) => {
                    self.plugins.insert(plugin.name.clone(), plugin.clone());
                    out.plugins.push(plugin);
                }
                Resource::VirtualHost(config, host) => self.routes.set(&config, &host, &shared.clusters, edits),
                Resource::Listener(listener) => {
                    out.listeners.insert(listener.name.clone());
                    self.listeners.set(listener, revision, changes);
                }
            }
        }
        for id in delta.gone {
            match (id.kind, &id.route_config) {
                (ResourceKind::VirtualHost, Some(config)) => self.routes.remove(config, &id.name, edits),
                (ResourceKind::VirtualHost, None) => {}
                (ResourceKind::Secret, _) => {
                    if self.secrets.remove(&id.name) {
                        shared.verdicts.clear(&id);
                        out.changed_secrets.insert(id.name);
                    }
                }
                (ResourceKind::Cluster | ResourceKind::Endpoints, _) => _ = out.gone_clusters.insert(id),
                (ResourceKind::Plugin, _) => {
                    self.plugins.remove(&id.name);
                    self.first_tries.remove(&id.name);
                    shared.verdicts.clear(&id);
                    out.gone_plugins.push(id.name);
                }
                (ResourceKind::Listener, _) => self.listeners.remove(&id.name),
            }
        }
        out
    }

    /// Builds these listeners and those that depend on what changed. Returns the plugins that keep any of it, or of the route
    /// configurations, from being used.
    fn build_listeners(
        &mut self,
        listeners: &BTreeSet<Name>,
        secrets: &HashSet<Name>,
        plugins: &HashSet<Name>,
        routes: &BTreeSet<Name>,
        changes: &mut Changes,
    ) -> BTreeSet<Name> {
        let mut build = self.listeners.dependents(secrets, plugins);
        build.extend(listeners.iter().cloned());
        for name in &build {
            self.listeners.build(name, &self.secrets, secrets, plugins, changes);
        }
        self.listeners.leave(changes);
        self.listeners.holders(&build, routes)
    }

    fn publish(&mut self, mut changes: Changes, edits: &Edits) {
        let shared = self.shared.clone();
        let tables = edits.configs.iter().map(|name| (name.clone(), self.routes.table(name))).collect();
        self.replaced.extend(shared.connection_managers.publish(std::mem::take(&mut changes.hcms), tables));
        self.listeners.publish(changes);
        shared.summary.store(Arc::new(Summary {
            version: self.revision,
            made_at: SystemTime::now(),
            routes: self.routes.count(),
            clusters: self.clusters.len(),
            plugins: self.plugins.len(),
        }));
        self.free();
    }

    /// Frees tables and clusters that no worker uses any more. Returns whether there are others.
    pub fn free(&mut self) -> bool {
        self.replaced.retain(|table| Arc::strong_count(table) > 1);
        self.leave();
        !self.replaced.is_empty() || !self.leaving.is_empty()
    }

    /// Lets go of clusters that are gone, when no route leads to them any more. A request that has chosen its route by a table that was
    /// replaced finds them for a while.
    fn leave(&mut self) {
        if self.listeners.is_held() {
            return;
        }
        let (now, in_use) = (Instant::now(), !self.replaced.is_empty());
        let stays = |since: &Instant| in_use && now - *since < LEAVES;
        let (leaving, gone): (_, BTreeMap<_, _>) = std::mem::take(&mut self.leaving).into_iter().partition(|(_, since)| stays(since));
        self.leaving = leaving;
        for id in gone.into_keys() {
            match id.kind {
                ResourceKind::Cluster => {
                    self.clusters.remove(&id.name);
                    self.shared.stats.clusters.remove(&id.name);
                    self.shared.verdicts.clear(&id);
                }
                _ => {
                    self.clusters.set_endpoints(&id.name, None);
                    self.clusters.build(&id.name, &self.secrets, &HashSet::new(), self.revision);
                }
            }
        }
    }

    /// A plugin was tried for the first time: connection managers that wait for it use it from now on.
    pub fn use_plugin(&mut self, name: &Name) {
        self.first_tries.remove(name);
        let (plugins, mut changes) = (HashSet::from([name.clone()]), Changes::default());
        self.build_listeners(&BTreeSet::new(), &HashSet::new(), &plugins, &BTreeSet::new(), &mut changes);
        self.publish(changes, &Edits::default());
        self.leave();
    }

    /// Binds addresses that could not be bound and are free now.
    pub fn retry(&mut self) {
        let bindable = self.listeners.bindable();
        if bindable.is_empty() {
            return;
        }
        let (mut changes, nothing) = (Changes::default(), HashSet::new());
        self.build_listeners(&bindable, &nothing, &nothing, &BTreeSet::new(), &mut changes);
        self.publish(changes, &Edits::default());
        for name in bindable {
            let verdict = self.shared.verdicts.get(&Id::new(ResourceKind::Listener, name));
            for finding in verdict.iter().filter(|v| v.state != State::Live).flat_map(|v| &v.findings) {
                Logger::Config.warning(format_args!("{}", finding.line()));
            }
        }
    }

    /// The configuration as it was given, with what was refused.
    pub fn config(&self) -> Config {
        Config {
            listeners: self.listeners.given().map(|(n, l)| (n.clone(), l.clone())).collect(),
            routes: self.routes.given().collect(),
            clusters: self.clusters.clusters().map(|(n, c)| (n.clone(), c.clone())).collect(),
            endpoints: self.clusters.endpoints().map(|(n, e)| (n.clone(), e.clone())).collect(),
            secrets: self.secrets.given().map(|(n, s)| (n.clone(), s.clone())).collect(),
            plugins: self.plugins.clone(),
        }
    }

    /// What to show of every certificate that can be served, in the order of names.
    pub fn certificates(&self) -> Vec<(Name, Details)> {
        self.secrets.certificates()
    }
}

#[cfg(test)]
mod tests;
