//! The units that there are, by number, and who looked at what.
use crate::object::Finding;
use crate::status::Condition;
use crate::translate::{Bind, Dep, Unit};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};
use weir_config::{diagnostic::Diagnostic, model::Name};

/// The number of a unit; another one may get it when the unit is gone.
pub type UnitId = u32;

/// What is kept of a unit's last translation; its routes, ports and resources are where they are used.
pub struct UnitState {
    pub unit: Arc<Unit>,
    pub deps: Box<[Dep]>,
    /// (table, domain)
    pub hosts: Box<[(Name, Name)]>,
    pub needs: Box<[UnitId]>,
    pub conditions: Arc<[Condition]>,
    /// How many units need this one, a cluster or secret.
    pub demand: u32,
    /// A plugin may call it: one of those that need it is [`Unit::Callable`].
    pub callable: bool,
    /// `None` for one without all of this, as most are.
    pub rare: Option<Box<Rare>>,
}

/// What few units have.
#[derive(Default, PartialEq)]
pub struct Rare {
    pub ports: Vec<Bind>,
    pub findings: Vec<Finding>,
    /// Files that it looked at.
    pub files: Vec<Arc<Path>>,
    /// Its translation failed by a bug: what was made of it before stays.
    pub panic: Option<Diagnostic>,
}

impl Rare {
    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty() || self.panic.is_some()
    }
}

impl UnitState {
    /// A cluster that exists only because a plugin might call it: its findings are hidden.
    pub fn is_hidden(&self) -> bool {
        self.callable && self.demand == 1
    }

    fn new(unit: Arc<Unit>) -> UnitState {
        UnitState {
            unit,
            deps: Box::default(),
            hosts: Box::default(),
            needs: Box::default(),
            conditions: Arc::default(),
            demand: 0,
            callable: false,
            rare: None,
        }
    }
}

#[derive(Default)]
pub struct Units {
    states: Vec<Option<UnitState>>,
    free: Vec<UnitId>,
    ids: HashMap<Arc<Unit>, UnitId>,
}

impl Units {
    pub fn id(&self, unit: &Unit) -> Option<UnitId> {
        self.ids.get(unit).copied()
    }
    pub fn get(&self, id: UnitId) -> Option<&UnitState> {
        self.states.get(id as usize)?.as_ref()
    }
    pub fn get_mut(&mut self, id: UnitId) -> Option<&mut UnitState> {
        self.states.get_mut(id as usize)?.as_mut()
    }
    /// The unit with this identity, new where there is none; true where it is new.
    pub fn ensure(&mut self, unit: &Arc<Unit>) -> (UnitId, bool) {
        if let Some(id) = self.ids.get(unit) {
            return (*id, false);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.states.push(None);
            self.states.len() as UnitId - 1
        });
        self.states[id as usize] = Some(UnitState::new(unit.clone()));
        self.ids.insert(unit.clone(), id);
        (id, true)
    }
    pub fn remove(&mut self, id: UnitId) {
        if let Some(state) = self.states.get_mut(id as usize).and_then(Option::take) {
            self.ids.remove(&state.unit);
            self.free.push(id);
        }
    }
}

/// The units that looked at something, by what it was.
#[derive(Default)]
pub struct Watchers(HashMap<Dep, Watching>);

enum Watching {
    One(UnitId),
    // Few are as large as that.
    #[allow(clippy::box_collection)]
    More(Box<HashSet<UnitId>>),
}

impl Watchers {
    pub fn of(&self, dep: Dep) -> impl Iterator<Item = UnitId> {
        let (one, more) = match self.0.get(&dep) {
            None => (None, None),
            Some(Watching::One(unit)) => (Some(*unit), None),
            Some(Watching::More(units)) => (None, Some(units)),
        };
        one.into_iter().chain(more.into_iter().flat_map(|units| units.iter().copied()))
    }

    /// A unit looked at `new` in place of `old`.
    pub fn replace(&mut self, unit: UnitId, old: &[Dep], new: &HashSet<Dep>) {
        for dep in old.iter().filter(|dep| !new.contains(dep)) {
            self.remove(*dep, unit);
        }
        // One that watches already is no other for being added again.
        new.iter().for_each(|dep| self.add(*dep, unit));
    }

    fn add(&mut self, dep: Dep, unit: UnitId) {
        match self.0.get_mut(&dep) {
            None => _ = self.0.insert(dep, Watching::One(unit)),
            Some(Watching::One(known)) if *known == unit => {}
            Some(Watching::More(units)) => _ = units.insert(unit),
            Some(watching) => {
                if let Watching::One(known) = watching {
                    *watching = Watching::More(Box::new([*known, unit].into()));
                }
            }
        }
    }

    fn remove(&mut self, dep: Dep, unit: UnitId) {
        let empty = match self.0.get_mut(&dep) {
            None => false,
            Some(Watching::One(known)) => *known == unit,
            Some(Watching::More(units)) => {
                units.remove(&unit);
                units.is_empty()
            }
        };
        if empty {
            self.0.remove(&dep);
        }
    }
}
