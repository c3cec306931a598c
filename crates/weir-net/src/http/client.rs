//! The client's side of HTTP/1: a request goes out on a connection, the response that answers it comes in.
//!
//! [`ResponseHeads`] reads the heads and nothing else: the router drives it beside the client's body. [`Exchange`] is one whole
//! request on one connection, for everything that the gateway asks itself.
use super::{
    Headers, Method, ResponseHead,
    body::{self, Framing},
    buf::BufPool,
    parse,
    relay::{Got, Peer, Reader, Writer},
    wire::Wire,
};
use std::{
    fmt,
    future::poll_fn,
    task::{Context, Poll, ready},
};

/// What a server may send before the body of its response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// Of each head.
    pub head: parse::Limits,
    /// Interim responses (1xx) before the final one. A server that sends more is malformed.
    pub interim: u32,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        ResponseLimits { head: parse::Limits::default(), interim: 100 }
    }
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The server closed the connection; `silent`: before the first byte of a response.
    Closed { silent: bool },
    /// What came is not a response.
    Malformed,
    /// More interim responses than [`ResponseLimits`] allow.
    TooManyInterim,
    /// The connection ended within the body.
    Truncated,
    /// The body is longer than the caller accepts.
    TooLarge,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientError::Closed { .. } => "the server closed the connection",
            ClientError::Malformed => "the response is malformed",
            ClientError::TooManyInterim => "the server sent too many interim responses",
            ClientError::Truncated => "the server closed the connection before the end of the response's body",
            ClientError::TooLarge => "the response's body is too large",
        })
    }
}

impl std::error::Error for ClientError {}

/// Reads response heads up to the final one.
#[derive(Debug)]
pub struct ResponseHeads {
    pub limits: ResponseLimits,
    /// Interim responses so far.
    interim: u32,
}

impl ResponseHeads {
    pub fn new(limits: ResponseLimits) -> ResponseHeads {
        ResponseHeads { limits, interim: 0 }
    }

    /// Reads the next head of HTTP/1 into `head`, which is empty or holds the part that was read before. Returns its length.
    pub fn poll_next(
        &self,
        cx: &mut Context,
        wire: &mut Wire,
        pool: &BufPool,
        head: &mut ResponseHead,
    ) -> Poll<Result<usize, ClientError>> {
        loop {
            if !wire.input.is_empty() {
                match parse::response(wire.input.filled(), head, self.limits.head) {
                    Ok(Some(n)) => {
                        wire.input.consume(n);
                        pool.reclaim(&mut wire.input);
                        return Poll::Ready(Ok(n));
                    }
                    // Within the limit, or it would have been refused.
                    Ok(None) if wire.input.is_full() => pool.enlarge(&mut wire.input),
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(ClientError::Malformed)),
                }
            }
            match ready!(wire.poll_fill(cx, pool)) {
                Ok(1..) => {}
                _ => return Poll::Ready(Err(ClientError::Closed { silent: wire.input.is_empty() })),
            }
        }
    }

    /// Counts a head that is not the final one.
    ///
    /// # Errors
    /// Too many interim responses.
    pub fn count_interim(&mut self) -> Result<(), ClientError> {
        self.interim += 1;
        if self.interim > self.limits.interim { Err(ClientError::TooManyInterim) } else { Ok(()) }
    }
}

/// What to do with a response's body.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Read it, so that the connection can be used again, and drop it.
    Drop,
    /// Keep it; a longer one is an error.
    Keep { max: usize },
}

/// Collects the body of a response.
pub struct Collect {
    reader: Reader,
    keep: Body,
}

impl Collect {
    pub fn new(reader: Reader, keep: Body) -> Collect {
        Collect { reader, keep }
    }

