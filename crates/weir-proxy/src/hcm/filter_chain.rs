//! The chain of plugins of one stream: what each of them has seen, what it holds, and what may pass.
//!
//! Each plugin is a state_of in each direction. A head, body bytes, the end and trailers arrive at a state_of, are shown to
//! its plugin, and go on to the next state_of or stay. What has passed the last one waits in `out` to be forwarded. The
//! response meets the plugins in reverse order.
use crate::{
    plugin::PluginStream,
    stream::{Direction, Event, Reached, Reply, Stream},
};
use std::{borrow::Cow, rc::Rc};
use weir_wasm::Action;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Headers,
    Body,
    Trailers,
}

/// One plugin on one stream.
pub trait Filter {
    /// Whether the plugin has this callback at all.
    fn wants(&self, direction: Direction, part: Part) -> bool;
    /// Calls it. `size`: body bytes it can read.
    fn call(&mut self, direction: Direction, part: Part, size: usize, end: bool) -> Action;
    /// The stream is over; called once.
    fn end(&mut self);
    /// Body bytes that it may hold, unless it has asked for another limit itself.
    fn limit(&self) -> usize {
        usize::MAX
    }
    /// Called when it wanted to hold more.
    fn overflow(&self) {}
    /// For answers and messages.
    fn name(&self) -> String {
        String::new()
    }
    /// Whether it is known to change the length of bodies after their heads.
    fn resizes(&self, _: Direction) -> bool {
        false
    }
    /// Called when it has done so.
    fn has_resized(&self, _: Direction) {}
}

