//! gRPC callouts of plugins: a stream of HTTP/2 each, over the upstream's own connections. A unary call is a stream with one message
//! each way.
use super::{
    callout::{self, MAX_ANSWER},
    upstream::Upstream,
};
use crate::{
    outlier::Outcome,
    upstream::{
        UpstreamError,
        client::{Open, Places},
        direct::DirectClusters,
    },
    worker::Worker,
};
use bytes::{Buf, Bytes, BytesMut};
use h2::client::ResponseFuture;
use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::AbortHandle,
};
use weir_net::http::{
    Headers, Known, RequestHead, ResponseHead,
    body::Framing,
    h2 as border,
    relay::{Got, Peer, Reader, Writer},
    text,
};
use weir_wasm::GrpcCall;

/// What a message takes beside its bytes.
const MESSAGE_COST: usize = 64;
/// Bytes of messages that may wait to be sent on one stream.
const MAX_QUEUED: usize = 16 << 20;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The codes of gRPC that are made here.
const DEADLINE_EXCEEDED: u32 = 4;
const UNKNOWN: u32 = 2;
pub(super) const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// What comes of a stream, in order; the last is `Closed`.
pub(super) enum Event {
    InitialMetadata(Fields),
    Message(Bytes),
    TrailingMetadata(Fields),
    /// The code and its message.
    Closed(u32, Bytes),
}

/// A stream as the plugin holds it; dropped, it is reset.
pub(super) struct Handle {
    /// `None` ends the plugin's side.
    out: UnboundedSender<Option<Bytes>>,
    queued: Rc<Cell<usize>>,
    ended: Cell<bool>,
    pub task: Option<AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the stream's task takes from it.
pub(super) struct Outgoing {
    messages: UnboundedReceiver<Option<Bytes>>,
    queued: Rc<Cell<usize>>,
}

/// Both ends of what a plugin sends.
pub(super) fn queue() -> (Handle, Outgoing) {
    let (out, messages) = unbounded_channel();
    let queued = Rc::new(Cell::new(0));
    (Handle { out, queued: queued.clone(), ended: Cell::new(false), task: None }, Outgoing { messages, queued })
}

impl Handle {
    /// False when too much waits already, or the plugin has ended its side.
    pub fn send(&self, message: &[u8], end: bool) -> bool {
        if self.ended.get() {
            return end && message.is_empty();
        }
        if !message.is_empty() || !end {
            let queued = self.queued.get().saturating_add(message.len() + MESSAGE_COST);
            if queued > MAX_QUEUED {
                return false;
            }
            self.queued.set(queued);
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            framed.extend_from_slice(&[0]);
            framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
            framed.extend_from_slice(message);
            let _ = self.out.send(Some(framed.freeze()));
        }
        self.ended.set(end);
        if end {
            let _ = self.out.send(None);
        }
        true
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued.get()
    }
}

/// The request of a call; `None` for one that cannot be written.
pub(super) fn request(call: &GrpcCall<'_>) -> Option<RequestHead> {
    let mut head = RequestHead::default();
    let path = format!("/{}/{}", call.service_name, call.method);
    let host = call.upstream.rsplit('|').next().unwrap_or_default();
    let host = host.split_once("://").map_or(host, |(_, h)| h);
    head.begin(b"POST", path.as_bytes());
    if !text::is_target(path.as_bytes()) || host.is_empty() || !head.headers.set(Known::Host, &[host.as_bytes()]) {
        return None;
    }
    head.headers.set(Known::ContentType, &[b"application/grpc"]);
    head.headers.set_named(b"te", b"trailers");
    if let Some(limit) = call.timeout {
        head.headers.set_named(b"grpc-timeout", format!("{}m", limit.as_millis()).as_bytes());
    }
    for (name, value) in call.initial_metadata.iter().filter(|(n, _)| n.first() != Some(&b':')) {
        callout::add(&mut head.headers, name, value)?;
    }
    Some(head)
}

/// Drives a stream to its end. `give` may run guest code, which may drop the stream's handle, and with it this.
pub(super) async fn run(
    directs: &DirectClusters,
    w: Rc<Worker>,
    to: Upstream,
    head: RequestHead,
    out: Outgoing,
    timeout: Option<Duration>,
    mut give: impl FnMut(Event),
) {
    let begun = tokio::time::Instant::now();
    let opened = callout::within(timeout, async {
        let chosen = callout::choose(directs, w, &to).await?;
        let open = chosen.destination().open(&head).await?;
        Ok::<_, UpstreamError>((chosen, open))
    });
    let (chosen, open) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(e)) => return give(Event::Closed(UNAVAILABLE, e.to_string().into())),
        Err(e) => return give(Event::Closed(DEADLINE_EXCEEDED, e.to_string().into())),
    };
    let (mut exchange, _places) = Exchange::new(open, out);
    loop {
        let next = poll_fn(|cx| exchange.poll_event(cx, &chosen.worker));
        let left = timeout.map(|t| t.saturating_sub(begun.elapsed()));
        let event = callout::within(left, next).await.unwrap_or_else(|e| Event::Closed(DEADLINE_EXCEEDED, e.to_string().into()));
        match &event {
            Event::Closed(code, _) => {
                let failed = matches!(*code, DEADLINE_EXCEEDED | UNAVAILABLE | INTERNAL);
                chosen.destination().report(if failed { Outcome::LocalOrigin } else { Outcome::Status(200) });
                return give(event);
            }
            _ => give(event),
        }
    }
}

