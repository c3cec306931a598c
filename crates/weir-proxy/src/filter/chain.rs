//! The filters of one stream: what each of them has seen, what it holds, and what may pass.
//!
//! Each filter has a state in each direction. A head, body bytes, the end and trailers arrive at a filter, are shown to it, and go on to
//! the next filter or stay. What has passed the last one waits in `out` to be forwarded. The response meets the filters in reverse order.
//!
//! A filter's configuration is that of the route at the moment when the request reaches the filter. Filters are known outside by their
//! positions in the list of the connection manager, so that one keeps its number when the request gets another route.
use super::{Filter, FilterConfig, FilterContext, Flow, Part, Stop};
use crate::{
    info::Flags,
    plugin::{PluginSlot, Waiting, WorkerPlugins},
    reply::Reply,
    route::RouteRt,
    stream::{Direction, Event, Reached},
};
use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    rc::Rc,
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
    wants_body: [bool; 2],
    /// Part of the body has gone through the chain, so the rest must too.
    fed: [bool; 2],
}

impl Chain {
    /// The filters that run on a request of this route.
    pub fn new(cx: FilterContext, route: Option<Arc<RouteRt>>) -> Chain {
        let mut filters = Vec::new();
        cx.rt.filters.chosen(0, route.as_ref().map(|r| &r.filters), |position, config| {
            filters.push(Active { position, filter: Filter::new(config) });
        });
        Chain::with(cx, route, filters)
    }