impl Filter for PluginStream {
    fn wants(&self, direction: Direction, part: Part) -> bool {
        let c = self.callbacks();
        match (direction, part) {
            (Direction::Request, Part::Headers) => c.request_headers,
            (Direction::Request, Part::Body) => c.request_body,
            (Direction::Request, Part::Trailers) => c.request_trailers,
            (Direction::Response, Part::Headers) => c.response_headers,
            (Direction::Response, Part::Body) => c.response_body,
            (Direction::Response, Part::Trailers) => c.response_trailers,
        }
    }
    fn call(&mut self, direction: Direction, part: Part, size: usize, end: bool) -> Action {
        match (direction, part) {
            (Direction::Request, Part::Headers) => self.on_request_headers(end),
            (Direction::Request, Part::Body) => self.on_request_body(size, end),
            (Direction::Request, Part::Trailers) => self.on_request_trailers(),
            (Direction::Response, Part::Headers) => self.on_response_headers(end),
            (Direction::Response, Part::Body) => self.on_response_body(size, end),
            (Direction::Response, Part::Trailers) => self.on_response_trailers(),
        }
    }
    fn end(&mut self) {
        PluginStream::end(self);
    }
    fn limit(&self) -> usize {
        self.limits().body_buffer_bytes as usize
    }
    fn overflow(&self) {
        self.body_overflow();
    }
    fn name(&self) -> String {
        PluginStream::name(self).to_string()
    }
    fn resizes(&self, direction: Direction) -> bool {
        PluginStream::resizes(self, direction)
    }
    fn has_resized(&self, direction: Direction) {
        PluginStream::has_resized(self, direction);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Hold {
    #[default]
    No,
    /// The head stays, body callbacks go on.
    Head,
    /// Nothing is shown until resumed.
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Trailers {
    #[default]
    None,
    /// Not shown yet.
    Unseen,
    Held,
    Passed,
}

#[derive(Default)]
struct FilterState {
    head_came: bool,
    hold: Hold,
    /// Body bytes stay until resumed.
    stopped: bool,
    /// They stay with back-pressure; otherwise too many are an error.
    watermark: bool,
    /// Bytes came that the plugin was not shown.
    unseen: bool,
    /// The end has come, and has gone on.
    end_came: bool,
    end_passed: bool,
    trailers: Trailers,
    /// Nothing more goes on: the plugin ended the stream with the head.
    cut: bool,
}

/// What has passed all plugins of one direction.
#[derive(Default)]
pub struct Out {
    pub head: bool,
    /// The head is all there is.
    pub head_ends: bool,
    pub body: Vec<u8>,
    pub end: bool,
    pub trailers: bool,
}

/// Why a stream cannot go on.
#[derive(Debug)]
pub enum Stop {
    Reply(Reply),
    Reset,
    /// More than the plugin of this name may hold.
    TooLarge(Direction, String),
}

pub struct Chain {
    stream: Rc<Stream>,
    filters: Vec<Box<dyn Filter>>,
    states: [Vec<FilterState>; 2],
    pub out: [Out; 2],
    too_large: Option<(Direction, String)>,
    wants_body: [bool; 2],
    /// Part of the body has gone through the chain, so the rest must too.
    fed: [bool; 2],
}

impl Chain {
    pub fn new(stream: Rc<Stream>, filters: Vec<Box<dyn Filter>>) -> Chain {
        let n = filters.len();
        let wants = |d| filters.iter().any(|f| f.wants(d, Part::Body) || f.wants(d, Part::Trailers));
        let wants_body = [wants(Direction::Request), wants(Direction::Response)];
        let states = || (0..n).map(|_| FilterState::default()).collect();
        for d in 0..2 {
            stream.held[d].borrow_mut().resize_with(n, Vec::new);
        }
        Chain { states: [states(), states()], out: Default::default(), too_large: None, wants_body, fed: [false; 2], stream, filters }
    }
    /// Whether the body goes through the chain: a plugin wants to see it, has added bytes to it, or has cut it off. A body that no
    /// plugin wants to see is left unread while a plugin holds its head.
    pub fn wants_body(&self, d: Direction) -> bool {
        self.wants_body[d as usize] || self.fed[d as usize] || self.states[d as usize].iter().any(|s| s.cut)
    }
    /// Whether the head can be sent on. `sized`: it gives the length of the body. Then it waits for the first bytes that pass, since
    /// a plugin that changes the body changes its length.
    pub fn is_ready(&self, d: Direction, sized: bool) -> bool {
        let out = &self.out[d as usize];
        out.head && (!sized || out.end || !out.body.is_empty() || !self.wants_body(d) || self.is_unsized(d))
    }
    /// Whether the head must not give the length of the body: a plugin has changed it, or is known to do so.
    pub fn is_unsized(&self, d: Direction) -> bool {
        let will = || self.wants_body(d) && !self.out[d as usize].head_ends && self.filters.iter().any(|f| f.resizes(d));
        self.stream.edited[d as usize].get().is_some() || will()
    }
    /// Notes that the length of the body differs from that in its head. Returns the name of the plugin that changed it last.
    pub fn has_resized(&self, d: Direction) -> Option<String> {
        let by = self.filters.get(self.stream.edited[d as usize].get()?)?;
        by.has_resized(d);
        Some(by.name())
    }
    /// Which plugin the state_of is.
    fn plugin(&self, d: Direction, k: usize) -> usize {
        match d {
            Direction::Request => k,
            Direction::Response => self.filters.len() - 1 - k,
        }
    }
    fn state_of(&mut self, d: Direction, k: usize) -> &mut FilterState {
        &mut self.states[d as usize][k]
    }
    fn held(&self, d: Direction, k: usize) -> usize {
        self.stream.held[d as usize].borrow()[self.plugin(d, k)].len()
    }
    fn take_held(&self, d: Direction, k: usize) -> Vec<u8> {
        std::mem::take(&mut self.stream.held[d as usize].borrow_mut()[self.plugin(d, k)])
    }
    fn call(&mut self, d: Direction, k: usize, part: Part, size: usize, end: bool) -> Action {
        let p = self.plugin(d, k);
        if !self.filters[p].wants(d, part) {
            return Action::Continue;
        }
        self.filters[p].call(d, part, size, end)
    }

    /// The head has come.
    pub fn head(&mut self, d: Direction, end: bool) {
        self.stream.reached[d as usize].set(Reached::Head);
        self.head_from(d, 0, end);
    }

    fn head_from(&mut self, d: Direction, from: usize, mut end: bool) {
        for k in from..self.filters.len() {
            let st = self.state_of(d, k);
            st.head_came = true;
            st.end_came |= end;
            st.end_passed |= end;
            let action = self.call(d, k, Part::Headers, 0, end);
            if self.stream.is_ending() {
                self.state_of(d, k).hold = Hold::All;
                return;
            }
            let st = self.state_of(d, k);
            match action {
                Action::StopIteration => st.hold = Hold::Head,
                Action::StopAllIterationAndBuffer => (st.hold, st.watermark) = (Hold::All, false),
                Action::StopAllIterationAndWatermark => (st.hold, st.watermark) = (Hold::All, true),
                Action::ContinueAndEndStream => {
                    st.cut = !end;
                    end = true;
                }
                _ => {}
            }
            if self.state_of(d, k).hold != Hold::No {
                // What ends with the head goes on with the head.
                self.state_of(d, k).end_passed = false;
                return;
            }
        }
        let out = &mut self.out[d as usize];
        out.head = true;
        out.head_ends = end;
        out.end |= end;
    }

    /// Body bytes have come; `end`: the last ones, and no trailers follow.
    pub fn data(&mut self, d: Direction, data: &[u8], end: bool) {
        self.fed[d as usize] = true;
        self.data_from(d, 0, data, end);
    }

    fn data_from(&mut self, d: Direction, from: usize, data: &[u8], end: bool) {
        let mut data = Cow::Borrowed(data);
        for k in from..self.filters.len() {
            let st = self.state_of(d, k);
            if st.cut {
                return;
            }
            st.end_came |= end;
            let p = self.plugin(d, k);
            self.stream.held[d as usize].borrow_mut()[p].extend_from_slice(&data);
            if self.state_of(d, k).hold == Hold::All {
                self.state_of(d, k).unseen |= !data.is_empty();
                self.check(d, k);
                return;
            }
            if end {
                self.stream.trailers_open[d as usize].set(true);
            }
            let size = self.held(d, k);
            let action = self.call(d, k, Part::Body, size, end);
            if self.stream.is_ending() {
                return;
            }
            let st = self.state_of(d, k);
            match action {
                Action::Continue | Action::ContinueAndEndStream => st.stopped = false,
                Action::StopIterationAndWatermark => (st.stopped, st.watermark) = (true, true),
                Action::StopIterationNoBuffer => {
                    st.stopped = true;
                    if !self.take_held(d, k).is_empty() {
                        self.stream.edited[d as usize].set(Some(p));
                    }
                }
                _ => (st.stopped, st.watermark) = (true, false),
            }
            if self.state_of(d, k).stopped {
                self.check(d, k);
                return;
            }
            data = Cow::Owned(self.take_held(d, k));
            if self.state_of(d, k).hold == Hold::Head {
                // Going on in the body lets the head go on too.
                self.state_of(d, k).hold = Hold::No;
                self.head_from(d, k + 1, false);
                if !self.head_reached(d, k + 1) {
                    return;
                }
            }
            self.state_of(d, k).end_passed |= end;
        }
        let trailers = self.stream.trailers[d as usize].borrow();
        let out = &mut self.out[d as usize];
        out.body.extend_from_slice(&data);
        if end && !out.end {
            out.end = true;
            // A plugin may have added trailers with the last bytes.
            out.trailers = !trailers.is_empty();
        }
    }

    /// Whether a head that was sent on has arrived at state_of `k` (or behind the last).
    fn head_reached(&self, d: Direction, k: usize) -> bool {
        self.states[d as usize].get(k).map_or(self.out[d as usize].head, |s| s.head_came)
    }

    /// The trailers have come; they end the body.
    pub fn trailers(&mut self, d: Direction) {
        self.stream.trailers_open[d as usize].set(true);
        self.trailers_from(d, 0);
    }

    fn trailers_from(&mut self, d: Direction, from: usize) {
        for k in from..self.filters.len() {
            if self.state_of(d, k).cut {
                return;
            }
            if self.state_of(d, k).hold == Hold::All {
                self.state_of(d, k).trailers = Trailers::Unseen;
                return;
            }
            let action = self.call(d, k, Part::Trailers, 0, true);
            if self.stream.is_ending() {
                return;
            }
            if action.stops() {
                self.state_of(d, k).trailers = Trailers::Held;
                return;
            }
            let st = self.state_of(d, k);
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

    /// The plugin lets its stream go on.
    fn resume(&mut self, d: Direction, p: usize) {
        let k = self.plugin(d, p);
        let st = self.state_of(d, k);
        let (hold, stopped, trailers) = (st.hold, st.stopped, st.trailers);
        let ends = st.end_came && !st.end_passed;
        (st.hold, st.stopped) = (Hold::No, false);
        let empty = self.held(d, k) == 0;
        if hold != Hold::No {
            let alone = ends && empty && trailers == Trailers::None;
            self.state_of(d, k).end_passed |= alone;
            self.head_from(d, k + 1, alone);
            if alone || self.stream.is_ending() {
                return;
            }
        }
        match hold {
            // The plugin is shown what came meanwhile.
            Hold::All if !empty || ends => self.data_from_self(d, k, ends && trailers == Trailers::None),
            Hold::All => {}
            _ if hold == Hold::Head || stopped => {
                let data = self.take_held(d, k);
                let end = ends && trailers == Trailers::None;
                self.state_of(d, k).end_passed |= end;
                if !data.is_empty() || end {
                    self.data_from(d, k + 1, &data, end);
                }
            }
            _ => {}
        }
        match trailers {
            Trailers::Unseen => {
                self.state_of(d, k).trailers = Trailers::None;
                self.trailers_from(d, k);
            }
            Trailers::Held => {
                self.state_of(d, k).trailers = Trailers::Passed;
                self.trailers_from(d, k + 1);
            }
            _ => {}
        }
    }

    fn data_from_self(&mut self, d: Direction, k: usize, end: bool) {
        self.state_of(d, k).unseen = false;
        self.data_from(d, k, &[], end);
    }

    /// Bytes that a plugin puts into the response behind itself.
    fn inject(&mut self, p: usize, data: &[u8], end: bool) {
        let d = Direction::Response;
        let k = self.plugin(d, p);
        let st = self.state_of(d, k);
        if !st.head_came || st.cut {
            return;
        }
        self.stream.edited[d as usize].set(Some(p));
        self.fed[d as usize] = true;
        let st = self.state_of(d, k);
        if st.hold != Hold::No {
            st.hold = Hold::No;
            self.head_from(d, k + 1, false);
        }
        if end {
            let st = self.state_of(d, k);
            (st.end_passed, st.cut) = (true, true);
        }
        self.data_from(d, k + 1, data, end);
    }

    fn check(&mut self, d: Direction, k: usize) {
        if !self.state_of(d, k).watermark && self.held(d, k) > self.limit(d, k) && self.too_large.is_none() {
            let filter = &self.filters[self.plugin(d, k)];
            filter.overflow();
            self.too_large = Some((d, filter.name()));
        }
    }

    /// A plugin's own word for its stream goes before its configuration.
    fn limit(&self, d: Direction, k: usize) -> usize {
        match self.stream.held_limit[d as usize].get() {
            usize::MAX => self.filters[self.plugin(d, k)].limit(),
            asked => asked,
        }
    }

    /// Whether more body bytes may come in: nothing is over its limit.
    pub fn has_room(&self, d: Direction, out_limit: usize) -> bool {
        let full = |(k, s): (usize, &FilterState)| {
            s.watermark && (s.stopped || s.hold == Hold::All) && self.held(d, k) >= self.limit(d, k).min(out_limit)
        };
        self.out[d as usize].body.len() < out_limit && !self.states[d as usize].iter().enumerate().any(full)
    }

    /// Carries out what plugins have asked for.
    pub fn run_events(&mut self) -> Result<(), Stop> {
        loop {
            if let Some((d, plugin)) = self.too_large.take() {
                return Err(Stop::TooLarge(d, plugin));
            }
            match self.stream.next_event() {
                None => {
                    self.stream.unsent.set(self.out[Direction::Response as usize].body.len());
                    return Ok(());
                }
                Some(Event::Reply(r)) => return Err(Stop::Reply(r)),
                Some(Event::Reset) => return Err(Stop::Reset),
                Some(Event::Resume { plugin, direction }) => self.resume(direction, plugin),
                Some(Event::Inject { plugin, data, end }) => self.inject(plugin, &data, end),
            }
        }
    }

    /// Forgets what came of a response, for another one in its place.
    pub fn restart_response(&mut self) {
        let d = Direction::Response as usize;
        self.states[d].iter_mut().for_each(|s| *s = FilterState::default());
        self.stream.held[d].borrow_mut().iter_mut().for_each(Vec::clear);
        self.stream.trailers[d].borrow_mut().clear();
        self.stream.trailers_open[d].set(false);
        self.stream.edited[d].set(None);
        self.fed[d] = false;
        self.out[d] = Out::default();
        self.too_large = None;
    }

    /// Lets a reply through that plugins must not see again.
    pub fn bypass_response(&mut self, body: &[u8]) {
        self.restart_response();
        let d = Direction::Response as usize;
        self.states[d].iter_mut().for_each(|s| s.cut = true);
        let end = body.is_empty();
        self.out[d] = Out { head: true, head_ends: end, body: body.to_vec(), end: true, trailers: false };
    }

    /// Every plugin is told that the stream is over.
    pub fn end(&mut self) {
        self.filters.iter_mut().for_each(|f| f.end());
    }
}

#[cfg(test)]
mod tests;
