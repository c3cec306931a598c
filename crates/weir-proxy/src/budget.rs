//! How the file descriptors of the process are divided: some are reserved for the admin listener, files and accepting; clients
//! and upstreams share the rest.

/// For files, DNS, the admin listener and the like.
const RESERVE: u64 = 64;
/// For the event loop and the listening sockets of one worker.
const RESERVE_PER_WORKER: u64 = 16;
const LARGEST_RESERVE: u64 = 8192;
/// Envoy's default for `max_pending_requests` of a DNS cache.
const MAX_LOOKUPS: usize = 1024;

/// Connections that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// From clients.
    pub downstream: u32,
    /// To upstreams.
    pub upstream: u32,
    /// Names that clients choose and that are being looked up at once: each lookup takes one of the reserved descriptors.
    pub lookups: usize,
}

impl Budget {
    /// Divides `descriptors`. Clients and upstreams get half each of what is not reserved. Where only one limit is set, the other
    /// side gets the rest. A limit that is set is used unchanged.
    pub fn new(descriptors: u64, workers: usize, downstream: Option<u32>, upstream: Option<u32>) -> Budget {
        let needed = RESERVE + RESERVE_PER_WORKER * workers as u64;
        let reserve = needed.max(descriptors / 8).min(LARGEST_RESERVE.max(needed)).min(descriptors / 2);
        let usable = u32::try_from(descriptors - reserve).unwrap_or(u32::MAX);
        let rest = |taken: u32| usable.saturating_sub(taken).max(usable / 8).max(1);
        let half = (usable / 2).max(1);
        let (downstream, upstream) = match (downstream, upstream) {
            (None, None) => (half, half),
            (Some(downstream), None) => (downstream, rest(downstream)),
            (None, Some(upstream)) => (rest(upstream), upstream),
            (Some(downstream), Some(upstream)) => (downstream, upstream),
        };
        Budget { downstream, upstream, lookups: (reserve as usize / 2).clamp(1, MAX_LOOKUPS) }
    }

    /// Descriptors that are missing if all these connections are open.
    pub fn missing(&self, descriptors: u64) -> u64 {
        (u64::from(self.downstream) + u64::from(self.upstream)).saturating_sub(descriptors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        for (descriptors, workers, downstream, upstream, expected) in [
            (1024, 2, None, None, (448, 448)),
            (1024, 64, None, None, (256, 256)),
            (128, 2, None, None, (32, 32)),
            (1 << 20, 2, None, None, (520_192, 520_192)),
            (1024, 2, Some(100), None, (100, 796)),
            // The other side always keeps an eighth.
            (1024, 2, Some(1 << 20), None, (1 << 20, 112)),
            (1024, 2, None, Some(700), (196, 700)),
            (1024, 2, Some(5), Some(6), (5, 6)),
            (1, 1, None, None, (1, 1)),
        ] {
            let budget = Budget::new(descriptors, workers, downstream, upstream);
            assert_eq!((budget.downstream, budget.upstream), expected, "{descriptors} {workers} {downstream:?} {upstream:?}");
        }
        assert_eq!(Budget::new(1024, 2, Some(900), Some(200)).missing(1024), 76);
        assert_eq!(Budget::new(1024, 2, None, None).missing(1024), 0);
        assert_eq!([128, 1024, 1 << 20].map(|n| Budget::new(n, 2, None, None).lookups), [32, 64, 1024]);
    }
}
