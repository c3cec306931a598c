//! The router: the request goes to an endpoint, to another one if the first fails, until a response head is there.
use super::{
    After,
    clock::Late,
    exchange::{End, Exchange},
    ns,
    relay::{Body, Replay},
    request::strip,
};
use crate::{
    balance::hash_request,
    breaker::{Permit, Resource},
    info::Flags,
    outlier,
    retry::{self, RetryRt},
    route::{ForwardRt, RouteRt, Target},
    stream::{Direction, Reached},
    upstream::{Checkout, Conn, Failure, Host, Protocol, Ticket, Turn, Use, WorkerCluster, mirror},
};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use weir_config::model::HostRewrite;
use weir_net::http::{
    Known, Version,
    body::Framing,
    h2 as border, parse,
    pump::{Broken, Coding, Pump},
    relay::{self, Peer, Writer},
    wire::Wire,
};

/// Retries of requests whose route says nothing about them: only of connections that had gone stale.
const STALE_TRIES: u32 = 2;

/// One try under way.
pub(super) struct Try {
    pub peer: Peer,
    pub up: Body,
    pub host: Rc<Host>,
    pub turn: Turn,
    /// For an HTTP/1 connection to be kept.
    pub ticket: Option<Ticket>,
    /// The place on an HTTP/2 connection.
    _place: Option<Use>,
    response: Option<Pin<Box<h2::client::ResponseFuture>>>,
    pub reused: bool,
}

/// Why no response head came from the upstream.
enum Lost {
    /// The connection or stream ended; whether any byte of a response had come, and whether the upstream refused it.
    Broken {
        silent: bool,
        refused: bool,
    },
    Malformed,
    Late(Late),
    End(End),
}

/// Everything about a request that stays over its tries.
pub(super) struct Plan<'a> {
    pub route: &'a RouteRt,
    pub forward: &'a ForwardRt,
    pub target: &'a Target,
    pub cluster: Rc<WorkerCluster>,
    hash: Option<u64>,
    protocol: Protocol,
    /// The body passes as it is.
    raw: bool,
    rewrite_host: bool,
    _permit: Permit,
}

