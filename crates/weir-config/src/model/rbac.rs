//! Who may do what (`config.rbac.v3`).
use super::{HeaderMatch, Name, StringMatch};
use serde::{Serialize, Serializer};
use std::{fmt, net::IpAddr, str::FromStr};

/// Decides about each request (Envoy's filter `rbac`). One that is refused is answered with 403.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rbac {
    /// A request must pass all of them, in this order.
    pub rules: Vec<RbacRules>,
    /// These only count what they would do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow_rules: Vec<RbacRules>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RbacRules {
    pub action: RbacAction,
    /// In the order of their names.
    pub policies: Vec<RbacPolicy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RbacAction {
    /// Requests that no policy matches are refused.
    Allow,
    /// Requests that a policy matches are refused.
    Deny,
}

/// Matches if one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RbacPolicy {
    /// In `rbac_access_denied_matched_policy[NAME]`.
    pub name: Name,
    /// What the request does.
    pub permissions: Vec<RbacMatch>,
    /// Who sends it.
    pub principals: Vec<RbacMatch>,
}

/// A condition on a request (`Permission` and `Principal`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RbacMatch {
    Any,
    /// All must hold; holds if there are none.
    And(Vec<RbacMatch>),
    /// One must hold; does not hold if there are none.
    Or(Vec<RbacMatch>),
    Not(Box<RbacMatch>),
    Header(HeaderMatch),
    /// The host, with its port or without it, in whatever case.
    Host(StringMatch),
    /// Without the query.
    UrlPath(StringMatch),
    /// In a template, `*` stands for one segment, and `**` for any number of them at the end.
    UriTemplate(String),
    DestinationIp(CidrRange),
    DestinationPort(u16),
    /// The server name of TLS.
    RequestedServerName(StringMatch),
    /// The other end of the connection, or what the PROXY protocol says of it.
    DirectRemoteIp(CidrRange),
    /// The client, by `x-forwarded-for` where proxies are trusted.
    RemoteIp(CidrRange),
    /// The identity in the client's verified certificate: its URIs, else its DNS names, else its subject.
    Authenticated(StringMatch),
}

impl Rbac {
    /// Access by the client's address. A request is refused if its address is in `deny`, or if `allow` has ranges and none of them has it.
    pub fn by_address(name: &Name, deny: &[CidrRange], allow: &[CidrRange]) -> Rbac {
        let rules = |action, ranges: &[CidrRange]| {
            let principals = ranges.iter().map(|range| RbacMatch::RemoteIp(*range)).collect();
            let policy = RbacPolicy { name: name.clone(), permissions: vec![RbacMatch::Any], principals };
            (!ranges.is_empty()).then(|| RbacRules { action, policies: vec![policy] })
        };
        let rules = [rules(RbacAction::Deny, deny), rules(RbacAction::Allow, allow)].into_iter().flatten().collect();
        Rbac { rules, shadow_rules: Vec::new() }
    }

    /// What holds of it on connections that carry no HTTP, where nothing is known of requests: as in Istio, what asks about one allows
    /// nothing, and denies as if it held.
    #[must_use]
    pub fn for_connections(&self) -> Rbac {
        let rules = |of: &[RbacRules]| of.iter().map(RbacRules::for_connections).collect();
        Rbac { rules: rules(&self.rules), shadow_rules: rules(&self.shadow_rules) }
    }
}

impl RbacRules {
    fn for_connections(&self) -> RbacRules {
        let unknown = match self.action {
            RbacAction::Allow => RbacMatch::Or(Vec::new()),
            RbacAction::Deny => RbacMatch::Any,
        };
        let all = |of: &[RbacMatch]| of.iter().map(|m| m.for_connections(&unknown)).collect();
        let policy = |p: &RbacPolicy| RbacPolicy { name: p.name.clone(), permissions: all(&p.permissions), principals: all(&p.principals) };
        RbacRules { action: self.action, policies: self.policies.iter().map(policy).collect() }
    }
}

impl RbacMatch {
    /// With `unknown` in place of each condition that asks about a request.
    fn for_connections(&self, unknown: &RbacMatch) -> RbacMatch {
        match self {
            RbacMatch::And(all) => RbacMatch::And(all.iter().map(|m| m.for_connections(unknown)).collect()),
            one if one.asks_about_request() => unknown.clone(),
            one => one.clone(),
        }
    }

    fn asks_about_request(&self) -> bool {
        match self {
            RbacMatch::And(all) | RbacMatch::Or(all) => all.iter().any(RbacMatch::asks_about_request),
            RbacMatch::Not(one) => one.asks_about_request(),
            RbacMatch::Header(_) | RbacMatch::Host(_) | RbacMatch::UrlPath(_) | RbacMatch::UriTemplate(_) => true,
            _ => false,
        }
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
        // Addresses are compared in this form.
        let (address_prefix, prefix_len) = match address.to_canonical() {
            IpAddr::V4(mapped) if address.is_ipv6() && prefix_len >= 96 => (mapped.into(), prefix_len - 96),
            _ => (address, prefix_len),
        };
        Ok(CidrRange { address_prefix, prefix_len })
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
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
        ];
        for (range, address, inside) in table {
            let range: CidrRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range} {address}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "a/8"] {
            assert!(wrong.parse::<CidrRange>().is_err(), "{wrong}");
        }
    }
}
