//! Moving bodies: the client's to the plugins and on to the upstream, the upstream's back.
use super::{
    active_stream::ActiveStream,
    end::{End, bad},
    state::Expect,
    trailers_of,
};
use crate::{detail::Detail, info::Flags, reply::Reply, stream::Direction};
use std::{
    future::Future,
    task::{Context, Poll, ready},
    time::Duration,
};
use weir_net::http::{
    Headers, Known, ResponseHead, h2 as border,
    parse::Bad,
    pump::{Broken, Pump},
    relay::{Got, Peer, Reader, Writer},
};

/// Bytes that wait in memory for a slow receiver before the sender is made to wait.
pub(super) const WINDOW: usize = 64 * 1024;

/// How often to check a client whose bytes fill all buffers: nothing else shows that it has gone.
const GLANCE: Duration = Duration::from_millis(100);

/// How a body goes on.
pub(super) enum Body {
    /// As it is, from one HTTP/1 connection to another.
    Raw(Pump),
    /// Decoded, past plugins or into another protocol.
    Relay(Writer),
}

impl Body {
    pub fn is_done(&self) -> bool {
        match self {
            Body::Raw(p) => p.done,
            Body::Relay(w) => w.done,
        }
    }
    /// Bytes that the upstream was sent, with the head.
    pub fn sent(&self) -> u64 {
        match self {
            Body::Raw(p) => p.sent,
            Body::Relay(w) => w.sent,
        }
    }
}

/// What of the request may have to be sent again.
pub(super) struct Replay {
    pub body: Vec<u8>,
    pub ended: bool,
    /// Beyond the limit: it cannot be sent again.
    pub spent: bool,
    /// In bytes.
    limit: usize,
}

impl Replay {
    pub fn new(limit: usize) -> Replay {
        Replay { body: Vec::new(), ended: false, spent: false, limit }
    }
    fn keep(&mut self, data: &[u8]) {
        if self.spent || self.body.len() + data.len() > self.limit {
            self.spent = true;
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(data);
        }
    }
}

