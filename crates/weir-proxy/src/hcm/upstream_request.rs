//! One try: a connection, the request on it, and the head of the response.
use super::{
    active_stream::ActiveStream,
    attempt::{Kept, Lost, Plan, Try},
    body::{Body, Replay},
    end::{End, bad},
    ns,
    request::strip,
    state::Expect,
    upgrade,
    wait::GivenUp,
};
use crate::{
    stream::Direction,
    upstream::{ActiveRequest, Checkout, Conn, Host},
};
use std::{
    future::{Future, poll_fn},
    rc::Rc,
    task::{Context, Poll, ready},
};
use weir_net::http::{
    Headers, Known, Method, Version,
    body::Framing,
    client::{ClientError, ResponseHeads},
    h2 as border, parse,
    pump::{Broken, Coding, Pump},
    relay::{self, Peer, Writer},
};

impl ActiveStream<'_> {
    /// Connects, sends the request, reads up to the end of the response head.
    pub(super) async fn attempt(&mut self, plan: &Plan<'_>, host: Rc<Host>, kept: &mut Kept) -> Result<Try, (Lost, Option<Body>)> {
        let end = |e| (Lost::End(e), None);
        self.prepare_head(plan, &host);
        let turn = ActiveRequest::new(&plan.cluster, &host);
        let server_name = self.server_name(plan);
        let checkout = Checkout {
            cluster: &plan.cluster,
            host: &host,
            protocol: plan.protocol,
            server_name: &server_name,
            fresh: kept.fresh,
            client: Some((self.c.conn.peer, self.c.conn.local)),
        };
        let now = self.w.moment();
        let (per_try, request_end) = (plan.forward.retry().and_then(|r| r.config.per_try_timeout), self.s.info.borrow().request_end);
        self.clock.set_try(request_end, now, ns(per_try));
        let (conn, reused) = match checkout.ready(&self.w.clusters) {
            Some(conn) => (conn, true),
            None => match self.attended(checkout.get(&self.w.clusters)).await {
                Ok(Ok(made)) => made,
                Ok(Err(failure)) => {
                    let reply = self.connect_failure(plan, &host, &failure);
                    return Err((Lost::End(reply), kept.raw.take().map(Body::Raw)));
                }
                Err(GivenUp::Late(late)) => return Err((Lost::Late(late), kept.raw.take().map(Body::Raw))),
                Err(GivenUp::End(gone)) => return Err(end(gone)),
            },
        };
        self.clock.arm(&self.c.deadline);
        let heads = ResponseHeads::new(plan.cluster.rt.response_limits());
        self.record_connection(&conn, reused, now);
        let mut tried = match conn {
            Conn::H1(owned) => {
                let (wire, ticket) = owned.into_wire();
                let up = match plan.raw {
                    true => Body::Raw(self.raw_up(kept).map_err(end)?),
                    false => Body::Relay(self.relay_up_h1(&mut kept.replay)),
                };
                Try { peer: Peer::H1(wire), up, turn, ticket: Some(ticket), place: None, response: None, reused, heads, host }
            }
            Conn::H2 { send, shared, place } => {
                let request = border::request_of(&self.s.req.borrow()).ok_or_else(|| end(bad(parse::Bad::Syntax)))?;
                // An extended CONNECT goes on as a tunnel once it is answered.
                let upgrade = self.is_upgrade();
                let ends = self.request_ends(&kept.replay) && !upgrade;
                let lost = |silent, refused| (Lost::Broken { silent, refused }, None);
                let mut send = match send.ready().await {
                    Ok(send) => send,
                    Err(_) => {
                        shared.retire();
                        return Err(lost(true, true));
                    }
                };
                let (response, stream) = match send.send_request(request, ends) {
                    Ok(sent) => sent,
                    Err(_) => {
                        shared.retire();
                        return Err(lost(true, true));
                    }
                };
                let writer = self.relay_up_h2(&mut kept.replay, ends, upgrade);
                let peer = Peer::H2(border::H2Stream { send: Some(stream), ..Default::default() });
                let response = Some(Box::pin(response));
                Try { peer, up: Body::Relay(writer), turn, ticket: None, place: Some(place), response, reused, heads, host }
            }
        };
        match poll_fn(|cx| self.poll_response_head(cx, &mut tried, &mut kept.replay)).await {
            Ok(()) => {
                self.s.info.borrow_mut().upstream_rx_start = self.w.now();
                Ok(tried)
            }
            Err(lost) => {
                if let (Lost::Broken { .. }, Some(ticket)) = (&lost, &tried.ticket) {
                    ticket.closed_by_peer();
                }
                Err((lost, Some(tried.up)))
            }
        }
    }

    /// The host of the request for TLS; empty without TLS.
    fn server_name(&self, plan: &Plan<'_>) -> String {
        match plan.cluster.rt.tls {
            None => String::new(),
            Some(_) => String::from_utf8_lossy(self.s.req.borrow().host()).into_owned(),
        }
    }

    /// Notes the connection for access logs and plugins. `now`: when it was taken, if it was ready.
    fn record_connection(&self, conn: &Conn, reused: bool, now: u64) {
        let (mut info, facts) = (self.s.info.borrow_mut(), conn.facts());
        info.upstream_protocol = Some(if conn.is_h2() { Version::Http2 } else { Version::Http11 });
        (info.upstream_connection_id, info.upstream_local_address) = (facts.id, facts.local);
        info.upstream_tls = conn.tls();
        info.upstream_tx_start = now;
        if !reused {
            (info.upstream_connect_start, info.upstream_connect_end) = (facts.connect_start, facts.connect_end);
            info.upstream_handshake_end = facts.handshake_end;
            info.upstream_tx_start = self.w.now();
        }
    }

    /// What of the head depends on the endpoint and the try.
    fn prepare_head(&mut self, plan: &Plan<'_>, host: &Host) {
        // What an earlier try was answered.
        self.s.resp.borrow_mut().clear();
        self.s.info.borrow_mut().upstream_rx_start = 0;
        let mut req = self.s.req.borrow_mut();
        if plan.rewrite_host
            && let Some(name) = host.endpoint.hostname()
        {
            req.headers.set(Known::Host, &[name.as_bytes()]);
        }
        if !req.headers.has(Known::Host) {
            req.headers.add(Known::Host, &[host.text.as_bytes()]);
        }
        if self.selected.attempt_count {
            let attempts = self.s.info.borrow().attempts.to_string();
            req.headers.set(Known::AttemptCount, &[attempts.as_bytes()]);
        }
    }

    /// The raw pump: a new one, or the one of the last try from its start, with the head as it is now.
    fn raw_up(&mut self, kept: &mut Kept) -> Result<Pump, End> {
        let req = self.s.req.borrow();
        if let Some(mut pump) = kept.raw.take() {
            let mut head = Vec::with_capacity(kept.sent_head + 32);
            req.write_to(&mut head);
            let len = head.len();
            self.out.splice(..kept.sent_head, head);
            kept.sent_head = len;
            pump.rewind();
            return Ok(pump);
        }
        self.out.clear();
        req.write_to(&mut self.out);
        kept.sent_head = self.out.len();
        drop(req);
        let Some(wire) = self.c.peer.wire() else { return Err(End::client_gone(false)) };
        // The wait for the client's body begins only when the client knows that it is waited for.
        Pump::new(self.request.framing, Coding::Same, &mut self.out, wire, &self.w.bufs).map_err(|_| bad(parse::Bad::Chunk))
    }

    /// Whether another protocol is asked for: what follows the head is not a body.
    pub(super) fn is_upgrade(&self) -> bool {
        self.s.req.borrow().headers.has(Known::Upgrade)
    }

    /// Whether the request has no body, or its body is known not to come.
    pub(super) fn request_ends(&self, replay: &Replay) -> bool {
        let chained = self.chain.as_ref().filter(|c| c.wants_body(Direction::Request));
        match chained {
            Some(c) => c.out[0].end && c.out[0].body.is_empty() && !c.out[0].trailers && replay.body.is_empty(),
            None => self.request.reader.is_done() && replay.body.is_empty(),
        }
    }

    fn relay_up_h1(&mut self, replay: &mut Replay) -> Writer {
        let ends = self.request_ends(replay) || self.is_upgrade();
        let mut req = self.s.req.borrow_mut();
        let watched = self.chain.as_ref().filter(|c| c.wants_body(Direction::Request));
        req.headers.remove(Known::TransferEncoding);
        if let Some(chain) = watched {
            // Otherwise a plugin that changes the body has removed the length, as everywhere; the writer holds it to that.
            if chain.out[0].end && !chain.out[0].trailers {
                let len = chain.out[0].body.len() + replay.body.len();
                if len > 0 || req.headers.has(Known::ContentLength) {
                    req.headers.set(Known::ContentLength, &[len.to_string().as_bytes()]);
                }
            }
        }
        let chunked = !ends && !req.headers.has(Known::ContentLength);
        // Servers ask for a length where a body is usual; HTTP/2 can do without (RFC 9110 section 8.6).
        if ends && matches!(req.method, Method::Post | Method::Put | Method::Patch) && !req.headers.has(Known::ContentLength) {
            req.headers.add(Known::ContentLength, &[b"0"]);
        }
        if chunked {
            req.headers.add(Known::TransferEncoding, &[b"chunked"]);
        }
        let mut writer = relay::request_h1(&req, std::mem::take(&mut self.out), chunked);
        if !ends {
            writer.declare(weir_net::http::body::content_length(&req.headers).ok().flatten());
        }
        drop(req);
        if ends {
            replay.ended = true;
            writer.end(None);
        }
        self.resend(&mut writer, replay);
        writer
    }

    fn relay_up_h2(&mut self, replay: &mut Replay, ends: bool, upgrade: bool) -> Writer {
        let mut writer = Writer::h2(std::mem::take(&mut self.out), ends || upgrade);
        if ends {
            replay.ended = true;
        }
        self.resend(&mut writer, replay);
        writer
    }

    /// What an earlier try had sent of the body.
    fn resend(&self, writer: &mut Writer, replay: &Replay) {
        writer.push(&replay.body);
        if replay.ended {
            let trailers = super::trailers_of(self.s, Direction::Request);
            writer.end(Some(&trailers));
        }
    }

    fn poll_response_head(&mut self, cx: &mut Context, tried: &mut Try, replay: &mut Replay) -> Poll<Result<(), Lost>> {
        if let Err(late) = self.check_clock(cx) {
            return Poll::Ready(Err(Lost::Late(late)));
        }
        if let Err(end) = self.run_events(cx) {
            return Poll::Ready(Err(Lost::End(end)));
        }
        if self.request.expect == Expect::Continue && matches!(tried.up, Body::Raw(_)) {
            match self.say_continue(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(Err(Lost::End(end))),
            }
        }
        let is_active = |up: &Body| match up {
            Body::Raw(p) => p.is_active(),
            Body::Relay(w) => !w.done,
        };
        let mut unsent = false;
        if is_active(&tried.up) {
            match self.poll_up(cx, &mut tried.peer, &mut tried.up, replay) {
                Poll::Ready(Ok(())) => self.s.info.borrow_mut().upstream_tx_end = self.w.now(),
                Poll::Ready(Err(Broken::Source)) => {
                    let end = self.run_events(cx).err().unwrap_or_else(|| End::client_gone(self.h2));
                    return Poll::Ready(Err(Lost::End(end)));
                }
                Poll::Ready(Err(e @ (Broken::Malformed | Broken::Length))) => {
                    let end = self.run_events(cx).err().unwrap_or_else(|| self.broken_request(e));
                    return Poll::Ready(Err(Lost::End(end)));
                }
                // The upstream may have answered before it closed.
                Poll::Ready(Err(Broken::Sink)) => match &mut tried.up {
                    Body::Raw(p) => p.broken = true,
                    Body::Relay(_) => unsent = true,
                },
                _ => {}
            }
        }
        match self.poll_final_head(cx, tried) {
            Poll::Pending if unsent => return Poll::Ready(Err(Lost::Broken { silent: tried.reused, refused: false })),
            Poll::Pending => {}
            ready => return ready,
        }
        // Asked again: the last of the request may have left just now, and nobody else looks at the client then.
        let gone = match &tried.up {
            up if !is_active(up) => self.poll_client_gone(cx, true),
            Body::Relay(_) if self.chain.is_some() => self.poll_client(cx, self.request.reader.is_done()),
            _ => Poll::Pending,
        };
        match gone {
            Poll::Ready(Err(end)) => Poll::Ready(Err(Lost::End(end))),
            _ => Poll::Pending,
        }
    }

    /// The answer's head; interim ones before it go to the client at once.
    fn poll_final_head(&mut self, cx: &mut Context, tried: &mut Try) -> Poll<Result<(), Lost>> {
        loop {
            ready!(self.poll_interim(cx)).map_err(Lost::End)?;
            match ready!(self.poll_head(cx, tried))? {
                101 | 200.. => return Poll::Ready(Ok(())),
                _ => {
                    // A connection that answers is not stale.
                    tried.reused = false;
                    tried.heads.count_interim().map_err(|_| Lost::Malformed)?;
                    self.pass_interim().map_err(Lost::End)?;
                }
            }
        }
    }

    /// The next head's status.
    fn poll_head(&mut self, cx: &mut Context, tried: &mut Try) -> Poll<Result<u16, Lost>> {
        let mut resp = self.s.resp.borrow_mut();
        if let Some(response) = &mut tried.response
            && let Poll::Ready(Some(Ok(interim))) = response.as_mut().poll_informational(cx)
        {
            let fine = border::load_response(&interim.into_parts().0, &mut resp);
            return Poll::Ready(if fine { Ok(resp.status) } else { Err(Lost::Malformed) });
        }
        match (&mut tried.peer, &mut tried.response) {
            (Peer::H2(stream), Some(response)) => match response.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    stream.recv = Some(body);
                    tried.response = None;
                    // The connection may be older than the limits.
                    let limits = tried.heads.limits.head;
                    let fits = |h: &Headers| h.len() <= limits.fields && h.size() <= limits.bytes;
                    if !border::load_response(&parts, &mut resp) || !fits(&resp.headers) {
                        return Poll::Ready(Err(Lost::Malformed));
                    }
                    upgrade::switched(&self.s.req.borrow(), &mut resp);
                    Poll::Ready(Ok(resp.status))
                }
                Poll::Ready(Err(e)) => {
                    let refused =
                        e.reason() == Some(h2::Reason::REFUSED_STREAM) || e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR);
                    let malformed = e.is_library() && e.reason() == Some(h2::Reason::PROTOCOL_ERROR);
                    Poll::Ready(Err(if malformed { Lost::Malformed } else { Lost::Broken { silent: refused, refused } }))
                }
            },
            (Peer::H1(wire), _) => match ready!(tried.heads.poll_next(cx, wire, &self.w.bufs, &mut resp)) {
                Ok(n) => {
                    self.s.info.borrow_mut().upstream_bytes_received += n as u64;
                    Poll::Ready(Ok(resp.status))
                }
                Err(ClientError::Closed { silent: true }) => Poll::Ready(Err(Lost::Broken { silent: tried.reused, refused: false })),
                // A part of a head is no answer.
                Err(_) => Poll::Ready(Err(Lost::Malformed)),
            },
            _ => Poll::Ready(Err(Lost::Broken { silent: false, refused: false })),
        }
    }

    /// Whether the whole request of HTTP/1 was read: the connection is at the start of the next.
    pub(super) fn request_is_read(&self, up: &Body) -> bool {
        match up {
            Body::Raw(p) => p.done,
            Body::Relay(_) => self.request.reader.is_done(),
        }
    }

    /// Removes what belongs to the upstream's connection.
    pub(super) fn strip_response(&self, keep: u64) {
        strip(&mut self.s.resp.borrow_mut().headers, keep);
    }

    pub(super) fn framing_of(&self, tried: &Try) -> Result<Framing, parse::Bad> {
        match tried.peer {
            Peer::H2(_) => Ok(Framing::NONE),
            Peer::H1(_) => weir_net::http::body::of_response(&self.s.resp.borrow(), self.s.req.borrow().method),
        }
    }
}
