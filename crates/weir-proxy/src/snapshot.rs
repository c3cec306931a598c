//! The HTTP connection managers that workers serve by, with their route tables. They are looked up by key after a change of the
//! configuration; between changes, a worker compares one number per request.
use crate::{
    access_log::AccessLogger,
    cluster::ClusterSlot,
    filter::config::FilterList,
    route::{ActionRt, HostRt, RouteConfigRt, RouteRt, RouteTable, matcher::Patterns},
    stream::{RouteInfo, RouteLookup},
};
use std::{
    collections::HashMap,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use weir_config::model::{HttpConnectionManager, Name, VirtualHost};
use weir_net::http::RequestHead;

/// A connection manager or cluster that is gone is kept this long: connections and requests may be on their way to it.
pub(crate) const LEAVES: Duration = Duration::from_secs(5);

/// Names one HTTP connection manager for as long as connections live: they look up its newest form at each request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HcmKey {
    pub listener: Name,
    pub chain: Name,
}

/// All connection managers of the process, and the tables that they route by.
#[derive(Default)]
pub struct ConnectionManagers {
    version: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    hcms: HashMap<HcmKey, Served>,
    tables: HashMap<Name, Arc<RouteTable>>,
    empty: Arc<RouteTable>,
    leaving: Vec<(Instant, HcmKey)>,
}

struct Served {
    hcm: Arc<HcmBase>,
    /// While it does not take part in changes: the table of before.
    frozen: Option<Arc<RouteTable>>,
}

/// A change of a connection manager.
pub(crate) enum HcmChange {
    Set(Arc<HcmBase>),
    /// It stays as it is, with its table, until it is set again.
    Freeze,
    Remove,
}

impl ConnectionManagers {
    /// Counts up with each change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The connection manager of a connection, with its table as of now. `None` once it is gone for good: a connection that it served
    /// goes on with the one it saw last, told to end by its drain signal.
    pub fn get(&self, key: &HcmKey) -> Option<HcmRt> {
        let inner = self.lock();
        let served = inner.hcms.get(key)?;
        let table = served.frozen.clone().unwrap_or_else(|| inner.table(&served.hcm.config().route_config));
        Some(HcmRt { base: served.hcm.clone(), table })
    }

    /// As it was set last.
    pub(crate) fn base(&self, key: &HcmKey) -> Option<Arc<HcmBase>> {
        self.lock().hcms.get(key).map(|s| s.hcm.clone())
    }

    /// Makes changes at once: no request sees a part of them. Returns the tables that were replaced.
    pub(crate) fn publish(&self, hcms: Vec<(HcmKey, HcmChange)>, tables: Vec<(Name, Option<Arc<RouteTable>>)>) -> Vec<Arc<RouteTable>> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut replaced = Vec::new();
        let now = Instant::now();
        inner.leaving.retain(|(since, key)| {
            let stays = now - *since < LEAVES;
            if !stays {
                replaced.extend(inner.hcms.remove(key).and_then(|s| s.frozen));
            }
            stays
        });
        if hcms.is_empty() && tables.is_empty() {
            return replaced;
        }
        for (key, change) in hcms {
            inner.leaving.retain(|(_, k)| *k != key);
            match change {
                HcmChange::Set(hcm) => {
                    let before = inner.hcms.insert(key, Served { hcm, frozen: None });
                    replaced.extend(before.and_then(|s| s.frozen));
                }
                HcmChange::Freeze => inner.freeze(&key),
                HcmChange::Remove => {
                    // Requests on their way are answered as before.
                    inner.freeze(&key);
                    inner.leaving.push((now, key));
                }
            }
        }
        for (name, table) in tables {
            replaced.extend(match table {
                Some(table) => inner.tables.insert(name, table),
                None => inner.tables.remove(&name),
            });
        }
        self.version.fetch_add(1, Ordering::Release);
        replaced
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn freeze(&mut self, key: &HcmKey) {
        if let Some(served) = self.hcms.get_mut(key)
            && served.frozen.is_none()
        {
            let name = &served.hcm.config().route_config;
            served.frozen = Some(self.tables.get(name).unwrap_or(&self.empty).clone());
        }
    }

    /// An empty one where there is none: every request is answered 404.
    fn table(&self, name: &Name) -> Arc<RouteTable> {
        self.tables.get(name).unwrap_or(&self.empty).clone()
    }
}

