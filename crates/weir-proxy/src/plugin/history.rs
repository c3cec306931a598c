//! The versions that a plugin has had, the newest first.
use super::{Generation, tally::Totals};
use serde::{Serialize, Serializer};
use std::time::SystemTime;

/// Kept of each plugin.
const MAX_VERSIONS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Serving,
    /// By the next one in the list, or its object is gone.
    Replaced,
    RolledBack,
    /// It never served.
    Refused,
}

#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// Of the generation; none for one that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    #[serde(serialize_with = "unix")]
    pub since: SystemTime,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten)]
    pub usage: Usage,
}

/// What a version has done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    pub streams: u64,
    pub traps: u64,
    pub responses_5xx: u64,
    pub callbacks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_p99_us: Option<f64>,
}

impl Usage {
    pub fn of(totals: &Totals) -> Usage {
        let micros = |percent| totals.quantile(percent).map(|t| (t.as_nanos() as f64 / 100.0).round() / 10.0);
        Usage {
            streams: totals.streams,
            traps: totals.traps,
            responses_5xx: totals.errors,
            callbacks: totals.calls(),
            callback_p50_us: micros(50),
            callback_p99_us: micros(99),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct History(Vec<Version>);

impl History {
    /// `before` gives way to the next one.
    pub fn ended(&mut self, before: &Generation, outcome: Outcome, reason: Option<String>) {
        if let Some(version) = self.0.iter_mut().find(|v| v.generation == Some(before.number) && v.outcome == Outcome::Serving) {
            (version.outcome, version.reason) = (outcome, reason);
        }
        self.measure(before);
    }

    pub fn serves(&mut self, generation: &Generation) {
        self.push(Version {
            generation: Some(generation.number),
            digest: generation.digest.clone(),
            since: generation.since,
            outcome: Outcome::Serving,
            reason: None,
            usage: Usage::default(),
        });
    }

    /// One that is tried again and again is there once.
    pub fn refused(&mut self, reason: &str) {
        if self.0.first().is_some_and(|v| v.outcome == Outcome::Refused && v.reason.as_deref() == Some(reason)) {
            return;
        }
        self.push(Version {
            generation: None,
            digest: String::new(),
            since: SystemTime::now(),
            outcome: Outcome::Refused,
            reason: Some(reason.into()),
            usage: Usage::default(),
        });
    }

    /// Brings the counts of a version up to date.
    pub fn measure(&mut self, generation: &Generation) {
        if let Some(version) = self.0.iter_mut().find(|v| v.generation == Some(generation.number)) {
            version.usage = Usage::of(&generation.totals());
        }
    }

    fn push(&mut self, version: Version) {
        self.0.truncate(MAX_VERSIONS - 1);
        self.0.insert(0, version);
    }
}

/// In seconds since 1970.
pub(super) fn unix<S: Serializer>(time: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}
