//! Answers without the API server: from what was kept, and never less than what is known to be whole.
use crate::{
    apimachinery::{
        event::EventKind,
        list::ListHead,
        media::{Encoding, MediaType, Shape},
        object::Object,
        reported::{self, Kind},
        request::{ResourceRequest, Verb},
        status::Failure,
    },
    asked::Asked,
    body::{Body, pieces},
    cache::{
        Cache,
        access::{Access, Question},
        head::Head,
        key::SetKey,
    },
    offline::outbox::Outbox,
    store::{Listing, ObjectName},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
pub(crate) use selection::Selection;
use std::{sync::Arc, time::SystemTime};

pub(crate) mod bookmark;
mod selection;
mod watch;

/// Where an answer comes from: `hit; age=12` of one that was kept, with its age in seconds.
pub const CACHE: HeaderName = HeaderName::from_static("weir-cache");

#[derive(Clone)]
pub struct Local {
    pub cache: Arc<Cache>,
    /// Who may read what all share.
    pub access: Arc<Access>,
    /// What was written here is seen in what was kept.
    pub outbox: Arc<Outbox>,
}

/// An object, as it was kept.
pub(crate) struct KeptObject {
    pub object: Object,
    pub media: MediaType,
    pub head: Head,
}

/// A set, as it was kept.
pub(crate) struct Kept {
    pub set: String,
    pub media: MediaType,
    pub head: Head,
    pub list: ListHead,
    pub listing: Listing,
    /// What of the set the client has asked for.
    pub selection: Selection,
}

impl Local {
    /// GET of an object or of a list.
    pub async fn read(&self, asked: &Asked, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
        if request.verb == Verb::Get {
            return self.object(asked, request);
        }
        if !request.options.continue_token.is_empty() {
            return Err(Failure::expired("the link to the API server is down, and only it has the next page of its list"));
        }
        let user = self.user(asked)?;
        self.answer(self.list(&user, asked, request)?)
    }

    /// A list, as it was kept.
    pub(crate) fn answer(&self, kept: Kept) -> Result<Response<Body>, Failure> {
        let objects: Vec<Bytes> = kept.listing.items.into_iter().map(|(_, bytes)| bytes).collect();
        let pieces = kept.list.assemble(&objects).map_err(|e| unreadable(&e))?;
        Ok(answer(pieces, &kept.media.content_type(false), &kept.head))
    }

    /// Discovery, OpenAPI, the version.
    pub async fn non_resource(&self, asked: &Asked, path: &str) -> Result<Response<Body>, Failure> {
        let user = self.user(asked)?;
        match self.cache.document(&user, asked) {
            Ok(Some((content_type, body))) => Ok(answer(vec![body], &content_type, &Head::default())),
            Ok(None) => Err(Failure::unavailable(format!("the link to the API server is down, and {path} was not asked for before"))),
            Err(e) => Err(unreadable(&e)),
        }
    }

    fn user(&self, asked: &Asked) -> Result<String, Failure> {
        // Not 401: the token may be good.
        self.cache
            .user(&asked.caller)
            .ok_or_else(|| Failure::unavailable("the link to the API server is down, and this token was not seen before"))
    }

    /// The list that a request asks for: kept as such, or part of one of all namespaces, or of one that all share.
    pub(crate) fn list(&self, user: &str, asked: &Asked, request: &ResourceRequest) -> Result<Kept, Failure> {
        let shared = self.shared(user, asked, request);
        for media in asked.accepted() {
            let Some(key) = SetKey::of(user, request, media) else { break };
            let whole = (!key.namespace.is_empty()).then(|| SetKey { namespace: String::new(), ..key.clone() });
            for key in [Some(key), whole].into_iter().flatten() {
                let selection = Selection { namespace: request.namespace.clone(), ..Selection::default() };
                match self.load(&key.name(), media, request, selection) {
                    Ok(None) => {}
                    Ok(Some(kept)) if shared.as_ref().is_none_or(|shared| shared.head.is_before(&kept.head.resource_version)) => {
                        return Ok(kept);
                    }
                    Err(e) if shared.is_none() => return Err(e),
                    Ok(Some(_)) | Err(_) => break,
                }
            }
        }
        shared.ok_or_else(|| never_listed(request))
    }

    /// The list that all share, for one who may read it.
    fn shared(&self, user: &str, asked: &Asked, request: &ResourceRequest) -> Option<Kept> {
        let selection = Selection::of(request)?;
        if !self.may_read(user, request) {
            return None;
        }
        let medias = asked.accepted();
        medias
            .into_iter()
            .find_map(|media| self.load(&SetKey::shared(&request.resource, media).name(), media, request, selection.clone()).ok()?)
    }

    /// Whether the API server has let a user list or watch what a request is about.
    fn may_read(&self, user: &str, request: &ResourceRequest) -> bool {
        let question = |verb, namespace: &str| Question {
            user: user.into(),
            verb,
            resource: request.resource.to_string(),
            namespace: namespace.into(),
        };
        let may = |namespace| ["list", "watch"].into_iter().any(|verb| self.access.last(&question(verb, namespace)) == Some(true));
        may("") || may(&request.namespace)
    }

    /// A set as it is now; `None` where it was never complete.
    pub(crate) fn load(
        &self,
        set: &str,
        media: MediaType,
        request: &ResourceRequest,
        selection: Selection,
    ) -> Result<Option<Kept>, Failure> {
        let Some(mut listing) = self.cache.store.list(set).map_err(|e| unreadable(&e))? else { return Ok(None) };
        let Some(head) = Head::read(&listing.head) else { return Ok(None) };
        listing.items.retain(|(name, object)| selection.has(name, object, media.encoding));
        let list = head.list().map_err(|e| unreadable(&e))?;
        self.overlay(request, media, &mut listing);
        Ok(Some(Kept { set: set.into(), media, head, list, listing, selection }))
    }

    fn object(&self, asked: &Asked, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
        let KeptObject { object, media, head } = self.kept(asked, request)?;
        let kind = Kind::of(&request.resource).filter(|_| media.shape == Shape::Object);
        let changed = kind.and_then(|kind| self.outbox.statuses.view(kind, &object));
        let bytes = changed.unwrap_or_else(|| object.into_bytes());
        // A row of a list of Tables was kept without its columns.
        let whole = head.list().and_then(|list| list.with_columns(&bytes)).unwrap_or(bytes);
        Ok(answer(vec![whole], &media.content_type(false), &head))
    }

    /// The newest copy of an object that the client can read.
    pub(crate) fn kept(&self, asked: &Asked, request: &ResourceRequest) -> Result<KeptObject, Failure> {
        let user = self.user(asked)?;
        let name = ObjectName { namespace: request.namespace.clone(), name: request.name.clone() };
        let mut newest: Option<(u64, KeptObject)> = None;
        let mut absent = false;
        for media in asked.accepted() {
            let Some(wanted) = SetKey::of(&user, request, media) else { break };
            for (set, key) in self.sets(&wanted, self.may_read(&user, request)) {
                let Some(head) = self.cache.head(&set) else { continue };
                match self.cache.store.get(&set, &name).map_err(|e| unreadable(&e))? {
                    Some(bytes) => {
                        let object = Object::read(bytes, media.encoding).map_err(|e| unreadable(&e))?;
                        let version = object.meta.resource_version.parse().unwrap_or_default();
                        if newest.as_ref().is_none_or(|(v, _)| version > *v) {
                            newest = Some((version, KeptObject { object, media, head }));
                        }
                    }
                    None => absent |= key.holds_all_of(&request.namespace) && !head.dirty,
                }
            }
            if newest.is_some() {
                break;
            }
        }
        match newest {
            Some((_, kept)) => Ok(kept),
            None if absent => Err(Failure::not_found(format!("{} \"{}\" not found", request.resource.resource, request.name))),
            None => Err(never_listed(request)),
        }
    }

    /// What was kept of an object for a user, in the encodings that are read.
    pub(crate) fn copies(&self, user: &str, resource: &str, name: &ObjectName) -> Vec<Object> {
        let sets = self.cache.store.sets().into_iter().filter_map(|set| Some((SetKey::read(&set.name)?, set.name)));
        let same = sets.filter(|(key, _)| key.user == user && key.resource == resource);
        let read = |(key, set): (SetKey, String)| {
            let encoding = [Encoding::Json, Encoding::Protobuf].into_iter().find(|encoding| encoding.name() == key.media)?;
            Object::read(self.cache.store.get(&set, name).ok()??, encoding).ok()
        };
        same.filter_map(read).collect()
    }

    /// Shows the objects of a list as they were changed here.
    fn overlay(&self, request: &ResourceRequest, media: MediaType, listing: &mut Listing) {
        let Some(kind) = Kind::of(&request.resource).filter(|_| media.shape == Shape::Object) else { return };
        for name in self.outbox.statuses.names(kind) {
            let Some(at) = listing.items.iter().position(|(n, _)| *n == name) else { continue };
            let Ok(object) = Object::read(listing.items[at].1.clone(), media.encoding) else { continue };
            match self.outbox.statuses.view(kind, &object) {
                Some(changed) if is_selected(&request.options.field_selector, kind, &changed, media.encoding) => {
                    listing.items[at].1 = changed;
                }
                Some(_) => drop(listing.items.remove(at)),
                None => {}
            }
        }
    }

    /// The event that a watch of a set gets for an object that was changed here.
    pub(crate) fn changed(&self, set: &str, kind: &Kind, name: &ObjectName) -> Option<(EventKind, Bytes)> {
        let key = SetKey::read(set).filter(|key| key.resource == kind.resource)?;
        let encoding = [Encoding::Json, Encoding::Protobuf].into_iter().find(|encoding| encoding.name() == key.media)?;
        let object = Object::read(self.cache.store.get(set, name).ok()??, encoding).ok()?;
        let changed = self.outbox.statuses.view(kind, &object)?;
        let selectors = key.selected?;
        let is_selected = is_selected(&selectors.fields, kind, &changed, encoding);
        Some((if is_selected { EventKind::Modified } else { EventKind::Deleted }, changed))
    }

    /// The sets in which an object may be: with the same user, or shared, and the same resource and media type.
    fn sets(&self, wanted: &SetKey, shared: bool) -> Vec<(String, SetKey)> {
        let of_user = |key: &SetKey| key.user == wanted.user || shared && key.is_shared();
        let same = |key: &SetKey| of_user(key) && key.resource == wanted.resource && key.media == wanted.media;
        let near = |key: &SetKey| key.namespace.is_empty() || key.namespace == wanted.namespace;
        let sets = self.cache.store.sets().into_iter().filter_map(|set| Some((SetKey::read(&set.name)?, set.name)));
        sets.filter(|(key, _)| same(key) && near(key)).map(|(key, set)| (set, key)).collect()
    }
}

/// Whether a pod still belongs to a list of one phase: the only field of its status by which lists are asked for.
fn is_selected(fields: &str, kind: &Kind, object: &Bytes, encoding: Encoding) -> bool {
    let of_phase = fields.split(',').filter_map(|term| term.trim().strip_prefix("status.phase"));
    let mut of_phase = of_phase.peekable();
    if of_phase.peek().is_none() || kind.resource != reported::POD.resource {
        return true;
    }
    let report = Object::read(object.clone(), encoding).ok().and_then(|object| kind.read(&object).ok()).unwrap_or_default();
    let phase = report["status"]["phase"].as_str().unwrap_or_default();
    of_phase.all(|term| match term.strip_prefix("!=") {
        Some(other) => phase != other,
        None => phase == term.trim_start_matches('='),
    })
}

fn never_listed(request: &ResourceRequest) -> Failure {
    let what = if request.name.is_empty() { request.resource.to_string() } else { format!("{} \"{}\"", request.resource, request.name) };
    Failure::unavailable(format!("the link to the API server is down, and {what} was not kept for this client"))
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    Failure::unavailable(format!("what was kept cannot be read: {error}"))
}

/// An answer that says that it was kept, and how old it is.
fn answer(body: Vec<Bytes>, content_type: &str, head: &Head) -> Response<Body> {
    let length = body.iter().map(Bytes::len).sum();
    let age = match head.at {
        0 => "hit".to_string(),
        _ => format!("hit; age={}", head.age(SystemTime::now()).as_secs()),
    };
    response(StatusCode::OK, content_type, &age, length, pieces(body))
}

/// An answer of the hub itself, with what its header says of the cache.
pub fn response(code: StatusCode, content_type: &str, cache: &str, length: usize, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    for (name, value) in [(header::CONTENT_TYPE, content_type), (CACHE, cache)] {
        headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    }
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}
