//! Interim answers (1xx) on their way to the client. `100 Continue` is the gateway's own to say; `101` ends the exchange.
use super::{active_stream::ActiveStream, end::End};
use std::task::{Context, Poll, ready};
use weir_net::http::{Known, Version, h2 as border, relay::Peer};

impl ActiveStream<'_> {
    /// Passes the interim answer on that the stream holds; clients of HTTP/1.0 know of none.
    pub(super) fn pass_interim(&mut self) -> Result<(), End> {
        self.strip_response(0);
        let mut resp = self.s.resp.borrow_mut();
        // None of them has a body (RFC 9110 section 8.6).
        resp.headers.remove(Known::ContentLength);
        match &mut self.c.peer {
            _ if resp.status == 100 => {}
            Peer::H2(stream) => {
                if let Some(head) = border::response_of(&resp) {
                    stream.interim(head).map_err(|_| End::client_gone(true))?;
                }
            }
            Peer::H1(_) if self.s.req.borrow().version == Version::Http11 => resp.write_to(&mut self.response.interim),
            Peer::H1(_) => {}
        }
        resp.clear();
        Ok(())
    }

    /// Ready when no part of an interim answer waits any more: what follows must not overtake it.
    pub(super) fn poll_interim(&mut self, cx: &mut Context) -> Poll<Result<(), End>> {
        let Some(wire) = self.c.peer.wire().filter(|_| !self.response.interim.is_empty()) else { return Poll::Ready(Ok(())) };
        let gone = |_| End::client_gone(false);
        while !self.response.interim.is_empty() {
            let n = ready!(wire.poll_write(cx, [&self.response.interim, b""])).map_err(gone)?;
            self.response.interim.drain(..n);
        }
        wire.poll_flush(cx).map_err(gone)
    }
}
