//! The HTTP connection manager: what happens on a connection between its first byte and its last.
mod active_stream;
mod attempt;
mod body;
mod cache;
mod clock;
mod encode;
mod end;
mod error_backend;
mod h1;
mod h2;
mod interim;
mod linger;
mod local_reply;
mod request;
mod respond;
mod retry_loop;
mod router;
mod state;
mod upgrade;
mod upstream_request;
mod wait;

pub use cache::{Hcm, HcmCache};

use crate::{
    conn::ConnInfo,
    drain::{IDLE_GRACE, Phase},
    snapshot::HcmKey,
    stats::HttpStats,
    stream::Stream,
    worker::Worker,
};
use cache::{Waits, ns};
use std::{
    future::poll_fn,
    rc::{Rc, Weak},
    task::Poll,
};
use weir_net::{
    http::{Headers, h2::PREFACE, relay::Peer, wire::Wire},
    io::Io,
    timer::Deadline,
};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// HTTP/2 if it begins with its preface, else HTTP/1 (h2c by prior knowledge).
    Detect,
}

impl Protocol {
    /// By what ALPN agreed on.
    pub fn of(io: &Io) -> Protocol {
        match io.alpn() {
            Some(b"h2") => Protocol::Http2,
            Some(_) => Protocol::Http1,
            None => Protocol::Detect,
        }
    }
}

/// The downstream side of a request: a connection of HTTP/1, or one stream of HTTP/2.
struct Downstream {
    peer: Peer,
    deadline: Deadline,
    conn: Rc<ConnInfo>,
    /// The client's address as text.
    ip: Rc<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    Keep,
    Close,
}

/// What all requests of a connection share.
struct Connection {
    conn: Rc<ConnInfo>,
    key: HcmKey,
    worker: Rc<Worker>,
    hcms: Rc<HcmCache>,
    ip: Rc<[u8]>,
}

/// Serves a connection to its end.
pub async fn serve(io: Io, conn: Rc<ConnInfo>, worker: Rc<Worker>, hcms: Rc<HcmCache>, key: HcmKey, protocol: Protocol) {
    let ip: Rc<[u8]> = conn.peer.ip().to_canonical().to_string().into_bytes().into();
    let mut known = Weak::new();
    let Some(hcm) = hcms.get(&key, &mut known) else { return };
    let stats = hcm.stats.clone();
    let begun = worker.now();
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    if conn.tls.is_some() {
        stats.downstream_cx_ssl_total.inc();
        stats.downstream_cx_ssl_active.inc();
    }
    let tls = conn.tls.is_some();
    let c = Connection { conn, key, worker, hcms, ip };
    let mut wire = Wire::new(io);
    let first = match protocol {
        Protocol::Http1 => Ok((false, None)),
        Protocol::Http2 => Ok((true, None)),
        Protocol::Detect => detect(&mut wire, &c, hcm.waits).await,
    };
    let worker = c.worker.clone();
    match first {
        Err(ended) => count_end(&stats, &ended),
        Ok((true, since)) => {
            let first = wire.input.filled().to_vec();
            wire.input.consume(first.len());
            worker.bufs.reclaim(&mut wire.input);
            h2::serve(wire.io, first, since, c, hcm).await;
        }
        Ok((false, since)) => {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
            let waits = hcm.waits;
            drop(hcm);
            let ended = h1::serve(wire, since, c, known, waits).await;
            stats.downstream_cx_http1_active.dec();
            count_end(&stats, &ended);
        }
    }
    stats.downstream_cx_active.dec();
    if tls {
        stats.downstream_cx_ssl_active.dec();
    }
    stats.downstream_cx_destroy.inc();
    stats.downstream_cx_length_ms.record(worker.now() - begun);
}

fn count_end(stats: &HttpStats, ended: &h1::Ended) {
    match ended {
        h1::Ended::Remote { active } => {
            stats.downstream_cx_destroy_remote.inc();
            stats.downstream_cx_destroy_active_rq.add((*active).into());
        }
        local => {
            stats.downstream_cx_destroy_local.inc();
            match local {
                h1::Ended::Idle => stats.downstream_cx_idle_timeout.inc(),
                h1::Ended::MostRequests => stats.downstream_cx_max_requests_reached.inc(),
                h1::Ended::Drained => stats.downstream_cx_drain_close.inc(),
                _ => {}
            }
        }
    }
}

/// Waits for enough bytes to tell whether the client speaks HTTP/2; also returns when the first byte arrived. Input that is neither
/// protocol, or not complete in time, is left to HTTP/1 to refuse.
async fn detect(wire: &mut Wire, c: &Connection, waits: Waits) -> Result<(bool, Option<u64>), h1::Ended> {
    let w = &c.worker;
    let deadline = w.timers.deadline();
    let begun = w.now();
    deadline.set(begun.saturating_add(waits.idle));
    let drain = c.conn.drain.watch();
    let (mut since, mut leaving) = (None, false);
    loop {
        let have = wire.input.filled();
        let n = have.len().min(PREFACE.len());
        if have[..n] != PREFACE[..n] {
            return Ok((false, since));
        }
        if n == PREFACE.len() {
            return Ok((true, since));
        }
        if n > 0 && since.is_none() {
            let now = w.now();
            since = Some(now);
            deadline.set(now.saturating_add(waits.head));
        }
        let filled = poll_fn(|cx| {
            if since.is_none() && !leaving && drain.phase(cx) >= Phase::Closing {
                leaving = true;
                deadline.set(begun.saturating_add(ns(Some(IDLE_GRACE))));
            }
            match deadline.expired(cx) {
                true => Poll::Ready(None),
                false => wire.poll_fill(cx, &w.bufs).map(Some),
            }
        });
        match filled.await {
            Some(Ok(1..)) => {}
            Some(_) => return Err(h1::Ended::Remote { active: since.is_some() }),
            None if since.is_some() => return Ok((false, since)),
            None if leaving => return Err(h1::Ended::Drained),
            None => return Err(h1::Ended::Idle),
        }
    }
}

/// What of a stream no borrow may outlive.
fn trailers_of(s: &Stream, d: crate::stream::Direction) -> std::cell::RefMut<'_, Headers> {
    s.trailers[d as usize].borrow_mut()
}
