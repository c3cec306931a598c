//! Circuit breakers: what a cluster may have at once, over all workers.
use crate::cluster::Breakers;
use std::sync::{
    Arc,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};
use weir_config::model::CircuitBreakers;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections to the cluster's endpoints.
    Connections,
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

impl Breakers {
    fn gauge(&self, of: Resource) -> &AtomicU32 {
        match of {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }

    /// Takes a place; `None` if all are taken: 503 with the flag `UO`, or no retry. Without a limit nothing is counted,
    /// so that workers do not fight for one cache line.
    pub fn take(self: &Arc<Self>, of: Resource, limits: &CircuitBreakers) -> Option<Permit> {
        let limit = match (of, &limits.retry_budget) {
            (Resource::Connections, _) => limits.max_connections,
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

    fn wake(&self) {
        if self.is_waited_for() {
            self.freed.notify_one();
        }
    }
}

/// One who waits for a connection to be closed by whichever worker has it.
pub struct Waiting(Arc<Breakers>);

impl Waiting {
    /// A place may be free.
    pub async fn freed(&self) {
        self.0.freed.notified().await;
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
            breakers.gauge(*of).fetch_sub(1, SeqCst);
            if *of == Resource::Connections {
                breakers.wake();
            }
        }
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
            retry_budget: Some(RetryBudget { budget_percent: 20.0, min_retry_concurrency: 1 }),
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
