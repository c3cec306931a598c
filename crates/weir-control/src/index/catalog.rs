//! The resources as of now, by id, and which of them changed since the last delta.
use crate::dense;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::{
    delta::{Delta, Id, Resource, ResourceKind},
    model::{Cluster, ClusterLoadAssignment, Config, Listener, Name, Secret, VirtualHost, WasmPlugin},
};

/// By (table, virtual host); `None` for one that is gone.
type Hosts = BTreeMap<(Name, Name), Option<Arc<VirtualHost>>>;

#[derive(Default)]
pub struct Catalog {
    /// Without routes, which the tables hold.
    resources: Config,
    /// The cluster that was set last: the next one mostly has the same settings.
    last_cluster: Option<Arc<Cluster>>,
    changed: BTreeSet<(ResourceKind, Name)>,
    hosts: Hosts,
    revision: u64,
}

impl Catalog {
    /// Everything but the routes.
    pub fn resources(&self) -> &Config {
        &self.resources
    }
    pub fn set_secret(&mut self, name: Name, new: Option<Secret>) {
        put(&mut self.resources.secrets, name, new, ResourceKind::Secret, &mut self.changed);
    }
    pub fn set_cluster(&mut self, name: Name, new: Option<Cluster>) {
        let known = new.is_some();
        put(&mut self.resources.clusters, name.clone(), new, ResourceKind::Cluster, &mut self.changed);
        if known {
            self.last_cluster = self.resources.clusters.get(&name).cloned();
        }
    }
    pub fn last_cluster(&self) -> Option<&Cluster> {
        self.last_cluster.as_deref()
    }
    pub fn set_endpoints(&mut self, name: Name, new: Option<ClusterLoadAssignment>) {
        put(&mut self.resources.endpoints, name, new, ResourceKind::Endpoints, &mut self.changed);
    }
    pub fn set_plugin(&mut self, name: Name, new: Option<WasmPlugin>) {
        put(&mut self.resources.plugins, name, new, ResourceKind::Plugin, &mut self.changed);
    }
    pub fn set_listener(&mut self, name: Name, new: Option<Listener>) {
        put(&mut self.resources.listeners, name, new, ResourceKind::Listener, &mut self.changed);
    }
    /// After many changes.
    pub fn pack(&mut self) {
        dense::pack(&mut self.resources.clusters);
        dense::pack(&mut self.resources.endpoints);
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
        let all = &self.resources;
        Some(match kind {
            ResourceKind::Secret => Resource::Secret(all.secrets.get(name)?.clone()),
            ResourceKind::Cluster => Resource::Cluster(all.clusters.get(name)?.clone()),
            ResourceKind::Endpoints => Resource::Endpoints(name.clone(), all.endpoints.get(name)?.clone()),
            ResourceKind::Plugin => Resource::Plugin(all.plugins.get(name)?.clone()),
            ResourceKind::Listener => Resource::Listener(all.listeners.get(name)?.clone()),
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

/// Puts, replaces or removes a resource and notes that. An equal one keeps its `Arc` and is not noted.
fn put<T: PartialEq>(
    map: &mut BTreeMap<Name, Arc<T>>,
    name: Name,
    new: Option<T>,
    kind: ResourceKind,
    changed: &mut BTreeSet<(ResourceKind, Name)>,
) {
    match (map.get_mut(&name), new) {
        (None, None) => return,
        (Some(old), Some(new)) if **old == new => return,
        (Some(old), Some(new)) => *old = Arc::new(new),
        (None, Some(new)) => _ = map.insert(name.clone(), Arc::new(new)),
        (Some(_), None) => _ = map.remove(&name),
    }
    changed.insert((kind, name));
}
