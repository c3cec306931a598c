//! Circuit breakers: the limits of one cluster over all workers, and the limit on connections of all clusters together.
use crate::stats::SharedCounter;
use std::sync::{
    Arc, OnceLock,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};
use tokio::sync::{Notify, futures::Notified};
use weir_config::model::CircuitBreakers;

/// One cluster may have at most this many times the connections that are left in the process, so that others get some.
const SHARE: u32 = 3;

/// Connections to upstreams of the whole process.
pub struct UpstreamConnections {
    pub open: AtomicU32,
    pub limit: u32,
    /// Connections that were not made at once because of the limit.
    pub overflow: SharedCounter,
    waiting: AtomicU32,
    freed: Notify,
}

impl UpstreamConnections {
    pub fn new(limit: u32) -> UpstreamConnections {
        UpstreamConnections {
            open: AtomicU32::new(0),
            limit,
            overflow: SharedCounter::default(),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
        }
    }

    /// Takes one more for a cluster that has `own`, while enough are left for others.
    fn enter(&self, own: u32) -> bool {
        let open = self.open.fetch_add(1, SeqCst);
        let left = self.limit.saturating_sub(open);
        if own < left.saturating_mul(SHARE) {
            return true;
        }
        self.open.fetch_sub(1, SeqCst);
        false
    }

    fn leave(&self) {
        self.open.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            // All of them: the place may be one that the first may not take, because its cluster has its share.
            self.freed.notify_waiters();
        }
    }

    /// Begins to wait for a place.
    pub fn wait(&self) -> WaitingForProcess<'_> {
        self.waiting.fetch_add(1, SeqCst);
        WaitingForProcess(self)
    }
}

/// One who waits until a connection somewhere in the process is closed.
pub struct WaitingForProcess<'a>(&'a UpstreamConnections);

impl WaitingForProcess<'_> {
    /// Ready when a connection has been closed since the call: to be called before a place is asked for, so that none is missed.
    pub fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for WaitingForProcess<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Default for UpstreamConnections {
    fn default() -> UpstreamConnections {
        UpstreamConnections::new(u32::MAX)
    }
}

/// The limit that prevents a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Cluster,
    Process,
}

/// What is counted, apart from connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Requests that wait for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way or waiting.
    Retries,
}

/// One taken place; given back when it is dropped.
#[must_use]
#[derive(Default)]
pub struct Permit(Option<(Arc<Breakers>, Resource)>);

/// The place of one connection; given back when it is dropped.
#[must_use]
pub struct Place(Arc<Breakers>);

/// What circuit breakers count, over all workers.
#[derive(Default)]
pub struct Breakers {
    pub connections: AtomicU32,
    pub pending: AtomicU32,
    pub requests: AtomicU32,
    pub retries: AtomicU32,
    /// Requests that wait for one of the connections to be closed, and how they hear of it.
    waiting: AtomicU32,
    /// Made when somebody waits: most clusters never reach their limit.
    freed: OnceLock<Box<Notify>>,
    /// Connections of all clusters.
    all: Arc<UpstreamConnections>,
}

impl Breakers {
    pub fn new(all: Arc<UpstreamConnections>) -> Breakers {
        Breakers { all, ..Breakers::default() }
    }

    fn gauge(&self, of: Resource) -> &AtomicU32 {
        match of {
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }

    /// Takes the place of a new connection.
    pub fn connect(self: &Arc<Self>, limits: &CircuitBreakers) -> Result<Place, Full> {
        let own = self.connections.fetch_add(1, SeqCst);
        let full = match () {
            () if own >= limits.max_connections => Full::Cluster,
            () if !self.all.enter(own) => Full::Process,
            () => return Ok(Place(self.clone())),
        };
        self.connections.fetch_sub(1, SeqCst);
        Err(full)
    }

    /// Takes a place for anything but a connection; `None` if all are taken: 503 with the flag `UO`, or no retry. Without a limit
    /// nothing is counted, so that workers do not fight for one cache line.
    pub fn take(self: &Arc<Self>, of: Resource, limits: &CircuitBreakers) -> Option<Permit> {
        let limit = match (of, &limits.retry_budget) {
            (Resource::Pending, _) => limits.max_pending_requests,
            (Resource::Requests, _) => limits.max_requests,
            (Resource::Retries, None) => limits.max_retries,
            (Resource::Retries, Some(budget)) => {
                let active = self.requests.load(Relaxed).saturating_add(self.pending.load(Relaxed));
                ((f64::from(active) * budget.budget_percent / 100.0) as u32).max(budget.min_retry_concurrency)
            }
        };
        let counts_for_budget = limits.retry_budget.is_some() && matches!(of, Resource::Requests | Resource::Pending);
        if limit == u32::MAX && !counts_for_budget {
            return Some(Permit(None));
        }
        let gauge = self.gauge(of);
        if gauge.fetch_add(1, SeqCst) >= limit {
            gauge.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Permit(Some((self.clone(), of))))
    }

    /// Begins to wait for a place among the connections. To be asked for one again afterwards, and after each
    /// [`Waiting::freed`].
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, SeqCst);
        Waiting(self.clone())
    }

    /// Whether some worker waits for a place among the connections.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    fn freed(&self) -> &Notify {
        self.freed.get_or_init(Box::default)
    }

    fn wake(&self) {
        if self.is_waited_for() {
            self.freed().notify_one();
        }
    }
}

