//! Which unit looked at what.
use super::units::UnitId;
use crate::{dense, translate::Dep};
use std::collections::{BTreeSet, HashSet};

type Pair = (Dep, UnitId);

/// A unit for nearly every look, so the pairs have no lists of their own. There are many for each object, most of which stay: these are
/// in one list without gaps, and what changed since it was made is beside it.
#[derive(Default)]
pub struct Watchers {
    /// In order.
    list: Box<[Pair]>,
    /// Pairs of the list that are gone.
    gone: BTreeSet<Pair>,
    /// Pairs that are not in the list.
    added: BTreeSet<Pair>,
    /// Those that came since the last [`Watchers::settle`].
    new: Vec<Pair>,
}

impl Watchers {
    pub fn of(&self, dep: Dep) -> impl Iterator<Item = UnitId> {
        let listed = self.list[self.list.partition_point(|pair| pair.0 < dep)..].iter();
        let listed = listed.take_while(move |pair| pair.0 == dep).filter(|pair| !self.gone.contains(pair));
        listed.chain(self.added.range((dep, 0)..=(dep, UnitId::MAX))).map(|(_, unit)| *unit)
    }

    /// A unit looked at `new` in place of `old`. To be settled before it is asked.
    pub fn replace(&mut self, unit: UnitId, old: impl Iterator<Item = Dep>, new: &HashSet<Dep>) {
        for dep in old.filter(|dep| !new.contains(dep)) {
            let pair = (dep, unit);
            if !self.holds(&pair) {
                self.settle();
            }
            if !self.added.remove(&pair) && self.list.binary_search(&pair).is_ok() {
                self.gone.insert(pair);
            }
        }
        let new = new.iter().map(|dep| (*dep, unit)).filter(|pair| !self.holds(pair));
        self.new.extend(new.collect::<Vec<_>>());
    }

    fn holds(&self, pair: &Pair) -> bool {
        self.added.contains(pair) || (self.list.binary_search(pair).is_ok() && !self.gone.contains(pair))
    }

    /// Takes in what is new. After many changes the list is made again.
    pub fn settle(&mut self) {
        let new = std::mem::take(&mut self.new);
        if dense::is_due(new.len() + self.added.len() + self.gone.len(), self.list.len()) {
            let (added, gone) = (std::mem::take(&mut self.added), std::mem::take(&mut self.gone));
            let kept = std::mem::take(&mut self.list).into_iter().filter(|pair| !gone.contains(pair));
            let mut all: Vec<Pair> = kept.chain(added).chain(new).collect();
            all.sort();
            all.dedup();
            self.list = all.into();
            return;
        }
        for pair in new {
            if !self.gone.remove(&pair) && self.list.binary_search(&pair).is_err() {
                self.added.insert(pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn watchers_are_those_that_looked_last() {
        let mut watchers = Watchers::default();
        let mut looks: BTreeMap<UnitId, HashSet<Dep>> = BTreeMap::new();
        let mut random = 1u32;
        for step in 0..4000 {
            let mut next = |below| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 8) % below
            };
            let unit = next(60);
            // All look at one, and each at a few of its own.
            let new: HashSet<Dep> = (0..next(6)).map(|_| Dep(next(40))).chain([Dep(40)]).collect();
            let old = looks.insert(unit, new.clone()).unwrap_or_default();
            watchers.replace(unit, old.into_iter(), &new);
            // Several changes are settled as one, a large share of all or a small one.
            if step % (1 + step / 500) > 0 {
                continue;
            }
            watchers.settle();
            for dep in (0..=40).map(Dep) {
                let want: Vec<UnitId> = looks.iter().filter(|(_, deps)| deps.contains(&dep)).map(|(unit, _)| *unit).collect();
                let mut found: Vec<UnitId> = watchers.of(dep).collect();
                found.sort_unstable();
                assert_eq!(found, want, "step {step}, {dep:?}");
            }
        }
    }
}
