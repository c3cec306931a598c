//! What is kept of what passes: lists, the events of watches, single objects, discovery. Everything here runs beside the clients, on a
//! runtime of its own; a failure marks what was kept as old, and is never the client's.
pub mod access;
pub mod agents;
mod copy;
pub(crate) mod follows;
pub mod head;
pub(crate) mod heal;
pub mod key;
mod listed;
mod pages;
pub(crate) mod reflect;
pub mod stale;
pub(crate) mod steady;
pub mod tee;
#[cfg(test)]
mod tests;
mod users;
pub mod watchers;

use crate::{
    apimachinery::{
        media::MediaType,
        request::{RequestInfo, Verb},
    },
    asked::Asked,
    body::{Body, streamed},
    cache::tee::{Budget, TOGETHER, Tee},
    identity::caller::Caller,
    recent::Recent,
    settings::AGENT,
    store::{ObjectName, ReadError, SetInfo, Store, yield_to_clients},
};
use agents::Agents;
use bytes::Bytes;
pub use copy::Outcome;
use copy::{Copy, Source};
use follows::Follows;
use head::{Head, seconds};
use http::{HeaderMap, Response, header};
use key::SetKey;
use pages::Pages;
use stale::{Missed, Stale};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};
use tokio::task::JoinSet;
use users::{User, Users};
use watchers::Watchers;

/// Sets that belong to no user. Those of users begin with the user's name, which is not empty.
const USERS: &str = "\nusers";
pub(crate) const NON_RESOURCE: &str = "\nnon-resource";

/// How much is kept, and how far the cache may fall behind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one list, object or document.
    pub body: usize,
    /// Bytes of one watch that wait for the cache. Others may wait as a whole: what nodes list when they start comes at once.
    pub watch: usize,
    /// Bytes of all answers that wait.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { body: 64 << 20, watch: 1 << 20, waiting: 64 << 20 }
    }
}

/// Counters, for the metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Lists, objects and documents that were kept.
    pub kept: AtomicU64,
    /// Watch events that were kept.
    pub events: AtomicU64,
    /// Copies that were given up: the cache was too slow.
    pub overflows: AtomicU64,
    /// Copies that could not be read.
    pub unreadable: AtomicU64,
    /// Writes that failed.
    pub failed_writes: AtomicU64,
    /// Lists that the hub made again itself, because something of them was missed.
    pub relists: AtomicU64,
    /// The same that failed; they are tried again.
    pub failed_relists: AtomicU64,
}

pub struct Cache {
    node: String,
    pub store: Arc<Store>,
    pub watchers: Watchers,
    pub agents: Agents,
    pub stats: Stats,
    pub errors: Recent,
    /// What must be listed again.
    pub stale: Stale,
    /// Which sets a watch keeps up to date now.
    pub(crate) follows: Arc<Follows>,
    limits: Limits,
    budget: Arc<Budget>,
    users: Mutex<Users>,
    pages: Mutex<Pages>,
    runtime: tokio::runtime::Handle,
}

impl Cache {
    /// `node`: the user name of the node. `runtime`: where copies are worked off.
    pub fn new(node: &str, store: Arc<Store>, limits: Limits, runtime: tokio::runtime::Handle) -> Arc<Cache> {
        let mut users = Users::default();
        let now = seconds(SystemTime::now());
        if store.head(USERS).is_none() {
            // Where this fails, each write fails, and is counted.
            let _ = store.replace(USERS, &[], []);
        }
        if let Ok(Some(remembered)) = store.list(USERS) {
            for (name, bytes) in remembered.items {
                let digest = data_encoding::HEXLOWER.decode(name.name.as_bytes()).ok().and_then(|d| <[u8; 32]>::try_from(d).ok());
                if let (Some(digest), Some(user)) = (digest, User::read(&bytes)) {
                    users.remember(digest, user, now);
                }
            }
        }
        let stale = Stale::default();
        // Lists of others need their rights: they wait for their next request.
        for set in store.sets() {
            let dirty = set.damaged || Head::read(&set.head).is_some_and(|head| head.dirty);
            if let Some(key) = SetKey::read(&set.name).filter(|key| dirty && key.user == node && key.selected.is_some()) {
                stale.add(key, Missed::default());
            }
        }
        Arc::new(Cache {
            node: node.to_string(),
            agents: Agents::open(&store),
            store,
            stale,
            follows: Arc::default(),
            watchers: Watchers::default(),
            stats: Stats::default(),
            errors: Recent::default(),
            limits,
            budget: Budget::new(limits.waiting),
            users: Mutex::new(users),
            pages: Mutex::default(),
            runtime,
        })
    }

    /// The user name of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Bytes that wait to be kept.
    pub fn lag(&self) -> usize {
        self.budget.used()
    }

    /// Bytes of copies that were given up.
    pub fn dropped(&self) -> u64 {
        self.budget.dropped()
    }

