//! One request: who asks, for what, and whether the API server or the cache answers.
pub mod access_log;
pub mod in_flight;
pub mod listen;
pub mod pool;
pub mod requests;
pub(crate) mod served;
pub mod share;

use crate::{
    apimachinery::{
        request::{RequestInfo, ResourceRequest, Verb},
        status::Failure,
    },
    asked::Asked,
    body::{Body, NotWhole, empty, full, gathered::Gathered, streamed, whole},
    cache::Cache,
    drain::Drain,
    filters::Filters,
    hub::{
        access_log::{AccessLog, Line},
        in_flight::{Client, InFlight},
        requests::{Requests, Subject},
        served::Served,
        share::Share,
    },
    identity::{
        caller::{Caller, Moment, Peer},
        certificate::validity::seconds,
    },
    offline::{
        collect::Collector,
        local::Local,
        replay::Replay,
        replies::Key,
        writes::{MAX_BODY, Write, Writes},
    },
    settings::{AGENT, Settings},
    store::ObjectName,
    tunnel::agent,
    upstream::remote::{FromServer, Remote, RemoteError},
};
use http::{Request, Response, StatusCode, header, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use std::{sync::Arc, time::SystemTime};
use tokio::{sync::watch, time::timeout};

pub struct Hub {
    /// The user name of the node: `system:node:NAME`.
    pub node: String,
    pub remote: Arc<Remote>,
    pub cache: Arc<Cache>,
    pub local: Local,
    pub writes: Writes,
    pub replay: Arc<Replay>,
    pub requests: Requests,
    pub in_flight: Arc<InFlight>,
    pub access_log: Option<Arc<AccessLog>>,
    pub drain: Arc<Drain>,
    /// Those that change while the hub runs.
    pub settings: watch::Sender<Settings>,
    pub filters: Filters,
    pub tunnel: Arc<agent::Stats>,
    pub share: Share,
    pub collector: Collector,
}

impl Hub {
    pub async fn serve(self: Arc<Hub>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
        let info = RequestInfo::read(request.method(), request.uri().path(), request.uri().query());
        let subject = Subject::of(request.method(), &info);
        let line = self.access_log.clone().map(|log| (Line::of(&request, &info), log));
        let watch = matches!(&info, RequestInfo::Resource(resource) if resource.verb == Verb::Watch);
        // What may last is not counted once it has begun.
        let lasts = watch || request.headers().contains_key(header::UPGRADE);
        let at = Moment { now: seconds(SystemTime::now()), link: self.remote.is_up() };
        let caller = Caller::of(&peer, request.headers(), &self.node, at);
        let (response, permit) = match &caller {
            Err(e) => (Failure::unauthorized(e.to_string()).into_response(), None),
            Ok(caller) => match self.in_flight.acquire(Client::of(caller, self.cache.user(caller), request.headers())).await {
                Err(busy) => (Failure::too_many_requests(busy.to_string()).into_response(), None),
                Ok(permit) => (self.respond(caller, &info, request).await, (!lasts).then_some(permit)),
            },
        };
        let line = line.map(|(mut line, log)| {
            line.answered(caller.ok().and_then(|caller| self.cache.user(&caller)), &response);
            (line, log)
        });
        let response = self.requests.count(subject, response);
        let passes = response.extensions().get::<FromServer>().is_some();
        let response = if watch { response.map(|body| self.drain.bound(body, passes)) } else { response };
        Served::response(response, permit, line)
    }

    async fn respond(&self, caller: &Caller, info: &RequestInfo, request: Request<Incoming>) -> Response<Body> {
        if request.headers().contains_key(header::UPGRADE) {
            return self.upgrade(caller, request).await;
        }
        let asked = Asked::of(caller, &request);
        let (parts, body) = request.into_parts();
        let response = match Write::of(&asked, &self.writes.node, info, &parts) {
            Some(write) => self.write(write, &asked, info, parts, body).await,
            None => self.ask(&asked, info, Request::from_parts(parts, streamed(body))).await,
        };
        self.filters.serve(&self.local, &asked, info, response).await
    }

    async fn ask(&self, asked: &Asked, info: &RequestInfo, request: Request<Body>) -> Response<Body> {
        // Another process has the store once this one is leaving, and with it what is shared.
        if let RequestInfo::Resource(resource) = info
            && !self.drain.is_leaving()
            && let Some(shared) = self.share.serve(asked, resource).await
        {
            return shared;
        }
        let doubt = self.remote.doubt().filter(|_| asked.reads);
        let sent = self.remote.send(request, asked.caller.shows());
        tokio::pin!(sent);
        if let Some(doubt) = doubt {
            if let Ok(sent) = timeout(doubt, &mut sent).await {
                return self.answered(asked, info, sent).await;
            }
            if let Ok(kept) = self.kept(asked, info).await {
                return kept;
            }
        }
        let sent = sent.await;
        self.answered(asked, info, sent).await
    }

    async fn answered(&self, asked: &Asked, info: &RequestInfo, sent: Result<Response<Body>, RemoteError>) -> Response<Body> {
        match sent {
            Ok(response) => {
                let response = self.passed(asked, info, response);
                self.share.passed(asked, info, response).await
            }
            Err(e) => self.answer(asked, info, &e).await,
        }
    }

    /// What the hub itself reads, as the node: kept and answered like a request of a client.
    pub async fn get(&self, target: &str, accept: &str) -> Response<Body> {
        let request = Request::get(target).header(header::ACCEPT, accept).header(header::USER_AGENT, AGENT).body(empty());
        let Ok(request) = request else { return Failure::bad_request(format!("not a path: {target}")).into_response() };
        let info = RequestInfo::read(request.method(), request.uri().path(), request.uri().query());
        self.ask(&Asked::of(&Caller::Node, &request), &info, request).await
    }

    /// A request of the node that can be answered without the API server. Its body is held for that.
    async fn write(&self, write: Write, asked: &Asked, info: &RequestInfo, parts: Parts, body: Incoming) -> Response<Body> {
        let RequestInfo::Resource(resource) = info else { return Failure::bad_request("not a resource").into_response() };
        let body = match whole(streamed(body), MAX_BODY).await {
            Ok(body) => body,
            Err(NotWhole::TooLarge { limit }) => return Failure::too_large(limit).into_response(),
            Err(e) => return Failure::bad_request(format!("the body of the request: {e}")).into_response(),
        };
        // What is older comes first, or what is newer waits behind it.
        let waits = match write {
            Write::Event => self.writes.joins_event(&parts, resource),
            Write::Status(kind) => {
                let name = ObjectName { namespace: resource.namespace.clone(), name: resource.name.clone() };
                if self.writes.outbox.statuses.waits(kind, &name) && self.remote.is_up() {
                    self.replay.flush(kind, &name).await;
                }
                self.writes.outbox.statuses.waits(kind, &name)
            }
            Write::Lease | Write::Node | Write::Token | Write::Review => false,
        };
        let headers = parts.headers.clone();
        let (request, show) = (Request::from_parts(parts, full(body.clone())), asked.caller.shows());
        if !waits && let Ok(response) = self.remote.send(request, show).await {
            let response = self.passed(asked, info, response);
            let remembered = matches!(write, Write::Lease | Write::Token | Write::Review) && response.status().is_success();
            return match remembered {
                true => self.remembered(write, &Writes::key(asked, &headers, &body), response).await,
                false => response,
            };
        }
        let answered = self.writes.answer(write, &self.local, asked, resource, &headers, body).await;
        answered.unwrap_or_else(Failure::into_response)
    }

    /// An answer that may be given again without the link.
    async fn remembered(&self, write: Write, key: &Key, response: Response<Body>) -> Response<Body> {
        let (parts, body) = response.into_parts();
        match whole(body, MAX_BODY).await {
            Ok(body) => {
                self.writes.answered(write, key, &parts.headers, &body);
                Response::from_parts(parts, full(body))
            }
            Err(e) => Failure::unavailable(format!("the answer of the API server: {e}")).into_response(),
        }
    }

    /// A response of the API server: passed on, and kept where it is worth it.
    fn passed(&self, asked: &Asked, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
        if let Caller::Token(digest) = &asked.caller
            && response.status() != StatusCode::UNAUTHORIZED
        {
            self.cache.remember(digest, asked.token.as_deref());
        }
        if response.status() != StatusCode::OK {
            return response;
        }
        let response = match info {
            RequestInfo::Resource(resource) if resource.verb == Verb::List => response.map(|body| streamed(Gathered::new(body))),
            _ => response,
        };
        self.cache.keep(asked, info, response)
    }

    /// What can be answered without the API server.
    async fn answer(&self, asked: &Asked, info: &RequestInfo, error: &RemoteError) -> Response<Body> {
        let answered = match info {
            RequestInfo::Resource(resource) if !asked.reads || !resource.verb.reads() => Err(unanswered(resource, error)),
            RequestInfo::NonResource { path } if !asked.reads => Err(Failure::unavailable(format!("{path}: {error}"))),
            _ => self.kept(asked, info).await,
        };
        answered.unwrap_or_else(Failure::into_response)
    }

    /// What was kept of it.
    async fn kept(&self, asked: &Asked, info: &RequestInfo) -> Result<Response<Body>, Failure> {
        match info {
            RequestInfo::Resource(resource) if resource.verb == Verb::Watch => {
                self.local.watch(asked, resource, self.remote.changes()).await
            }
            RequestInfo::Resource(resource) => self.local.read(asked, resource).await,
            RequestInfo::NonResource { path } => self.local.non_resource(asked, path).await,
        }
    }

    /// exec, attach, port-forward: bytes both ways on a connection of their own.
    async fn upgrade(&self, caller: &Caller, mut request: Request<Incoming>) -> Response<Body> {
        let client: OnUpgrade = hyper::upgrade::on(&mut request);
        let mut response = match self.remote.upgrade(request.map(streamed), caller.shows()).await {
            Ok(response) => response,
            Err(e) => return Failure::unavailable(e.to_string()).into_response(),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response.map(streamed);
        }
        let server = hyper::upgrade::on(&mut response);
        let held = self.drain.hold();
        tokio::spawn(async move {
            let _held = held;
            if let (Ok(client), Ok(server)) = (client.await, server.await) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
            }
        });
        let (parts, _) = response.into_parts();
        Response::from_parts(parts, empty())
    }
}

/// Writes that nobody can answer for the API server.
fn unanswered(resource: &ResourceRequest, error: &RemoteError) -> Failure {
    let name = [resource.namespace.as_str(), resource.name.as_str()].join("/");
    Failure::unavailable(format!("cannot {} {} {name}: {error}", resource.verb.name(), resource.resource))
}
