//! HTTP/2 towards clients: one task per connection, and one per stream, on the same worker.
use super::{Connection, Downstream, Hcm, active_stream::ActiveStream, cache::Waits, ns, upgrade};
use crate::{
    detail::Detail,
    drain::{IDLE_GRACE, Phase, Watch},
    stats::HttpStats,
};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::Request;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::task::spawn_local;
use weir_config::model::HttpLimits;
use weir_net::{
    http::{
        Known,
        h2::{self as border, Guarded, H2Stream, Seen},
        relay::Peer,
    },
    io::Io,
    timer::Deadline,
};

/// Streams that a client may reset before their answer was begun, beyond those that ended well: above it the connection
/// ends (CVE-2023-44487).
const MAX_EARLY_RESETS: u32 = 200;
/// Bytes of one stream that wait for the client to read, in addition to what is about to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// Ends of streams that h2 remembers.
const MAX_RESET_STREAMS: usize = 50;

struct Shared {
    connection: Connection,
    known: RefCell<Weak<Hcm>>,
    early_resets: Cell<u32>,
    active: Cell<u32>,
}

/// `first` has been read of the connection already; `since`: when its first byte came, if it has.
pub async fn serve(io: Io, first: Vec<u8>, since: Option<u64>, connection: Connection, hcm: Rc<Hcm>) {
    let stats = hcm.stats.clone();
    stats.downstream_cx_http2_total.inc();
    stats.downstream_cx_http2_active.inc();
    let builder = builder(&hcm.config().limits);
    let (waits, max_requests) = (hcm.waits, hcm.config().limits.max_requests_per_connection);
    drop(hcm);
    let seen = Rc::<Seen>::default();
    let drain = connection.conn.drain.watch();
    let shared = Rc::new(Shared { connection, known: RefCell::default(), early_resets: Cell::new(0), active: Cell::new(0) });
    let deadline = shared.connection.worker.timers.deadline();
    let handshake = builder.handshake(Guarded::new(io, first, seen.clone()));
    let mut accept = Accept { shared, stats, seen, drain, deadline, waits, goaway: false, leaving: false, in_head: false };
    if let Some(h2) = accept.handshake(handshake, since).await {
        accept.run(h2, max_requests).await;
    }
    let Accept { stats, seen, drain, .. } = accept;
    if drain.is_closing() {
        stats.downstream_cx_drain_close.inc();
    }
    if seen.flooded.get() {
        stats.downstream_rq_http2_flood.inc();
    }
    stats.downstream_cx_http2_active.dec();
}

