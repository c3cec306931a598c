//! Counters by HTTP status.
use super::Counter;
use std::{collections::BTreeMap, sync::OnceLock};

const FIRST: u16 = 100;
const COUNT: usize = 500;

/// Written by one thread. Takes no memory before the first answer.
#[derive(Default)]
pub struct Codes(OnceLock<Box<[Counter; COUNT]>>);

impl Codes {
    /// Counts an answer; a status beyond 100 to 599 is not counted.
    pub fn inc(&self, status: u16) {
        let counters = self.0.get_or_init(|| Box::new([const { Counter::new() }; COUNT]));
        if let Some(counter) = status.checked_sub(FIRST).and_then(|i| counters.get(usize::from(i))) {
            counter.inc();
        }
    }

    /// Those that are not 0, of several together.
    pub fn sum<'a>(all: impl Iterator<Item = &'a Codes>) -> Vec<(u16, u64)> {
        let mut out = BTreeMap::new();
        for counters in all.filter_map(|c| c.0.get()) {
            for (status, counter) in (FIRST..).zip(counters.iter()).filter(|(_, c)| c.get() > 0) {
                *out.entry(status).or_default() += counter.get();
            }
        }
        out.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_counted_apart() {
        let all = [Codes::default(), Codes::default(), Codes::default()];
        for (i, status) in [(0, 200), (0, 503), (1, 200), (0, 100), (1, 599), (0, 99), (1, 600), (0, 0)] {
            all[i].inc(status);
        }
        assert_eq!(Codes::sum(all.iter()), [(100, 1), (200, 2), (503, 1), (599, 1)]);
    }
}
