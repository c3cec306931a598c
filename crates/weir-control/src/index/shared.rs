//! Lists that many hold and that mostly say the same: equal ones are kept once.
use std::{collections::HashSet, hash::Hash, sync::Arc};

pub struct Shared<T> {
    lists: HashSet<Arc<[T]>>,
    /// How many there were in use when those were dropped that were not.
    used: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { lists: HashSet::new(), used: 0 }
    }
}

/// So few are not worth a look.
const FEW: usize = 64;

impl<T: Eq + Hash> Shared<T> {
    pub fn share(&mut self, list: Vec<T>) -> Arc<[T]> {
        if let Some(known) = self.lists.get(&*list) {
            return known.clone();
        }
        if self.lists.len() > FEW.max(2 * self.used) {
            self.lists.retain(|list| Arc::strong_count(list) > 1);
            self.used = self.lists.len();
        }
        let list: Arc<[T]> = list.into();
        self.lists.insert(list.clone());
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_one_and_unused_ones_go() {
        let mut shared = Shared::default();
        let first = shared.share(vec![1, 2]);
        assert!(Arc::ptr_eq(&first, &shared.share(vec![1, 2])));
        for i in 0..1000 {
            shared.share(vec![i]);
        }
        assert!(shared.lists.len() <= FEW + 2, "{}", shared.lists.len());
        assert!(Arc::ptr_eq(&first, &shared.share(vec![1, 2])));
    }
}
