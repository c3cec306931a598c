//! What is derived from what. Holds the objects, the units made of them with everything they looked at, and the resources
//! that several units share (route tables, listeners). A change costs the work of the units that looked at what changed,
//! and of the domains and ports that those units have a part in; all else keeps its `Arc`.
mod listener;
mod table;

use crate::{
    Options, Status,
    api::settings::Settings,
    artifact::Artifacts,
    guard::{Panic, guarded},
    object::{Finding, Key, Object},
    store::Store,
    translate::{Bind, Condition, Cx, Dep, Part, PluginPart, PortPart, Unit},
};

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use table::Tables;
use weir_config::{
    diagnostic::Diagnostic,
    model::{Cluster, Config, Discovery, Listener, Name, Origin},
};

/// What is kept of a unit's last translation; its routes, ports and resources are where they are used.
#[derive(Default)]
struct UnitState {
    deps: Box<[Dep]>,
    /// (table, domain)
    hosts: Box<[(Name, Name)]>,
    ports: Box<[Bind]>,
    needs: Box<[Unit]>,
    findings: Box<[Finding]>,
    conditions: Arc<[Condition]>,
}

pub struct Index {
    options: Options,
    store: Store,
    artifacts: Artifacts,
    units: BTreeMap<Unit, UnitState>,
    /// Units with findings: few, among many.
    with_findings: BTreeSet<Unit>,
    /// Who looked at what.
    watchers: HashMap<Dep, Vec<Unit>>,
    /// How many units ask for a cluster or secret.
    demand: HashMap<Unit, u32>,
    tables: Tables,
    ports: BTreeMap<Bind, BTreeMap<Unit, Vec<PortPart>>>,
    /// Units whose translation failed by a bug: what was made of them before stays.
    panics: BTreeMap<Unit, Diagnostic>,
    /// What is wrong with how parts meet on a port.
    port_findings: BTreeMap<Bind, Vec<Diagnostic>>,
    plugins: BTreeMap<Unit, Vec<PluginPart>>,
    /// By the name of their ConfigMap, so that they come in the order in which they apply.
    settings: BTreeMap<(Reverse<Name>, Unit), Box<Settings>>,
    /// Clusters with an idle timeout of their own.
    own_idle: BTreeSet<Name>,
    config: Arc<Config>,
}

/// Resources to put together again, found while units are translated.
#[derive(Default)]
struct Touched {
    ports: BTreeSet<Bind>,
    /// Objects of which something else is to be said.
    status: Vec<Key>,
    /// Plugins or settings changed, which concern them all.
    all_ports: bool,
    settings: bool,
}

