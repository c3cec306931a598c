//! All cluster slots of the process.
use super::ClusterSlot;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use weir_config::model::Name;

/// Slots by name. Only configuration time and names chosen at request time (`dynamic`) come here; compiled routes hold
/// their slots. A slot that nothing holds any more is forgotten.
#[derive(Default)]
pub struct ClusterRegistry(Arc<Mutex<Slots>>);

#[derive(Default)]
pub(super) struct Slots {
    by_name: HashMap<Name, Weak<ClusterSlot>>,
    free: Vec<u32>,
    next: u32,
}

impl ClusterRegistry {
    /// The slot of a name that configuration uses; an empty one is made where there is none.
    pub fn slot(&self, name: &Name) -> Arc<ClusterSlot> {
        let mut slots = lock(&self.0);
        if let Some(slot) = slots.by_name.get(name).and_then(Weak::upgrade) {
            return slot;
        }
        let id = slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        });
        let mut slot = ClusterSlot::new(name.clone(), id);
        slot.registry = Arc::downgrade(&self.0);
        let slot = Arc::new(slot);
        slots.by_name.insert(name.clone(), Arc::downgrade(&slot));
        slot
    }

    /// The slot of a name that a request or a plugin asks for; never makes one.
    pub fn find(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        lock(&self.0).by_name.get(name).and_then(Weak::upgrade)
    }

    /// Every slot, in the order of names.
    pub fn all(&self) -> Vec<Arc<ClusterSlot>> {
        let mut out: Vec<_> = lock(&self.0).by_name.values().filter_map(Weak::upgrade).collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }
}

impl Slots {
    /// A slot has gone: its number is given away again.
    fn release(&mut self, slot: &ClusterSlot) {
        // Another one may have been made under its name already.
        if self.by_name.get(&slot.name).is_some_and(|known| std::ptr::eq(known.as_ptr(), slot)) {
            self.by_name.remove(&slot.name);
        }
        self.free.push(slot.id);
    }
}

impl Drop for ClusterSlot {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            lock(&registry).release(self);
        }
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(r.find("a").is_some() && r.find("b").is_none());
        assert_eq!(r.slot(&"c".into()).id, b, "the id is taken again");
        assert_eq!(r.all().len(), 1);
    }
}
