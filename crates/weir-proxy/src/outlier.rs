//! Passive health: endpoints that fail are left out for a while (Envoy's outlier detection). The counts live beside the
//! endpoint and are shared by all workers; `now` is nanoseconds since an epoch that all workers share.
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use weir_config::model::OutlierDetection;
use weir_net::timer::nanos;

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub struct HostState {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    /// How often it has been ejected lately: a factor of the next ejection's time.
    ejections: AtomicU32,
    /// 0 while it is in use.
    ejected_until: AtomicU64,
}

impl PartialEq for HostState {
    /// Counts take no part in the identity of an endpoint.
    fn eq(&self, _: &HostState) -> bool {
        true
    }
}

impl HostState {
    /// Whether it may be used.
    pub fn is_usable(&self) -> bool {
        self.ejected_until.load(Relaxed) == 0
    }
    /// When it may be used again; 0 while it may.
    pub fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Relaxed)
    }
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered with this status.
    Status(u16),
    /// No connection, a reset or a timeout: the endpoint did not answer.
    LocalOrigin,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    Ejected(Reason),
    /// It should have been, but too many are out (`ejections_overflow`).
    Overflow(Reason),
}

/// The part of outlier detection that belongs to a whole cluster.
#[derive(Debug, Default)]
pub struct Outliers {
    version: AtomicU64,
    next_sweep: AtomicU64,
}

