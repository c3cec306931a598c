//! All cluster slots of the process.
use super::ClusterSlot;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use weir_config::model::Name;

/// Slots by name. Only configuration time and names chosen at request time (`dynamic`) come here; compiled routes hold
/// their slots.
#[derive(Default)]
pub struct ClusterRegistry {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    slots: HashMap<Name, Arc<ClusterSlot>>,
    free: Vec<u32>,
    next: u32,
}

impl ClusterRegistry {
    /// The slot of a name that configuration uses; an empty one is made where there is none.
    pub fn slot(&self, name: &Name) -> Arc<ClusterSlot> {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get(name) {
            return slot.clone();
        }
        let id = inner.free.pop().unwrap_or_else(|| {
            inner.next += 1;
            inner.next - 1
        });
        let slot = Arc::new(ClusterSlot::new(name.clone(), id));
        inner.slots.insert(name.clone(), slot.clone());
        slot
    }

    /// The slot of a name that a request or a plugin asks for; never makes one.
    pub fn find(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        self.lock().slots.get(name).cloned()
    }

    /// Every slot, in the order of names.
    pub fn all(&self) -> Vec<Arc<ClusterSlot>> {
        let mut out: Vec<_> = self.lock().slots.values().cloned().collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    /// Forgets empty slots that nothing holds, and gives their ids away again.
    pub(crate) fn sweep(&self) {
        let inner = &mut *self.lock();
        inner.slots.retain(|_, slot| {
            let keep = Arc::strong_count(slot) > 1 || slot.current.load().is_some();
            if !keep {
                inner.free.push(slot.id);
            }
            keep
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_lives_as_long_as_something_holds_it() {
        let r = ClusterRegistry::default();
        let a = r.slot(&"a".into());
        let b = r.slot(&"b".into()).id;
        assert!(Arc::ptr_eq(&a, &r.slot(&"a".into())));
        assert!(r.find("c").is_none());
        r.sweep();
        assert!(r.find("a").is_some() && r.find("b").is_none());
        assert_eq!(r.slot(&"c".into()).id, b, "the id is taken again");
    }
}
