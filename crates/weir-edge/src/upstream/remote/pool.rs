//! Connections of one server with the same credentials, and the streams that they carry.
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http_body::Frame;
use hyper::{body::Incoming, client::conn::http2};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};
use weir_net::tls::Client;

/// Streams of one connection. An API server allows 250 (kube-apiserver's `--http2-max-streams-per-connection`); watches take one each
/// for as long as they last.
const STREAMS: usize = 100;

#[derive(Default)]
pub struct Pool {
    open: Mutex<Vec<Open>>,
    /// Held while a connection is opened.
    pub dialing: tokio::sync::Mutex<Dialing>,
}

/// How the last connection attempt failed, if it did.
#[derive(Default)]
pub struct Dialing(Option<Failed>);

struct Failed {
    client: Arc<Client>,
    at: Instant,
    kind: io::ErrorKind,
    message: String,
}

impl Dialing {
    pub fn failed(&mut self, client: &Arc<Client>, error: &io::Error) {
        self.0 = Some(Failed { client: client.clone(), at: Instant::now(), kind: error.kind(), message: error.to_string() });
    }

    /// Why an attempt with the same credentials failed that ended after this moment. Requests that waited for it fail with it: if each
    /// made an attempt of its own, the last of them would wait for all the timeouts of the others.
    pub fn failed_since(&self, client: &Arc<Client>, moment: Instant) -> Option<io::Error> {
        let failed = self.0.as_ref().filter(|failed| Arc::ptr_eq(&failed.client, client) && failed.at >= moment)?;
        Some(io::Error::new(failed.kind, failed.message.clone()))
    }
}

struct Open {
    /// What it was opened with.
    client: Arc<Client>,
    sender: http2::SendRequest<Body>,
    streams: Arc<AtomicUsize>,
}

impl Pool {
    /// A connection with room for a stream. One that was opened with an older certificate gets no new streams, and is closed after its
    /// last one.
    pub fn pick(&self, client: &Arc<Client>) -> Option<(http2::SendRequest<Body>, Streams)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| !open.sender.is_closed() && (Arc::ptr_eq(&open.client, client) || open.streams.load(Ordering::Relaxed) > 0));
        let found = open.iter().find(|open| Arc::ptr_eq(&open.client, client) && open.streams.load(Ordering::Relaxed) < STREAMS)?;
        Some((found.sender.clone(), Streams::new(&found.streams)))
    }

    pub fn add(&self, client: Arc<Client>, sender: http2::SendRequest<Body>) -> (http2::SendRequest<Body>, Streams) {
        let streams = Arc::new(AtomicUsize::new(0));
        let held = Streams::new(&streams);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Open { client, sender: sender.clone(), streams });
        (sender, held)
    }

    /// How many connections are open, and how many streams they carry.
    pub fn counts(&self) -> (usize, usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|open| !open.sender.is_closed());
        (open.len(), open.iter().map(|open| open.streams.load(Ordering::Relaxed)).sum())
    }
}

/// A stream of a connection, counted for as long as it lasts.
pub struct Streams(Arc<AtomicUsize>);

impl Streams {
    fn new(of: &Arc<AtomicUsize>) -> Streams {
        of.fetch_add(1, Ordering::Relaxed);
        Streams(of.clone())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response that holds its stream.
pub struct Counted {
    body: Incoming,
    _held: Streams,
}

impl Counted {
    pub fn new(body: Incoming, held: Streams) -> Counted {
        Counted { body, _held: held }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
