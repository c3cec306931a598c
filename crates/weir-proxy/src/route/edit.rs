//! Changing a route configuration host by host, at the cost of what changes: the table of before is shared but for the hosts that
//! are set or removed.
use super::{HostRt, RouteTable, matcher::Patterns};
use crate::cluster::ClusterSlot;
use hashbrown::{
    HashTable,
    hash_table::{Entry, OccupiedEntry},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, VirtualHost},
};

/// A route configuration as the configuring side holds it.
pub struct RouteConfigRt {
    table: Arc<RouteTable>,
    /// By the names of their configurations.
    hosts: HashTable<Arc<HostRt>>,
    hasher: RandomState,
    /// What compiling a host found, where it found something.
    findings: HashMap<Name, Vec<Diagnostic>>,
    /// Domains that several hosts have: the first by name keeps them.
    contested: BTreeMap<Name, BTreeSet<Name>>,
    /// Hosts that were compiled so far; for tests.
    #[cfg(test)]
    pub(crate) compiled: usize,
}

impl RouteConfigRt {
    pub fn new(name: Name) -> RouteConfigRt {
        RouteConfigRt {
            table: Arc::new(RouteTable::new(name)),
            hosts: HashTable::new(),
            hasher: RandomState::new(),
            findings: HashMap::new(),
            contested: BTreeMap::new(),
            #[cfg(test)]
            compiled: 0,
        }
    }

    /// Takes over a virtual host that is new or has changed. Returns the names of all hosts whose findings may be others now.
    pub fn set(
        &mut self,
        config: &Arc<VirtualHost>,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
    ) -> BTreeSet<Name> {
        let before = self.host(&config.name).cloned();
        let (host, findings) = HostRt::compile(config, before.as_deref(), clusters, patterns);
        #[cfg(test)]
        (self.compiled += 1);
        let host = Arc::new(host);
        let hasher = &self.hasher;
        let hash = |host: &Arc<HostRt>| hasher.hash_one(&host.config().name);
        match self.hosts.entry(hasher.hash_one(&config.name), |h| h.config().name == config.name, hash) {
            Entry::Occupied(mut known) => *known.get_mut() = host.clone(),
            Entry::Vacant(place) => _ = place.insert(host.clone()),
        }
        match findings.is_empty() {
            true => self.findings.remove(&config.name),
            false => self.findings.insert(config.name.clone(), findings),
        };
        let mut touched = BTreeSet::from([config.name.clone()]);
        let now = domains(config);
        for domain in before.iter().flat_map(|b| domains(b.config())).filter(|d| !now.contains(d)) {
            self.give_up(&domain, &config.name, &mut touched);
        }
        for domain in now {
            self.claim(domain, &host, &mut touched);
        }
        touched
    }

    /// Removes a virtual host; as [`RouteConfigRt::set`].
    pub fn remove(&mut self, name: &Name) -> BTreeSet<Name> {
        let mut touched = BTreeSet::from([name.clone()]);
        self.findings.remove(name);
        let found = self.hosts.find_entry(self.hasher.hash_one(name), |h| h.config().name == *name).ok();
        if let Some((host, _)) = found.map(OccupiedEntry::remove) {
            for domain in domains(host.config()) {
                self.give_up(&domain, name, &mut touched);
            }
        }
        touched
    }

    fn claim(&mut self, domain: Name, host: &Arc<HostRt>, touched: &mut BTreeSet<Name>) {
        let name = &host.config().name;
        match self.table.owner(&domain).map(|owner| owner.config().name.clone()) {
            Some(owner) if owner != *name => {
                let claims = self.contested.entry(domain.clone()).or_insert_with(|| [owner].into());
                claims.insert(name.clone());
                touched.extend(claims.iter().cloned());
                if claims.first() == Some(name) {
                    Arc::make_mut(&mut self.table).set(&domain, Some(host.clone()));
                }
            }
            _ => Arc::make_mut(&mut self.table).set(&domain, Some(host.clone())),
        }
    }

    fn give_up(&mut self, domain: &Name, name: &Name, touched: &mut BTreeSet<Name>) {
        let mut next = None;
        if let Some(claims) = self.contested.get_mut(domain) {
            claims.remove(name);
            touched.extend(claims.iter().cloned());
            next = claims.first().cloned();
            if claims.len() < 2 {
                self.contested.remove(domain);
            }
        }
        if self.table.owner(domain).is_some_and(|owner| owner.config().name == *name) {
            let next = next.and_then(|name| self.host(&name).cloned());
            Arc::make_mut(&mut self.table).set(domain, next);
        }
    }

    /// What is wrong with a virtual host.
    pub fn findings(&self, name: &Name) -> Vec<Diagnostic> {
        let mut findings = self.findings.get(name).cloned().unwrap_or_default();
        let Some(host) = self.host(name) else { return findings };
        let config = host.config();
        let mut seen = BTreeSet::new();
        for domain in &config.domains {
            let lower = domain.to_ascii_lowercase();
            let first = match self.contested.get(&*lower).and_then(BTreeSet::first) {
                Some(first) if first != name => first,
                _ if seen.contains(&lower) => name,
                _ => {
                    seen.insert(lower);
                    continue;
                }
            };
            let message = format!("the domain `{domain}` of virtual host `{name}` is already taken by `{first}`");
            let finding = Diagnostic::error("DuplicateDomain", message).help("the first one by name keeps it");
            findings.push(config.routes.first().map_or(finding.clone(), |r| finding.from_origin(&r.origin)));
        }
        findings
    }

    /// The table as of now.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }
    /// In no order.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<HostRt>> {
        self.hosts.iter()
    }
    pub fn host(&self, name: &Name) -> Option<&Arc<HostRt>> {
        self.hosts.find(self.hasher.hash_one(name), |h| h.config().name == *name)
    }
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// Each once, in lower case.
fn domains(config: &VirtualHost) -> BTreeSet<Name> {
    let lower = |d: &Name| if d.bytes().any(|b| b.is_ascii_uppercase()) { d.to_ascii_lowercase().into() } else { d.clone() };
    config.domains.iter().map(lower).collect()
}
