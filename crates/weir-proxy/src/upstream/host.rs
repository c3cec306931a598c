//! One endpoint as a worker sees it: its idle connections and the requests under way to it.
use super::{WorkerCluster, h2::Multiplexed, link::ConnStats};
use crate::{cluster::EndpointRt, stats::ClusterStats};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};
use weir_net::http::wire::Wire;

/// Idle connections kept per host.
const MAX_IDLE: usize = 1024;

/// An HTTP/1 connection between requests.
pub(super) struct Idle {
    pub wire: Wire,
    pub since: u64,
    /// Requests that it has served.
    pub requests: u32,
    /// The server name it was made for, where that is the request's.
    pub name: Option<Box<str>>,
    pub link: Rc<ConnStats>,
}

pub struct Host {
    pub endpoint: Arc<EndpointRt>,
    /// The address as text, for logs.
    pub text: Rc<str>,
    /// Requests under way from this worker.
    pub active: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    pub(super) multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
}

impl Host {
    pub fn new(endpoint: Arc<EndpointRt>) -> Host {
        Host {
            text: endpoint.address.to_string().into(),
            endpoint,
            active: Cell::new(0),
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
        }
    }
    /// The connection used last, if one is idle and still open.
    pub(super) fn reuse(&self, name: Option<&str>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = match name {
                None => idle.len().checked_sub(1)?,
                Some(_) => idle.iter().rposition(|i| i.name.as_deref() == name)?,
            };
            let mut found = idle.remove(at);
            if found.wire.is_quiet() {
                return Some(found);
            }
            found.link.closed_by_peer();
        }
    }
    pub(super) fn put_back(&self, idle: Idle) {
        let mut list = self.idle.borrow_mut();
        if list.len() < MAX_IDLE {
            list.push(idle);
        }
    }
    /// Closes what the peer has closed and what was idle for `idle` nanoseconds.
    pub(super) fn sweep(&self, now: u64, idle: u64, stats: &ClusterStats) {
        let oldest = now.saturating_sub(idle);
        self.idle.borrow_mut().retain_mut(|i| {
            if !i.wire.is_quiet() {
                i.link.closed_by_peer();
                return false;
            }
            if i.since < oldest {
                stats.upstream_cx_idle_timeout.inc();
            }
            i.since >= oldest
        });
        self.multiplexed.borrow_mut().retain(|m| {
            let idle = m.is_idle_since(oldest);
            if idle {
                stats.upstream_cx_idle_timeout.inc();
            }
            m.is_usable() && !idle
        });
    }
    /// Closes one idle connection, the one unused for longest. `false`: none is idle.
    pub(super) fn close_idle(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            idle.remove(0);
            return true;
        }
        let mut shared = self.multiplexed.borrow_mut();
        let at = shared.iter().position(|m| m.is_idle_since(u64::MAX));
        at.map(|at| shared.remove(at)).is_some()
    }
    /// Takes one shared connection out of use; it closes with its last stream.
    pub(super) fn retire_shared(&self) -> bool {
        let last = self.multiplexed.borrow_mut().pop();
        last.is_some_and(|m| {
            m.retire();
            true
        })
    }
    pub(super) fn is_unused(&self) -> bool {
        self.active.get() == 0 && self.idle.borrow().is_empty() && self.multiplexed.borrow().is_empty()
    }
    pub fn idle_connections(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// One request under way to a host: counted while it lives.
pub struct ActiveRequest {
    host: Rc<Host>,
    cluster: Rc<WorkerCluster>,
}

impl ActiveRequest {
    pub fn new(cluster: &Rc<WorkerCluster>, host: &Rc<Host>) -> ActiveRequest {
        host.active.set(host.active.get() + 1);
        cluster.stats.upstream_rq_active.inc();
        ActiveRequest { host: host.clone(), cluster: cluster.clone() }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.host.active.set(self.host.active.get() - 1);
        self.cluster.stats.upstream_rq_active.dec();
    }
}
