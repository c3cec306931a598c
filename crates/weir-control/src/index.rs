//! What is derived from what. Holds the objects, the units made of them with everything they looked at, and the resources
//! that several units share (route tables, listeners). A change costs the work of the units that looked at what changed,
//! and of the domains and ports that those units have a part in; all else keeps its `Arc`.
mod ancestors;
mod attached;
mod catalog;
mod listener;
mod shared;
mod table;
mod units;
mod uses;
mod watchers;

use crate::{
    Options, Status,
    addresses::Addresses,
    api::settings::Settings,
    artifact::Artifacts,
    aspect, dense,
    guard::{Panic, guarded},
    object::{Finding, Key, Kind, Object, Spec},
    status::{Details, ListenerStatus, Translated},
    store::Store,
    translate::{Bind, Cx, Fingerprints, Look, Looks, Part, PluginPart, PolicyPart, PortPart, Unit},
};

use ancestors::Ancestors;
use attached::Attached;
use catalog::Catalog;
use shared::Shared;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};
use table::Tables;
pub use units::UnitId;
use units::{Outcome, Rare, Units};
use uses::Uses;
use watchers::Watchers;
use weir_config::{
    delta::Delta,
    diagnostic::Diagnostic,
    model::{Cluster, ClusterSettings, Config, Listener, Name, Origin},
};

pub struct Index {
    options: Options,
    store: Store,
    artifacts: Artifacts,
    fingerprints: Fingerprints,
    units: Units,
    watchers: Watchers,
    /// Files that units looked at, and how many did.
    files: BTreeMap<Arc<Path>, u32>,
    /// Units with findings, by the files that these are in: few, among many.
    found_in: HashMap<Name, BTreeSet<UnitId>>,
    /// Units that nothing may need any more.
    unneeded: Vec<UnitId>,
    tables: Tables,
    ports: BTreeMap<Bind, BTreeMap<Unit, Vec<PortPart>>>,
    /// Findings about parts that share a port.
    port_findings: BTreeMap<Bind, Vec<Diagnostic>>,
    plugins: BTreeMap<Unit, Vec<PluginPart>>,
    policies: BTreeMap<Unit, Vec<PolicyPart>>,
    /// By the name of their ConfigMap, so that they come in the order in which they apply.
    settings: BTreeMap<(Reverse<Name>, Unit), Box<Settings>>,
    /// Clusters with an idle timeout of their own.
    own_idle: BTreeSet<Name>,
    catalog: Catalog,
    outcomes: Shared<Outcome>,
    attached: Attached,
    ancestors: Ancestors,
    uses: Uses,
    addresses: Addresses,
}

/// Units to translate and resources to rebuild.
#[derive(Default)]
struct Work {
    /// In the order of [`Unit`]: objects come first, then the clusters and secrets that these ask for.
    dirty: BTreeSet<Unit>,
    ports: BTreeSet<Bind>,
    /// Objects whose status changed.
    status: BTreeSet<Key>,
    /// Units whose findings changed.
    found: BTreeSet<UnitId>,
    /// Plugins, policies or settings changed, which concern them all.
    all_ports: bool,
    settings: bool,
}

/// What a change came to.
pub struct Applied {
    pub delta: Delta,
    /// Objects whose status the change concerns; `None` for those that are gone.
    pub status: Vec<(Key, Option<Translated>)>,
    /// Units and ports whose findings changed; [`Index::findings`] has them.
    pub found: BTreeSet<UnitId>,
    pub found_on: Vec<Bind>,
    /// How many units were translated.
    pub translated: usize,
}

