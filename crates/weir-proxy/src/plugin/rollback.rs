//! Whether a version of a plugin does worse than the one that it replaces, or takes streams of as a canary.
use super::{Generation, tally::Totals};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use weir_config::model::Rollback;

/// One trap in so many streams is too many; fewer are taken for the request's fault, not the version's.
const STREAMS_PER_TRAP: u64 = 100;
/// Points of the share of 5xx that a canary may have more, unless the annotation says otherwise. A changed plugin is not compared: the
/// version before it met other requests.
const CANARY_5XX: u32 = 20;

/// Why a version is taken back.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    Traps { traps: u64, streams: u64 },
    Errors { percent: u64, streams: u64, before: u64 },
    Latency { p99: Duration, before: Duration },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Traps { traps, streams } => write!(f, "it trapped {traps} times within {streams} streams"),
            Failure::Errors { percent, streams, before } => {
                write!(f, "{percent}% of its {streams} streams were answered with 5xx, {before}% of those of the other version")
            }
            Failure::Latency { p99, before } => {
                write!(f, "the 99th percentile of its callbacks is {p99:.1?}, that of the other version {before:.1?}")
            }
        }
    }
}

/// Compares what two versions did in windows of the same length.
pub fn failure(rules: &Rollback, canary: bool, new: &Totals, old: &Totals) -> Option<Failure> {
    if too_many(new.streams, new.traps, rules.traps.into()) && rules.traps > 0 {
        return Some(Failure::Traps { traps: new.traps, streams: new.streams });
    }
    let least = u64::from(rules.min_streams.max(1));
    let percent = |of: &Totals| of.errors * 100 / of.streams.max(1);
    let points = rules.share_5xx.unwrap_or(if canary { CANARY_5XX } else { 0 });
    if points > 0 && new.streams.min(old.streams) >= least && percent(new) > percent(old) + u64::from(points) {
        return Some(Failure::Errors { percent: percent(new), streams: new.streams, before: percent(old) });
    }
    if !rules.latency.is_zero()
        && new.calls().min(old.calls()) >= least
        && let (Some(p99), Some(before)) = (new.quantile(99), old.quantile(99))
        && p99 > before + rules.latency
    {
        return Some(Failure::Latency { p99, before });
    }
    None
}

fn too_many(streams: u64, traps: u64, limit: u64) -> bool {
    traps >= limit && traps.saturating_mul(STREAMS_PER_TRAP) >= streams
}

/// The version that serves, and what it is compared with.
pub(super) struct Watch {
    pub generation: u64,
    /// What to go back to; `None` for a canary, whose streams go back to the plugin that it takes them of.
    pub previous: Option<Arc<Generation>>,
    began: Instant,
    /// Of this version when the window began.
    from: Totals,
    /// Of the previous version in its last window; of the plugin of a canary, and of which generation, when the window began.
    other: (u64, Totals),
}

/// How it goes on.
pub(super) enum Look {
    On,
    /// The version has stood its time.
    Over,
    Failed(Failure),
}

impl Watch {
    /// `None` where there is nothing good to go back to: the previous version was at fault as well.
    pub fn of(generation: u64, previous: &Arc<Generation>) -> Option<Watch> {
        let all = previous.totals();
        let good = !too_many(all.streams, all.traps, 1);
        let other = (previous.number, previous.recent.last_window(&all));
        good.then(|| Watch { generation, previous: Some(previous.clone()), began: Instant::now(), from: Totals::default(), other })
    }

    /// A canary is watched for as long as it is one.
    pub fn of_canary(generation: u64) -> Watch {
        Watch { generation, previous: None, began: Instant::now(), from: Totals::default(), other: (0, Totals::default()) }
    }

    /// `plugin`: what a canary takes streams of.
    pub fn look(&mut self, current: &Generation, plugin: Option<&Generation>) -> Look {
        let rules = &current.plugin.limits.rollback;
        let (all, over) = (current.totals(), self.began.elapsed() > rules.window);
        let stable = plugin.map(|plugin| (plugin.number, plugin.totals()));
        let old = match (&self.previous, &stable) {
            (Some(_), _) => self.other.1.clone(),
            (None, Some((number, totals))) if *number == self.other.0 => totals.since(&self.other.1),
            (None, _) => Totals::default(),
        };
        if let Some(failure) = failure(rules, self.previous.is_none(), &all.since(&self.from), &old) {
            return Look::Failed(failure);
        }
        if self.previous.is_some() {
            return if over { Look::Over } else { Look::On };
        }
        let stable = stable.unwrap_or_default();
        if over || stable.0 != self.other.0 {
            (self.began, self.from, self.other) = (Instant::now(), all, stable);
        }
        Look::On
    }
}

