//! Leader election by a Lease (`coordination.k8s.io`), with the times of client-go. The state machine is pure: it is given what the
//! server answered and the time.
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use std::time::Duration;

/// A holder that did not renew for so long has lost it.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The holder itself stops to write after this, so that its last request ends before another one takes over.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Time since the machine started, counted while it sleeps.
pub type Clock = Duration;

/// What is known of the Lease.
#[derive(Debug, Default)]
pub struct Election {
    identity: String,
    /// The Lease as it was last seen: its version, and when that was first seen here.
    seen: Option<(String, Clock)>,
    /// When the last successful renewal was sent.
    renewed: Option<Clock>,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Create(LeaseSpec),
    /// Replace the spec of this version.
    Update(LeaseSpec),
    Wait,
}

impl Election {
    pub fn new(identity: String) -> Election {
        Election { identity, ..Election::default() }
    }

    /// Whether this process may write at `now`. A process that was paused finds its time over.
    pub fn leads(&self, now: Clock) -> bool {
        self.renewed.is_some_and(|at| now.saturating_sub(at) < RENEW_DEADLINE)
    }

    /// What to do, by the Lease as it is now. `wall` is written into it; only `now` decides.
    pub fn step(&mut self, lease: Option<&Lease>, now: Clock, wall: Timestamp) -> Step {
        let Some(lease) = lease else { return Step::Create(self.spec(None, wall)) };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
        if holder == self.identity {
            return Step::Update(self.spec(spec, wall));
        }
        self.renewed = None;
        // By our own clock: clocks of machines differ.
        let duration = spec.and_then(|s| s.lease_duration_seconds).map_or(LEASE_DURATION, |s| Duration::from_secs(s.max(0) as u64));
        if holder.is_empty() || now.saturating_sub(since) >= duration {
            return Step::Update(self.spec(spec, wall));
        }
        Step::Wait
    }

    /// The step was done; it was sent at `sent`.
    pub fn done(&mut self, sent: Clock) {
        self.renewed = Some(sent);
    }

    /// Another one has it.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Ceases to lead; what to write into the Lease, so that another one need not wait for its end.
    pub fn resign(&mut self, lease: &Lease, now: Clock) -> Option<LeaseSpec> {
        let led = self.leads(now);
        self.renewed = None;
        let spec = lease.spec.as_ref().filter(|spec| led && spec.holder_identity.as_deref() == Some(&*self.identity))?;
        Some(LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec.clone() })
    }

    fn spec(&self, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let held = before.filter(|b| b.holder_identity.as_deref() == Some(&*self.identity));
        let transitions = before.and_then(|b| b.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            acquire_time: held.and_then(|b| b.acquire_time.clone()).or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(if held.is_some() || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

/// The Lease to send.
pub fn lease(name: &str, version: Option<String>, spec: LeaseSpec) -> Lease {
    let metadata = ObjectMeta { name: Some(name.into()), resource_version: version, ..ObjectMeta::default() };
    Lease { metadata, spec: Some(spec) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Clock {
        Duration::from_secs(seconds)
    }

    fn held(by: &str, version: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        lease("weir", Some(version.into()), spec)
    }

    #[test]
    fn one_leads_and_a_paused_one_does_not() {
        let wall = Timestamp::UNIX_EPOCH;
        let mut election = Election::new("a".into());
        assert!(matches!(election.step(None, at(0), wall), Step::Create(spec) if spec.holder_identity.as_deref() == Some("a")));
        assert!(!election.leads(at(0)));
        election.done(at(0));
        assert!(election.leads(at(9)));
        // Paused for longer than the deadline: nothing is written, though nobody else has the Lease yet.
        assert!(!election.leads(at(10)));
        assert!(matches!(election.step(Some(&held("a", "1")), at(12), wall), Step::Update(spec) if spec.lease_transitions == Some(3)));
        election.done(at(12));
        assert!(election.leads(at(13)));
        // Another one took it.
        assert_eq!(election.step(Some(&held("b", "2")), at(14), wall), Step::Wait);
        assert!(!election.leads(at(14)));
        // It renews, as the versions show; what its clock says does not count.
        assert_eq!(election.step(Some(&held("b", "3")), at(28), wall), Step::Wait);
        assert_eq!(election.step(Some(&held("b", "3")), at(42), wall), Step::Wait);
        assert!(matches!(election.step(Some(&held("b", "3")), at(43), wall), Step::Update(spec) if spec.lease_transitions == Some(4)));
        // Given up by its holder: at once.
        assert!(matches!(election.step(Some(&held("", "4")), at(44), wall), Step::Update(_)));
        election.done(at(44));
        let given_up = election.resign(&held("a", "5"), at(45)).and_then(|spec| spec.holder_identity);
        assert_eq!((given_up.as_deref(), election.leads(at(45))), (Some(""), false));
        assert_eq!(election.resign(&held("a", "5"), at(45)), None);
    }
}
