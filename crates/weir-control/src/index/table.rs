//! Route tables: the routes of all units, by table and domain.
use crate::{
    object::Kind,
    translate::{Rank, RouteEntry, Unit},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::model::{Config, Name, Route, RouteAction, RouteConfiguration, VirtualHost};

#[derive(Default)]
pub struct Tables {
    tables: BTreeMap<Name, BTreeMap<Name, Domain>>,
    touched: BTreeSet<(Name, Name)>,
}

#[derive(Default)]
struct Domain {
    /// In order, but for those that came since it was built: these stand at the end.
    entries: Vec<Entry>,
    ordered: usize,
    built: Option<Arc<VirtualHost>>,
}

/// More new entries than this are sorted with the others, instead of being put in one by one.
const FEW: usize = 64;

impl Domain {
    fn take(&mut self, unit: &Unit) -> Vec<Entry> {
        let ordered = self.ordered;
        let mut at = 0;
        let taken = self.entries.extract_if(.., |e| {
            let own = e.unit == *unit;
            if own && at < ordered {
                self.ordered -= 1;
            }
            at += 1;
            own
        });
        taken.collect()
    }

    /// The cost is that of what is new.
    fn order(&mut self) {
        if self.entries.len() - self.ordered > FEW {
            self.entries.sort_by(|a, b| (&a.rank, &a.unit).cmp(&(&b.rank, &b.unit)));
        } else {
            for entry in self.entries.split_off(self.ordered) {
                let at = self.entries.partition_point(|e| (&e.rank, &e.unit) <= (&entry.rank, &entry.unit));
                self.entries.insert(at, entry);
            }
        }
        self.ordered = self.entries.len();
    }
}

#[derive(PartialEq)]
struct Entry {
    rank: Rank,
    route: Option<Arc<Route>>,
    unit: Unit,
}

impl Tables {
    /// Replaces the routes of a unit, which had a part in the domains `old`; returns the domains it has a part in now.
    /// Routes that say what they said keep their `Arc`.
    pub fn put(&mut self, unit: &Unit, old: &[(Name, Name)], routes: Vec<RouteEntry>) -> Box<[(Name, Name)]> {
        let mut by_domain: BTreeMap<(Name, Name), Vec<Entry>> = old.iter().map(|at| (at.clone(), Vec::new())).collect();
        for RouteEntry { table, domain, rank, route } in routes {
            by_domain.entry((table, domain)).or_default().push(Entry { rank, route, unit: unit.clone() });
        }
        let mut now = Vec::with_capacity(by_domain.len());
        for ((table, name), mut new) in by_domain {
            // An object may reach a domain in two ways (by two listeners of one port): once is enough.
            new.sort_by(|a, b| a.rank.cmp(&b.rank));
            new.dedup();
            let domain = self.tables.entry(table.clone()).or_default().entry(name.clone()).or_default();
            let before: Vec<Entry> = match old.iter().any(|(t, d)| *t == table && *d == name) {
                true => domain.take(unit),
                false => Vec::new(),
            };
            if !new.is_empty() {
                now.push((table.clone(), name.clone()));
            }
            if before == new {
                domain.entries.extend(before);
                continue;
            }
            for entry in &mut new {
                if let Some(same) = before.iter().find(|b| b.route == entry.route) {
                    entry.route.clone_from(&same.route);
                }
            }
            domain.entries.extend(new);
            self.touched.insert((table, name));
        }
        now.into()
    }

    /// Builds the virtual hosts and route configurations that were touched.
    pub fn build(&mut self, config: &mut Config) {
        let touched = std::mem::take(&mut self.touched);
        let mut changed: BTreeSet<Name> = BTreeSet::new();
        for (table, name) in touched {
            let Some(domains) = self.tables.get_mut(&table) else { continue };
            let Some(domain) = domains.get_mut(&name) else { continue };
            if domain.entries.is_empty() {
                domains.remove(&name);
                changed.insert(table);
                continue;
            }
            domain.order();
            let routes: Vec<_> = domain.entries.iter().filter_map(|e| e.route.clone()).collect();
            let host = VirtualHost {
                // As Istio has it; where nothing is tried twice there is nothing to count.
                include_request_attempt_count: routes.iter().any(|r| tries_again(r)),
                fall_back_to_wildcard: domain.entries.iter().all(|e| matches!(&e.unit, Unit::Object(key) if key.kind == Kind::Ingress)),
                ..VirtualHost::new(name.clone(), vec![name.to_string()], routes)
            };
            if !domain.built.as_deref().is_some_and(|built| same_routes(built, &host)) {
                domain.built = Some(Arc::new(host));
                changed.insert(table);
            }
        }
        for table in changed {
            let hosts: Vec<Arc<VirtualHost>> = self.tables.get(&table).into_iter().flatten().filter_map(|(_, d)| d.built.clone()).collect();
            if hosts.is_empty() {
                self.tables.remove(&table);
                config.routes.remove(&table);
            } else {
                let name = table.clone();
                config.routes.insert(table, Arc::new(RouteConfiguration { name, virtual_hosts: hosts }));
            }
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
