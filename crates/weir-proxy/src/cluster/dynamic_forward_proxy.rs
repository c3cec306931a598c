//! The dynamic forward proxy: endpoints named by the request itself, resolved on demand and remembered for a while. Clients choose
//! the names, so the lookups under way are bounded, and each name is looked up once at a time.
use super::EndpointRt;
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::watch;
use weir_config::model::{Address, Endpoint};
use weir_net::{
    dial::{self, GuardedResolver},
    dns::{Answer, DnsError},
};

/// Hosts remembered at once (Envoy's `max_hosts`); beyond, the ones unused for longest go.
const MAX_HOSTS: usize = 1024;

/// Counted under Envoy's names, as `dns_cache.dynamic_forward_proxy.…`.
#[derive(Default)]
pub struct DnsCacheStats {
    /// Lookups begun.
    pub dns_query_attempt: AtomicU64,
    /// Lookups that found no address.
    pub dns_query_failure: AtomicU64,
    /// Requests refused because too many names were being looked up.
    pub dns_rq_pending_overflow: AtomicU64,
    /// Hosts removed before they expired because there were too many.
    pub host_overflow: AtomicU64,
    /// Hosts remembered now.
    pub num_hosts: AtomicU64,
}

/// Why there is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    Dns(DnsError),
    /// Its addresses are protected; the first of them.
    NotAllowed(IpAddr),
    /// Too many names are being looked up.
    Overflow,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Dns(e) => e.fmt(f),
            Unresolved::NotAllowed(ip) => dial::not_allowed(f, *ip),
            Unresolved::Overflow => f.write_str("too many names are being looked up"),
        }
    }
}

impl From<dial::Unresolved> for Unresolved {
    fn from(e: dial::Unresolved) -> Unresolved {
        match e {
            dial::Unresolved::Dns(e) => Unresolved::Dns(e),
            dial::Unresolved::NotAllowed(ip) => Unresolved::NotAllowed(ip),
        }
    }
}

type Lookup = Result<Answer, dial::Unresolved>;

struct Entry {
    endpoint: Arc<EndpointRt>,
    until: Instant,
    used: Instant,
}

/// One per process; workers ask it from their threads, names are resolved on the main runtime.
pub struct ForwardProxy {
    resolver: Arc<GuardedResolver>,
    runtime: tokio::runtime::Handle,
    hosts: Mutex<HashMap<(String, u16), Entry>>,
    /// Lookups under way by name; the value is `None` until the answer arrives.
    pending: Arc<Mutex<HashMap<String, watch::Receiver<Option<Lookup>>>>>,
    /// Names that may be looked up at once (Envoy's `max_pending_requests` of a DNS cache).
    max_pending: usize,
    stats: Arc<DnsCacheStats>,
}

impl ForwardProxy {
    pub(crate) fn new(
        resolver: Arc<GuardedResolver>,
        runtime: tokio::runtime::Handle,
        max_pending: usize,
        stats: Arc<DnsCacheStats>,
    ) -> Self {
        ForwardProxy { resolver, runtime, hosts: Mutex::default(), pending: Arc::default(), max_pending, stats }
    }

    /// The endpoint of a host (a name or an address, no port) and a port. The same `Arc` as long as the address stays.
    ///
    /// # Errors
    /// DNS failed, or too many lookups are under way. An expired address stays in use while its name cannot be resolved.
    pub async fn endpoint(&self, host: &str, port: u16) -> Result<Arc<EndpointRt>, Unresolved> {
        let key = (host.to_ascii_lowercase(), port);
        let now = Instant::now();
        let known = lock(&self.hosts).get_mut(&key).map(|e| {
            e.used = now;
            (e.endpoint.clone(), e.until)
        });
        if let Some((endpoint, until)) = &known
            && *until > now
        {
            return Ok(endpoint.clone());
        }
        let answer = match self.lookup(&key.0).await {
            Ok(answer) => answer,
            // An address from before stays in use while its name cannot be resolved, but not once the name leads elsewhere.
            Err(e @ Unresolved::NotAllowed(_)) => return Err(e),
            Err(e) => return known.map(|(endpoint, _)| endpoint).ok_or(e),
        };
        let address = SocketAddr::new(answer.addresses[0], port);
        let endpoint = match known {
            Some((endpoint, _)) if answer.addresses.contains(&endpoint.address.ip()) => endpoint,
            _ => {
                let named = Address::Name { host: key.0.as_str().into(), port };
                Arc::new(EndpointRt::new(address, Arc::new(Endpoint::new(named))))
            }
        };
        self.remember(key, Entry { endpoint: endpoint.clone(), until: now + answer.ttl, used: now });
        Ok(endpoint)
    }

    /// Joins the running lookup of this name, or starts one.
    async fn lookup(&self, name: &str) -> Result<Answer, Unresolved> {
        let mut answer = {
            let mut pending = lock(&self.pending);
            match pending.get(name) {
                Some(answer) => answer.clone(),
                None if pending.len() >= self.max_pending => {
                    self.stats.dns_rq_pending_overflow.fetch_add(1, Relaxed);
                    return Err(Unresolved::Overflow);
                }
                None => {
                    let answer = self.begin(name.to_string());
                    pending.insert(name.to_string(), answer.clone());
                    answer
                }
            }
        };
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        Ok(found.unwrap_or_else(|| Err(dial::Unresolved::Dns(DnsError::Failed("the proxy is stopping".into()))))?)
    }

    /// A lookup continues after its requests have ended: others may join it.
    fn begin(&self, name: String) -> watch::Receiver<Option<Lookup>> {
        let (tell, answer) = watch::channel(None);
        let (resolver, pending, stats) = (self.resolver.clone(), self.pending.clone(), self.stats.clone());
        stats.dns_query_attempt.fetch_add(1, Relaxed);
        // A resolver's sockets belong to the runtime that it was made in.
        self.runtime.spawn(async move {
            let found = resolver.lookup(&name).await;
            if found.is_err() {
                stats.dns_query_failure.fetch_add(1, Relaxed);
            }
            lock(&pending).remove(&name);
            let _ = tell.send(Some(found));
        });
        answer
    }

    fn remember(&self, key: (String, u16), entry: Entry) {
        let mut hosts = lock(&self.hosts);
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&key) {
            let now = entry.used;
            hosts.retain(|_, e| e.until > now);
            if hosts.len() >= MAX_HOSTS
                && let Some(oldest) = hosts.iter().min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone())
            {
                hosts.remove(&oldest);
                self.stats.host_overflow.fetch_add(1, Relaxed);
            }
        }
        hosts.insert(key, entry);
        self.stats.num_hosts.store(hosts.len() as u64, Relaxed);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
