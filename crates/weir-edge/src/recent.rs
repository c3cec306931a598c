//! The last errors, for an operator.
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Different errors that are remembered.
const MOST: usize = 8;

/// An error, and how often it came in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The last time.
    pub at: SystemTime,
    pub text: String,
    pub times: u64,
}

#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Noted>>);

impl Recent {
    pub fn note(&self, text: String) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = SystemTime::now();
        if let Some(last) = noted.back_mut().filter(|last| last.text == text) {
            (last.at, last.times) = (at, last.times + 1);
            return;
        }
        if noted.len() == MOST {
            noted.pop_front();
        }
        noted.push_back(Noted { at, text, times: 1 });
    }

    /// The oldest first.
    pub fn all(&self) -> Vec<Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_remembered_and_repetitions_counted() {
        let recent = Recent::default();
        for i in 0..20 {
            recent.note(format!("error {}", i / 2));
        }
        let all = recent.all();
        assert_eq!(all.len(), MOST);
        assert_eq!((all[0].text.as_str(), all[7].text.as_str(), all[7].times), ("error 2", "error 9", 2));
    }
}
