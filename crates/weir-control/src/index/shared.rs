//! Values that many hold and that are mostly equal: equal ones are kept once.
use std::{collections::HashSet, hash::Hash, sync::Arc};

pub struct Shared<T> {
    values: HashSet<Arc<T>>,
    /// How many there were in use when those were dropped that were not.
    used: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { values: HashSet::new(), used: 0 }
    }
}

/// So few are not worth a look.
const FEW: usize = 64;

impl<T: Eq + Hash> Shared<T> {
    pub fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() > FEW.max(2 * self.used) {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.used = self.values.len();
        }
        let value = Arc::new(value);
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let mut shared = Shared::default();
        let first = shared.share(vec![1, 2]);
        assert!(Arc::ptr_eq(&first, &shared.share(vec![1, 2])));
        for i in 0..1000 {
            shared.share(vec![i]);
        }
        assert!(shared.values.len() <= FEW + 2, "{}", shared.values.len());
        assert!(Arc::ptr_eq(&first, &shared.share(vec![1, 2])));
    }
}
