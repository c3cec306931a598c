//! The shards of a plugin's statistics, and the metrics that plugins define.
use crate::stats::{Declared, PluginRedisStats, PluginStats, Table, Total};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use weir_config::model::{Name, WasmPlugin};
use weir_wasm::{Compiler, MetricType, Status};

/// Takes one metric: name, labels, kind, value.
pub type EachMetric<'a> = dyn FnMut(&str, &[(&'static str, &str)], Total) + 'a;

/// Results of fetches and cache lookups.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    pub success: AtomicU64,
    pub download_failure: AtomicU64,
    pub checksum_mismatched: AtomicU64,
    pub disk_hit: AtomicU64,
    pub disk_miss: AtomicU64,
}

/// Compilations, and the time they took, by compiler.
#[derive(Debug, Default)]
pub(super) struct Compilations([(AtomicU64, AtomicU64); 2]);

impl Compilations {
    pub fn add(&self, compiler: Compiler, took: Duration) {
        let (count, nanoseconds) = &self.0[compiler as usize];
        count.fetch_add(1, Relaxed);
        nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Compiler, compilations, nanoseconds.
    pub fn each(&self) -> impl Iterator<Item = (Compiler, u64, u64)> {
        let of = |compiler: Compiler| &self.0[compiler as usize];
        Compiler::ALL.into_iter().map(move |c| (c, of(c).0.load(Relaxed), of(c).1.load(Relaxed)))
    }
}

/// All shards of a plugin.
#[derive(Default)]
pub(super) struct Shards {
    own: Mutex<Vec<Arc<PluginStats>>>,
    /// By upstream, then by worker.
    redis: Mutex<BTreeMap<String, BTreeMap<usize, Arc<PluginRedisStats>>>>,
}

/// Redis upstreams of one plugin that are counted apart; the rest is one.
const MAX_UPSTREAMS: usize = 32;
const OTHERS: &str = "others";

impl Shards {
    pub fn add(&self) -> Arc<PluginStats> {
        let shard = Arc::new(PluginStats::default());
        self.own.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        shard
    }
    /// Of the instances of all workers now: how many, and their memory.
    pub fn instances(&self) -> (i64, i64) {
        let shards = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        shards.iter().fold((0, 0), |(n, bytes), shard| (n + shard.instances.get(), bytes + shard.memory_bytes.get()))
    }
    /// The shard of one worker for one Redis upstream.
    pub fn redis(&self, worker: usize, upstream: &str) -> Arc<PluginRedisStats> {
        let mut all = self.redis.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if all.len() < MAX_UPSTREAMS || all.contains_key(upstream) { upstream } else { OTHERS };
        all.entry(name.into()).or_default().entry(worker).or_default().clone()
    }
    pub fn each_redis(&self, each: &mut dyn FnMut(&str, &'static Declared, Total)) {
        for (upstream, workers) in &*self.redis.lock().unwrap_or_else(PoisonError::into_inner) {
            let shards: Vec<&PluginRedisStats> = workers.values().map(|s| &**s).collect();
            PluginRedisStats::sum(&shards, &mut |declared, total| each(upstream, declared, total));
        }
    }
    pub fn each(&self, each: &mut dyn FnMut(&'static Declared, Total)) {
        let shards = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let shards: Vec<&PluginStats> = shards.iter().map(|s| &**s).collect();
        PluginStats::sum(&shards, each);
    }
}

/// Metrics that plugins define, by kind and name; shown as `wasmcustom.NAME`. Kept as long as the process, so that a new
/// generation counts on.
#[derive(Debug, Default)]
pub struct Custom(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    values: HashMap<(MetricType, String), Arc<Value>>,
    /// By plugin: how many it was the first to define, and how many it was refused.
    by_plugin: HashMap<Name, (usize, u64)>,
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
const MAX_METRICS: usize = 20_000;
const MAX_NAME: usize = 1024;

impl Custom {
    pub(super) fn define(&self, plugin: &WasmPlugin, kind: MetricType, name: &str) -> Result<Arc<Value>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let All { values, by_plugin } = &mut *all;
        let (defined, refused) = by_plugin.entry(plugin.name.clone()).or_default();
        if name.len() > MAX_NAME {
            *refused += 1;
            return Err(Status::InternalFailure);
        }
        let key = (kind, name.to_string());
        if let Some(value) = values.get(&key) {
            return Ok(value.clone());
        }
        if values.len() >= MAX_METRICS || *defined >= plugin.limits.max_metrics as usize {
            *refused += 1;
            return Err(Status::InternalFailure);
        }
        *defined += 1;
        Ok(values.entry(key).or_default().clone())
    }

    /// Metrics that a plugin was refused.
    pub(super) fn refused(&self, plugin: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_plugin.get(plugin).map_or(0, |(_, refused)| *refused)
    }

    /// In the order of names.
    pub fn each(&self, each: &mut dyn FnMut(&str, MetricType, &Value)) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = all.values.iter().collect();
        sorted.sort_by(|a, b| (&a.0.1, a.0.0).cmp(&(&b.0.1, b.0.0)));
        sorted.into_iter().for_each(|((kind, name), value)| each(name, *kind, value));
    }
}

/// The metrics that one instance has defined; ids are places in the list.
#[derive(Debug, Default)]
pub(super) struct Defined(Vec<(MetricType, String, Arc<Value>)>);

impl Defined {
    pub fn define(&mut self, all: &Custom, plugin: &WasmPlugin, kind: MetricType, name: &str) -> Result<u32, Status> {
        let known = self.0.iter().position(|(k, n, _)| *k == kind && n == name);
        let place = match known {
            Some(place) => place,
            None => {
                let value = all.define(plugin, kind, name)?;
                if self.0.len() >= MAX_METRICS {
                    return Err(Status::InternalFailure);
                }
                self.0.push((kind, name.to_string(), value));
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
    use weir_config::model::{Origin, WasmCode};

    #[test]
    fn one_metric_for_all_instances() {
        let all = Custom::default();
        let code = WasmCode::File { path: "/p".into(), sha256: String::new() };
        let mut p = WasmPlugin::new("p".into(), code, Origin::named("p"));
        p.limits.max_metrics = 3;
        let (mut a, mut b) = (Defined::default(), Defined::default());
        let x = a.define(&all, &p, MetricType::Counter, "x").unwrap();
        assert_eq!(a.define(&all, &p, MetricType::Counter, "x").unwrap(), x);
        let gauge = a.define(&all, &p, MetricType::Gauge, "x").unwrap();
        assert_ne!(gauge, x);
        let of_b = b.define(&all, &p, MetricType::Counter, "x").unwrap();
        // A plugin's new instances do not bring new room, and what another plugin has defined costs nothing.
        b.define(&all, &p, MetricType::Counter, "y").unwrap();
        let long = "z".repeat(MAX_NAME + 1);
        for refused in ["z", &long] {
            assert_eq!(Defined::default().define(&all, &p, MetricType::Counter, refused), Err(Status::InternalFailure));
        }
        let other = WasmPlugin { name: "other".into(), ..p.clone() };
        assert!(Defined::default().define(&all, &other, MetricType::Counter, "z").is_ok());
        assert!(Defined::default().define(&all, &p, MetricType::Counter, "z").is_ok());
        assert_eq!((all.refused("p"), all.refused("other")), (2, 0));
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
        a.calls.add(2);
        b.calls.add(3);
        b.call_nanoseconds.add_time(std::time::Duration::from_micros(1));
        a.instances.inc();
        let mut seen = HashMap::new();
        shards.each(&mut |declared, total| {
            let value = match total {
                Total::Counter(n) => n as i64,
                Total::Gauge(n) => n,
                Total::Histogram(h) => h.count as i64,
                _ => panic!("{}", declared.name),
            };
            seen.insert(declared.name, value);
        });
        assert_eq!((seen["calls"], seen["call_nanoseconds"], seen["traps"], seen["instances"]), (5, 1000, 0, 1));
    }
}
