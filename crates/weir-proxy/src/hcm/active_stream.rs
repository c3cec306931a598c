//! One request and its response, from the parsed head to the access log.
use super::{
    After, Downstream, Hcm,
    clock::{Clock, Late},
    end::{End, bad},
    linger::linger,
    ns,
    state::{RequestState, ResponseState, Selected},
};
use crate::{
    detail::Detail,
    filter::{Chain, FilterContext, chain::Ended},
    head_access::host_without_port,
    info::Flags,
    reply::Reply,
    route::{ActionRt, RouteRt, rewrite::RedirectRt},
    snapshot::route_info,
    stream::{Direction, Reached, Stream},
    worker::Worker,
};
use std::{rc::Rc, task::Context};
use weir_net::http::{
    Known,
    body::{self, Framing},
    relay::{Peer, Reader},
};

pub(super) struct ActiveStream<'a> {
    pub c: &'a mut Downstream,
    pub w: &'a Rc<Worker>,
    pub hcm: &'a Rc<Hcm>,
    pub s: &'a Rc<Stream>,
    /// `None` without filters.
    pub chain: Option<Box<Chain>>,
    pub request: RequestState,
    pub response: ResponseState,
    pub selected: Selected,
    pub clock: Clock,
    /// Bytes on their way to the upstream, and to the client.
    pub out: Vec<u8>,
    pub back: Vec<u8>,
    /// The client speaks HTTP/2.
    pub h2: bool,
    /// Why it is over, where the code that noticed could not return it.
    pub over: Option<End>,
}

