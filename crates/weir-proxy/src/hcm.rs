//! The HTTP connection manager: what happens on a connection between its first byte and its last.
mod attempt;
mod attend;
mod clock;
mod exchange;
mod filters;
mod forward;
mod h1;
mod h2;
mod interim;
mod relay;
mod reply;
mod request;
mod respond;
mod tries;
mod tunnel;

pub use filters::{Chain, Filter, Part};

use crate::{
    conn::ConnInfo,
    snapshot::{HcmKey, HcmRt, Snapshot},
    stats::HttpStats,
    stream::Stream,
    worker::Worker,
};
use std::{
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use weir_config::model::{EscapedSlashes, HttpConnectionManager};
use weir_net::{
    http::{Headers, h2::PREFACE, parse, path, relay::Peer, wire::Wire},
    io::Io,
    timer::{Lane, nanos},
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

/// A connection manager as a worker uses it, for one version of the configuration.
pub struct Hcm {
    pub rt: Arc<HcmRt>,
    pub snapshot: Arc<Snapshot>,
    pub stats: Arc<HttpStats>,
    path: path::Options,
    head: parse::Limits,
    waits: Waits,
    /// An access log asks for trailers: bodies that may have some are not passed unread.
    logs_trailers: bool,
}

/// What a connection needs to know between requests; it does not hold on to a configuration while it is idle.
#[derive(Clone, Copy)]
struct Waits {
    idle: u64,
    head: u64,
    limits: parse::Limits,
}

fn ns(d: Option<Duration>) -> u64 {
    d.map_or(u64::MAX, nanos)
}

impl Hcm {
    pub fn new(rt: Arc<HcmRt>, snapshot: Arc<Snapshot>, stats: Arc<HttpStats>) -> Hcm {
        let c = rt.config();
        let path = path::Options {
            normalize: c.normalize_path,
            merge_slashes: c.merge_slashes,
            escaped_slashes: match c.escaped_slashes {
                EscapedSlashes::KeepUnchanged => path::Slashes::Keep,
                EscapedSlashes::RejectRequest => path::Slashes::Reject,
                EscapedSlashes::UnescapeAndRedirect => path::Slashes::Redirect,
                EscapedSlashes::UnescapeAndForward => path::Slashes::Unescape,
            },
        };
        let head = parse::Limits { bytes: c.limits.max_request_headers_bytes as usize, fields: c.limits.max_headers_count as usize };
        let waits = Waits { idle: ns(c.timeouts.idle_timeout), head: ns(c.timeouts.request_headers_timeout), limits: head };
        let logs_trailers = rt.access_logs.iter().any(|l| l.reads_trailers());
        Hcm { path, head, waits, logs_trailers, rt, snapshot, stats }
    }
    pub fn config(&self) -> &HttpConnectionManager {
        self.rt.config()
    }
}

/// The downstream side of a request: a connection of HTTP/1, or one stream of HTTP/2.
struct Client {
    peer: Peer,
    lane: Lane,
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
    ip: Rc<[u8]>,
}

/// Serves a connection to its end.
pub async fn serve(io: Io, conn: Rc<ConnInfo>, worker: Rc<Worker>, key: HcmKey, protocol: Protocol) {
    let ip: Rc<[u8]> = conn.peer.ip().to_canonical().to_string().into_bytes().into();
    let mut known = Weak::new();
    let Some(hcm) = worker.hcm(&key, &mut known) else { return };
    let stats = hcm.stats.clone();
    let begun = worker.now();
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    if conn.tls.is_some() {
        stats.downstream_cx_ssl_total.inc();
        stats.downstream_cx_ssl_active.inc();
    }
    let tls = conn.tls.is_some();
    let c = Connection { conn, key, worker, ip };
    let mut wire = Wire::new(io);
    let h2 = match protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Detect => detect(&mut wire, &c.worker, hcm.waits).await,
    };
    let worker = c.worker.clone();
    if h2 {
        let first = wire.input.filled().to_vec();
        wire.input.consume(first.len());
        worker.bufs.reclaim(&mut wire.input);
        h2::serve(wire.io, first, c, hcm).await;
    } else {
        stats.downstream_cx_http1_total.inc();
        stats.downstream_cx_http1_active.inc();
        let waits = hcm.waits;
        drop(hcm);
        let ended = h1::serve(wire, c, known, waits).await;
        stats.downstream_cx_http1_active.dec();
        match ended {
            h1::Ended::Remote { active } => {
                stats.downstream_cx_destroy_remote.inc();
                stats.downstream_cx_destroy_active_rq.add(active.into());
            }
            local => {
                stats.downstream_cx_destroy_local.inc();
                match local {
                    h1::Ended::Idle => stats.downstream_cx_idle_timeout.inc(),
                    h1::Ended::MostRequests => stats.downstream_cx_max_requests_reached.inc(),
                    _ => {}
                }
            }
        }
    }
    stats.downstream_cx_active.dec();
    if tls {
        stats.downstream_cx_ssl_active.dec();
    }
    stats.downstream_cx_destroy.inc();
    stats.downstream_cx_length_ms.record(worker.now() - begun);
}

/// Waits for enough bytes to tell; what is neither is left to HTTP/1 to refuse.
async fn detect(wire: &mut Wire, w: &Worker, waits: Waits) -> bool {
    let lane = w.timers.lane();
    lane.set(w.now().saturating_add(waits.idle));
    loop {
        let have = wire.input.filled();
        let n = have.len().min(PREFACE.len());
        if have[..n] != PREFACE[..n] {
            return false;
        }
        if n == PREFACE.len() {
            return true;
        }
        let filled = poll_fn(|cx| match lane.expired(cx) {
            true => std::task::Poll::Ready(Ok(0)),
            false => wire.poll_fill(cx, &w.bufs),
        });
        match filled.await {
            Ok(1..) => {}
            _ => return false,
        }
    }
}

/// What of a stream no borrow may outlive.
fn trailers_of(s: &Stream, d: crate::stream::Direction) -> std::cell::RefMut<'_, Headers> {
    s.trailers[d as usize].borrow_mut()
}
