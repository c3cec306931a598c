//! What other hubs of the node pool are given: whole lists of shared kinds and their watches, as this hub has them from the API server.
//! What it has from another hub it does not give away, so nothing goes in a circle.
use super::{
    Share, reviewed,
    stream::{Asking, State},
};
use crate::{
    apimachinery::{
        media::{Encoding, MediaType, Shape},
        request::{RequestInfo, ResourceRequest, Verb},
        status::Failure,
    },
    asked::Asked,
    body::{Body, full, streamed},
    cache::{access::Question, key::SetKey},
    hub::{Hub, in_flight::Client, pool::Pool, served::Served},
    identity::{
        caller::{Caller, Peer},
        certificate::validity::seconds,
    },
    offline::local::Selection,
    settings::AGENT,
    upstream::remote::Show,
};
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyStream, StreamBody};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// A peer waits so long until this hub follows what it asks for; where it has never been listed here, as long as a list may take.
const BEGINS: Duration = Duration::from_secs(3);
const LISTS: Duration = Duration::from_secs(60);
/// And so long until this hub has the resource version that the peer has seen.
const BEHIND: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// Watches of peers that are open.
const WATCHES: usize = 4096;
const NODES: &[&str] = &["system:nodes", "system:authenticated"];
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// A request of another hub.
pub async fn serve(hub: &Hub, peer: &Peer, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let info = RequestInfo::read(request.method(), request.uri().path(), request.uri().query());
    let stats = &hub.share.pool.stats;
    let answered = match admitted(hub, peer) {
        Err(failure) => Err(failure),
        Ok(_) if hub.drain.is_leaving() => Err(Failure::unavailable("another process takes over")),
        Ok(node) => match &info {
            RequestInfo::Resource(resource) => relay(hub, node, &Asked::of(&Caller::Node, &request), resource).await,
            RequestInfo::NonResource { path } => Err(not_shared(path)),
        },
    };
    let counter = match &answered {
        Ok(_) => &stats.served,
        Err(failure) if failure.code == StatusCode::SERVICE_UNAVAILABLE => &stats.unavailable,
        Err(failure) if failure.code == StatusCode::GONE => &stats.served,
        Err(_) => &stats.refused,
    };
    counter.fetch_add(1, Relaxed);
    match answered {
        Ok(response) => response.map(|body| hub.drain.bound(body, false)),
        Err(failure) => failure.into_response(),
    }
}

async fn relay(hub: &Hub, node: &str, asked: &Asked, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
    let ready = hub.share.ready(node, asked, request).await?;
    let permit = hub.in_flight.acquire(Client::Peers).await.map_err(|busy| Failure::too_many_requests(busy.to_string()))?;
    let response = hub.share.give(ready, request)?;
    // Watches do not count once they have begun.
    let permit = (request.verb == Verb::List).then_some(permit);
    Ok(Served::response(response, permit, None))
}

/// Whether a connection may be kept.
pub fn is_of_pool(hub: &Hub, peer: &Peer) -> bool {
    admitted(hub, peer).is_ok()
}

/// The node of a peer.
fn admitted<'a>(hub: &Hub, peer: &'a Peer) -> Result<&'a str, Failure> {
    let now = seconds(SystemTime::now());
    match peer {
        Peer::Certificate { node: Some(node), not_before, not_after, .. } if (*not_before..*not_after).contains(&now) => {
            match hub.share.pool.has(node) {
                true => Ok(node),
                false => Err(Failure::forbidden(format!("node {node} is not in the node pool of {}", hub.writes.node))),
            }
        }
        Peer::Certificate { common_name, .. } => {
            Err(Failure::unauthorized(format!("the certificate of {common_name} is not a valid one of a node")))
        }
        Peer::Tls | Peer::Plain => Err(Failure::unauthorized("show the certificate of a node")),
    }
}

fn not_shared(what: &str) -> Failure {
    Failure::forbidden(format!("{what} is not shared in the node pool: only whole lists and watches of shared kinds are"))
}

impl Share {
    /// What a peer asks for, once this hub has it from the API server.
    async fn ready(&self, node: &str, asked: &Asked, request: &ResourceRequest) -> Result<Ready, Failure> {
        let media = self.relayed(asked, request).ok_or_else(|| not_shared(&asked.target))?;
        if !self.node_may(node, request).await? {
            return Err(Failure::forbidden(format!("system:node:{node} may not {} {}", request.verb.name(), request.resource)));
        }
        if request.verb == Verb::Watch && self.pool.stats.watches.load(Relaxed) >= WATCHES {
            return Err(Failure::too_many_requests(format!("there are {WATCHES} watches of peers")));
        }
        self.pool.heard(node);
        let key = SetKey::shared(&request.resource, media);
        let stream = self.stream(&key, &request.resource);
        let asking = stream.ask();
        let mut state = stream.state();
        let version = request.options.resource_version.parse::<u64>().unwrap_or_default();
        match self.begins(&key, &mut state).await && self.reaches(&key, version).await {
            true => Ok(Ready { node: node.to_string(), key, media, version, state, asking }),
            false => Err(Failure::unavailable(format!("{} is not followed at the API server here", request.resource))),
        }
    }

