//! From the host of a request to its virtual host.
use super::{HostRt, RouteRt, sharded::Sharded};
use crate::head_access::{RequestView, host_without_port};
use std::{collections::BTreeMap, sync::Arc};
use weir_config::model::Name;

/// The routes of one route configuration, ready to be searched. A copy shares all that does not change in it.
#[derive(Clone, Default)]
pub struct RouteTable {
    name: Option<Name>,
    /// By whole names.
    exact: Sharded<Arc<HostRt>>,
    /// By what follows the `*`.
    suffixes: Parts,
    /// By what stands before the `*`.
    prefixes: Parts,
    any: Option<Arc<HostRt>>,
}

/// Longest host name in DNS, with room for a port.
const LONGEST_HOST: usize = 253 + 6;

/// Ends or beginnings of names, looked up from the longest.
#[derive(Clone, Default)]
struct Parts {
    map: Sharded<Arc<HostRt>>,
    /// Descending.
    lengths: Vec<usize>,
    /// How many parts have each length.
    counts: BTreeMap<usize, usize>,
}

impl Parts {
    fn set(&mut self, part: &str, host: Option<Arc<HostRt>>) {
        let (part, before) = (part.as_bytes(), self.map.get(part.as_bytes()).is_some());
        let after = host.is_some();
        match host {
            Some(host) => self.map.insert(part.into(), host),
            None => self.map.remove(part),
        }
        let count = self.counts.entry(part.len()).or_default();
        *count = *count + usize::from(after) - usize::from(before);
        if *count == 0 {
            self.counts.remove(&part.len());
        }
        if before != after {
            self.lengths = self.counts.keys().rev().copied().collect();
        }
    }
    fn find<'a>(&self, of: &'a [u8], part: impl Fn(&'a [u8], usize) -> &'a [u8]) -> Option<&Arc<HostRt>> {
        // The asterisk stands for at least one character.
        self.lengths.iter().filter(|l| **l < of.len()).find_map(|l| self.map.get(part(of, *l)))
    }
}

/// A domain of a virtual host.
#[derive(Clone, Copy)]
enum Domain<'a> {
    Any,
    Suffix(&'a str),
    Prefix(&'a str),
    Exact(&'a str),
}

impl Domain<'_> {
    fn of(text: &str) -> Domain<'_> {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Domain::Any,
            (Some(suffix), _) => Domain::Suffix(suffix),
            (_, Some(prefix)) => Domain::Prefix(prefix),
            _ => Domain::Exact(text),
        }
    }
}

impl RouteTable {
    pub(super) fn new(name: Name) -> RouteTable {
        RouteTable { name: Some(name), ..RouteTable::default() }
    }

    /// The virtual host that a domain, in lower case, leads to.
    pub(super) fn owner(&self, domain: &str) -> Option<&Arc<HostRt>> {
        match Domain::of(domain) {
            Domain::Any => self.any.as_ref(),
            Domain::Suffix(part) => self.suffixes.map.get(part.as_bytes()),
            Domain::Prefix(part) => self.prefixes.map.get(part.as_bytes()),
            Domain::Exact(name) => self.exact.get(name.as_bytes()),
        }
    }

    /// Leads a domain, in lower case, to a virtual host, or to none.
    pub(super) fn set(&mut self, domain: &Name, host: Option<Arc<HostRt>>) {
        match (Domain::of(domain), host) {
            (Domain::Any, host) => self.any = host,
            (Domain::Suffix(part), host) => self.suffixes.set(part, host),
            (Domain::Prefix(part), host) => self.prefixes.set(part, host),
            (Domain::Exact(_), Some(host)) => self.exact.insert(domain.clone().into(), host),
            (Domain::Exact(name), None) => self.exact.remove(name.as_bytes()),
        }
    }

    /// The virtual host for `host`, which is to be without its port where ports take no part
    /// ([`crate::head_access::host_without_port`]); its case and a dot at its end are ignored. Exact, then `*.suffix`, then
    /// `prefix.*` by length, then `*`.
    pub fn host(&self, host: &[u8]) -> Option<&Arc<HostRt>> {
        let mut lower = [0; LONGEST_HOST];
        let found = lower.get_mut(..host.len()).and_then(|name| {
            name.copy_from_slice(host);
            name.make_ascii_lowercase();
            let name = name.strip_suffix(b".").unwrap_or(name);
            let suffix = || self.suffixes.find(name, |n, len| &n[n.len() - len..]);
            let prefix = || self.prefixes.find(name, |n, len| &n[..len]);
            self.exact.get(name).or_else(suffix).or_else(prefix)
        });
        found.or(self.any.as_ref())
    }

    /// The virtual host and the route of a request. `strip_port`: a port in the authority takes no part in matching.
    pub fn find(&self, request: &dyn RequestView, strip_port: bool) -> (Option<&Arc<HostRt>>, Option<&Arc<RouteRt>>) {
        let authority = request.authority();
        let name = if strip_port { host_without_port(authority) } else { authority };
        let Some(host) = self.host(name) else { return (None, None) };
        let found = host.find(request);
        if found.is_none()
            && host.config().fall_back_to_wildcard
            && let Some(wider) = self.wildcard(name).filter(|wider| wider.config().fall_back_to_wildcard)
        {
            return (Some(wider), wider.find(request));
        }
        (Some(host), found)
    }

    /// The virtual host of the longest `*.suffix` that covers a name.
    fn wildcard(&self, host: &[u8]) -> Option<&Arc<HostRt>> {
        let lower = host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase();
        self.suffixes.find(&lower, |n, len| &n[n.len() - len..])
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}
