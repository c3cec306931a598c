//! Which sets a watch keeps up to date.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How many watches each set follows.
#[derive(Default)]
pub struct Follows(Mutex<HashMap<String, usize>>);

impl Follows {
    pub fn begin(self: &Arc<Follows>, set: &str) -> Follow {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(set.to_string()).or_default() += 1;
        Follow { of: self.clone(), set: set.into() }
    }

    pub fn any(&self, set: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(set)
    }
}

/// One watch that a set follows.
pub struct Follow {
    of: Arc<Follows>,
    set: String,
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut all = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.set) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.set);
            }
        }
    }
}
