//! Where shards are found again.
use super::{ClusterStats, Declared, HttpStats, Table, Total};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weir_config::model::Name;

/// All statistics that have a name and a shard per worker.
pub struct Registry {
    pub http: Scopes<HttpStats>,
    pub clusters: Scopes<ClusterStats>,
}

impl Registry {
    /// For workers 0 to `workers - 1`; one more shard is the main thread's.
    pub fn new(workers: usize) -> Registry {
        Registry { http: Scopes::new(workers), clusters: Scopes::new(workers) }
    }
    /// The shard of one worker for one connection manager. To be kept, not looked up per request.
    pub fn http(&self, stat_prefix: &Name, worker: usize) -> Arc<HttpStats> {
        self.http.shard(stat_prefix, worker)
    }
    /// The shard of one worker for one cluster.
    pub fn cluster(&self, name: &Name, worker: usize) -> Arc<ClusterStats> {
        self.clusters.shard(name, worker)
    }
}

/// The names of one table with their shards.
pub struct Scopes<T> {
    shards: usize,
    names: Mutex<BTreeMap<Name, Vec<Option<Arc<T>>>>>,
}

impl<T: Table> Scopes<T> {
    fn new(workers: usize) -> Self {
        Scopes { shards: workers + 1, names: Mutex::default() }
    }

    /// The same one each time, so that a worker's count goes on. Workers beyond the number share the last shard.
    pub fn shard(&self, name: &Name, worker: usize) -> Arc<T> {
        let mut names = self.lock();
        let shards = names.entry(name.clone()).or_insert_with(|| vec![None; self.shards]);
        shards[worker.min(self.shards - 1)].get_or_insert_with(Arc::default).clone()
    }

    /// Forgets a name that is not in use any more.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Every statistic of every name.
    pub fn sum(&self, each: &mut dyn FnMut(&Name, &'static Declared, Total)) {
        // Copied, so that no worker waits for a reader.
        let names: Vec<(Name, Vec<Arc<T>>)> = self.lock().iter().map(|(n, s)| (n.clone(), s.iter().flatten().cloned().collect())).collect();
        for (name, shards) in names {
            let shards: Vec<&T> = shards.iter().map(|s| &**s).collect();
            T::sum(&shards, &mut |declared, total| each(&name, declared, total));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Vec<Option<Arc<T>>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ListenerStats, PluginStats},
        *,
    };

    #[test]
    fn workers_count_apart_and_are_read_together() {
        let r = Registry::new(2);
        let name: Name = "a".into();
        r.cluster(&name, 0).upstream_rq_total.add(2);
        r.cluster(&name, 1).upstream_rq_total.inc();
        r.cluster(&name, 0).upstream_rq_total.inc();
        r.cluster(&name, 0).upstream_rq_active.add(3);
        r.cluster(&name, 1).upstream_rq_active.dec();
        r.cluster(&name, 1).upstream_rq_time.record(2_000_000);
        let mut seen = Vec::new();
        r.clusters.sum(&mut |name, declared, total| match total {
            Total::Counter(n) if n > 0 => seen.push((name.to_string(), declared.name, n as i64)),
            Total::Gauge(n) if n != 0 => seen.push((name.to_string(), declared.name, n)),
            Total::Histogram(h) if h.count > 0 => seen.push((name.to_string(), declared.name, h.sum_ms as i64)),
            _ => {}
        });
        assert_eq!(
            seen,
            [("a".into(), "upstream_rq_total", 4), ("a".into(), "upstream_rq_active", 2), ("a".into(), "upstream_rq_time", 2)]
        );
        r.clusters.remove("a");
        r.clusters.sum(&mut |_, _, _| panic!("it is gone"));
    }

    #[test]
    fn names_stand_once() {
        for declared in [HttpStats::DECLARED, ClusterStats::DECLARED, ListenerStats::DECLARED, PluginStats::DECLARED] {
            let names: std::collections::HashSet<_> = declared.iter().map(|d| d.name).collect();
            assert_eq!(names.len(), declared.len());
        }
    }
}
