//! Peers that did not answer, or not well, and until when they are not asked again.
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A peer that cannot be reached is left alone for so long at first, and at most; each failure doubles it.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The same for one kind that it does not give.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// By the name of the node; of one kind, or of all.
#[derive(Debug, Default)]
pub struct Left(HashMap<(String, Option<String>), (u32, Instant)>);

impl Left {
    /// `kind`: what the peer does not give; `None`: it cannot be reached.
    pub fn leave(&mut self, peer: &str, kind: Option<&str>, now: Instant) {
        let (first, longest) = if kind.is_none() { UNREACHABLE } else { REFUSED };
        let (failures, until) = self.0.entry((peer.into(), kind.map(str::to_string))).or_insert((0, now));
        *until = now + first.saturating_mul(1 << (*failures).min(20)).min(longest);
        *failures = failures.saturating_add(1);
    }

    /// The peer gives a kind.
    pub fn answered(&mut self, peer: &str, kind: &str) {
        for kind in [None, Some(kind.to_string())] {
            self.0.remove(&(peer.to_string(), kind));
        }
    }

    pub fn is_left(&self, peer: &str, kind: &str, now: Instant) -> bool {
        let holds = |kind: Option<String>| self.0.get(&(peer.to_string(), kind)).is_some_and(|(_, until)| now < *until);
        holds(None) || holds(Some(kind.to_string()))
    }

    /// Forgets those that are no peers any more.
    pub fn retain(&mut self, is_peer: impl Fn(&str) -> bool) {
        self.0.retain(|(peer, _), _| is_peer(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_left_for_longer_each_time_it_fails() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut left = Left::default();
        assert!(!left.is_left("a", "k", at(0)));
        left.leave("a", Some("k"), at(0));
        assert_eq!([at(1), at(2)].map(|now| left.is_left("a", "k", now)), [true, false]);
        assert!(!left.is_left("a", "other", at(0)) && !left.is_left("b", "k", at(0)));
        left.leave("a", Some("k"), at(2));
        assert_eq!([at(5), at(6)].map(|now| left.is_left("a", "k", now)), [true, false]);
        // It cannot be reached: that counts for all kinds.
        (0..40).for_each(|_| left.leave("a", None, at(10)));
        assert_eq!([at(69), at(70)].map(|now| left.is_left("a", "other", now)), [true, false]);
        left.answered("a", "k");
        assert!(!left.is_left("a", "k", at(10)) && !left.is_left("a", "other", at(10)));
        left.leave("a", Some("k"), at(0));
        left.retain(|peer| peer != "a");
        assert!(!left.is_left("a", "k", at(0)));
    }
}
