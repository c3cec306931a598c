//! Compiled route configurations and access logs, kept from one configuration to the next.
use crate::{
    access_log::{AccessLogger, Sinks},
    cluster::ClusterRegistry,
    route::RouteTable,
};
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    diagnostic::Diagnostic,
    model::{AccessLog, Config, HttpConnectionManager, Name, RouteConfiguration},
};

#[derive(Default)]
pub(super) struct Tables {
    tables: HashMap<Name, Entry>,
    empty: Arc<RouteTable>,
    logs: Vec<CompiledLogs>,
}

/// Compiled logs, what they were compiled from, and what was wrong with it.
type CompiledLogs = (Vec<AccessLog>, Arc<[AccessLogger]>, Vec<Diagnostic>);

struct Entry {
    config: Arc<RouteConfiguration>,
    table: Arc<RouteTable>,
    findings: Vec<Diagnostic>,
}

impl Tables {
    /// Compiles what changed.
    pub fn update(&mut self, config: &Config, clusters: &ClusterRegistry) {
        self.tables.retain(|name, _| config.routes.contains_key(name));
        for (name, new) in &config.routes {
            let old = self.tables.get(name);
            if old.is_some_and(|e| Arc::ptr_eq(&e.config, new)) {
                continue;
            }
            let (table, findings) = RouteTable::compile(new, old.map(|e| &*e.table), &mut |name| clusters.slot(name));
            self.tables.insert(name.clone(), Entry { config: new.clone(), table: Arc::new(table), findings });
        }
    }
    /// The table of a name; an empty one where there is none.
    pub fn get(&self, name: &Name) -> Arc<RouteTable> {
        self.tables.get(name).map_or_else(|| self.empty.clone(), |e| e.table.clone())
    }
    pub fn all(&self) -> HashMap<Name, Arc<RouteTable>> {
        self.tables.iter().map(|(n, e)| (n.clone(), e.table.clone())).collect()
    }
    /// The access logs of a connection manager. One that cannot be compiled or opened is left out and said.
    pub fn logs(&mut self, hcm: &HttpConnectionManager, sinks: &Sinks) -> Arc<[AccessLogger]> {
        if let Some((_, logs, _)) = self.logs.iter().find(|(config, ..)| *config == hcm.access_log) {
            return logs.clone();
        }
        let (mut logs, mut findings) = (Vec::new(), Vec::new());
        for log in &hcm.access_log {
            match AccessLogger::compile(log, sinks) {
                Ok(logger) => logs.push(logger),
                Err(f) => findings.extend(f),
            }
        }
        let logs: Arc<[AccessLogger]> = logs.into();
        self.logs.push((hcm.access_log.clone(), logs.clone(), findings));
        logs
    }
    /// Forgets logs that nothing writes to.
    pub fn sweep(&mut self) {
        self.logs.retain(|(_, logs, _)| Arc::strong_count(logs) > 1);
    }
    pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.tables.values().flat_map(|e| &e.findings).chain(self.logs.iter().flat_map(|l| &l.2))
    }
}
