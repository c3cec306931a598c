//! The response on its way to the client.
use super::{
    After,
    active_stream::ActiveStream,
    attempt::{Plan, Try},
    body::{Body, Replay},
    clock::Late,
    encode::Source,
    end::{End, before_head, broken},
};
use crate::{
    detail::Detail,
    info::Flags,
    stream::{Direction, Reached},
};
use std::{future::poll_fn, task::Poll};
use weir_net::http::{
    Known, Version,
    body::{self, Framing},
    parse::Bad,
    pump::{Broken, Coding, Pump},
    relay::{self, Peer, Reader, Writer},
};

impl ActiveStream<'_> {
    pub(super) async fn respond(&mut self, plan: &Plan<'_>, mut tried: Try, replay: &mut Replay) -> Result<After, End> {
        let now = self.s.info.borrow().upstream_rx_start;
        // What is left of the try is the route's to bound.
        self.clock.end_try();
        self.clock.arm(&self.c.deadline);
        let malformed = |_: Bad| End::reply(502, Flags::UPSTREAM_PROTOCOL_ERROR, Detail::UpstreamProtocolError);
        if self.s.resp.borrow().status == 101 {
            return self.upgrade(plan, tried).await;
        }
        let framing = self.framing_of(&tried).map_err(malformed)?;
        let (method, version) = {
            let req = self.s.req.borrow();
            (req.method, req.version)
        };
        let persists = {
            let resp = self.s.resp.borrow();
            framing != Framing::UntilClose && body::persists(&resp.headers, resp.version)
        };
        if let Peer::H2(stream) = &mut tried.peer {
            // A body that is already known to be broken can still be reported to the client.
            let first = poll_fn(|cx| Poll::Ready(stream.peek(cx))).await;
            if first.is_err_and(|e| e.is_library()) {
                plan.cluster.stats.upstream_cx_protocol_error.inc();
                return Err(malformed(Bad::Length));
            }
        }
        let mut reader = Reader::new(framing, &tried.peer);
        self.edit_response(plan, now);
        self.tell_session(plan, &tried.host);
        // Plugins read from it where a response comes from.
        self.s.info.borrow_mut().details = Detail::ViaUpstream;
        if self.chain.is_some() {
            let ends = reader.is_done();
            let source = Source { tried: &mut tried, replay: &mut *replay, reader: &mut reader };
            self.encode(ends, b"", Some(source)).await.map_err(|why| self.given_up(why))?;
        }
        self.s.reached[Direction::Response as usize].set(Reached::Sent);
        let watched = self.chain.as_ref().is_some_and(|c| c.wants_body(Direction::Response));
        let read = watched || self.hcm.logs_trailers && matches!(framing, Framing::Chunked(_));
        let raw = !self.h2 && !read && !tried.peer.is_h2();
        let bodiless = body::is_bodiless(method, self.s.resp.borrow().status);
        let coding = coding_for(framing, version);
        let (chunked, delimited) = match raw {
            true => (false, coding != Coding::Bare && framing != Framing::UntilClose || coding == Coding::Chunk),
            false => self.frame_response(watched, bodiless, reader.is_done()),
        };
        let read = self.request_is_read(&tried.up);
        self.response.close_unless(delimited && read);
        self.last_headers(raw.then_some(coding), chunked);
        let begun = match raw {
            true => Some(self.begin_raw(plan, &mut tried, framing, coding)?),
            false => None,
        };
        {
            let mut info = self.s.info.borrow_mut();
            info.status = self.s.resp.borrow().status;
            info.response_start = now;
            plan.cluster.stats.answered(info.status);
        }
        self.response.head_sent = true;
        let moved = match begun {
            Some(pump) => self.down_raw(&mut tried, replay, pump).await,
            None => self.down_relay(&mut tried, replay, &mut reader, chunked, bodiless).await,
        };
        let now = self.account(plan, &tried);
        if let Err(end) = moved {
            count_broken(plan, &tried, &end);
            return Err(end);
        }
        let read = self.request_is_read(&tried.up);
        release(plan, tried, persists, now);
        match (self.response.after == After::Keep && read, self.h2) {
            (true, _) => Ok(After::Keep),
            (false, false) if !read => Ok(self.close().await),
            _ => Ok(After::Close),
        }
    }

    /// The route's changes to the response's head, and the router's own.
    fn edit_response(&mut self, plan: &Plan<'_>, now: u64) {
        self.strip_response(Known::TransferEncoding.bit());
        // As Envoy: what the upstream took, not the client.
        let start = {
            let info = self.s.info.borrow();
            if info.request_end == 0 { info.start } else { info.request_end }
        };
        for edits in [plan.target.response_headers(), plan.route.response_headers.as_ref()].into_iter().flatten() {
            self.edit(edits, Direction::Response);
        }
        let mut resp = self.s.resp.borrow_mut();
        if !self.hcm.config().suppress_envoy_headers {
            let mut text = [0u8; 20];
            let time = weir_net::http::head::digits(&mut text, now.saturating_sub(start) / 1_000_000);
            resp.headers.set(Known::UpstreamServiceTime, &[time]);
        }
        if let Some(cookie) = self.selected.cookie.take() {
            resp.headers.add(Known::SetCookie, &[cookie.as_bytes()]);
        }
    }

    /// The rest of the request. That it cannot be sent shows in the response, or does not matter.
    pub(super) fn poll_rest_up(&mut self, cx: &mut std::task::Context, tried: &mut Try, replay: &mut Replay) {
        let active = match &tried.up {
            Body::Raw(p) => p.is_active(),
            Body::Relay(w) => !w.done && !self.request.broken,
        };
        if !active {
            return;
        }
        let failed = match self.poll_up(cx, &mut tried.peer, &mut tried.up, replay) {
            Poll::Ready(Err(Broken::Length)) => {
                // The upstream took an incomplete request for a complete one.
                self.over = Some(self.broken_request(Broken::Length));
                true
            }
            done => matches!(done, Poll::Ready(Err(_))),
        };
        match &mut tried.up {
            Body::Raw(p) => p.broken |= failed,
            Body::Relay(_) => self.request.broken |= failed,
        }
    }

    /// How the body is delimited towards the client where it is not passed as it is: chunked or not, and whether its end
    /// can be told without closing the connection.
    fn frame_response(&mut self, watched: bool, bodiless: bool, empty: bool) -> (bool, bool) {
        let mut resp = self.s.resp.borrow_mut();
        let version = self.s.req.borrow().version;
        resp.headers.remove(Known::TransferEncoding);
        if bodiless {
            return (false, true);
        }
        if let Some(chain) = self.chain.as_ref().filter(|_| watched) {
            let out = &chain.out[1];
            // Otherwise a plugin that changes the body has removed the length, as everywhere; the writer holds it to that.
            if out.end && !out.trailers {
                resp.headers.set(Known::ContentLength, &[out.body.len().to_string().as_bytes()]);
            }
        } else if empty && !self.h2 && !resp.headers.has(Known::ContentLength) {
            resp.headers.set(Known::ContentLength, &[b"0"]);
        }
        if self.h2 || resp.headers.has(Known::ContentLength) {
            return (false, true);
        }
        (version == Version::Http11, version == Version::Http11)
    }

    /// What the connection to the client asks for.
    pub(super) fn last_headers(&mut self, raw: Option<Coding>, chunked: bool) {
        let draining = self.c.conn.drain.is_draining();
        self.response.close_unless(!draining);
        let mut resp = self.s.resp.borrow_mut();
        if let Some(name) = &self.hcm.config().server_name {
            resp.headers.set(Known::Server, &[name.as_bytes()]);
        }
        // There is no body to tell the length of (RFC 9110 section 8.6, RFC 9112 section 6.1).
        if resp.status == 204 {
            resp.headers.remove_any(Known::ContentLength.bit() | Known::TransferEncoding.bit());
        }
        if self.h2 {
            return;
        }
        if self.s.req.borrow().version == Version::Http10 {
            resp.headers.remove(Known::TransferEncoding);
        }
        if chunked || raw == Some(Coding::Chunk) {
            resp.headers.set(Known::TransferEncoding, &[b"chunked"]);
        }
        match (self.response.after == After::Keep, self.s.req.borrow().version) {
            (false, _) => {
                if draining {
                    self.hcm.stats.downstream_cx_drain_close.inc();
                }
                resp.headers.add(Known::Connection, &[b"close"]);
            }
            (true, Version::Http10) => {
                resp.headers.add(Known::Connection, &[b"keep-alive"]);
            }
            _ => {}
        }
    }

    /// The head, and what has come of the body. A body that is broken from its beginning is told while the client can be told.
    fn begin_raw(&mut self, plan: &Plan<'_>, tried: &mut Try, framing: Framing, coding: Coding) -> Result<Pump, End> {
        self.back.clear();
        self.s.resp.borrow().write_to(&mut self.back);
        self.s.info.borrow_mut().header_bytes_sent = self.back.len() as u64;
        let Some(wire) = tried.peer.wire() else { return Err(broken(Broken::Source, false)) };
        Pump::new(framing, coding, &mut self.back, wire, &self.w.bufs).map_err(|e| {
            plan.cluster.stats.upstream_cx_protocol_error.inc();
            before_head(broken(e, false))
        })
    }

    async fn down_raw(&mut self, tried: &mut Try, replay: &mut Replay, mut down: Pump) -> Result<(), End> {
        let moved = poll_fn(|cx| {
            self.poll_rest_up(cx, tried, replay);
            self.run_events(cx)?;
            let before = down.sent;
            let (Some(src), Some(dst)) = (tried.peer.wire(), self.c.peer.wire()) else {
                return Poll::Ready(Err(broken(Broken::Sink, false)));
            };
            let r = down.poll(cx, &mut self.back, src, dst, &self.w.bufs);
            self.clock.add_progress(down.sent - before);
            if let Poll::Ready(r) = r {
                return Poll::Ready(r.map_err(|e| broken(e, false)));
            }
            self.poll_running(cx, tried)
        })
        .await;
        let mut info = self.s.info.borrow_mut();
        info.bytes_sent = down.moved;
        info.upstream_bytes_received += down.moved;
        moved
    }

    async fn down_relay(
        &mut self,
        tried: &mut Try,
        replay: &mut Replay,
        reader: &mut Reader,
        chunked: bool,
        bodiless: bool,
    ) -> Result<(), End> {
        let watched = self.chain.as_ref().is_some_and(|c| c.wants_body(Direction::Response));
        let ends = bodiless
            || match self.chain.as_ref().filter(|_| watched) {
                Some(c) => c.out[1].end && c.out[1].body.is_empty() && !c.out[1].trailers,
                None => reader.is_done(),
            };
        let mut writer = self.start_response(chunked, ends)?;
        if watched && !ends {
            writer.declare(body::content_length(&self.s.resp.borrow().headers).ok().flatten());
        }
        let moved = poll_fn(|cx| {
            self.poll_rest_up(cx, tried, replay);
            if let Poll::Ready(r) = self.poll_down_relay(cx, Some((&mut tried.peer, &mut *reader)), &mut writer) {
                return Poll::Ready(r);
            }
            self.poll_running(cx, tried)
        })
        .await;
        self.s.info.borrow_mut().upstream_bytes_received += reader.received;
        self.end_response(writer);
        moved
    }

    /// Sends the head, or puts it in front of what the writer writes.
    pub(super) fn start_response(&mut self, chunked: bool, ends: bool) -> Result<Writer, End> {
        let resp = self.s.resp.borrow();
        let out = std::mem::take(&mut self.back);
        relay::respond(&mut self.c.peer, &resp, out, chunked, ends).map_err(|e| match e {
            Broken::Malformed => End::Gone(Flags::LOCAL_RESET, Detail::InvalidResponseHeaders),
            _ => End::client_gone(self.h2),
        })
    }

    pub(super) fn end_response(&mut self, writer: Writer) {
        let mut info = self.s.info.borrow_mut();
        info.bytes_sent = writer.content;
        info.header_bytes_sent = writer.sent.saturating_sub(writer.content);
        let trailers = super::trailers_of(self.s, Direction::Response);
        if let Some(status) = trailers.get(Known::GrpcStatus).or(self.s.resp.borrow().headers.get(Known::GrpcStatus)) {
            info.grpc_status = std::str::from_utf8(status).ok().and_then(|s| s.trim().parse().ok());
        }
        self.back = writer.into_buffer();
    }

    /// While both bodies wait: deadlines, and a client that leaves.
    fn poll_running(&mut self, cx: &mut std::task::Context, tried: &Try) -> Poll<Result<(), End>> {
        if let Err(late) = self.check_clock(cx) {
            let end = match self.too_late(late) {
                End::Reply(r, flags) => End::Gone(flags, r.details),
                end => end,
            };
            return Poll::Ready(Err(if late == Late::Request { End::Gone(Flags::default(), Detail::RequestOverallTimeout) } else { end }));
        }
        let read = self.request_is_read(&tried.up);
        match &tried.up {
            Body::Relay(_) if self.chain.is_some() => self.poll_client(cx, read),
            _ => self.poll_client_gone(cx, read),
        }
    }

    /// What is known when the response has gone, or broken off. The moment of that.
    fn account(&mut self, plan: &Plan<'_>, tried: &Try) -> u64 {
        let now = self.w.now();
        let mut info = self.s.info.borrow_mut();
        info.upstream_bytes_sent = tried.up.sent();
        info.bytes_received = match &tried.up {
            Body::Raw(p) => p.moved,
            Body::Relay(_) => self.request.reader.received,
        };
        (info.upstream_rx_end, info.response_end) = (now, now);
        let stats = &plan.cluster.stats;
        stats.upstream_cx_tx_bytes_total.add(info.upstream_bytes_sent);
        stats.upstream_cx_rx_bytes_total.add(info.upstream_bytes_received);
        stats.upstream_rq_time.record(now.saturating_sub(if info.request_end == 0 { info.start } else { info.request_end }));
        now
    }
}

