//! Addresses for Gateways that ask for none: each gets one of its own from a range, so that two of them may have the same port and hosts.
use crate::object::Key;
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_config::model::CidrRange;

#[derive(Default)]
pub struct Addresses {
    pool: Option<CidrRange>,
    by_gateway: HashMap<Key, IpAddr>,
    taken: HashSet<IpAddr>,
}

impl Addresses {
    pub fn new(pool: Option<CidrRange>) -> Addresses {
        Addresses { pool, ..Addresses::default() }
    }

    /// The address of a Gateway; `None` where there is no range, or no free address in it.
    pub fn of(&self, gateway: &Key) -> Option<IpAddr> {
        self.by_gateway.get(gateway).copied()
    }

    /// Gives a Gateway an address, which it keeps until it is given back. It follows from the Gateway's name, so that every gateway of a
    /// fleet gives it the same one, except that of several with the same the later ones take the next.
    pub fn give(&mut self, gateway: &Key) {
        let Some(pool) = &self.pool else { return };
        if self.by_gateway.contains_key(gateway) {
            return;
        }
        let size = size(pool);
        // As good as all of a wide range; nobody has so many Gateways.
        for attempt in 0..size.min(1 << 16) {
            let address = at(pool, (u128::from(number(gateway)) + attempt) % size);
            if self.taken.insert(address) {
                self.by_gateway.insert(gateway.clone(), address);
                return;
            }
        }
    }

    /// For one that is gone, or has addresses of its own now.
    pub fn give_back(&mut self, gateway: &Key) {
        if let Some(address) = self.by_gateway.remove(gateway) {
            self.taken.remove(&address);
        }
    }
}

/// How many addresses may be given: of IPv4 not that of the network and not the broadcast address.
fn size(pool: &CidrRange) -> u128 {
    match pool.address_prefix {
        IpAddr::V4(_) if pool.prefix_len < 31 => (1 << (32 - pool.prefix_len)) - 2,
        IpAddr::V4(_) => 1 << (32 - pool.prefix_len),
        IpAddr::V6(_) => 1 << (128 - pool.prefix_len).min(64),
    }
}

fn at(pool: &CidrRange, index: u128) -> IpAddr {
    match pool.address_prefix {
        IpAddr::V4(address) => {
            let host_bits = u32::MAX.checked_shr(pool.prefix_len.into()).unwrap_or(0);
            let first = u32::from(pool.prefix_len < 31);
            Ipv4Addr::from_bits((address.to_bits() & !host_bits) + first + index as u32).into()
        }
        IpAddr::V6(address) => {
            let host_bits = u128::MAX.checked_shr(pool.prefix_len.into()).unwrap_or(0);
            Ipv6Addr::from_bits((address.to_bits() & !host_bits) + index).into()
        }
    }
}

/// The same in every process.
fn number(gateway: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&*gateway.namespace, &*gateway.name).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::object::Kind;

    fn key(name: usize) -> Key {
        Key::new(Kind::Gateway, "shop", &name.to_string())
    }

    #[test]
    fn every_gateway_has_one_of_its_own_until_there_are_no_more() {
        for (pool, count) in [("10.0.0.7/24", 254), ("10.0.0.0/31", 2), ("10.0.0.9/32", 1), ("fd00::/120", 256)] {
            let mut addresses = Addresses::new(Some(pool.parse().unwrap()));
            (0..count + 2).for_each(|n| addresses.give(&key(n)));
            let given: HashSet<IpAddr> = (0..count + 2).filter_map(|n| addresses.of(&key(n))).collect();
            assert_eq!(given.len(), count, "{pool}");
            let range: CidrRange = pool.parse().unwrap();
            assert!(given.iter().all(|a| range.contains(*a)), "{pool}: {given:?}");
        }
    }

    #[test]
    fn an_address_stays_and_is_free_again_afterwards() {
        let mut addresses = Addresses::new(Some("10.0.0.0/31".parse().unwrap()));
        (0..3).for_each(|n| addresses.give(&key(n)));
        let first = addresses.of(&key(0));
        addresses.give(&key(0));
        assert_eq!((addresses.of(&key(0)), addresses.of(&key(2))), (first, None));
        addresses.give_back(&key(0));
        addresses.give(&key(2));
        assert_eq!((addresses.of(&key(0)), addresses.of(&key(2))), (None, first));
        let mut none = Addresses::new(None);
        none.give(&key(0));
        assert_eq!(none.of(&key(0)), None);
    }
}
