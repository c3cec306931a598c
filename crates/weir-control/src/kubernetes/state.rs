//! What the watches of a cluster and the control plane share: what each watch holds, what changed and was not taken yet, and what is
//! wrong.
use super::{
    fetched::{Observed, Reader, Served},
    held::{Event, Held},
    own,
    reach::{GatewayAt, Reach},
    stats::{self, Sample},
    trouble::Trouble,
};
use crate::{
    object::{KINDS, Key, Kind, KindInfo, Object, Spec},
    source::files::Changes,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::Notify;
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::Name,
};

pub mod readiness;

/// A kind in a namespace, or in all of them, that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeId(usize);

/// Called when there is something to take.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// What the watches and the control plane share.
pub struct Shared {
    server: String,
    reader: Reader,
    state: Mutex<State>,
    /// For each scope: its kind may have been installed.
    installed: Vec<Notify>,
    /// A watch failed: the server may be down.
    suspected: Notify,
    /// Somebody changed a status.
    seen: Notify,
    pub counters: Counters,
    wake: Wake,
}

/// Counters of the process.
#[derive(Debug, Default)]
pub struct Counters {
    pub status_writes: AtomicU64,
    pub status_conflicts: AtomicU64,
    pub status_errors: AtomicU64,
    pub events: AtomicU64,
    pub service_writes: AtomicU64,
    pub leads: AtomicBool,
}

struct State {
    scopes: Vec<Scope>,
    pending: HashMap<Key, Option<Arc<Object>>>,
    /// Every kind was read, or is not installed, at least once.
    complete: bool,
    /// The control plane was woken and has not come yet.
    woken: bool,
    /// Why the server cannot be reached, and since when.
    down: Option<(String, Instant)>,
    definitions: Option<Trouble>,
    /// Pods are watched: a DestinationRule has subsets, or had some.
    pods: bool,
    /// The release of Gateway API that is installed.
    bundle: Option<Name>,
    /// Objects whose status on the server is another one than before.
    seen: BTreeSet<Key>,
    /// Objects whose findings changed since the control plane last got them.
    found: BTreeSet<Key>,
    /// Why statuses are not written, and why this process cannot become the leader.
    unwritten: Option<String>,
    unelected: Option<String>,
    /// Why events are not written.
    unreported: Option<String>,
    /// Why Services of Gateways are not written.
    unserved: Option<String>,
    /// Where clients reach Gateways that have a Service.
    gateways: BTreeMap<Key, GatewayAt>,
}

struct Scope {
    info: &'static KindInfo,
    namespace: Option<Name>,
    /// Only the object of this name.
    name: Option<Name>,
    /// The version in which it is read.
    version: &'static str,
    held: Held,
    absent: bool,
    trouble: Option<Trouble>,
    /// When it began to be read, or the trouble began.
    waits_since: Instant,
    lists: u64,
    errors: u64,
    last_event: Option<Instant>,
}

fn unreachable(server: &str, why: &str, complete: bool) -> Diagnostic {
    let found = Diagnostic::warning("NotConnected", format!("the Kubernetes API at {server} cannot be reached: {why}"));
    found.help(if complete { "the last configuration keeps serving" } else { "Weir serves once every kind is read" })
}

impl State {
    /// There may be very many Pods: they are read only where something depends on them.
    fn watches(&self, scope: &Scope) -> bool {
        self.pods || scope.info.kind != Kind::Pod
    }

    /// Whether the first configuration does not wait for a kind, or does not any more.
    fn is_settled(&self, scope: &Scope) -> bool {
        scope.is_settled() || self.is_left_out(scope.info.group) || !self.watches(scope)
    }

    /// An API of which nothing may be read is one that this gateway is not to serve. Where only some of its kinds are refused, or
    /// Kubernetes' own, that is a mistake: to serve without them could remove what other gateways serve.
    fn is_left_out(&self, group: &str) -> bool {
        let mut kinds = self.scopes.iter().filter(|scope| scope.info.group == group);
        !matches!(group, "" | "discovery.k8s.io") && kinds.all(Scope::is_forbidden)
    }
}

impl Scope {
    fn is_settled(&self) -> bool {
        self.absent || self.held.is_synced()
    }

    fn is_forbidden(&self) -> bool {
        !self.held.is_synced() && matches!(self.trouble, Some(Trouble::Forbidden(_)))
    }

