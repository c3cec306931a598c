//! Writes of the node that are taken in place of the API server while it cannot be reached: its Lease, events, the status of its pods and
//! its own. They are the node's alone: what others write, and everything else, fails.
use crate::{
    apimachinery::{
        media::{Encoding, MediaType, Shape},
        object::{Envelope, Object},
        patch::{Patch, PatchError},
        reported::{Kind, LEASE, NODE, POD, TOKEN_REQUEST, node_name},
        request::{RequestInfo, ResourceRequest, Verb},
        status::Failure,
        wire::put_bytes,
    },
    asked::Asked,
    body::{Body, full},
    cache::{Cache, watchers::Changed},
    identity::caller::Caller,
    offline::{
        local::{Local, response},
        outbox::{NotTaken, Outbox, statuses::ChangeError},
        replies::{self, Key, Replies, Reply},
    },
    store::ObjectName,
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime},
};

/// Of a write that is held while it is sent. The API server takes no more either.
pub const MAX_BODY: usize = 3 << 20;
/// The namespace of the Leases of nodes.
const LEASES: &str = "kube-node-lease";

/// A request of the node that may be answered without the API server. It is one about the Lease also where it only reads.
#[derive(Clone, Copy)]
pub enum Write {
    Lease,
    Event,
    Status(&'static Kind),
    /// kubelet registers its node when it starts.
    Node,
    /// kubelet asks for the token of a pod's service account.
    Token,
    /// kubelet asks who a client of its own port is, and what it may do.
    Review,
}

impl Write {
    /// `node`: the name of the node.
    pub fn of(asked: &Asked, node: &str, info: &RequestInfo, parts: &Parts) -> Option<Write> {
        let RequestInfo::Resource(request) = info else { return None };
        let own = asked.caller == Caller::Node && !parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        if !own || parts.uri.query().is_some_and(|query| query.contains("dryRun")) {
            return None;
        }
        let resource = request.resource.to_string();
        let named = request.name == node;
        match (resource.as_str(), request.verb, request.subresource.as_str()) {
            (_, Verb::Get | Verb::Update | Verb::Patch, "") if resource == LEASE.resource => {
                (request.namespace == LEASES && named).then_some(Write::Lease)
            }
            (_, Verb::Create, "") if resource == LEASE.resource => (request.namespace == LEASES).then_some(Write::Lease),
            ("events.v1" | "events.v1.events.k8s.io", Verb::Create | Verb::Patch, "") if !request.namespace.is_empty() => {
                Some(Write::Event)
            }
            (_, Verb::Update | Verb::Patch, "status") if resource == NODE.resource => named.then_some(Write::Status(&NODE)),
            (_, Verb::Update | Verb::Patch, "status") if resource == POD.resource => Some(Write::Status(&POD)),
            (_, Verb::Create, "") if resource == NODE.resource => Some(Write::Node),
            (_, Verb::Create, "token") if resource == TOKEN_REQUEST.resource => Some(Write::Token),
            ("tokenreviews.v1.authentication.k8s.io" | "subjectaccessreviews.v1.authorization.k8s.io", Verb::Create, "") => {
                Some(Write::Review)
            }
            _ => None,
        }
    }
}

pub struct Writes {
    /// The name of the node.
    pub node: String,
    pub cache: Arc<Cache>,
    pub outbox: Arc<Outbox>,
    pub replies: Replies,
    /// Watches see changes of one object in their order.
    changing: Mutex<()>,
}

impl Writes {
    pub fn new(node: &str, cache: Arc<Cache>, outbox: Arc<Outbox>, replies: Replies) -> Writes {
        Writes { node: node.to_string(), cache, outbox, replies, changing: Mutex::new(()) }
    }

    /// Under which the answer to a request is remembered.
    pub fn key(asked: &Asked, headers: &HeaderMap, body: &[u8]) -> Key {
        replies::key(&asked.target, content_type(headers), &asked.accept, body)
    }

    /// Whether something older of the same event waits, so that this has to wait behind it.
    pub fn joins_event(&self, parts: &Parts, request: &ResourceRequest) -> bool {
        request.verb == Verb::Patch && self.outbox.events.holds(parts.uri.path())
    }

