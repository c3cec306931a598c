//! A virtual host at run time.
use super::{
    RouteRt,
    index::PathIndex,
    matcher::{Invalid, Patterns},
};
use crate::{cluster::ClusterSlot, filter::config::Overrides, head_access::RequestView};
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Route, VirtualHost},
};

/// A virtual host with the index of its routes.
pub struct HostRt {
    config: Arc<VirtualHost>,
    routes: Box<[Arc<RouteRt>]>,
    /// Part of those of each route.
    filters: Overrides,
    /// `None` where the routes are so few that each is looked at.
    paths: Option<Box<PathIndex>>,
}

/// So few routes are looked at one by one.
const FEW: usize = 4;

fn index(routes: &[Arc<RouteRt>]) -> Option<Box<PathIndex>> {
    (routes.len() > FEW).then(|| Box::new(PathIndex::build(routes.iter().map(|r| &*r.config.matches))))
}

impl HostRt {
    /// Compiles `config`; a route whose `Arc` is the same as in `before` is taken over. A route that cannot be compiled is replaced by
    /// its last good version of the same name, or left out. All findings come back, of routes that did not change too.
    pub(super) fn compile(
        config: &Arc<VirtualHost>,
        before: Option<&HostRt>,
        clusters: &mut dyn FnMut(&Name) -> Arc<ClusterSlot>,
        patterns: &mut Patterns,
    ) -> (HostRt, Vec<Diagnostic>) {
        let old: HashMap<*const Route, &Arc<RouteRt>> =
            before.into_iter().flat_map(|h| &h.routes).map(|r| (Arc::as_ptr(&r.config), r)).collect();
        let (mut routes, mut findings) = (Vec::with_capacity(config.routes.len()), Vec::new());
        let same_filters = before.filter(|b| b.config.per_filter_config == config.per_filter_config);
        let filters = match (Overrides::compile(&config.per_filter_config, &Overrides::default(), patterns), same_filters) {
            (Err(why), _) => return HostRt::without_filters(config, before, &why),
            // With their state.
            (Ok(_), Some(before)) => before.filters.clone(),
            (Ok(filters), None) => filters,
        };
        for route in &config.routes {
            if let Some(same) = old.get(&Arc::as_ptr(route)).filter(|_| same_filters.is_some()) {
                findings.extend_from_slice(same.findings());
                routes.push((*same).clone());
                continue;
            }
            match RouteRt::compile(route, &filters, clusters, patterns) {
                Ok(compiled) => {
                    findings.extend_from_slice(compiled.findings());
                    routes.push(Arc::new(compiled));
                }
                Err(finding) => {
                    findings.push(finding.from_origin(&route.origin));
                    routes.extend(old.values().find(|r| r.config.name == route.name).map(|r| (*r).clone()));
                }
            }
        }
        let (paths, routes) = (index(&routes), routes.into());
        (HostRt { config: config.clone(), routes, filters, paths }, findings)
    }

    /// For a host whose filters cannot be compiled: the routes as they were before, or none. Filters may refuse requests, so no request
    /// passes without them.
    fn without_filters(config: &Arc<VirtualHost>, before: Option<&HostRt>, why: &Invalid) -> (HostRt, Vec<Diagnostic>) {
        let finding = Diagnostic::error("InvalidValue", format!("virtual host `{}`: {why}", config.name));
        let finding = config.routes.first().map_or(finding.clone(), |r| finding.from_origin(&r.origin));
        let (routes, filters) = before.map_or_else(Default::default, |b| (b.routes.clone(), b.filters.clone()));
        let paths = index(&routes);
        (HostRt { config: config.clone(), routes, filters, paths }, vec![finding])
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
        let Some(paths) = &self.paths else { return self.routes.iter().find(|r| r.matches(path, request)) };
        let found = paths.first(path, |n| self.routes[n as usize].accepts(path, request))?;
        Some(&self.routes[found as usize])
    }
}
