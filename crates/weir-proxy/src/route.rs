//! Route configurations at run time: the virtual host by the request's host, then its first route that matches.
//! Compiling is incremental: a virtual host, and within a changed one a route, whose `Arc` is the same is taken over.
mod action;
mod index;
pub mod matcher;
pub mod rewrite;

pub use action::{ActionRt, ForwardRt, MirrorRt, RouteRt, Target};

use crate::{cluster::ClusterSlot, head_access::RequestView};
use index::{Map, PathIndex};
use matcher::Patterns;
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Route, RouteConfiguration, VirtualHost},
};

/// The routes of one listener or port, ready to be searched.
#[derive(Default)]
pub struct RouteTable {
    name: Option<Name>,
    hosts: Vec<Arc<HostRt>>,
    /// Whole names.
    exact: Map<u32>,
    /// What follows the `*`.
    suffixes: Parts,
    /// What stands before the `*`.
    prefixes: Parts,
    any: Option<u32>,
}

/// A virtual host with the index of its routes.
pub struct HostRt {
    config: Arc<VirtualHost>,
    routes: Vec<Arc<RouteRt>>,
    paths: PathIndex,
    /// Told anew with every configuration that still holds this virtual host.
    findings: Vec<Diagnostic>,
}

/// Longest host name in DNS, with room for a port.
const LONGEST_HOST: usize = 253 + 6;

/// Ends or beginnings of names, looked up from the longest.
#[derive(Default)]
struct Parts {
    map: Map<u32>,
    /// Descending.
    lengths: Vec<usize>,
}

impl Parts {
    fn insert(&mut self, part: &str, host: u32) {
        self.map.insert(part.as_bytes().into(), host);
        if let Err(at) = self.lengths.binary_search_by(|l| part.len().cmp(l)) {
            self.lengths.insert(at, part.len());
        }
    }
    fn find<'a>(&self, of: &'a [u8], part: impl Fn(&'a [u8], usize) -> &'a [u8]) -> Option<u32> {
        // The asterisk stands for at least one character.
        self.lengths.iter().filter(|l| **l < of.len()).find_map(|l| self.map.get(part(of, *l)).copied())
    }
}

impl RouteTable {
    /// Compiles `config`, taking over from `previous` what did not change. A route that cannot be compiled is replaced by
    /// its last good version of the same name, or left out. All findings come back, of unchanged parts too.
    pub fn compile(
        config: &RouteConfiguration,
        previous: Option<&RouteTable>,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
    ) -> (RouteTable, Vec<Diagnostic>) {
        let old: HashMap<_, _> = previous.into_iter().flat_map(|t| &t.hosts).map(|h| (Arc::as_ptr(&h.config), h)).collect();
        let mut by_name: Option<HashMap<&str, &Arc<HostRt>>> = None;
        let (mut table, mut findings, mut patterns) = (RouteTable::default(), Vec::new(), Patterns::default());
        table.name = Some(config.name.clone());
        for host in &config.virtual_hosts {
            let compiled = match old.get(&Arc::as_ptr(host)) {
                Some(same) => (*same).clone(),
                None => {
                    let names = by_name.get_or_insert_with(|| old.values().map(|h| (&*h.config.name, *h)).collect());
                    let before = names.get(&*host.name).map(|h| &***h);
                    Arc::new(HostRt::compile(host, before, clusters, &mut patterns))
                }
            };
            findings.extend_from_slice(&compiled.findings);
            table.add(compiled, &mut findings);
        }
        (table, findings)
    }

