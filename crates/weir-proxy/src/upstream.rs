//! The upstream side of a worker: clusters, their hosts, and connections to them.
pub mod byte_stream;
pub mod client;
mod clusters;
mod connect;
mod connect_tunnel;
pub mod copies;
pub mod dial;
pub mod direct;
mod error;
mod h2;
mod host;
mod link;
pub mod mirror;

pub use clusters::WorkerClusters;
pub use connect::{Checkout, Conn, Protocol, Ticket};
pub use error::UpstreamError;
pub use h2::StreamPermit;
pub use host::{ActiveRequest, Host};
pub(crate) use link::ConnStats;

use crate::{
    balance::{self, Balancer},
    cluster::{ClusterRt, ClusterSlot, EndpointRt},
    outlier::{self, Outliers},
    stats::ClusterStats,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};
use tokio::sync::Notify;
use weir_config::model::{Name, OutlierDetection};
use weir_net::timer::nanos;

/// A cluster as one worker sees it: rebuilt for each version of its slot, with the hosts that stay.
pub struct WorkerCluster {
    pub name: Name,
    /// Of the cluster's slot.
    pub slot: u32,
    pub text: Rc<str>,
    pub version: u64,
    pub rt: Arc<ClusterRt>,
    pub hosts: Vec<Rc<Host>>,
    /// Hosts that requests name themselves (dynamic forward proxy).
    named: RefCell<HashMap<*const EndpointRt, Rc<Host>>>,
    balancer: RefCell<Balancer>,
    /// Some hosts are new, and have not their whole share yet.
    warming: Cell<bool>,
    /// Version of the ejections that the balancer knows.
    ejections: Cell<u64>,
    pub stats: Arc<ClusterStats>,
    /// Told when a connection has become free here.
    freed: Rc<Notify>,
    /// Requests that wait for one.
    waiting: Cell<u32>,
}

/// A request that waits for a connection of its own worker.
struct Waiter<'a>(&'a WorkerCluster);

impl Waiter<'_> {
    async fn freed(&self) {
        self.0.freed.notified().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let left = self.0.waiting.get() - 1;
        self.0.waiting.set(left);
        if left > 0 {
            // The notice that woke this one may have been another's.
            self.0.freed.notify_one();
        }
    }
}

impl WorkerCluster {
    pub fn new(
        slot: &ClusterSlot,
        version: u64,
        rt: Arc<ClusterRt>,
        previous: Option<&WorkerCluster>,
        stats: Arc<ClusterStats>,
        seed: u64,
    ) -> WorkerCluster {
        // Connections made with other TLS options or another protocol must not be used again.
        let same = previous.filter(|p| {
            p.name == slot.name
                && p.rt.tls.as_ref().map(Arc::as_ptr) == rt.tls.as_ref().map(Arc::as_ptr)
                && p.rt.config.protocol == rt.config.protocol
        });
        let old: HashMap<_, _> = same.iter().flat_map(|p| &p.hosts).map(|h| (Arc::as_ptr(&h.endpoint), h)).collect();
        let endpoints = rt.endpoints.load();
        let hosts = endpoints.endpoints.iter().map(|e| match old.get(&Arc::as_ptr(e)) {
            Some(host) => (*host).clone(),
            None => Rc::new(Host::new(e.clone())),
        });
        let hosts: Vec<_> = hosts.collect();
        drop(endpoints);
        let members = hosts.iter().map(|h| balance::Host {
            key: &h.text,
            weight: h.endpoint.config.weight,
            priority: h.endpoint.config.priority,
            health: h.endpoint.config.health,
        });
        let panic = rt.config.outlier_detection.as_ref().map_or(0, |o| o.min_health_percent);
        let balancer = Balancer::new(&rt.config.lb_policy, members, panic, seed);
        WorkerCluster {
            name: slot.name.clone(),
            slot: slot.id,
            text: Rc::from(&*slot.name),
            version,
            rt,
            hosts,
            named: RefCell::default(),
            balancer: RefCell::new(balancer),
            warming: Cell::new(false),
            // Unlike any: the first pick looks.
            ejections: Cell::new(u64::MAX),
            stats,
            // Connections that stay tell those who wait on either version.
            freed: same.map_or_else(Rc::default, |p| p.freed.clone()),
            waiting: Cell::new(0),
        }
    }

    /// Whether its names may still be on their way to their first addresses.
    pub fn is_warming(&self) -> bool {
        self.hosts.is_empty() && self.rt.warming.is_some()
    }

    /// The host of an endpoint that no list holds.
    pub fn named(&self, endpoint: Arc<EndpointRt>) -> Rc<Host> {
        let mut named = self.named.borrow_mut();
        named.entry(Arc::as_ptr(&endpoint)).or_insert_with(|| Rc::new(Host::new(endpoint))).clone()
    }

