//! What is counted of plugins: per plugin by each worker in a shard of its own, and what plugins define themselves.
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use weir_wasm::{MetricType, Status};

macro_rules! counters {
    ($($field:ident: $doc:literal,)*) => {
        /// One worker's counts for one plugin. Only that worker writes.
        #[derive(Debug, Default)]
        pub struct Shard { $(#[doc = $doc] pub $field: AtomicU64,)* }
        impl Shard {
            /// Names (`weir_wasm_…`) and what they mean.
            pub const DOCS: &[(&str, &str)] = &[$((concat!("weir_wasm_", stringify!($field)), $doc),)*];
            fn values(&self) -> [u64; Self::DOCS.len()] {
                [$(self.$field.load(Relaxed),)*]
            }
        }
    };
}

counters! {
    streams: "streams that the plugin has seen",
    calls: "callbacks run in the guest",
    call_nanoseconds: "wall time in them",
    traps: "instances that ended in a trap",
    deadlines: "traps among them because a callback took too long",
    memory_limits: "traps among them because the guest wanted more memory than its limit",
    failed_streams: "streams answered with 503 because the plugin could not run",
    skipped_streams: "streams that went on without the plugin, as failStrategy FAIL_OPEN says",
    starts: "instances started",
    start_nanoseconds: "wall time of these starts",
    start_failures: "instances that did not start",
    waited_streams: "streams that waited for an instance to start",
    rebuilds: "instances replaced because the guest asked for it",
    vm_reload_success: "instances started after a trap",
    vm_reload_failure: "instances that did not start after a trap",
    vm_reload_backoff: "times that an instance was asked for during the pause after one that could not start",
    instances: "instances alive now, spares and retiring ones included",
    memory_bytes: "linear memory of the instances now",
    log_dropped: "log records dropped because a callback wrote more than its limit",
    body_overflows: "bodies that outgrew the plugin's buffer limit",
    http_calls: "HTTP callouts",
    http_call_failures: "those without an answer",
    http_call_nanoseconds: "time to their answers",
    grpc_calls: "gRPC callouts and streams",
    grpc_failures: "those that ended with another status than 0",
    callout_overflows: "callouts and commands refused because too many were under way",
    redis_commands: "Redis commands",
    redis_failures: "those without a reply",
    redis_errors: "error replies",
    redis_nanoseconds: "time to the replies",
}

/// Of a plugin as a whole.
pub const SLOT_DOCS: &[(&str, &str)] = &[
    ("weir_wasm_unavailable", "1 while no version of the plugin serves: failStrategy decides"),
    ("weir_wasm_refused_versions", "versions that could not be fetched, compiled, started or configured, retries included"),
    ("weir_wasm_stream_overflows", "edits refused because the plugin would have added more to a stream than its limit"),
    ("weir_wasm_rollbacks", "versions that trapped soon after they took streams and gave way to the one before"),
];

/// Of all plugins together, under the names of Istio's agent.
pub const CODE_DOCS: &[(&str, &str)] = &[
    ("wasm_remote_fetch_count", "fetches of code, by `result`: success, download_failure, checksum_mismatched"),
    ("wasm_cache_lookup_count", "remote code looked for on disk, by `hit`: true, false"),
    ("weir_wasm_compiled", "modules compiled since their artifact was not on disk"),
    ("weir_wasm_artifacts_loaded", "modules loaded from compiled artifacts on disk"),
];

/// What fetching came to.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pub success: AtomicU64,
    pub download_failure: AtomicU64,
    pub checksum_mismatched: AtomicU64,
    pub disk_hit: AtomicU64,
    pub disk_miss: AtomicU64,
}

/// Adds to a counter that nobody else writes.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

pub(super) fn add_time(counter: &AtomicU64, time: Duration) {
    add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

/// All shards of a plugin.
#[derive(Debug, Default)]
pub(super) struct Shards(Mutex<Vec<Arc<Shard>>>);

impl Shards {
    pub fn add(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        shard
    }
    pub fn streams(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|shard| shard.streams.load(Relaxed)).sum()
    }
    pub fn each(&self, each: &mut dyn FnMut(&'static str, u64)) {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = [0u64; Shard::DOCS.len()];
        for shard in shards.iter() {
            for (sum, value) in sums.iter_mut().zip(shard.values()) {
                *sum = sum.wrapping_add(value);
            }
        }
        for ((name, _), sum) in Shard::DOCS.iter().zip(sums) {
            each(name, sum);
        }
    }
}

/// Metrics that plugins define, by kind and name; shown as `wasmcustom.NAME`. Kept as long as the process, so that a new
/// generation counts on.
#[derive(Debug, Default)]
pub struct Custom(Mutex<HashMap<(Kind, String), Arc<Value>>>);

/// As [`MetricType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Of one metric, over all workers.
#[derive(Debug, Default)]
pub struct Value {
    /// Of a histogram: the sum of what was recorded.
    pub value: AtomicU64,
    /// Of a histogram: how many were recorded.
    pub count: AtomicU64,
}

/// Metrics that all plugins together may define.
const MAX_METRICS: usize = 10_000;
const MAX_NAME: usize = 1024;

impl Custom {
    pub(super) fn define(&self, kind: MetricType, name: &str) -> Result<Arc<Value>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Kind::from(kind), name.to_string());
        if let Some(value) = all.get(&key) {
            return Ok(value.clone());
        }
        if all.len() >= MAX_METRICS || name.len() > MAX_NAME {
            return Err(Status::InternalFailure);
        }
        Ok(all.entry(key).or_default().clone())
    }

    /// In the order of names.
    pub fn each(&self, each: &mut dyn FnMut(&str, Kind, &Value)) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = all.iter().collect();
        sorted.sort_by(|a, b| (&a.0.1, a.0.0).cmp(&(&b.0.1, b.0.0)));
        sorted.into_iter().for_each(|((kind, name), value)| each(name, *kind, value));
    }
}

