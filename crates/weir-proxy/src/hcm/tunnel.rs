//! Upgraded connections (WebSocket and others): bytes both ways until both sides have ended.
use super::{
    After,
    attempt::Try,
    exchange::{End, Exchange},
    forward::Plan,
};
use crate::{
    drain::Phase,
    info::Flags,
    stream::{Direction, Reached},
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};
use weir_net::http::{
    Known,
    body::{Framing, lists},
    pump::{Broken, Coding, Pump},
};

impl Exchange<'_> {
    /// The upstream has switched protocols.
    pub(super) async fn upgrade(&mut self, plan: &Plan<'_>, tried: Try) -> Result<After, End> {
        let asked = {
            let req = self.s.req.borrow();
            !self.h2 && req.headers.has(Known::Upgrade) && lists(&req.headers, Known::Connection, b"upgrade")
        };
        let Try { mut peer, host, turn, ticket, .. } = tried;
        let Some(u) = peer.wire().filter(|_| asked) else {
            return Err(End::reply(502, Flags::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_before_response_started{protocol_error}"));
        };
        if let Some(chain) = &mut self.chain {
            chain.head(Direction::Response, false);
        }
        poll_fn(|cx| {
            let r = self.run_events(cx);
            match self.chain.as_ref().is_none_or(|c| c.out[1].head) || r.is_err() {
                true => Poll::Ready(r),
                false => Poll::Pending,
            }
        })
        .await?;
        self.s.reached[Direction::Response as usize].set(Reached::Sent);
        {
            let mut info = self.s.info.borrow_mut();
            info.status = 101;
            info.response_start = self.w.now();
            info.details = "via_upstream".into();
            plan.cluster.stats.answered(101);
        }
        self.answered = true;
        self.hcm.stats.downstream_cx_upgrades_total.inc();
        self.hcm.stats.downstream_cx_upgrades_active.inc();
        self.back.clear();
        self.s.resp.borrow().write_to(&mut self.back);
        self.out.clear();
        // The route's time was for the answer; a tunnel ends when it is idle.
        (self.clock.route, self.clock.request) = (u64::MAX, u64::MAX);
        self.clock.arm(&self.c.lane);
        let moved = Box::pin(self.tunnel(u)).await;
        self.hcm.stats.downstream_cx_upgrades_active.dec();
        drop((turn, host));
        if let Some(ticket) = ticket {
            ticket.close(&plan.cluster, false);
        }
        moved.map(|()| After::Close)
    }

    async fn tunnel(&mut self, u: &mut weir_net::http::wire::Wire) -> Result<(), End> {
        let w = self.w.clone();
        let gone = |e| match e {
            Broken::Sink => End::client_gone(false),
            _ => End::Gone(Flags::UPSTREAM_CONNECTION_TERMINATION, "upstream_reset_after_response_started{connection_termination}".into()),
        };
        let Some(c) = self.c.peer.wire() else { return Ok(()) };
        let mut up = Pump::new(Framing::UntilClose, Coding::Same, &mut self.out, c, &w.bufs).map_err(gone)?;
        let mut down = Pump::new(Framing::UntilClose, Coding::Same, &mut self.back, u, &w.bufs).map_err(gone)?;
        let drain = self.c.conn.drain.clone();
        let mut cutting = pin!(drain.reached(Phase::Cutting));
        let moved = poll_fn(|cx| {
            let before = up.sent + down.sent;
            let Some(c) = self.c.peer.wire() else { return Poll::Ready(Ok(())) };
            if !up.done && up.poll(cx, &mut self.out, c, u, &w.bufs).map_err(gone)?.is_ready() {
                let _ = u.poll_shutdown(cx);
            }
            if !down.done && down.poll(cx, &mut self.back, u, c, &w.bufs).map_err(gone)?.is_ready() {
                let _ = c.poll_shutdown(cx);
            }
            if up.done && down.done || cutting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.progress = self.progress.wrapping_add(up.sent + down.sent - before);
            match self.check_clock(cx) {
                Err(_) => Poll::Ready(Err(End::Gone(Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout".into()))),
                Ok(()) => Poll::Pending,
            }
        })
        .await;
        let mut info = self.s.info.borrow_mut();
        (info.bytes_received, info.bytes_sent) = (up.moved, down.moved);
        moved
    }
}
