//! What the hub counts of requests. The labels are bounded: a resource has its own once the API server has answered for it.
use crate::{
    apimachinery::request::{RequestInfo, Verb},
    body::{Body, BodyError, streamed},
    offline::local::CACHE,
    upstream::remote::FromServer,
};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

/// Most resources with labels of their own.
const RESOURCES: usize = 200;
/// Of all others.
const OTHER: &str = "other";
/// Resources that have labels of their own from the start: they are asked for before the API server can answer.
const KNOWN: &[&str] = &[
    "configmaps",
    "csidrivers.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "events",
    "leases.coordination.k8s.io",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "runtimeclasses.node.k8s.io",
    "secrets",
    "serviceaccounts",
    "services",
];

/// Who gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The API server.
    Remote,
    /// What was kept of its answers.
    Cache,
    /// The hub took a write that it sends later.
    Outbox,
    /// The hub itself.
    Local,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Remote => "remote",
            Source::Cache => "cache",
            Source::Outbox => "outbox",
            Source::Local => "local",
        }
    }

    pub fn of<B>(response: &Response<B>) -> Source {
        let says = |word: &[u8]| response.headers().get(CACHE).is_some_and(|value| value.as_bytes().starts_with(word));
        match response.extensions().get::<FromServer>() {
            Some(_) => Source::Remote,
            None if says(b"hit") => Source::Cache,
            None if says(b"queued") => Source::Outbox,
            None => Source::Local,
        }
    }
}

/// What a request is counted as.
pub struct Subject {
    verb: &'static str,
    /// Empty: no resource.
    resource: String,
    watch: bool,
}

impl Subject {
    pub fn of(method: &Method, info: &RequestInfo) -> Subject {
        match info {
            RequestInfo::NonResource { .. } => {
                let verb = match *method {
                    Method::GET | Method::HEAD => "get",
                    Method::POST => "create",
                    Method::PUT => "update",
                    Method::PATCH => "patch",
                    Method::DELETE => "delete",
                    _ => OTHER,
                };
                Subject { verb, resource: String::new(), watch: false }
            }
            RequestInfo::Resource(request) => {
                let resource = match request.resource.group.as_str() {
                    "" => request.resource.resource.clone(),
                    group => format!("{}.{group}", request.resource.resource),
                };
                Subject { verb: request.verb.name(), resource, watch: request.verb == Verb::Watch }
            }
        }
    }
}

/// Requests of one resource that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub verb: &'static str,
    /// 0: none that has a name.
    pub code: u16,
    pub source: Source,
}

impl Kind {
    fn reads(self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// Answered from what was kept.
    pub fn is_hit(self) -> bool {
        self.reads() && self.source == Source::Cache
    }

    /// The API server could not be asked, and nothing was kept that answers it.
    pub fn is_miss(self) -> bool {
        self.reads() && self.source == Source::Local && self.code == StatusCode::SERVICE_UNAVAILABLE.as_u16()
    }
}

type Counts = BTreeMap<String, BTreeMap<Kind, u64>>;

#[derive(Debug, Default)]
pub struct Requests {
    counts: Mutex<Counts>,
    watches: Arc<AtomicUsize>,
    /// Seconds, and answers with an age.
    age: AtomicU64,
    aged: AtomicU64,
}

impl Requests {
    /// Counts a request and its answer; a watch is counted as open for as long as it lasts.
    pub fn count(&self, subject: Subject, response: Response<Body>) -> Response<Body> {
        let source = Source::of(&response);
        let status = response.status();
        let code = status.canonical_reason().map_or(0, |_| status.as_u16());
        if let Some(age) = response.headers().get(CACHE).filter(|_| source == Source::Cache).and_then(|v| age(v.to_str().ok()?)) {
            self.age.fetch_add(age, Relaxed);
            self.aged.fetch_add(1, Relaxed);
        }
        let watch = subject.watch && status.is_success();
        let trusted = source == Source::Remote && status.is_success();
        self.add(subject.resource, Kind { verb: subject.verb, code, source }, trusted);
        match watch {
            false => response,
            true => {
                let open = Open::new(&self.watches);
                response.map(|body| streamed(Watched { body, _open: open }))
            }
        }
    }

