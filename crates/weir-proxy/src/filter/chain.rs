//! The filters of one stream: what each of them has seen, what it holds, and what may pass.
//!
//! Each filter has a state in each direction. A head, body bytes, the end and trailers arrive at a filter, are shown to it, and go on to
//! the next filter or stay. What has passed the last one waits in `out` to be forwarded. The response meets the filters in reverse order.
//!
//! A filter's configuration is that of the route at the moment when the request reaches the filter. Filters are known outside by their
//! positions in the list of the connection manager, so that one keeps its number when the request gets another route.
mod body;
mod route;

use super::{BodyMode, Filter, FilterConfig, FilterContext, Flow, Part, Stop};
use crate::{
    info::Flags,
    reply::Reply,
    route::RouteRt,
    stream::{Direction, Event, Reached},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

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
    /// The end has come, and has gone on.
    end_came: bool,
    end_passed: bool,
    trailers: Trailers,
    /// The filter wants the whole body and was shown it.
    whole_shown: bool,
    /// Nothing more goes on: the filter ended the stream with the head.
    cut: bool,
}

/// What has passed all filters of one direction.
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
pub enum Ended {
    Reply(Reply, Flags),
    Reset,
    /// More than the filter of this name may hold.
    TooLarge(Direction, String),
}

/// What the head of the request waits for at one filter.
enum Work {
    None,
    /// The decision of this filter.
    Filter(usize),
    /// The start of plugins. Then this filter is shown the head; with `true` if the head is all there is.
    Plugins(Pin<Box<dyn Future<Output = ()>>>, usize, bool),
}

/// A filter that runs, with its position in the list.
struct Active {
    position: usize,
    filter: Filter,
    /// Of the request and the response.
    bodies: [BodyMode; 2],
}

impl Active {
    fn new(position: usize, config: &FilterConfig) -> Active {
        Active { position, filter: Filter::new(config), bodies: config.bodies() }
    }
}

/// Whether the head of the request goes into a filter.
enum Prepared {
    Ready,
    /// Other filters come next.
    Rerouted,
    /// It waits, or the stream ends.
    Waits,
}

pub struct Chain {
    cx: FilterContext,
    route: Option<Arc<RouteRt>>,
    /// In the order of the list.
    filters: Vec<Active>,
    states: [Vec<FilterState>; 2],
    pub out: [Out; 2],
    work: Work,
    /// The request has reached the first plugin, and all plugins were entered.
    plugins_entered: bool,
    /// Plugins see no more of the response.
    skips_plugins: bool,
    rerouted: bool,
    reply: Option<(Reply, Flags)>,
    too_large: Option<(Direction, String)>,
    /// What any filter may want of the bodies.
    bodies: [BodyMode; 2],
    wants_body: [bool; 2],
    /// Part of the body has gone through the chain, so the rest must too.
    fed: [bool; 2],
}

impl Chain {
    /// The filters that run on a request of this route.
    pub fn new(cx: FilterContext, route: Option<Arc<RouteRt>>) -> Chain {
        let mut filters = Vec::new();
        cx.rt.filters.chosen(0, route.as_ref().map(|r| &r.filters), |position, config| {
            filters.push(Active::new(position, config));
        });
        let bodies = cx.rt.filters.bodies(route.as_ref().map(|r| &r.filters));
        Chain::with(cx, route, filters, bodies)
    }

    fn with(cx: FilterContext, route: Option<Arc<RouteRt>>, filters: Vec<Active>, bodies: [BodyMode; 2]) -> Chain {
        let states = || filters.iter().map(|_| FilterState::default()).collect();
        for held in &cx.stream.held {
            held.borrow_mut().resize_with(cx.rt.filters.len(), Vec::new);
        }
        Chain {
            cx,
            route,
            states: [states(), states()],
            filters,
            out: Default::default(),
            work: Work::None,
            plugins_entered: false,
            skips_plugins: false,
            rerouted: false,
            reply: None,
            too_large: None,
            bodies,
            wants_body: [false; 2],
            fed: [false; 2],
        }
    }

    /// Notes whether any filter wants the body. Of the filters that may want it, the head can leave none.
    fn note_wants(&mut self, d: Direction) {
        if self.bodies[d as usize] == BodyMode::None {
            return;
        }
        let wants = |f: &Filter| (f.wants(d, Part::Body) || f.wants(d, Part::Trailers)) && !self.skips(d, f);
        self.wants_body[d as usize] = self.filters.iter().any(|a| wants(&a.filter));
    }