    /// What the API server has answered is remembered.
    pub fn answered(&self, write: Write, key: &Key, headers: &HeaderMap, body: &Bytes) {
        let reply = || Reply { content_type: content_type(headers).to_string(), body: body.clone() };
        match write {
            Write::Lease => {
                let encoding = media(headers, header::CONTENT_TYPE).map(|media| media.encoding);
                if let Some(Ok(lease)) = encoding.map(|encoding| Object::read(body.clone(), encoding)) {
                    self.outbox.lease.is(lease);
                }
            }
            Write::Token => self.replies.issued(key, reply()),
            Write::Review => self.replies.reviewed(key, reply(), Instant::now()),
            Write::Event | Write::Status(_) | Write::Node => {}
        }
    }

    /// Answers in place of the API server.
    pub async fn answer(
        &self,
        write: Write,
        local: &Local,
        asked: &Asked,
        request: &ResourceRequest,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Failure> {
        let key = || Writes::key(asked, headers, &body);
        let answered = match write {
            Write::Token => return self.replies.token(&key(), SystemTime::now()).map(again).ok_or_else(|| not_asked("token")),
            Write::Review => return self.replies.review(&key(), Instant::now()).map(again).ok_or_else(|| not_asked("review")),
            Write::Lease => self.lease(local, asked, request, headers, body).await,
            Write::Event => self.event(request, asked, headers, body),
            Write::Status(kind) => self.status(kind, local, asked, request, headers, &body),
            Write::Node => self.register(local, asked, request, headers, body),
        }?;
        if !request.verb.reads() {
            self.outbox.stats.accepted.fetch_add(1, Relaxed);
            self.outbox.work.notify_one();
        }
        Ok(answered)
    }

    async fn lease(
        &self,
        local: &Local,
        asked: &Asked,
        request: &ResourceRequest,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Failure> {
        match request.verb {
            Verb::Update | Verb::Create => {
                let lease = sent(headers, body)?;
                if lease.meta.name != self.node {
                    return Err(Failure::bad_request(format!("the Lease of the node is called {:?}", self.node)));
                }
                LEASE.read(&lease).map_err(|e| Failure::bad_request(e.to_string()))?;
                self.outbox.lease.write(lease.clone());
                let code = if request.verb == Verb::Create { StatusCode::CREATED } else { StatusCode::OK };
                Ok(queued(code, lease.encoding(), lease.into_bytes()))
            }
            Verb::Patch => {
                let patch = Patch::read(content_type(headers), &body).map_err(unpatched)?;
                let lease = match self.outbox.lease.object() {
                    Some(lease) => lease,
                    None => local.kept(asked, &ResourceRequest { verb: Verb::Get, ..request.clone() })?.object,
                };
                let report = LEASE.read(&lease).map_err(|e| Failure::unavailable(e.to_string()))?;
                let report = patch.apply(report).map_err(unpatched)?;
                let version = lease.meta.resource_version.clone();
                let bytes = LEASE.write(&lease, &report, &version).map_err(|e| Failure::invalid(e.to_string()))?;
                let lease = Object::read(bytes, lease.encoding()).map_err(|e| Failure::invalid(e.to_string()))?;
                self.outbox.lease.write(lease.clone());
                Ok(queued(StatusCode::OK, lease.encoding(), lease.into_bytes()))
            }
            _ => {
                let Some(lease) = self.outbox.lease.object() else { return local.read(asked, request).await };
                let is_read = |media: &MediaType| media.encoding == lease.encoding() && media.shape == Shape::Object;
                if asked.accepted().iter().any(is_read) {
                    return Ok(queued(StatusCode::OK, lease.encoding(), lease.into_bytes()));
                }
                // It was written in another encoding than the client reads.
                let kept = local.kept(asked, request)?;
                let report = LEASE.read(&lease).map_err(|e| Failure::unavailable(e.to_string()))?;
                let bytes = LEASE.write(&kept.object, &report, &lease.meta.resource_version);
                let bytes = bytes.map_err(|e| Failure::unavailable(e.to_string()))?;
                Ok(queued(StatusCode::OK, kept.object.encoding(), bytes))
            }
        }
    }

    fn event(&self, request: &ResourceRequest, asked: &Asked, headers: &HeaderMap, body: Bytes) -> Result<Response<Body>, Failure> {
        let path = asked.target.split('?').next().unwrap_or_default();
        if request.verb == Verb::Create {
            let event = sent(headers, body)?;
            if event.meta.name.is_empty() {
                return Err(Failure::unavailable("the link to the API server is down, and only it makes up the name of an event"));
            }
            if !event.meta.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)) {
                return Err(Failure::invalid(format!("{:?} cannot be the name of an event", event.meta.name)));
            }
            let taken = self.outbox.events.create(path, &event.meta.name, content_type(headers), event.bytes().clone());
            return match taken.map_err(not_taken)? {
                true => Ok(queued(StatusCode::CREATED, event.encoding(), event.into_bytes())),
                false => Err(Failure::already_exists(format!("events \"{}\" already exists", event.meta.name))),
            };
        }
        let (Patch::Strategic(patch) | Patch::Merge(patch)) = Patch::read(content_type(headers), &body).map_err(unpatched)? else {
            return Err(Failure::unavailable("the link to the API server is down, and it has to apply JSON patches of events itself"));
        };
        let collection = path.rsplit_once('/').map_or(path, |(collection, _)| collection);
        self.outbox.events.patch(collection, &request.name, content_type(headers), patch).map_err(not_taken)?;
        // Who repeats an event has the rest of it.
        let accepted = asked.accepted();
        let encoding = accepted.first().map_or(Encoding::Json, |media| media.encoding);
        let version = request.resource.group.split('/').next().filter(|group| !group.is_empty());
        let version = version.map_or("v1".to_string(), |group| format!("{group}/v1"));
        let bytes = match encoding {
            Encoding::Protobuf => {
                let mut metadata = Vec::new();
                put_bytes(&mut metadata, 1, request.name.as_bytes());
                put_bytes(&mut metadata, 3, request.namespace.as_bytes());
                let mut event = Vec::new();
                put_bytes(&mut event, 1, &metadata);
                Envelope::wrap(&version, "Event", &event)
            }
            _ => {
                let metadata = json!({ "name": request.name, "namespace": request.namespace });
                json!({ "kind": "Event", "apiVersion": version, "metadata": metadata }).to_string().into()
            }
        };
        Ok(queued(StatusCode::OK, encoding, bytes))
    }

