//! Values that many resources have in common. A new value that equals a recent one shares its allocation, so that a long run of
//! objects with the same name, header edits or ports holds them once.
use std::{borrow::Borrow, cell::RefCell, sync::Arc};

/// How many values are remembered.
const MOST: usize = 16;

/// The values seen last, the newest over the oldest. Each thread has its own.
pub struct Recent<T: ?Sized> {
    values: Vec<Arc<T>>,
    next: usize,
}

impl<T: ?Sized + PartialEq> Recent<T> {
    pub const fn new() -> Recent<T> {
        Recent { values: Vec::new(), next: 0 }
    }

    pub fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.values.iter().find(|known| ***known == *value.borrow()) {
            return known.clone();
        }
        let value = value.into();
        match self.values.get_mut(self.next) {
            Some(oldest) => *oldest = value.clone(),
            None => self.values.push(value.clone()),
        }
        self.next = (self.next + 1) % MOST;
        value
    }
}

impl<T: ?Sized + PartialEq> Default for Recent<T> {
    fn default() -> Recent<T> {
        Recent::new()
    }
}

/// A name; one that was seen just before is shared.
pub fn name(text: &str) -> Arc<str> {
    thread_local! {
        static NAMES: RefCell<Recent<str>> = const { RefCell::new(Recent::new()) };
    }
    NAMES.with_borrow_mut(|names| names.share(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_shared_while_they_are_recent() {
        let mut recent = Recent::<str>::new();
        let first = recent.share("0");
        for n in 1..MOST {
            recent.share(n.to_string().as_str());
        }
        assert!(Arc::ptr_eq(&first, &recent.share("0")), "the last of the values that are remembered");
        recent.share("one more");
        assert!(!Arc::ptr_eq(&first, &recent.share("0")));
        assert_eq!(recent.values.len(), MOST);
    }
}