impl ActiveStream<'_> {
    /// Until all plugins let the request's head go on.
    pub(super) fn poll_decode(&mut self, cx: &mut Context) -> Poll<Result<(), End>> {
        loop {
            self.run_events(cx)?;
            let sized = self.s.req.borrow().headers.has(Known::ContentLength);
            let ready = self.chain.as_ref().is_none_or(|c| c.is_ready(Direction::Request, sized));
            if ready && !sized {
                return Poll::Ready(Ok(()));
            }
            // Parts of the body that have arrived go through the plugins first: they may change its length.
            match (self.poll_feed(cx)?, ready) {
                (Poll::Ready(true), _) => {}
                (_, true) => return Poll::Ready(Ok(())),
                (_, false) => break,
            }
        }
        if let Err(late) = self.check_clock(cx) {
            return Poll::Ready(Err(self.too_late(late)));
        }
        self.poll_client(cx, self.request.reader.is_done())
    }

    /// Gives the plugins more of the client's body, if they want it and have room. `Ready(false)`: nothing to do.
    fn poll_feed(&mut self, cx: &mut Context) -> Result<Poll<bool>, End> {
        let Some(chain) = &mut self.chain else { return Ok(Poll::Ready(false)) };
        let d = Direction::Request;
        if self.request.reader.is_done() || !chain.wants_body(d) || !chain.has_room(d, WINDOW) {
            return Ok(Poll::Ready(false));
        }
        if self.request.expect == Expect::Continue && !self.say_continue(cx)? {
            return Ok(Poll::Pending);
        }
        let Some(chain) = &mut self.chain else { return Ok(Poll::Ready(false)) };
        let mut trailers = std::mem::take(&mut *trailers_of(self.s, d));
        let got = self.request.reader.poll(cx, &mut self.c.peer, &self.w.bufs, &mut trailers, &mut |data| chain.data(d, data, false));
        let some = !trailers.is_empty();
        *trailers_of(self.s, d) = trailers;
        let got = match got {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(got) => got.map_err(|e| self.broken_request(e))?,
        };
        if let (Got::End, Some(chain)) = (got, &mut self.chain) {
            match some {
                true => chain.trailers(d),
                false => chain.data(d, &[], true),
            }
        }
        if got == Got::End {
            self.request_read();
        }
        self.clock.add_progress(1);
        self.run_events(cx)?;
        Ok(Poll::Ready(true))
    }

    pub(super) fn broken_request(&self, e: Broken) -> End {
        match e {
            Broken::Malformed => bad(Bad::Chunk),
            // Only plugins change a body's length.
            Broken::Length => {
                let who = self.chain.as_ref().and_then(|c| c.has_resized(Direction::Request)).unwrap_or_default();
                let body = format!("the plugin {who} has changed the length of the request's body after its head was sent\n");
                End::Reply(Reply::new(500, Detail::ContentLengthMismatch).body(body.into_bytes()), Flags::LOCAL_RESET)
            }
            _ => End::client_gone(self.h2),
        }
    }

    /// Tells the client to send its body. `false`: the connection is full.
    pub(super) fn say_continue(&mut self, cx: &mut Context) -> Result<bool, End> {
        match &mut self.c.peer {
            Peer::H2(stream) => {
                let mut head = ResponseHead::default();
                head.begin(100);
                if let Some(head) = border::response_of(&head) {
                    stream.interim(head).map_err(|_| End::client_gone(true))?;
                }
            }
            // What has come needs no telling.
            Peer::H1(wire) if wire.input.is_empty() => {
                match wire.poll_write(cx, [b"HTTP/1.1 100 Continue\r\n\r\n", b""]) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Err(End::client_gone(false)),
                    Poll::Pending => return Ok(false),
                }
                let _ = wire.poll_flush(cx);
            }
            Peer::H1(_) => {}
        }
        self.request.expect = Expect::Nothing;
        Ok(true)
    }

    /// Notices a client that goes away, also while plugins hold its body back. `read`: all of the body was read.
    pub(super) fn poll_client(&mut self, cx: &mut Context, read: bool) -> Poll<Result<(), End>> {
        let d = Direction::Request;
        let held_back = self.chain.as_ref().is_some_and(|c| match c.wants_body(d) {
            true => !c.has_room(d, WINDOW),
            false => !c.out[0].head,
        });
        match &mut self.c.peer {
            Peer::H1(wire) if !read && held_back => {
                let gone = Poll::Ready(Err(End::client_gone(false)));
                // Bytes that arrive meanwhile wait in the connection's buffer.
                while !wire.input.is_full() {
                    match wire.poll_fill(cx, &self.w.bufs) {
                        Poll::Ready(Ok(1..)) => {}
                        Poll::Ready(_) => return gone,
                        Poll::Pending => return Poll::Pending,
                    }
                }
                loop {
                    if wire.is_ending() {
                        return gone;
                    }
                    let glance = self.request.check_client.get_or_insert_with(|| Box::pin(tokio::time::sleep(GLANCE)));
                    ready!(glance.as_mut().poll(cx));
                    self.request.check_client = None;
                }
            }
            _ => self.poll_client_gone(cx, read),
        }
    }

    /// Sees a client that goes away while nothing is read from it (`done`: its body was).
    pub(super) fn poll_client_gone(&mut self, cx: &mut Context, done: bool) -> Poll<Result<(), End>> {
        match &mut self.c.peer {
            Peer::H1(wire) => {
                if done && wire.input.is_empty() && matches!(wire.poll_fill(cx, &self.w.bufs), Poll::Ready(Ok(0) | Err(_))) {
                    return Poll::Ready(Err(End::client_gone(false)));
                }
            }
            Peer::H2(stream) => {
                if stream.poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(End::client_gone(true)));
                }
                if !done {
                    stream.absorb(cx);
                }
            }
        }
        Poll::Pending
    }

    /// Moves the request's body towards the upstream. Ready when all of it is out.
    pub(super) fn poll_up(&mut self, cx: &mut Context, u: &mut Peer, up: &mut Body, replay: &mut Replay) -> Poll<Result<(), Broken>> {
        match up {
            Body::Raw(pump) => {
                let (Some(src), Some(dst)) = (self.c.peer.wire(), u.wire()) else { return Poll::Ready(Err(Broken::Sink)) };
                let before = pump.sent;
                let r = pump.poll(cx, &mut self.out, src, dst, &self.w.bufs);
                self.clock.add_progress(pump.sent - before);
                if pump.is_read() {
                    self.request_read();
                }
                r
            }
            Body::Relay(writer) => self.poll_up_relay(cx, u, writer, replay),
        }
    }

    fn poll_up_relay(&mut self, cx: &mut Context, u: &mut Peer, writer: &mut Writer, replay: &mut Replay) -> Poll<Result<(), Broken>> {
        loop {
            // Gather what is there before it is written, so that it travels together.
            let mut more = true;
            while more && !writer.is_ended() && writer.pending() < WINDOW {
                more = self.gather(cx, writer, replay)?;
            }
            if writer.is_mismatch() {
                // The upstream must not take an incomplete body for a complete one.
                return Poll::Ready(Err(Broken::Length));
            }
            let before = writer.sent;
            let flushed = writer.poll_flush(cx, u)?;
            self.clock.add_progress(writer.sent - before);
            if writer.done {
                return Poll::Ready(Ok(()));
            }
            if flushed.is_pending() || !more {
                if let Peer::H2(stream) = &mut self.c.peer {
                    stream.absorb(cx);
                }
                return Poll::Pending;
            }
        }
    }

    /// Takes one more piece of the request into the writer, if there is one.
    fn gather(&mut self, cx: &mut Context, writer: &mut Writer, replay: &mut Replay) -> Result<bool, Broken> {
        let d = Direction::Request;
        if self.chain.is_some() {
            let fed = match self.poll_feed(cx) {
                Ok(Poll::Ready(fed)) => fed,
                Ok(Poll::Pending) => false,
                Err(end) => {
                    self.over = Some(end);
                    return Err(Broken::Source);
                }
            };
            let wants = self.chain.as_ref().is_some_and(|c| c.wants_body(d));
            let mut moved = false;
            if let Some(chain) = &mut self.chain {
                let out = &mut chain.out[0];
                moved = !out.body.is_empty();
                if moved {
                    replay.keep(&out.body);
                    writer.push(&out.body);
                    out.body.clear();
                }
                if out.end {
                    replay.ended = true;
                    let trailers = trailers_of(self.s, d);
                    writer.end(Some(&trailers).filter(|_| out.trailers).map(|t| &**t));
                    return Ok(true);
                }
            }
            if wants {
                // Bytes that moved on have left room for more.
                return Ok(fed || moved);
            }
        }
        if self.request.expect == Expect::Continue {
            match self.say_continue(cx) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(_) => return Err(Broken::Source),
            }
        }
        let mut trailers = std::mem::take(&mut *trailers_of(self.s, d));
        let got = self.request.reader.poll(cx, &mut self.c.peer, &self.w.bufs, &mut trailers, &mut |data| {
            replay.keep(data);
            writer.push(data);
        });
        let got = match got {
            Poll::Ready(Ok(Got::End)) => {
                replay.ended = true;
                writer.end(Some(&trailers));
                Ok(true)
            }
            Poll::Ready(Ok(Got::Data)) => {
                self.clock.add_progress(1);
                Ok(true)
            }
            Poll::Ready(Err(e)) => Err(e),
            Poll::Pending => Ok(false),
        };
        *trailers_of(self.s, d) = trailers;
        if self.request.reader.is_done() {
            self.request_read();
        }
        got
    }

    /// Moves the response's body towards the client, past the plugins.
    pub(super) fn poll_down_relay(
        &mut self,
        cx: &mut Context,
        mut u: Option<(&mut Peer, &mut Reader)>,
        writer: &mut Writer,
    ) -> Poll<Result<(), End>> {
        loop {
            self.run_events(cx)?;
            let mut more = true;
            while more && !writer.is_ended() && writer.pending() < WINDOW {
                let source = u.as_mut().map(|(p, r)| (&mut **p, &mut **r));
                more = self.gather_down(cx, source, Some(writer))?;
                self.run_events(cx)?;
            }
            if writer.is_mismatch() {
                // Neither must the client.
                self.chain.as_ref().and_then(|c| c.has_resized(Direction::Response));
                return Poll::Ready(Err(End::Gone(Flags::LOCAL_RESET, Detail::ContentLengthMismatch)));
            }
            let before = writer.sent;
            let flushed = writer.poll_flush(cx, &mut self.c.peer).map_err(|_| End::client_gone(self.h2))?;
            self.clock.add_progress(writer.sent - before);
            if writer.done {
                return Poll::Ready(Ok(()));
            }
            if flushed.is_pending() || !more {
                if let Some((Peer::H2(stream), _)) = &mut u {
                    stream.absorb(cx);
                }
                return Poll::Pending;
            }
        }
    }

    /// Takes one more piece of the response: to the plugins where there are some that want it, else to the writer.
    /// Without a writer (the head is still held) only plugins are fed.
    pub(super) fn gather_down(
        &mut self,
        cx: &mut Context,
        source: Option<(&mut Peer, &mut Reader)>,
        writer: Option<&mut Writer>,
    ) -> Result<bool, End> {
        let d = Direction::Response;
        let wants = self.chain.as_ref().is_some_and(|c| c.wants_body(d));
        let (mut fed, mut writer) = (false, writer);
        if let Some((u, reader)) = source {
            let room = self.chain.as_ref().is_none_or(|c| c.has_room(d, WINDOW));
            // The end of a body that plugins watch is theirs to pass on.
            if room && !reader.is_done() && (wants || writer.is_some()) {
                let mut trailers = std::mem::take(&mut *trailers_of(self.s, d));
                let chain = self.chain.as_mut().filter(|_| wants);
                fed = match (chain, &mut writer) {
                    (Some(chain), _) => {
                        let got = reader.poll(cx, u, &self.w.bufs, &mut trailers, &mut |data| chain.data(d, data, false));
                        let some = !trailers.is_empty();
                        *trailers_of(self.s, d) = trailers;
                        match arrived(got)? {
                            Some(Got::End) if some => chain.trailers(d),
                            Some(Got::End) => chain.data(d, &[], true),
                            Some(Got::Data) => {}
                            None => return self.drain_chain(writer).map(|_| false),
                        }
                        true
                    }
                    (None, Some(w)) => {
                        let got = reader.poll(cx, u, &self.w.bufs, &mut trailers, &mut |data| w.push(data));
                        let got = arrived(got);
                        if let Ok(Some(Got::End)) = got {
                            w.end(Some(&trailers));
                        }
                        *trailers_of(self.s, d) = trailers;
                        got?.is_some()
                    }
                    (None, None) => false,
                };
                self.clock.add_progress(u64::from(fed));
            }
        }
        Ok(self.drain_chain(writer)? || fed)
    }

    /// What has passed the plugins goes to the writer.
    fn drain_chain(&mut self, writer: Option<&mut Writer>) -> Result<bool, End> {
        let (Some(chain), Some(writer)) = (&mut self.chain, writer) else { return Ok(false) };
        let out = &mut chain.out[1];
        let moved = !out.body.is_empty();
        writer.push(&out.body);
        out.body.clear();
        if out.end && !writer.is_ended() {
            let trailers = trailers_of(self.s, Direction::Response);
            let none = Headers::default();
            writer.end(Some(if out.trailers { &trailers } else { &none }));
            return Ok(true);
        }
        Ok(moved)
    }
}

/// A piece of the upstream's body, or what its absence means.
fn arrived(got: Poll<Result<Got, Broken>>) -> Result<Option<Got>, End> {
    match got {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(got)) => Ok(Some(got)),
        Poll::Ready(Err(Broken::Malformed)) => Err(End::Gone(Flags::UPSTREAM_PROTOCOL_ERROR, Detail::ResponseProtocolError)),
        Poll::Ready(Err(_)) => Err(End::Gone(Flags::UPSTREAM_CONNECTION_TERMINATION, Detail::ResponseConnectionTermination)),
    }
}
