//! The resources as of now, by id, and which of them changed since the last delta.
use crate::dense;
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::{
    delta::{Delta, Id, Resource, ResourceKind},
    model::{Cluster, ClusterLoadAssignment, Config, Listener, Name, Secret, VirtualHost, WasmPlugin},
};

/// By (table, virtual host); `None` for one that is gone.
type Hosts = BTreeMap<(Name, Name), Option<Arc<VirtualHost>>>;

/// A cluster with its endpoints, in the order of names.
struct Known {
    cluster: Arc<Cluster>,
    endpoints: Option<Arc<ClusterLoadAssignment>>,
}

impl Borrow<str> for Known {
    fn borrow(&self) -> &str {
        &self.cluster.name
    }
}

impl Ord for Known {
    fn cmp(&self, other: &Known) -> Ordering {
        self.cluster.name.cmp(&other.cluster.name)
    }
}

impl PartialOrd for Known {
    fn partial_cmp(&self, other: &Known) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Known {}

#[derive(Default)]
pub struct Catalog {
    clusters: BTreeSet<Known>,
    secrets: BTreeMap<Name, Arc<Secret>>,
    plugins: BTreeMap<Name, Arc<WasmPlugin>>,
    listeners: BTreeMap<Name, Arc<Listener>>,
    /// The cluster that was set last: the next one mostly has the same settings.
    last_cluster: Option<Arc<Cluster>>,
    changed: BTreeSet<(ResourceKind, Name)>,
    hosts: Hosts,
    revision: u64,
}

impl Catalog {
    /// Everything but the routes, which the tables hold. Costs the work of all of it.
    pub fn config(&self) -> Config {
        let endpoints = self.clusters.iter().filter_map(|known| Some((known.cluster.name.clone(), known.endpoints.clone()?)));
        Config {
            clusters: self.clusters().map(|cluster| (cluster.name.clone(), cluster.clone())).collect(),
            endpoints: endpoints.collect(),
            secrets: self.secrets.clone(),
            plugins: self.plugins.clone(),
            listeners: self.listeners.clone(),
            ..Config::default()
        }
    }
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().map(|known| &known.cluster)
    }
    pub fn secrets(&self) -> &BTreeMap<Name, Arc<Secret>> {
        &self.secrets
    }
    pub fn listener(&self, name: &Name) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }
    pub fn set_secret(&mut self, name: Name, new: Option<Secret>) {
        put(&mut self.secrets, name, new, ResourceKind::Secret, &mut self.changed);
    }
    /// Puts or removes a cluster with its endpoints.
    pub fn set_cluster(&mut self, name: Name, new: Option<Cluster>, endpoints: Option<ClusterLoadAssignment>) {
        let before = self.clusters.take(&*name);
        let (old, old_endpoints) = before.map_or((None, None), |known| (Some(known.cluster), known.endpoints));
        let (cluster, changed) = kept(old, new);
        let (endpoints, moved) = kept(old_endpoints, endpoints.filter(|_| cluster.is_some()));
        if let Some(cluster) = cluster {
            self.last_cluster = Some(cluster.clone());
            self.clusters.insert(Known { cluster, endpoints });
        }
        let kinds = [(ResourceKind::Cluster, changed), (ResourceKind::Endpoints, moved)];
        self.changed.extend(kinds.into_iter().filter(|(_, changed)| *changed).map(|(kind, _)| (kind, name.clone())));
    }
    /// Replaces a cluster, whose endpoints stay.
    pub fn edit_cluster(&mut self, new: Cluster) {
        let Some(Known { cluster, endpoints }) = self.clusters.take(&*new.name) else { return };
        let name = new.name.clone();
        let (cluster, changed) = kept(Some(cluster), Some(new));
        self.last_cluster.clone_from(&cluster);
        self.clusters.extend(cluster.map(|cluster| Known { cluster, endpoints }));
        self.changed.extend(changed.then_some((ResourceKind::Cluster, name)));
    }
    pub fn last_cluster(&self) -> Option<&Cluster> {
        self.last_cluster.as_deref()
    }
    pub fn set_plugin(&mut self, name: Name, new: Option<WasmPlugin>) {
        put(&mut self.plugins, name, new, ResourceKind::Plugin, &mut self.changed);
    }
    pub fn set_listener(&mut self, name: Name, new: Option<Listener>) {
        put(&mut self.listeners, name, new, ResourceKind::Listener, &mut self.changed);
    }
    /// After many changes.
    pub fn pack(&mut self) {
        dense::pack(&mut self.clusters);
    }
    /// A virtual host that changed, or is gone.
    pub fn set_host(&mut self, table: Name, name: Name, new: Option<Arc<VirtualHost>>) {
        self.hosts.insert((table, name), new);
    }

    /// What changed since the last one.
    pub fn delta(&mut self) -> Delta {
        self.revision += 1;
        let mut delta = Delta { revision: self.revision, ..Delta::default() };
        let mut hosts = Some(std::mem::take(&mut self.hosts));
        for (kind, name) in std::mem::take(&mut self.changed) {
            if kind > ResourceKind::VirtualHost {
                add_hosts(hosts.take(), &mut delta);
            }
            match self.resource(kind, &name) {
                Some(resource) => delta.set.push(resource),
                None => delta.gone.push(Id::new(kind, name)),
            }
        }
        add_hosts(hosts, &mut delta);
        delta
    }

    fn resource(&self, kind: ResourceKind, name: &Name) -> Option<Resource> {
        Some(match kind {
            ResourceKind::Secret => Resource::Secret(self.secrets.get(name)?.clone()),
            ResourceKind::Cluster => Resource::Cluster(self.clusters.get(&**name)?.cluster.clone()),
            ResourceKind::Endpoints => Resource::Endpoints(name.clone(), self.clusters.get(&**name)?.endpoints.clone()?),
            ResourceKind::Plugin => Resource::Plugin(self.plugins.get(name)?.clone()),
            ResourceKind::Listener => Resource::Listener(self.listeners.get(name)?.clone()),
            ResourceKind::VirtualHost => return None,
        })
    }
}

fn add_hosts(hosts: Option<Hosts>, delta: &mut Delta) {
    for ((table, name), host) in hosts.into_iter().flatten() {
        match host {
            Some(host) => delta.set.push(Resource::VirtualHost(table, host)),
            None => delta.gone.push(Id::virtual_host(&table, &name)),
        }
    }
}

/// The new value, or the old one where both are equal, and whether they differ.
fn kept<T: PartialEq>(old: Option<Arc<T>>, new: Option<T>) -> (Option<Arc<T>>, bool) {
    match (old, new) {
        (Some(old), Some(new)) if *old == new => (Some(old), false),
        (old, None) => (None, old.is_some()),
        (_, Some(new)) => (Some(Arc::new(new)), true),
    }
}

/// Puts, replaces or removes a resource and notes that. An equal one keeps its `Arc` and is not noted.
fn put<T: PartialEq>(
    map: &mut BTreeMap<Name, Arc<T>>,
    name: Name,
    new: Option<T>,
    kind: ResourceKind,
    noted: &mut BTreeSet<(ResourceKind, Name)>,
) {
    let (now, changed) = kept(map.remove(&name), new);
    map.extend(now.map(|now| (name.clone(), now)));
    noted.extend(changed.then_some((kind, name)));
}