    /// How many lists there are, and how many objects in them and beside them.
    pub fn kept(&self) -> (usize, usize) {
        let sets: Vec<(SetKey, usize)> =
            self.store.sets().into_iter().filter_map(|set| Some((SetKey::read(&set.name)?, set.objects))).collect();
        (sets.iter().filter(|(key, _)| key.selected.is_some()).count(), sets.iter().map(|(_, objects)| objects).sum())
    }

    /// The newest resource version of what is kept.
    pub fn newest(&self) -> u64 {
        let version = |set: SetInfo| Head::read(&set.head)?.resource_version.parse().ok();
        self.store.sets().into_iter().filter_map(version).max().unwrap_or_default()
    }

    /// The user name of a caller, where the API server has confirmed it.
    pub fn user(&self, caller: &Caller) -> Option<String> {
        match caller {
            Caller::Node => Some(self.node.clone()),
            Caller::Token(digest) => {
                let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
                users.get(digest, seconds(SystemTime::now())).map(|user| user.name.clone())
            }
        }
    }

    /// Takes note of a token that the API server has accepted.
    pub fn remember(self: &Arc<Cache>, digest: &[u8; 32], token: Option<&str>) {
        let Some(token) = token else { return };
        let user = User::of(token, digest);
        let news = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remember(*digest, user.clone(), seconds(SystemTime::now()))
        };
        if news {
            let (cache, name) = (self.clone(), data_encoding::HEXLOWER.encode(digest));
            self.runtime.spawn(async move {
                let name = ObjectName { namespace: String::new(), name };
                cache.wrote(cache.store.put(USERS, &name, &user.to_bytes(), &Head::default().to_bytes()));
            });
        }
    }

    /// The tokens that the API server has accepted, by their digests.
    pub(crate) fn tokens(&self) -> Vec<([u8; 32], User)> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// Forgets whose token it was.
    pub(crate) fn forget(&self, digest: &[u8; 32]) -> bool {
        let name = ObjectName { namespace: String::new(), name: data_encoding::HEXLOWER.encode(digest) };
        let forgotten = self.wrote(self.store.remove(USERS, &name, &Head::default().to_bytes()));
        if forgotten {
            self.users.lock().unwrap_or_else(PoisonError::into_inner).forget(digest);
        }
        forgotten
    }

    /// The namespace of what is kept of a user beside objects.
    pub(crate) fn documents_of(user: &str) -> String {
        user.replace('/', " ")
    }

    /// Passes a response on and keeps a copy, where it is one to keep.
    pub fn keep(self: &Arc<Cache>, asked: &Asked, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
        let Some(user) = self.user(&asked.caller).filter(|_| asked.reads && !asked.head_only) else { return response };
        if !self.agents.keeps(&asked.agent) {
            return response;
        }
        let keep = match info {
            // In any media type: OpenAPI has its own.
            RequestInfo::NonResource { path } if is_document(path) => {
                Keep::Document { set: NON_RESOURCE.to_string(), name: document(&user, asked) }
            }
            RequestInfo::NonResource { .. } => return response,
            RequestInfo::Resource(resource) => {
                let Some(media) = media_of(&asked.accept, &response) else { return response };
                let Some(key) = SetKey::of(&user, resource, media) else { return response };
                match resource.verb {
                    Verb::Watch => Keep::Watch {
                        key,
                        media,
                        from: resource.options.resource_version.clone(),
                        initial: resource.options.send_initial_events,
                        of_peer: false,
                    },
                    Verb::List => Keep::List { key, media, page: resource.options.continue_token.clone(), of_peer: false },
                    _ => Keep::Object { key, media },
                }
            }
        };
        if let Some(set) = keep.set()
            && self.agents.note(&set, &asked.agent)
        {
            let cache = self.clone();
            self.runtime.spawn(async move { cache.agents.write(&set) });
        }
        let (parts, body) = response.into_parts();
        let (most, together) = match &keep {
            Keep::Watch { initial: false, .. } => (self.limits.watch, 0),
            Keep::Watch { .. } => (self.limits.body, 0),
            _ => (self.limits.body, TOGETHER),
        };
        let client = Arc::new(());
        let missed = Missed { token: asked.token.clone(), client: Arc::downgrade(&client) };
        let copy = self.copy(&asked.agent, &parts.headers);
        let start = move |copied| {
            let (copy, list) = (copy(Source::Copied(copied)), keep.list().cloned());
            let cache = copy.cache.clone();
            cache.runtime.clone().spawn(async move {
                if let (Outcome::Missed, Some(list)) = (copy.run(keep).await, list) {
                    cache.stale.add(list, missed);
                }
            });
        };
        let tee = Tee::new(body, client, most, together, &self.budget, Box::new(start));
        Response::from_parts(parts, streamed(tee))
    }

    /// Keeps a whole list that the hub itself has asked for. `of_peer`: another hub has given it; it must not be older than what is kept.
    pub async fn fill_list(self: &Arc<Cache>, key: SetKey, media: MediaType, of_peer: bool, response: Response<Body>) -> Outcome {
        self.fill(Keep::List { key, media, page: String::new(), of_peer }, response).await
    }

    /// Keeps what a watch from a resource version on brings, until it ends. The watch waits where the disk is slow.
    pub async fn fill_watch(
        self: &Arc<Cache>,
        key: SetKey,
        media: MediaType,
        from: String,
        of_peer: bool,
        response: Response<Body>,
    ) -> Outcome {
        self.fill(Keep::Watch { key, media, from, initial: false, of_peer }, response).await
    }

    async fn fill(self: &Arc<Cache>, keep: Keep, response: Response<Body>) -> Outcome {
        let (parts, body) = response.into_parts();
        let copy = self.copy(AGENT, &parts.headers)(Source::Body(body));
        // It ends with who waits for it.
        let mut running = JoinSet::new();
        running.spawn_on(copy.run(keep), &self.runtime);
        running.join_next().await.and_then(Result::ok).unwrap_or(Outcome::Cut)
    }

    /// The copy of an answer with these headers, once it is known where its bytes come from.
    fn copy(self: &Arc<Cache>, agent: &str, headers: &HeaderMap) -> impl FnOnce(Source) -> Copy + use<> {
        let gzip = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
        let (cache, agent) = (self.clone(), agent.to_string());
        move |source| Copy { cache, source, agent, gzip, content_type }
    }

    /// A document that was kept: its content type and its bytes.
    pub fn document(&self, user: &str, asked: &Asked) -> Result<Option<(String, Bytes)>, ReadError> {
        let Some(bytes) = self.store.get(NON_RESOURCE, &document(user, asked))? else { return Ok(None) };
        let Some(end) = memchr::memchr(b'\n', &bytes) else { return Ok(None) };
        Ok(Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes.slice(end + 1..))))
    }

    /// The head of a set.
    pub fn head(&self, set: &str) -> Option<Head> {
        Head::read(&self.store.head(set)?)
    }

    pub(crate) fn wrote<E: std::fmt::Display>(&self, result: Result<(), E>) -> bool {
        if let Err(e) = &result {
            self.errors.note(format!("cannot keep an answer: {e}"));
            self.stats.failed_writes.fetch_add(1, Relaxed);
        }
        result.is_ok()
    }
}