    fn with(cx: FilterContext, route: Option<Arc<RouteRt>>, filters: Vec<Active>) -> Chain {
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
            wants_body: [false; 2],
            fed: [false; 2],
        }
    }

    /// Notes whether any filter wants the body, which may depend on the head.
    fn note_wants(&mut self, d: Direction) {
        let wants = |f: &Filter| (f.wants(d, Part::Body) || f.wants(d, Part::Trailers)) && !self.skips(d, f);
        self.wants_body[d as usize] = self.filters.iter().any(|a| wants(&a.filter));
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

    /// To be called when the head of the request is about to leave. Whether the request has got another route on its way.
    pub fn settle_route(&mut self) -> Result<bool, Ended> {
        if self.cx.stream.route_stale.get() && self.find_route() {
            let all = self.cx.rt.filters.len();
            self.ask_again(all);
        }
        match self.reply.take() {
            Some((reply, flags)) => Err(Ended::Reply(reply, flags)),
            None => Ok(std::mem::take(&mut self.rerouted)),
        }
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
        let Active { position: p, filter } = &mut self.filters[index];
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
            let flow = self.call(d, k, Part::Headers, end);
            let Some(flow) = self.accept(flow) else {
                self.state(d, k).hold = Hold::All;
                return;
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

    /// Before the head of the request reaches a filter.
    fn prepare(&mut self, k: usize, end: bool) -> Prepared {
        // The route decides nothing about plugins, but about filters before this one.
        let plugin = matches!(self.filters[k].filter, Filter::Wasm(_));
        let next = k.checked_sub(1).map_or(0, |before| self.filters[before].position + 1);
        if self.cx.stream.route_stale.get() && (!plugin || next < self.filters[k].position) {
            return if self.follow_route(k) { Prepared::Rerouted } else { Prepared::Waits };
        }
        if !plugin || self.plugins_entered {
            return Prepared::Ready;
        }
        let Some(plugins) = self.cx.plugins.upgrade() else { return Prepared::Ready };
        let Some(waiting) = plugins.missing(self.plugins()) else {
            return if self.enter_plugins(&plugins) { Prepared::Ready } else { Prepared::Waits };
        };
        self.work = Work::Plugins(Box::pin(wait(waiting, plugins.clone(), self.plugins().cloned().collect())), k, end);
        let st = self.state(Direction::Request, k);
        (st.head_came, st.hold, st.watermark) = (true, Hold::All, true);
        st.end_came |= end;
        Prepared::Waits
    }

    /// Those that run on this stream.
    fn plugins(&self) -> impl Iterator<Item = &Arc<PluginSlot>> {
        self.filters.iter().filter_map(|a| if let Filter::Wasm(plugin) = &a.filter { Some(plugin.slot()) } else { None })
    }

    /// Enters all plugins. `false`: one that must run cannot.
    fn enter_plugins(&mut self, plugins: &WorkerPlugins) -> bool {
        self.plugins_entered = true;
        for Active { position, filter } in &mut self.filters {
            let Filter::Wasm(plugin) = filter else { continue };
            if let Err(details) = plugin.start(&self.cx, plugins, *position) {
                self.reply = Some((Reply::new(503, details), Flags::default()));
                return false;
            }
        }
        true
    }

    /// Looks for the route again, since a plugin has changed what it depends on. Filters from number `k` on follow the new route.
    /// `false`: the request is refused.
    fn follow_route(&mut self, k: usize) -> bool {
        if !self.find_route() {
            return true;
        }
        let passed = k.checked_sub(1).map_or(0, |last| self.filters[last].position + 1);
        if !self.ask_again(passed) {
            return false;
        }
        // A plugin stays, since it may have been entered.
        let behind = self.filters.split_off(k);
        self.filters.extend(behind.into_iter().filter(|a| matches!(a.filter, Filter::Wasm(_))));
        self.cx.rt.filters.chosen(passed, self.route.as_ref().map(|r| &r.filters), |position, config| {
            if !matches!(config, FilterConfig::Wasm(_)) {
                self.filters.push(Active { position, filter: Filter::new(config) });
            }
        });
        self.filters.sort_by_key(|a| a.position);
        self.states.iter_mut().for_each(|states| states.resize_with(self.filters.len(), FilterState::default));
        true
    }

    /// Whether the request has another route now.
    fn find_route(&mut self) -> bool {
        self.cx.stream.route_stale.set(false);
        let rt = &self.cx.rt;
        let route = rt.table.find(&*self.cx.stream.req.borrow(), rt.config().strip_any_host_port).1;
        if route.map(Arc::as_ptr) == self.route.as_ref().map(Arc::as_ptr) {
            return false;
        }
        (self.route, self.rerouted) = (route.cloned(), true);
        true
    }

    /// Asks those filters before a position that decide who is let in, with their configurations for the new route. `false`: one of them
    /// refuses the request.
    fn ask_again(&mut self, passed: usize) -> bool {
        for position in 0..passed {
            let config = self.cx.rt.filters.config(position, self.route.as_ref().map(|r| &r.filters));
            let Some(mut guard) = config.map(Filter::new).filter(Filter::guards) else { continue };
            if let Flow::Reply(reply, flags) = guard.decode_headers(&self.cx, false) {
                self.reply = Some((*reply, flags));
                return false;
            }
        }
        true
    }

    /// Body bytes have come; `end`: the last ones, and no trailers follow.
    pub fn data(&mut self, d: Direction, data: &[u8], end: bool) {
        self.fed[d as usize] = true;
        self.data_from(d, 0, data, end);
    }

    fn data_from(&mut self, d: Direction, from: usize, data: &[u8], end: bool) {
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
            if end {
                self.cx.stream.trailers_open[d as usize].set(true);
            }
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

    fn trailers_from(&mut self, d: Direction, from: usize) {
        for k in from..self.filters.len() {
            if self.state(d, k).cut {
                return;
            }
            if self.state(d, k).hold == Hold::All {
                self.state(d, k).trailers = Trailers::Unseen;
                return;
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

    /// The filter lets its stream go on.
    fn resume(&mut self, d: Direction, k: usize) {
        let st = self.state(d, k);
        let (hold, stopped, trailers) = (st.hold, st.stopped, st.trailers);
        let ends = st.end_came && !st.end_passed;
        (st.hold, st.stopped) = (Hold::No, false);
        let empty = self.held(d, k) == 0;
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
        self.filters.iter_mut().for_each(|a| a.filter.end());
    }
}

/// Waits until all plugins have started or failed to, for at most [`Waiting::patience`].
async fn wait(waiting: Waiting, plugins: Rc<WorkerPlugins>, slots: Vec<Arc<PluginSlot>>) {
    waiting.count();
    let until = tokio::time::Instant::now() + waiting.patience();
    let mut next = Some(waiting);
    while let Some(waiting) = next {
        if tokio::time::timeout_at(until, waiting.over()).await.is_err() {
            return;
        }
        next = plugins.missing(&slots);
    }
}

#[cfg(test)]
pub(super) mod tests;
