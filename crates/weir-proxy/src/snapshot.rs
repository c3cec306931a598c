//! What workers serve by: one immutable picture of the configuration in run-time form.
use crate::{
    access_log::AccessLogger,
    cluster::{ClusterRegistry, ClusterSlot},
    filter::config::FilterList,
    route::{RouteConfigRt, RouteTable, matcher::Patterns},
};
use std::{collections::HashMap, sync::Arc, time::SystemTime};
use weir_config::model::{Config, HttpConnectionManager, Name, VirtualHost};

/// Published by `ArcSwap`; a worker compares its pointer at each request. What did not change is shared with the
/// snapshot before it.
pub struct Snapshot {
    /// Counts up from 1 with each [`crate::Proxy::apply`]; 0 before the first.
    pub version: u64,
    pub config: Arc<Config>,
    pub made_at: SystemTime,
    pub hcms: HashMap<HcmKey, Arc<HcmRt>>,
    /// Compiled route configurations.
    pub tables: HashMap<Name, Arc<RouteTable>>,
    /// Those that went with this version: connections may be on their way to them.
    pub(crate) leaving: HashMap<HcmKey, Arc<HcmRt>>,
    pub clusters: Arc<ClusterRegistry>,
}

impl Snapshot {
    /// Before the first configuration.
    pub(crate) fn empty(clusters: Arc<ClusterRegistry>) -> Snapshot {
        Snapshot {
            version: 0,
            config: Arc::default(),
            made_at: SystemTime::now(),
            hcms: HashMap::new(),
            tables: HashMap::new(),
            leaving: HashMap::new(),
            clusters,
        }
    }
    /// The connection manager of a connection. `None` once it is gone for good: a connection that it served goes on with
    /// the one it saw last, told to end by its drain signal.
    pub fn hcm(&self, key: &HcmKey) -> Option<&Arc<HcmRt>> {
        self.hcms.get(key).or_else(|| self.leaving.get(key))
    }
}

/// Names one HTTP connection manager for as long as connections live: they look up its newest form at each request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HcmKey {
    pub listener: Name,
    pub chain: Name,
}

/// An HTTP connection manager with everything that its requests need.
pub struct HcmRt {
    config: Arc<HttpConnectionManager>,
    /// Empty where its route configuration is missing: every request is answered 404.
    pub table: Arc<RouteTable>,
    pub access_logs: Arc<[AccessLogger]>,
    pub filters: Arc<FilterList>,
    /// A virtual host for each of the `server_domains`.
    servers: Option<Arc<RouteTable>>,
}

impl HcmRt {
    pub(crate) fn new(
        config: &Arc<HttpConnectionManager>,
        table: Arc<RouteTable>,
        access_logs: Arc<[AccessLogger]>,
        filters: Arc<FilterList>,
    ) -> HcmRt {
        let servers = (!config.server_domains.is_empty()).then(|| servers(&config.server_domains));
        HcmRt { config: config.clone(), table, access_logs, filters, servers }
    }
    /// Whether a request for `host` arrived on a connection that was opened for another server.
    pub fn is_misdirected(&self, sni: Option<&str>, host: &[u8]) -> bool {
        let (Some(servers), Some(sni)) = (&self.servers, sni) else { return false };
        if sni.as_bytes().eq_ignore_ascii_case(host) {
            return false;
        }
        match (servers.host(sni.as_bytes()), servers.host(host)) {
            (Some(connected), Some(asked)) => !Arc::ptr_eq(connected, asked),
            // At least one of them belongs to no server.
            _ => false,
        }
    }
    /// Whether `other` would do the same.
    pub(crate) fn same(&self, other: &HcmRt) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && Arc::ptr_eq(&self.table, &other.table)
            && Arc::ptr_eq(&self.access_logs, &other.access_logs)
            && Arc::ptr_eq(&self.filters, &other.filters)
    }
    pub fn config(&self) -> &HttpConnectionManager {
        &self.config
    }
}

fn servers(domains: &[String]) -> Arc<RouteTable> {
    let mut config = RouteConfigRt::new("server_domains".into());
    for domain in domains {
        let host = VirtualHost::new(domain.as_str().into(), vec![domain.clone()], Vec::new());
        config.set(&Arc::new(host), &mut |name| Arc::new(ClusterSlot::new(name.clone(), u32::MAX)), &mut Patterns::default());
    }
    config.table().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_belong_to_the_server_that_fits_best() {
        let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let with_any = servers(&names(&["*", "second.test", "*.w.test", "fourth.w.test"]));
        let found = |host: &str| with_any.host(host.as_bytes()).map(|h| h.config().name.to_string());
        for (host, server) in
            [("a.test", "*"), ("Second.test", "second.test"), ("x.w.test", "*.w.test"), ("fourth.w.test", "fourth.w.test")]
        {
            assert_eq!(found(host).as_deref(), Some(server), "{host}");
        }
    }
}
