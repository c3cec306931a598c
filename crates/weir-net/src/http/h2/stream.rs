//! One HTTP/2 stream as one end of an exchange.
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::Response;
use std::task::{Context, Poll, ready};

/// Both directions of a stream. Dropping it resets what has not ended.
#[derive(Default)]
pub struct H2Stream {
    pub recv: Option<RecvStream>,
    pub send: Option<SendStream<Bytes>>,
    /// The server's side until its response head is sent.
    pub respond: Option<SendResponse<Bytes>>,
    pub held: Held,
}

/// Parts of a body that were taken from the library before a reader asked for them.
#[derive(Default)]
pub struct Held {
    first: Option<Bytes>,
    /// All that followed it, in one piece.
    rest: Vec<u8>,
}

impl Held {
    fn add(&mut self, data: Bytes) {
        match self.is_empty() {
            _ if data.is_empty() => {}
            true => self.first = Some(data),
            false => self.rest.extend_from_slice(&data),
        }
    }
    fn take(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| (!self.rest.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.rest))))
    }
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }
}

/// What came.
pub enum Piece {
    Data(Bytes),
    Trailers(http::HeaderMap),
    End,
}

impl H2Stream {
    /// The next piece of the body. Its window is given back by [`H2Stream::release`].
    pub fn poll_piece(&mut self, cx: &mut Context) -> Poll<Result<Piece, h2::Error>> {
        if let Some(data) = self.held.take() {
            return Poll::Ready(Ok(Piece::Data(data)));
        }
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(Piece::End)) };
        loop {
            match ready!(recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Ok(Piece::Data(data))),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                None => break,
            }
        }
        match ready!(recv.poll_trailers(cx))? {
            Some(map) => Poll::Ready(Ok(Piece::Trailers(map))),
            None => Poll::Ready(Ok(Piece::End)),
        }
    }
    /// Takes all that has arrived while there is no reader. In the library each frame costs far more than its bytes, and a peer
    /// with too many small ones loses its connection, although honest peers send thousands (gRPC). The window is not given
    /// back, so it bounds what is held.
    pub fn absorb(&mut self, cx: &mut Context) {
        while let Some(recv) = &mut self.recv
            && let Poll::Ready(Some(Ok(data))) = recv.poll_data(cx)
        {
            self.held.add(data);
        }
    }
    /// Looks at the first piece of the body, if it has arrived.
    ///
    /// # Errors
    /// The body is already known to contradict its head.
    pub fn peek(&mut self, cx: &mut Context) -> Result<(), h2::Error> {
        if self.held.is_empty()
            && let Some(recv) = &mut self.recv
            && let Poll::Ready(Some(data)) = recv.poll_data(cx)
        {
            self.held.add(data?);
        }
        Ok(())
    }
    /// Lets the peer send `n` bytes more.
    pub fn release(&mut self, n: usize) {
        if let Some(recv) = &mut self.recv {
            let _ = recv.flow_control().release_capacity(n);
        }
    }
    /// Whether the peer has said that no body follows.
    pub fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.recv.as_ref().is_none_or(|r| r.is_end_stream())
    }
    /// Sends an interim answer (1xx) ahead of the answer itself.
    ///
    /// # Errors
    /// Where the answer has begun already, or the stream is gone.
    pub fn interim(&mut self, head: Response<()>) -> Result<(), h2::Error> {
        self.respond.as_mut().map_or(Ok(()), |r| r.send_informational(head))
    }
    pub fn reset(&mut self, reason: Reason) {
        if let Some(send) = &mut self.send {
            send.send_reset(reason);
        } else if let Some(respond) = &mut self.respond {
            respond.send_reset(reason);
        }
    }
    /// Ready when the peer has reset the stream or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context) -> Poll<Result<Reason, h2::Error>> {
        match (&mut self.send, &mut self.respond) {
            (Some(send), _) => send.poll_reset(cx),
            (_, Some(respond)) => respond.poll_reset(cx),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_keeps_its_order() {
        let (mut held, mut out, mut expected) = (Held::default(), Vec::new(), Vec::new());
        for i in 0..200u8 {
            held.add(Bytes::copy_from_slice(&[i; 3][..usize::from(i % 4)]));
            expected.extend_from_slice(&[i; 3][..usize::from(i % 4)]);
            if i % 5 < 2 {
                out.extend(held.take().unwrap_or_default());
            }
        }
        while let Some(data) = held.take() {
            out.extend(data);
        }
        assert!(out == expected && held.is_empty());
    }
}