    fn trouble(&self, down: bool, left_out: bool) -> Option<Diagnostic> {
        let info = self.info;
        if self.absent {
            let message = format!("the CustomResourceDefinition {} is not installed: there are no {} objects", info.crd(), info.name);
            return Some(Diagnostic::new(Severity::Info, "NotInstalled", message).help("Weir reads them as soon as it is installed"));
        }
        let waits = if self.held.is_synced() { "what was read before keeps serving" } else { "Weir serves once every kind is read" };
        Some(match self.trouble.as_ref()? {
            Trouble::Forbidden(why) if left_out => Diagnostic::warning("Forbidden", why.clone())
                .help("grant get, list and watch where it is used; Weir serves without this API"),
            Trouble::Forbidden(why) => Diagnostic::error("Forbidden", why.clone()).help(format!("grant get, list and watch; {waits}")),
            Trouble::Unauthorized(why) => Diagnostic::error("Unauthorized", format!("{}: {why}", info.plural())).help(waits),
            Trouble::Other(why) if !down => {
                Diagnostic::warning("WatchFailed", format!("the watch of {} fails: {why}", info.plural())).help(waits)
            }
            _ => return None,
        })
    }
}

/// The kinds that are watched in a cluster. Endpoints are left out, as each has its EndpointSlices.
fn is_watched(info: &KindInfo) -> bool {
    info.kind != Kind::Endpoints
}

/// Subsets select endpoints by the labels of their Pods.
fn needs_pods(event: &Event) -> bool {
    let (Event::InitApply(read) | Event::Apply(read)) = event else { return false };
    matches!(read.object.as_deref().map(|o| &o.spec), Some(Spec::DestinationRule(rule)) if !rule.subsets.is_empty())
}

fn scopes(namespaces: &[String], target_ports: Option<&Key>) -> Vec<Scope> {
    let scope = |info: &'static KindInfo, namespace| Scope {
        info,
        namespace,
        name: None,
        version: info.versions[0],
        held: Held::default(),
        absent: false,
        trouble: None,
        waits_since: Instant::now(),
        lists: 0,
        errors: 0,
        last_event: None,
    };
    let mut all = Vec::new();
    for info in KINDS.iter().filter(|info| is_watched(info)) {
        match info.namespaced && !namespaces.is_empty() {
            true => all.extend(namespaces.iter().map(|namespace| scope(info, Some(namespace.as_str().into())))),
            false => all.push(scope(info, None)),
        }
    }
    if let Some(key) = target_ports.filter(|key| !namespaces.is_empty() && !namespaces.iter().any(|n| *n == *key.namespace)) {
        all.push(Scope { name: Some(key.name.clone()), ..scope(key.kind.info(), Some(key.namespace.clone())) });
    }
    all
}

impl Shared {
    pub fn new(server: String, controller: Name, namespaces: &[String], target_ports: Option<&Key>, wake: Wake) -> Shared {
        let scopes = scopes(namespaces, target_ports);
        let installed = scopes.iter().map(|_| Notify::new()).collect();
        let state = State {
            scopes,
            pending: HashMap::new(),
            complete: false,
            woken: false,
            down: None,
            definitions: None,
            pods: false,
            bundle: None,
            seen: BTreeSet::new(),
            found: BTreeSet::new(),
            unwritten: None,
            unelected: None,
            unreported: None,
            unserved: None,
            gateways: BTreeMap::new(),
        };
        Shared {
            server,
            reader: Reader::new(controller),
            state: state.into(),
            installed,
            suspected: Notify::new(),
            seen: Notify::new(),
            counters: Counters::default(),
            wake,
        }
    }

    pub fn scopes(&self) -> impl Iterator<Item = ScopeId> {
        (0..self.installed.len()).map(ScopeId)
    }

    /// What changed since the last time; `None` for as long as not every kind was read.
    pub fn take(&self) -> Option<Changes> {
        let mut state = self.state();
        state.woken = false;
        state.complete.then(|| std::mem::take(&mut state.pending).into_iter().collect())
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        let state = self.state();
        state.scopes.iter().filter(|scope| scope.info.kind == key.kind).find_map(|scope| scope.held.get(key).cloned())
    }

    /// Whether every kind was read.
    pub fn is_complete(&self) -> bool {
        self.state().complete
    }