/// The settings of the configuration and the bounds of this file.
fn builder(limits: &HttpLimits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.initial_stream_window_bytes)
        .initial_connection_window_size(limits.initial_connection_window_bytes)
        .max_concurrent_streams(limits.max_concurrent_streams)
        // The library's own 431 cannot be counted: the limit is held by `serve_stream`, this is the bound for memory.
        .max_header_list_size(limits.max_request_headers_bytes.saturating_mul(2))
        .data_frame_budget(border::DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .enable_connect_protocol()
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// Accepts the streams of one connection within its deadlines, until the client leaves or the listener drains.
struct Accept {
    shared: Rc<Shared>,
    stats: Arc<HttpStats>,
    seen: Rc<Seen>,
    drain: Watch,
    deadline: Deadline,
    waits: Waits,
    /// A GOAWAY was sent.
    goaway: bool,
    /// The listener closes its connections, and the deadline is that of the drain.
    leaving: bool,
    /// A part of a request's headers has arrived.
    in_head: bool,
}

type H2Connection = h2::server::Connection<Guarded, Bytes>;
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

impl Accept {
    /// Ends `time` nanoseconds from now.
    fn set_deadline(&self, time: u64) {
        self.deadline.set(self.shared.connection.worker.now().saturating_add(time));
    }

    /// `None` if it fails or takes too long.
    async fn handshake(
        &mut self,
        handshake: impl Future<Output = Result<H2Connection, h2::Error>>,
        since: Option<u64>,
    ) -> Option<H2Connection> {
        let w = self.shared.connection.worker.clone();
        let end = since.unwrap_or_else(|| w.now()).saturating_add(self.waits.head);
        self.deadline.set(end);
        let mut handshake = pin!(handshake);
        let mut leaving = false;
        poll_fn(|cx| {
            let phase = self.drain.phase(cx);
            if !leaving && phase >= Phase::Closing {
                // A client that has not even sent the preface is idle.
                leaving = true;
                self.deadline.set(w.now().saturating_add(ns(Some(IDLE_GRACE))).min(end));
            }
            let shaken = handshake.as_mut().poll(cx);
            if shaken.is_pending() && (phase >= Phase::Cutting || self.deadline.expired(cx)) {
                return Poll::Ready(None);
            }
            shaken.map(Result::ok)
        })
        .await
    }

    /// Starts a task for each stream.
    async fn run(&mut self, mut h2: H2Connection, max_requests: u32) {
        let mut count = 0u32;
        self.set_deadline(self.waits.idle);
        loop {
            let (request, respond) = match poll_fn(|cx| self.poll_next(&mut h2, cx)).await {
                Some(Ok(next)) => next,
                Some(Err(e)) => {
                    // Floods that the library sees itself: header continuations, small data frames, streams reset unseen.
                    if e.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !e.is_remote() {
                        self.seen.flooded.set(true);
                    } else if !e.is_remote() && !e.is_io() {
                        self.stats.downstream_cx_protocol_error.inc();
                    }
                    break;
                }
                None => break,
            };
            let shared = &self.shared;
            if shared.early_resets.get() > MAX_EARLY_RESETS {
                self.stats.downstream_rq_http2_flood.inc();
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let _ = poll_fn(|cx| h2.poll_closed(cx)).await;
                break;
            }
            count = count.saturating_add(1);
            if max_requests > 0 && count >= max_requests && !self.goaway {
                self.goaway = true;
                h2.graceful_shutdown();
            }
            if self.seen.paced.take() {
                tokio::task::yield_now().await;
            }
            self.in_head = false;
            self.set_deadline(if self.leaving { ns(Some(IDLE_GRACE)) } else { self.waits.idle });
            shared.active.set(shared.active.get() + 1);
            // Boxed, since the runtime moves what it is given more than once, and this is large.
            spawn_local(Box::pin(stream(shared.clone(), request, respond)));
        }
    }

    /// The next stream; `None` when the connection is to end.
    fn poll_next(&mut self, h2: &mut H2Connection, cx: &mut Context) -> Poll<Option<Result<Accepted, h2::Error>>> {
        let grace = ns(Some(IDLE_GRACE));
        let phase = self.drain.phase(cx);
        if phase >= Phase::Cutting {
            return Poll::Ready(None);
        }
        if !self.goaway && phase >= Phase::Draining {
            self.goaway = true;
            h2.graceful_shutdown();
        }
        if !self.leaving && phase >= Phase::Closing {
            // Clients that do not react to the GOAWAY are checked until they have no stream left.
            self.leaving = true;
            self.set_deadline(grace);
        }
        if self.deadline.expired(cx) {
            if self.in_head {
                self.stats.downstream_rq_header_timeout.inc();
                return Poll::Ready(None);
            }
            if self.shared.active.get() == 0 && !self.goaway {
                self.goaway = true;
                h2.graceful_shutdown();
                // The client may take its time to leave.
                self.set_deadline(self.waits.head);
            } else if self.shared.active.get() == 0 {
                return Poll::Ready(None);
            } else {
                self.set_deadline(if self.leaving { grace } else { self.waits.idle });
            }
        }
        let polled = h2.poll_accept(cx);
        self.stats.downstream_rq_http2_refused.add(self.seen.refused.take().into());
        if polled.is_pending() && self.in_head != self.seen.in_head.get() {
            self.in_head = !self.in_head;
            self.set_deadline(match (self.in_head, self.leaving) {
                (true, _) => self.waits.head,
                (false, true) => grace,
                (false, false) => self.waits.idle,
            });
        }
        polled
    }
}

async fn stream(shared: Rc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    serve_stream(&shared, request, respond).await;
    shared.active.set(shared.active.get() - 1);
}

async fn serve_stream(shared: &Shared, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Connection { conn, key, worker: w, hcms, ip } = &shared.connection;
    let Some(hcm) = hcms.get(key, &mut shared.known.borrow_mut()) else {
        return respond.send_reset(Reason::REFUSED_STREAM);
    };
    hcm.stats.downstream_rq_http2_total.inc();
    let s = w.stream();
    let (parts, body) = request.into_parts();
    if !border::load_request(&parts, &mut s.req.borrow_mut()) {
        hcm.stats.downstream_cx_protocol_error.inc();
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    }
    let websocket = s.req.borrow().headers.get(Known::Upgrade).is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"));
    if websocket {
        upgrade::add_websocket_key(&mut s.req.borrow_mut().headers, [w.random(), w.random()]);
    }
    *s.conn.borrow_mut() = Some(conn.clone());
    let peer = Peer::H2(H2Stream { recv: Some(body), respond: Some(respond), ..H2Stream::default() });
    let mut c = Downstream { peer, deadline: w.timers.deadline(), conn: conn.clone(), ip: ip.clone() };
    let (fields, bytes) = {
        let req = s.req.borrow();
        (req.headers.len(), req.target().len() + req.headers.size())
    };
    let ex = ActiveStream::new(&mut c, w, &hcm, &s, false);
    if fields > hcm.head.fields {
        ex.refuse(431, Detail::Http2TooManyHeaders).await;
    } else if bytes > hcm.head.bytes {
        ex.refuse(431, Detail::Http2HeadersTooLarge).await;
    } else {
        ex.run().await;
    }
    let reset = s.info.borrow().flags.has(crate::info::Flags::DOWNSTREAM_REMOTE_RESET);
    match shared.early_resets.get() {
        n if reset => shared.early_resets.set(n + 1),
        n => shared.early_resets.set(n.saturating_sub(1)),
    }
    w.give_back(s);
}
