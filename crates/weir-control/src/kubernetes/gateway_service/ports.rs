//! Chooses target ports. A Gateway keeps those that it has; new ones follow from its uid, so that one that was given back is not taken
//! at once by another Gateway.
use crate::api::target_ports::{PortsOfGateway, TargetPorts};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
};
use weir_config::model::SocketProtocol;

/// No port of the range is free.
#[derive(Debug, PartialEq, Eq)]
pub struct Exhausted;

/// Gives the Gateway `uid` a target port for each of `wanted`, and only for those. True where something changed.
pub fn allocate(
    all: &mut TargetPorts,
    uid: &str,
    wanted: &[(u16, SocketProtocol)],
    range: &RangeInclusive<u16>,
) -> Result<bool, Exhausted> {
    let before = all.of_gateway(uid).cloned().unwrap_or_default();
    let kept = |key: &(u16, SocketProtocol)| before.get(key).copied().filter(|target| range.contains(target));
    let mut taken: HashSet<u16> = all.iter().filter(|(other, _)| *other != uid).flat_map(|(_, ports)| ports.values().copied()).collect();
    taken.extend(wanted.iter().filter_map(kept));
    let mut now = PortsOfGateway::new();
    for key in wanted {
        let target = match kept(key) {
            Some(target) => target,
            None => free(uid, *key, range, &taken).ok_or(Exhausted)?,
        };
        taken.insert(target);
        now.insert(*key, target);
    }
    let changed = now != before;
    all.set(uid, now);
    Ok(changed)
}

fn free(uid: &str, key: (u16, SocketProtocol), range: &RangeInclusive<u16>, taken: &HashSet<u16>) -> Option<u16> {
    let mut hasher = DefaultHasher::new();
    (uid, key).hash(&mut hasher);
    let size = u64::from(range.end().checked_sub(*range.start())?) + 1;
    let first = hasher.finish() % size;
    (0..size).map(|step| range.start() + ((first + step) % size) as u16).find(|port| !taken.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use SocketProtocol::{Tcp, Udp};

    #[test]
    fn each_port_has_a_target_of_its_own_and_keeps_it() {
        let range = 20000..=20003;
        let mut all = TargetPorts::default();
        assert_eq!(allocate(&mut all, "a", &[(80, Tcp), (80, Udp)], &range), Ok(true));
        assert_eq!(allocate(&mut all, "b", &[(80, Tcp)], &range), Ok(true));
        let first = all.clone();
        assert_eq!(allocate(&mut all, "a", &[(80, Tcp), (80, Udp)], &range), Ok(false));
        assert_eq!(all, first);
        let targets =
            |all: &TargetPorts| all.iter().flat_map(|(_, ports)| ports.values().copied().collect::<Vec<_>>()).collect::<Vec<u16>>();
        assert_eq!(targets(&all).into_iter().collect::<HashSet<_>>().len(), 3);
        assert!(targets(&all).iter().all(|port| range.contains(port)));
        // What is not wanted any more is free, and what stays does not move.
        assert_eq!(allocate(&mut all, "a", &[(80, Udp), (81, Tcp)], &range), Ok(true));
        assert_eq!(all.of("a", 80, Udp), first.of("a", 80, Udp));
        assert_eq!(allocate(&mut all, "c", &[(80, Tcp), (81, Tcp)], &range), Err(Exhausted));
        all.retain(|uid| uid != "b");
        assert_eq!(allocate(&mut all, "c", &[(80, Tcp), (81, Tcp)], &range), Ok(true));
        assert_eq!(targets(&all).len(), 4);
        // Another range moves what is outside of it.
        assert_eq!(allocate(&mut all, "a", &[(80, Udp), (81, Tcp)], &(30000..=30001)), Ok(true));
        assert!(all.of("a", 80, Udp).is_some_and(|port| port >= 30000));
    }
}
