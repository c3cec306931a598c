//! Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): each endpoint has a permutation of the places of its own and takes
//! the next free one of it in its turn, so that all have nearly the same share and few places move when one comes or goes.
use super::hash::hash_bytes;
use crate::core::mix;

#[derive(Default)]
pub(super) struct Maglev {
    places: Vec<u32>,
}

/// No endpoint.
const FREE: u32 = u32::MAX;

struct Turn {
    host: u32,
    weight: u64,
    /// Where its permutation is, and how far it goes each time.
    at: u64,
    skip: u64,
    /// Weight that it has used up.
    used: u64,
}

impl Maglev {
    /// Of endpoints with key and weight. `size` is a prime; a table of fewer places than endpoints leaves some out.
    pub fn build<'a>(of: impl Iterator<Item = (u32, &'a str, u64)>, size: u32) -> Maglev {
        let size = u64::from(size.max(2));
        let mut keyed: Vec<_> = of.collect();
        // In the order of keys: where an endpoint stands in its list says nothing.
        keyed.sort_unstable_by(|a, b| a.1.cmp(b.1));
        let mut turns: Vec<Turn> = keyed
            .into_iter()
            .map(|(host, key, weight)| {
                let hash = hash_bytes(key.as_bytes());
                Turn { host, weight, at: hash % size, skip: mix(hash) % (size - 1) + 1, used: 0 }
            })
            .collect();
        let Some(heaviest) = turns.iter().map(|t| t.weight).max() else { return Maglev::default() };
        let (mut places, mut left) = (vec![FREE; size as usize], size);
        for round in 1u64.. {
            for turn in &mut turns {
                // The heaviest has a turn in every round, the others as their weight has it.
                if round * turn.weight < turn.used + heaviest {
                    continue;
                }
                turn.used += heaviest;
                let mut steps = 0;
                while places[turn.at as usize] != FREE {
                    steps += 1;
                    // Of a size that is no prime a permutation may miss places.
                    turn.at = (turn.at + if steps < size { turn.skip } else { 1 }) % size;
                }
                places[turn.at as usize] = turn.host;
                left -= 1;
                if left == 0 {
                    return Maglev { places };
                }
            }
        }
        Maglev { places }
    }

    /// The endpoint for a hash: the one at its place, or the next that is not avoided, or the first of all.
    pub fn find(&self, hash: u64, avoided: impl Fn(u32) -> bool) -> Option<u32> {
        let at = hash.checked_rem(self.places.len() as u64)? as usize;
        let around = || self.places[at..].iter().chain(&self.places[..at]).copied();
        around().find(|h| !avoided(*h)).or_else(|| around().next())
    }
}
