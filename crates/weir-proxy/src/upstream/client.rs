//! Requests of the gateway's own to one host of a cluster: mirrors and the callouts of plugins. They go the way of all others,
//! within the cluster's circuit breakers and counted by it.
use super::{ActiveRequest, Checkout, Conn, Failure, Host, MAX_INTERIM, Protocol, StreamPermit, WorkerCluster};
use crate::{
    breaker::{Permit, Resource},
    outlier::Outcome,
    worker::Worker,
};
use bytes::Bytes;
use h2::{SendStream, client::ResponseFuture};
use std::{future::poll_fn, rc::Rc, time::Duration};
use weir_net::http::{
    Headers, Known, RequestHead, ResponseHead,
    body::{self, Framing},
    h2 as border, parse,
    relay::{self, Got, Peer, Reader, Writer},
};

/// A whole request; its framing is added.
pub struct Request {
    pub head: RequestHead,
    pub body: Vec<u8>,
    pub trailers: Headers,
}

/// A whole answer.
#[derive(Default)]
pub struct Answer {
    pub head: ResponseHead,
    pub body: Vec<u8>,
    pub trailers: Headers,
}

/// What becomes of an answer's body.
#[derive(Clone, Copy)]
pub enum Body {
    /// Read, so that the connection can be used again, and dropped.
    Drop,
    /// Kept; a longer one is an error.
    Keep { max: usize },
}

/// Where a request goes.
pub struct Destination<'a> {
    pub worker: &'a Worker,
    pub cluster: &'a Rc<WorkerCluster>,
    pub host: &'a Rc<Host>,
    /// For TLS without a name of its own; `None` for the request's host.
    pub server_name: Option<&'a str>,
}

/// Why there is no answer.
struct Lost {
    why: String,
    /// Nothing of an answer came on a connection that had been used before: the server closed it meanwhile.
    silent: bool,
}

fn lost(why: impl ToString) -> Lost {
    Lost { why: why.to_string(), silent: false }
}