/// How the body of a response that is copied unread is framed for a client of this version.
fn coding_for(framing: Framing, version: Version) -> Coding {
    match (framing, version) {
        (Framing::UntilClose, Version::Http11) => Coding::Chunk,
        (Framing::Chunked(_), Version::Http10) => Coding::Bare,
        _ => Coding::Same,
    }
}

/// Counts a response that broke off by what the upstream did.
fn count_broken(plan: &Plan<'_>, tried: &Try, end: &End) {
    let End::Gone(flags, _) = end else { return };
    if let Some(ticket) = tried.ticket.as_ref().filter(|_| flags.has(Flags::UPSTREAM_CONNECTION_TERMINATION)) {
        ticket.closed_by_peer();
    }
    if flags.has(Flags::UPSTREAM_PROTOCOL_ERROR) {
        plan.cluster.stats.upstream_cx_protocol_error.inc();
    }
}

/// Returns the connection of a complete response to the pool, or closes it. An HTTP/2 connection stays where it is.
fn release(plan: &Plan<'_>, tried: Try, persists: bool, now: u64) {
    let Try { peer, ticket, host, up, .. } = tried;
    if let (Some(ticket), Peer::H1(wire)) = (ticket, peer) {
        match persists && up.is_done() && wire.input.is_empty() {
            true => ticket.put_back(&plan.cluster, &host, wire, now),
            false => ticket.close(&plan.cluster, !persists),
        }
    }
}
