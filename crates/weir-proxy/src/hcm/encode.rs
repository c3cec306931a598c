//! Takes a response's head through the plugins: an upstream's, a local reply, or a switch of protocols.
use super::{active_stream::ActiveStream, attempt::Try, body::Replay, end::before_head, wait::GivenUp};
use crate::stream::Direction;
use std::{
    future::poll_fn,
    task::{Context, Poll},
};
use weir_net::http::{
    Known,
    relay::{Peer, Reader},
};

/// Where the body comes from while plugins hold the head.
pub(super) struct Source<'a> {
    pub tried: &'a mut Try,
    pub replay: &'a mut Replay,
    pub reader: &'a mut Reader,
}

impl ActiveStream<'_> {
    /// Shows the head to the plugins, and waits until all of them let it pass. `ends`: there is no body. Without a source, `body` is
    /// the whole body.
    pub(super) async fn encode(&mut self, ends: bool, body: &[u8], mut source: Option<Source<'_>>) -> Result<(), GivenUp> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        chain.head(Direction::Response, ends);
        if !body.is_empty() {
            chain.data(Direction::Response, body, true);
        }
        self.clock.arm(&self.c.deadline);
        poll_fn(|cx| self.poll_encode(cx, source.as_mut())).await?;
        if self.chain.as_ref().is_some_and(|c| c.is_unsized(Direction::Response)) {
            // The new length, if it is known by now, is set with the framing.
            self.s.resp.borrow_mut().headers.remove(Known::ContentLength);
        }
        Ok(())
    }

    fn poll_encode(&mut self, cx: &mut Context, mut source: Option<&mut Source<'_>>) -> Poll<Result<(), GivenUp>> {
        if let Some(Source { tried, replay, .. }) = &mut source {
            self.poll_rest_up(cx, tried, replay);
        }
        loop {
            self.run_events(cx).map_err(GivenUp::End)?;
            let sized = self.s.resp.borrow().headers.has(Known::ContentLength);
            let ready = self.chain.as_ref().is_none_or(|c| c.is_ready(Direction::Response, sized));
            if ready && !sized {
                return Poll::Ready(Ok(()));
            }
            // Parts of the body that have arrived go through the plugins first: they may change its length.
            let more = match &mut source {
                Some(Source { tried, reader, .. }) => {
                    self.gather_down(cx, Some((&mut tried.peer, &mut **reader)), None).map_err(|e| GivenUp::End(before_head(e)))?
                }
                None => false,
            };
            match (more, ready) {
                (true, _) => {}
                (false, true) => return Poll::Ready(Ok(())),
                (false, false) => break,
            }
        }
        if let Some(Source { tried, .. }) = &mut source
            && let Peer::H2(stream) = &mut tried.peer
        {
            stream.absorb(cx);
        }
        if let Err(late) = self.check_clock(cx) {
            return Poll::Ready(Err(GivenUp::Late(late)));
        }
        let read = match &source {
            Some(Source { tried, .. }) => self.request_is_read(&tried.up),
            None => self.request.is_read(),
        };
        match self.poll_client(cx, read) {
            Poll::Ready(Err(end)) => Poll::Ready(Err(GivenUp::End(end))),
            _ => Poll::Pending,
        }
    }
}
