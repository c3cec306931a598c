//! Listeners at run time: which filter chain a connection meets, and what is shared by all workers that accept for one.
mod accept;
mod build;
mod context;
mod info;
mod network_filters;
mod tcp_proxy;
mod udp_proxy;
mod weighted;

pub(crate) use accept::run as accept;
pub(crate) use build::{build, renew, secrets_of};
pub(crate) use context::ListenerContext;
pub(crate) use tcp_proxy::CompileLogs;
pub use tcp_proxy::TcpProxyRt;
pub(crate) use udp_proxy::run as receive;

use crate::{filter::rbac::RbacRt, stats::ListenerStats};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use weir_config::model::{FilterChain, Listener, Name, SocketProtocol};
use weir_net::tls::{self, ClientHello};

/// One bound address under its listener's name. A changed listener keeps it; a changed address makes another.
pub struct ListenerSlot {
    pub name: Name,
    /// Unique in this process.
    pub id: u64,
    /// What was asked for: its port may be 0.
    pub wanted: SocketAddr,
    pub protocol: SocketProtocol,
    /// What is bound.
    pub address: SocketAddr,
    pub current: ArcSwap<ListenerRt>,
    pub stats: ListenerStats,
    /// Connections open now, over all workers.
    pub open: AtomicU32,
    /// Connections that listeners of this process may have open together, and have.
    pub(crate) total: Arc<Total>,
}

/// The count of connections of the whole process.
pub(crate) struct Total {
    pub open: AtomicU32,
    pub limit: u32,
    /// Sockets of workers that accept.
    pub accepting: AtomicU32,
    /// Notified when the last connection ends, and when the last socket is closed.
    pub idle: tokio::sync::Notify,
}

/// A version of a listener.
pub struct ListenerRt {
    pub config: Arc<Listener>,
    chains: Vec<Arc<ChainRt>>,
    exact: HashMap<String, usize>,
    /// By what follows the `*`, with its dot.
    wildcard: HashMap<String, usize>,
    /// For TLS without a name that is known, and for plain text.
    any_tls: Option<usize>,
    any_plain: Option<usize>,
}

/// A version of a filter chain.
pub struct ChainRt {
    pub config: Arc<FilterChain>,
    /// Shared by versions of the chain that differ in nothing but certificates, names and filters.
    pub tls: Option<Arc<tls::Server>>,
    /// The filters that a connection passes first.
    pub rbac: Box<[RbacRt]>,
    /// Where the chain ends in a TCP proxy.
    pub tcp: Option<TcpProxyRt>,
    /// Where it ends in a UDP proxy.
    pub udp: Option<udp_proxy::UdpProxyRt>,
    pub drain_group: Arc<DrainGroup>,
}

/// What connections of a chain share as long as they need not leave: it ends when the chain is gone, leads elsewhere,
/// or asks for other TLS.
pub struct DrainGroup {
    pub id: u64,
    /// How long connections may go on once it has ended.
    pub drain_timeout: Duration,
    ended: AtomicBool,
}

impl DrainGroup {
    fn new(drain_timeout: Duration) -> Arc<DrainGroup> {
        Arc::new(DrainGroup { id: next_id(), drain_timeout, ended: AtomicBool::new(false) })
    }
    /// Before workers are told, so that a connection under way to the chain finds out.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Ids of slots, drain_groups and connections.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl ListenerRt {
    pub fn chains(&self) -> &[Arc<ChainRt>] {
        &self.chains
    }

    /// Whether the first bytes decide over the chain. Where there is but one, or only plain ones, they need not be looked at.
    fn needs_inspection(&self) -> bool {
        !self.exact.is_empty()
            || !self.wildcard.is_empty()
            || (self.any_tls.is_some() && self.any_plain.is_some() && self.any_tls != self.any_plain)
    }

    /// The chain of a connection that begins with `hello`, or in plain text: the exact name, the longest wildcard, any.
    fn find(&self, hello: Option<&ClientHello>) -> Option<&Arc<ChainRt>> {
        let Some(hello) = hello else { return Some(&self.chains[self.any_plain?]) };
        let by_name = hello.server_name.as_deref().and_then(|name| {
            let wild = || name.match_indices('.').find_map(|(dot, _)| self.wildcard.get(&name[dot..]));
            self.exact.get(name).or_else(wild).copied()
        });
        Some(&self.chains[by_name.or(self.any_tls)?])
    }

    /// The only chain there is, where nothing needs to be looked at.
    fn only(&self) -> Option<&Arc<ChainRt>> {
        self.any_plain.or(self.any_tls).map(|i| &self.chains[i])
    }

    fn index(config: Arc<Listener>, chains: Vec<Arc<ChainRt>>) -> ListenerRt {
        let mut rt = ListenerRt { config, chains, exact: HashMap::new(), wildcard: HashMap::new(), any_tls: None, any_plain: None };
        for (i, chain) in rt.chains.iter().enumerate() {
            // The first of equals wins.
            let any = chain.config.server_names.is_empty() || chain.config.server_names.iter().any(|n| n == "*");
            if any {
                rt.any_tls.get_or_insert(i);
                if chain.tls.is_none() {
                    rt.any_plain.get_or_insert(i);
                }
            }
            for name in &chain.config.server_names {
                match name.strip_prefix('*') {
                    Some("") => {}
                    Some(suffix) => drop(rt.wildcard.entry(suffix.to_ascii_lowercase()).or_insert(i)),
                    None => drop(rt.exact.entry(name.to_ascii_lowercase()).or_insert(i)),
                }
            }
        }
        // Where there is a chain that terminates TLS for any name, a plain-text chain is not asked for TLS.
        let terminates = |i: &usize| rt.chains[*i].tls.is_some();
        let any = |c: &Arc<ChainRt>| c.config.server_names.is_empty() || c.config.server_names.iter().any(|n| n == "*");
        if let Some(i) = (0..rt.chains.len()).find(|i| any(&rt.chains[*i]) && terminates(i)) {
            rt.any_tls = Some(i);
        }
        rt
    }
}

#[cfg(test)]
mod tests;
