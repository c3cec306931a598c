//! The units that there are, by number, and who looked at what.
use crate::{
    dense,
    object::{Finding, Key},
    status::Condition,
    translate::{Attachment, Bind, Dep, ListenerPart, Unit},
};
use hashbrown::HashTable;
use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, SocketProtocol},
};

/// The number of a unit; another one may get it when the unit is gone.
pub type UnitId = u32;

/// What is kept of a unit's last translation; its routes, ports and resources are where they are used.
pub struct UnitState {
    pub unit: Unit,
    links: Links,
    /// (table, domain)
    pub hosts: Box<[(Name, Name)]>,
    pub outcome: Arc<Outcome>,
    /// How many units need this one, a cluster or secret.
    pub demand: u32,
    /// A plugin may call it: one of those that need it is [`Unit::Callable`].
    pub callable: bool,
    /// `None` for one without all of this, as most are.
    pub rare: Option<Box<Rare>>,
}

/// What a translation says of its object. Most units have the outcome of many others, and share it.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub conditions: Arc<[Condition]>,
    /// The listeners that it is attached to.
    pub attached: Box<[Attachment]>,
}

/// What few units have.
#[derive(Default, PartialEq)]
pub struct Rare {
    pub ports: Vec<Bind>,
    pub findings: Vec<Finding>,
    /// Files that it looked at.
    pub files: Vec<Arc<Path>>,
    /// Of a Gateway or ListenerSet.
    pub listeners: Vec<ListenerPart>,
    pub attached_listener_sets: u32,
    /// Of a Gateway that has a Service.
    pub service_ports: Vec<(u16, SocketProtocol)>,
    /// (BackendTLSPolicy, Gateway)
    pub ancestors: BTreeSet<(Key, Key)>,
    /// Its translation failed by a bug: what was made of it before stays.
    pub panic: Option<Diagnostic>,
}

impl Rare {
    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty() || self.panic.is_some()
    }
}

/// What a unit looked at, and the units that it needs: numbers in one list, as there is one for each unit.
#[derive(Default)]
struct Links {
    list: Box<[u32]>,
    /// How many of them are looks.
    deps: u32,
}

impl UnitState {
    pub fn deps(&self) -> impl Iterator<Item = Dep> {
        self.links.list.iter().take(self.links.deps as usize).copied().map(Dep)
    }
    pub fn needs(&self) -> impl Iterator<Item = UnitId> {
        self.links.list.iter().skip(self.links.deps as usize).copied()
    }
    pub fn set_deps(&mut self, deps: impl Iterator<Item = Dep>) {
        self.link(deps.collect(), self.needs().collect());
    }
    pub fn set_needs(&mut self, needs: &[UnitId]) {
        self.link(self.deps().collect(), needs.to_vec());
    }
    fn link(&mut self, deps: Vec<Dep>, needs: Vec<UnitId>) {
        self.links = Links { deps: deps.len() as u32, list: deps.into_iter().map(|dep| dep.0).chain(needs).collect() };
    }

    /// A cluster that exists only because a plugin might call it: its findings are hidden.
    pub fn is_hidden(&self) -> bool {
        self.callable && self.demand == 1
    }

    fn new(unit: Unit) -> UnitState {
        UnitState { unit, links: Links::default(), hosts: Box::default(), outcome: Arc::default(), demand: 0, callable: false, rare: None }
    }
}

#[derive(Default)]
pub struct Units {
    states: Vec<Option<UnitState>>,
    free: Vec<UnitId>,
    /// By the units of the states.
    ids: HashTable<UnitId>,
    hasher: RandomState,
}

fn hash(states: &[Option<UnitState>], hasher: &RandomState, id: UnitId) -> u64 {
    states.get(id as usize).and_then(Option::as_ref).map(|state| hasher.hash_one(&state.unit)).unwrap_or_default()
}

/// How many to make room for beside so many: doubling would leave room for as many again.
fn spare(len: usize) -> usize {
    len / 8 + 16
}

impl Units {
    pub fn id(&self, unit: &Unit) -> Option<UnitId> {
        self.ids.find(self.hasher.hash_one(unit), |id| self.get(*id).is_some_and(|state| state.unit == *unit)).copied()
    }
    pub fn get(&self, id: UnitId) -> Option<&UnitState> {
        self.states.get(id as usize)?.as_ref()
    }
    pub fn get_mut(&mut self, id: UnitId) -> Option<&mut UnitState> {
        self.states.get_mut(id as usize)?.as_mut()
    }
    /// The unit with this identity, new where there is none; true where it is new.
    pub fn ensure(&mut self, unit: &Unit) -> (UnitId, bool) {
        if let Some(id) = self.id(unit) {
            return (id, false);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            if self.states.len() == self.states.capacity() {
                self.states.reserve_exact(spare(self.states.len()));
            }
            self.states.push(None);
            self.states.len() as UnitId - 1
        });
        self.states[id as usize] = Some(UnitState::new(unit.clone()));
        let (states, hasher) = (&self.states, &self.hasher);
        self.ids.insert_unique(hasher.hash_one(unit), id, |id| hash(states, hasher, *id));
        (id, true)
    }
    pub fn remove(&mut self, id: UnitId) {
        if let Some(state) = self.states.get_mut(id as usize).and_then(Option::take) {
            if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(&state.unit), |known| *known == id) {
                entry.remove();
            }
            self.free.push(id);
        }
    }
}

/// Which unit looked at what: a unit for nearly every look, so the pairs have no lists of their own.
#[derive(Default)]
pub struct Watchers {
    pairs: BTreeSet<(Dep, UnitId)>,
    /// Those that came since the last [`Watchers::settle`].
    new: Vec<(Dep, UnitId)>,
}

impl Watchers {
    pub fn of(&self, dep: Dep) -> impl Iterator<Item = UnitId> {
        self.pairs.range((dep, 0)..=(dep, UnitId::MAX)).map(|(_, unit)| *unit)
    }

    /// A unit looked at `new` in place of `old`. To be settled before it is asked.
    pub fn replace(&mut self, unit: UnitId, old: impl Iterator<Item = Dep>, new: &HashSet<Dep>) {
        for dep in old.filter(|dep| !new.contains(dep)) {
            if !self.pairs.remove(&(dep, unit)) {
                self.settle();
                self.pairs.remove(&(dep, unit));
            }
        }
        self.new.extend(new.iter().map(|dep| (*dep, unit)));
    }

    /// Takes in what is new. Many are put in order first, and make a set with full nodes; one by one they would leave half-empty ones,
    /// and holes in memory after those were packed.
    pub fn settle(&mut self) {
        let new = std::mem::take(&mut self.new);
        if dense::is_due(new.len(), self.pairs.len()) {
            self.pairs = std::mem::take(&mut self.pairs).into_iter().chain(new).collect();
        } else {
            self.pairs.extend(new);
        }
    }
}
