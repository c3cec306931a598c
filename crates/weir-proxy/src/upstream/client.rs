//! Requests of the gateway's own to one host of a cluster: mirrors and the callouts of plugins. They go the way of all others,
//! within the cluster's circuit breakers and counted by it.
use super::{ActiveRequest, Checkout, Conn, Host, Protocol, StreamPermit, UpstreamError, WorkerCluster, clusters::WorkerClusters};
use crate::{
    breaker::{Permit, Resource},
    outlier::Outcome,
};
use bytes::Bytes;
use h2::{SendStream, client::ResponseFuture};
use std::{future::poll_fn, rc::Rc, time::Duration};
use weir_net::http::{
    Headers, Known, RequestHead, ResponseHead,
    body::Framing,
    client::{ClientError, Collect, Exchange},
    h2 as border,
    relay::{self, Peer, Reader, Writer},
};

pub use weir_net::http::client::Body;

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

/// Where a request goes.
pub struct Destination<'a> {
    pub worker: &'a WorkerClusters,
    pub cluster: &'a Rc<WorkerCluster>,
    pub host: &'a Rc<Host>,
    /// For TLS without a name of its own; `None` for the request's host.
    pub server_name: Option<&'a str>,
}

/// Why a try got no answer.
struct Lost {
    error: UpstreamError,
    /// Nothing of an answer came on a connection that had been used before: the server closed it meanwhile.
    silent: bool,
}

impl From<UpstreamError> for Lost {
    fn from(error: UpstreamError) -> Lost {
        Lost { error, silent: false }
    }
}

impl From<ClientError> for Lost {
    fn from(e: ClientError) -> Lost {
        match e {
            ClientError::Closed { silent } => Lost { error: UpstreamError::Reset(e.to_string()), silent },
            ClientError::Truncated => UpstreamError::Reset(e.to_string()).into(),
            _ => UpstreamError::Protocol(e).into(),
        }
    }
}

/// A stream of HTTP/2 that broke.
fn broken(e: h2::Error) -> UpstreamError {
    UpstreamError::Reset(e.to_string())
}

impl Destination<'_> {
    /// Sends a request and reads its answer; on another connection where the first, used before, was closed meanwhile and the
    /// request may be sent twice.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, mut request: Request, keep: Body, timeout: Option<Duration>) -> Result<Answer, UpstreamError> {
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
                    other => return other.map_err(|e| e.error),
                }
            }
            Err(UpstreamError::Reset(ClientError::Closed { silent: true }.to_string()))
        };
        let answer = match timeout {
            None => tries.await,
            Some(limit) => tokio::time::timeout(limit, tries).await.unwrap_or_else(|_| {
                stats.upstream_rq_timeout.inc();
                Err(UpstreamError::Timeout(limit))
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
    /// Why there is none.
    pub async fn open(&self, head: &RequestHead) -> Result<Open, UpstreamError> {
        let place = self.place()?;
        let turn = ActiveRequest::new(self.cluster, self.host);
        self.cluster.stats.upstream_rq_total.inc();
        for fresh in [false, true] {
            let (conn, reused) = self.checkout(Protocol::Http2, head, fresh).await?;
            let Conn::H2 { send, shared, place: slot } = conn else { return Err(UpstreamError::NoHttp2) };
            let request = border::request_of(head).ok_or(UpstreamError::InvalidRequest)?;
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
                    return Err(broken(e));
                }
            }
        }
        Err(UpstreamError::Reset(ClientError::Closed { silent: true }.to_string()))
    }

    /// Passive health of the host.
    pub fn report(&self, outcome: Outcome) {
        self.cluster.report(self.host, outcome, self.worker.now());
    }

    fn place(&self) -> Result<Permit, UpstreamError> {
        let rt = &self.cluster.rt;
        rt.breakers.take(Resource::Requests, &rt.config.circuit_breakers).ok_or_else(|| {
            self.cluster.stats.upstream_rq_pending_overflow.inc();
            UpstreamError::Overflow
        })
    }

    async fn checkout(&self, protocol: Protocol, head: &RequestHead, fresh: bool) -> Result<(Conn, bool), UpstreamError> {
        let named = String::from_utf8_lossy(head.host());
        let server_name = self.server_name.unwrap_or(&named);
        let checkout = Checkout { cluster: self.cluster, host: self.host, protocol, server_name, fresh, client: None };
        if let Some(conn) = checkout.ready(self.worker) {
            return Ok((conn, true));
        }
        let made = checkout.get(self.worker).await;
        made.inspect_err(|e| {
            if e.is_endpoints() {
                self.report(Outcome::LocalOrigin);
            }
        })
    }

    async fn exchange(&self, conn: Conn, request: &Request, keep: Body) -> Result<Answer, Lost> {
        match conn {
            Conn::H1(owned) => {
                let (wire, ticket) = owned.into_wire();
                let mut exchange = Exchange::new(wire, request.head.method, self.cluster.rt.response_limits());
                let answer = self.exchange_h1(&mut exchange, request, keep).await?;
                match exchange.into_wire() {
                    Some(wire) => ticket.put_back(self.cluster, self.host, wire, self.worker.now()),
                    None => ticket.close(self.cluster, true),
                }
                Ok(answer)
            }
            Conn::H2 { send, place, shared } => {
                let _place = place;
                let bare = request.body.is_empty() && request.trailers.is_empty();
                let head = border::request_of(&request.head).ok_or(UpstreamError::InvalidRequest)?;
                let gone = |e: h2::Error| {
                    shared.retire();
                    Lost { error: broken(e), silent: true }
                };
                let (response, stream) = send.ready().await.map_err(gone)?.send_request(head, bare).map_err(gone)?;
                let mut peer = Peer::H2(border::H2Stream { send: Some(stream), ..Default::default() });
                let mut writer = Writer::h2(Vec::new(), bare);
                request.write(&mut writer);
                // A server may answer without having read all of it.
                let _ = poll_fn(|cx| writer.poll_flush(cx, &mut peer)).await;
                let (parts, recv) = response.await.map_err(broken)?.into_parts();
                let mut answer = Answer::default();
                if !border::load_response(&parts, &mut answer.head) {
                    return Err(ClientError::Malformed.into());
                }
                if let Peer::H2(stream) = &mut peer {
                    stream.recv = Some(recv);
                }
                self.read(&mut peer, Framing::NONE, keep, &mut answer).await?;
                Ok(answer)
            }
        }
    }

    async fn exchange_h1(&self, exchange: &mut Exchange, request: &Request, keep: Body) -> Result<Answer, ClientError> {
        let chunked = !request.trailers.is_empty();
        let mut head = RequestHead::default();
        head.copy_from(&request.head);
        if chunked {
            head.headers.add(Known::TransferEncoding, &[b"chunked"]);
        }
        let mut writer = relay::request_h1(&head, Vec::new(), chunked);
        request.write(&mut writer);
        let mut answer = Answer::default();
        let framing = exchange.response(&mut writer, &self.worker.bufs, &mut answer.head).await?;
        self.read(exchange.peer(), framing, keep, &mut answer).await?;
        Ok(answer)
    }

    async fn read(&self, peer: &mut Peer, framing: Framing, keep: Body, answer: &mut Answer) -> Result<(), ClientError> {
        let mut collect = Collect::new(Reader::new(framing, peer), keep);
        let Answer { body, trailers, .. } = answer;
        poll_fn(|cx| collect.poll(cx, peer, &self.worker.bufs, body, trailers)).await
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