/// One who waits for a connection to be closed by whichever worker has it.
pub struct Waiting(Arc<Breakers>);

impl Waiting {
    /// A place may be free.
    pub async fn freed(&self) {
        self.0.freed().notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
        // The notice that woke this one may have been another's.
        self.0.wake();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((breakers, of)) = &self.0 {
            breakers.gauge(*of).fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, SeqCst);
        self.0.all.leave();
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_config::model::RetryBudget;

    #[test]
    fn places_are_limited_and_come_back() {
        let (b, limits) = (Arc::new(Breakers::default()), CircuitBreakers { max_requests: 2, ..CircuitBreakers::default() });
        let take = || b.take(Resource::Requests, &limits);
        let first = take();
        let second = take();
        assert!(first.is_some() && second.is_some() && take().is_none() && take().is_none());
        drop(first);
        assert!(take().is_some());
        let zero = CircuitBreakers { max_retries: 0, ..CircuitBreakers::default() };
        assert!(b.take(Resource::Retries, &zero).is_none());
        assert!(b.take(Resource::Pending, &zero).is_some());
        drop(second);
        assert_eq!(b.requests.load(Relaxed), 0);
    }

    #[test]
    fn a_budget_follows_the_active_requests() {
        let b = Arc::new(Breakers::default());
        let limits = CircuitBreakers {
            retry_budget: Some(Box::new(RetryBudget { budget_percent: 20.0, min_retry_concurrency: 1 })),
            ..CircuitBreakers::default()
        };
        let retry = || b.take(Resource::Retries, &limits);
        let one = retry();
        assert!(one.is_some() && retry().is_none());
        let requests: Vec<_> = (0..10).map(|_| b.take(Resource::Requests, &limits)).collect();
        let two = retry();
        assert!(two.is_some() && retry().is_none());
        drop(requests);
    }

    #[test]
    fn a_cluster_leaves_connections_for_others() {
        let all = Arc::new(UpstreamConnections::new(100));
        let unlimited = CircuitBreakers::default();
        let cluster = || Arc::new(Breakers::new(all.clone()));
        let fill = |b: &Arc<Breakers>| std::iter::from_fn(|| b.connect(&unlimited).ok()).take(1000).collect::<Vec<_>>();
        let clusters = [cluster(), cluster(), cluster()];
        let held: Vec<_> = clusters.iter().map(fill).collect();
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [75, 19, 5]);
        assert_eq!(clusters[0].connect(&unlimited).err(), Some(Full::Process));
        // The cluster's own limit comes first.
        let own = CircuitBreakers { max_connections: 19, ..CircuitBreakers::default() };
        assert_eq!(clusters[1].connect(&own).err(), Some(Full::Cluster));
        drop(held);
        assert_eq!((all.open.load(Relaxed), clusters[0].connections.load(Relaxed)), (0, 0));
        // Even a limit of one allows one.
        let one = Arc::new(Breakers::new(Arc::new(UpstreamConnections::new(1))));
        let first = one.connect(&unlimited);
        assert!(first.is_ok() && one.connect(&unlimited).is_err());
    }

    /// A connection that is closed between the look for a place and the wait for one, with a waiter that may not have it.
    #[tokio::test]
    async fn every_waiter_hears_of_a_freed_connection() {
        let all = Arc::new(UpstreamConnections::new(4));
        let unlimited = CircuitBreakers::default();
        let (big, small) = (Arc::new(Breakers::new(all.clone())), Arc::new(Breakers::new(all.clone())));
        let mut held: Vec<_> = std::iter::from_fn(|| big.connect(&unlimited).ok()).collect();
        held.extend(small.connect(&unlimited));
        assert_eq!((held.len(), all.open.load(Relaxed)), (4, 4));
        let (first, second) = (all.wait(), all.wait());
        let (first, second) = (first.freed(), second.freed());
        assert!(big.connect(&unlimited).is_err() && small.connect(&unlimited).is_err());
        drop(held.pop());
        first.await;
        assert_eq!(big.connect(&unlimited).err(), Some(Full::Process));
        second.await;
        assert!(small.connect(&unlimited).is_ok());
    }

    #[test]
    fn many_threads_never_exceed_the_limit() {
        let (b, limits) = (Arc::new(Breakers::default()), CircuitBreakers { max_requests: 3, ..CircuitBreakers::default() });
        let (inside, worst) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..5_000 {
                        if let Some(permit) = b.take(Resource::Requests, &limits) {
                            worst.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
                            inside.fetch_sub(1, Relaxed);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(worst.load(Relaxed) <= 3 && b.requests.load(Relaxed) == 0);
    }
}
