//! Kinds that every node reads as a whole, as Services and EndpointSlices: one list and one watch of the API server, whatever the number of
//! clients. Each of them sees what its own rights let it see: the API server is asked.
pub mod relay;
mod stream;

use crate::{
    apimachinery::{
        list::List,
        media::{Encoding, MediaType, Shape},
        reported,
        request::{GroupVersionResource, RequestInfo, ResourceRequest, Verb},
    },
    asked::Asked,
    body::{Body, full, whole},
    cache::{
        access::{MAX_REFUSAL, Question, Refusal},
        head::Head,
        key::SetKey,
        reflect::Reflect,
    },
    hub::pool::Pool,
    identity::caller::Caller,
    offline::local::{Kept, Local, Selection, response},
    store::{Listing, ObjectName},
    upstream::remote::{Remote, Show},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
pub use stream::{Followed, SERVER};
use stream::{State, Stream, Streams};
use tokio::time::timeout;

/// A client waits so long for the shared list; then it is passed on to the API server.
const WAIT: Duration = Duration::from_secs(10);
/// The API server may take so long for an answer to a question, and for a list.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a review.
const MAX_REVIEW: usize = 64 << 10;
/// Of a list.
const MAX_LIST: usize = 64 << 20;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

pub struct Share {
    resources: Vec<GroupVersionResource>,
    local: Local,
    reflect: Reflect,
    /// The hubs that follow the same kinds.
    pub pool: Arc<Pool>,
    streams: Streams,
}

/// What the API server says of a question.
enum Answer {
    Allowed,
    Denied,
    /// It was not asked, and never before.
    Unknown,
}

impl Share {
    pub fn new(resources: Vec<GroupVersionResource>, local: Local, reflect: Reflect, pool: Arc<Pool>) -> Share {
        Share { resources, local, reflect, pool, streams: Streams::default() }
    }

    /// The sets that are kept up to date for all.
    pub fn followed(&self) -> Vec<Followed> {
        self.streams.followed()
    }

    fn is_shared(&self, resource: &GroupVersionResource) -> bool {
        self.resources.contains(resource)
    }

    /// Whether the hubs of the pool share it, too. What a node itself writes without the link is laid over its own copies.
    fn is_pooled(&self, resource: &GroupVersionResource) -> bool {
        self.pool.on && self.is_shared(resource) && reported::Kind::of(resource).is_none()
    }

    fn stream(&self, key: &SetKey, resource: &GroupVersionResource) -> Arc<Stream> {
        let pool = self.is_pooled(resource).then(|| self.pool.clone());
        self.streams.get(key, &self.reflect, pool)
    }

    /// Whether a list is kept up to date for all in a media type.
    pub fn has_stream(&self, resource: &GroupVersionResource, media: MediaType) -> bool {
        self.streams.has(&SetKey::shared(resource, media))
    }

    /// Ends all lists and watches: another process goes on with what they have kept.
    pub fn end(&self) {
        self.streams.end();
    }

    /// The answer to a request for what is shared; `None`: the API server answers, or what was kept for the client alone.
    pub async fn serve(&self, asked: &Asked, request: &ResourceRequest) -> Option<Response<Body>> {
        let media = self.wanted(asked, request)?;
        let selection = Selection::of(request)?;
        let question = self.question(asked, request).await?;
        match self.may(asked, &question).await {
            Answer::Allowed => {}
            Answer::Denied if !self.reflect.remote.is_up() => return self.refusal(&question),
            // The API server says it in its own words.
            Answer::Denied | Answer::Unknown => return None,
        }
        let key = SetKey::shared(&request.resource, media);
        let stream = self.stream(&key, &request.resource);
        if let (Some(token), true) = (&asked.token, question.namespace.is_empty()) {
            stream.offer(token);
        }
        let live = self.is_live(&stream).await;
        if !live && self.reflect.remote.is_proven() {
            return None;
        }
        match request.verb {
            Verb::List => self.list(&key, media, request, selection, live),
            _ => self.watch(&key, media, asked, request, selection, live).await,
        }
    }

    /// The media type of a request that may be answered from a shared list.
    fn wanted(&self, asked: &Asked, request: &ResourceRequest) -> Option<MediaType> {
        let options = &request.options;
        let shared = asked.reads && !asked.head_only && request.subresource.is_empty() && self.is_shared(&request.resource);
        let fits = match request.verb {
            Verb::Watch => true,
            // A list without a version is the newest one; pages and single versions are the API server's.
            Verb::List => {
                let newer = !options.resource_version.is_empty() && options.resource_version_match != "Exact";
                newer && options.continue_token.is_empty() && (options.limit == 0 || options.resource_version == "0")
            }
            _ => false,
        };
        let media = asked.accepted().into_iter().next()?;
        let plain = media.shape == Shape::Object && matches!(media.encoding, Encoding::Json | Encoding::Protobuf);
        (shared && fits && plain && !asked.target.contains("pretty")).then_some(media)
    }

    async fn question(&self, asked: &Asked, request: &ResourceRequest) -> Option<Question> {
        let verb = if request.verb == Verb::Watch { "watch" } else { "list" };
        let question = |user| Question { user, verb, resource: request.resource.to_string(), namespace: request.namespace.clone() };
        if let Some(user) = self.local.cache.user(&asked.caller) {
            return Some(question(user));
        }
        // A token that was not seen before: the API server says whether it is one.
        let allowed = self.review(asked, &question(String::new())).await?;
        if let Caller::Token(digest) = &asked.caller {
            self.local.cache.remember(digest, asked.token.as_deref());
        }
        let question = question(self.local.cache.user(&asked.caller)?);
        self.local.access.decided(&question, allowed, None, Instant::now());
        Some(question)
    }

    async fn may(&self, asked: &Asked, question: &Question) -> Answer {
        let access = &self.local.access;
        let mut allowed = access.lately(question, Instant::now());
        let last = access.last(question);
        // Without proof that the API server can be reached, it is asked only what it was never asked.
        if allowed.is_none() && (self.reflect.remote.is_proven() || last.is_none()) {
            allowed = self.review(asked, question).await;
            if let Some(allowed) = allowed {
                access.decided(question, allowed, None, Instant::now());
            }
        }
        match allowed.or(last) {
            Some(true) => Answer::Allowed,
            Some(false) => Answer::Denied,
            None => Answer::Unknown,
        }
    }

    /// Asks the API server in the name of the client.
    async fn review(&self, asked: &Asked, question: &Question) -> Option<bool> {
        let mut request = request(asked, Method::POST, REVIEWS, full(question.review()))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        reviewed(&self.reflect.remote, request, asked.caller.shows()).await
    }

    fn refusal(&self, question: &Question) -> Option<Response<Body>> {
        let refusal = self.local.access.refusal(question)?;
        Some(response(StatusCode::FORBIDDEN, &refusal.content_type, "hit", refusal.body.len(), full(refusal.body)))
    }

    /// Remembers how the API server forbids what is shared.
    pub async fn passed(&self, asked: &Asked, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
        let RequestInfo::Resource(request) = info else { return response };
        let forbidden = response.status() == StatusCode::FORBIDDEN && self.wanted(asked, request).is_some();
        let Some(user) = self.local.cache.user(&asked.caller).filter(|_| forbidden) else { return response };
        let (parts, body) = response.into_parts();
        let Ok(body) = whole(body, MAX_REFUSAL).await else {
            return crate::apimachinery::status::Failure::unavailable("the answer of the API server broke off").into_response();
        };
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let verb = if request.verb == Verb::Watch { "watch" } else { "list" };
        let question = Question { user, verb, resource: request.resource.to_string(), namespace: request.namespace.clone() };
        let refusal = Refusal { content_type: content_type.into(), body: body.clone() };
        self.local.access.decided(&question, false, Some(refusal), Instant::now());
        Response::from_parts(parts, full(body))
    }

    async fn is_live(&self, stream: &Stream) -> bool {
        let remote = &self.reflect.remote;
        let mut state = stream.state();
        if !remote.is_up() {
            // Another hub may have it.
            return *state.borrow() == State::Relayed;
        }
        let patience = remote.doubt().unwrap_or(WAIT);
        let known = timeout(patience, state.wait_for(|state| *state != State::Waiting)).await;
        matches!(known, Ok(Ok(state)) if state.is_current())
    }

    fn list(&self, key: &SetKey, media: MediaType, request: &ResourceRequest, selection: Selection, live: bool) -> Option<Response<Body>> {
        let kept = self.local.load(&key.name(), media, request, selection).ok()??;
        // The API server has a newer one.
        if live && kept.head.is_before(&request.options.resource_version) {
            return None;
        }
        self.local.answer(kept).ok()
    }

    async fn watch(
        &self,
        key: &SetKey,
        media: MediaType,
        asked: &Asked,
        request: &ResourceRequest,
        selection: Selection,
        live: bool,
    ) -> Option<Response<Body>> {
        let kept = match request.options.resource_version.as_str() {
            // From the newest state on: that is what the API server lists now.
            "" if live && self.reflect.remote.is_up() => self.fresh(key, media, asked, request, selection).await?,
            _ => self.local.load(&key.name(), media, request, selection).ok()??,
        };
        Some(self.local.begin(kept, request, None).unwrap_or_else(crate::apimachinery::status::Failure::into_response))
    }

    /// What the API server lists now for the client, as if the set were that new.
    async fn fresh(&self, key: &SetKey, media: MediaType, asked: &Asked, request: &ResourceRequest, selection: Selection) -> Option<Kept> {
        let of_client = SetKey::of(&key.user, request, media)?;
        let mut list = self::request(asked, Method::GET, &of_client.target(&[])?, full(""))?;
        list.headers_mut().insert(header::ACCEPT, HeaderValue::from_str(&media.accept(true)).ok()?);
        let answered = timeout(PATIENCE, async {
            let response = self.reflect.remote.send(list, asked.caller.shows()).await.ok()?;
            let listed = response.status() == StatusCode::OK;
            let body = whole(response.into_body(), MAX_LIST).await.ok()?;
            listed.then_some(body)
        });
        let list = List::split(&answered.await.ok()??, media.encoding).ok()?;
        let name = |item: &crate::apimachinery::object::Object| ObjectName {
            namespace: item.meta.namespace.clone(),
            name: item.meta.name.clone(),
        };
        let items = list.items.iter().map(|item| (name(item), list.head.whole(item))).collect();
        let head = Head::of_list(&list.head, crate::cache::head::seconds(SystemTime::now()));
        let listing = Listing { head: head.to_bytes().into(), items };
        Some(Kept { set: key.name(), media, head, list: list.head, listing, selection })
    }
}

/// What the API server says to a review.
async fn reviewed(remote: &Remote, review: Request<Body>, show: Show) -> Option<bool> {
    let answered = timeout(PATIENCE, async {
        let response = remote.send(review, show).await.ok()?;
        let succeeded = response.status().is_success();
        let body = whole(response.into_body(), MAX_REVIEW).await.ok()?;
        succeeded.then(|| serde_json::from_slice::<serde_json::Value>(&body).ok())?
    });
    answered.await.ok()??["status"]["allowed"].as_bool()
}

/// A request in the name of a client.
fn request(asked: &Asked, method: Method, target: &str, body: Body) -> Option<Request<Body>> {
    let mut request = Request::builder().method(method).uri(target).header(header::USER_AGENT, "weir-edge").body(body).ok()?;
    if let Some(token) = &asked.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Some(request)
}
