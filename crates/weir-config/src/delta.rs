//! The border between a control plane and a proxy. A [`Delta`] goes in: resources by id, so that a change costs the work of what
//! changed. A [`Verdict`] per resource comes out: whether the proxy runs on it. Files, Kubernetes and xDS use the same border.
use crate::{
    diagnostic::Diagnostic,
    model::{Cluster, ClusterLoadAssignment, Config, Listener, Name, RouteConfiguration, Secret, VirtualHost, WasmPlugin},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// The kinds of resources, in the order in which a proxy takes them over: what others refer to comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    Secret,
    Cluster,
    Endpoints,
    Plugin,
    VirtualHost,
    Listener,
}

/// What identifies a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Id {
    pub kind: ResourceKind,
    /// The route configuration of a virtual host; `None` for all other kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_config: Option<Name>,
    pub name: Name,
}

/// One resource of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    Secret(Arc<Secret>),
    Cluster(Arc<Cluster>),
    /// Endpoints of the cluster of type EDS with this name.
    Endpoints(Name, Arc<ClusterLoadAssignment>),
    Plugin(Arc<WasmPlugin>),
    /// A virtual host of the route configuration with this name. A route configuration exists while it has virtual hosts.
    VirtualHost(Name, Arc<VirtualHost>),
    Listener(Arc<Listener>),
}

/// A change of configuration: resources that are new or changed, and resources that are gone.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// Rises with every delta of one source.
    pub revision: u64,
    pub set: Vec<Resource>,
    pub gone: Vec<Id>,
}

/// What a proxy says of one resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub id: Id,
    /// Of the delta that brought the resource.
    pub revision: u64,
    pub state: State,
    /// Errors say why it was refused or what it waits for; warnings may come with any state.
    pub findings: Vec<Diagnostic>,
}

/// What has changed in a proxy's verdicts since a reader last looked. A resource without a verdict is live, and nothing is to be said of
/// it.
#[derive(Clone, Debug, Default)]
pub struct VerdictChanges {
    /// The newest revision that the proxy has taken over.
    pub revision: u64,
    /// `verdicts` are all that stand: those that are not among them are cleared.
    pub whole: bool,
    pub verdicts: Vec<Arc<Verdict>>,
    /// Resources that are live or gone by now.
    pub cleared: Vec<Id>,
}

/// The reason of a plugin whose code cannot be read or fetched.
pub const PLUGIN_CODE_UNAVAILABLE: &str = "PluginCodeUnavailable";

/// Whether a proxy runs on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In use by every worker.
    Live,
    /// Accepted, and waiting: for a name to resolve, a plugin to start, a secret to come, a port to be free. What does not wait is in
    /// use; of the rest, the version before it (if any) stays in use.
    Warming,
    /// Not used, or not all of it: the findings say which part. Of that part, the version before it (if any) stays in use.
    Refused,
}

impl Resource {
    pub fn id(&self) -> Id {
        let (kind, name) = match self {
            Resource::Secret(s) => (ResourceKind::Secret, s.name.clone()),
            Resource::Cluster(c) => (ResourceKind::Cluster, c.name.clone()),
            Resource::Endpoints(cluster, _) => (ResourceKind::Endpoints, cluster.clone()),
            Resource::Plugin(p) => (ResourceKind::Plugin, p.name.clone()),
            Resource::VirtualHost(table, host) => return Id::virtual_host(table, &host.name),
            Resource::Listener(l) => (ResourceKind::Listener, l.name.clone()),
        };
        Id::new(kind, name)
    }
}

impl Id {
    pub fn new(kind: ResourceKind, name: Name) -> Id {
        Id { kind, route_config: None, name }
    }
    pub fn virtual_host(route_config: &Name, host: &Name) -> Id {
        Id { kind: ResourceKind::VirtualHost, route_config: Some(route_config.clone()), name: host.clone() }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            ResourceKind::Secret => "secret",
            ResourceKind::Cluster => "cluster",
            ResourceKind::Endpoints => "endpoints",
            ResourceKind::Plugin => "plugin",
            ResourceKind::VirtualHost => "virtual host",
            ResourceKind::Listener => "listener",
        };
        match &self.route_config {
            Some(routes) => write!(f, "{kind} `{routes}/{}`", self.name),
            None => write!(f, "{kind} `{}`", self.name),
        }
    }
}

