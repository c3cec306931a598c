//! Where a hub follows a kind from: a pure function of the pool. All hubs of a pool come to the same order by themselves.
use crate::upstream::remote::Balance;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate<'a> {
    /// The API server.
    Server,
    /// Another hub, by the name of its node.
    Peer(&'a str),
}

/// Peers that are asked before the API server: where several of them are dead, the API server is not waited for longer than that.
const BEFORE: usize = 2;
/// Peers that are asked at all.
const MOST: usize = 8;

/// In which order a hub tries to follow a kind, from the best place on. `asked`: other hubs follow it from this one, which is possible
/// only where it follows the API server itself. `is_left`: peers that are not asked for now.
pub fn order<'a>(kind: &str, this: &'a str, peers: &[&'a str], asked: bool, is_left: impl Fn(&str) -> bool) -> Vec<Candidate<'a>> {
    let names: Vec<&str> = [this].into_iter().chain(peers.iter().copied().filter(|peer| *peer != this)).collect();
    let ranked = Balance::ConsistentHashing.order(&names, 0, &[kind]);
    let is_tried = |name: &str| name == this || !is_left(name);
    let mut ranked: Vec<&str> = ranked.into_iter().map(|i| names[i]).filter(|name| is_tried(name)).collect();
    let at = ranked.iter().position(|name| *name == this).unwrap_or_default();
    ranked.remove(at);
    ranked.truncate(MOST);
    let mut sources: Vec<Candidate<'a>> = ranked.into_iter().map(Candidate::Peer).collect();
    let at = if asked { 0 } else { at.min(BEFORE).min(sources.len()) };
    sources.insert(at, Candidate::Server);
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use Candidate::{Peer, Server};
    use std::collections::BTreeMap;

    const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn nobody(_: &str) -> bool {
        false
    }

    /// The nodes in the order of a kind, as the first of them sees it.
    fn ranked(kind: &str) -> Vec<&'static str> {
        let mut left = NODES.to_vec();
        let mut ranked = Vec::new();
        while !left.is_empty() {
            let first = left.iter().copied().find(|node| order(kind, node, &left, false, nobody)[0] == Server).unwrap();
            left.retain(|node| *node != first);
            ranked.push(first);
        }
        ranked
    }

    #[test]
    fn all_hubs_agree_on_one_holder_and_on_who_takes_over() {
        let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
        for i in 0..500 {
            let kind = format!("kind-{i}");
            let ranked = ranked(&kind);
            *holders.entry(ranked[0]).or_default() += 1;
            for (rank, this) in ranked.iter().enumerate() {
                let sources = order(&kind, this, &NODES, false, nobody);
                assert_eq!(sources[0], if rank == 0 { Server } else { Peer(ranked[0]) }, "{kind} {this}");
                // Without the first one, the second one holds it.
                let sources = order(&kind, this, &NODES, false, |peer| peer == ranked[0]);
                let second = if rank < 2 { Server } else { Peer(ranked[1]) };
                assert_eq!(sources[0], second, "{kind} {this}");
            }
        }
        assert!(NODES.iter().all(|node| (50..150).contains(&holders[node])), "{holders:?}");
    }

    #[test]
    fn sources_are_tried_in_the_order_of_the_kind() {
        let ranked = ranked("services.v1/json");
        let (first, second, last) = (ranked[0], ranked[1], ranked[4]);
        let peers = |names: &[&'static str]| names.iter().map(|name| Peer(name)).collect::<Vec<_>>();
        let at = |at: usize, mut sources: Vec<Candidate<'static>>| {
            sources.insert(at, Server);
            sources
        };
        type Case = (&'static str, Vec<&'static str>, bool, Vec<&'static str>, Vec<Candidate<'static>>);
        let table: [Case; 7] = [
            ("the holder", NODES.to_vec(), false, vec![], at(0, peers(&[second, ranked[2], ranked[3], last]))),
            // Not more than two peers before the API server.
            ("the last one", NODES.to_vec(), false, vec![], at(2, peers(&ranked[..4]))),
            ("the last one, which others follow", NODES.to_vec(), true, vec![], at(0, peers(&ranked[..4]))),
            ("the last one, when the first one is dead", NODES.to_vec(), false, vec![first], at(2, peers(&ranked[1..4]))),
            ("the last one, when all are dead", NODES.to_vec(), false, ranked[..4].to_vec(), at(0, vec![])),
            ("the last one alone", vec![last], false, vec![], at(0, vec![])),
            ("the last one without a pool", vec![], false, vec![], at(0, vec![])),
        ];
        for (what, nodes, asked, left, wanted) in table {
            let this = if what.contains("holder") { first } else { last };
            assert_eq!(order("services.v1/json", this, &nodes, asked, |peer| left.contains(&peer)), wanted, "{what}");
        }
        let many: Vec<String> = (0..100).map(|i| format!("node-{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(order("k", "z", &many, false, nobody).len(), MOST + 1);
    }
}
