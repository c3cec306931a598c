//! Reading a body piece by piece and writing one, whatever protocol either end speaks: for everything that the raw
//! [`super::pump`] cannot do.
use super::{
    body::Framing,
    buf::BufPool,
    chunk,
    h2::{self, H2Stream, stream::Piece},
    head::{Headers, RequestHead, ResponseHead},
    parse,
    pump::Broken,
    trailers,
    wire::Wire,
};
use bytes::Bytes;
use std::task::{Context, Poll, ready};

/// One end of an exchange.
pub enum Peer {
    H1(Wire),
    H2(H2Stream),
}

impl Peer {
    pub fn wire(&mut self) -> Option<&mut Wire> {
        match self {
            Peer::H1(w) => Some(w),
            Peer::H2(_) => None,
        }
    }
    pub fn is_h2(&self) -> bool {
        matches!(self, Peer::H2(_))
    }
}

/// What a read yielded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Got {
    Data,
    /// The end, perhaps with trailers.
    End,
}

/// Takes the content of a body from a peer.
pub struct Reader {
    framing: Framing,
    /// The last byte has come.
    done: bool,
    /// [`Got::End`] was said.
    told: bool,
    /// Content bytes so far.
    pub received: u64,
}

impl Reader {
    /// `framing` counts for HTTP/1 only.
    pub fn new(framing: Framing, peer: &Peer) -> Reader {
        let done = match peer {
            Peer::H1(_) => framing.is_done(),
            Peer::H2(s) => s.is_end_stream(),
        };
        Reader { framing, done, told: done, received: 0 }
    }
    /// Whether [`Got::End`] was said, or there is no body at all.
    pub fn is_done(&self) -> bool {
        self.told
    }
    /// Hands the next content to `give`; at the end, `trailers` holds what followed it.
    pub fn poll(
        &mut self,
        cx: &mut Context,
        src: &mut Peer,
        pool: &BufPool,
        trailers: &mut Headers,
        give: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<Got, Broken>> {
        if self.done {
            self.told = true;
            return Poll::Ready(Ok(Got::End));
        }
        match src {
            Peer::H1(wire) => self.poll_h1(cx, wire, pool, trailers, give),
            Peer::H2(stream) => match ready!(stream.poll_piece(cx)).map_err(|_| Broken::Source)? {
                Piece::Data(data) => {
                    self.received += data.len() as u64;
                    give(&data);
                    stream.release(data.len());
                    Poll::Ready(Ok(Got::Data))
                }
                Piece::Trailers(map) => {
                    h2::trailers_from(&map, trailers);
                    (self.done, self.told) = (true, true);
                    Poll::Ready(Ok(Got::End))
                }
                Piece::End => {
                    (self.done, self.told) = (true, true);
                    Poll::Ready(Ok(Got::End))
                }
            },
        }
    }

    fn poll_h1(
        &mut self,
        cx: &mut Context,
        src: &mut Wire,
        pool: &BufPool,
        trailers: &mut Headers,
        give: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<Got, Broken>> {
        loop {
            let mut got = false;
            while !self.done && !src.input.is_empty() {
                let s = self.framing.step(src.input.filled())?;
                if !s.data.is_empty() {
                    self.received += s.data.len() as u64;
                    give(&src.input.filled()[s.data]);
                    got = true;
                }
                if s.trailers.len() > 2 {
                    parse::trailer_fields(&src.input.filled()[s.trailers], trailers)?;
                }
                src.input.consume(s.used);
                self.done = s.done;
                if s.used == 0 {
                    break;
                }
            }
            pool.reclaim(&mut src.input);
            if self.done {
                // What came before the end is handed over first.
                self.told = !got;
                return Poll::Ready(Ok(if got { Got::Data } else { Got::End }));
            }
            if got {
                return Poll::Ready(Ok(Got::Data));
            }
            match ready!(src.poll_fill(cx, pool)) {
                Ok(0) if src.ends(self.framing) => self.done = true,
                Ok(1..) => {}
                _ => return Poll::Ready(Err(Broken::Source)),
            }
        }
    }
}

/// How content is put on the wire.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Shape {
    /// HTTP/1 with a known length, or until the connection closes.
    Bare,
    Chunked,
    H2,
}

/// Bytes from which a buffer is given to HTTP/2 as it is.
const HAND_OVER: usize = 16 * 1024;

/// Puts a head and a body on the wire. What waits is bounded by the caller: it asks [`Writer::pending`] before it gives more.
pub struct Writer {
    shape: Shape,
    out: Vec<u8>,
    at: usize,
    trailers: Option<http::HeaderMap>,
    /// Content bytes that the head has promised and that are still to come.
    promised: Option<u64>,
    /// More or less came than was promised.
    mismatch: bool,
    ended: bool,
    /// The END_STREAM of HTTP/2 is out.
    closed: bool,
    /// Everything was written and flushed.
    pub done: bool,
    /// Bytes put on the wire.
    pub sent: u64,
    /// Bytes of content that were pushed.
    pub content: u64,
}

impl Writer {
    fn new(shape: Shape, mut out: Vec<u8>) -> Writer {
        let at = 0;
        if shape == Shape::H2 {
            out.clear();
        }
        Writer {
            shape,
            out,
            at,
            trailers: None,
            promised: None,
            mismatch: false,
            ended: false,
            closed: false,
            done: false,
            sent: 0,
            content: 0,
        }
    }
    /// Starts a request or response on HTTP/1: `out` holds its head already.
    pub fn h1(out: Vec<u8>, chunked: bool) -> Writer {
        Writer::new(if chunked { Shape::Chunked } else { Shape::Bare }, out)
    }
    /// Continues a message on HTTP/2 whose head has been sent; `closed`: with its end.
    pub fn h2(spare: Vec<u8>, closed: bool) -> Writer {
        Writer { ended: closed, closed, ..Writer::new(Shape::H2, spare) }
    }
    /// The buffer, for the next message.
    pub fn into_buffer(mut self) -> Vec<u8> {
        self.out.clear();
        self.out
    }
    pub fn pending(&self) -> usize {
        self.out.len() - self.at
    }
    pub fn is_ended(&self) -> bool {
        self.ended
    }
    /// Holds the body to the length that the head says. What is beyond it never reaches the wire, where it would be read
    /// as the next message.
    pub fn declare(&mut self, length: Option<u64>) {
        self.promised = length;
    }
    /// Whether the body was not as long as declared: the message is broken, and its connection must end.
    pub fn is_mismatch(&self) -> bool {
        self.mismatch
    }
    pub fn push(&mut self, data: &[u8]) {
        let mut data = data;
        if let Some(left) = &mut self.promised {
            let fits = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            self.mismatch |= fits < data.len();
            *left -= fits as u64;
            data = &data[..fits];
        }
        if data.is_empty() || self.ended {
            return;
        }
        self.content += data.len() as u64;
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
        } else if self.at >= self.pending() {
            // Drop what was sent, or the buffer would grow to twice what waits.
            self.out.drain(..self.at);
            self.at = 0;
        }
        if self.shape == Shape::Chunked {
            chunk::size_line(&mut self.out, data.len());
            self.out.extend_from_slice(data);
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.out.extend_from_slice(data);
        }
    }
    /// The body is complete.
    pub fn end(&mut self, fields: Option<&Headers>) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.mismatch |= self.promised.is_some_and(|left| left > 0);
        let trailers = fields.filter(|t| !t.is_empty()).map(|given| {
            let mut fields = Headers::default();
            fields.copy_from(given);
            trailers::filter(&mut fields);
            fields
        });
        match self.shape {
            Shape::Bare => {}
            Shape::Chunked => {
                self.out.extend_from_slice(b"0\r\n");
                if let Some(t) = &trailers {
                    t.write_lines(&mut self.out);
                }
                self.out.extend_from_slice(b"\r\n");
            }
            Shape::H2 => self.trailers = trailers.as_ref().map(h2::trailers_of).filter(|t| !t.is_empty()),
        }
    }
    /// Writes what waits. Ready when all of it is out.
    pub fn poll_flush(&mut self, cx: &mut Context, dst: &mut Peer) -> Poll<Result<(), Broken>> {
        match dst {
            Peer::H1(wire) => {
                while self.at < self.out.len() {
                    let n = ready!(wire.poll_write(cx, [&self.out[self.at..], &[]])).map_err(|_| Broken::Sink)?;
                    self.at += n;
                    self.sent += n as u64;
                }
                ready!(wire.poll_flush(cx)).map_err(|_| Broken::Sink)?;
            }
            Peer::H2(stream) => ready!(self.poll_flush_h2(cx, stream))?,
        }
        self.done = self.ended;
        Poll::Ready(Ok(()))
    }

    fn poll_flush_h2(&mut self, cx: &mut Context, stream: &mut H2Stream) -> Poll<Result<(), Broken>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let Some(send) = &mut stream.send else { return Poll::Ready(Err(Broken::Sink)) };
        while self.at < self.out.len() {
            let want = self.out.len() - self.at;
            send.reserve_capacity(want);
            let n = match ready!(send.poll_capacity(cx)) {
                Some(Ok(n)) => n.min(want),
                _ => return Poll::Ready(Err(Broken::Sink)),
            };
            if n == 0 {
                continue;
            }
            let last = self.ended && self.trailers.is_none() && n == want;
            // A small piece is copied, so that the buffer is there for the next without growing again.
            let data = match self.at == 0 && n == want && n >= HAND_OVER {
                true => Bytes::from(std::mem::take(&mut self.out)),
                false => Bytes::copy_from_slice(&self.out[self.at..self.at + n]),
            };
            send.send_data(data, last).map_err(|_| Broken::Sink)?;
            self.sent += n as u64;
            self.closed = last;
            if n == want {
                self.out.clear();
                self.at = 0;
                break;
            }
            self.at += n;
        }
        if self.ended && !self.closed {
            self.closed = true;
            match self.trailers.take() {
                Some(t) => send.send_trailers(t),
                None => send.send_data(Bytes::new(), true),
            }
            .map_err(|_| Broken::Sink)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Starts the response on a peer: the head is sent (HTTP/2) or put in front of what the writer writes (HTTP/1).
pub fn respond(peer: &mut Peer, head: &ResponseHead, mut out: Vec<u8>, chunked: bool, end: bool) -> Result<Writer, Broken> {
    out.clear();
    match peer {
        Peer::H1(_) => {
            head.write_to(&mut out);
            let mut writer = Writer::h1(out, chunked);
            writer.ended = end && !chunked;
            Ok(writer)
        }
        Peer::H2(stream) => {
            let response = h2::response_of(head).ok_or(Broken::Malformed)?;
            let mut respond = stream.respond.take().ok_or(Broken::Sink)?;
            stream.send = Some(respond.send_response(response, end).map_err(|_| Broken::Sink)?);
            Ok(Writer::h2(out, end))
        }
    }
}

/// Starts a request on an HTTP/1 connection.
pub fn request_h1(head: &RequestHead, mut out: Vec<u8>, chunked: bool) -> Writer {
    out.clear();
    head.write_to(&mut out);
    Writer::h1(out, chunked)
}
