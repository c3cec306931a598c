//! Route tables: the routes of all units, by table and domain.
use super::{catalog::Catalog, units::UnitId};
use crate::{
    dense,
    object::Kind,
    translate::{Rank, RouteEntry},
};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use weir_config::model::{Name, Route, RouteAction, RouteConfiguration, VirtualHost};

#[derive(Default)]
pub struct Tables {
    tables: BTreeMap<Name, BTreeSet<Domain>>,
    /// (table, domain)
    changes: BTreeMap<(Name, Name), Change>,
}

/// In the order of names.
struct Domain {
    /// In order; at least one.
    entries: Box<[Entry]>,
    host: Arc<VirtualHost>,
}

impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.host.name
    }
}

impl Ord for Domain {
    fn cmp(&self, other: &Domain) -> Ordering {
        self.host.name.cmp(&other.host.name)
    }
}

impl PartialOrd for Domain {
    fn partial_cmp(&self, other: &Domain) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Domain) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Domain {}

/// What units changed in a domain since it was built.
#[derive(Default)]
struct Change {
    /// What these had there is replaced.
    units: BTreeSet<UnitId>,
    new: Vec<Entry>,
}

#[derive(PartialEq)]
struct Entry {
    rank: Rank,
    route: Option<Arc<Route>>,
    kind: Option<Kind>,
    unit: UnitId,
}

/// More new entries than this are sorted with the others, instead of being put in one by one.
const FEW: usize = 64;

impl Entry {
    /// Units of a kind have ranks of their own, by their names.
    fn order(&self) -> (&Rank, Option<Kind>) {
        (&self.rank, self.kind)
    }
}

impl Tables {
    /// Replaces the routes of a unit, which had a part in the domains `old`; returns the domains it has a part in now.
    pub fn put(&mut self, unit: UnitId, kind: Option<Kind>, old: &[(Name, Name)], routes: Vec<RouteEntry>) -> Box<[(Name, Name)]> {
        for at in old {
            let change = self.changes.entry(at.clone()).or_default();
            if !change.units.insert(unit) {
                // The second time since the domain was built.
                change.new.retain(|e| e.unit != unit);
            }
        }
        let mut by_domain: BTreeMap<(Name, Name), Vec<Entry>> = BTreeMap::new();
        for RouteEntry { table, domain, rank, route } in routes {
            by_domain.entry((table, domain)).or_default().push(Entry { rank, route, kind, unit });
        }
        let mut now = Vec::with_capacity(by_domain.len());
        for (at, mut new) in by_domain {
            // An object may reach a domain in two ways (by two listeners of one port): once is enough.
            new.sort_by(|a, b| a.rank.cmp(&b.rank));
            new.dedup();
            // The names are those of the table and the domain, where they exist: many units share them.
            let at = self.shared(at);
            let change = self.changes.entry(at.clone()).or_default();
            change.units.insert(unit);
            change.new.extend(new);
            now.push(at);
        }
        now.into()
    }

    fn shared(&self, (table, domain): (Name, Name)) -> (Name, Name) {
        let Some((table, domains)) = self.tables.get_key_value(&table) else { return (table, domain) };
        let domain = domains.get(&*domain).map_or(domain, |known| known.host.name.clone());
        (table.clone(), domain)
    }

    /// Builds the virtual hosts in whose domains something changed.
    #[expect(clippy::mutable_key_type, reason = "domains are ordered by their names alone")]
    pub fn build(&mut self, catalog: &mut Catalog) {
        for ((table, name), change) in std::mem::take(&mut self.changes) {
            let domains = self.tables.entry(table.clone()).or_default();
            let (before, built) = domains.take(&*name).map_or((Box::default(), None), |domain| (domain.entries, Some(domain.host)));
            let entries = change.apply(before.into_vec());
            if entries.is_empty() {
                if domains.is_empty() {
                    self.tables.remove(&table);
                }
                if built.is_some() {
                    catalog.set_host(table, name, None);
                }
                continue;
            }
            let host = host(&name, &entries);
            let host = match built.filter(|built| same_routes(built, &host)) {
                Some(built) => built,
                None => {
                    let host = Arc::new(host);
                    catalog.set_host(table, name, Some(host.clone()));
                    host
                }
            };
            domains.insert(Domain { entries: entries.into(), host });
        }
    }

    /// After many changes.
    pub fn pack(&mut self) {
        self.tables.values_mut().for_each(dense::pack);
    }

    /// The tables as route configurations. Costs the work of all domains.
    pub fn route_configurations(&self) -> BTreeMap<Name, Arc<RouteConfiguration>> {
        let one = |(name, domains): (&Name, &BTreeSet<Domain>)| {
            let virtual_hosts = domains.iter().map(|domain| domain.host.clone()).collect();
            (name.clone(), Arc::new(RouteConfiguration { name: name.clone(), virtual_hosts }))
        };
        self.tables.iter().map(one).collect()
    }
}

impl Change {
    /// Makes the entries of a domain what they are now.
    fn apply(self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let Change { units, mut new } = self;
        let before: Vec<Entry> = entries.extract_if(.., |e| units.contains(&e.unit)).collect();
        keep_routes(&before, &mut new);
        if new.len() > FEW {
            entries.append(&mut new);
            entries.sort_by(|a, b| a.order().cmp(&b.order()));
        } else {
            for entry in new {
                let at = entries.partition_point(|e| e.order() <= entry.order());
                entries.insert(at, entry);
            }
        }
        entries
    }
}

fn host(name: &Name, entries: &[Entry]) -> VirtualHost {
    let routes: Vec<_> = entries.iter().filter_map(|e| e.route.clone()).collect();
    VirtualHost {
        // As Istio has it; where nothing is tried twice there is nothing to count.
        include_request_attempt_count: routes.iter().any(|r| tries_again(r)),
        fall_back_to_wildcard: entries.iter().all(|e| e.kind == Some(Kind::Ingress)),
        ..VirtualHost::new(name.clone(), vec![name.clone()], routes)
    }
}

/// Routes that say what they said keep their `Arc`.
fn keep_routes(before: &[Entry], new: &mut [Entry]) {
    let mut by_name: HashMap<(UnitId, &Name), Vec<&Arc<Route>>> = HashMap::new();
    for (entry, route) in before.iter().filter_map(|e| Some((e, e.route.as_ref()?))) {
        by_name.entry((entry.unit, &route.name)).or_default().push(route);
    }
    for entry in new {
        let Some(route) = &mut entry.route else { continue };
        let candidates = by_name.get(&(entry.unit, &route.name)).into_iter().flatten();
        if let Some(same) = candidates.copied().find(|old| **old == *route) {
            *route = same.clone();
        }
    }
}

fn tries_again(route: &Route) -> bool {
    matches!(&route.action, RouteAction::Forward(f) if f.retry.as_ref().is_some_and(|r| r.num_retries > 0))
}

/// The routes' `Arc`s tell; comparing what they say would cost the work of all of them.
fn same_routes(a: &VirtualHost, b: &VirtualHost) -> bool {
    a.fall_back_to_wildcard == b.fall_back_to_wildcard
        && a.routes.len() == b.routes.len()
        && a.routes.iter().zip(&b.routes).all(|(a, b)| Arc::ptr_eq(a, b))
}
