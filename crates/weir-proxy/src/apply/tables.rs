//! Compiled route configurations and access logs, kept from one configuration to the next.
use crate::{
    access_log::{AccessLogger, Sinks},
    cluster::ClusterRegistry,
    filter::config::FilterList,
    plugin::PluginSlot,
    route::{RouteConfigRt, RouteTable, matcher::Patterns},
    snapshot::HcmRt,
};
use std::{collections::HashMap, sync::Arc};
use weir_config::{
    delta::{Delta, Resource},
    diagnostic::Diagnostic,
    model::{AccessLog, Config, HttpConnectionManager, Name, RouteConfiguration},
};

#[derive(Default)]
pub(super) struct Tables {
    tables: HashMap<Name, Entry>,
    empty: Arc<RouteTable>,
    logs: Vec<CompiledLogs>,
    /// What was wrong with the filters of connection managers.
    filter_findings: Vec<Diagnostic>,
}

/// Compiled logs, what they were compiled from, and what was wrong with it.
type CompiledLogs = (Vec<AccessLog>, Arc<[AccessLogger]>, Vec<Diagnostic>);

struct Entry {
    config: Arc<RouteConfiguration>,
    hosts: RouteConfigRt,
    findings: Vec<Diagnostic>,
}

impl Tables {
    /// Compiles what changed.
    pub fn update(&mut self, config: &Config, clusters: &ClusterRegistry) {
        self.filter_findings.clear();
        self.tables.retain(|name, _| config.routes.contains_key(name));
        for (name, new) in &config.routes {
            let empty = || Entry {
                config: Arc::new(RouteConfiguration { name: name.clone(), virtual_hosts: Vec::new() }),
                hosts: RouteConfigRt::new(name.clone()),
                findings: Vec::new(),
            };
            let entry = self.tables.entry(name.clone()).or_insert_with(empty);
            let of = |c: &RouteConfiguration| Config { routes: [(name.clone(), Arc::new(c.clone()))].into(), ..Config::default() };
            let (delta, mut patterns) = (Delta::between(&of(&entry.config), &of(new), 0), Patterns::default());
            for resource in &delta.set {
                if let Resource::VirtualHost(_, host) = resource {
                    entry.hosts.set(host, &mut |name| clusters.slot(name), &mut patterns);
                }
            }
            for host in entry.config.virtual_hosts.iter().filter(|h| !new.virtual_hosts.iter().any(|n| n.name == h.name)) {
                entry.hosts.remove(&host.name);
            }
            entry.config = new.clone();
            entry.findings = new.virtual_hosts.iter().flat_map(|h| entry.hosts.findings(&h.name)).collect();
        }
    }
    /// The table of a name; an empty one where there is none.
    pub fn get(&self, name: &Name) -> Arc<RouteTable> {
        self.tables.get(name).map_or_else(|| self.empty.clone(), |e| e.hosts.table().clone())
    }
    pub fn all(&self) -> HashMap<Name, Arc<RouteTable>> {
        self.tables.iter().map(|(n, e)| (n.clone(), e.hosts.table().clone())).collect()
    }
    /// The access logs of a filter chain. One that cannot be compiled or opened is left out and reported.
    pub fn logs(&mut self, wanted: &[AccessLog], sinks: &Sinks) -> Arc<[AccessLogger]> {
        if let Some((_, logs, _)) = self.logs.iter().find(|(config, ..)| *config == wanted) {
            return logs.clone();
        }
        let (mut logs, mut findings) = (Vec::new(), Vec::new());
        for log in wanted {
            match AccessLogger::compile(log, sinks) {
                Ok(logger) => logs.push(logger),
                Err(f) => findings.extend(f),
            }
        }
        let logs: Arc<[AccessLogger]> = logs.into();
        self.logs.push((wanted.to_vec(), logs.clone(), findings));
        logs
    }
    /// The filters of a connection manager. `None`: they cannot be used, and it must not serve without them.
    pub fn filters(
        &mut self,
        listener: &Name,
        hcm: &HttpConnectionManager,
        before: Option<&HcmRt>,
        plugin: impl Fn(&Name) -> Option<Arc<PluginSlot>>,
    ) -> Option<Arc<FilterList>> {
        let compiled = FilterList::compile(&hcm.http_filters, before.map(|b| &b.filters), plugin);
        let report = |why| self.filter_findings.push(Diagnostic::error("InvalidValue", format!("listener `{listener}`: {why}")));
        compiled.map_err(report).ok()
    }
    /// Forgets logs that nothing writes to.
    pub fn sweep(&mut self) {
        self.logs.retain(|(_, logs, _)| Arc::strong_count(logs) > 1);
    }
    pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.tables.values().flat_map(|e| &e.findings).chain(self.logs.iter().flat_map(|l| &l.2)).chain(&self.filter_findings)
    }
}