    /// `trusted`: the API server has answered for this resource, so that it exists.
    fn add(&self, resource: String, kind: Kind, trusted: bool) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = resource.is_empty() || KNOWN.contains(&resource.as_str()) || counts.contains_key(&resource);
        let resource = match known || trusted && counts.len() < RESOURCES {
            true => resource,
            false => OTHER.to_string(),
        };
        *counts.entry(resource).or_default().entry(kind).or_default() += 1;
    }

    /// By resource.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn open_watches(&self) -> usize {
        self.watches.load(Relaxed)
    }

    /// The ages of answers from the cache in seconds, added up, and how many there were.
    pub fn ages(&self) -> (u64, u64) {
        (self.age.load(Relaxed), self.aged.load(Relaxed))
    }
}

/// `hit; age=12`.
pub(crate) fn age(text: &str) -> Option<u64> {
    text.split_once("age=")?.1.parse().ok()
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Relaxed);
        Open(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The body of a watch.
struct Watched {
    body: Body,
    _open: Open,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apimachinery::status::Failure, body::empty};

    fn subject(path: &str) -> Subject {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Subject::of(&Method::GET, &RequestInfo::read(&Method::GET, path, query))
    }

    fn of_server() -> Response<Body> {
        let mut response = Response::new(empty());
        response.extensions_mut().insert(FromServer);
        response
    }

    #[test]
    fn answers_are_counted_by_their_source() {
        let requests = Requests::default();
        requests.count(subject("/api/v1/pods"), of_server());
        let mut kept = Response::new(empty());
        kept.headers_mut().insert(CACHE, "hit; age=12".parse().unwrap());
        requests.count(subject("/api/v1/pods"), kept);
        requests.count(subject("/api/v1/pods"), Failure::unavailable("x").into_response());
        requests.count(subject("/version"), Failure::unauthorized("x").into_response());
        let counts = requests.counts();
        let kind = |verb, code, source| Kind { verb, code, source };
        let pods: Vec<(Kind, u64)> = counts["pods"].clone().into_iter().collect();
        assert_eq!(
            pods,
            [(kind("list", 200, Source::Remote), 1), (kind("list", 200, Source::Cache), 1), (kind("list", 503, Source::Local), 1)]
        );
        assert_eq!(
            pods.iter().map(|(kind, _)| (kind.is_hit(), kind.is_miss())).collect::<Vec<_>>(),
            [(false, false), (true, false), (false, true)]
        );
        assert_eq!(counts[""][&kind("get", 401, Source::Local)], 1);
        assert_eq!(requests.ages(), (12, 1));
    }

    #[test]
    fn open_watches_are_counted_while_they_last() {
        let requests = Requests::default();
        let watch = requests.count(subject("/api/v1/pods?watch=1"), of_server());
        let refused = requests.count(subject("/api/v1/pods?watch=1"), Failure::unavailable("x").into_response());
        assert_eq!(requests.open_watches(), 1);
        drop((watch, refused));
        assert_eq!(requests.open_watches(), 0);
    }

    #[test]
    fn names_that_clients_make_up_share_a_label() {
        let requests = Requests::default();
        for i in 0..1000 {
            requests.count(subject(&format!("/apis/g{i}/v1/made-up")), Failure::unavailable("x").into_response());
            requests.count(subject(&format!("/apis/g{i}/v1/real")), of_server());
        }
        let counts = requests.counts();
        assert!(counts.len() <= RESOURCES + KNOWN.len() + 2, "{}", counts.len());
        assert!(counts.contains_key("real.g1") && !counts.contains_key("made-up.g1") && counts.contains_key(OTHER));
    }
}
