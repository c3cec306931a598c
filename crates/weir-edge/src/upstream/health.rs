//! Whether the link to an API server works: a state machine that learns from what requests and probes come to.
use std::time::{Duration, Instant};

/// When a link counts as down, and as up again. A link that fails now and then, or soon after it has come back, is unsteady: up to three
/// times, each sign of that doubles how many failures and how many answers in a row it takes. A link that loses packets does not go up and
/// down all the time that way. While it is up and fails, reads are answered from what was kept.
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
    /// A link without a failure for so long is one sign steadier.
    pub steady: Duration,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            failures: 2,
            answers: 2,
            probe_down: Duration::from_secs(1),
            probe_up: Duration::from_secs(10),
            steady: Duration::from_secs(300),
        }
    }
}

/// How long a read waits for a server of which it is not known whether it answers, before it is answered from what was kept: after a start,
/// and after a failure of a server that has answered before.
const DOUBT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(40));
/// Signs that a link is unsteady, at most.
const UNSTEADY: u32 = 3;
/// So many failures in a row, and no answer: it is not the link that loses packets, it was cut.
const CUT: u32 = 8;

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
    /// Signs that it is unsteady, and since when there is no further one.
    unsteady: u32,
    steady_since: Instant,
    /// It has gone down soon after it had come up, and that counts as a sign.
    relapsed: bool,
    /// It was down before.
    returned: bool,
    /// There was an outcome.
    known: bool,
    /// It is up, and there was an answer since then.
    proven: bool,
}

impl Health {
    /// Up until something else is known: the first request finds out.
    pub fn new(thresholds: Thresholds, now: Instant) -> Health {
        Health {
            thresholds,
            up: true,
            failures: 0,
            answers: 0,
            last: now,
            since: now,
            unsteady: 0,
            steady_since: now,
            relapsed: false,
            returned: false,
            known: false,
            proven: false,
        }
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
        self.weigh(outcome, now);
        match outcome {
            Outcome::Answered => (self.failures, self.answers) = (0, self.answers.saturating_add(1)),
            Outcome::Failed => (self.failures, self.answers) = (self.failures.saturating_add(1), 0),
        }
        let up = match self.up {
            true => self.failures < self.thresholds.failures.saturating_mul(1 << self.unsteady),
            false => self.answers >= self.thresholds.answers.saturating_mul(1 << self.unsteady),
        };
        let proven = up && (self.proven || outcome == Outcome::Answered);
        if (up, proven) == (self.up, self.proven) {
            return None;
        }
        self.proven = proven;
        if up == self.up {
            return Some(Change::Up);
        }
        self.relapsed = !up && self.returned && now.saturating_duration_since(self.since) < self.thresholds.steady;
        if self.relapsed {
            self.is_unsteady(now);
        }
        self.returned |= up;
        (self.up, self.since, self.answers, self.failures) = (up, now, 0, 0);
        Some(if up { Change::Up } else { Change::Down })
    }

    /// What an outcome says of the steadiness of the link.
    fn weigh(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            // Failures and answers take turns.
            Outcome::Answered if self.up && self.failures > 0 => self.is_unsteady(now),
            Outcome::Failed if !self.up && self.answers > 0 => self.is_unsteady(now),
            Outcome::Answered if self.relapsed && self.failures >= CUT => {
                (self.unsteady, self.relapsed) = (self.unsteady.saturating_sub(1), false);
            }
            Outcome::Answered if self.up => {
                while self.unsteady > 0 && now.saturating_duration_since(self.steady_since) >= self.thresholds.steady {
                    (self.unsteady, self.steady_since) = (self.unsteady - 1, self.steady_since + self.thresholds.steady);
                }
            }
            Outcome::Answered | Outcome::Failed => {}
        }
    }

    fn is_unsteady(&mut self, now: Instant) {
        (self.unsteady, self.steady_since) = ((self.unsteady + 1).min(UNSTEADY), now);
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
mod lossy;

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Answered, Failed};

    #[test]
    fn a_link_is_down_after_failures_in_a_row_and_up_after_answers_in_a_row() {
        let table: [(&[Outcome], &[Change]); 8] = [
            (&[Failed], &[]),
            (&[Failed, Failed], &[Change::Down]),
            (&[Failed, Answered, Failed, Answered, Failed], &[Change::Up]),
            (&[Answered, Answered], &[Change::Up]),
            (&[Failed, Failed, Answered, Failed, Answered], &[Change::Down]),
            (&[Failed, Failed, Answered, Answered], &[Change::Down, Change::Up]),
            (&[Failed, Failed, Answered, Answered, Failed, Failed], &[Change::Down, Change::Up, Change::Down]),
            // It has failed again at once: two answers are not enough any more.
            (&[Failed, Failed, Answered, Answered, Failed, Failed, Answered, Answered], &[Change::Down, Change::Up, Change::Down]),
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
    fn a_link_that_fails_now_and_then_takes_more_of_both_until_it_is_steady_again() {
        let (begin, thresholds) = (Instant::now(), Thresholds::default());
        let mut health = Health::new(thresholds, begin);
        let mut at = begin;
        let mut changes = |outcomes: &[(Outcome, usize)], pause: Duration| {
            let mut found = Vec::new();
            for (outcome, times) in outcomes {
                for i in 1..=*times {
                    at += pause;
                    found.extend(health.record(*outcome, at).map(|change| (change, i)));
                }
            }
            found
        };
        let second = Duration::from_secs(1);
        assert_eq!(changes(&[(Answered, 1)], second), [(Change::Up, 1)]);
        // A failure among answers: now it takes four, then eight, and sixteen at most, of both.
        assert_eq!(changes(&[(Failed, 1), (Answered, 1), (Failed, 4), (Answered, 4)], second), [(Change::Down, 4), (Change::Up, 4)]);
        let rest = [(Failed, 1), (Answered, 1), (Failed, 1), (Answered, 1), (Failed, 1), (Answered, 1), (Failed, 16), (Answered, 16)];
        assert_eq!(changes(&rest, second), [(Change::Down, 16), (Change::Up, 16)]);
        // Without failures it becomes steady again, step by step.
        assert_eq!(changes(&[(Answered, 2)], thresholds.steady), []);
        assert_eq!(changes(&[(Failed, 4)], second), [(Change::Down, 4)]);
        assert_eq!(changes(&[(Answered, 4), (Answered, 40)], thresholds.steady), [(Change::Up, 4)]);
        assert_eq!(changes(&[(Failed, 2), (Answered, 2)], second), [(Change::Down, 2), (Change::Up, 2)]);
        // A link that is cut often, and is steady between, is not an unsteady one.
        for _ in 0..5 {
            let cut = [(Failed, 2 + CUT as usize), (Answered, 10)];
            assert_eq!(changes(&cut, second), [(Change::Down, 2), (Change::Up, 2)]);
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
