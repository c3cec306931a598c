//! The dynamic forward proxy: endpoints named by the request itself, resolved on demand and remembered for a while.
use super::EndpointRt;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use weir_config::model::{Address, Endpoint};
use weir_net::dns::{DnsError, Resolver};

/// Hosts remembered at once (Envoy's `max_hosts`); beyond, the ones unused for longest go.
const MAX_HOSTS: usize = 1024;

struct Entry {
    endpoint: Arc<EndpointRt>,
    until: Instant,
    used: Instant,
}

/// One per process; workers ask it from their threads, names are resolved on the main runtime.
pub struct ForwardProxy {
    resolver: Arc<Resolver>,
    runtime: tokio::runtime::Handle,
    hosts: Mutex<HashMap<(String, u16), Entry>>,
    /// Hosts thrown out before their time because there were too many.
    pub overflow: AtomicU64,
}

impl ForwardProxy {
    pub(crate) fn new(resolver: Arc<Resolver>, runtime: tokio::runtime::Handle) -> Self {
        ForwardProxy { resolver, runtime, hosts: Mutex::default(), overflow: AtomicU64::new(0) }
    }

    /// The endpoint of a host (a name or an address, no port) and a port. The same `Arc` as long as the address stays.
    ///
    /// # Errors
    /// What DNS says; an expired address is used on while its name cannot be resolved anew.
    pub async fn endpoint(&self, host: &str, port: u16) -> Result<Arc<EndpointRt>, DnsError> {
        let key = (host.to_ascii_lowercase(), port);
        let now = Instant::now();
        let known = self.lock().get_mut(&key).map(|e| {
            e.used = now;
            (e.endpoint.clone(), e.until)
        });
        if let Some((endpoint, until)) = &known
            && *until > now
        {
            return Ok(endpoint.clone());
        }
        let (resolver, name) = (self.resolver.clone(), key.0.clone());
        // A resolver's sockets belong to the runtime that it was made in.
        let answer = self.runtime.spawn(async move { resolver.lookup(&name).await }).await;
        let answer = match answer.unwrap_or_else(|_| Err(DnsError::Failed("the proxy is stopping".into()))) {
            Ok(answer) => answer,
            Err(e) => return known.map(|(endpoint, _)| endpoint).ok_or(e),
        };
        let address = SocketAddr::new(answer.addresses[0], port);
        let endpoint = match known {
            Some((endpoint, _)) if answer.addresses.contains(&endpoint.address.ip()) => endpoint,
            _ => Arc::new(EndpointRt::new(address, Some(key.0.as_str().into()), Endpoint::new(Address::Socket(address)))),
        };
        self.remember(key, Entry { endpoint: endpoint.clone(), until: now + answer.ttl, used: now });
        Ok(endpoint)
    }

    fn remember(&self, key: (String, u16), entry: Entry) {
        let mut hosts = self.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&key) {
            let now = entry.used;
            hosts.retain(|_, e| e.until > now);
            if hosts.len() >= MAX_HOSTS
                && let Some(oldest) = hosts.iter().min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone())
            {
                hosts.remove(&oldest);
                self.overflow.fetch_add(1, Ordering::Relaxed);
            }
        }
        hosts.insert(key, entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u16), Entry>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