impl Index {
    pub fn new(options: Options) -> Index {
        Index {
            options,
            store: Store::default(),
            artifacts: Artifacts::default(),
            units: BTreeMap::new(),
            with_findings: BTreeSet::new(),
            watchers: HashMap::new(),
            demand: HashMap::new(),
            tables: Tables::default(),
            ports: BTreeMap::new(),
            panics: BTreeMap::new(),
            port_findings: BTreeMap::new(),
            plugins: BTreeMap::new(),
            settings: BTreeMap::new(),
            own_idle: BTreeSet::new(),
            config: Arc::default(),
        }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Takes over changed objects (`None` for removed ones) and changed files that objects name. Returns how many units
    /// were translated.
    pub fn apply(&mut self, objects: Vec<(Key, Option<Arc<Object>>)>, files: &[PathBuf]) -> usize {
        let mut dirty = BTreeSet::new();
        for (key, object) in objects {
            self.set(key, object, &mut dirty);
        }
        for path in files {
            self.artifacts.forget(path);
            self.look(&Dep::File(path.as_path().into()), &mut dirty);
        }
        if dirty.is_empty() {
            return 0;
        }
        let mut config = Config::clone(&self.config);
        let mut touched = Touched::default();
        let mut count = 0;
        // In the order of the enum: objects come first, then the clusters and secrets that these ask for.
        while let Some(unit) = dirty.pop_first() {
            count += 1;
            self.translate(unit, &mut config, &mut touched, &mut dirty);
        }
        self.drop_unneeded(&mut config, &mut touched);
        if touched.settings {
            self.set_clusters(&mut config);
        }
        self.tables.build(&mut config);
        self.publish(std::mem::take(&mut touched.status));
        self.build_listeners(&mut config, touched);
        self.config = Arc::new(config);
        count
    }

    fn set(&mut self, key: Key, object: Option<Arc<Object>>, dirty: &mut BTreeSet<Unit>) {
        let present = object.is_some();
        let old = self.store.set(&key, object.clone());
        self.look(&Dep::Object(key.clone()), dirty);
        self.look(&Dep::Kind(key.kind), dirty);
        for object in [old, object].into_iter().flatten() {
            for word in object.index_keys() {
                self.look(&Dep::Word(key.kind, word), dirty);
            }
        }
        let acts = Unit::acts(&key);
        let unit = Unit::Object(key);
        if acts && (present || self.units.contains_key(&unit)) {
            dirty.insert(unit);
        }
    }

    fn look(&self, dep: &Dep, dirty: &mut BTreeSet<Unit>) {
        if let Some(units) = self.watchers.get(dep) {
            dirty.extend(units.iter().cloned());
        }
    }

    fn translate(&mut self, unit: Unit, config: &mut Config, touched: &mut Touched, dirty: &mut BTreeSet<Unit>) {
        let cx = Cx::new(&self.store, &self.artifacts, &self.options);
        let part = guarded(|| unit.translate(&cx));
        let mut deps = cx.into_deps();
        if let Unit::Object(key) = &unit {
            // Its own change is noticed without that.
            deps.remove(&Dep::Object(key.clone()));
        }
        let part = match part {
            Ok(part) => part,
            Err(panic) => return self.keep(unit, &panic, deps),
        };
        self.panics.remove(&unit);
        self.put(unit, part, deps, config, touched, dirty);
    }

    /// Leaves a unit as it was when its translation fails by a bug, until something that it looked at changes.
    fn keep(&mut self, unit: Unit, panic: &Panic, mut deps: HashSet<Dep>) {
        let found = panic.finding("translating this object");
        let found = match unit.object().and_then(|key| self.store.get(&key)) {
            Some(object) => found.from_origin(&object.origin()),
            None => found,
        };
        let mut state = self.units.remove(&unit).unwrap_or_default();
        deps.extend(state.deps.iter().cloned());
        self.watch(&unit, &state.deps, &deps);
        state.deps = deps.into_iter().collect();
        self.panics.insert(unit.clone(), found);
        self.units.insert(unit, state);
    }

    /// Replaces what a unit holds by `part`, and notes what that touches.
    fn put(&mut self, unit: Unit, part: Part, deps: HashSet<Dep>, config: &mut Config, touched: &mut Touched, dirty: &mut BTreeSet<Unit>) {
        let old = self.units.remove(&unit).unwrap_or_default();
        if let Unit::Object(key) = &unit {
            touched.status.push(key.clone());
        }
        match part.findings.is_empty() {
            true => self.with_findings.remove(&unit),
            false => self.with_findings.insert(unit.clone()),
        };
        self.watch(&unit, &old.deps, &deps);
        let clusters = part.calls.then_some(Unit::Callable).into_iter().chain(part.clusters.into_iter().map(Unit::Cluster));
        let needs: Box<[Unit]> = clusters.chain(part.secrets.into_iter().map(Unit::Secret)).collect();
        for need in &needs {
            let count = self.demand.entry(need.clone()).or_default();
            *count += 1;
            if *count == 1 && !self.units.contains_key(need) {
                dirty.insert(need.clone());
            }
        }
        for need in &old.needs {
            if let Some(count) = self.demand.get_mut(need) {
                *count -= 1;
            }
        }
        let hosts = self.tables.put(&unit, &old.hosts, part.routes);
        let ports = self.put_ports(&unit, &old.ports, part.ports, touched);
        self.put_plugins(&unit, part.plugins, config, touched);
        self.put_settings(&unit, part.settings, touched);
        if let Unit::Cluster(key) = &unit {
            let name = key.name();
            match part.own_idle_timeout {
                true => self.own_idle.insert(name.clone()),
                false => self.own_idle.remove(&name),
            };
            put(&mut config.clusters, &name, part.cluster.map(|c| self.with_settings(c)));
            put(&mut config.endpoints, &name, part.endpoints);
        }
        if let Unit::Secret(key) = &unit {
            put(&mut config.secrets, &key.resource(), part.secret);
        }
        if matches!(unit, Unit::Object(_)) && !self.exists(&unit) {
            self.watch(&unit, &deps.into_iter().collect::<Vec<_>>(), &HashSet::new());
            return;
        }
        let state = UnitState {
            deps: deps.into_iter().collect(),
            hosts,
            ports,
            needs,
            findings: part.findings.into(),
            conditions: part.conditions.into(),
        };
        self.units.insert(unit, state);
    }

    /// Whether its object is still there.
    fn exists(&self, unit: &Unit) -> bool {
        matches!(unit, Unit::Object(key) if self.store.get(key).is_some())
    }

    fn watch(&mut self, unit: &Unit, old: &[Dep], new: &HashSet<Dep>) {
        for dep in old.iter().filter(|d| !new.contains(d)) {
            if let Some(units) = self.watchers.get_mut(dep) {
                units.retain(|u| u != unit);
                if units.is_empty() {
                    self.watchers.remove(dep);
                }
            }
        }
        let known: HashSet<&Dep> = old.iter().collect();
        for dep in new.iter().filter(|d| !known.contains(d)) {
            self.watchers.entry(dep.clone()).or_insert_with(|| Vec::with_capacity(1)).push(unit.clone());
        }
    }

    fn put_ports(&mut self, unit: &Unit, old: &[Bind], parts: Vec<PortPart>, touched: &mut Touched) -> Box<[Bind]> {
        let mut new: BTreeMap<Bind, Vec<PortPart>> = BTreeMap::new();
        for part in parts {
            new.entry(part.bind).or_default().push(part);
        }
        for port in old.iter().filter(|p| !new.contains_key(p)) {
            touched.ports.insert(*port);
            if let Some(units) = self.ports.get_mut(port) {
                units.remove(unit);
            }
        }
        let ports = new.keys().copied().collect();
        for (port, parts) in new {
            let units = self.ports.entry(port).or_default();
            if units.get(unit) != Some(&parts) {
                units.insert(unit.clone(), parts);
                touched.ports.insert(port);
            }
        }
        ports
    }

    fn put_plugins(&mut self, unit: &Unit, parts: Vec<PluginPart>, config: &mut Config, touched: &mut Touched) {
        let old = self.plugins.remove(unit).unwrap_or_default();
        if old == parts {
            if !parts.is_empty() {
                self.plugins.insert(unit.clone(), old);
            }
            return;
        }
        touched.all_ports = true;
        for part in old.iter().filter(|o| !parts.iter().any(|n| n.plugin.name == o.plugin.name)) {
            config.plugins.remove(&part.plugin.name);
        }
        for part in &parts {
            put(&mut config.plugins, &part.plugin.name, Some(part.plugin.as_ref().clone()));
        }
        if !parts.is_empty() {
            self.plugins.insert(unit.clone(), parts);
        }
    }

    fn put_settings(&mut self, unit: &Unit, new: Option<Box<Settings>>, touched: &mut Touched) {
        let Unit::Object(key) = unit else { return };
        let at = (Reverse(key.name.clone()), unit.clone());
        touched.settings |= self.settings.get(&at) != new.as_ref();
        touched.all_ports |= touched.settings;
        match new {
            Some(new) => self.settings.insert(at, new),
            None => self.settings.remove(&at),
        };
    }

    /// A cluster with what settings say of all of them.
    fn with_settings(&self, cluster: Cluster) -> Cluster {
        let Cluster { mut response_limits, mut idle_timeout, .. } = Cluster::new("".into(), Discovery::Eds);
        self.settings.values().for_each(|s| s.apply_to_upstreams(&mut response_limits, &mut idle_timeout));
        if self.own_idle.contains(&cluster.name) {
            idle_timeout = cluster.idle_timeout;
        }
        Cluster { response_limits, idle_timeout, ..cluster }
    }

    fn set_clusters(&self, config: &mut Config) {
        let all: Vec<Arc<Cluster>> = config.clusters.values().cloned().collect();
        for cluster in all {
            put(&mut config.clusters, &cluster.name, Some(self.with_settings(Cluster::clone(&cluster))));
        }
    }

    /// Clusters and secrets that nobody asks for any more, and what only those asked for.
    fn drop_unneeded(&mut self, config: &mut Config, touched: &mut Touched) {
        loop {
            let unneeded: Vec<Unit> = self.demand.extract_if(|_, count| *count == 0).map(|(unit, _)| unit).collect();
            if unneeded.is_empty() {
                return;
            }
            for unit in unneeded {
                self.put(unit.clone(), Part::default(), HashSet::new(), config, touched, &mut BTreeSet::new());
                self.units.remove(&unit);
                self.panics.remove(&unit);
                if let Unit::Secret(key) = &unit {
                    self.artifacts.good.borrow_mut().remove(&key.resource());
                }
            }
        }
    }

    fn build_listeners(&mut self, config: &mut Config, touched: Touched) {
        let ports: Vec<Bind> = if touched.all_ports { self.ports.keys().copied().collect() } else { touched.ports.into_iter().collect() };
        for port in ports {
            let name: Name = listener::name(&self.options, port);
            let parts = self.ports.get(&port).filter(|units| !units.is_empty());
            let (listener, findings) = match parts {
                Some(units) => {
                    let settings: Vec<&Settings> = self.settings.values().map(|s| &**s).collect();
                    listener::build(&self.options, &settings, port, units, &self.plugins, config.listeners.get(&name))
                }
                None => (None, Vec::new()),
            };
            let listener = listener.map(|l| Listener { origins: self.origins(parts), ..l });
            put(&mut config.listeners, &name, listener);
            let place = |(unit, found): (Unit, Diagnostic)| match &unit {
                Unit::Object(key) => self.store.get(key).map_or(found.clone(), |o| found.clone().from_origin(&o.origin())),
                _ => found,
            };
            self.port_findings.insert(port, findings.into_iter().map(place).collect());
            if parts.is_none() {
                self.ports.remove(&port);
                self.port_findings.remove(&port);
            }
        }
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

    /// Everything that is wrong as of now, beside what reading found.
    pub fn findings(&self) -> (Vec<&Finding>, Vec<&Diagnostic>) {
        (
            self.with_findings
                .iter()
                .filter(|u| !self.is_only_callable(u))
                .filter_map(|u| self.units.get(u))
                .flat_map(|u| &*u.findings)
                .collect(),
            self.port_findings.values().flatten().chain(self.panics.values()).collect(),
        )
    }

    /// A cluster that exists only because a plugin might call it: its findings are hidden.
    fn is_only_callable(&self, unit: &Unit) -> bool {
        self.demand.get(unit) == Some(&1) && self.units.get(&Unit::Callable).is_some_and(|all| all.needs.binary_search(unit).is_ok())
    }

    /// Tells what became of some objects.
    fn publish(&self, changed: Vec<Key>) {
        let now = |key: &Key| {
            let object = self.store.get(key)?.clone();
            Some((object, self.units.get(&Unit::Object(key.clone()))?.conditions.clone()))
        };
        self.options.status.set(changed.into_iter().map(|key| {
            let now = now(&key);
            (key, now)
        }));
    }

    pub fn status(&self) -> &Status {
        &self.options.status
    }

    /// Status conditions by object.
    pub fn conditions(&self) -> impl Iterator<Item = (&Key, &[Condition])> {
        self.units.iter().filter_map(|(unit, state)| match unit {
            Unit::Object(key) if !state.conditions.is_empty() => Some((key, &*state.conditions)),
            _ => None,
        })
    }

    /// Files that objects name: to be watched beside the configuration's own.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.watchers.keys().filter_map(|dep| match dep {
            Dep::File(path) => Some(&**path),
            _ => None,
        })
    }
}

/// Puts, replaces or removes a resource; an equal one keeps its `Arc`.
fn put<T: PartialEq>(map: &mut BTreeMap<Name, Arc<T>>, name: &Name, new: Option<T>) {
    match new {
        None => {
            map.remove(name);
        }
        Some(new) => match map.get(name) {
            Some(old) if **old == new => {}
            _ => {
                map.insert(name.clone(), Arc::new(new));
            }
        },
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
            let update = control.load(&[dir.path().into()]);
            let found: Vec<String> = update.diagnostics.iter().map(|d| format!("{} {}", d.reason, d.message)).collect();
            (update.config.listeners.keys().map(|name| name.to_string()).collect::<Vec<_>>(), found)
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
        let update = control.load(&[dir.path().into()]);
        assert_eq!((update.config.listeners.len(), update.diagnostics.len()), (1, 0), "{:?}", update.diagnostics);
    }
}
