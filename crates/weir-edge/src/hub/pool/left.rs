//! Peers that did not answer, or not well, and until when they are not asked again.
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

/// A peer that cannot be reached is looked for after so long at first, and at most; each failure doubles it.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A peer is not asked for a kind that it does not give for so long.
const REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What is known of the peers, by the names of their nodes.
#[derive(Debug, Default)]
pub struct Left {
    peers: BTreeMap<String, Reach>,
    /// By peer and kind.
    refused: HashMap<(String, String), Again>,
}

#[derive(Debug, Default)]
struct Reach {
    /// `None`: it is asked.
    left: Option<Again>,
    /// Whether it can be reached is known.
    known: bool,
    /// Somebody finds out.
    looked_for: bool,
}

/// How often in a row it has failed, and when it is tried again.
#[derive(Clone, Copy, Debug)]
struct Again {
    failures: u32,
    at: Instant,
}

impl Again {
    fn after(before: Option<Again>, (first, longest): (Duration, Duration), now: Instant) -> Again {
        let failures = before.map_or(0, |before| before.failures);
        let wait = first.saturating_mul(1 << failures.min(20)).min(longest);
        Again { failures: failures.saturating_add(1), at: now + wait }
    }
}

impl Left {
    /// The peers from now on.
    pub fn set<'a>(&mut self, peers: impl Iterator<Item = &'a String>) {
        let mut before = std::mem::take(&mut self.peers);
        self.peers = peers.map(|peer| (peer.clone(), before.remove(peer).unwrap_or_default())).collect();
        self.refused.retain(|(peer, _), _| self.peers.contains_key(peer));
    }

    /// The peer cannot be reached. It is asked again once it was found.
    pub fn leave(&mut self, peer: &str, now: Instant) {
        if let Some(peer) = self.peers.get_mut(peer) {
            (peer.left, peer.known) = (Some(Again::after(peer.left, UNREACHABLE, now)), true);
        }
    }

    /// The peer does not give a kind.
    pub fn refuse(&mut self, peer: &str, kind: &str, now: Instant) {
        let key = (peer.to_string(), kind.to_string());
        let again = Again::after(self.refused.get(&key).copied(), REFUSED, now);
        self.refused.insert(key, again);
    }

    /// The peer can be reached. Whether it could not be before.
    pub fn reached(&mut self, peer: &str) -> bool {
        let Some(peer) = self.peers.get_mut(peer) else { return false };
        peer.known = true;
        peer.left.take().is_some()
    }

    /// The peer gives a kind.
    pub fn answered(&mut self, peer: &str, kind: &str) {
        self.refused.remove(&(peer.to_string(), kind.to_string()));
        self.reached(peer);
    }

    /// The peers may give again what they did not give: they, too, have the link back.
    pub fn forget_refusals(&mut self) {
        self.refused.clear();
    }

    /// The hub of the peer runs: it has asked this one.
    pub fn heard(&mut self, peer: &str, now: Instant) {
        if let Some(left) = self.peers.get_mut(peer).and_then(|peer| peer.left.as_mut()) {
            left.at = now;
        }
    }

    /// A peer to look for: nothing is known of it, or it is time to try again.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        let is_due = |peer: &Reach| !peer.looked_for && peer.left.map_or(!peer.known, |again| again.at <= now);
        let (name, peer) = self.peers.iter_mut().find(|(_, peer)| is_due(peer))?;
        peer.looked_for = true;
        Some(name.clone())
    }

    /// What came of it. Whether the peer was left until now.
    pub fn looked_for(&mut self, peer: &str, reached: bool, now: Instant) -> bool {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.looked_for = false;
        }
        match reached {
            true => self.reached(peer),
            false => {
                self.leave(peer, now);
                false
            }
        }
    }

    pub fn is_unreachable(&self, peer: &str) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.left.is_some())
    }

    pub fn is_left(&self, peer: &str, kind: &str, now: Instant) -> bool {
        let refused = || self.refused.get(&(peer.to_string(), kind.to_string())).is_some_and(|again| now < again.at);
        self.is_unreachable(peer) || refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Left {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut left = Left::default();
        left.set(names.iter());
        left
    }

    #[test]
    fn a_peer_is_left_for_longer_each_time_it_refuses_a_kind() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut left = of(&["a", "b"]);
        assert!(!left.is_left("a", "k", at(0)));
        left.refuse("a", "k", at(0));
        assert_eq!([at(1), at(2)].map(|now| left.is_left("a", "k", now)), [true, false]);
        assert!(!left.is_left("a", "other", at(0)) && !left.is_left("b", "k", at(0)));
        left.refuse("a", "k", at(2));
        assert_eq!([at(5), at(6)].map(|now| left.is_left("a", "k", now)), [true, false]);
        left.answered("a", "k");
        left.refuse("a", "k", at(10));
        assert_eq!([at(11), at(12)].map(|now| left.is_left("a", "k", now)), [true, false]);
        left.forget_refusals();
        assert!(!left.is_left("a", "k", at(10)));
        left.refuse("a", "k", at(10));
        left.set([].into_iter());
        assert!(!left.is_left("a", "k", at(10)));
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_not_asked_until_it_was_found() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut left = of(&["a", "b"]);
        // Each is looked for once, and asked until more is known.
        assert_eq!([left.next(at(0)), left.next(at(0)), left.next(at(0))], [Some("a".into()), Some("b".into()), None]);
        assert!(!left.is_left("a", "k", at(0)));
        assert!(!left.looked_for("a", false, at(0)) && !left.looked_for("b", true, at(0)));
        assert_eq!([("a", 0), ("a", 1000), ("b", 0)].map(|(peer, now)| left.is_left(peer, "k", at(now))), [true, true, false]);
        let mut looks = Vec::new();
        for second in 0..300 {
            if left.next(at(second)).is_some() {
                looks.push(second);
                left.looked_for("a", false, at(second));
            }
        }
        assert_eq!(looks, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
        // It asks this hub: so it runs.
        left.heard("a", at(244));
        assert_eq!(left.next(at(244)), Some("a".into()));
        assert!(left.looked_for("a", true, at(244)) && !left.is_left("a", "k", at(244)));
        assert_eq!(left.next(at(1000)), None);
        left.leave("b", at(0));
        left.answered("b", "k");
        assert!(!left.is_left("b", "k", at(0)));
    }
}