impl Delta {
    /// Everything of a configuration.
    pub fn of(config: &Config, revision: u64) -> Delta {
        Delta::between(&Config::default(), config, revision)
    }

    /// What leads from one whole configuration to another: resources whose pointer is another, and resources that `new` lacks.
    /// Costs the work of both; sources that know what changed build their deltas themselves.
    pub fn between(old: &Config, new: &Config, revision: u64) -> Delta {
        let mut delta = Delta { revision, ..Delta::default() };
        delta.compare(&old.secrets, &new.secrets, ResourceKind::Secret, |_, r| Resource::Secret(r.clone()));
        delta.compare(&old.clusters, &new.clusters, ResourceKind::Cluster, |_, r| Resource::Cluster(r.clone()));
        delta.compare(&old.endpoints, &new.endpoints, ResourceKind::Endpoints, |name, r| Resource::Endpoints(name.clone(), r.clone()));
        delta.compare(&old.plugins, &new.plugins, ResourceKind::Plugin, |_, r| Resource::Plugin(r.clone()));
        let hosts = |table: Option<&Arc<RouteConfiguration>>| -> BTreeMap<Name, Arc<VirtualHost>> {
            table.into_iter().flat_map(|t| &t.virtual_hosts).map(|h| (h.name.clone(), h.clone())).collect()
        };
        for name in old.routes.keys().chain(new.routes.keys().filter(|n| !old.routes.contains_key(*n))) {
            let (before, now) = (hosts(old.routes.get(name)), hosts(new.routes.get(name)));
            for host in now.values().filter(|h| !before.get(&h.name).is_some_and(|b| Arc::ptr_eq(b, h))) {
                delta.set.push(Resource::VirtualHost(name.clone(), host.clone()));
            }
            delta.gone.extend(before.keys().filter(|h| !now.contains_key(*h)).map(|h| Id::virtual_host(name, h)));
        }
        delta.compare(&old.listeners, &new.listeners, ResourceKind::Listener, |_, r| Resource::Listener(r.clone()));
        delta
    }

    fn compare<T>(
        &mut self,
        old: &BTreeMap<Name, Arc<T>>,
        new: &BTreeMap<Name, Arc<T>>,
        kind: ResourceKind,
        wrap: impl Fn(&Name, &Arc<T>) -> Resource,
    ) {
        let changed = new.iter().filter(|(name, now)| !old.get(*name).is_some_and(|before| Arc::ptr_eq(before, now)));
        self.set.extend(changed.map(|(name, now)| wrap(name, now)));
        self.gone.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| Id::new(kind, name.clone())));
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }

    /// Takes in a delta that follows this one: both together do what one after the other does.
    pub fn merge(&mut self, later: Delta) {
        if self.is_empty() {
            *self = Delta { revision: later.revision.max(self.revision), ..later };
            return;
        }
        let mut all: BTreeMap<Id, Option<Resource>> = BTreeMap::new();
        for delta in [std::mem::take(self), later] {
            self.revision = self.revision.max(delta.revision);
            all.extend(delta.set.into_iter().map(|r| (r.id(), Some(r))));
            all.extend(delta.gone.into_iter().map(|id| (id, None)));
        }
        for (id, resource) in all {
            match resource {
                Some(resource) => self.set.push(resource),
                None => self.gone.push(id),
            }
        }
    }
}

