//! Which Gateways use each BackendTLSPolicy, kept as routes come and go.
use super::units::UnitId;
use crate::object::{Key, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// By policy and Gateway, the units that use the one by the other.
#[derive(Default)]
pub struct Ancestors(BTreeMap<(Key, Key), BTreeSet<UnitId>>);

impl Ancestors {
    /// Replaces the (policy, Gateway) pairs of a unit. The policies that gain or lose a Gateway are `changed`.
    pub fn replace(&mut self, unit: UnitId, old: &BTreeSet<(Key, Key)>, new: &BTreeSet<(Key, Key)>, changed: &mut BTreeSet<Key>) {
        for pair in new.difference(old) {
            let units = self.0.entry(pair.clone()).or_default();
            if units.is_empty() {
                changed.insert(pair.0.clone());
            }
            units.insert(unit);
        }
        for pair in old.difference(new) {
            let Some(units) = self.0.get_mut(pair) else { continue };
            units.remove(&unit);
            if units.is_empty() {
                self.0.remove(pair);
                changed.insert(pair.0.clone());
            }
        }
    }

    /// The Gateways that use a policy.
    pub fn of(&self, policy: &Key) -> Vec<Key> {
        let first = (policy.clone(), Key::new(Kind::GatewayClass, "", ""));
        self.0.range(first..).map_while(|((key, gateway), _)| (key == policy).then(|| gateway.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_the_gateways_of_all_routes() {
        let mut all = Ancestors::default();
        let policy = |name: &str| Key::new(Kind::BackendTlsPolicy, "a", name);
        let gateway = |name: &str| Key::new(Kind::Gateway, "a", name);
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(p, g)| (policy(p), gateway(g))).collect::<BTreeSet<_>>();
        let (none, one, two) = (pairs(&[]), pairs(&[("p", "g"), ("p", "h"), ("q", "g")]), pairs(&[("p", "g")]));
        let mut changed = BTreeSet::new();
        all.replace(1, &none, &one, &mut changed);
        assert_eq!(std::mem::take(&mut changed), [policy("p"), policy("q")].into());
        all.replace(2, &none, &two, &mut changed);
        assert_eq!((all.of(&policy("p")), changed.len()), (vec![gateway("g"), gateway("h")], 0));
        all.replace(1, &one, &none, &mut changed);
        assert_eq!(all.of(&policy("p")), [gateway("g")]);
        assert_eq!(changed, [policy("p"), policy("q")].into());
    }
}
