//! Whether the link to an API server works: a state machine that learns from what requests and probes come to.
use std::time::{Duration, Instant};

/// When a link counts as down, and as up again.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Failures in a row, without an answer in between.
    pub failures: u32,
    /// Answers to probes in a row.
    pub answers: u32,
    /// Time between two probes while the link is down.
    pub probe_down: Duration,
    /// The same while it is up and nothing else passes.
    pub probe_up: Duration,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { failures: 2, answers: 2, probe_down: Duration::from_secs(1), probe_up: Duration::from_secs(10) }
    }
}

/// How long a read waits for a server of which it is not known whether it answers, before it is answered from what was kept: after a start,
/// and after a failure of a server that has answered before.
const DOUBT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(40));

/// What a request or a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Any answer of the server, of whatever status, and a stream that it has reset: the link works.
    Answered,
    /// No connection, or one that went dead.
    Failed,
}

/// A change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Up,
    Down,
}

#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    up: bool,
    failures: u32,
    answers: u32,
    /// The last outcome of any kind.
    last: Instant,
    /// Since when the state is what it is.
    since: Instant,
    /// There was an outcome.
    known: bool,
    /// It is up, and there was an answer since then.
    proven: bool,
}

impl Health {
    /// Up until something else is known: the first request finds out.
    pub fn new(thresholds: Thresholds, now: Instant) -> Health {
        Health { thresholds, up: true, failures: 0, answers: 0, last: now, since: now, known: false, proven: false }
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The last outcome was a failure.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether it is known to be up: it has answered, and not only is there nothing else known.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// How long a read waits for the server before it is answered from what was kept; `None`: as long as it takes, since the server answers.
    pub fn doubt(&self) -> Option<Duration> {
        match (self.proven, self.is_failing()) {
            (true, false) => None,
            (true, true) => Some(DOUBT.1),
            (false, _) => Some(DOUBT.0),
        }
    }

    /// Whether there was an answer or a failure at all.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Since when it is up, or down.
    pub fn since(&self) -> Instant {
        self.since
    }

    pub fn record(&mut self, outcome: Outcome, now: Instant) -> Option<Change> {
        (self.last, self.known) = (now, true);
        match outcome {
            Outcome::Answered => (self.failures, self.answers) = (0, self.answers.saturating_add(1)),
            Outcome::Failed => (self.failures, self.answers) = (self.failures.saturating_add(1), 0),
        }
        let up = match self.up {
            true => self.failures < self.thresholds.failures,
            false => self.answers >= self.thresholds.answers,
        };
        let proven = up && (self.proven || outcome == Outcome::Answered);
        if (up, proven) == (self.up, self.proven) {
            return None;
        }
        self.proven = proven;
        if up == self.up {
            return Some(Change::Up);
        }
        (self.up, self.since, self.answers, self.failures) = (up, now, 0, 0);
        Some(if up { Change::Up } else { Change::Down })
    }

    /// When the next probe is due: the first one, and one that follows a first failure, at once.
    pub fn probe_at(&self) -> Instant {
        let wait = match (self.up, self.failures) {
            (true, 0) if self.known => self.thresholds.probe_up,
            (true, _) => Duration::ZERO,
            (false, _) => self.thresholds.probe_down,
        };
        self.last + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Answered, Failed};

    #[test]
    fn a_link_is_down_after_failures_in_a_row_and_up_after_answers_in_a_row() {
        let table: [(&[Outcome], &[Change]); 7] = [
            (&[Failed], &[]),
            (&[Failed, Failed], &[Change::Down]),
            (&[Failed, Answered, Failed, Answered, Failed], &[Change::Up]),
            (&[Answered, Answered], &[Change::Up]),
            (&[Failed, Failed, Answered, Failed, Answered], &[Change::Down]),
            (&[Failed, Failed, Answered, Answered], &[Change::Down, Change::Up]),
            (&[Failed, Failed, Answered, Answered, Failed, Failed], &[Change::Down, Change::Up, Change::Down]),
        ];
        let now = Instant::now();
        for (outcomes, changes) in table {
            let mut health = Health::new(Thresholds::default(), now);
            let found: Vec<Change> = outcomes.iter().filter_map(|outcome| health.record(*outcome, now)).collect();
            assert_eq!(found, changes, "{outcomes:?}");
        }
    }

    #[test]
    fn reads_wait_less_for_a_server_that_has_just_failed() {
        let table: [(&[Outcome], Option<Duration>); 6] = [
            (&[], Some(DOUBT.0)),
            (&[Failed], Some(DOUBT.0)),
            (&[Answered], None),
            (&[Answered, Failed], Some(DOUBT.1)),
            (&[Answered, Failed, Answered], None),
            (&[Answered, Failed, Failed, Answered], Some(DOUBT.0)),
        ];
        let now = Instant::now();
        for (outcomes, wanted) in table {
            let mut health = Health::new(Thresholds::default(), now);
            outcomes.iter().for_each(|outcome| _ = health.record(*outcome, now));
            assert_eq!(health.doubt(), wanted, "{outcomes:?}");
        }
    }

    #[test]
    fn probes_come_sooner_when_something_is_wrong() {
        let (now, thresholds) = (Instant::now(), Thresholds::default());
        let mut health = Health::new(thresholds, now);
        assert_eq!(health.probe_at(), now);
        health.record(Answered, now);
        assert_eq!(health.probe_at(), now + thresholds.probe_up);
        health.record(Failed, now);
        assert_eq!(health.probe_at(), now);
        health.record(Failed, now);
        assert_eq!(health.probe_at(), now + thresholds.probe_down);
    }
}