    fn status(
        &self,
        kind: &'static Kind,
        local: &Local,
        asked: &Asked,
        request: &ResourceRequest,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Body>, Failure> {
        let change = Change::read(request, headers, body)?;
        let one = ResourceRequest { verb: Verb::Get, subresource: String::new(), ..request.clone() };
        // Two changes of one object come one after the other, and so do their events.
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = local.kept(asked, &one)?;
        if kept.media.shape != Shape::Object {
            return Err(Failure::unavailable("the link to the API server is down, and a status is only changed in objects as they are"));
        }
        if kind.resource == POD.resource && node_name(&kept.object).ok().as_deref() != Some(self.node.as_str()) {
            return Err(Failure::unavailable("the link to the API server is down, and the pod is not one of this node"));
        }
        let seen = self.outbox.statuses.view(kind, &kept.object);
        let seen = seen.map_or(Ok(kept.object.clone()), |bytes| Object::read(bytes, kept.media.encoding));
        let seen = seen.map_err(|e| Failure::unavailable(e.to_string()))?;
        let changed = self.outbox.statuses.change(kind, &kept.object, |report| change.apply(kind, &seen, report));
        let (bytes, news) = changed.map_err(|e| unchanged(&e))?;
        if news {
            self.tell(kind, local, &ObjectName { namespace: request.namespace.clone(), name: request.name.clone() });
        }
        Ok(queued(StatusCode::OK, kept.media.encoding, bytes))
    }

    /// Tells the watches of this object.
    fn tell(&self, kind: &'static Kind, local: &Local, name: &ObjectName) {
        for set in self.cache.watchers.sets() {
            if let Some((kind, object)) = local.changed(&set, kind, name) {
                self.cache.watchers.tell(&set, || Changed { kind, object, before: None, version: None });
            }
        }
    }

    /// kubelet registers its node when it starts, and goes on once it hears that there is one.
    fn register(
        &self,
        local: &Local,
        asked: &Asked,
        request: &ResourceRequest,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Failure> {
        let node = sent(headers, body)?;
        let one = ResourceRequest { verb: Verb::Get, name: self.node.clone(), ..request.clone() };
        if node.meta.name != self.node || local.kept(asked, &one).is_err() {
            return Err(Failure::unavailable("the link to the API server is down, and no such Node was kept"));
        }
        Err(Failure::already_exists(format!("nodes \"{}\" already exists", self.node)))
    }
}

/// What a client wants a status to be.
enum Change {
    Patch(Patch),
    Whole(Object),
}

impl Change {
    fn read(request: &ResourceRequest, headers: &HeaderMap, body: &Bytes) -> Result<Change, Failure> {
        match request.verb {
            Verb::Patch => Patch::read(content_type(headers), body).map(Change::Patch).map_err(unpatched),
            _ => sent(headers, body.clone()).map(Change::Whole),
        }
    }

    fn apply(&self, kind: &Kind, seen: &Object, report: Value) -> Result<Value, ChangeError> {
        let (uid, version) = match self {
            Change::Patch(patch) => (patch.sets("/metadata/uid"), patch.sets("/metadata/resourceVersion")),
            Change::Whole(object) => (Some(object.meta.uid.as_str()), Some(object.meta.resource_version.as_str())),
        };
        let other = |wanted: Option<&str>, is: &str| wanted.is_some_and(|wanted| !wanted.is_empty() && wanted != is);
        if other(uid, &seen.meta.uid) {
            return Err(ChangeError::Conflict(format!("the uid in the request is not {}", seen.meta.uid)));
        }
        if other(version, &seen.meta.resource_version) {
            return Err(ChangeError::Conflict("the object has been modified; please apply your changes to the latest version".into()));
        }
        match self {
            Change::Patch(patch) => Ok(patch.apply(report)?),
            Change::Whole(object) => Ok(kind.read(object)?),
        }
    }
}

/// An object in the body of a request.
fn sent(headers: &HeaderMap, body: Bytes) -> Result<Object, Failure> {
    let encoding = match media(headers, header::CONTENT_TYPE) {
        _ if !headers.contains_key(header::CONTENT_TYPE) => Encoding::Json,
        Some(media) if matches!(media.encoding, Encoding::Json | Encoding::Protobuf) => media.encoding,
        _ => return Err(Failure::unsupported(content_type(headers))),
    };
    Object::read(body, encoding).map_err(|e| Failure::bad_request(format!("the body cannot be read: {e}")))
}

fn media(headers: &HeaderMap, name: header::HeaderName) -> Option<MediaType> {
    MediaType::read(headers.get(name)?.to_str().ok()?)
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json")
}

/// An answer that says that the API server does not have it yet.
fn queued(code: StatusCode, encoding: Encoding, body: Bytes) -> Response<Body> {
    let media = MediaType { encoding, ..MediaType::JSON };
    response(code, &media.content_type(false), "queued", body.len(), full(body))
}

/// An answer of the API server, once more.
fn again(reply: Reply) -> Response<Body> {
    response(StatusCode::CREATED, &reply.content_type, "hit", reply.body.len(), full(reply.body))
}

fn not_asked(what: &str) -> Failure {
    Failure::unavailable(format!("the link to the API server is down, and no {what} for the same request is still valid"))
}

fn not_taken(error: NotTaken) -> Failure {
    Failure::unavailable(format!("the link to the API server is down, and {error}"))
}

fn unpatched(error: PatchError) -> Failure {
    match error {
        PatchError::Type(_) => Failure::unavailable(format!("the link to the API server is down, and {error}")),
        PatchError::Apply(_) => Failure::invalid(error.to_string()),
        PatchError::Json(_) | PatchError::Expected { .. } => Failure::bad_request(error.to_string()),
    }
}

fn unchanged(error: &ChangeError) -> Failure {
    match error {
        ChangeError::Conflict(message) => Failure::conflict(message),
        ChangeError::NotTaken(error) => Failure::unavailable(format!("the link to the API server is down, and {error}")),
        ChangeError::Patch(PatchError::Apply(_)) | ChangeError::Report(_) => Failure::invalid(error.to_string()),
        ChangeError::Patch(_) => Failure::bad_request(error.to_string()),
    }
}
