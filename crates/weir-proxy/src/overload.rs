//! The overload manager: near the memory limit of the process it refuses new requests, then new connections (Envoy's actions
//! `stop_accepting_requests` and `stop_accepting_connections`).
mod cgroup;

use crate::app_log::Logger;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often the memory is measured.
const INTERVAL: Duration = Duration::from_millis(250);
/// Percent of the limit from which requests, then connections, are refused.
const STOP_REQUESTS: u64 = 95;
const STOP_CONNECTIONS: u64 = 98;
/// Percent of the limit by which the memory must fall below these until they are accepted again, so that a load at the limit does
/// not change it with every measurement.
const MARGIN: u64 = 3;

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Level {
    Nothing,
    Requests,
    Connections,
}

impl Level {
    fn of(pressure: u64) -> Level {
        match pressure {
            STOP_CONNECTIONS.. => Level::Connections,
            STOP_REQUESTS.. => Level::Requests,
            _ => Level::Nothing,
        }
    }
    /// The level after `self` at this pressure: it rises at once and falls with a margin.
    fn next(self, pressure: u64) -> Level {
        let holds = Level::of(pressure.saturating_add(MARGIN)).min(self);
        Level::of(pressure).max(holds)
    }
}

pub struct Overload {
    /// Bytes of memory that the process may have.
    pub limit: Option<u64>,
    /// Percent of it that are in use.
    pressure: AtomicU64,
    level: AtomicU8,
}

impl Overload {
    /// Uses the given limit, or that of the process's cgroup.
    pub fn new(limit: Option<u64>) -> Overload {
        let limit = limit.or_else(cgroup::memory_limit).filter(|n| *n > 0);
        Overload { limit, pressure: AtomicU64::new(0), level: AtomicU8::new(Level::Nothing as u8) }
    }
    fn level(&self) -> Level {
        match (self.refuses_requests(), self.refuses_connections()) {
            (_, true) => Level::Connections,
            (true, false) => Level::Requests,
            (false, false) => Level::Nothing,
        }
    }
    pub fn refuses_requests(&self) -> bool {
        self.level.load(Relaxed) >= Level::Requests as u8
    }
    pub fn refuses_connections(&self) -> bool {
        self.level.load(Relaxed) >= Level::Connections as u8
    }
    /// In percent of the limit; 0 without one.
    pub fn pressure(&self) -> u64 {
        self.pressure.load(Relaxed)
    }

    fn set(&self, used: u64, limit: u64) {
        let pressure = used.saturating_mul(100) / limit.max(1);
        self.pressure.store(pressure, Relaxed);
        let before = self.level();
        let level = before.next(pressure);
        if before == level {
            return;
        }
        self.level.store(level as u8, Relaxed);
        let refused = match level {
            Level::Nothing => "requests and connections are accepted again",
            Level::Requests => "new requests are refused",
            Level::Connections => "new requests and connections are refused",
        };
        Logger::Main.warning(format_args!("memory is at {pressure}% of the limit of {limit} bytes: {refused}"));
    }
}

/// Watches the memory of the process as long as the runtime lives; returns at once without a limit.
pub(crate) async fn watch(overload: Arc<Overload>) {
    let Some(limit) = overload.limit else { return };
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Some(used) = resident() {
            overload.set(used, limit);
        }
    }
}

/// Resident memory of the process in bytes.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_before_connections() {
        let o = Overload::new(Some(1000));
        for (used, pressure, requests, connections) in [
            (0, 0, false, false),
            (949, 94, false, false),
            (950, 95, true, false),
            (980, 98, true, true),
            (2000, 200, true, true),
            (979, 97, true, true),
            (950, 95, true, true),
            (949, 94, true, false),
            (920, 92, true, false),
            (980, 98, true, true),
            (919, 91, false, false),
            (949, 94, false, false),
            (950, 95, true, false),
            (500, 50, false, false),
        ] {
            o.set(used, 1000);
            assert_eq!((o.pressure(), o.refuses_requests(), o.refuses_connections()), (pressure, requests, connections), "{used}");
        }
        assert!(resident().is_some_and(|n| n > 1 << 20));
    }
}
