//! The data plane: listeners, the HTTP connection manager, routes, clusters, plugins, statistics and the admin listener.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod app_log;
mod apply;
pub mod balance;
pub mod breaker;
mod budget;
pub mod cluster;
pub mod conn;
mod core;
pub mod detail;
pub mod drain;
pub mod filter;
pub mod hcm;
pub mod head_access;
pub mod info;
pub mod listener;
pub mod outlier;
pub mod overload;
pub mod plugin;
mod proxy;
pub mod reply;
pub mod retry;
pub mod route;
pub mod secrets;
pub mod session;
pub mod snapshot;
pub mod stats;
pub mod stream;
pub mod upstream;
pub mod verdict;
pub mod worker;
mod worker_thread;

pub use proxy::{Proxy, Shared, State};

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};
use weir_config::{
    delta::Verdict,
    diagnostic::Diagnostic,
    model::{CidrRange, Name},
};

/// How a proxy runs; fixed while it does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that serve; each has its own listeners, pools and plugin instances. At least 1.
    pub workers: usize,
    /// `None` for no admin listener. Port 0 takes any.
    pub admin: Option<SocketAddr>,
    /// A listener for health checks and metrics; `None` for none. Port 0 takes any.
    pub status: Option<SocketAddr>,
    /// Host names that the admin listener accepts in addition to addresses of this machine; `*` accepts all.
    pub admin_allowed_hosts: Vec<String>,
    /// Show passwords, tokens and keys on the admin listener.
    pub admin_show_secrets: bool,
    /// Where compiled plugins are kept; `None` keeps none.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of fetched code there that nobody uses.
    pub max_plugin_cache: u64,
    /// How the images of plugins are pulled.
    pub registry: plugin::code::RegistrySettings,
    /// At shutdown, new connections are still accepted for this long, and closed after their requests.
    pub drain_time: Duration,
    /// After that, streams under way are waited for at most this long, then their connections are closed.
    pub shutdown_timeout: Duration,
    /// Name servers to ask; empty asks those of `/etc/resolv.conf`.
    pub dns_resolvers: Vec<SocketAddr>,
    /// Link-local, metadata and other protected addresses that plugins, clients and URLs may lead to all the same.
    pub allowed_upstream_addresses: Vec<CidrRange>,
    /// Client connections open at once, over all listeners and workers; `None` for a share of the file descriptors.
    pub max_connections: Option<u32>,
    /// Connections to upstreams open at once, over all clusters and workers; `None` likewise.
    pub max_upstream_connections: Option<u32>,
    /// Mirrored requests of one worker that wait for a response, and the bytes of their bodies.
    pub max_mirrored_requests: u32,
    pub max_mirrored_bytes: u64,
    /// Hosts outside of the configuration that one worker keeps connections to for plugins.
    pub max_callout_hosts: u32,
    /// Bytes that each embedded Redis of plugins may hold.
    pub embedded_redis_max_memory: usize,
    /// Bytes of memory of the process near which requests and connections are refused; `None` for its cgroup's limit, 0 for none.
    pub max_memory: Option<u64>,
    /// For the PROXY protocol header and the ClientHello (Envoy's `listener_filters_timeout`).
    pub listener_filters_timeout: Duration,
    /// For a TLS handshake (Envoy's `transport_socket_connect_timeout`).
    pub handshake_timeout: Duration,
    /// Of this process, for plugins (`node.metadata.LABELS`).
    pub labels: BTreeMap<String, String>,
    /// What the admin listener shows under `/objects`; `None` where there are none.
    pub objects: Option<Objects>,
    /// Further statistics, of what the configuration comes from.
    pub control_stats: Option<ControlStats>,
    /// What the configuration waits for, as `/ready` says it.
    pub control_state: Option<ControlState>,
}

/// Whether the source of the configuration was read, and is followed.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// What was not read yet: nothing is served before that.
    pub waiting: Vec<Waiting>,
    /// Why the configuration may be old, and for how long nothing was heard of its source.
    pub stale: Option<(String, Duration)>,
}

/// Parts of the configuration that were not read yet, for one reason.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub resources: Vec<String>,
    pub reason: &'static str,
    pub message: String,
    pub since: Duration,
}

/// Reads the state of the source. The proxy knows nothing else of it.
#[derive(Clone)]
pub struct ControlState(pub Arc<dyn Fn() -> SourceState + Send + Sync>);

impl std::fmt::Debug for ControlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlState")
    }
}

/// A statistic of the control plane.
pub struct ControlStat {
    pub name: &'static str,
    pub counter: bool,
    /// A label with its value, where there are several of the name.
    pub label: Option<(&'static str, String)>,
    pub value: u64,
}

/// Reads the statistics of the control plane. The proxy knows nothing else of it.
#[derive(Clone)]
pub struct ControlStats(pub Arc<dyn Fn() -> Vec<ControlStat> + Send + Sync>);

impl std::fmt::Debug for ControlStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlStats")
    }
}

/// Lists the objects that the configuration is made of, with their status, as JSON. The proxy knows nothing else of them.
#[derive(Clone)]
pub struct Objects(pub Arc<ListObjects>);

/// Lists the objects whose `Kind/namespace/name` is wanted; see [`Objects`].
pub type ListObjects = dyn Fn(&dyn Fn(&str) -> bool) -> serde_json::Value + Send + Sync;

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 15000))),
            status: None,
            admin_allowed_hosts: Vec::new(),
            admin_show_secrets: false,
            cache_dir: None,
            max_plugin_cache: plugin::MAX_FETCHED_BYTES,
            registry: Default::default(),
            drain_time: Duration::from_secs(5),
            shutdown_timeout: Duration::from_secs(20),
            dns_resolvers: Vec::new(),
            allowed_upstream_addresses: Vec::new(),
            max_connections: None,
            max_upstream_connections: None,
            max_mirrored_requests: 1024,
            max_mirrored_bytes: 32 << 20,
            max_callout_hosts: 256,
            embedded_redis_max_memory: weir_redis::Options::default().max_memory,
            max_memory: None,
            listener_filters_timeout: Duration::from_secs(15),
            handshake_timeout: Duration::from_secs(15),
            labels: BTreeMap::new(),
            objects: None,
            control_stats: None,
            control_state: None,
        }
    }
}

/// What came of one change of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The revision of the delta. Deltas that were applied together have the last one's.
    pub version: u64,
    /// What stands of the whole configuration: a resource without a verdict is live.
    pub verdicts: Vec<Arc<Verdict>>,
}

impl Report {
    /// The findings of all verdicts, each once.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut seen = HashSet::new();
        let all = self.verdicts.iter().flat_map(|v| &v.findings);
        let line = |d: &Diagnostic| d.place.as_ref().map(|p| p.line);
        all.filter(|d| seen.insert((d.reason, &d.message, &d.object, line(d)))).cloned().collect()
    }
}

/// The configuration in use, in figures.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The revision that was applied last; 0 before the first.
    pub version: u64,
    pub made_at: SystemTime,
    pub routes: usize,
    pub clusters: usize,
    pub plugins: usize,
}

impl Default for Summary {
    fn default() -> Self {
        Summary { version: 0, made_at: SystemTime::now(), routes: 0, clusters: 0, plugins: 0 }
    }
}

/// A listener that accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundListener {
    pub name: Name,
    /// With the port that was given where 0 was asked for.
    pub address: SocketAddr,
}