    /// As [`WorkerCluster::pick`]; counts that there is none.
    ///
    /// # Errors
    /// No endpoint may be used.
    pub fn choose(&self, hash: Option<u64>, tried: &[Rc<Host>]) -> Result<Rc<Host>, UpstreamError> {
        if let Some(host) = self.pick(hash, tried) {
            return Ok(host);
        }
        self.stats.upstream_cx_none_healthy.inc();
        Err(UpstreamError::NoHealthyUpstream(self.name.clone()))
    }

    /// The host for a request, another one than those `tried` where there are others.
    pub fn pick(&self, hash: Option<u64>, tried: &[Rc<Host>]) -> Option<Rc<Host>> {
        let mut balancer = self.balancer.borrow_mut();
        let version = self.rt.outliers.as_ref().map_or(0, |outliers| outliers.version());
        if self.ejections.replace(version) != version {
            self.refresh(&mut balancer);
        }
        let mut avoid = Vec::new();
        for t in tried {
            avoid.extend(self.hosts.iter().position(|h| Rc::ptr_eq(h, t)));
        }
        let active = |i: usize| self.hosts[i].active.get();
        let found = balancer.pick(&balance::Pick { hash, active: &active, avoid: &avoid });
        if balancer.is_panicking() {
            self.stats.lb_healthy_panic.inc();
        }
        found.map(|i| self.hosts[i].clone())
    }

    /// Who may be chosen, and with which part of its weight.
    fn refresh(&self, balancer: &mut Balancer) {
        let usable = |i: usize| self.hosts[i].endpoint.outlier.is_usable();
        let slow = self.rt.config.slow_start.as_deref().filter(|s| self.hosts.iter().any(|h| h.endpoint.since.elapsed() < s.window));
        self.warming.set(slow.is_some());
        match slow {
            Some(slow) => balancer.refresh(&usable, Some(&|i| slow.share(self.hosts[i].endpoint.since.elapsed()))),
            None => balancer.refresh(&usable, None),
        }
    }

    fn outlier_detection(&self) -> Option<(&OutlierDetection, &Outliers)> {
        self.rt.config.outlier_detection.as_deref().zip(self.rt.outliers.as_deref())
    }

    /// Passive health: how a request to a host ended.
    pub fn report(&self, host: &Host, outcome: outlier::Outcome, now: u64) {
        let Some((config, outliers)) = self.outlier_detection() else { return };
        let hosts = self.hosts.iter().map(|h| &h.endpoint.outlier);
        match outliers.report(config, &host.endpoint.outlier, hosts, outcome, now) {
            outlier::Verdict::Fine => {}
            outlier::Verdict::Ejected(reason) => {
                self.stats.outlier_detection_ejections_enforced_total.inc();
                match reason {
                    outlier::Reason::Consecutive5xx => self.stats.outlier_detection_ejections_enforced_consecutive_5xx.inc(),
                    outlier::Reason::ConsecutiveGatewayFailure => {
                        self.stats.outlier_detection_ejections_enforced_consecutive_gateway_failure.inc();
                    }
                    outlier::Reason::ConsecutiveLocalOriginFailure => {
                        self.stats.outlier_detection_ejections_enforced_consecutive_local_origin_failure.inc();
                    }
                }
            }
            outlier::Verdict::Overflow(_) => self.stats.outlier_detection_ejections_overflow.inc(),
        }
    }

    fn begin_wait(&self) -> Waiter<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Waiter(self)
    }
    fn is_waited_for(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Closes one idle connection, to whichever host. `false`: none is idle.
    pub fn close_idle(&self) -> bool {
        self.hosts.iter().any(|h| h.close_idle()) || self.named.borrow().values().any(|h| h.close_idle())
    }

    /// Makes room for another worker: closes an idle connection, or lets a shared one run out.
    pub fn release_connection(&self) {
        if !self.close_idle() {
            let _ = self.hosts.iter().any(|h| h.retire_shared());
        }
    }

    pub fn sweep(&self, now: u64) {
        if self.warming.get() {
            self.refresh(&mut self.balancer.borrow_mut());
        }
        let idle = self.rt.config.idle_timeout.map_or(u64::MAX, nanos);
        for host in &self.hosts {
            host.sweep(now, idle, &self.stats);
        }
        if let Some((config, outliers)) = self.outlier_detection() {
            outliers.sweep(config, self.hosts.iter().map(|h| &h.endpoint.outlier), now);
        }
        let mut named = self.named.borrow_mut();
        named.values().for_each(|h| h.sweep(now, idle, &self.stats));
        named.retain(|_, h| !h.is_unused());
    }
}
