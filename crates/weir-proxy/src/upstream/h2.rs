//! HTTP/2 connections to an upstream, shared by many requests.
use super::link::{ConnStats, Facts};
use crate::conn::UpstreamTls;
use bytes::Bytes;
use h2::client::SendRequest;
use std::{cell::Cell, io, rc::Rc};
use tokio::sync::Notify;
use weir_config::model::Cluster;
use weir_net::{
    http::h2::{DATA_FRAME_BUDGET, Guarded},
    io::Io,
};

/// Streams on one connection at once, if the peer allows as many.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 256 * 1024;
/// As much as all streams together may hold back: clients that read slowly must not stall the others that share the connection.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

pub struct Multiplexed {
    send: SendRequest<Bytes>,
    closed: Rc<Cell<bool>>,
    active: Rc<Cell<u32>>,
    since: Cell<u64>,
    requests: Cell<u32>,
    /// 0 for any number.
    max_requests: u32,
    pub name: Option<Box<str>>,
    pub facts: Facts,
    pub tls: Option<Rc<UpstreamTls>>,
    /// Told when a stream has ended.
    freed: Rc<Notify>,
}

/// One stream under way.
pub struct StreamPermit {
    active: Rc<Cell<u32>>,
    freed: Rc<Notify>,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        self.freed.notify_one();
    }
}

impl Drop for Multiplexed {
    fn drop(&mut self) {
        // Whatever ends the connection now, it was not the peer.
        self.closed.set(true);
    }
}

impl Multiplexed {
    /// Shakes hands and starts the task that drives the connection; it ends with the connection.
    pub async fn start(
        io: Io,
        config: &Cluster,
        name: Option<Box<str>>,
        link: Rc<ConnStats>,
        freed: Rc<Notify>,
    ) -> io::Result<Rc<Multiplexed>> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        // The library ends the connection, and all its streams, for a head of four times this; `Exchange::poll_head` holds the limit.
        builder.max_header_list_size(config.response_limits.max_response_headers_bytes.saturating_mul(4));
        builder.data_frame_budget(DATA_FRAME_BUDGET);
        builder.enable_push(false).initial_max_send_streams(MAX_STREAMS as usize);
        let (send, connection) = builder.handshake(Guarded::client(io)).await.map_err(io::Error::other)?;
        let closed = Rc::new(Cell::new(false));
        let (done, facts, tls) = (closed.clone(), link.facts.get(), link.tls.get().cloned());
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            if !done.replace(true) {
                link.closed_by_peer();
            }
        });
        let (active, since, requests) = (Rc::default(), Cell::new(u64::MAX), Cell::new(0));
        let max_requests = config.requests_per_connection();
        Ok(Rc::new(Multiplexed { send, closed, active, since, requests, max_requests, name, facts, tls, freed }))
    }
    /// Whether a new stream may be tried on it.
    pub fn is_usable(&self) -> bool {
        !self.closed.get() && (self.max_requests == 0 || self.requests.get() < self.max_requests)
    }
    pub fn has_room(&self) -> bool {
        self.is_usable() && self.active.get() < MAX_STREAMS.min(self.send.current_max_send_streams() as u32)
    }
    pub fn is_idle_since(&self, oldest: u64) -> bool {
        self.active.get() == 0 && self.since.get() < oldest
    }
    /// A handle to send one request with.
    pub fn stream(&self, now: u64) -> (SendRequest<Bytes>, StreamPermit) {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
        self.since.set(now);
        (self.send.clone(), StreamPermit { active: self.active.clone(), freed: self.freed.clone() })
    }
    /// No further stream.
    pub fn retire(&self) {
        self.closed.set(true);
    }
}