impl Destination<'_> {
    /// Sends a request and reads its answer; on another connection where the first, used before, was closed meanwhile and the
    /// request may be sent twice.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub async fn send(&self, mut request: Request, keep: Body, timeout: Option<Duration>) -> Result<Answer, String> {
        request.frame();
        let _place = self.place()?;
        let stats = &self.cluster.stats;
        let _turn = ActiveRequest::new(self.cluster, self.host);
        stats.upstream_rq_total.inc();
        let tries = async {
            for fresh in [false, true] {
                let (conn, reused) = self.checkout(Protocol::of(self.cluster, false), &request.head, fresh).await?;
                match self.exchange(conn, &request, keep).await {
                    Err(e) if e.silent && reused && !fresh && request.head.method.is_idempotent() => {}
                    other => return other.map_err(|e| e.why),
                }
            }
            Err("the connection was closed".to_string())
        };
        let answer = match timeout {
            None => tries.await,
            Some(limit) => tokio::time::timeout(limit, tries).await.unwrap_or_else(|_| {
                stats.upstream_rq_timeout.inc();
                Err(format!("no answer within {limit:?}"))
            }),
        };
        match &answer {
            Ok(answer) => {
                stats.answered(answer.head.status);
                self.report(Outcome::Status(answer.head.status));
            }
            Err(_) => self.report(Outcome::LocalOrigin),
        }
        answer
    }

    /// Begins a stream of HTTP/2 whose both sides the caller drives. What it comes to is the caller's to [`Destination::report`].
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn open(&self, head: &RequestHead) -> Result<Open, String> {
        let place = self.place()?;
        let turn = ActiveRequest::new(self.cluster, self.host);
        self.cluster.stats.upstream_rq_total.inc();
        for fresh in [false, true] {
            let (conn, reused) = self.checkout(Protocol::Http2, head, fresh).await?;
            let Conn::H2 { send, shared, place: slot } = conn else { return Err("the server does not speak HTTP/2".into()) };
            let request = border::request_of(head).ok_or("the request's head cannot be sent")?;
            let sent = match send.ready().await {
                Ok(mut send) => send.send_request(request, false),
                Err(e) => Err(e),
            };
            match sent {
                Ok((response, send)) => return Ok(Open { response, send, places: Places { _slot: slot, _place: place, _turn: turn } }),
                Err(_) if reused && !fresh => shared.retire(),
                Err(e) => {
                    shared.retire();
                    self.report(Outcome::LocalOrigin);
                    return Err(e.to_string());
                }
            }
        }
        Err("the connection was closed".into())
    }

    /// Passive health of the host.
    pub fn report(&self, outcome: Outcome) {
        self.cluster.report(self.host, outcome, self.worker.now());
    }

    fn place(&self) -> Result<Permit, String> {
        let rt = &self.cluster.rt;
        rt.breakers.take(Resource::Requests, &rt.config.circuit_breakers).ok_or_else(|| {
            self.cluster.stats.upstream_rq_pending_overflow.inc();
            format!("the circuit breaker of {} is open", self.cluster.name)
        })
    }

    async fn checkout(&self, protocol: Protocol, head: &RequestHead, fresh: bool) -> Result<(Conn, bool), String> {
        let named = String::from_utf8_lossy(head.host());
        let server_name = self.server_name.unwrap_or(&named);
        let checkout = Checkout { cluster: self.cluster, host: self.host, protocol, server_name, fresh, client: None };
        if let Some(conn) = checkout.ready(self.worker) {
            return Ok((conn, true));
        }
        checkout.get(self.worker).await.map_err(|e| {
            if !matches!(e, Failure::Overflow) {
                self.report(Outcome::LocalOrigin);
            }
            format!("{}: {}", self.host.text, e.text())
        })
    }

    async fn exchange(&self, conn: Conn, request: &Request, keep: Body) -> Result<Answer, Lost> {
        let mut answer = Answer::default();
        match conn {
            Conn::H1(owned) => {
                let (mut peer, ticket) = owned.into_peer();
                let again = self.exchange_h1(&mut peer, request, keep, &mut answer).await?;
                match (again, peer) {
                    (true, Peer::H1(wire)) => ticket.put_back(self.cluster, self.host, wire, self.worker.now()),
                    _ => ticket.close(self.cluster, true),
                }
            }
            Conn::H2 { send, place, shared } => {
                let _place = place;
                let bare = request.body.is_empty() && request.trailers.is_empty();
                let head = border::request_of(&request.head).ok_or_else(|| lost("the request's head cannot be sent"))?;
                let gone = |e: h2::Error| {
                    shared.retire();
                    Lost { why: e.to_string(), silent: true }
                };
                let (response, stream) = send.ready().await.map_err(gone)?.send_request(head, bare).map_err(gone)?;
                let mut peer = Peer::H2(border::H2Stream { send: Some(stream), ..Default::default() });
                let mut writer = Writer::h2(Vec::new(), bare);
                request.write(&mut writer);
                // A server may answer without having read all of it.
                let _ = poll_fn(|cx| writer.poll_flush(cx, &mut peer)).await;
                let (parts, recv) = response.await.map_err(lost)?.into_parts();
                if !border::load_response(&parts, &mut answer.head) {
                    return Err(lost("the answer's head is malformed"));
                }
                if let Peer::H2(stream) = &mut peer {
                    stream.recv = Some(recv);
                }
                self.read(&mut peer, Framing::NONE, keep, &mut answer).await?;
            }
        }
        Ok(answer)
    }

    /// Whether the connection can serve another request.
    async fn exchange_h1(&self, peer: &mut Peer, request: &Request, keep: Body, answer: &mut Answer) -> Result<bool, Lost> {
        let w = self.worker;
        let closed = || Lost { why: "the server closed the connection".into(), silent: true };
        let chunked = !request.trailers.is_empty();
        let mut head = RequestHead::default();
        head.copy_from(&request.head);
        if chunked {
            head.headers.add(Known::TransferEncoding, &[b"chunked"]);
        }
        let mut writer = relay::request_h1(&head, Vec::new(), chunked);
        request.write(&mut writer);
        poll_fn(|cx| writer.poll_flush(cx, peer)).await.map_err(|_| closed())?;
        let mut interim = 0;
        loop {
            let wire = peer.wire().ok_or_else(closed)?;
            if !wire.input.is_empty() {
                let parsed = parse::response(wire.input.filled(), &mut answer.head, self.cluster.rt.response_limits());
                if let Some(n) = parsed.map_err(|_| lost("the answer's head is malformed"))? {
                    wire.input.consume(n);
                    w.bufs.reclaim(&mut wire.input);
                    if answer.head.status >= 200 {
                        break;
                    }
                    interim += 1;
                    if interim > MAX_INTERIM {
                        return Err(lost("too many interim answers"));
                    }
                    answer.head.clear();
                    continue;
                }
                if wire.input.is_full() {
                    w.bufs.enlarge(&mut wire.input);
                }
            }
            let began = !wire.input.is_empty();
            match poll_fn(|cx| wire.poll_fill(cx, &w.bufs)).await {
                Ok(1..) => {}
                _ => return Err(Lost { silent: !began, ..closed() }),
            }
        }
        let framing = body::of_response(&answer.head, request.head.method).map_err(|_| lost("the answer's framing is malformed"))?;
        self.read(peer, framing, keep, answer).await?;
        let again = framing != Framing::UntilClose && body::persists(&answer.head.headers, answer.head.version);
        Ok(again && peer.wire().is_some_and(|w| w.input.is_empty()))
    }

    async fn read(&self, peer: &mut Peer, framing: Framing, keep: Body, answer: &mut Answer) -> Result<(), Lost> {
        let mut reader = Reader::new(framing, peer);
        let Answer { body, trailers, .. } = answer;
        let mut large = false;
        while !reader.is_done() {
            let mut give = |data: &[u8]| {
                if let Body::Keep { max } = keep {
                    large |= body.len() + data.len() > max;
                    if !large {
                        body.extend_from_slice(data);
                    }
                }
            };
            match poll_fn(|cx| reader.poll(cx, peer, &self.worker.bufs, trailers, &mut give)).await {
                Ok(Got::Data) => {}
                Ok(Got::End) => break,
                Err(_) => return Err(lost("the answer's body was cut off")),
            }
            if large {
                return Err(lost("the answer's body is too large"));
            }
        }
        Ok(())
    }
}

/// A stream that was begun.
pub struct Open {
    pub response: ResponseFuture,
    pub send: SendStream<Bytes>,
    /// To be held while it lives.
    pub places: Places,
}

/// What a stream takes of its cluster's limits.
pub struct Places {
    _slot: StreamPermit,
    _place: Permit,
    _turn: ActiveRequest,
}

impl Request {
    fn frame(&mut self) {
        let headers = &mut self.head.headers;
        headers.remove_any(Known::TransferEncoding.bit() | Known::ContentLength.bit() | Known::Connection.bit() | Known::Upgrade.bit());
        let says_length = !self.body.is_empty() || matches!(self.head.method_text(), b"POST" | b"PUT" | b"PATCH");
        if self.trailers.is_empty() && says_length {
            let headers = &mut self.head.headers;
            headers.add(Known::ContentLength, &[self.body.len().to_string().as_bytes()]);
        }
    }

    fn write(&self, writer: &mut Writer) {
        writer.push(&self.body);
        writer.end(Some(&self.trailers));
    }
}
