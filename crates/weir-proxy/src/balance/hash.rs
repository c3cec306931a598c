//! Hashes for the ring and for maglev. The same in every worker, process and version: an affinity outlives restarts.
use crate::{
    core::mix,
    head_access::{RequestView, cookie, query_parameter},
};
use std::{fmt::Write, net::IpAddr, time::Duration};
use weir_config::model::{HashOf, HashPolicy};

/// A hash of bytes.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut h = bytes.len() as u64 ^ 0x51_7c_c1_b7;
    for c in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..c.len()].copy_from_slice(c);
        h = mix(h ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    mix(h)
}

/// The number that chooses among the clusters of a split: derived from the hash, but independent of the choice within a cluster.
pub fn for_split(hash: u64) -> u64 {
    mix(hash ^ 0xa076_1d64_78bd_642f)
}

/// A cookie that a response is to set, for a request that came without it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCookie {
    pub name: Box<str>,
    pub path: Box<str>,
    pub ttl: Duration,
    pub value: u64,
}

impl NewCookie {
    /// The value of `set-cookie`.
    pub fn header(&self) -> String {
        let mut out = format!("{}=\"{:016x}\"", self.name, self.value);
        if !self.ttl.is_zero() {
            let _ = write!(out, "; Max-Age={}", self.ttl.as_secs());
        }
        if !self.path.is_empty() {
            let _ = write!(out, "; Path={}", self.path);
        }
        out += "; HttpOnly";
        out
    }
}

fn hash_address(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(a) => hash_bytes(&a.octets()),
        IpAddr::V6(a) => hash_bytes(&a.octets()),
    }
}

/// The hash of a connection: of all that a policy may name, only the source address is known of it.
pub fn hash_connection(policy: &[HashPolicy], source: IpAddr) -> Option<u64> {
    policy.iter().any(|step| matches!(step.of, HashOf::SourceIp)).then(|| hash_address(source))
}

/// The hash of a request by the first step that yields one. `random` makes the value of a new cookie.
pub fn hash_request(policy: &[HashPolicy], request: &dyn RequestView, source: IpAddr, random: u64) -> (Option<u64>, Option<NewCookie>) {
    for step in policy {
        let found = match &step.of {
            HashOf::Header(name) if name == ":authority" => Some(hash_bytes(request.authority())),
            HashOf::Header(name) if name == ":path" => Some(hash_bytes(request.path())),
            HashOf::Header(name) => request.first(name).map(hash_bytes),
            HashOf::Cookie { name, path, ttl } => {
                // As it was given out: with or without quotes.
                let found = cookie(request, name, |v| {
                    hash_bytes(v.trim_ascii().strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(v))
                });
                if let (None, Some(ttl)) = (found, ttl) {
                    let cookie = NewCookie { name: name.as_str().into(), path: path.as_str().into(), ttl: *ttl, value: random };
                    return (Some(hash_bytes(format!("{random:016x}").as_bytes())), Some(cookie));
                }
                found
            }
            HashOf::SourceIp => Some(hash_address(source)),
            HashOf::QueryParameter(name) => request.query().and_then(|q| query_parameter(q, name.as_bytes())).map(hash_bytes),
        };
        if found.is_some() || step.terminal {
            return (found, None);
        }
    }
    (None, None)
}
