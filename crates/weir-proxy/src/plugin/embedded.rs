//! Redis within the process, for laptops and tests: `redis://embedded/NAME`.
use super::metrics::EachMetric;
use crate::stats::Total;
use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
};
use tokio::io::DuplexStream;
use weir_net::redis::TargetError;
use weir_redis::{Options, Server};

const URL: &str = "redis://embedded";
const DEFAULT: &str = "default";
/// Instances of one process; each may use the memory that the setting allows.
const MAX_INSTANCES: usize = 16;
const MAX_NAME: usize = 63;

/// One server: the plugins of a namespace that give the same name share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    pub namespace: String,
    pub name: String,
}

/// The name in such a URL; `None` for any other text.
pub(super) fn name(text: &str) -> Option<Result<String, TargetError>> {
    let rest = text.strip_prefix(URL)?;
    let name = match rest.strip_prefix('/') {
        Some(name) => name.split('?').next().unwrap_or_default(),
        None if rest.is_empty() || rest.starts_with('?') => "",
        // Another host, or a port: a server in the network.
        None => return None,
    };
    let valid = name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    Some(match valid {
        true => Ok(if name.is_empty() { DEFAULT } else { name }.to_string()),
        false => Err(TargetError::new(format!("`{text}` has a name that is not of letters, digits, - and _"))),
    })
}

/// The servers of this process. They live as long as it does: a change of the configuration keeps their data, a restart does not.
#[derive(Default)]
pub(crate) struct Embedded {
    servers: Mutex<HashMap<Instance, Server>>,
    options: Options,
}

impl Embedded {
    pub fn new(max_memory: usize) -> Embedded {
        Embedded { servers: Mutex::default(), options: Options { max_memory, ..Options::default() } }
    }

    /// A connection in memory: nothing listens anywhere. Must be called within a tokio runtime.
    pub fn connect(&self, to: &Instance) -> io::Result<DuplexStream> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(to) {
            return Ok(server.connect());
        }
        if servers.len() >= MAX_INSTANCES {
            return Err(io::Error::other(format!("there are {MAX_INSTANCES} embedded Redis instances already")));
        }
        let server = Server::start(&to.name, self.options.clone())?;
        let connection = server.connect();
        servers.insert(to.clone(), server);
        Ok(connection)
    }

    pub fn metrics(&self, each: &mut EachMetric<'_>) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = servers.iter().map(|(i, server)| (format!("{}/{}", i.namespace, i.name), server)).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, server) in sorted {
            let (labels, stats) = ([("instance", name.as_str())], server.stats());
            let gauge = |n: u64| Total::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
            each("weir_embedded_redis_used_memory_bytes", &labels, gauge(stats.used_memory.load(Relaxed)));
            each("weir_embedded_redis_keys", &labels, gauge(stats.keys.load(Relaxed)));
            each("weir_embedded_redis_commands", &labels, Total::Counter(stats.commands.load(Relaxed)));
            each("weir_embedded_redis_expired_keys", &labels, Total::Counter(stats.expired_keys.load(Relaxed)));
            each("weir_embedded_redis_oom_errors", &labels, Total::Counter(stats.refused.load(Relaxed)));
            each("weir_embedded_redis_stopped_scripts", &labels, Total::Counter(stats.stopped_scripts.load(Relaxed)));
        }
    }
}
