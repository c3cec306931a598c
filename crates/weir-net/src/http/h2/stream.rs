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
    /// Lets the peer send `n` bytes more.
    pub fn release(&mut self, n: usize) {
        if let Some(recv) = &mut self.recv {
            let _ = recv.flow_control().release_capacity(n);
        }
    }
    /// Whether the peer has said that no body follows.
    pub fn is_end_stream(&self) -> bool {
        self.recv.as_ref().is_none_or(|r| r.is_end_stream())
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