    fn add(&mut self, host: Arc<HostRt>, findings: &mut Vec<Diagnostic>) {
        let number = self.hosts.len() as u32;
        for domain in &host.config.domains {
            let lower = domain.to_ascii_lowercase();
            let taken = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
                (Some(""), _) => self.any,
                (Some(suffix), _) => self.suffixes.map.get(suffix.as_bytes()).copied(),
                (_, Some(prefix)) => self.prefixes.map.get(prefix.as_bytes()).copied(),
                _ => self.exact.get(lower.as_bytes()).copied(),
            };
            if let Some(first) = taken {
                let (name, first) = (&host.config.name, self.hosts.get(first as usize).map_or(name_of(&host), |h| name_of(h)));
                let message = format!("the domain `{domain}` of virtual host `{name}` is already taken by `{first}`");
                let finding = Diagnostic::error("DuplicateDomain", message).help("the first one keeps it");
                findings.push(host.config.routes.first().map_or(finding.clone(), |r| finding.from_origin(&r.origin)));
                continue;
            }
            match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
                (Some(""), _) => self.any = Some(number),
                (Some(suffix), _) => self.suffixes.insert(suffix, number),
                (_, Some(prefix)) => self.prefixes.insert(prefix, number),
                _ => {
                    self.exact.insert(lower.as_bytes().into(), number);
                }
            }
        }
        self.hosts.push(host);
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
            self.exact.get(name).copied().or_else(suffix).or_else(prefix)
        });
        found.or(self.any).map(|i| &self.hosts[i as usize])
    }

    /// The virtual host and the route of a request. `strip_port`: a port in the authority takes no part in matching.
    pub fn find(&self, request: &dyn RequestView, strip_port: bool) -> (Option<&Arc<HostRt>>, Option<&Arc<RouteRt>>) {
        let authority = request.authority();
        let name = if strip_port { crate::head_access::host_without_port(authority) } else { authority };
        let Some(host) = self.host(name) else { return (None, None) };
        let found = host.find(request);
        if found.is_none()
            && host.config.fall_back_to_wildcard
            && let Some(wider) = self.wildcard(name).filter(|wider| wider.config.fall_back_to_wildcard)
        {
            return (Some(wider), wider.find(request));
        }
        (Some(host), found)
    }

    /// The virtual host of the longest `*.suffix` that covers a name.
    fn wildcard(&self, host: &[u8]) -> Option<&Arc<HostRt>> {
        let lower = host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase();
        self.suffixes.find(&lower, |n, len| &n[n.len() - len..]).map(|i| &self.hosts[i as usize])
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
    pub fn hosts(&self) -> &[Arc<HostRt>] {
        &self.hosts
    }
}

fn name_of(host: &HostRt) -> &str {
    &host.config.name
}

impl HostRt {
    fn compile(
        config: &Arc<VirtualHost>,
        before: Option<&HostRt>,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
    ) -> HostRt {
        let old: HashMap<*const Route, &Arc<RouteRt>> =
            before.into_iter().flat_map(|h| &h.routes).map(|r| (Arc::as_ptr(&r.config), r)).collect();
        let (mut routes, mut findings) = (Vec::with_capacity(config.routes.len()), Vec::new());
        for route in &config.routes {
            if let Some(same) = old.get(&Arc::as_ptr(route)) {
                findings.extend_from_slice(&same.findings);
                routes.push((*same).clone());
                continue;
            }
            match RouteRt::compile(route, clusters, patterns) {
                Ok(compiled) => {
                    findings.extend_from_slice(&compiled.findings);
                    routes.push(Arc::new(compiled));
                }
                Err(finding) => {
                    findings.push(finding.from_origin(&route.origin));
                    routes.extend(old.values().find(|r| r.config.name == route.name).map(|r| (*r).clone()));
                }
            }
        }
        let paths = PathIndex::build(routes.iter().map(|r| &r.config.matches));
        HostRt { config: config.clone(), routes, paths, findings }
    }

    pub fn config(&self) -> &Arc<VirtualHost> {
        &self.config
    }
    pub fn routes(&self) -> &[Arc<RouteRt>] {
        &self.routes
    }
    /// The first route in the order of the list that matches.
    pub fn find(&self, request: &dyn RequestView) -> Option<&Arc<RouteRt>> {
        let path = request.path();
        let found = self.paths.first(path, |n| self.routes[n as usize].accepts(path, request))?;
        Some(&self.routes[found as usize])
    }
}

#[cfg(test)]
mod tests;