    /// Whether the filter is to be shown the body as one piece.
    fn is_whole(&self, d: Direction, k: usize) -> bool {
        let Active { filter, bodies, .. } = &self.filters[self.index(d, k)];
        bodies[d as usize] == BodyMode::Whole && filter.wants(d, Part::Body)
    }

    /// Whether the filter has yet to be shown that piece.
    fn awaits_whole(&self, d: Direction, k: usize) -> bool {
        self.is_whole(d, k) && !self.states[d as usize][k].whole_shown
    }

    /// Whether the filter is a plugin that must not see this response.
    fn skips(&self, d: Direction, filter: &Filter) -> bool {
        self.skips_plugins && d == Direction::Response && matches!(filter, Filter::Wasm(_))
    }

    /// Whether the body goes through the chain: a filter wants to see it, has added bytes to it, or has cut it off. A body that no
    /// filter wants to see is left unread while a filter holds its head.
    pub fn wants_body(&self, d: Direction) -> bool {
        self.wants_body[d as usize] || self.fed[d as usize] || self.states[d as usize].iter().any(|s| s.cut)
    }

    /// Whether the head can be sent on. `sized`: it gives the length of the body. Then it waits for the first bytes that pass, since
    /// a filter that changes the body changes its length.
    pub fn is_ready(&self, d: Direction, sized: bool) -> bool {
        let out = &self.out[d as usize];
        out.head && (!sized || out.end || !out.body.is_empty() || !self.wants_body(d) || self.is_unsized(d))
    }

    /// Whether the head must not give the length of the body: a plugin has changed it, or is known to do so.
    pub fn is_unsized(&self, d: Direction) -> bool {
        let resizes = |a: &Active| matches!(&a.filter, Filter::Wasm(f) if f.resizes(d));
        let will = || self.wants_body(d) && !self.out[d as usize].head_ends && self.filters.iter().any(resizes);
        self.cx.stream.edited[d as usize].get().is_some() || will()
    }

    /// Notes that the length of the body differs from that in its head. Returns the name of the filter that changed it last.
    pub fn has_resized(&self, d: Direction) -> Option<String> {
        let position = self.cx.stream.edited[d as usize].get()?;
        if let Some(Filter::Wasm(plugin)) = self.filters.iter().find(|a| a.position == position).map(|a| &a.filter) {
            plugin.has_resized(d);
        }
        Some(self.cx.rt.filters.name(position).to_string())
    }

    /// Which filter a direction meets as number `k`, and back.
    fn index(&self, d: Direction, k: usize) -> usize {
        match d {
            Direction::Request => k,
            Direction::Response => self.filters.len() - 1 - k,
        }
    }

    fn filter(&self, d: Direction, k: usize) -> &Filter {
        &self.filters[self.index(d, k)].filter
    }

    fn position(&self, d: Direction, k: usize) -> usize {
        self.filters[self.index(d, k)].position
    }

    /// As what number a direction meets the filter at a position.
    fn number(&self, d: Direction, position: usize) -> Option<usize> {
        let found = self.filters.iter().position(|a| a.position == position)?;
        Some(self.index(d, found))
    }

    fn state(&mut self, d: Direction, k: usize) -> &mut FilterState {
        &mut self.states[d as usize][k]
    }

    fn held(&self, d: Direction, k: usize) -> usize {
        self.cx.held(d, self.position(d, k))
    }

    fn take_held(&self, d: Direction, k: usize) -> Vec<u8> {
        std::mem::take(&mut self.cx.stream.held[d as usize].borrow_mut()[self.position(d, k)])
    }

    /// Whether a reply or a reset waits to be carried out.
    fn is_ending(&self) -> bool {
        self.reply.is_some() || self.cx.stream.is_ending()
    }

    fn call(&mut self, d: Direction, k: usize, part: Part, end: bool) -> Flow {
        let index = self.index(d, k);
        let Active { position: p, filter, .. } = &mut self.filters[index];
        let p = *p;
        let skipped = self.skips_plugins && d == Direction::Response && matches!(filter, Filter::Wasm(_));
        if skipped || !filter.wants(d, part) {
            return Flow::Continue;
        }
        match (d, part) {
            (Direction::Request, Part::Headers) => filter.decode_headers(&self.cx, end),
            (Direction::Request, Part::Body) => filter.decode_data(&self.cx, p, end),
            (Direction::Request, Part::Trailers) => filter.decode_trailers(),
            (Direction::Response, Part::Headers) => filter.encode_headers(&self.cx, end),
            (Direction::Response, Part::Body) => filter.encode_data(&self.cx, p, end),
            (Direction::Response, Part::Trailers) => filter.encode_trailers(&self.cx, p),
        }
    }

