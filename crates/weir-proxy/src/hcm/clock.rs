//! The deadlines of one stream behind the one lane of its connection.
use weir_net::timer::Lane;

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
    /// How long after the end of the request the route's time and that of a try are up.
    route_after: u64,
    try_after: u64,
    idle: u64,
    idle_check: u64,
    still: u64,
    progress: u64,
}

impl Clock {
    pub fn new(now: u64, idle: u64) -> Clock {
        let never = u64::MAX;
        let (request, route, per_try, route_after, try_after) = (never, never, never, never, never);
        let mut c = Clock { request, route, per_try, route_after, try_after, idle, idle_check: never, still: 0, progress: 0 };
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
    pub fn arm(&self, lane: &Lane) {
        lane.set(self.request.min(self.route).min(self.per_try).min(self.idle_check));
    }
    /// To be asked when the lane has expired: which deadline it was. `None`: bytes have moved, and the lane is armed anew.
    /// `progress` changes with every byte.
    pub fn late(&mut self, now: u64, progress: u64, lane: &Lane) -> Option<Late> {
        let found = match now {
            _ if now >= self.route => Some(Late::Route),
            _ if now >= self.per_try => Some(Late::Try),
            _ if now >= self.request => Some(Late::Request),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        if now >= self.idle_check {
            self.still = if progress == self.progress { self.still + 1 } else { 0 };
            self.progress = progress;
            if self.still >= LOOKS {
                return Some(Late::Idle);
            }
            self.idle_check = now.saturating_add(self.idle / LOOKS);
        }
        self.arm(lane);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_stream_is_idle_only_while_nothing_moves() {
        let timers = Rc::new(weir_net::timer::Timers::default());
        let lane = timers.lane();
        let mut c = Clock::new(0, 400);
        let mut progress = 0;
        for now in (100..2000).step_by(100) {
            progress += 1;
            assert_eq!(c.late(now, progress, &lane), None);
        }
        let idle = (2000..9000).step_by(100).find(|now| c.late(*now, progress, &lane).is_some());
        assert!((2300..=2500).contains(&idle.unwrap_or(0)), "{idle:?}");
        let mut c = Clock::new(0, u64::MAX);
        (c.route, c.per_try) = (300, 200);
        assert_eq!((c.late(100, 0, &lane), c.late(250, 0, &lane), c.late(300, 0, &lane)), (None, Some(Late::Try), Some(Late::Route)));
    }
}
