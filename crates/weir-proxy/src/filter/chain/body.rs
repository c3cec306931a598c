//! Bodies and trailers on their way through the filters.
use super::{Chain, Filter, FilterState, Flow, Hold, Part, Stop, Trailers};
use crate::stream::Direction;
use std::borrow::Cow;

impl Chain {
    /// Body bytes have come; `end`: the last ones, and no trailers follow.
    pub fn data(&mut self, d: Direction, data: &[u8], end: bool) {
        self.fed[d as usize] = true;
        self.data_from(d, 0, data, end);
    }

    pub(super) fn data_from(&mut self, d: Direction, from: usize, data: &[u8], end: bool) {
        let mut data = Cow::Borrowed(data);
        for k in from..self.filters.len() {
            let p = self.position(d, k);
            let st = self.state(d, k);
            if st.cut {
                return;
            }
            st.end_came |= end;
            self.cx.stream.held[d as usize].borrow_mut()[p].extend_from_slice(&data);
            if self.state(d, k).hold == Hold::All {
                self.check(d, k);
                return;
            }
            if self.is_whole(d, k) {
                self.check(d, k);
                if !end || self.too_large.is_some() {
                    return;
                }
            }
            if end {
                self.cx.stream.trailers_open[d as usize].set(true);
            }
            self.state(d, k).whole_shown = true;
            let flow = self.call(d, k, Part::Body, end);
            let Some(flow) = self.accept(flow) else { return };
            if self.hold_data(d, k, &flow) {
                self.check(d, k);
                return;
            }
            data = Cow::Owned(self.take_held(d, k));
            if self.state(d, k).hold == Hold::Head {
                // Going on in the body lets the head go on too.
                self.state(d, k).hold = Hold::No;
                self.head_from(d, k + 1, false);
                if !self.head_reached(d, k + 1) {
                    return;
                }
            }
            self.state(d, k).end_passed |= end;
        }
        let trailers = self.cx.stream.trailers[d as usize].borrow();
        let out = &mut self.out[d as usize];
        out.body.extend_from_slice(&data);
        if end && !out.end {
            out.end = true;
            // A plugin may have added trailers with the last bytes.
            out.trailers = !trailers.is_empty();
        }
    }

    /// Keeps body bytes at a filter that stops them.
    fn hold_data(&mut self, d: Direction, k: usize, flow: &Flow) -> bool {
        let Flow::Stop(stop) = flow else {
            self.state(d, k).stopped = false;
            return false;
        };
        let st = self.state(d, k);
        st.stopped = true;
        match stop {
            Stop::Watermark | Stop::AllAndWatermark => st.watermark = true,
            Stop::Iteration | Stop::AllAndBuffer => st.watermark = false,
            Stop::NoBuffer => {
                if !self.take_held(d, k).is_empty() {
                    self.cx.stream.edited[d as usize].set(Some(self.position(d, k)));
                }
            }
        }
        true
    }

    /// Whether a head that was sent on has arrived at filter `k` (or behind the last).
    fn head_reached(&self, d: Direction, k: usize) -> bool {
        self.states[d as usize].get(k).map_or(self.out[d as usize].head, |s| s.head_came)
    }

    /// The trailers have come; they end the body.
    pub fn trailers(&mut self, d: Direction) {
        self.cx.stream.trailers_open[d as usize].set(true);
        self.trailers_from(d, 0);
    }

    pub(super) fn trailers_from(&mut self, d: Direction, from: usize) {
        for k in from..self.filters.len() {
            if self.state(d, k).cut {
                return;
            }
            if self.state(d, k).hold == Hold::All {
                self.state(d, k).trailers = Trailers::Unseen;
                return;
            }
            if self.awaits_whole(d, k) {
                self.state(d, k).whole_shown = true;
                let flow = self.call(d, k, Part::Body, false);
                let Some(flow) = self.accept(flow) else { return };
                if self.hold_data(d, k, &flow) {
                    self.state(d, k).trailers = Trailers::Unseen;
                    return;
                }
            }
            let flow = self.call(d, k, Part::Trailers, true);
            let Some(flow) = self.accept(flow) else { return };
            if let Flow::Stop(_) = flow {
                self.state(d, k).trailers = Trailers::Held;
                return;
            }
            let st = self.state(d, k);
            st.trailers = Trailers::Passed;
            let held_head = st.hold == Hold::Head;
            (st.hold, st.stopped) = (Hold::No, false);
            if held_head {
                self.head_from(d, k + 1, false);
            }
            let data = self.take_held(d, k);
            if !data.is_empty() {
                self.data_from(d, k + 1, &data, false);
            }
        }
        let out = &mut self.out[d as usize];
        (out.end, out.trailers) = (true, true);
    }

    fn check(&mut self, d: Direction, k: usize) {
        if !self.state(d, k).watermark && self.held(d, k) > self.limit(d, k) && self.too_large.is_none() {
            let position = self.position(d, k);
            if let Filter::Wasm(plugin) = self.filter(d, k) {
                plugin.count_overflow();
            }
            self.too_large = Some((d, self.cx.rt.filters.name(position).to_string()));
        }
    }

    /// A plugin's own word for its stream goes before its configuration.
    fn limit(&self, d: Direction, k: usize) -> usize {
        match (self.cx.stream.held_limit[d as usize].get(), self.filter(d, k)) {
            (usize::MAX, Filter::Wasm(plugin)) => plugin.limit(),
            (usize::MAX, _) => self.cx.rt.config().limits.buffer_limit_bytes as usize,
            (asked, _) => asked,
        }
    }

    /// Whether more body bytes may come in: nothing is over its limit.
    pub fn has_room(&self, d: Direction, out_limit: usize) -> bool {
        let full = |(k, s): (usize, &FilterState)| {
            s.watermark && (s.stopped || s.hold == Hold::All) && self.held(d, k) >= self.limit(d, k).min(out_limit)
        };
        self.out[d as usize].body.len() < out_limit && !self.states[d as usize].iter().enumerate().any(full)
    }
}