/// What a version had done at the beginnings of its last two half windows.
#[derive(Default)]
pub struct Recent(Mutex<Option<(Instant, Totals, Totals)>>);

impl Recent {
    /// To be called often.
    pub fn note(&self, window: Duration, totals: impl FnOnce() -> Totals) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *kept {
            Some((at, ..)) if at.elapsed() < window / 2 => {}
            Some((at, older, newer)) => {
                *older = std::mem::replace(newer, totals());
                *at = Instant::now();
            }
            None => *kept = Some((Instant::now(), Totals::default(), totals())),
        }
    }

    fn last_window(&self, now: &Totals) -> Totals {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map_or_else(|| now.clone(), |(_, older, _)| now.since(older))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tally::Tally, *};

    #[test]
    fn many_traps_in_few_streams_are_too_many() {
        for (streams, traps, limit, wanted) in [
            (10, 2, 3, false),
            (10, 3, 3, true),
            (300, 3, 3, true),
            (301, 3, 3, false),
            (10_000, 100, 3, true),
            (0, 3, 3, true),
            (0, 0, 1, false),
        ] {
            assert_eq!(too_many(streams, traps, limit), wanted, "{streams} {traps} {limit}");
        }
    }

    /// Streams, those with 5xx, traps, and the time of its callbacks in microseconds.
    fn totals((streams, errors, traps, micros): (u64, u64, u64, u64)) -> Totals {
        let tally = Tally::default();
        for n in 0..streams {
            tally.ended(if n < errors { 500 } else { 200 });
            tally.ran(Duration::from_micros(micros));
        }
        Totals::of([&tally].into_iter(), traps)
    }

    #[test]
    fn a_version_is_compared_with_the_other_one() {
        let rules = |traps, share_5xx, millis| Rollback { traps, share_5xx, latency: Duration::from_millis(millis), ..Rollback::default() };
        let fine = (1000, 0, 0, 10);
        // The rules; whether it is a canary; the new version, the old one; what is said.
        for (rules, canary, new, old, wanted) in [
            (rules(3, None, 0), true, fine, fine, ""),
            (rules(3, None, 0), false, (100, 0, 3, 10), fine, "trapped 3 times within 100"),
            (rules(3, None, 0), false, (1000, 0, 3, 10), fine, ""),
            (rules(0, None, 0), false, (100, 0, 100, 10), fine, ""),
            // 5xx: by default of canaries alone, and more than 20 points.
            (rules(3, None, 0), true, (100, 21, 0, 10), fine, "21% of its 100 streams were answered with 5xx, 0%"),
            (rules(3, None, 0), true, (100, 20, 0, 10), fine, ""),
            (rules(3, None, 0), true, (100, 90, 0, 10), (1000, 700, 0, 10), ""),
            (rules(3, None, 0), true, (99, 99, 0, 10), fine, ""),
            (rules(3, None, 0), true, (100, 100, 0, 10), (99, 0, 0, 10), ""),
            (rules(3, None, 0), false, (1000, 1000, 0, 10), fine, ""),
            (rules(3, Some(0), 0), true, (1000, 1000, 0, 10), fine, ""),
            (rules(3, Some(5), 0), false, (1000, 60, 0, 10), fine, "6% of its 1000"),
            // Latency: only where it is asked for.
            (rules(3, None, 0), true, (1000, 0, 0, 90_000), fine, ""),
            (rules(3, None, 5), true, (1000, 0, 0, 9000), fine, "99th percentile"),
            (rules(3, None, 5), false, (1000, 0, 0, 9000), (1000, 0, 0, 8000), ""),
            (rules(3, None, 5), false, (50, 0, 0, 9000), fine, ""),
        ] {
            let said = failure(&rules, canary, &totals(new), &totals(old)).map(|f| f.to_string()).unwrap_or_default();
            assert!(said.contains(wanted) && said.is_empty() == wanted.is_empty(), "{rules:?} {new:?} {old:?}: {said}");
        }
    }
}