/// What to do with a copy.
enum Keep {
    Document { set: String, name: ObjectName },
    Object { key: SetKey, media: MediaType },
    List { key: SetKey, media: MediaType, page: String, of_peer: bool },
    Watch { key: SetKey, media: MediaType, from: String, initial: bool, of_peer: bool },
}

impl Keep {
    /// The list that has to be made again where this is missed.
    fn list(&self) -> Option<&SetKey> {
        match self {
            Keep::List { key, .. } | Keep::Watch { key, .. } => Some(key),
            Keep::Document { .. } | Keep::Object { .. } => None,
        }
    }

    /// The name of the set; documents have none of their own.
    fn set(&self) -> Option<String> {
        match self {
            Keep::Document { .. } => None,
            Keep::Object { key, .. } | Keep::List { key, .. } | Keep::Watch { key, .. } => Some(key.name()),
        }
    }
}

/// Discovery, OpenAPI and the version: the same for a while, and needed by every client that starts.
fn is_document(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    path == "/version"
        || path == "/api"
        || path == "/apis"
        || ["/api/", "/apis/", "/openapi/"].iter().any(|prefix| path.starts_with(prefix))
}

/// What a document is kept as. How long a client waits for it is no part of that, nor is its digest: of each document only the last
/// version is kept.
fn document(user: &str, asked: &Asked) -> ObjectName {
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let is_part = |term: &&str| !term.is_empty() && !["timeout=", "hash="].iter().any(|name| term.starts_with(name));
    let target = [path].into_iter().chain(query.split('&').filter(is_part)).collect::<Vec<_>>().join("&");
    ObjectName { namespace: Cache::documents_of(user), name: format!("{target}\n{}", asked.accept) }
}

/// The media type of a response: its Content-Type does not say in which shape the objects are, the request does.
pub(crate) fn media_of(accept: &str, response: &Response<Body>) -> Option<MediaType> {
    let content_type = MediaType::read(response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?)?;
    let accepted = MediaType::accepted([accept]).ok()?;
    let wanted = accepted.into_iter().find(|m| m.encoding == content_type.encoding)?;
    Some(MediaType { stream: false, pretty: false, ..wanted })
}

/// A thread for all copies, so that a slow disk holds up no client. Threads that serve clients go first.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("weir-edge-cache").on_thread_start(yield_to_clients);
    builder.enable_time().build()
}
