//! Listeners at run time: which filter chain a connection meets, and what is shared by all workers that accept for one.
mod accept;
mod build;
mod byte_copy;
mod connect_tunnel;
mod info;
mod tcp_proxy;

pub(crate) use accept::run as accept;
pub(crate) use build::build;
pub use tcp_proxy::TcpProxyRt;

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
use weir_config::model::{FilterChain, Listener, Name};
use weir_net::tls::{self, ClientHello};

/// One bound address under its listener's name. A changed listener keeps it; a changed address makes another.
pub struct ListenerSlot {
    pub name: Name,
    /// Unique in this process.
    pub id: u64,
    /// What was asked for: its port may be 0.
    pub wanted: SocketAddr,
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
    /// Where the chain ends in a TCP proxy.
    pub tcp: Option<TcpProxyRt>,
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

macro_rules! stats {
    ($($id:ident = $name:literal: $doc:literal,)*) => {
        /// What connections of a listener came to, under Envoy's names (`listener.<address>.…`).
        #[derive(Default)]
        pub struct ListenerStats { $(#[doc = $doc] pub $id: AtomicU64,)* }
        impl ListenerStats {
            /// A gauge, from the listener itself.
            pub const ACTIVE: (&str, &str) = ("downstream_cx_active", "connections open now");
            /// Names with their meaning, for the documentation.
            pub const DOCS: &[(&str, &str)] = &[$(($name, $doc),)*];
            /// Names with their values, in the order of the table.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$id.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

stats! {
    downstream_cx_total = "downstream_cx_total": "connections accepted",
    downstream_cx_destroy = "downstream_cx_destroy": "connections closed",
    downstream_cx_overflow = "downstream_cx_overflow": "connections refused because the listener had its most open",
    downstream_global_cx_overflow = "downstream_global_cx_overflow": "connections refused because the process had its most open",
    downstream_cx_overload_reject = "downstream_cx_overload_reject": "connections refused because memory runs out",
    downstream_pre_cx_timeout = "downstream_pre_cx_timeout": "connections that sent no PROXY protocol header or ClientHello in time",
    downstream_listener_filter_error = "downstream_listener_filter_error": "connections with a malformed PROXY protocol header or ClientHello",
    downstream_accept_error = "downstream_accept_error": "failures to accept, mostly for want of file descriptors",
    no_filter_chain_match = "no_filter_chain_match": "connections that no filter chain is for",
    proxy_proto_not_found_disallowed = "proxy_proto.not_found_disallowed": "connections without a PROXY protocol header that should begin with one",
    ssl_handshake = "ssl.handshake": "TLS handshakes that succeeded",
    ssl_connection_error = "ssl.connection_error": "TLS handshakes that failed for another reason than the client's certificate",
    ssl_fail_verify_no_cert = "ssl.fail_verify_no_cert": "TLS handshakes refused because the client showed no certificate",
    ssl_fail_verify_error = "ssl.fail_verify_error": "TLS handshakes refused because the client's certificate is not trusted, out of date or revoked",
    ssl_fail_verify_san = "ssl.fail_verify_san": "TLS handshakes refused because the client's certificate is for other names",
    ssl_fail_verify_cert_hash = "ssl.fail_verify_cert_hash": "TLS handshakes refused because the client's certificate is none of those pinned",
    ssl_handshake_timeout = "ssl.handshake_timeout": "TLS handshakes that did not finish in time",
    ssl_session_reused = "ssl.session_reused": "TLS handshakes that resumed a session",
    ssl_no_certificate = "ssl.no_certificate": "TLS connections whose client showed no certificate",
    tcp_downstream_cx_no_route = "tcp.downstream_cx_no_route": "connections to a TCP proxy whose cluster is missing or has no usable endpoint",
    tcp_upstream_cx_connect_fail = "tcp.upstream_cx_connect_fail": "TCP proxy connections whose upstream could not be reached",
    tcp_downstream_cx_rx_bytes_total = "tcp.downstream_cx_rx_bytes_total": "bytes from clients through TCP proxies",
    tcp_downstream_cx_tx_bytes_total = "tcp.downstream_cx_tx_bytes_total": "bytes to clients through TCP proxies",
    tcp_idle_timeout = "tcp.idle_timeout": "TCP proxy connections closed because no byte moved",
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
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