impl From<MetricType> for Kind {
    fn from(kind: MetricType) -> Kind {
        match kind {
            MetricType::Counter => Kind::Counter,
            MetricType::Gauge => Kind::Gauge,
            MetricType::Histogram => Kind::Histogram,
        }
    }
}

/// The metrics that one instance has defined; ids are places in the list.
#[derive(Debug, Default)]
pub(super) struct Defined(Vec<(MetricType, String, Arc<Value>)>);

impl Defined {
    pub fn define(&mut self, all: &Custom, kind: MetricType, name: &str) -> Result<u32, Status> {
        let known = self.0.iter().position(|(k, n, _)| *k == kind && n == name);
        let place = match known {
            Some(place) => place,
            None => {
                self.0.push((kind, name.to_string(), all.define(kind, name)?));
                self.0.len() - 1
            }
        };
        u32::try_from(place).map_err(|_| Status::InternalFailure)
    }

    fn find(&self, kind: MetricType, id: u32) -> Option<&Value> {
        self.0.get(usize::try_from(id).ok()?).filter(|(k, ..)| *k == kind).map(|(.., v)| &**v)
    }

    pub fn increment(&self, kind: MetricType, id: u32, delta: i64) -> Status {
        let Some(found) = self.find(kind, id) else { return Status::NotFound };
        // A gauge may go below nought for a moment; two's complement adds up.
        found.value.fetch_add(delta.cast_unsigned(), Relaxed);
        Status::Ok
    }

    pub fn record(&self, kind: MetricType, id: u32, value: u64) -> Status {
        let Some(found) = self.find(kind, id) else { return Status::NotFound };
        match kind {
            MetricType::Gauge => found.value.store(value, Relaxed),
            MetricType::Counter => drop(found.value.fetch_add(value, Relaxed)),
            MetricType::Histogram => {
                found.value.fetch_add(value, Relaxed);
                found.count.fetch_add(1, Relaxed);
            }
        }
        Status::Ok
    }

    pub fn get(&self, kind: MetricType, id: u32) -> Option<u64> {
        self.find(kind, id).map(|v| v.value.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_metric_for_all_instances() {
        let all = Custom::default();
        let (mut a, mut b) = (Defined::default(), Defined::default());
        let x = a.define(&all, MetricType::Counter, "x").unwrap();
        assert_eq!(a.define(&all, MetricType::Counter, "x").unwrap(), x);
        let gauge = a.define(&all, MetricType::Gauge, "x").unwrap();
        assert_ne!(gauge, x);
        let of_b = b.define(&all, MetricType::Counter, "x").unwrap();
        a.increment(MetricType::Counter, x, 2);
        b.record(MetricType::Counter, of_b, 3);
        assert_eq!(a.get(MetricType::Counter, x), Some(5));
        a.record(MetricType::Gauge, gauge, 7);
        a.increment(MetricType::Gauge, gauge, -2);
        assert_eq!(a.get(MetricType::Gauge, gauge), Some(5));
        assert_eq!(a.increment(MetricType::Counter, gauge, 1), Status::NotFound);
        assert_eq!(a.get(MetricType::Counter, 9), None);
    }

    #[test]
    fn shards_add_up() {
        let shards = Shards::default();
        let (a, b) = (shards.add(), shards.add());
        add(&a.calls, 2);
        add(&b.calls, 3);
        add_time(&b.call_nanoseconds, Duration::from_micros(1));
        let mut seen = HashMap::new();
        shards.each(&mut |name, value| {
            seen.insert(name, value);
        });
        assert_eq!((seen["weir_wasm_calls"], seen["weir_wasm_call_nanoseconds"], seen["weir_wasm_traps"]), (5, 1000, 0));
    }
}
