//! The units that there are, by number.
use crate::{
    object::{Finding, Key},
    status::Condition,
    translate::{Attachment, Bind, Dep, ListenerPart, Unit},
};
use hashbrown::HashTable;
use std::{
    collections::BTreeSet,
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
    /// What it looked at, and the units that it needs: numbers in one list, as there is one for each unit.
    links: Box<[u32]>,
    /// How many of them are looks.
    deps: u32,
    /// (table, domain)
    pub hosts: Box<[(Name, Name)]>,
    pub outcome: Arc<Outcome>,
    pub demand: Demand,
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

/// How many units need one, a cluster or secret. There is one of these for each unit, so the highest bit says whether
/// [`Unit::Callable`] is among them: a plugin may call it.
#[derive(Clone, Copy, Default)]
pub struct Demand(u32);

impl Demand {
    const CALLABLE: u32 = 1 << 31;

    pub fn is_none(self) -> bool {
        self.count() == 0
    }
    pub fn add(&mut self) {
        self.0 += 1;
    }
    pub fn remove(&mut self) {
        self.0 -= 1;
    }
    pub fn set_callable(&mut self, callable: bool) {
        self.0 = if callable { self.0 | Demand::CALLABLE } else { self.count() };
    }
    fn count(self) -> u32 {
        self.0 & !Demand::CALLABLE
    }
    fn is_callable(self) -> bool {
        self.0 & Demand::CALLABLE != 0
    }
}

impl UnitState {
    pub fn deps(&self) -> impl Iterator<Item = Dep> {
        self.links.iter().take(self.deps as usize).copied().map(Dep)
    }
    pub fn needs(&self) -> impl Iterator<Item = UnitId> {
        self.links.iter().skip(self.deps as usize).copied()
    }
    pub fn set_deps(&mut self, deps: impl Iterator<Item = Dep>) {
        self.link(deps.collect(), self.needs().collect());
    }
    pub fn set_needs(&mut self, needs: &[UnitId]) {
        self.link(self.deps().collect(), needs.to_vec());
    }
    fn link(&mut self, deps: Vec<Dep>, needs: Vec<UnitId>) {
        self.deps = deps.len() as u32;
        self.links = deps.into_iter().map(|dep| dep.0).chain(needs).collect();
    }

    /// A cluster that exists only because a plugin might call it: its findings are hidden.
    pub fn is_hidden(&self) -> bool {
        self.demand.is_callable() && self.demand.count() == 1
    }

    fn new(unit: Unit) -> UnitState {
        let (links, deps, hosts, outcome, demand, rare) = Default::default();
        UnitState { unit, links, deps, hosts, outcome, demand, rare }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_small() {
        assert!(size_of::<Option<UnitState>>() <= 72, "{}", size_of::<Option<UnitState>>());
    }
}
