//! Upgraded connections (WebSocket and others): bytes both ways until both sides have ended.
use super::{
    After,
    active_stream::{End, Exchange},
    body::WINDOW,
    router::Plan,
    upstream_request::Try,
};
use crate::{
    drain::Phase,
    info::Flags,
    stream::{Direction, Reached},
};
use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use sha1::{Digest, Sha1};
use std::{
    future::poll_fn,
    task::{Context, Poll},
};
use weir_net::http::{
    Headers, Known, RequestHead, ResponseHead,
    body::Framing,
    buf::BufPool,
    pump::{Broken, Coding, Pump},
    relay::{Got, Peer, Reader, Writer},
    wire::Wire,
};

impl Exchange<'_> {
    /// The upstream has switched protocols.
    pub(super) async fn upgrade(&mut self, plan: &Plan<'_>, tried: Try) -> Result<After, End> {
        let Try { mut peer, host, turn, ticket, place, .. } = tried;
        if !self.is_upgrade() {
            return Err(End::reply(502, Flags::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_before_response_started{protocol_error}"));
        }
        self.tell_session(plan, &host);
        self.s.info.borrow_mut().details = "via_upstream".into();
        {
            // Neither 101 nor a 2xx to CONNECT has a body of a length (RFC 9110 sections 6.4.1 and 8.6).
            let mut resp = self.s.resp.borrow_mut();
            resp.headers.remove(Known::ContentLength);
            resp.headers.remove(Known::TransferEncoding);
        }
        self.encode(false, b"", None).await.map_err(|why| self.given_up(why))?;
        self.s.reached[Direction::Response as usize].set(Reached::Sent);
        {
            let mut info = self.s.info.borrow_mut();
            info.status = if self.h2 { 200 } else { 101 };
            info.response_start = self.w.now();
            plan.cluster.stats.answered(101);
        }
        self.answered = true;
        self.hcm.stats.downstream_cx_upgrades_total.inc();
        self.hcm.stats.downstream_cx_upgrades_active.inc();
        // The route's time was for the answer; a tunnel ends when it is idle.
        self.clock.unbind();
        self.clock.arm(&self.c.deadline);
        let moved = match &mut peer {
            Peer::H1(u) if !self.h2 => Box::pin(self.tunnel(u)).await,
            peer => Box::pin(self.relay_tunnel(peer)).await,
        };
        self.hcm.stats.downstream_cx_upgrades_active.dec();
        drop((turn, host, place));
        if let Some(ticket) = ticket {
            ticket.close(&plan.cluster, false);
        }
        moved.map(|()| After::Close)
    }

    /// Between two connections of HTTP/1.
    async fn tunnel(&mut self, u: &mut Wire) -> Result<(), End> {
        let w = self.w.clone();
        self.back.clear();
        self.s.resp.borrow().write_to(&mut self.back);
        self.out.clear();
        let gone = |e| match e {
            Broken::Sink => End::client_gone(false),
            _ => upstream_gone(),
        };
        let Some(c) = self.c.peer.wire() else { return Ok(()) };
        let mut up = Pump::new(Framing::Tunnel, Coding::Same, &mut self.out, c, &w.bufs).map_err(gone)?;
        let mut down = Pump::new(Framing::Tunnel, Coding::Same, &mut self.back, u, &w.bufs).map_err(gone)?;
        let drain = self.c.conn.drain.watch();
        let moved = poll_fn(|cx| {
            let before = up.sent + down.sent;
            let Some(c) = self.c.peer.wire() else { return Poll::Ready(Ok(())) };
            if !up.done && up.poll(cx, &mut self.out, c, u, &w.bufs).map_err(gone)?.is_ready() {
                let _ = u.poll_shutdown(cx);
            }
            if !down.done && down.poll(cx, &mut self.back, u, c, &w.bufs).map_err(gone)?.is_ready() {
                let _ = c.poll_shutdown(cx);
            }
            if up.done && down.done || drain.phase(cx) >= Phase::Cutting {
                return Poll::Ready(Ok(()));
            }
            self.progress = self.progress.wrapping_add(up.sent + down.sent - before);
            self.poll_tunnel_idle(cx)
        })
        .await;
        let mut info = self.s.info.borrow_mut();
        (info.bytes_received, info.bytes_sent) = (up.moved, down.moved);
        moved
    }

    fn poll_tunnel_idle(&mut self, cx: &Context) -> Poll<Result<(), End>> {
        match self.check_clock(cx) {
            Err(_) => Poll::Ready(Err(End::Gone(Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout".into()))),
            Ok(()) => Poll::Pending,
        }
    }

    /// Where at least one side is a stream of HTTP/2.
    async fn relay_tunnel(&mut self, u: &mut Peer) -> Result<(), End> {
        let w = self.w.clone();
        {
            let mut resp = self.s.resp.borrow_mut();
            if self.h2 {
                // What HTTP/2 has no use for is left out of the head when it is made.
                resp.status = 200;
                resp.headers.remove_named(b"sec-websocket-accept");
            }
        }
        let mut down = self.start_response(false, false)?;
        let spare = std::mem::take(&mut self.out);
        let mut up = if u.is_h2() { Writer::h2(spare, false) } else { Writer::h1(spare, false) };
        let mut from_client = Reader::new(Framing::Tunnel, &self.c.peer);
        let mut from_upstream = Reader::new(Framing::Tunnel, u);
        let drain = self.c.conn.drain.watch();
        let moved = poll_fn(|cx| {
            let before = up.sent + down.sent;
            let forth = relay(cx, &w.bufs, &mut from_client, &mut self.c.peer, &mut up, u);
            let back = relay(cx, &w.bufs, &mut from_upstream, u, &mut down, &mut self.c.peer);
            self.progress = self.progress.wrapping_add(up.sent + down.sent - before);
            match (forth, back) {
                (Err(Broken::Source), _) | (_, Err(Broken::Sink)) => return Poll::Ready(Err(End::client_gone(self.h2))),
                (Err(_), _) | (_, Err(_)) => return Poll::Ready(Err(upstream_gone())),
                (Ok(true), Ok(true)) => return Poll::Ready(Ok(())),
                _ => {}
            }
            if self.h2
                && let Poll::Ready(gone) = self.poll_client_gone(cx, false)
            {
                return Poll::Ready(gone);
            }
            if drain.phase(cx) >= Phase::Cutting {
                return Poll::Ready(Ok(()));
            }
            self.poll_tunnel_idle(cx)
        })
        .await;
        let mut info = self.s.info.borrow_mut();
        (info.bytes_received, info.bytes_sent) = (from_client.received, from_upstream.received);
        moved
    }
}

/// One direction of a tunnel, as far as both sides let it. `true`: its end has been passed on.
fn relay(
    cx: &mut Context,
    bufs: &BufPool,
    reader: &mut Reader,
    from: &mut Peer,
    writer: &mut Writer,
    to: &mut Peer,
) -> Result<bool, Broken> {
    let mut trailers = Headers::default();
    while !writer.done {
        let mut more = true;
        while more && !writer.is_ended() && writer.pending() < WINDOW {
            more = match reader.poll(cx, from, bufs, &mut trailers, &mut |data| writer.push(data)) {
                Poll::Ready(got) => {
                    if got? == Got::End {
                        writer.end(None);
                    }
                    true
                }
                Poll::Pending => false,
            };
        }
        if writer.poll_flush(cx, to)?.is_pending() || !more && !writer.done {
            if let Peer::H2(stream) = from {
                stream.absorb(cx);
            }
            return Ok(false);
        }
        if writer.done
            && let Some(wire) = to.wire()
        {
            let _ = wire.poll_shutdown(cx);
        }
    }
    Ok(true)
}

fn upstream_gone() -> End {
    End::Gone(Flags::UPSTREAM_CONNECTION_TERMINATION, "upstream_reset_after_response_started{connection_termination}".into())
}

/// RFC 6455 section 4.1: HTTP/2 has no such key, HTTP/1 needs one.
pub(super) fn add_websocket_key(headers: &mut Headers, random: [u64; 2]) {
    const NAME: &[u8] = b"sec-websocket-key";
    if headers.get_named(NAME).is_none() {
        let bytes = random.map(u64::to_le_bytes).concat();
        headers.add_named(NAME, STANDARD.encode(bytes).as_bytes());
    }
}

/// An extended CONNECT that was granted, as the answer to an upgrade of HTTP/1 that it stands for (RFC 8441 section 5).
pub(super) fn switched(req: &RequestHead, resp: &mut ResponseHead) {
    let Some(protocol) = req.headers.get(Known::Upgrade).filter(|_| resp.status == 200) else { return };
    resp.status = 101;
    resp.headers.set(Known::Upgrade, &[protocol]);
    resp.headers.set(Known::Connection, &[b"upgrade"]);
    if let Some(key) = req.headers.get_named(b"sec-websocket-key") {
        // RFC 6455 section 4.2.2.
        let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
        resp.headers.add_named(b"sec-websocket-accept", STANDARD.encode(digest).as_bytes());
    }
}
