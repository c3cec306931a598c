//! A virtual host at run time.
use super::{RouteRt, index::PathIndex, matcher::Patterns};
use crate::{cluster::ClusterSlot, head_access::RequestView};
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Route, VirtualHost},
};

/// A virtual host with the index of its routes.
pub struct HostRt {
    config: Arc<VirtualHost>,
    routes: Box<[Arc<RouteRt>]>,
    paths: PathIndex,
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
        (HostRt { config: config.clone(), routes: routes.into(), paths }, findings)
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