impl Exchange<'_> {
    pub(super) async fn forward(&mut self, route: &RouteRt, forward: &ForwardRt) -> Result<After, End> {
        let Some(target) = forward.choose(self.w.random()) else {
            return Err(End::reply(500, Flags::NO_CLUSTER_FOUND, "cluster_not_found"));
        };
        if let Some(redirect) = &target.redirect {
            return Err(self.redirect(route, redirect));
        }
        let Some(slot) = &target.cluster else {
            return Err(End::reply(target.unresolved_status, Flags::NO_CLUSTER_FOUND, "cluster_not_found"));
        };
        let Some(cluster) = self.w.cluster(slot) else {
            self.hcm.stats.no_cluster.inc();
            return Err(End::reply(503, Flags::NO_CLUSTER_FOUND, "cluster_not_found"));
        };
        self.s.info.borrow_mut().upstream_cluster = Some(cluster.text.clone());
        let breakers = &cluster.rt.config.circuit_breakers;
        let Some(permit) = cluster.rt.breakers.take(Resource::Requests, breakers) else {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(End::reply(503, Flags::UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}"));
        };
        self.edit_request(route, forward, target);
        let protocol = Protocol::of(&cluster, self.h2);
        let watched = self.chain.as_ref().is_some_and(|c| c.wants_body(Direction::Request));
        let shadows = mirror::chosen(self.w, forward, target);
        // A copy needs the body in hand.
        let shadowed = !shadows.is_empty();
        let raw = !self.h2 && protocol == Protocol::Http1 && !watched && !shadowed;
        let hash = match forward.hash_policy.is_empty() {
            true => None,
            false => {
                let source = self.s.info.borrow().remote_address.unwrap_or(self.c.conn.peer).ip();
                let (hash, cookie) = hash_request(&forward.hash_policy, &*self.s.req.borrow(), source, self.w.random());
                self.cookie = cookie.map(|c| c.header());
                hash
            }
        };
        let rewrite_host = matches!(forward.host_rewrite(target), Some(HostRewrite::Auto));
        let plan = Plan { route, forward, target, cluster, hash, protocol, raw, rewrite_host, _permit: permit };
        let config = self.hcm.config();
        let start = self.s.info.borrow().start;
        self.clock.request = start.saturating_add(ns(config.timeouts.request_timeout));
        self.clock.route = self.w.now().saturating_add(ns(forward.timeout));
        if let Some(idle) = forward.idle_timeout {
            self.clock.set_idle(self.w.now(), idle.as_nanos() as u64);
        }
        let mut replay = Replay::default();
        let early = self.request_ends(&replay);
        if early {
            mirror::start(self.w, &shadows, &self.s.req.borrow(), b"");
        }
        let tried = self.tries(&plan, &mut replay).await;
        let after = match tried {
            Ok(tried) => self.respond(&plan, tried, &mut replay).await,
            Err(end) => Err(end),
        };
        if shadowed && !early && replay.ended && !replay.spent {
            mirror::start(self.w, &shadows, &self.s.req.borrow(), &replay.body);
        }
        after
    }

    /// The route's changes to the request's head.
    fn edit_request(&mut self, route: &RouteRt, forward: &ForwardRt, target: &Target) {
        for edits in [&route.request_headers, &target.request_headers].into_iter().flatten() {
            self.edit(edits, Direction::Request);
        }
        let mut req = self.s.req.borrow_mut();
        if let Some(rewrite) = forward.path_rewrite(target) {
            let mut new = Vec::new();
            rewrite.apply(req.path(), req.query(), route.matched(req.path()), &mut new);
            if new != req.target() && parse::is_target(&new) {
                if !req.headers.has(Known::OriginalPath) {
                    let original = req.target().to_vec();
                    req.headers.add(Known::OriginalPath, &[&original]);
                }
                req.set_target(&new);
            }
        }
        if let Some(HostRewrite::Literal(host)) = forward.host_rewrite(target) {
            req.headers.set(Known::Host, &[host.as_bytes()]);
        }
        drop(req);
        self.s.reached[Direction::Request as usize].set(Reached::Sent);
    }

    /// Tries until a response head is there that goes to the client.
    async fn tries(&mut self, plan: &Plan<'_>, replay: &mut Replay) -> Result<Try, End> {
        let retry = plan.forward.retry.as_ref();
        let most = retry.map_or(0, |r| r.config.num_retries);
        let (mut tried, mut retries, mut stale_tries, mut fresh) = (Vec::new(), 0, 0, false);
        let (mut raw, mut sent_head) = (None, 0);
        let mut retry_permit: Option<Permit> = None;
        loop {
            let host = self.pick(plan, &tried).await?;
            let attempts = {
                let mut info = self.s.info.borrow_mut();
                info.attempts += 1;
                info.upstream_host = Some(host.text.clone());
                info.attempts
            };
            plan.cluster.stats.upstream_rq_total.inc();
            let per_try = retry.and_then(|r| r.config.per_try_timeout);
            let (outcome, end, stale) = match self.attempt(plan, host.clone(), fresh, replay, &mut raw, &mut sent_head, per_try).await {
                Ok(tried) => {
                    drop(retry_permit.take());
                    let status = self.s.resp.borrow().status;
                    let limited = self.s.resp.borrow().headers.get_named(b"x-envoy-ratelimited").is_some();
                    let outcome = retry::Outcome::Response { status, grpc_status: self.grpc_status(), rate_limited: limited };
                    plan.cluster.report(&host, outlier::Outcome::Status(status), self.w.now());
                    if !retry.is_some_and(|r| r.retries(outcome)) {
                        if attempts > 1 {
                            plan.cluster.stats.upstream_rq_retry_success.inc();
                        }
                        return Ok(tried);
                    }
                    if retries >= most || !self.can_resend(&tried.up, replay) {
                        self.note_limit(plan, retries, most);
                        return Ok(tried);
                    }
                    match self.may_retry(plan, retry) {
                        Some(p) => retry_permit = Some(p),
                        None => return Ok(tried),
                    }
                    self.keep_raw(tried, &mut raw);
                    (outcome, None, false)
                }
                Err((lost, up)) => {
                    self.raw_read = matches!(&up, Some(Body::Raw(p)) if p.is_read());
                    let (outcome, end, stale) = self.judge(lost, &host, plan)?;
                    let resend = up.as_ref().is_none_or(|up| self.can_resend(up, replay));
                    if let Some(Body::Raw(p)) = up {
                        raw = Some(p);
                    }
                    if !resend {
                        return Err(end);
                    }
                    (outcome, Some(end), stale)
                }
            };
            if let Some(end) = end {
                // An idle connection that the peer had just closed says nothing about the peer.
                if stale && stale_tries < STALE_TRIES && self.s.req.borrow().method.is_idempotent() {
                    stale_tries += 1;
                    fresh = true;
                    continue;
                }
                if !retry.is_some_and(|r| r.retries(outcome)) {
                    return Err(end);
                }
                if retries >= most {
                    self.note_limit(plan, retries, most);
                    return Err(end);
                }
                match self.may_retry(plan, retry) {
                    Some(p) => retry_permit = Some(p),
                    None => return Err(end),
                }
            }
            retries += 1;
            fresh = false;
            plan.cluster.stats.upstream_rq_retry.inc();
            if let Some(r) = retry {
                if r.config.avoid_previous_hosts {
                    tried.push(host);
                }
                let pause = r.backoff(retries, self.w.random());
                let left = self.clock.route.saturating_sub(self.w.now());
                if pause.as_nanos() as u64 >= left {
                    return Err(self.too_late(Late::Route));
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn note_limit(&mut self, plan: &Plan<'_>, retries: u32, most: u32) {
        if retries > 0 && retries >= most {
            plan.cluster.stats.upstream_rq_retry_limit_exceeded.inc();
            self.s.info.borrow_mut().set_flag(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
    }

    /// The circuit breaker or the budget for retries.
    fn may_retry(&self, plan: &Plan<'_>, retry: Option<&RetryRt>) -> Option<Permit> {
        retry?;
        let permit = plan.cluster.rt.breakers.take(Resource::Retries, &plan.cluster.rt.config.circuit_breakers);
        if permit.is_none() {
            plan.cluster.stats.upstream_rq_retry_overflow.inc();
            self.s.info.borrow_mut().set_flag(Flags::UPSTREAM_OVERFLOW);
        }
        permit
    }

    fn keep_raw(&mut self, tried: Try, raw: &mut Option<Pump>) {
        if let Body::Raw(p) = tried.up {
            *raw = Some(p);
        }
    }

    fn can_resend(&self, up: &Body, replay: &Replay) -> bool {
        match up {
            Body::Raw(p) => !p.spent,
            Body::Relay(_) => !replay.spent,
        }
    }

    fn grpc_status(&self) -> Option<u32> {
        let resp = self.s.resp.borrow();
        let value = resp.headers.get(Known::GrpcStatus)?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    }

    async fn pick(&mut self, plan: &Plan<'_>, tried: &[Rc<Host>]) -> Result<Rc<Host>, End> {
        let cluster = &plan.cluster;
        if let Some(address) = self.s.override_host.get()
            && let Some(host) = cluster.hosts.iter().find(|h| h.endpoint.address == address)
        {
            return Ok(host.clone());
        }
        if let Some(forward) = &cluster.rt.forward {
            let (host, port) = self.named_host(plan);
            return match forward.endpoint(&host, port).await {
                Ok(endpoint) => Ok(cluster.named(endpoint)),
                Err(e) => {
                    self.s.info.borrow_mut().upstream_failure = Some(e.to_string().into());
                    Err(End::reply(503, Flags::DNS_RESOLUTION_FAILED, "dns_resolution_failure"))
                }
            };
        }
        cluster.pick(plan.hash, tried).ok_or_else(|| {
            cluster.stats.upstream_cx_none_healthy.inc();
            End::reply(503, Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream")
        })
    }

    /// The host that the client itself names, for a dynamic forward proxy.
    fn named_host(&self, plan: &Plan<'_>) -> (String, u16) {
        let req = self.s.req.borrow();
        let host = String::from_utf8_lossy(req.host());
        let port = req.authority().get(req.host().len() + 1..).and_then(|p| std::str::from_utf8(p).ok()?.parse().ok());
        let configured = match plan.cluster.rt.config.discovery {
            weir_config::model::Discovery::DynamicForwardProxy { port } => port,
            _ => 80,
        };
        (host.trim_matches(['[', ']']).to_string(), port.unwrap_or(configured))
    }

    /// Connects, sends the request, reads up to the end of the response head.
    #[expect(clippy::too_many_arguments, reason = "what survives a try belongs to the loop over tries")]
    async fn attempt(
        &mut self,
        plan: &Plan<'_>,
        host: Rc<Host>,
        fresh: bool,
        replay: &mut Replay,
        raw: &mut Option<Pump>,
        sent_head: &mut usize,
        per_try: Option<std::time::Duration>,
    ) -> Result<Try, (Lost, Option<Body>)> {
        let end = |e| (Lost::End(e), None);
        self.prepare_head(plan, &host);
        let turn = Turn::new(&host);
        let server_name = match plan.cluster.rt.tls {
            None => String::new(),
            Some(_) => String::from_utf8_lossy(self.s.req.borrow().host()).into_owned(),
        };
        let checkout = Checkout { cluster: &plan.cluster, host: &host, protocol: plan.protocol, server_name: &server_name, fresh };
        let now = self.w.now();
        self.s.info.borrow_mut().upstream_connect_start = now;
        let (conn, reused) = match checkout.get(self.w).await {
            Ok(made) => made,
            Err(failure) => {
                let reply = self.connect_failure(plan, &host, failure);
                return Err((Lost::End(reply), raw.take().map(Body::Raw)));
            }
        };
        if self.clock.route != u64::MAX || per_try.is_some() {
            self.clock.per_try = self.w.now().saturating_add(ns(per_try));
        }
        self.clock.arm(&self.c.lane);
        {
            let mut info = self.s.info.borrow_mut();
            info.upstream_protocol = Some(if conn.is_h2() { Version::Http2 } else { Version::Http11 });
            if !reused {
                info.upstream_connect_end = self.w.now();
            }
        }
        let mut tried = match conn {
            Conn::H1(owned) => {
                let (peer, ticket) = owned.into_peer();
                let up = match plan.raw {
                    true => Body::Raw(self.raw_up(raw, sent_head).map_err(end)?),
                    false => Body::Relay(self.relay_up_h1(replay)),
                };
                Try { peer, up, turn, ticket: Some(ticket), _place: None, response: None, reused, host }
            }
            Conn::H2 { send, shared, place } => {
                let request = border::request_of(&self.s.req.borrow()).ok_or_else(|| end(super::exchange::bad(parse::Bad::Syntax)))?;
                let ends = self.request_ends(replay);
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
                let mut writer = Writer::h2(std::mem::take(&mut self.out), ends);
                if ends {
                    replay.ended = true;
                }
                self.resend(&mut writer, replay);
                let peer = Peer::H2(border::H2Stream { recv: None, send: Some(stream), respond: None });
                let response = Some(Box::pin(response));
                Try { peer, up: Body::Relay(writer), turn, ticket: None, _place: Some(place), response, reused, host }
            }
        };
        match poll_fn(|cx| self.poll_response_head(cx, &mut tried, replay)).await {
            Ok(()) => Ok(tried),
            Err(lost) => Err((lost, Some(tried.up))),
        }
    }

    /// What of the head depends on the endpoint and the try.
    fn prepare_head(&mut self, plan: &Plan<'_>, host: &Host) {
        // What an earlier try was answered.
        self.s.resp.borrow_mut().clear();
        let mut req = self.s.req.borrow_mut();
        if plan.rewrite_host
            && let Some(name) = &host.endpoint.hostname
        {
            req.headers.set(Known::Host, &[name.as_bytes()]);
        }
        if !req.headers.has(Known::Host) {
            req.headers.add(Known::Host, &[host.text.as_bytes()]);
        }
        if self.attempt_count {
            let attempts = self.s.info.borrow().attempts.to_string();
            req.headers.set(Known::AttemptCount, &[attempts.as_bytes()]);
        }
    }

    /// The raw pump: a new one, or the one of the last try from its start, with the head as it is now.
    fn raw_up(&mut self, raw: &mut Option<Pump>, sent_head: &mut usize) -> Result<Pump, End> {
        let req = self.s.req.borrow();
        if let Some(mut pump) = raw.take() {
            let mut head = Vec::with_capacity(*sent_head + 32);
            req.write_to(&mut head);
            let len = head.len();
            self.out.splice(..*sent_head, head);
            *sent_head = len;
            pump.rewind();
            return Ok(pump);
        }
        self.out.clear();
        req.write_to(&mut self.out);
        *sent_head = self.out.len();
        drop(req);
        let Some(wire) = self.c.peer.wire() else { return Err(End::client_gone(false)) };
        // The wait for the client's body begins only when the client knows that it is waited for.
        Pump::new(self.framing, Coding::Same, &mut self.out, wire, &self.w.bufs).map_err(|_| super::exchange::bad(parse::Bad::Chunk))
    }

    /// Whether the request has no body, or its body is known not to come.
    fn request_ends(&self, replay: &Replay) -> bool {
        let chained = self.chain.as_ref().filter(|c| c.wants_body(Direction::Request));
        match chained {
            Some(c) => c.out[0].end && c.out[0].body.is_empty() && !c.out[0].trailers && replay.body.is_empty(),
            None => self.reader.is_done() && replay.body.is_empty(),
        }
    }

    fn relay_up_h1(&mut self, replay: &mut Replay) -> Writer {
        let ends = self.request_ends(replay);
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

    /// What an earlier try had sent of the body.
    fn resend(&self, writer: &mut Writer, replay: &Replay) {
        writer.push(&replay.body);
        if replay.ended {
            let trailers = super::trailers_of(self.s, Direction::Request);
            writer.end(Some(&trailers));
        }
    }

    fn connect_failure(&mut self, plan: &Plan<'_>, host: &Host, failure: Failure) -> End {
        let stats = &plan.cluster.stats;
        let text = failure.text();
        let (flag, details) = match failure {
            Failure::Overflow => {
                stats.upstream_rq_pending_overflow.inc();
                (Flags::UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
            }
            Failure::Timeout | Failure::Connect(_) => {
                match failure {
                    Failure::Timeout => stats.upstream_cx_connect_timeout.inc(),
                    _ => stats.upstream_cx_connect_fail.inc(),
                }
                plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                (Flags::UPSTREAM_CONNECTION_FAILURE, "upstream_reset_before_response_started{connection_failure}")
            }
        };
        self.s.info.borrow_mut().upstream_failure = Some(text.into());
        End::reply(503, flag, details)
    }

    /// What a lost try means: for retries, for the client, and whether the connection was merely stale.
    fn judge(&mut self, lost: Lost, host: &Rc<Host>, plan: &Plan<'_>) -> Result<(retry::Outcome, End, bool), End> {
        let stats = &plan.cluster.stats;
        let reset = |before_request, refused| retry::Outcome::Reset { before_request, refused };
        Ok(match lost {
            Lost::End(End::Reply(r, flags)) if flags.has(Flags::UPSTREAM_CONNECTION_FAILURE) => {
                (retry::Outcome::ConnectFailure, End::Reply(r, flags), false)
            }
            Lost::End(end) => return Err(end),
            Lost::Late(Late::Try) => {
                stats.upstream_rq_per_try_timeout.inc();
                plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                (reset(false, false), self.too_late(Late::Try), false)
            }
            Lost::Late(late) => {
                if late == Late::Route {
                    stats.upstream_rq_timeout.inc();
                    plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                }
                return Err(self.too_late(late));
            }
            Lost::Malformed => {
                stats.upstream_cx_protocol_error.inc();
                plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                let end = End::reply(502, Flags::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_before_response_started{protocol_error}");
                (reset(false, false), end, false)
            }
            Lost::Broken { silent, refused } => {
                stats.upstream_rq_rx_reset.inc();
                if !silent {
                    plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                }
                let h2 = self.s.info.borrow().upstream_protocol == Some(Version::Http2);
                let end = match h2 {
                    true => End::reply(503, Flags::UPSTREAM_REMOTE_RESET, "upstream_reset_before_response_started{remote_reset}"),
                    false => {
                        let details = "upstream_reset_before_response_started{connection_termination}";
                        End::reply(503, Flags::UPSTREAM_CONNECTION_TERMINATION, details)
                    }
                };
                (reset(refused, refused), end, silent)
            }
        })
    }

    fn poll_response_head(&mut self, cx: &mut Context, tried: &mut Try, replay: &mut Replay) -> Poll<Result<(), Lost>> {
        if let Err(late) = self.check_clock(cx) {
            return Poll::Ready(Err(Lost::Late(late)));
        }
        if let Err(end) = self.run_events(cx) {
            return Poll::Ready(Err(Lost::End(end)));
        }
        if self.expects && matches!(tried.up, Body::Raw(_)) {
            match self.say_continue(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(Err(Lost::End(end))),
            }
        }
        let active = match &tried.up {
            Body::Raw(p) => p.is_active(),
            Body::Relay(w) => !w.done,
        };
        let mut unsent = false;
        if active {
            match self.poll_up(cx, &mut tried.peer, &mut tried.up, replay) {
                Poll::Ready(Err(Broken::Source)) => {
                    let end = self.run_events(cx).err().unwrap_or_else(|| End::client_gone(self.h2));
                    return Poll::Ready(Err(Lost::End(end)));
                }
                Poll::Ready(Err(Broken::Malformed)) => {
                    let end = self.run_events(cx).err().unwrap_or_else(|| super::exchange::bad(parse::Bad::Chunk));
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
        match self.poll_head(cx, tried) {
            Poll::Pending if unsent => return Poll::Ready(Err(Lost::Broken { silent: tried.reused, refused: false })),
            Poll::Pending => {}
            ready => return ready,
        }
        if !active && let Poll::Ready(Err(end)) = self.poll_client_gone(cx, true) {
            return Poll::Ready(Err(Lost::End(end)));
        }
        Poll::Pending
    }

    fn poll_head(&mut self, cx: &mut Context, tried: &mut Try) -> Poll<Result<(), Lost>> {
        let mut resp = self.s.resp.borrow_mut();
        match (&mut tried.peer, &mut tried.response) {
            (Peer::H2(stream), Some(response)) => match response.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    stream.recv = Some(body);
                    tried.response = None;
                    let fine = border::load_response(&parts, &mut resp);
                    Poll::Ready(if fine { Ok(()) } else { Err(Lost::Malformed) })
                }
                Poll::Ready(Err(e)) => {
                    let refused =
                        e.reason() == Some(h2::Reason::REFUSED_STREAM) || e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR);
                    let malformed = e.is_library() && e.reason() == Some(h2::Reason::PROTOCOL_ERROR);
                    Poll::Ready(Err(if malformed { Lost::Malformed } else { Lost::Broken { silent: refused, refused } }))
                }
            },
            (Peer::H1(wire), _) => self.poll_head_h1(cx, wire, &mut resp, tried.reused),
            _ => Poll::Ready(Err(Lost::Broken { silent: false, refused: false })),
        }
    }

    /// Interim responses are read and dropped: `100 Continue` has been said already.
    fn poll_head_h1(
        &self,
        cx: &mut Context,
        wire: &mut Wire,
        resp: &mut weir_net::http::ResponseHead,
        reused: bool,
    ) -> Poll<Result<(), Lost>> {
        loop {
            if !wire.input.is_empty() {
                match parse::response(wire.input.filled(), resp, parse::Limits { bytes: 63 * 1024, fields: 256 }) {
                    Ok(Some(n)) => {
                        wire.input.consume(n);
                        self.w.bufs.reclaim(&mut wire.input);
                        if resp.status == 101 || resp.status >= 200 {
                            return Poll::Ready(Ok(()));
                        }
                        resp.clear();
                        continue;
                    }
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(Lost::Malformed)),
                }
            }
            match wire.poll_fill(cx, &self.w.bufs) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    let silent = reused && wire.input.is_empty();
                    return Poll::Ready(Err(Lost::Broken { silent, refused: false }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the whole request of HTTP/1 was read: the connection is at the start of the next.
    pub(super) fn request_is_read(&self, up: &Body) -> bool {
        match up {
            Body::Raw(p) => p.done,
            Body::Relay(_) => self.reader.is_done(),
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
