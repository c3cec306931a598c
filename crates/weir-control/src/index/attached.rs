//! How many routes are attached to each listener of a Gateway or ListenerSet.
use crate::{object::Key, translate::Attachment};
use std::collections::{BTreeMap, BTreeSet};
use weir_config::model::Name;

#[derive(Default)]
pub struct Attached(BTreeMap<Key, BTreeMap<Name, u32>>);

impl Attached {
    /// A route is attached to `new` in place of `old`. Notes the owners where a count changed.
    pub fn replace(&mut self, old: &[Attachment], new: &[Attachment], changed: &mut BTreeSet<Key>) {
        for a in new.iter().filter(|a| !old.contains(a)) {
            *self.0.entry(a.owner.clone()).or_default().entry(a.listener.clone()).or_default() += 1;
            changed.insert(a.owner.clone());
        }
        for a in old.iter().filter(|a| !new.contains(a)) {
            let Some(listeners) = self.0.get_mut(&a.owner) else { continue };
            if let Some(count) = listeners.get_mut(&a.listener) {
                *count -= 1;
                if *count == 0 {
                    listeners.remove(&a.listener);
                }
            }
            if listeners.is_empty() {
                self.0.remove(&a.owner);
            }
            changed.insert(a.owner.clone());
        }
    }

    pub fn of(&self, owner: &Key, listener: &str) -> u32 {
        self.0.get(owner).and_then(|listeners| listeners.get(listener)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn counts_follow_the_routes() {
        let gateway = |name: &str| Key::new(Kind::Gateway, "shop", name);
        let a = |g: &str, listener: &str| Attachment { owner: gateway(g), listener: listener.into() };
        let mut all = Attached::default();
        let mut step = |old: &[Attachment], new: &[Attachment]| {
            let mut changed = BTreeSet::new();
            all.replace(old, new, &mut changed);
            let counts = [("g", "x"), ("h", "y")].map(|(g, l)| format!("{g}.{l} {}", all.of(&gateway(g), l)));
            let counts: Vec<String> = counts.into_iter().filter(|text| !text.ends_with(" 0")).collect();
            (counts, changed.into_iter().map(|k| k.name.to_string()).collect::<Vec<_>>())
        };
        let texts = |all: &[&str]| all.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(step(&[], &[a("g", "x"), a("h", "y")]), (texts(&["g.x 1", "h.y 1"]), texts(&["g", "h"])));
        assert_eq!(step(&[], &[a("g", "x")]), (texts(&["g.x 2", "h.y 1"]), texts(&["g"])));
        assert_eq!(step(&[a("g", "x"), a("h", "y")], &[a("g", "x")]), (texts(&["g.x 2"]), texts(&["h"])));
        assert_eq!(step(&[a("g", "x")], &[a("g", "x")]), (texts(&["g.x 2"]), texts(&[])));
        assert_eq!(step(&[a("g", "x")], &[]), (texts(&["g.x 1"]), texts(&["g"])));
    }
}
