//! The filters of one stream: what each of them has seen, what it holds, and what may pass.
//!
//! Each filter has a state in each direction. A head, body bytes, the end and trailers arrive at a filter, are shown to it, and go on to
//! the next filter or stay. What has passed the last one waits in `out` to be forwarded. The response meets the filters in reverse order.
//!
//! Filters are numbered by their positions in the list of the connection manager, so that a plugin keeps its number whatever the route
//! disables. A filter's configuration is that of the route at the moment when the request reaches the filter.
use super::{Filter, FilterContext, Flow, Part, Stop};
use crate::{
    info::Flags,
    plugin::{PluginSlot, Waiting, WorkerPlugins},
    route::RouteRt,
    stream::{Direction, Event, Reached, Reply},
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
    /// The decision of the filter at this position.
    Filter(usize),
    /// The start of plugins. Then the filter at this position is shown the head; with `true` if the head is all there is.
    Plugins(Pin<Box<dyn Future<Output = ()>>>, usize, bool),
}

pub struct Chain {
    cx: FilterContext,
    route: Option<Arc<RouteRt>>,
    /// By position; `None` for those that the route does not run.
    filters: Vec<Option<Filter>>,
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
        let list = &cx.rt.filters;
        let overrides = route.as_ref().map(|r| &r.filters);
        let filters = list.positions().map(|position| list.config(position, overrides).map(Filter::new)).collect();
        Chain::with(cx, route, filters)
    }

    fn with(cx: FilterContext, route: Option<Arc<RouteRt>>, filters: Vec<Option<Filter>>) -> Chain {
        let n = filters.len();
        let states = || (0..n).map(|_| FilterState::default()).collect();
        for d in 0..2 {
            cx.stream.held[d].borrow_mut().resize_with(n, Vec::new);
        }
        let mut chain = Chain {
            cx,
            route,
            filters,
            states: [states(), states()],
            out: Default::default(),
            work: Work::None,
            plugins_entered: false,
            skips_plugins: false,
            rerouted: false,
            reply: None,
            too_large: None,
            wants_body: [false; 2],
            fed: [false; 2],
        };
        chain.note_wants(Direction::Request);
        chain
    }

    /// Notes whether any filter wants the body, which may depend on the head.
    fn note_wants(&mut self, d: Direction) {
        let wants = |f: &Filter| (f.wants(d, Part::Body) || f.wants(d, Part::Trailers)) && !self.skips(d, f);
        self.wants_body[d as usize] = self.filters.iter().flatten().any(wants);
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
        let resizes = |f: &Filter| matches!(f, Filter::Wasm(f) if f.resizes(d));
        let will = || self.wants_body(d) && !self.out[d as usize].head_ends && self.filters.iter().flatten().any(resizes);
        self.cx.stream.edited[d as usize].get().is_some() || will()
    }

    /// Notes that the length of the body differs from that in its head. Returns the name of the filter that changed it last.
    pub fn has_resized(&self, d: Direction) -> Option<String> {
        let position = self.cx.stream.edited[d as usize].get()?;
        if let Some(Some(Filter::Wasm(plugin))) = self.filters.get(position) {
            plugin.has_resized(d);
        }
        Some(self.cx.rt.filters.name(position).to_string())
    }

    /// To be called when the head of the request is about to leave. Whether the request has got another route on its way.
    pub fn settle_route(&mut self) -> Result<bool, Ended> {
        self.follow_route();
        match self.reply.take() {
            Some((reply, flags)) => Err(Ended::Reply(reply, flags)),
            None => Ok(std::mem::take(&mut self.rerouted)),
        }
    }

    /// The position of the filter that a direction meets as number `k`.
    fn position(&self, d: Direction, k: usize) -> usize {
        match d {
            Direction::Request => k,
            Direction::Response => self.filters.len() - 1 - k,
        }
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
        let p = self.position(d, k);
        let Some(filter) = &mut self.filters[p] else { return Flow::Continue };
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
            (Direction::Response, Part::Trailers) => filter.encode_trailers(),
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
        for k in from..self.filters.len() {
            if d == Direction::Request && !self.prepare(k, end) {
                return;
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
        }
        if d == Direction::Request && !self.follow_route() {
            return;
        }
        let out = &mut self.out[d as usize];
        out.head = true;
        out.head_ends = end;
        out.end |= end;
    }

    /// Keeps the head at a filter that stops it.
    fn hold_head(&mut self, d: Direction, k: usize, flow: &Flow) -> bool {
        let Flow::Stop(stop) = flow else { return false };
        let p = self.position(d, k);
        let st = &mut self.states[d as usize][k];
        (st.hold, st.watermark) = match stop {
            Stop::AllAndBuffer => (Hold::All, false),
            Stop::AllAndWatermark => (Hold::All, true),
            Stop::Iteration | Stop::Watermark | Stop::NoBuffer => (Hold::Head, st.watermark),
        };
        // What ends with the head goes on with the head.
        st.end_passed = false;
        if self.filters[p].as_ref().is_some_and(Filter::is_working) {
            self.work = Work::Filter(p);
        }
        true
    }

    /// Before the head of the request reaches a filter. `false`: it waits there, or the stream ends.
    fn prepare(&mut self, k: usize, end: bool) -> bool {
        match &self.filters[k] {
            Some(Filter::Wasm(_)) if !self.plugins_entered => {
                let Some(plugins) = self.cx.plugins.upgrade() else { return true };
                let Some(waiting) = plugins.missing(self.plugins()) else { return self.enter_plugins() };
                self.work = Work::Plugins(Box::pin(wait(waiting, plugins, self.plugins().cloned().collect())), k, end);
                let st = self.state(Direction::Request, k);
                (st.head_came, st.hold, st.watermark) = (true, Hold::All, true);
                st.end_came |= end;
                false
            }
            // The route decides nothing about plugins that were entered.
            Some(Filter::Wasm(_)) => true,
            _ => self.follow_route(),
        }
    }

    /// Those that run on this stream.
    fn plugins(&self) -> impl Iterator<Item = &Arc<PluginSlot>> {
        self.filters.iter().flatten().filter_map(|f| if let Filter::Wasm(plugin) = f { Some(plugin.slot()) } else { None })
    }

    /// Enters all plugins. `false`: one that must run cannot.
    fn enter_plugins(&mut self) -> bool {
        self.plugins_entered = true;
        let Some(plugins) = self.cx.plugins.upgrade() else { return true };
        for (position, filter) in self.filters.iter_mut().enumerate() {
            let Some(Filter::Wasm(plugin)) = filter else { continue };
            if let Err(details) = plugin.start(&self.cx, &plugins, position) {
                self.reply = Some((Reply::new(503, details), Flags::default()));
                return false;
            }
        }
        self.note_wants(Direction::Request);
        true
    }

    /// Looks for the route again if a plugin has changed what it depends on. Filters that the request has not reached follow the new
    /// route, and those that let the request in are asked again. `false`: one of them refuses it.
    fn follow_route(&mut self) -> bool {
        if !self.cx.stream.route_stale.replace(false) {
            return true;
        }
        let rt = self.cx.rt.clone();
        let route = rt.table.find(&*self.cx.stream.req.borrow(), rt.config().strip_any_host_port).1.cloned();
        if route.as_ref().map(Arc::as_ptr) == self.route.as_ref().map(Arc::as_ptr) {
            return true;
        }
        (self.route, self.rerouted) = (route, true);
        let route = self.route.clone();
        for position in 0..self.filters.len() {
            let reached = self.states[0][position].head_came;
            let mut new = rt.filters.config(position, route.as_ref().map(|r| &r.filters)).map(Filter::new);
            match (&self.filters[position], &mut new) {
                (Some(Filter::Wasm(_)), _) | (_, Some(Filter::Wasm(_))) => {}
                (_, Some(new)) if reached && new.guards() => {
                    if let Flow::Reply(reply, flags) = new.decode_headers(&self.cx, false) {
                        self.reply = Some((*reply, flags));
                        return false;
                    }
                }
                _ if reached => {}
                _ => self.filters[position] = new,
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
            if self.filters[p].is_none() {
                self.state(d, k).end_passed |= end;
                continue;
            }
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
    fn resume(&mut self, d: Direction, position: usize) {
        let k = self.position(d, position);
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

    /// The filter at `position`, which has held the head of the request, has decided.
    fn decide(&mut self, position: usize, flow: Flow) {
        let d = Direction::Request;
        let Some(flow) = self.accept(flow) else { return };
        if let Flow::ContinueAndEndStream = flow {
            self.take_held(d, position);
            let st = self.state(d, position);
            (st.hold, st.cut, st.end_passed) = (Hold::No, true, true);
            self.head_from(d, position + 1, true);
        } else if !self.hold_head(d, position, &flow) {
            self.resume(d, position);
        } else if self.state(d, position).hold == Hold::Head && self.held(d, position) > 0 {
            self.data_from(d, position, &[], self.states[0][position].end_came);
        }
    }

    /// Goes on with the work that the head of the request waits for.
    fn poll_work(&mut self, cx: &mut Context) {
        loop {
            match std::mem::replace(&mut self.work, Work::None) {
                Work::None => return,
                Work::Filter(position) => {
                    let Some(filter) = &mut self.filters[position] else { return };
                    match filter.poll(cx) {
                        Poll::Ready(flow) => self.decide(position, flow),
                        Poll::Pending => return self.work = Work::Filter(position),
                    }
                }
                Work::Plugins(mut started, position, end) => {
                    if started.as_mut().poll(cx).is_pending() {
                        return self.work = Work::Plugins(started, position, end);
                    }
                    if self.enter_plugins() {
                        let flow = self.call(Direction::Request, position, Part::Headers, end);
                        self.decide(position, flow);
                    }
                }
            }
        }
    }

    /// Bytes that a plugin puts into the response behind itself.
    fn inject(&mut self, position: usize, data: &[u8], end: bool) {
        let d = Direction::Response;
        let k = self.position(d, position);
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
            if let Some(Filter::Wasm(plugin)) = &self.filters[position] {
                plugin.count_overflow();
            }
            self.too_large = Some((d, self.cx.rt.filters.name(position).to_string()));
        }
    }

    /// A plugin's own word for its stream goes before its configuration.
    fn limit(&self, d: Direction, k: usize) -> usize {
        match (self.cx.stream.held_limit[d as usize].get(), &self.filters[self.position(d, k)]) {
            (usize::MAX, Some(Filter::Wasm(plugin))) => plugin.limit(),
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
                Some(Event::Resume { plugin, direction }) => self.resume(direction, plugin),
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
        self.filters.iter_mut().flatten().for_each(Filter::end);
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
