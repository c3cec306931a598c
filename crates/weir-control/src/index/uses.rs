//! Which objects the clusters are made of: DestinationRules, ServiceEntries and WorkloadEntries. They are no units of their own, and their
//! status says something only while a cluster uses them.
use super::units::UnitId;
use crate::object::Key;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Uses {
    /// Only of units that use any.
    by_unit: BTreeMap<UnitId, BTreeSet<Key>>,
    /// By how many units each is used.
    counts: BTreeMap<Key, u32>,
}

impl Uses {
    /// Replaces what a unit uses. Objects that gain their first user or lose their last one are `changed`.
    pub fn replace(&mut self, unit: UnitId, new: BTreeSet<Key>, changed: &mut BTreeSet<Key>) {
        let old = self.by_unit.remove(&unit).unwrap_or_default();
        for key in new.difference(&old) {
            let count = self.counts.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                changed.insert(key.clone());
            }
        }
        for key in old.difference(&new) {
            let Some(count) = self.counts.get_mut(key) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(key);
                changed.insert(key.clone());
            }
        }
        if !new.is_empty() {
            self.by_unit.insert(unit, new);
        }
    }

    pub fn is_used(&self, key: &Key) -> bool {
        self.counts.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn an_object_is_used_while_any_unit_uses_it() {
        let mut uses = Uses::default();
        let keys = |names: &str| names.split_whitespace().map(|name| Key::new(Kind::DestinationRule, "a", name)).collect::<BTreeSet<_>>();
        let used = |uses: &Uses| keys("p q").into_iter().filter(|key| uses.is_used(key)).collect::<BTreeSet<_>>();
        // The unit, what it uses from now on, what that changes, what is used then.
        for (unit, new, changes, then) in
            [(1, "p", "p", "p"), (2, "p q", "q", "p q"), (2, "p q", "", "p q"), (1, "", "", "p q"), (2, "q", "p", "q"), (2, "", "q", "")]
        {
            let mut changed = BTreeSet::new();
            uses.replace(unit, keys(new), &mut changed);
            assert_eq!((changed, used(&uses)), (keys(changes), keys(then)), "{unit} {new:?}");
        }
        assert!(uses.by_unit.is_empty() && uses.counts.is_empty());
    }
}