impl Config {
    /// Takes over a delta. Virtual hosts are kept in the order of their names.
    pub fn apply(&mut self, delta: &Delta) {
        let mut hosts: BTreeMap<&Name, BTreeMap<&Name, Option<&Arc<VirtualHost>>>> = BTreeMap::new();
        for id in &delta.gone {
            let name = &id.name;
            match id.kind {
                ResourceKind::Secret => drop(self.secrets.remove(name)),
                ResourceKind::Cluster => drop(self.clusters.remove(name)),
                ResourceKind::Endpoints => drop(self.endpoints.remove(name)),
                ResourceKind::Plugin => drop(self.plugins.remove(name)),
                ResourceKind::Listener => drop(self.listeners.remove(name)),
                ResourceKind::VirtualHost => {
                    if let Some(table) = &id.route_config {
                        hosts.entry(table).or_default().insert(name, None);
                    }
                }
            }
        }
        for resource in &delta.set {
            match resource {
                Resource::Secret(r) => drop(self.secrets.insert(r.name.clone(), r.clone())),
                Resource::Cluster(r) => drop(self.clusters.insert(r.name.clone(), r.clone())),
                Resource::Endpoints(name, r) => drop(self.endpoints.insert(name.clone(), r.clone())),
                Resource::Plugin(r) => drop(self.plugins.insert(r.name.clone(), r.clone())),
                Resource::Listener(r) => drop(self.listeners.insert(r.name.clone(), r.clone())),
                Resource::VirtualHost(table, host) => drop(hosts.entry(table).or_default().insert(&host.name, Some(host))),
            }
        }
        for (table, changed) in hosts {
            let old = self.routes.get(table);
            let kept = old.into_iter().flat_map(|t| &t.virtual_hosts).filter(|h| !changed.contains_key(&h.name));
            let mut virtual_hosts: Vec<Arc<VirtualHost>> = kept.chain(changed.values().filter_map(|h| *h)).cloned().collect();
            virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
            let name = table.clone();
            match virtual_hosts.is_empty() {
                true => drop(self.routes.remove(&name)),
                false => drop(self.routes.insert(name.clone(), Arc::new(RouteConfiguration { name, virtual_hosts }))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Discovery, VirtualHost};

    #[test]
    fn a_delta_names_what_changed_and_what_is_gone() {
        let cluster = |name: &str| Arc::new(Cluster::new(name.into(), Discovery::Eds));
        let host = |name: &str| Arc::new(VirtualHost::new(name.into(), vec![name.into()], Vec::new()));
        let config = |clusters: &[&Arc<Cluster>], hosts: &[&Arc<VirtualHost>]| Config {
            clusters: clusters.iter().map(|c| (c.name.clone(), (*c).clone())).collect(),
            routes: [(
                "http.80".into(),
                Arc::new(RouteConfiguration { name: "http.80".into(), virtual_hosts: hosts.iter().map(|h| (*h).clone()).collect() }),
            )]
            .into(),
            ..Config::default()
        };
        let (a, b, x, y) = (cluster("a"), cluster("b"), host("x"), host("y"));
        let old = config(&[&a, &b], &[&x, &y]);
        let new = config(&[&a, &cluster("b"), &cluster("c")], &[&host("x")]);
        let delta = Delta::between(&old, &new, 2);
        let set: Vec<String> = delta.set.iter().map(|r| r.id().to_string()).collect();
        assert_eq!(set, ["cluster `b`", "cluster `c`", "virtual host `http.80/x`"]);
        assert_eq!(delta.gone, [Id::virtual_host(&"http.80".into(), &"y".into())]);
        assert!(Delta::between(&old, &old, 3).is_empty());
        assert_eq!(Delta::of(&old, 1).set.len(), 4);
        // One after the other is the same as both at once, whatever the order in which a resource comes and goes.
        let mut both = Delta::between(&Config::default(), &old, 1);
        both.merge(delta);
        both.merge(Delta::between(&new, &old, 3));
        both.merge(Delta::between(&old, &new, 4));
        let set: Vec<String> = both.set.iter().map(|r| r.id().to_string()).collect();
        assert_eq!(
            (both.revision, set),
            (4, ["a", "b", "c"].map(|n| format!("cluster `{n}`")).into_iter().chain(["virtual host `http.80/x`".into()]).collect())
        );
        let host_x = both.set.iter().find_map(|r| if let Resource::VirtualHost(_, h) = r { Some(h) } else { None });
        assert!(host_x.is_some_and(|h| Arc::ptr_eq(h, &new.routes["http.80"].virtual_hosts[0])));
        assert_eq!(both.gone, [Id::virtual_host(&"http.80".into(), &"y".into())]);
        let mut config = Config::default();
        for delta in [Delta::of(&old, 1), Delta::between(&old, &new, 2)] {
            config.apply(&delta);
        }
        assert_eq!(config, new);
        config.apply(&Delta::between(&new, &Config::default(), 3));
        assert_eq!(config, Config::default());
    }
}