    /// Whether the cluster has an object, used or not.
    pub fn exists(&self, key: &Key) -> bool {
        self.state().scopes.iter().any(|scope| scope.info.kind == key.kind && scope.held.holds(key))
    }

    pub fn gateways(&self) -> Vec<Arc<Object>> {
        let state = self.state();
        state.scopes.iter().filter(|scope| scope.info.kind == Kind::Gateway).flat_map(|scope| scope.held.objects().cloned()).collect()
    }

    /// Where clients reach a version of a Gateway by its Service; `None` where it has none.
    pub fn set_gateway(&self, key: &Key, at: Option<(i64, Reach)>) {
        let mut state = self.state();
        let before = state.gateways.remove(key);
        let now = at.map(|(generation, reach)| GatewayAt::new(before.as_ref(), generation, reach, Instant::now()));
        if let Some(now) = &now {
            state.gateways.insert(key.clone(), now.clone());
        }
        if before == now {
            return;
        }
        state.seen.insert(key.clone());
        self.seen.notify_one();
        if before.and_then(|at| at.reach.finding) != now.and_then(|at| at.reach.finding) {
            self.wake(&mut state);
        }
    }

    pub fn gateway(&self, key: &Key) -> Option<GatewayAt> {
        self.state().gateways.get(key).cloned()
    }

    /// How many objects there are, by kind.
    pub fn count(&self, kinds: &mut BTreeMap<&'static str, usize>) {
        for scope in &self.state().scopes {
            let count = scope.held.objects().count();
            if count > 0 {
                *kinds.entry(scope.info.name).or_default() += count;
            }
        }
    }

    /// The findings about objects that changed since the last time.
    pub fn take_found(&self) -> Vec<(Key, Vec<Diagnostic>)> {
        let mut state = self.state();
        let changed = std::mem::take(&mut state.found);
        let found = |key: &Key| {
            let scopes = state.scopes.iter().filter(|scope| scope.info.kind == key.kind);
            scopes.flat_map(|scope| scope.held.findings(key)).cloned().collect()
        };
        changed.into_iter().map(|key| (key.clone(), found(&key))).collect()
    }

