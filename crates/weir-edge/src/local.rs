//! Answers without the API server: from what was kept, and never less than what is known to be whole.
use crate::{
    asked::Asked,
    body::{Body, pieces},
    cache::{Cache, head::Head, key::SetKey},
    list::ListHead,
    media::MediaType,
    object::Object,
    request::{ResourceRequest, Verb},
    status::Failure,
    store::{Listing, ObjectName},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};
use std::{sync::Arc, time::SystemTime};

mod bookmark;
mod watch;

/// Where an answer comes from: `hit; age=12` of one that was kept, with its age in seconds.
pub const CACHE: HeaderName = HeaderName::from_static("weir-cache");

pub struct Local {
    pub cache: Arc<Cache>,
}

/// A set, as it was kept.
pub(crate) struct Kept {
    pub set: String,
    pub media: MediaType,
    pub head: Head,
    pub list: ListHead,
    pub listing: Listing,
}

impl Local {
    /// GET of an object or of a list.
    pub async fn read(&self, asked: &Asked, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
        let user = self.user(asked)?;
        if request.verb == Verb::Get {
            return self.object(&user, asked, request);
        }
        let kept = self.list(&user, asked, request)?;
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

    /// The list that a request asks for: kept as such, or part of one of all namespaces.
    pub(crate) fn list(&self, user: &str, asked: &Asked, request: &ResourceRequest) -> Result<Kept, Failure> {
        for media in accepted(asked) {
            let Some(key) = SetKey::of(user, request, media) else { break };
            let whole = (!key.namespace.is_empty()).then(|| SetKey { namespace: String::new(), ..key.clone() });
            for key in [Some(key), whole].into_iter().flatten() {
                let set = key.name();
                let Some(mut listing) = self.cache.store.list(&set).map_err(|e| unreadable(&e))? else { continue };
                let Some(head) = Head::read(&listing.head) else { continue };
                if key.namespace.is_empty() && !request.namespace.is_empty() {
                    listing.items.retain(|(name, _)| name.namespace == request.namespace);
                }
                let list = head.list().map_err(|e| unreadable(&e))?;
                return Ok(Kept { set, media, head, list, listing });
            }
        }
        Err(never_listed(request))
    }

    fn object(&self, user: &str, asked: &Asked, request: &ResourceRequest) -> Result<Response<Body>, Failure> {
        let name = ObjectName { namespace: request.namespace.clone(), name: request.name.clone() };
        let mut newest: Option<(u64, Bytes, MediaType, Head)> = None;
        let mut absent = false;
        for media in accepted(asked) {
            let Some(wanted) = SetKey::of(user, request, media) else { break };
            for (set, key) in self.sets(&wanted) {
                let Some(head) = self.cache.head(&set) else { continue };
                match self.cache.store.get(&set, &name).map_err(|e| unreadable(&e))? {
                    Some(bytes) => {
                        let object = Object::read(bytes.clone(), media.encoding);
                        let version = object.ok().and_then(|o| o.meta.resource_version.parse().ok()).unwrap_or_default();
                        if newest.as_ref().is_none_or(|(v, ..)| version > *v) {
                            newest = Some((version, bytes, media, head));
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
            Some((_, bytes, media, head)) => {
                // A row of a list of Tables was kept without its columns.
                let whole = head.list().and_then(|list| list.with_columns(&bytes)).unwrap_or(bytes);
                Ok(answer(vec![whole], &media.content_type(false), &head))
            }
            None if absent => Err(Failure::not_found(format!("{} \"{}\" not found", request.resource.resource, request.name))),
            None => Err(never_listed(request)),
        }
    }

    /// The sets in which an object may be: with the same user, resource and media type.
    fn sets(&self, wanted: &SetKey) -> Vec<(String, SetKey)> {
        let same = |key: &SetKey| key.user == wanted.user && key.resource == wanted.resource && key.media == wanted.media;
        let near = |key: &SetKey| key.namespace.is_empty() || key.namespace == wanted.namespace;
        let sets = self.cache.store.sets().into_iter().filter_map(|set| Some((SetKey::read(&set.name)?, set.name)));
        sets.filter(|(key, _)| same(key) && near(key)).map(|(key, set)| (set, key)).collect()
    }
}

fn accepted(asked: &Asked) -> Vec<MediaType> {
    MediaType::accepted([asked.accept.as_str()])
        .unwrap_or_default()
        .into_iter()
        .map(|m| MediaType { stream: false, pretty: false, ..m })
        .collect()
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
    let length: usize = body.iter().map(Bytes::len).sum();
    let mut response = Response::new(pieces(body));
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers.insert(header::CONTENT_LENGTH, length.into());
    let age = match head.at {
        0 => "hit".to_string(),
        _ => format!("hit; age={}", head.age(SystemTime::now()).as_secs()),
    };
    headers.extend(HeaderValue::from_str(&age).ok().map(|age| (CACHE, age)));
    response
}