/// An HTTP connection manager with everything that its requests need, at one moment.
#[derive(Clone)]
pub struct HcmRt {
    base: Arc<HcmBase>,
    pub table: Arc<RouteTable>,
}

impl HcmRt {
    /// One without routes.
    #[cfg(test)]
    pub(crate) fn of(base: HcmBase) -> HcmRt {
        HcmRt { base: Arc::new(base), table: Arc::default() }
    }
    /// Whether both are the same objects.
    pub fn is(&self, other: &HcmRt) -> bool {
        Arc::ptr_eq(&self.base, &other.base) && Arc::ptr_eq(&self.table, &other.table)
    }
}

impl Deref for HcmRt {
    type Target = HcmBase;

    fn deref(&self) -> &HcmBase {
        &self.base
    }
}

/// A connection manager without its table, which changes more often.
pub struct HcmBase {
    config: Arc<HttpConnectionManager>,
    pub access_logs: Arc<[AccessLogger]>,
    pub filters: Arc<FilterList>,
    /// A virtual host for each of the `server_domains`.
    servers: Option<Arc<RouteTable>>,
}

impl HcmBase {
    pub(crate) fn new(
        config: &Arc<HttpConnectionManager>,
        access_logs: Arc<[AccessLogger]>,
        filters: Arc<FilterList>,
        servers: &mut Servers,
    ) -> HcmBase {
        let servers = servers.get(&config.server_domains);
        HcmBase { config: config.clone(), access_logs, filters, servers }
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
    pub(crate) fn same(&self, other: &HcmBase) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && Arc::ptr_eq(&self.access_logs, &other.access_logs)
            && Arc::ptr_eq(&self.filters, &other.filters)
    }
    pub fn config(&self) -> &HttpConnectionManager {
        &self.config
    }
}

impl RouteLookup for HcmRt {
    fn route_of(&self, request: &RequestHead) -> RouteInfo {
        let (host, route) = self.table.find(request, self.config().strip_any_host_port);
        route_info(host.map(|h| &**h), route.map(|r| &**r))
    }
}

/// What plugins may ask about a route that was found.
pub fn route_info(host: Option<&HostRt>, route: Option<&RouteRt>) -> RouteInfo {
    RouteInfo {
        virtual_host: host.map(|h| h.config().name.clone()),
        route_name: route.map(|r| r.name().clone()),
        object: route.map(|r| r.config.origin.object.clone()),
        cluster: match route.map(|r| &r.action) {
            Some(ActionRt::Forward(f)) => f.targets().first().and_then(|t| t.cluster.clone()),
            _ => None,
        },
    }
}

/// Tables of `server_domains`, which the connection managers of one listener share: the last one is kept.
#[derive(Default)]
pub(crate) struct Servers(Option<(Arc<[String]>, Arc<RouteTable>)>);

impl Servers {
    /// `None` without domains.
    fn get(&mut self, domains: &Arc<[String]>) -> Option<Arc<RouteTable>> {
        if domains.is_empty() {
            return None;
        }
        match &self.0 {
            Some((known, table)) if Arc::ptr_eq(known, domains) => Some(table.clone()),
            _ => {
                let table = servers(domains);
                self.0 = Some((domains.clone(), table.clone()));
                Some(table)
            }
        }
    }
}

fn servers(domains: &[String]) -> Arc<RouteTable> {
    let mut config = RouteConfigRt::new("server_domains".into());
    for domain in domains {
        let domain: Name = domain.as_str().into();
        let host = VirtualHost::new(domain.clone(), vec![domain], Vec::new());
        config.set(&Arc::new(host), &mut |name| Arc::new(ClusterSlot::new(name.clone(), u32::MAX)), &mut Patterns::default());
    }
    config.table().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_managers_of_a_listener_share_a_table() {
        let (domains, others): (Arc<[String]>, Arc<[String]>) = (["a.test".to_string()].into(), ["b.test".to_string()].into());
        let mut servers = Servers::default();
        assert!(servers.get(&Arc::default()).is_none());
        let table = |servers: &mut Servers, of: &Arc<[String]>| servers.get(of).unwrap();
        let first = table(&mut servers, &domains);
        assert!(Arc::ptr_eq(&first, &table(&mut servers, &domains)));
        assert!(table(&mut servers, &others).host(b"b.test").is_some());
    }

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