impl Outliers {
    /// Changes whenever an endpoint is ejected or comes back: a worker then refreshes its balancer.
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Counts how a request to `host`, one of `hosts`, ended.
    ///
    /// The greatest percentage is kept as Envoy keeps it since 1.31, but in a cluster of several at least one endpoint can
    /// always be ejected (as with `always_eject_one_host`); a lone one only at 100 %.
    pub fn report<'a>(
        &self,
        config: &OutlierDetection,
        host: &HostState,
        hosts: impl Iterator<Item = &'a HostState>,
        outcome: Outcome,
        now: u64,
    ) -> Verdict {
        let split = config.split_external_local_origin_errors;
        let local = outcome == Outcome::LocalOrigin;
        let (server, gateway) = match outcome {
            Outcome::Status(s) => ((500..600).contains(&s), (502..=504).contains(&s)),
            Outcome::LocalOrigin => (!split, !split),
        };
        let count = |counter: &AtomicU32, failed: bool, limit: u32| {
            if !failed {
                // The common case must not write to memory that all workers read.
                if counter.load(Relaxed) != 0 {
                    counter.store(0, Relaxed);
                }
                return false;
            }
            counter.fetch_add(1, Relaxed) + 1 >= limit && limit != 0
        };
        let mut found = None;
        if split {
            if count(&host.consecutive_local_origin_failure, local, config.consecutive_local_origin_failure) {
                found = Some(Reason::ConsecutiveLocalOriginFailure);
            }
            if local {
                return found.map_or(Verdict::Fine, |r| self.eject(config, host, hosts, r, now));
            }
        }
        if count(&host.consecutive_gateway_failure, gateway, config.consecutive_gateway_failure) {
            found = Some(Reason::ConsecutiveGatewayFailure);
        }
        if count(&host.consecutive_5xx, server, config.consecutive_5xx) {
            found = Some(Reason::Consecutive5xx);
        }
        found.map_or(Verdict::Fine, |r| self.eject(config, host, hosts, r, now))
    }

    fn eject<'a>(
        &self,
        config: &OutlierDetection,
        host: &HostState,
        hosts: impl Iterator<Item = &'a HostState>,
        reason: Reason,
        now: u64,
    ) -> Verdict {
        if !host.is_usable() {
            return Verdict::Fine;
        }
        let (total, out) = hosts.fold((0u64, 0u64), |(n, out), h| (n + 1, out + u64::from(!h.is_usable())));
        let fits = (out + 1) * 100 <= u64::from(config.max_ejection_percent) * total;
        let first = out == 0 && total > 1 && config.max_ejection_percent > 0;
        if !fits && !first {
            return Verdict::Overflow(reason);
        }
        let times = host.ejections.load(Relaxed).saturating_add(1);
        let longest = nanos(config.max_ejection_time.max(config.base_ejection_time));
        let time = nanos(config.base_ejection_time).saturating_mul(times.into()).min(longest);
        if host.ejected_until.compare_exchange(0, (now + time).max(1), Relaxed, Relaxed).is_err() {
            return Verdict::Fine;
        }
        host.ejections.store(times, Relaxed);
        for c in [&host.consecutive_5xx, &host.consecutive_gateway_failure, &host.consecutive_local_origin_failure] {
            c.store(0, Relaxed);
        }
        self.version.fetch_add(1, Relaxed);
        Verdict::Ejected(reason)
    }

    /// Lets endpoints back whose time is over, and forgets an ejection of those that behaved for an interval. To be called
    /// now and then by every worker; one of them does the work.
    pub fn sweep<'a>(&self, config: &OutlierDetection, hosts: impl Iterator<Item = &'a HostState>, now: u64) {
        let due = self.next_sweep.load(Relaxed);
        let interval = nanos(config.interval).max(1);
        if now < due || self.next_sweep.compare_exchange(due, now + interval, Relaxed, Relaxed).is_err() {
            return;
        }
        let mut changed = false;
        for host in hosts {
            let until = host.ejected_until.load(Relaxed);
            if until == 0 {
                let _ = host.ejections.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
            } else if until <= now {
                host.ejected_until.store(0, Relaxed);
                changed = true;
            }
        }
        if changed {
            self.version.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    struct Bed {
        config: OutlierDetection,
        hosts: Vec<HostState>,
        shared: Outliers,
        now: u64,
    }
    impl Bed {
        fn new(hosts: usize, change: impl FnOnce(&mut OutlierDetection)) -> Bed {
            let mut config = OutlierDetection { max_ejection_percent: 50, ..OutlierDetection::default() };
            change(&mut config);
            Bed { config, hosts: (0..hosts).map(|_| HostState::default()).collect(), shared: Outliers::default(), now: 1 }
        }
        fn report(&self, host: usize, outcome: Outcome, times: usize) -> Verdict {
            let one = |_| self.shared.report(&self.config, &self.hosts[host], self.hosts.iter(), outcome, self.now);
            (0..times).map(one).last().unwrap_or(Verdict::Fine)
        }
        fn sweep(&mut self, seconds: u64) {
            self.now += seconds * SECOND;
            self.shared.sweep(&self.config, self.hosts.iter(), self.now);
        }
    }
    use Outcome::{LocalOrigin, Status};

    #[test]
    fn five_errors_in_a_row_eject() {
        let bed = Bed::new(4, |_| {});
        assert_eq!(bed.report(0, Status(500), 4), Verdict::Fine);
        assert_eq!(bed.report(0, Status(200), 1), Verdict::Fine);
        assert_eq!(bed.report(0, Status(503), 4), Verdict::Fine);
        let before = bed.shared.version();
        assert_eq!(bed.report(0, LocalOrigin, 1), Verdict::Ejected(Reason::Consecutive5xx));
        assert!(!bed.hosts[0].is_usable() && bed.shared.version() != before);
    }

    #[test]
    fn kinds_of_failures_are_counted_apart() {
        let bed = Bed::new(4, |c| {
            c.consecutive_5xx = 0;
            c.consecutive_gateway_failure = 2;
        });
        assert_eq!(bed.report(0, Status(500), 9), Verdict::Fine);
        assert_eq!(bed.report(0, Status(502), 2), Verdict::Ejected(Reason::ConsecutiveGatewayFailure));
        let bed = Bed::new(4, |c| {
            c.split_external_local_origin_errors = true;
            c.consecutive_local_origin_failure = 3;
        });
        assert_eq!(bed.report(0, LocalOrigin, 2), Verdict::Fine);
        assert_eq!(bed.report(0, Status(500), 4), Verdict::Fine);
        assert_eq!(bed.report(0, LocalOrigin, 3), Verdict::Ejected(Reason::ConsecutiveLocalOriginFailure));
        assert_eq!(bed.report(1, Status(500), 5), Verdict::Ejected(Reason::Consecutive5xx));
    }

    #[test]
    fn the_greatest_share_holds() {
        for (hosts, percent, ejected) in [(10, 10, 1), (10, 25, 2), (3, 10, 1), (1, 10, 0), (1, 100, 1), (4, 0, 0), (4, 100, 4), (3, 50, 1)]
        {
            let bed = Bed::new(hosts, |c| c.max_ejection_percent = percent);
            let out = (0..hosts).filter(|h| matches!(bed.report(*h, Status(500), 5), Verdict::Ejected(_))).count();
            assert_eq!(out, ejected, "{hosts} hosts, {percent} %");
        }
    }

    #[test]
    fn each_time_it_takes_longer_and_good_conduct_is_forgiven() {
        let mut bed = Bed::new(2, |c| {
            c.base_ejection_time = Duration::from_secs(30);
            c.max_ejection_time = Duration::from_secs(70);
        });
        bed.sweep(0);
        for seconds in [30, 60, 70] {
            bed.report(0, Status(500), 5);
            assert_eq!(bed.hosts[0].ejected_until(), bed.now + seconds * SECOND);
            bed.sweep(seconds - 1);
            assert!(!bed.hosts[0].is_usable());
            bed.sweep(10);
            assert!(bed.hosts[0].is_usable());
        }
        for _ in 0..3 {
            bed.sweep(10);
        }
        bed.report(0, Status(500), 5);
        assert_eq!(bed.hosts[0].ejected_until(), bed.now + 30 * SECOND);
    }
}