    /// Findings about the connection and kinds, and about the Services of Gateways.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let state = self.state();
        let mut all: Vec<Diagnostic> = state.down.iter().map(|(why, _)| unreachable(&self.server, why, state.complete)).collect();
        for scope in &state.scopes {
            all.extend(scope.trouble(state.down.is_some(), state.is_left_out(scope.info.group)));
        }
        if state.down.is_none() {
            let unwritten =
                |why: &String| Diagnostic::warning("StatusNotWritten", format!("the status of objects cannot be written: {why}"));
            let unelected =
                |why: &String| Diagnostic::warning("NoLease", format!("no leader can be elected, and no status written: {why}"));
            all.extend(state.unwritten.iter().map(unwritten));
            all.extend(state.unelected.iter().map(unelected));
            let unreported = |why: &String| Diagnostic::warning("EventNotWritten", format!("events cannot be written: {why}"));
            all.extend(state.unreported.iter().map(unreported));
            let unserved =
                |why: &String| Diagnostic::warning("ServiceNotWritten", format!("the Services of Gateways cannot be written: {why}"));
            all.extend(state.unserved.iter().map(unserved));
            all.extend(state.gateways.values().filter_map(|at| at.reach.finding.clone()));
        }
        if let Some(Trouble::Forbidden(why)) = &state.definitions {
            let help = "grant it, or kinds that are installed later are found within 30 seconds only";
            all.push(Diagnostic::warning("Forbidden", why.clone()).help(help));
        }
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the control plane where it has something to take or to tell.
    fn wake(&self, state: &mut State) {
        if !state.woken {
            state.woken = true;
            (self.wake)();
        }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The kind, the namespace and the name of what is watched; `None` for all.
    pub fn scope(&self, id: ScopeId) -> (&'static KindInfo, Option<Name>, Option<Name>) {
        let scope = &self.state().scopes[id.0];
        (scope.info, scope.namespace.clone(), scope.name.clone())
    }

    pub fn event(&self, id: ScopeId, event: Event) {
        let mut state = self.state();
        if !state.pods && needs_pods(&event) {
            state.pods = true;
            let scopes = state.scopes.iter().zip(&self.installed).filter(|(scope, _)| scope.info.kind == Kind::Pod);
            scopes.for_each(|(_, waiting)| waiting.notify_one());
        }
        let begins = matches!(event, Event::Init);
        let scope = &mut state.scopes[id.0];
        scope.lists += u64::from(matches!(event, Event::InitDone));
        if matches!(event, Event::Apply(_) | Event::Delete(_) | Event::InitDone) {
            scope.last_event = Some(Instant::now());
        }
        let mut changes = Changes::new();
        let seen = match &event {
            Event::Apply(read) if read.observed.as_ref().map(|o| o.own) != scope.held.observed(&read.key).map(|o| o.own) => {
                Some(read.key.clone())
            }
            _ => None,
        };
        let listed = matches!(event, Event::InitDone) && own::is_written(scope.info.kind);
        let mut found = BTreeSet::new();
        scope.held.take(event, &mut changes, &mut found);
        let seen: Vec<Key> = match listed {
            true => scope.held.objects().map(|object| object.key.clone()).collect(),
            false => seen.into_iter().collect(),
        };
        let told = !begins && (std::mem::take(&mut scope.absent) | scope.trouble.take().is_some());
        let changed = !changes.is_empty();
        let findings = !found.is_empty();
        state.pending.extend(changes);
        state.found.extend(found);
        if !seen.is_empty() {
            state.seen.extend(seen);
            self.seen.notify_one();
        }
        if self.complete(&mut state) || (state.complete && (changed || findings)) || told {
            self.wake(&mut state);
        }
    }

    /// The statistics as of now.
    pub fn samples(&self) -> Vec<Sample> {
        let state = self.state();
        let seconds = |at: Instant| at.elapsed().as_secs();
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let down = state.down.as_ref().map(|(_, since)| *since);
        let mut all: Vec<Sample> = [
            (&stats::CONNECTED, u64::from(down.is_none())),
            (&stats::AGE, down.map_or(0, seconds)),
            (&stats::SYNCED, state.complete.into()),
            (&stats::LEADER, self.counters.leads.load(Relaxed).into()),
            (&stats::WRITES, count(&self.counters.status_writes)),
            (&stats::CONFLICTS, count(&self.counters.status_conflicts)),
            (&stats::ERRORS, count(&self.counters.status_errors)),
            (&stats::EVENTS, count(&self.counters.events)),
            (&stats::SERVICE_WRITES, count(&self.counters.service_writes)),
        ]
        .into_iter()
        .map(|(stat, value)| Sample { stat, resource: None, value })
        .collect();
        // Those of a kind in several namespaces together.
        let mut kinds: BTreeMap<Kind, [u64; 4]> = BTreeMap::new();
        for scope in state.scopes.iter().filter(|scope| !scope.absent && state.watches(scope)) {
            let [objects, lists, errors, age] = kinds.entry(scope.info.kind).or_insert([0, 0, 0, u64::MAX]);
            *objects += scope.held.count() as u64;
            *lists += scope.lists;
            *errors += scope.errors;
            *age = scope.last_event.map_or(*age, |at| seconds(at).min(*age));
        }
        for (kind, values) in kinds {
            let resource = Some(kind.info().crd().trim_end_matches('.').to_string());
            let stats = [&stats::OBJECTS, &stats::LISTS, &stats::RESTARTS, &stats::EVENT_AGE];
            let known = stats.into_iter().zip(values).filter(|(_, value)| *value != u64::MAX);
            all.extend(known.map(|(stat, value)| Sample { stat, resource: resource.clone(), value }));
        }
        all
    }

    /// Whether every kind is read now for the first time.
    fn complete(&self, state: &mut State) -> bool {
        let before = state.complete;
        state.complete = state.complete || state.scopes.iter().all(|scope| state.is_settled(scope));
        state.complete && !before
    }

    /// The version in which a kind is read from now on.
    pub fn reads(&self, id: ScopeId, version: &'static str) {
        self.state().scopes[id.0].version = version;
    }

    /// The name of the controller whose part of a status is Weir's.
    pub fn controller(&self) -> &str {
        &self.reader.controller
    }

    /// The status that an object of the cluster has on the server, and how to reach it.
    pub fn observed(&self, key: &Key) -> Option<(Served, Observed)> {
        let state = self.state();
        let mut scopes = state.scopes.iter().filter(|scope| scope.info.kind == key.kind);
        scopes.find_map(|scope| Some((Served { info: scope.info, version: scope.version }, scope.held.observed(key)?.clone())))
    }

    /// What a status is after it was written.
    pub fn observe(&self, key: &Key, observed: Observed) {
        let mut state = self.state();
        for scope in state.scopes.iter_mut().filter(|scope| scope.info.kind == key.kind) {
            scope.held.observe(key, observed.clone());
        }
    }

    /// Waits for statuses that somebody changed.
    pub async fn statuses_seen(&self) -> BTreeSet<Key> {
        self.seen.notified().await;
        std::mem::take(&mut self.state().seen)
    }

    pub fn status_trouble(&self, why: Option<String>) {
        let mut state = self.state();
        if state.unwritten != why {
            state.unwritten = why;
            self.wake(&mut state);
        }
    }

    pub fn event_trouble(&self, why: Option<String>) {
        let mut state = self.state();
        if state.unreported != why {
            state.unreported = why;
            self.wake(&mut state);
        }
    }

    pub fn services_trouble(&self, why: Option<String>) {
        let mut state = self.state();
        if state.unserved != why {
            state.unserved = why;
            self.wake(&mut state);
        }
    }

    /// How to reach an object of the cluster; `None` for one that is not there.
    pub fn served(&self, key: &Key) -> Option<Served> {
        let state = self.state();
        let mut scopes = state.scopes.iter().filter(|scope| scope.info.kind == key.kind && scope.held.holds(key));
        scopes.next().map(|scope| Served { info: scope.info, version: scope.version })
    }

    pub fn lease_trouble(&self, why: Option<String>) {
        let mut state = self.state();
        if state.unelected != why {
            state.unelected = why;
            self.wake(&mut state);
        }
    }

    pub fn absent(&self, id: ScopeId) {
        let mut state = self.state();
        let scope = &mut state.scopes[id.0];
        let new = !std::mem::replace(&mut scope.absent, true);
        scope.trouble = None;
        if self.complete(&mut state) || new {
            self.wake(&mut state);
        }
    }

    pub fn trouble(&self, id: ScopeId, trouble: Trouble) {
        let mut state = self.state();
        if matches!(trouble, Trouble::Other(_)) {
            self.suspected.notify_one();
        }
        let scope = &mut state.scopes[id.0];
        scope.errors += 1;
        let new = scope.trouble.as_ref() != Some(&trouble);
        if new {
            scope.waits_since = Instant::now();
        }
        scope.trouble = Some(trouble);
        if self.complete(&mut state) || new {
            self.wake(&mut state);
        }
    }

    /// Resolves when a kind is to be watched.
    pub async fn wanted(&self, id: ScopeId) {
        loop {
            {
                let state = self.state();
                if state.watches(&state.scopes[id.0]) {
                    return;
                }
            }
            self.installed(id).await;
        }
    }

    /// Resolves when the kind may have been installed.
    pub async fn installed(&self, id: ScopeId) {
        self.installed[id.0].notified().await;
    }

    /// A CustomResourceDefinition came or changed; `bundle` is its release of Gateway API.
    pub fn definition(&self, name: &str, bundle: Option<&str>) {
        let mut state = self.state();
        if name == Kind::GatewayClass.info().crd() && state.bundle.as_deref() != bundle {
            state.bundle = bundle.map(Into::into);
            let scopes = state.scopes.iter().filter(|scope| scope.info.kind == Kind::GatewayClass);
            let classes: Vec<Key> = scopes.flat_map(|scope| scope.held.objects()).map(|object| object.key.clone()).collect();
            state.seen.extend(classes);
            self.seen.notify_one();
        }
        for (scope, installed) in state.scopes.iter().zip(&self.installed) {
            if scope.absent && scope.info.crd() == name {
                installed.notify_one();
            }
        }
    }

    /// The release of Gateway API whose definitions are installed, where they say it.
    pub fn bundle(&self) -> Option<Name> {
        self.state().bundle.clone()
    }

    pub fn definitions_trouble(&self, trouble: Option<Trouble>) {
        let mut state = self.state();
        if state.definitions != trouble {
            state.definitions = trouble;
            self.wake(&mut state);
        }
    }

    /// Resolves when a watch failed.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Whether the server answers; else why not.
    pub fn probed(&self, down: Option<String>) {
        let mut state = self.state();
        let since = state.down.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let changed = state.down.as_ref().map(|(why, _)| why) != down.as_ref();
        state.down = down.map(|why| (why, since));
        if changed {
            self.wake(&mut state);
        }
    }
}