    /// Notes a reply of a filter. `None`: the stream ends here.
    fn accept(&mut self, flow: Flow) -> Option<Flow> {
        if let Flow::Reply(reply, flags) = flow {
            self.reply.get_or_insert((*reply, flags));
            return None;
        }
        (!self.is_ending()).then_some(flow)
    }

    /// The head has come.
    pub fn head(&mut self, d: Direction, end: bool) {
        self.cx.stream.reached[d as usize].set(Reached::Head);
        self.head_from(d, 0, end);
    }

    fn head_from(&mut self, d: Direction, from: usize, end: bool) {
        self.pass_head(d, from, end);
        self.note_wants(d);
    }

    fn pass_head(&mut self, d: Direction, from: usize, mut end: bool) {
        let mut k = from;
        // The request may get more filters on its way.
        while k < self.filters.len() {
            if d == Direction::Request {
                match self.prepare(k, end) {
                    Prepared::Ready => {}
                    Prepared::Rerouted => continue,
                    Prepared::Waits => return,
                }
            }
            let st = self.state(d, k);
            st.head_came = true;
            st.end_came |= end;
            st.end_passed |= end;
            let number = self.index(d, k);
            self.filters[number].filter.before_head(&self.cx);
            let flow = self.call(d, k, Part::Headers, end);
            let Some(flow) = self.accept(flow) else {
                self.state(d, k).hold = Hold::All;
                return;
            };
            let flow = match flow {
                Flow::Continue if !end && self.is_whole(d, k) => Flow::Stop(Stop::Iteration),
                flow => flow,
            };
            if let Flow::ContinueAndEndStream = flow {
                self.state(d, k).cut = !end;
                end = true;
            }
            if self.hold_head(d, k, &flow) {
                return;
            }
            k += 1;
        }
        if d == Direction::Request && self.cx.stream.route_stale.get() {
            if !self.follow_route(k) {
                return;
            }
            if k < self.filters.len() {
                return self.pass_head(d, k, end);
            }
        }
        let out = &mut self.out[d as usize];
        out.head = true;
        out.head_ends = end;
        out.end |= end;
    }

    /// Keeps the head at a filter that stops it.
    fn hold_head(&mut self, d: Direction, k: usize, flow: &Flow) -> bool {
        let Flow::Stop(stop) = flow else { return false };
        let st = &mut self.states[d as usize][k];
        (st.hold, st.watermark) = match stop {
            Stop::AllAndBuffer => (Hold::All, false),
            Stop::AllAndWatermark => (Hold::All, true),
            Stop::Iteration | Stop::Watermark | Stop::NoBuffer => (Hold::Head, st.watermark),
        };
        // What ends with the head goes on with the head.
        st.end_passed = false;
        if self.filter(d, k).is_working() {
            self.work = Work::Filter(self.index(d, k));
        }
        true
    }

    /// The filter lets its stream go on.
    fn resume(&mut self, d: Direction, k: usize) {
        let st = self.state(d, k);
        let (hold, stopped, trailers) = (st.hold, st.stopped, st.trailers);
        let ends = st.end_came && !st.end_passed;
        (st.hold, st.stopped) = (Hold::No, false);
        let empty = self.held(d, k) == 0;
        if hold != Hold::No && !(ends && empty && trailers == Trailers::None) && self.awaits_whole(d, k) {
            // The head goes on when the filter has seen the body.
            self.state(d, k).hold = Hold::Head;
            return match trailers {
                Trailers::Unseen => self.trailers_from(d, k),
                _ if ends => self.data_from(d, k, &[], true),
                _ => {}
            };
        }
        if hold != Hold::No {
            let alone = ends && empty && trailers == Trailers::None;
            self.state(d, k).end_passed |= alone;
            self.head_from(d, k + 1, alone);
            if alone || self.is_ending() {
                return;
            }
        }
        match hold {
            // The filter is shown what came meanwhile.
            Hold::All if !empty || ends => self.data_from(d, k, &[], ends && trailers == Trailers::None),
            Hold::All => {}
            _ if hold == Hold::Head || stopped => {
                let data = self.take_held(d, k);
                let end = ends && trailers == Trailers::None;
                self.state(d, k).end_passed |= end;
                if !data.is_empty() || end {
                    self.data_from(d, k + 1, &data, end);
                }
            }
            _ => {}
        }
        match trailers {
            Trailers::Unseen => {
                self.state(d, k).trailers = Trailers::None;
                self.trailers_from(d, k);
            }
            Trailers::Held => {
                self.state(d, k).trailers = Trailers::Passed;
                self.trailers_from(d, k + 1);
            }
            _ => {}
        }
    }

