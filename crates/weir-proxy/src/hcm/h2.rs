//! HTTP/2 towards clients: one task per connection, and one per stream, on the same worker.
use super::{Connection, Downstream, Hcm, active_stream::ActiveStream, ns, upgrade};
use crate::{
    detail::Detail,
    drain::{IDLE_GRACE, Phase},
};
use h2::{Reason, RecvStream, server::SendResponse};
use http::Request;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    task::Poll,
};
use tokio::task::spawn_local;
use weir_net::{
    http::{
        Known,
        h2::{self as border, Guarded, H2Stream, Seen},
        relay::Peer,
    },
    io::Io,
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
    let limits = &hcm.config().limits;
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
    let (waits, max_requests) = (hcm.waits, limits.max_requests_per_connection);
    drop(hcm);
    let seen = Rc::<Seen>::default();
    let drain = connection.conn.drain.watch();
    let shared = Rc::new(Shared { connection, known: RefCell::default(), early_resets: Cell::new(0), active: Cell::new(0) });
    let w = shared.connection.worker.clone();
    let deadline = w.timers.deadline();
    let grace = ns(Some(IDLE_GRACE));
    let head_end = since.unwrap_or_else(|| w.now()).saturating_add(waits.head);
    deadline.set(head_end);
    let mut handshake = pin!(builder.handshake(Guarded::new(io, first, seen.clone())));
    let mut leaving = false;
    let shaken = poll_fn(|cx| {
        let phase = drain.phase(cx);
        if !leaving && phase >= Phase::Closing {
            // A client that has not even sent the preface is idle.
            leaving = true;
            deadline.set(w.now().saturating_add(grace).min(head_end));
        }
        let shaken = handshake.as_mut().poll(cx);
        if shaken.is_pending() && (phase >= Phase::Cutting || deadline.expired(cx)) {
            return Poll::Ready(None);
        }
        shaken.map(Some)
    })
    .await;
    if let Some(Ok(mut h2)) = shaken {
        let (mut told, mut leaving, mut in_head, mut count) = (false, false, false, 0u32);
        deadline.set(w.now().saturating_add(waits.idle));
        loop {
            let next = poll_fn(|cx| {
                let phase = drain.phase(cx);
                if phase >= Phase::Cutting {
                    return Poll::Ready(None);
                }
                if !told && phase >= Phase::Draining {
                    told = true;
                    h2.graceful_shutdown();
                }
                if !leaving && phase >= Phase::Closing {
                    // Clients that do not react to the GOAWAY are checked until they have no stream left.
                    leaving = true;
                    deadline.set(w.now().saturating_add(grace));
                }
                if deadline.expired(cx) {
                    if in_head {
                        stats.downstream_rq_header_timeout.inc();
                        return Poll::Ready(None);
                    }
                    if shared.active.get() == 0 && !told {
                        told = true;
                        h2.graceful_shutdown();
                        // The client may take its time to leave.
                        deadline.set(w.now().saturating_add(waits.head));
                    } else if shared.active.get() == 0 {
                        return Poll::Ready(None);
                    } else {
                        deadline.set(w.now().saturating_add(if leaving { grace } else { waits.idle }));
                    }
                }
                let polled = h2.poll_accept(cx);
                stats.downstream_rq_http2_refused.add(seen.refused.take().into());
                if polled.is_pending() && in_head != seen.in_head.get() {
                    in_head = !in_head;
                    deadline.set(w.now().saturating_add(match (in_head, leaving) {
                        (true, _) => waits.head,
                        (false, true) => grace,
                        (false, false) => waits.idle,
                    }));
                }
                polled
            });
            let (request, respond) = match next.await {
                Some(Ok(next)) => next,
                Some(Err(e)) => {
                    // Floods that the library sees itself: header continuations, small data frames, streams reset unseen.
                    if e.reason() == Some(Reason::ENHANCE_YOUR_CALM) && !e.is_remote() {
                        seen.flooded.set(true);
                    } else if !e.is_remote() && !e.is_io() {
                        stats.downstream_cx_protocol_error.inc();
                    }
                    break;
                }
                None => break,
            };
            if shared.early_resets.get() > MAX_EARLY_RESETS {
                stats.downstream_rq_http2_flood.inc();
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let _ = poll_fn(|cx| h2.poll_closed(cx)).await;
                break;
            }
            count = count.saturating_add(1);
            if max_requests > 0 && count >= max_requests && !told {
                told = true;
                h2.graceful_shutdown();
            }
            if seen.paced.take() {
                tokio::task::yield_now().await;
            }
            in_head = false;
            deadline.set(w.now().saturating_add(if leaving { grace } else { waits.idle }));
            shared.active.set(shared.active.get() + 1);
            // Boxed, since the runtime moves what it is given more than once, and this is large.
            spawn_local(Box::pin(stream(shared.clone(), request, respond)));
        }
    }
    if drain.is_closing() {
        stats.downstream_cx_drain_close.inc();
    }
    if seen.flooded.get() {
        stats.downstream_rq_http2_flood.inc();
    }
    stats.downstream_cx_http2_active.dec();
}

async fn stream(shared: Rc<Shared>, request: Request<RecvStream>, respond: SendResponse<bytes::Bytes>) {
    serve_stream(&shared, request, respond).await;
    shared.active.set(shared.active.get() - 1);
}

async fn serve_stream(shared: &Shared, request: Request<RecvStream>, mut respond: SendResponse<bytes::Bytes>) {
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
