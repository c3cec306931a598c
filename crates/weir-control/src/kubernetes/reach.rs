//! Where clients reach a Gateway that has a Service of its own, and how long its status waits for an address.
use std::time::{Duration, Instant};
use weir_config::diagnostic::Diagnostic;

/// A load balancer gives an address soon after the Service asks for it, or not at all.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reach {
    pub addresses: Vec<String>,
    /// Why clients cannot reach it.
    pub finding: Option<Diagnostic>,
    /// The load balancer may still give the address that is missing.
    pub waits: bool,
}

impl Reach {
    pub fn without(finding: Diagnostic) -> Reach {
        Reach { finding: Some(finding), ..Reach::default() }
    }
    pub fn waiting(finding: Diagnostic) -> Reach {
        Reach { waits: true, ..Reach::without(finding) }
    }
}

/// The reach of one version of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayAt {
    /// `metadata.generation` of that version.
    pub generation: i64,
    pub reach: Reach,
    /// When something was first known of this version.
    since: Instant,
}

impl GatewayAt {
    pub fn new(before: Option<&GatewayAt>, generation: i64, reach: Reach, now: Instant) -> GatewayAt {
        let since = before.filter(|before| before.generation == generation).map_or(now, |before| before.since);
        GatewayAt { generation, reach, since }
    }

    /// Until when no status of this version is written. Clients that wait for the status of a new version read the address there.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        let until = self.since + SETTLE;
        (self.reach.waits && now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_waits_for_its_address_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let finding = || Diagnostic::warning("AddressNotUsable", "no address");
        let reached = || Reach { addresses: vec!["192.0.2.1".into()], ..Reach::default() };
        let mut last: Option<GatewayAt> = None;
        for (seconds, generation, reach, held) in [
            (0, 1, Reach::waiting(finding()), Some(2)),
            // A second look at the same version does not extend it.
            (1, 1, Reach::waiting(finding()), Some(2)),
            (2, 1, Reach::waiting(finding()), None),
            (9, 2, Reach::waiting(finding()), Some(11)),
            (10, 2, reached(), None),
            // The address is lost later.
            (30, 2, Reach::waiting(finding()), None),
            // Nobody gives one.
            (40, 3, Reach::without(finding()), None),
            (41, 3, Reach::waiting(finding()), Some(42)),
        ] {
            let now = GatewayAt::new(last.as_ref(), generation, reach, at(seconds));
            assert_eq!(now.held_until(at(seconds)), held.map(at), "second {seconds}");
            last = Some(now);
        }
    }
}