impl Index {
    /// The objects in use.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn new(options: Options) -> Index {
        Index {
            addresses: Addresses::new(options.gateway_address_pool),
            options,
            store: Store::default(),
            artifacts: Artifacts::default(),
            fingerprints: Fingerprints::default(),
            units: Units::default(),
            watchers: Watchers::default(),
            files: BTreeMap::new(),
            found_in: HashMap::new(),
            unneeded: Vec::new(),
            tables: Tables::default(),
            ports: BTreeMap::new(),
            port_findings: BTreeMap::new(),
            plugins: BTreeMap::new(),
            policies: BTreeMap::new(),
            settings: BTreeMap::new(),
            own_idle: BTreeSet::new(),
            catalog: Catalog::default(),
            outcomes: Shared::default(),
            attached: Attached::default(),
            ancestors: Ancestors::default(),
            uses: Uses::default(),
        }
    }

    /// The whole configuration. Costs the work of all of it.
    pub fn config(&self) -> Config {
        Config { routes: self.tables.route_configurations(), ..self.catalog.config() }
    }

    /// Takes over changed objects (`None` for removed ones) and changed files that objects name.
    pub fn apply(&mut self, objects: Vec<(Key, Option<Arc<Object>>)>, files: &[PathBuf]) -> Applied {
        let mut work = Work::default();
        let many = dense::is_due(objects.len(), self.store.count());
        for (key, object) in objects {
            self.set(key, object, &mut work);
        }
        if many {
            // Before there is more in memory between its nodes.
            self.store.pack();
        }
        for path in files {
            self.artifacts.forget(path);
            self.look(&Look::File(path), &mut work);
        }
        let mut translated = 0;
        while let Some(unit) = work.dirty.pop_first() {
            translated += usize::from(self.translate(unit, &mut work));
        }
        self.drop_unneeded(&mut work);
        self.watchers.settle();
        if work.settings {
            self.set_clusters();
        }
        self.tables.build(&mut self.catalog);
        let status = self.translated(std::mem::take(&mut work.status));
        let found = std::mem::take(&mut work.found);
        let found_on = self.build_listeners(work);
        if many {
            self.tables.pack();
            self.catalog.pack();
        }
        Applied { delta: self.catalog.delta(), status, found, found_on, translated }
    }

    fn set(&mut self, key: Key, object: Option<Arc<Object>>, work: &mut Work) {
        let old = self.store.set(&key, object.clone());
        if key.kind == Kind::Gateway {
            match object.as_ref().map(|o| &o.spec) {
                Some(Spec::Gateway(gateway)) if gateway.addresses.is_empty() => self.addresses.give(&key),
                _ => self.addresses.give_back(&key),
            }
        }
        let (kind, namespace, name) = (key.kind, &*key.namespace, &*key.name);
        self.look(&Look::Object(kind, namespace, name), work);
        self.look(&Look::Kind(kind), work);
        if old.is_some() != object.is_some() {
            self.look(&Look::Names(kind), work);
        }
        for word in [&old, &object].into_iter().flatten().flat_map(|o| o.index_keys()) {
            self.look(&Look::Word(kind, &word), work);
        }
        // Grants of a namespace are read as one.
        let name = if kind == Kind::ReferenceGrant { "" } else { name };
        let mut changed = |aspect: aspect::Aspect<'_>| self.look(&Look::Aspect(kind, namespace, name, aspect), work);
        aspect::compare(kind, old.as_deref(), object.as_deref(), &mut changed);
        if self.uses.is_used(&key) {
            work.status.insert(key.clone());
        }
        let acts = Unit::acts(&key);
        let unit = Unit::Object(key);
        if acts && (object.is_some() || self.units.id(&unit).is_some()) {
            work.dirty.insert(unit);
        }
    }

    fn look(&self, look: &Look<'_>, work: &mut Work) {
        let units = self.watchers.of(self.fingerprints.of(look)).filter_map(|id| self.units.get(id));
        work.dirty.extend(units.map(|state| state.unit.clone()));
    }

    /// False for one that nothing needs any more.
    fn translate(&mut self, unit: Unit, work: &mut Work) -> bool {
        let (id, _) = self.units.ensure(&unit);
        let is_object = matches!(unit, Unit::Object(_));
        if !is_object && self.units.get(id).is_none_or(|state| state.demand.is_none()) {
            return false;
        }
        let cx = Cx::new(&self.store, &self.artifacts, &self.fingerprints, self.catalog.secrets(), &self.addresses, &self.options);
        let part = guarded(|| unit.translate(&cx));
        let looks = cx.into_looks();
        match part {
            Ok(part) => self.put(id, &unit, part, looks, work),
            Err(panic) => self.keep(id, &unit, &panic, looks, work),
        }
        if is_object && !self.exists(&unit) {
            self.put(id, &unit, Part::default(), Looks::default(), work);
            self.units.remove(id);
        }
        true
    }

    /// Leaves a unit as it was when its translation fails by a bug, until something that it looked at changes.
    fn keep(&mut self, id: UnitId, unit: &Unit, panic: &Panic, mut looks: Looks, work: &mut Work) {
        let found = panic.finding("translating this object");
        let found = match unit.object().and_then(|key| self.store.get(&key)) {
            Some(object) => found.from_origin(&object.origin()),
            None => found,
        };
        let Some(state) = self.units.get_mut(id) else { return };
        looks.deps.extend(state.deps());
        let rare = state.rare.get_or_insert_default();
        rare.panic = Some(found);
        looks.files.extend(rare.files.iter().cloned());
        work.found.insert(id);
        self.watch(id, looks);
    }

    /// Replaces what a unit holds by `part`, and notes what that touches.
    fn put(&mut self, id: UnitId, unit: &Unit, part: Part, mut looks: Looks, work: &mut Work) {
        if let Unit::Object(key) = unit {
            // Its own change is noticed without that.
            looks.deps.remove(&self.fingerprints.of(&Look::Object(key.kind, &key.namespace, &key.name)));
            work.status.insert(key.clone());
        }
        self.watch(id, looks);
        self.put_needs(id, part.calls, part.clusters, part.secrets, work);
        let kind = unit.object().map(|key| key.kind);
        let old = self.units.get_mut(id).map(|state| (std::mem::take(&mut state.hosts), state.rare.take()));
        let (old_hosts, rare) = old.unwrap_or_default();
        let mut rare = rare.map_or_else(Rare::default, |rare| *rare);
        let hosts = self.tables.put(id, kind, &old_hosts, part.routes);
        rare.ports = self.put_ports(unit, &rare.ports, part.ports, work);
        self.put_plugins(unit, part.plugins, work);
        self.put_policies(unit, part.policies, work);
        self.put_settings(unit, part.settings, work);
        match unit {
            Unit::Cluster(key) => {
                let name = key.name.clone();
                match part.own_idle_timeout {
                    true => self.own_idle.insert(name.clone()),
                    false => self.own_idle.remove(&name),
                };
                let cluster = part.cluster.map(|c| self.with_settings(c));
                self.catalog.set_cluster(name, cluster, part.endpoints);
            }
            Unit::Secret(key) => self.catalog.set_secret(key.resource(), part.secret),
            Unit::Object(_) | Unit::Callable => {}
        }
        let outcome = self.outcomes.share(Outcome { conditions: part.conditions.into(), attached: part.attached.into() });
        self.put_findings(id, &mut rare, part.findings, work);
        self.ancestors.replace(id, &rare.ancestors, &part.ancestors, &mut work.status);
        self.uses.replace(id, part.uses, &mut work.status);
        (rare.listeners, rare.attached_listener_sets, rare.ancestors) = (part.listeners, part.attached_listener_sets, part.ancestors);
        rare.service_ports = part.service_ports;
        if let Some(state) = self.units.get_mut(id) {
            state.hosts = hosts;
            let before = std::mem::replace(&mut state.outcome, outcome.clone());
            self.attached.replace(&before.attached, &outcome.attached, &mut work.status);
            state.rare = (rare != Rare::default()).then(|| Box::new(rare));
        }
    }

    fn put_findings(&mut self, id: UnitId, rare: &mut Rare, new: Vec<Finding>, work: &mut Work) {
        if rare.panic.take().is_none() && rare.findings.is_empty() && new.is_empty() {
            return;
        }
        work.found.insert(id);
        for file in rare.findings.iter().filter_map(|f| f.document.file()) {
            if let Some(units) = self.found_in.get_mut(file) {
                units.remove(&id);
                if units.is_empty() {
                    self.found_in.remove(file);
                }
            }
        }
        for file in new.iter().filter_map(|f| f.document.file()) {
            match self.found_in.get_mut(file) {
                Some(units) => _ = units.insert(id),
                None => _ = self.found_in.insert(file.clone(), BTreeSet::from([id])),
            }
        }
        rare.findings = new;
    }

    /// Whether its object is still there.
    fn exists(&self, unit: &Unit) -> bool {
        matches!(unit, Unit::Object(key) if self.store.get(key).is_some())
    }

    /// From now on a unit depends on what it looked at.
    fn watch(&mut self, id: UnitId, looks: Looks) {
        let Some(state) = self.units.get_mut(id) else { return };
        self.watchers.replace(id, state.deps(), &looks.deps);
        state.set_deps(looks.deps.into_iter());
        let old = match &mut state.rare {
            Some(rare) => std::mem::replace(&mut rare.files, looks.files.iter().cloned().collect()),
            None if looks.files.is_empty() => return,
            rare => {
                *rare = Some(Box::new(Rare { files: looks.files.iter().cloned().collect(), ..Rare::default() }));
                Vec::new()
            }
        };
        for path in looks.files {
            *self.files.entry(path).or_default() += 1;
        }
        for path in old {
            if let Some(count) = self.files.get_mut(&path) {
                *count -= 1;
                if *count == 0 {
                    self.files.remove(&path);
                }
            }
        }
    }

    fn put_needs(
        &mut self,
        id: UnitId,
        calls: bool,
        clusters: Vec<crate::translate::ClusterKey>,
        secrets: Vec<crate::translate::SecretKey>,
        work: &mut Work,
    ) {
        let clusters = calls.then_some(Unit::Callable).into_iter().chain(clusters.into_iter().map(Unit::Cluster));
        let mut needs = Vec::new();
        for unit in clusters.chain(secrets.into_iter().map(|key| Unit::Secret(Arc::new(key)))) {
            let (need, new) = self.units.ensure(&unit);
            if new {
                work.dirty.insert(unit);
            }
            if let Some(state) = self.units.get_mut(need) {
                state.demand.add();
            }
            needs.push(need);
        }
        let Some(state) = self.units.get_mut(id) else { return };
        let is_callable = matches!(state.unit, Unit::Callable);
        let new = needs;
        let old: Vec<UnitId> = state.needs().collect();
        state.set_needs(&new);
        for need in &old {
            let Some(state) = self.units.get_mut(*need) else { continue };
            state.demand.remove();
            if is_callable {
                state.demand.set_callable(false);
            }
            if state.demand.is_none() {
                self.unneeded.push(*need);
            }
        }
        for need in new.iter().chain(&old) {
            let Some(state) = self.units.get_mut(*need) else { continue };
            // Whether it is hidden may have changed.
            if state.rare.as_ref().is_some_and(|rare| rare.has_findings()) {
                work.found.insert(*need);
            }
        }
        for need in new.iter().filter(|_| is_callable) {
            if let Some(state) = self.units.get_mut(*need) {
                state.demand.set_callable(true);
            }
        }
    }

    fn put_ports(&mut self, unit: &Unit, old: &[Bind], parts: Vec<PortPart>, work: &mut Work) -> Vec<Bind> {
        let mut new: BTreeMap<Bind, Vec<PortPart>> = BTreeMap::new();
        for part in parts {
            new.entry(part.bind).or_default().push(part);
        }
        for port in old.iter().filter(|p| !new.contains_key(p)) {
            work.ports.insert(*port);
            if let Some(units) = self.ports.get_mut(port) {
                units.remove(unit);
            }
        }
        let ports = new.keys().copied().collect();
        for (port, parts) in new {
            let units = self.ports.entry(port).or_default();
            if units.get(unit) != Some(&parts) {
                units.insert(unit.clone(), parts);
                work.ports.insert(port);
            }
        }
        ports
    }

    fn put_plugins(&mut self, unit: &Unit, parts: Vec<PluginPart>, work: &mut Work) {
        let old = self.plugins.remove(unit).unwrap_or_default();
        if old == parts {
            if !parts.is_empty() {
                self.plugins.insert(unit.clone(), old);
            }
            return;
        }
        work.all_ports = true;
        for part in old.iter().filter(|o| !parts.iter().any(|n| n.plugin.name == o.plugin.name)) {
            self.catalog.set_plugin(part.plugin.name.clone(), None);
        }
        for part in &parts {
            self.catalog.set_plugin(part.plugin.name.clone(), Some(part.plugin.as_ref().clone()));
        }
        if !parts.is_empty() {
            self.plugins.insert(unit.clone(), parts);
        }
    }

    fn put_policies(&mut self, unit: &Unit, parts: Vec<PolicyPart>, work: &mut Work) {
        work.all_ports |= self.policies.get(unit).map_or(&[][..], |old| old) != parts;
        match parts.is_empty() {
            true => self.policies.remove(unit),
            false => self.policies.insert(unit.clone(), parts),
        };
    }

    fn put_settings(&mut self, unit: &Unit, new: Option<Box<Settings>>, work: &mut Work) {
        let Unit::Object(key) = unit else { return };
        let at = (Reverse(key.name.clone()), unit.clone());
        let changed = self.settings.get(&at) != new.as_ref();
        work.settings |= changed;
        work.all_ports |= changed;
        match new {
            Some(new) => self.settings.insert(at, new),
            None => self.settings.remove(&at),
        };
    }

    /// A cluster with what settings say of all of them.
    fn with_settings(&self, mut cluster: Cluster) -> Cluster {
        let ClusterSettings { mut response_limits, mut idle_timeout, .. } = ClusterSettings::default();
        self.settings.values().for_each(|s| s.apply_to_upstreams(&mut response_limits, &mut idle_timeout));
        if self.own_idle.contains(&cluster.name) {
            idle_timeout = cluster.idle_timeout;
        }
        if (response_limits, idle_timeout) != (cluster.response_limits, cluster.idle_timeout) {
            (cluster.response_limits, cluster.idle_timeout) = (response_limits, idle_timeout);
        }
        if let Some(last) = self.catalog.last_cluster() {
            cluster.share_settings(last);
        }
        cluster
    }

    fn set_clusters(&mut self) {
        let all: Vec<Arc<Cluster>> = self.catalog.clusters().cloned().collect();
        for cluster in all {
            let new = self.with_settings(Cluster::clone(&cluster));
            self.catalog.edit_cluster(new);
        }
    }

    /// Clusters and secrets that nothing needs any more, and what only those needed.
    fn drop_unneeded(&mut self, work: &mut Work) {
        while let Some(id) = self.unneeded.pop() {
            let Some(state) = self.units.get(id).filter(|state| state.demand.is_none()) else { continue };
            let unit = state.unit.clone();
            if !matches!(unit, Unit::Object(_)) {
                self.put(id, &unit, Part::default(), Looks::default(), work);
                self.units.remove(id);
            }
        }
    }

    /// Returns the ports that were built.
    fn build_listeners(&mut self, work: Work) -> Vec<Bind> {
        let ports: Vec<Bind> = if work.all_ports { self.ports.keys().copied().collect() } else { work.ports.into_iter().collect() };
        for port in ports.iter().copied() {
            let name: Name = listener::name(&self.options, port);
            let parts = self.ports.get(&port).filter(|units| !units.is_empty());
            let (listener, findings) = match parts {
                Some(units) => {
                    let settings = self.settings.values().map(|s| &**s).collect();
                    let common = listener::Common { options: &self.options, settings, plugins: &self.plugins, policies: &self.policies };
                    listener::build(&common, port, units, self.catalog.listener(&name))
                }
                None => (None, Vec::new()),
            };
            let listener = listener.map(|l| Listener { origins: self.origins(parts), ..l });
            self.catalog.set_listener(name, listener);
            let place = |(unit, found): (Unit, Diagnostic)| match &unit {
                Unit::Object(key) => self.store.get(key).map_or(found.clone(), |o| found.clone().from_origin(&o.origin())),
                _ => found,
            };
            match findings.is_empty() {
                true => self.port_findings.remove(&port),
                false => self.port_findings.insert(port, findings.into_iter().map(place).collect()),
            };
            if parts.is_none() {
                self.ports.remove(&port);
            }
        }
        ports
    }

    /// The objects that have a part in a listener.
    fn origins(&self, units: Option<&BTreeMap<Unit, Vec<PortPart>>>) -> Vec<Origin> {
        let objects = units.into_iter().flatten().filter_map(|(unit, parts)| match unit {
            Unit::Object(key) => Some((self.store.get(key)?, parts)),
            _ => None,
        });
        let origin = |(object, parts): (&Arc<Object>, &Vec<PortPart>)| match parts.iter().map(|p| p.line).find(|line| *line > 0) {
            Some(line) => object.origin_at(line),
            None => object.origin(),
        };
        objects.map(origin).collect()
    }

    /// Findings of translating a unit, and the panic that its translation met.
    pub fn findings(&self, id: UnitId) -> (&[Finding], Option<&Diagnostic>) {
        let state = self.units.get(id).filter(|state| !state.is_hidden());
        let rare = state.and_then(|state| state.rare.as_deref());
        rare.map_or((&[][..], None), |rare| (&rare.findings, rare.panic.as_ref()))
    }

    /// Units with findings in a file.
    pub fn found_in(&self, file: &str) -> impl Iterator<Item = UnitId> {
        self.found_in.get(file).into_iter().flatten().copied()
    }

    /// Findings about parts that share a port.
    pub fn findings_on(&self, port: Bind) -> &[Diagnostic] {
        self.port_findings.get(&port).map(Vec::as_slice).unwrap_or_default()
    }

    /// What these objects came to.
    fn translated(&self, changed: BTreeSet<Key>) -> Vec<(Key, Option<Translated>)> {
        let now = |key: &Key| {
            let object = self.store.get(key)?.clone();
            if self.uses.is_used(key) {
                return Some(Translated { object, conditions: Arc::default(), details: None });
            }
            let id = self.units.id(&Unit::Object(key.clone()))?;
            let state = self.units.get(id)?;
            Some(Translated { object, conditions: state.outcome.conditions.clone(), details: self.details(key, state.rare.as_deref()) })
        };
        let pair = |key: Key| {
            let now = now(&key);
            (key, now)
        };
        changed.into_iter().map(pair).collect()
    }

    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.store.get(key)
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// `None` for kinds whose status has nothing beside conditions.
    fn details(&self, key: &Key, rare: Option<&Rare>) -> Option<Arc<Details>> {
        let rare = rare.filter(|rare| !rare.listeners.is_empty());
        let listeners = rare.into_iter().flat_map(|rare| &rare.listeners).map(|listener| ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: listener.supported_kinds.clone(),
            attached_routes: self.attached.of(key, &listener.name),
        });
        let details = match key.kind {
            Kind::Gateway | Kind::ListenerSet => Details {
                address: self.addresses.of(key),
                listeners: listeners.collect(),
                attached_listener_sets: rare.map_or(0, |rare| rare.attached_listener_sets),
                service_ports: rare.map(|rare| rare.service_ports.clone()).unwrap_or_default(),
                ancestors: Vec::new(),
            },
            Kind::BackendTlsPolicy => Details { ancestors: self.ancestors.of(key), ..Details::default() },
            _ => return None,
        };
        Some(Arc::new(details))
    }

    pub fn status(&self) -> &Status {
        &self.options.status
    }

    /// Files that objects name: to be watched beside the configuration's own.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::{Control, Options};
    use std::fs;

    #[test]
    fn a_bug_in_the_translation_of_one_object_harms_no_other() {
        let gateway = |port: u16, annotation: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g{annotation} }}\nspec: {{ gatewayClassName: weir, listeners: [{{ name: a, port: {port}, protocol: HTTP }}] }}\n"
            )
        };
        let dir = tempfile::tempdir().unwrap();
        let mut control = Control::new(Options::default());
        let mut load = |port, annotation: &str| {
            fs::write(dir.path().join("a.yaml"), gateway(port, annotation)).unwrap();
            fs::write(dir.path().join("b.yaml"), gateway(port, "").replace("name: g", "name: h").replace("port: 8", "port: 9")).unwrap();
            control.load(&[dir.path().into()]);
            let found: Vec<String> = control.findings().iter().map(|d| format!("{} {}", d.reason, d.message)).collect();
            (control.config().listeners.keys().map(|name| name.to_string()).collect::<Vec<_>>(), found)
        };
        let panics = ", annotations: { test/panic: please }";
        assert_eq!(load(80, ""), (vec!["0.0.0.0_80".to_string(), "0.0.0.0_90".to_string()], vec![]));
        let (listeners, found) = load(81, panics);
        assert_eq!(listeners, ["0.0.0.0_80", "0.0.0.0_91"], "its last good version keeps serving, and the other one changes");
        assert_eq!(found, ["InternalError internal error while translating this object: as the test asked for"]);
        assert_eq!(load(82, ""), (vec!["0.0.0.0_82".to_string(), "0.0.0.0_92".to_string()], vec![]));
        // It goes as others do.
        load(83, panics);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        control.load(&[dir.path().into()]);
        assert_eq!((control.config().listeners.len(), control.findings().len()), (1, 0), "{:?}", control.findings());
    }
}