impl<'a> ActiveStream<'a> {
    /// `closing`: the connection ends with this request.
    pub fn new(c: &'a mut Downstream, w: &'a Rc<Worker>, hcm: &'a Rc<Hcm>, s: &'a Rc<Stream>, closing: bool) -> ActiveStream<'a> {
        let (out, back) = s.buffers.take();
        let h2 = c.peer.is_h2();
        let (start, version) = {
            let mut info = s.info.borrow_mut();
            let req = s.req.borrow();
            info.protocol = req.version;
            if h2 {
                info.header_bytes_received = req.headers.size() as u64;
            }
            (info.start, req.version)
        };
        let keep = !closing && !h2 && body::persists(&s.req.borrow().headers, version);
        let idle = ns(hcm.config().timeouts.stream_idle_timeout);
        hcm.stats.downstream_rq_total.inc();
        hcm.stats.downstream_rq_active.inc();
        ActiveStream {
            request: RequestState::new(Reader::new(Framing::NONE, &c.peer)),
            response: ResponseState::new(if keep { After::Keep } else { After::Close }),
            selected: Selected::default(),
            clock: Clock::new(start, idle),
            chain: None,
            out,
            back,
            h2,
            over: None,
            c,
            w,
            hcm,
            s,
        }
    }

    /// Serves the request; counts and logs it.
    pub async fn run(mut self) -> After {
        let served = self.serve().await;
        self.end(served).await
    }

    /// Answers a request that could not be read.
    pub async fn refuse(mut self, status: u16, details: Detail) -> After {
        self.response.after = After::Close;
        match status {
            431 => self.hcm.stats.downstream_rq_headers_too_large.inc(),
            408 => self.hcm.stats.downstream_rq_header_timeout.inc(),
            _ => self.hcm.stats.downstream_cx_protocol_error.inc(),
        }
        let flags = if status == 408 { Flags::default() } else { Flags::DOWNSTREAM_PROTOCOL_ERROR };
        self.s.req.borrow_mut().clear();
        self.end(Err(End::reply(status, flags, details))).await
    }

    async fn end(mut self, served: Result<After, End>) -> After {
        let after = match served {
            Ok(after) => after,
            Err(End::Reply(..)) if self.response.head_sent => self.cut(Flags::LOCAL_RESET, Detail::LocalResetAfterResponse),
            Err(End::Reply(reply, flags)) => {
                if let Some(cluster) = self.selected.cluster.as_ref().filter(|_| flags.has(Flags::OF_UPSTREAM)) {
                    cluster.stats.answered(reply.status);
                }
                self.reply(reply, flags).await
            }
            Err(End::Gone(flags, details)) => self.cut(flags, details),
        };
        self.finish();
        after
    }

    /// Ends without an answer: the client sees a broken connection or a reset stream.
    pub(super) fn cut(&mut self, flags: Flags, details: Detail) -> After {
        let mut info = self.s.info.borrow_mut();
        info.set_flag(flags);
        info.details = details;
        if flags.has(Flags::DOWNSTREAM_CONNECTION_TERMINATION | Flags::DOWNSTREAM_REMOTE_RESET) {
            self.hcm.stats.downstream_rq_rx_reset.inc();
        } else {
            self.hcm.stats.downstream_rq_tx_reset.inc();
        }
        if self.response.head_sent {
            self.hcm.stats.rq_reset_after_downstream_response_started.inc();
        }
        if let Peer::H2(stream) = &mut self.c.peer {
            stream.reset(h2::Reason::INTERNAL_ERROR);
        }
        After::Close
    }

    async fn serve(&mut self) -> Result<After, End> {
        let framing = match self.h2 {
            true => body::check_host(&self.s.req.borrow()).map(|()| Framing::NONE),
            false => body::of_request(&self.s.req.borrow()),
        };
        self.request.framing = framing.map_err(|e| {
            // Where the next request begins is not known.
            self.response.after = After::Close;
            bad(e)
        })?;
        self.request.reader = Reader::new(self.request.framing, &self.c.peer);
        if self.request.reader.is_done() {
            self.request_read_at(self.w.moment());
        }
        if self.w.is_overloaded.get() {
            self.response.after = After::Close;
            self.hcm.stats.downstream_rq_overload_close.inc();
            return Err(End::reply(503, Flags::OVERLOAD_MANAGER, Detail::Overload));
        }
        self.admit()?;
        if let Some(tls) = &self.c.conn.tls
            && self.hcm.rt.is_misdirected(tls.sni.as_deref(), host_without_port(self.s.req.borrow().authority()))
        {
            return Err(End::reply(421, Flags::default(), Detail::MisdirectedRequest));
        }
        self.find_route();
        self.begin_filters();
        if self.chain.is_some() {
            self.decode().await?;
            self.w.now();
        }
        self.hcm.stats.rq_total.inc();
        let Some(route) = self.selected.route.clone() else {
            self.hcm.stats.no_route.inc();
            return Err(End::reply(404, Flags::NO_ROUTE_FOUND, Detail::RouteNotFound));
        };
        match &route.action {
            ActionRt::Forward(forward) => self.forward(&route, forward).await,
            ActionRt::Redirect(redirect) => Err(self.redirect(&route, redirect)),
            ActionRt::Direct(direct) => {
                self.hcm.stats.rq_direct_response.inc();
                Err(End::Reply(Reply::new(direct.status, Detail::DirectResponse).body(direct.body.to_vec()), Flags::default()))
            }
        }
    }

    pub fn redirect(&self, route: &RouteRt, redirect: &RedirectRt) -> End {
        self.hcm.stats.rq_redirect.inc();
        let req = self.s.req.borrow();
        let mut location = Vec::new();
        let port = self.hcm.config().advertised_port.unwrap_or(self.c.conn.local.port());
        redirect.location(&*req, route.matched(req.path()), port, &mut location);
        End::Reply(Reply::new(redirect.status(), Detail::DirectResponse).header("location", &location), Flags::default())
    }

    pub fn find_route(&mut self) {
        let req = self.s.req.borrow();
        let (host, route) = self.hcm.rt.table.find(&*req, self.hcm.config().strip_any_host_port);
        self.selected.route = route.cloned();
        self.selected.attempt_count = host.is_some_and(|h| h.config().include_request_attempt_count);
        // Plugins ask for the names.
        if self.hcm.rt.filters.has_plugins {
            self.s.set_route(route_info(host.map(|h| &**h), route.map(|r| &**r)));
        }
    }

    /// Makes the filters of the request's route.
    fn begin_filters(&mut self) {
        let rt = &self.hcm.rt;
        if !rt.filters.is_used(self.selected.route.as_ref().map(|r| &r.filters)) {
            return;
        }
        // Nobody has asked for a limit: each plugin has its own.
        self.s.held_limit.iter().for_each(|l| l.set(usize::MAX));
        if rt.filters.has_plugins {
            *self.s.routes.borrow_mut() = Some(rt.clone());
        }
        let cx = FilterContext { stream: self.s.clone(), factory: self.hcm.filters.clone() };
        self.chain = Some(Box::new(Chain::new(cx, self.selected.route.clone())));
    }

    /// The filters have seen the whole head, or one has answered.
    async fn decode(&mut self) -> Result<(), End> {
        let ends = self.request.reader.is_done();
        if let Some(chain) = &mut self.chain {
            chain.head(Direction::Request, ends);
        }
        let deadline = self.clock;
        deadline.arm(&self.c.deadline);
        std::future::poll_fn(|cx| self.poll_decode(cx)).await?;
        let settled = self.chain.as_mut().map_or(Ok(false), |chain| chain.settle_route());
        if settled.map_err(|ended| self.ended(ended))? {
            self.find_route();
        }
        if self.chain.as_ref().is_some_and(|c| c.is_unsized(Direction::Request)) {
            // The new length, if it is known by now, is set with the framing.
            self.s.req.borrow_mut().headers.remove(Known::ContentLength);
        }
        Ok(())
    }

    /// What filters asked for, as the end of the exchange where it is one.
    pub fn run_events(&mut self, cx: &mut Context) -> Result<(), End> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if let Some(end) = self.over.take() {
            return Err(end);
        }
        self.s.watch(cx);
        chain.run_events(cx).map_err(|ended| self.ended(ended))
    }

    fn ended(&self, ended: Ended) -> End {
        match ended {
            Ended::Reply(reply, flags) => End::Reply(reply, flags),
            Ended::Reset => End::Gone(Flags::LOCAL_RESET, Detail::WasmCloseStream),
            Ended::TooLarge(direction, filter) => {
                let (status, details) = match direction {
                    Direction::Request => (413, Detail::RequestPayloadTooLarge),
                    Direction::Response => (500, Detail::ResponsePayloadTooLarge),
                };
                if direction == Direction::Request {
                    self.hcm.stats.downstream_rq_too_large.inc();
                }
                let body = format!("payload too large: the filter {filter} wants the whole body, which is over its limit\n");
                End::Reply(Reply::new(status, details).body(body.into_bytes()), Flags::default())
            }
        }
    }

    /// Ends the exchange when one of its deadlines has passed.
    pub fn check_clock(&mut self, cx: &Context) -> Result<(), Late> {
        if !self.c.deadline.expired(cx) {
            return Ok(());
        }
        match self.clock.late(self.w.now(), &self.c.deadline) {
            Some(late) => Err(late),
            None => Ok(()),
        }
    }

    /// What a passed deadline leads to.
    pub fn too_late(&self, late: Late) -> End {
        // DEADLINE_EXCEEDED, since gRPC clients retry UNAVAILABLE, which a 504 would become.
        let reply = |status, flags, details| {
            let reply = Reply { grpc_status: Some(4), ..Reply::new(status, details) };
            End::Reply(reply, flags)
        };
        match late {
            Late::Idle => {
                self.hcm.stats.downstream_rq_idle_timeout.inc();
                let status = if self.request.reader.is_done() { 504 } else { 408 };
                reply(status, Flags::STREAM_IDLE_TIMEOUT, Detail::StreamIdleTimeout)
            }
            Late::Request => {
                self.hcm.stats.downstream_rq_timeout.inc();
                reply(408, Flags::default(), Detail::RequestOverallTimeout)
            }
            Late::Route => {
                if let Some(cluster) = &self.selected.cluster {
                    cluster.stats.upstream_rq_timeout.inc();
                }
                reply(504, Flags::UPSTREAM_REQUEST_TIMEOUT, Detail::ResponseTimeout)
            }
            Late::Try => reply(504, Flags::UPSTREAM_REQUEST_TIMEOUT, Detail::UpstreamPerTryTimeout),
        }
    }

    /// At the end of each stream, once: plugins, statistics, access logs.
    fn finish(&mut self) {
        self.c.deadline.set(u64::MAX);
        let now = {
            let mut info = self.s.info.borrow_mut();
            if info.response_end == 0 {
                info.response_end = self.w.now();
            }
            info.end = info.response_end;
            info.end
        };
        self.s.reached.iter().for_each(|r| r.set(Reached::Sent));
        if let Some(mut chain) = self.chain.take() {
            chain.end();
            // A plugin may keep the stream alive, but the stream must not keep the configuration alive.
            *self.s.routes.borrow_mut() = None;
        }
        let info = self.s.info.borrow();
        let stats = &self.hcm.stats;
        stats.downstream_rq_active.dec();
        if info.status != 0 {
            stats.answered(info.status);
            if info.request_end == 0 && !info.flags.has(Flags::DOWNSTREAM_PROTOCOL_ERROR) {
                stats.downstream_rq_response_before_rq_complete.inc();
            }
        }
        stats.downstream_rq_time.record(now - info.start);
        stats.downstream_cx_rx_bytes_total.add(info.bytes_received + info.header_bytes_received);
        stats.downstream_cx_tx_bytes_total.add(info.bytes_sent + info.header_bytes_sent);
        self.log(&info);
        self.s.buffers.set((std::mem::take(&mut self.out), std::mem::take(&mut self.back)));
    }

    /// Ends the connection politely when nothing more is to come on it.
    pub async fn close(&mut self) -> After {
        let timeout = self.hcm.config().timeouts.delayed_close_timeout;
        if Box::pin(linger(&mut self.c.peer, timeout)).await {
            self.hcm.stats.downstream_cx_delayed_close_timeout.inc();
        }
        After::Close
    }
}