    /// The filter that has held the head of the request has decided.
    fn decide(&mut self, k: usize, flow: Flow) {
        let d = Direction::Request;
        self.note_wants(d);
        let Some(flow) = self.accept(flow) else { return };
        if let Flow::ContinueAndEndStream = flow {
            self.take_held(d, k);
            let st = self.state(d, k);
            (st.hold, st.cut, st.end_passed) = (Hold::No, true, true);
            self.head_from(d, k + 1, true);
        } else if !self.hold_head(d, k, &flow) {
            self.resume(d, k);
        } else if self.state(d, k).hold == Hold::Head && self.held(d, k) > 0 {
            let end = self.state(d, k).end_came;
            self.data_from(d, k, &[], end);
        }
    }

    /// Goes on with the work that the head of the request waits for.
    fn poll_work(&mut self, cx: &mut Context) {
        loop {
            match std::mem::replace(&mut self.work, Work::None) {
                Work::None => return,
                Work::Filter(k) => match self.filters[k].filter.poll(cx) {
                    Poll::Ready(flow) => self.decide(k, flow),
                    Poll::Pending => return self.work = Work::Filter(k),
                },
                Work::Plugins(mut started, k, end) => {
                    if started.as_mut().poll(cx).is_pending() {
                        return self.work = Work::Plugins(started, k, end);
                    }
                    let Some(plugins) = self.cx.plugins.upgrade() else { return };
                    if self.enter_plugins(&plugins) {
                        self.filters[k].filter.before_head(&self.cx);
                        let flow = self.call(Direction::Request, k, Part::Headers, end);
                        self.decide(k, flow);
                    }
                }
            }
        }
    }

    /// Bytes that a plugin puts into the response behind itself.
    fn inject(&mut self, position: usize, data: &[u8], end: bool) {
        let d = Direction::Response;
        let Some(k) = self.number(d, position) else { return };
        let st = self.state(d, k);
        if !st.head_came || st.cut {
            return;
        }
        self.cx.stream.edited[d as usize].set(Some(position));
        self.fed[d as usize] = true;
        let st = self.state(d, k);
        if st.hold != Hold::No {
            st.hold = Hold::No;
            self.head_from(d, k + 1, false);
        }
        if end {
            let st = self.state(d, k);
            (st.end_passed, st.cut) = (true, true);
        }
        self.data_from(d, k + 1, data, end);
    }

    /// Carries out what filters have asked for.
    pub fn run_events(&mut self, cx: &mut Context) -> Result<(), Ended> {
        self.poll_work(cx);
        loop {
            if let Some((reply, flags)) = self.reply.take() {
                return Err(Ended::Reply(reply, flags));
            }
            if let Some((d, filter)) = self.too_large.take() {
                return Err(Ended::TooLarge(d, filter));
            }
            match self.cx.stream.next_event() {
                None => {
                    self.cx.stream.unsent.set(self.out[Direction::Response as usize].body.len());
                    return Ok(());
                }
                Some(Event::Reply(r)) => return Err(Ended::Reply(r, Flags::default())),
                Some(Event::Reset) => return Err(Ended::Reset),
                Some(Event::Resume { direction: Direction::Response, .. } | Event::Inject { .. }) if self.skips_plugins => {}
                Some(Event::Resume { plugin, direction }) => {
                    if let Some(k) = self.number(direction, plugin) {
                        self.resume(direction, k);
                    }
                }
                Some(Event::Inject { plugin, data, end }) => self.inject(plugin, &data, end),
            }
        }
    }

    /// Forgets what has come of a response, for another one in its place. `plugins`: whether they are shown that one.
    pub fn restart_response(&mut self, plugins: bool) {
        let d = Direction::Response as usize;
        self.states[d].iter_mut().for_each(|s| *s = FilterState::default());
        let stream = &self.cx.stream;
        stream.held[d].borrow_mut().iter_mut().for_each(Vec::clear);
        stream.trailers[d].borrow_mut().clear();
        stream.trailers_open[d].set(false);
        stream.edited[d].set(None);
        self.fed[d] = false;
        self.out[d] = Out::default();
        self.too_large = None;
        self.work = Work::None;
        self.skips_plugins = !plugins;
    }

    /// Every filter learns that the stream is over.
    pub fn end(&mut self) {
        let status = self.cx.stream.info.borrow().status;
        self.filters.iter_mut().for_each(|a| a.filter.end(status));
    }
}

#[cfg(test)]
pub(super) mod tests;
