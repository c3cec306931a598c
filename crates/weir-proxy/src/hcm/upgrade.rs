//! Upgraded connections (WebSocket and others): bytes both ways until both sides have ended.
use super::{
    After,
    active_stream::ActiveStream,
    attempt::{Plan, Try},
    end::End,
};
use crate::{
    detail::Detail,
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
use weir_net::{
    copy::{self, Copy},
    http::{
        Headers, Known, RequestHead, ResponseHead,
        body::Framing,
        relay::{Peer, Reader, Writer},
        tunnel::{Tunnel, TunnelEnd},
    },
};

impl ActiveStream<'_> {
    /// The upstream has switched protocols.
    pub(super) async fn upgrade(&mut self, plan: &Plan<'_>, tried: Try) -> Result<After, End> {
        let Try { mut peer, host, turn, ticket, place, up, .. } = tried;
        if !self.is_upgrade() {
            return Err(End::reply(502, Flags::UPSTREAM_PROTOCOL_ERROR, Detail::UpstreamProtocolError));
        }
        self.tell_session(plan, &host);
        self.s.info.borrow_mut().details = Detail::ViaUpstream;
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
        self.response.head_sent = true;
        self.hcm.stats.downstream_cx_upgrades_total.inc();
        self.hcm.stats.downstream_cx_upgrades_active.inc();
        // The route's time was for the answer; a tunnel ends when it is idle.
        self.clock.unbind();
        self.clock.arm(&self.c.deadline);
        let moved = Box::pin(self.tunnel(&mut peer)).await;
        self.hcm.stats.downstream_cx_upgrades_active.dec();
        {
            let (mut info, now) = (self.s.info.borrow_mut(), self.w.now());
            info.upstream_bytes_sent += up.sent();
            (info.upstream_rx_end, info.response_end) = (now, now);
            plan.cluster.stats.upstream_cx_tx_bytes_total.add(info.upstream_bytes_sent);
            plan.cluster.stats.upstream_cx_rx_bytes_total.add(info.upstream_bytes_received);
        }
        drop((turn, host, place));
        if let Some(ticket) = ticket {
            ticket.close(&plan.cluster, false);
        }
        moved.map(|()| After::Close)
    }

    fn poll_tunnel_idle(&mut self, cx: &Context) -> Poll<Result<(), End>> {
        match self.check_clock(cx) {
            Err(_) => Poll::Ready(Err(End::Gone(Flags::STREAM_IDLE_TIMEOUT, Detail::StreamIdleTimeout))),
            Ok(()) => Poll::Pending,
        }
    }

    /// Sends the head of the response, then copies bytes until both sides have ended.
    async fn tunnel(&mut self, u: &mut Peer) -> Result<(), End> {
        let w = self.w.clone();
        let mut head = std::mem::take(&mut self.back);
        head.clear();
        let mut to_client = match self.h2 {
            false => {
                self.s.resp.borrow().write_to(&mut head);
                Tunnel::Raw
            }
            true => {
                {
                    let mut resp = self.s.resp.borrow_mut();
                    // What HTTP/2 has no use for is left out of the head when it is made.
                    resp.status = 200;
                    resp.headers.remove_named(b"sec-websocket-accept");
                }
                let writer = self.start_response(false, false)?;
                Tunnel::message(Reader::new(Framing::NONE, &self.c.peer), writer)
            }
        };
        let mut to_upstream = match &u {
            Peer::H1(_) => Tunnel::Raw,
            Peer::H2(_) => Tunnel::message(Reader::new(Framing::NONE, u), Writer::h2(std::mem::take(&mut self.out), false)),
        };
        let head_bytes = head.len() as u64;
        let mut copy = Copy::new(head);
        let drain = self.c.conn.drain.watch();
        let moved = poll_fn(|cx| {
            let before = copy.progress();
            let mut client = TunnelEnd { peer: &mut self.c.peer, tunnel: &mut to_client, pool: &w.bufs };
            let mut upstream = TunnelEnd { peer: u, tunnel: &mut to_upstream, pool: &w.bufs };
            let copied = copy.poll(cx, &mut client, &mut upstream);
            self.clock.add_progress(copy.progress().wrapping_sub(before));
            match copied {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(failed)) => {
                    return Poll::Ready(Err(match failed.end {
                        copy::End::A => End::client_gone(self.h2),
                        copy::End::B => upstream_gone(),
                    }));
                }
                Poll::Pending => {}
            }
            for peer in [&mut self.c.peer, u] {
                if let Peer::H2(stream) = peer {
                    stream.absorb(cx);
                }
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
        let ([from_client, from_upstream], [to_upstream, to_client]) = (copy.read(), copy.written());
        (info.bytes_received, info.upstream_bytes_sent) = (from_client, to_upstream);
        info.upstream_bytes_received += from_upstream;
        // What HTTP/2 sends before is its own.
        info.header_bytes_sent = head_bytes.min(to_client);
        info.bytes_sent = to_client - info.header_bytes_sent;
        moved
    }
}

fn upstream_gone() -> End {
    End::Gone(Flags::UPSTREAM_CONNECTION_TERMINATION, Detail::ResponseConnectionTermination)
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
