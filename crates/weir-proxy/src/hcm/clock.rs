//! The deadlines of one stream behind the one deadline of its connection.
use weir_net::timer::Deadline;

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// No byte moved in either direction.
    Idle,
    /// The request did not arrive whole.
    Request,
    /// The route's time is up.
    Route,
    /// The time of one try is up.
    Try,
}

/// How many times within its length an idle timeout looks for progress.
const LOOKS: u64 = 4;

/// In nanoseconds of the worker's clock; `u64::MAX` is never.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub request: u64,
    pub route: u64,
    pub per_try: u64,
    /// The client's own deadline (`grpc-timeout`), even if the answer has begun by then.
    pub deadline: u64,
    /// How long after the end of the request the route's time and that of a try are up.
    route_after: u64,
    try_after: u64,
    idle: u64,
    idle_check: u64,
    still: u64,
    /// Changes with every byte that moves.
    progress: u64,
    /// At the last check.
    seen: u64,
}

impl Clock {
    pub fn new(now: u64, idle: u64) -> Clock {
        let never = u64::MAX;
        let (request, route, per_try, deadline, route_after, try_after) = (never, never, never, never, never, never);
        let mut c =
            Clock { request, route, per_try, deadline, route_after, try_after, idle, idle_check: never, still: 0, progress: 0, seen: 0 };
        c.set_idle(now, idle);
        c
    }
    pub fn set_idle(&mut self, now: u64, idle: u64) {
        (self.idle, self.still) = (idle, 0);
        self.idle_check = if idle == u64::MAX { idle } else { now.saturating_add(idle / LOOKS) };
    }
    /// The route's time, which begins with the end of the request (`request_end`, 0 before it).
    pub fn set_route(&mut self, request_end: u64, now: u64, time: u64) {
        self.route_after = time;
        self.route = if request_end == 0 { u64::MAX } else { now.saturating_add(time) };
    }
    /// When the whole request is late, as far as known.
    pub fn whole(&self) -> u64 {
        self.route.min(self.deadline)
    }
    /// Removes all limits but the idle timeout.
    pub fn unbind(&mut self) {
        (self.request, self.route, self.per_try, self.deadline) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    }
    /// The time of one try, likewise.
    pub fn set_try(&mut self, request_end: u64, now: u64, time: u64) {
        self.try_after = time;
        self.per_try = if request_end == 0 { u64::MAX } else { now.saturating_add(time) };
    }
    /// There is no try.
    pub fn end_try(&mut self) {
        (self.per_try, self.try_after) = (u64::MAX, u64::MAX);
    }
    /// The whole request has come.
    pub fn request_read(&mut self, now: u64) {
        self.request = u64::MAX;
        self.route = now.saturating_add(self.route_after);
        self.per_try = now.saturating_add(self.try_after);
    }
    pub fn arm(&self, deadline: &Deadline) {
        deadline.set(self.request.min(self.route).min(self.per_try).min(self.deadline).min(self.idle_check));
    }
    /// Bytes have moved.
    pub fn add_progress(&mut self, bytes: u64) {
        self.progress = self.progress.wrapping_add(bytes);
    }
    /// To be asked when the deadline has expired: which deadline it was. `None`: bytes have moved, and the deadline is armed again.
    pub fn late(&mut self, now: u64, deadline: &Deadline) -> Option<Late> {
        let found = match now {
            _ if now >= self.whole() => Some(Late::Route),
            _ if now >= self.per_try => Some(Late::Try),
            _ if now >= self.request => Some(Late::Request),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        if now >= self.idle_check {
            self.still = if self.seen == self.progress { self.still + 1 } else { 0 };
            self.seen = self.progress;
            if self.still >= LOOKS {
                return Some(Late::Idle);
            }
            self.idle_check = now.saturating_add(self.idle / LOOKS);
        }
        self.arm(deadline);
        None
    }
}

/// The value of `grpc-timeout` in nanoseconds: at most eight digits and a unit. `None` for anything else.
pub fn grpc_timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let unit: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let fits = matches!(digits.len(), 1..=8) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0')).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn timeouts_of_grpc() {
        for (text, want) in [
            ("1S", Some(1_000_000_000)),
            ("250m", Some(250_000_000)),
            ("7u", Some(7_000)),
            ("0n", Some(0)),
            ("2M", Some(120_000_000_000)),
            ("99999999H", Some(u64::MAX)),
            ("123456789m", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1 S", None),
            ("1s", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn a_stream_is_idle_only_while_nothing_moves() {
        let timers = Rc::new(weir_net::timer::Timers::default());
        let deadline = timers.deadline();
        let mut c = Clock::new(0, 400);
        for now in (100..2000).step_by(100) {
            c.add_progress(1);
            assert_eq!(c.late(now, &deadline), None);
        }
        let idle = (2000..9000).step_by(100).find(|now| c.late(*now, &deadline).is_some());
        assert!((2300..=2500).contains(&idle.unwrap_or(0)), "{idle:?}");
        let mut c = Clock::new(0, u64::MAX);
        (c.route, c.per_try) = (300, 200);
        assert_eq!((c.late(100, &deadline), c.late(250, &deadline), c.late(300, &deadline)), (None, Some(Late::Try), Some(Late::Route)));
    }
}
