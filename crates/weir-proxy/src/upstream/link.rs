//! What is known and counted of one upstream connection, from its making to its close.
use crate::{breaker::Place, conn::UpstreamTls, stats::ClusterStats};
use std::{
    cell::{Cell, OnceCell},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Facts about a connection that log operators ask for. Times are nanoseconds since the worker's epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Unique in this process; 0 for none.
    pub id: u64,
    pub local: Option<SocketAddr>,
    pub connect_start: u64,
    pub connect_end: u64,
    /// 0 for plain text.
    pub handshake_end: u64,
}

/// A connection as its cluster counts it: open while this lives.
pub struct ConnStats {
    pub facts: Cell<Facts>,
    /// Empty for plain text.
    pub tls: OnceCell<Rc<UpstreamTls>>,
    begun: Instant,
    stats: Arc<ClusterStats>,
    /// Requests under way on it.
    requests: Cell<u32>,
    by_peer: Cell<bool>,
    _place: Place,
}

impl ConnStats {
    /// Of a connection that is about to be made.
    pub fn new(stats: &Arc<ClusterStats>, place: Place, now: u64) -> ConnStats {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        let facts = Facts { id: NEXT.fetch_add(1, Ordering::Relaxed), connect_start: now, ..Facts::default() };
        ConnStats {
            facts: Cell::new(facts),
            tls: OnceCell::new(),
            begun: Instant::now(),
            stats: stats.clone(),
            requests: Cell::new(0),
            by_peer: Cell::new(false),
            _place: place,
        }
    }
    pub fn begin_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }
    /// The request has its whole answer.
    pub fn end_request(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
    }
    /// The peer has ended it.
    pub fn closed_by_peer(&self) {
        self.by_peer.set(true);
    }
}

impl Drop for ConnStats {
    fn drop(&mut self) {
        let s = &self.stats;
        s.upstream_cx_active.dec();
        s.upstream_cx_length_ms.record(self.begun.elapsed().as_nanos() as u64);
        s.upstream_cx_destroy.inc();
        match self.by_peer.get() {
            true => s.upstream_cx_destroy_remote.inc(),
            false => s.upstream_cx_destroy_local.inc(),
        }
        if self.requests.get() > 0 {
            s.upstream_cx_destroy_with_active_rq.inc();
        }
    }
}
