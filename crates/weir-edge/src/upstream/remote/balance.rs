//! Which of several API servers gets a request.
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// How requests are spread. The names are those of YurtHub's `--lb-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The first one that works, in the order in which they are given.
    Priority,
    /// The same one for requests of the same client for the same path.
    ConsistentHashing,
}

const NAMES: [(&str, Balance); 3] =
    [("rr", Balance::RoundRobin), ("priority", Balance::Priority), ("consistent-hashing", Balance::ConsistentHashing)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", NAMES.map(|(name, _)| name).join(", "))]
pub struct UnknownBalance;

impl FromStr for Balance {
    type Err = UnknownBalance;
    fn from_str(text: &str) -> Result<Balance, UnknownBalance> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, balance)| *balance);
        found.ok_or(UnknownBalance)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, balance)| balance == self).map_or("", |(name, _)| name))
    }
}

impl Balance {
    /// The numbers of servers in the order in which they are tried. `turn` counts requests; `key` is of the request.
    pub fn order(self, servers: &[&str], turn: usize, key: &[&str]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        match self {
            Balance::Priority => {}
            Balance::RoundRobin => order.rotate_left(turn % servers.len().max(1)),
            // Rendezvous hashing: when a server is gone, only its requests go elsewhere.
            Balance::ConsistentHashing => order.sort_by_cached_key(|server| {
                let mut hash = Sha256::new();
                [servers[*server]].iter().chain(key).for_each(|part| {
                    hash.update(part);
                    hash.update([0]);
                });
                <[u8; 32]>::from(hash.finalize())
            }),
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 3] = ["a:6443", "b:6443", "c:6443"];

    #[test]
    fn names_are_read_and_printed() {
        for (name, balance) in NAMES {
            assert_eq!((name.parse(), balance.to_string()), (Ok(balance), name.to_string()));
        }
        assert_eq!(UnknownBalance.to_string(), "expected rr, priority, consistent-hashing");
        assert_eq!("random".parse::<Balance>(), Err(UnknownBalance));
    }

    #[test]
    fn requests_are_spread_as_the_mode_says() {
        let firsts = |balance: Balance| -> [usize; 3] {
            let mut count = [0; 3];
            for turn in 0..3000 {
                count[balance.order(&SERVERS, turn, &["kubelet", &format!("/api/v1/pods/{turn}")])[0]] += 1;
            }
            count
        };
        assert_eq!(firsts(Balance::RoundRobin), [1000; 3]);
        assert_eq!(firsts(Balance::Priority), [3000, 0, 0]);
        assert!(firsts(Balance::ConsistentHashing).iter().all(|n| (850..=1150).contains(n)));
        assert_eq!(Balance::RoundRobin.order(&[], 1, &[]), [0; 0]);
    }

    #[test]
    fn only_the_requests_of_a_server_that_is_gone_move() {
        for i in 0..1000 {
            let key = ["kubelet", &format!("/{i}")];
            let all = Balance::ConsistentHashing.order(&SERVERS, i, &key);
            let two = Balance::ConsistentHashing.order(&SERVERS[..2], i, &key);
            let left: Vec<usize> = all.into_iter().filter(|server| *server != 2).collect();
            assert_eq!(left, two, "{i}");
        }
    }
}