    /// Ready when all of the body is in `into` and what followed it in `trailers`.
    pub fn poll(
        &mut self,
        cx: &mut Context,
        peer: &mut Peer,
        pool: &BufPool,
        into: &mut Vec<u8>,
        trailers: &mut Headers,
    ) -> Poll<Result<(), ClientError>> {
        let mut large = false;
        while !self.reader.is_done() {
            let mut give = |data: &[u8]| {
                if let Body::Keep { max } = self.keep {
                    large |= into.len() + data.len() > max;
                    if !large {
                        into.extend_from_slice(data);
                    }
                }
            };
            match ready!(self.reader.poll(cx, peer, pool, trailers, &mut give)) {
                Ok(Got::Data) => {}
                Ok(Got::End) => break,
                Err(_) => return Poll::Ready(Err(ClientError::Truncated)),
            }
            if large {
                return Poll::Ready(Err(ClientError::TooLarge));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// One request on an HTTP/1 connection, and its response.
pub struct Exchange {
    peer: Peer,
    asked: Method,
    heads: ResponseHeads,
    /// Part of the request could not be written.
    unsent: bool,
    /// The response lets the connection be used again.
    persists: bool,
}

impl Exchange {
    /// `asked`: the method of the request, which decides whether the response has a body.
    pub fn new(wire: Wire, asked: Method, limits: ResponseLimits) -> Exchange {
        Exchange { peer: Peer::H1(wire), asked, heads: ResponseHeads::new(limits), unsent: false, persists: false }
    }

    /// Writes what `writer` holds and reads up to the end of the final head. A server may answer before it has read all.
    pub fn poll_response(
        &mut self,
        cx: &mut Context,
        writer: &mut Writer,
        pool: &BufPool,
        head: &mut ResponseHead,
    ) -> Poll<Result<Framing, ClientError>> {
        if !self.unsent && !writer.done {
            self.unsent = matches!(writer.poll_flush(cx, &mut self.peer), Poll::Ready(Err(_)));
        }
        let Peer::H1(wire) = &mut self.peer else { return Poll::Ready(Err(ClientError::Closed { silent: true })) };
        loop {
            ready!(self.heads.poll_next(cx, wire, pool, head))?;
            match head.status {
                200.. => break,
                // Nobody asked for another protocol.
                101 => return Poll::Ready(Err(ClientError::Malformed)),
                _ => {
                    self.heads.count_interim()?;
                    head.clear();
                }
            }
        }
        let framing = body::of_response(head, self.asked).map_err(|_| ClientError::Malformed)?;
        self.persists = framing != Framing::UntilClose && body::persists(&head.headers, head.version);
        self.unsent |= !writer.done;
        Poll::Ready(Ok(framing))
    }

    /// As [`Exchange::poll_response`].
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn response(&mut self, writer: &mut Writer, pool: &BufPool, head: &mut ResponseHead) -> Result<Framing, ClientError> {
        poll_fn(|cx| self.poll_response(cx, writer, pool, head)).await
    }

    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    pub fn into_peer(self) -> Peer {
        self.peer
    }

    /// The connection, where another request may follow on it. To be asked once the body was read.
    pub fn into_wire(self) -> Option<Wire> {
        match self.peer {
            Peer::H1(wire) if self.persists && !self.unsent && wire.input.is_empty() => Some(wire),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::RequestHead, *};
    use crate::io::Io;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    /// What a client makes of these bytes: the status, the body, and whether the connection can be used again.
    async fn ask(method: &[u8], response: &[u8], close: bool) -> Result<(u16, Vec<u8>, bool), ClientError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut request = RequestHead::default();
        request.begin(method, b"/");
        request.headers.add(super::super::Known::Host, &[b"h.test"]);
        let (pool, mut head) = (BufPool::new(4096, 1), ResponseHead::default());
        let mut exchange = Exchange::new(Wire::new(Io::Plain(io)), request.method, ResponseLimits::default());
        let mut writer = super::super::relay::request_h1(&request, Vec::new(), false);
        writer.end(None);
        let serve = async {
            let mut seen = [0; 512];
            let _ = server.read(&mut seen).await.unwrap();
            // In pieces, so that every state is left and entered again.
            for piece in response.chunks(7) {
                server.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            if close {
                server.shutdown().await.unwrap();
            }
        };
        let client = async {
            let framing = exchange.response(&mut writer, &pool, &mut head).await?;
            let (mut body, mut trailers) = (Vec::new(), Headers::default());
            let mut collect = Collect::new(Reader::new(framing, exchange.peer()), Body::Keep { max: 10 });
            poll_fn(|cx| collect.poll(cx, exchange.peer(), &pool, &mut body, &mut trailers)).await?;
            Ok((head.status, body))
        };
        let (got, ()) = tokio::join!(client, serve);
        let (status, body) = got?;
        Ok((status, body, exchange.into_wire().is_some()))
    }

    #[tokio::test]
    async fn responses_and_what_is_none() {
        use ClientError::*;
        let limits = ResponseLimits::default();
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let most = [&interim.repeat(limits.interim as usize)[..], b"HTTP/1.1 204 No Content\r\n\r\n"].concat();
        let too_many = interim.repeat(limits.interim as usize + 1);
        type Outcome = Result<(u16, &'static [u8], bool), ClientError>;
        let cases: Vec<(&[u8], &[u8], bool, Outcome)> = vec![
            (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", false, Ok((200, b"abc", true))),
            (b"GET", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc", false, Ok((200, b"abc", false))),
            (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP", true, Ok((200, b"abc", false))),
            (b"GET", b"HTTP/1.1 200 OK\r\n\r\nabc", true, Ok((200, b"abc", false))),
            (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", false, Ok((200, b"", true))),
            (b"GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n", false, Ok((200, b"abc", true))),
            (b"GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", false, Ok((404, b"", true))),
            (b"GET", &most, false, Ok((204, b"", true))),
            (b"GET", &too_many, false, Err(TooManyInterim)),
            (b"GET", b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", false, Err(Malformed)),
            (b"GET", b"SSH-2.0-OpenSSH\r\n", false, Err(Malformed)),
            (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", false, Err(Malformed)),
            (b"GET", b"", true, Err(Closed { silent: true })),
            (b"GET", b"HTTP/1.1 200", true, Err(Closed { silent: false })),
            (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", true, Err(Truncated)),
            (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nabcdefghijk", false, Err(TooLarge)),
        ];
        for (method, response, close, expected) in cases {
            let got = ask(method, response, close).await;
            let expected = expected.map(|(status, body, again)| (status, body.to_vec(), again));
            assert_eq!(got, expected, "{}", String::from_utf8_lossy(response));
        }
    }
}