    fn give(&self, ready: Ready, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
        let Ready { node, key, media, version, mut state, asking } = ready;
        let kept = self.local.load(&key.name(), media, request, Selection::default())?;
        let kept = kept.ok_or_else(|| Failure::unavailable(format!("{} is not kept", request.resource)))?;
        if request.verb == Verb::List {
            return self.local.answer(kept);
        }
        // Changes that came with a list since then were no events.
        if !self.local.cache.watchers.has_events_since(&kept.set, version) {
            return Err(Failure::expired("too old resource version"));
        }
        let response = self.local.begin(kept, request, None)?;
        let watch = Watch::new(self.pool.clone(), asking);
        let mut members = self.pool.changes();
        let ended = Box::pin(async move {
            let _watch = watch;
            tokio::select! {
                // It is not what the API server has any more: the peer goes elsewhere.
                _ = state.changed() => {}
                // It is no peer any more.
                _ = members.wait_for(|members| !members.contains_key(&node)) => {}
            }
        });
        Ok(response.map(|body| streamed(StreamBody::new(BodyStream::new(body).take_until(ended)))))
    }

    /// The media type of a request for a whole shared list. What this node itself writes is not shared: it is laid over what was kept.
    fn relayed(&self, asked: &Asked, request: &ResourceRequest) -> Option<MediaType> {
        let options = &request.options;
        let whole = request.namespace.is_empty() && request.name.is_empty() && request.subresource.is_empty();
        let unselected = options.label_selector.is_empty() && options.field_selector.is_empty();
        let one = options.limit == 0 && options.continue_token.is_empty() && !options.send_initial_events;
        let begins =
            request.verb == Verb::List || request.verb == Verb::Watch && options.resource_version.parse::<u64>().is_ok_and(|v| v > 0);
        let reads = asked.reads && !asked.head_only && asked.token.is_none() && self.is_pooled(&request.resource);
        let media = asked.accepted().into_iter().next()?;
        let plain = media.shape == Shape::Object && matches!(media.encoding, Encoding::Json | Encoding::Protobuf);
        (whole && unselected && one && begins && reads && plain).then_some(media)
    }

    /// Whether the API server lets a node read it whole.
    async fn node_may(&self, node: &str, request: &ResourceRequest) -> Result<bool, Failure> {
        let verb = if request.verb == Verb::Watch { "watch" } else { "list" };
        let question =
            Question { user: format!("system:node:{node}"), verb, resource: request.resource.to_string(), namespace: String::new() };
        if let Some(allowed) = self.local.access.lately(&question, Instant::now()) {
            return Ok(allowed);
        }
        let unknown = || Failure::unavailable("the API server does not say what the node may read");
        let json = HeaderValue::from_static("application/json");
        let review = Request::builder().method(Method::POST).uri(REVIEWS).header(header::CONTENT_TYPE, &json);
        let review = review.header(header::ACCEPT, json).header(header::USER_AGENT, AGENT).body(full(question.review_of(NODES)));
        let allowed = reviewed(&self.reflect.remote, review.map_err(|_| unknown())?, Show::Node).await.ok_or_else(unknown)?;
        self.local.access.decided(&question, allowed, None, Instant::now());
        Ok(allowed)
    }

    /// Waits until this hub follows a set at the API server. It does so as soon as a peer asks.
    async fn begins(&self, key: &SetKey, state: &mut watch::Receiver<State>) -> bool {
        let limit = if self.local.cache.head(&key.name()).is_some() { BEGINS } else { LISTS };
        if !self.reflect.remote.is_up() {
            return false;
        }
        let mut link = self.reflect.remote.changes();
        let known = timeout(limit, async {
            tokio::select! {
                known = state.wait_for(|state| matches!(state, State::Live | State::Refused)) => known.is_ok_and(|state| *state == State::Live),
                _ = link.wait_for(|up| !up), if self.reflect.remote.is_proven() => false,
            }
        });
        known.await.unwrap_or(false)
    }

    /// Waits until this hub has a resource version that a peer has seen elsewhere.
    async fn reaches(&self, key: &SetKey, version: u64) -> bool {
        let has = || self.local.cache.head(&key.name()).and_then(|head| head.number()).is_some_and(|ours| ours >= version);
        let waited = async {
            while !has() {
                sleep(LOOK).await;
            }
        };
        timeout(BEHIND, waited).await.is_ok()
    }
}

/// What a peer has asked for, and can be given.
struct Ready {
    /// Of the peer.
    node: String,
    key: SetKey,
    media: MediaType,
    /// The resource version that the peer has.
    version: u64,
    state: watch::Receiver<State>,
    asking: Asking,
}

/// A watch of a peer that is open.
struct Watch {
    pool: Arc<Pool>,
    _asking: Asking,
}

impl Watch {
    fn new(pool: Arc<Pool>, asking: Asking) -> Watch {
        pool.stats.watches.fetch_add(1, Relaxed);
        Watch { pool, _asking: asking }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.pool.stats.watches.fetch_sub(1, Relaxed);
    }
}