/// Both sides of one stream. It is opened by the client that all callouts use ([`Destination::open`](crate::upstream::client)), and
/// driven here: the client sends whole requests and the router copies between two connections, while the guest reads and writes
/// messages of both directions for as long as it likes.
struct Exchange {
    peer: Peer,
    writer: Writer,
    out: Outgoing,
    response: Option<ResponseFuture>,
    reader: Option<Reader>,
    head: ResponseHead,
    received: BytesMut,
    trailers: Headers,
    /// The answer's body is over, and what to say of it.
    ended: Option<(u32, Bytes)>,
    told_trailers: bool,
}

impl Exchange {
    /// And what holds its places while it lives.
    fn new(open: Open, out: Outgoing) -> (Exchange, Places) {
        let Open { response, send, places } = open;
        let exchange = Exchange {
            peer: Peer::H2(border::H2Stream { send: Some(send), ..Default::default() }),
            writer: Writer::h2(Vec::new(), false),
            out,
            response: Some(response),
            reader: None,
            head: ResponseHead::default(),
            received: BytesMut::new(),
            trailers: Headers::default(),
            ended: None,
            told_trailers: false,
        };
        (exchange, places)
    }

    fn poll_event(&mut self, cx: &mut Context, w: &Worker) -> Poll<Event> {
        self.poll_out(cx);
        if let Some(response) = &mut self.response {
            let parts = match ready!(Pin::new(response).poll(cx)) {
                Err(e) => return Poll::Ready(Event::Closed(UNAVAILABLE, e.to_string().into())),
                Ok(answer) => answer.into_parts(),
            };
            self.response = None;
            if !border::load_response(&parts.0, &mut self.head) {
                return Poll::Ready(Event::Closed(INTERNAL, Bytes::from_static(b"the answer's head is malformed")));
            }
            if let Peer::H2(stream) = &mut self.peer {
                stream.recv = Some(parts.1);
            }
            self.reader = Some(Reader::new(Framing::NONE, &self.peer));
            if self.head.status != 200 {
                let why = format!("the server answered {}", self.head.status);
                return Poll::Ready(Event::Closed(code_of_http(self.head.status), why.into()));
            }
            return Poll::Ready(Event::InitialMetadata(callout::fields(&self.head.headers)));
        }
        loop {
            match self.message() {
                Ok(Some(message)) => return Poll::Ready(Event::Message(message)),
                Ok(None) => {}
                Err(why) => return Poll::Ready(Event::Closed(INTERNAL, Bytes::from_static(why.as_bytes()))),
            }
            if let Some((code, message)) = &self.ended {
                let closed = Event::Closed(*code, message.clone());
                if !std::mem::replace(&mut self.told_trailers, true) {
                    return Poll::Ready(Event::TrailingMetadata(callout::fields(&self.trailers)));
                }
                return Poll::Ready(closed);
            }
            let Some(reader) = &mut self.reader else { return Poll::Pending };
            let received = &mut self.received;
            let got = reader.poll(cx, &mut self.peer, &w.bufs, &mut self.trailers, &mut |data| received.extend_from_slice(data));
            match ready!(got) {
                Ok(Got::Data) => {}
                Ok(Got::End) => self.ended = Some(self.verdict()),
                Err(_) => return Poll::Ready(Event::Closed(UNAVAILABLE, Bytes::from_static(b"the stream was reset"))),
            }
        }
    }

    /// What the plugin sends. A failure shows in the answer.
    fn poll_out(&mut self, cx: &mut Context) {
        while self.writer.pending() < MAX_QUEUED
            && let Poll::Ready(Some(next)) = self.out.messages.poll_recv(cx)
        {
            match next {
                Some(message) => {
                    self.out.queued.set(self.out.queued.get().saturating_sub(message.len() - 5 + MESSAGE_COST));
                    self.writer.push(&message);
                }
                None => self.writer.end(None),
            }
        }
        let _ = self.writer.poll_flush(cx, &mut self.peer);
    }

    /// The next whole message.
    fn message(&mut self) -> Result<Option<Bytes>, &'static str> {
        let Some((head, rest)) = self.received.split_first_chunk::<5>() else { return Ok(None) };
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] != 0 {
            return Err("a compressed message, which nobody asked for");
        }
        if len > MAX_ANSWER {
            return Err("a message is too large");
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.received.advance(5);
        Ok(Some(self.received.split_to(len).freeze()))
    }

    /// How the server ended it: in its trailers, or in a head without a body.
    fn verdict(&self) -> (u32, Bytes) {
        let find = |name: &[u8]| self.trailers.get_named(name).or_else(|| self.head.headers.get_named(name));
        let code = find(b"grpc-status").and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
        let message = find(b"grpc-message").map(Bytes::copy_from_slice).unwrap_or_default();
        match code {
            Some(code) => (code, message),
            None => (UNKNOWN, Bytes::from_static(b"the server ended without a grpc-status")),
        }
    }
}

/// gRPC's code for an answer that is none of gRPC's.
fn code_of_http(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}
