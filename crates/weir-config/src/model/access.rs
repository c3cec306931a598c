//! What keeps requests from a route: where they come from, and how many there are.
use super::seconds;
use serde::{Serialize, Serializer};
use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

/// Access by the client's address (Envoy's filter `rbac` with `remote_ip` principals). A request is refused with 403 if its address
/// is in `deny`, or if `allow` has ranges and none of them has its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rbac {
    pub deny: Vec<CidrRange>,
    pub allow: Vec<CidrRange>,
}

impl Rbac {
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |ranges: &[CidrRange]| ranges.iter().any(|r| r.contains(address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

/// A range of addresses (`core.v3.CidrRange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CidrRange {
    pub address_prefix: IpAddr,
    pub prefix_len: u8,
}

impl CidrRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u32| bits == 0 || (a ^ b) >> (128 - bits) == 0;
        match (self.address_prefix, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, self.prefix_len.into()),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), self.prefix_len.into()),
            _ => false,
        }
    }
}

/// `10.0.0.0/8`, `::1`
impl FromStr for CidrRange {
    type Err = ();
    fn from_str(text: &str) -> Result<CidrRange, ()> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = length.map_or(Ok(most), |l| l.parse().map_err(|_| ()))?;
        if prefix_len > most {
            return Err(());
        }
        Ok(CidrRange { address_prefix: address, prefix_len })
    }
}

impl fmt::Display for CidrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address_prefix, self.prefix_len)
    }
}

impl Serialize for CidrRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// At most so many requests of a route (Envoy's filter `local_ratelimit`), over all workers. More are answered with 429.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LocalRateLimit {
    /// `None` sets no limit.
    pub token_bucket: Option<TokenBucket>,
}

/// `type.v3.TokenBucket`: full at first, and filled little by little.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    pub max_tokens: u32,
    /// At least 1.
    pub tokens_per_fill: u32,
    #[serde(serialize_with = "seconds")]
    pub fill_interval: Duration,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_ranges() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.2.3/31", "10.1.2.2", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "::1", true),
        ];
        for (range, address, inside) in table {
            let range: CidrRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range} {address}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "a/8"] {
            assert!(wrong.parse::<CidrRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_even_where_it_is_allowed() {
        let ranges = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let both = Rbac { deny: ranges(&["10.1.0.0/16"]), allow: ranges(&["10.0.0.0/8"]) };
        let table = [("10.2.0.1", true), ("10.1.0.1", false), ("192.0.2.1", false), ("::ffff:10.2.0.1", true)];
        for (address, allowed) in table {
            assert_eq!(both.allows(address.parse().unwrap()), allowed, "{address}");
        }
        let deny = Rbac { deny: ranges(&["10.1.0.0/16"]), allow: Vec::new() };
        assert!(deny.allows("192.0.2.1".parse().unwrap()) && !deny.allows("10.1.2.3".parse().unwrap()));
    }
}
