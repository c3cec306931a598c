//! Lists and watches as a client with filters gets them, whatever becomes of the context.
use super::{object, request};
use crate::{
    apimachinery::{
        event::{EventKind, encode},
        media::Encoding,
        request::RequestInfo,
    },
    asked::Asked,
    body::{Body, BodyError, full, streamed},
    cache::{Cache, Limits, access::Access},
    filters::{Filters, context::Context},
    identity::caller::Caller,
    offline::{
        local::Local,
        outbox::{self, Outbox},
    },
    store::{ObjectName, Options, Store},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// A hub's filters beside a cache.
pub(super) struct Node {
    pub(super) filters: Filters,
    local: Local,
    _folder: tempfile::TempDir,
}

/// A watch, and what the API server sends on it.
struct Watch {
    body: Body,
    upstream: mpsc::UnboundedSender<Bytes>,
    read: String,
}

/// A watch that brings nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const SERVICES: &str = "/api/v1/services";

pub(super) fn slice(name: &str, version: u32, nodes: &[&str]) -> Value {
    let endpoint = |node: &&str| json!({ "addresses": [format!("10.0.0.{}", &node[4..])], "nodeName": node });
    let endpoints: Vec<Value> = nodes.iter().map(endpoint).collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": { "name": name, "namespace": "default", "resourceVersion": version.to_string(), "labels": { "kubernetes.io/service-name": name } },
    })
}

pub(super) fn service(name: &str, version: u32, annotations: Value) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1", "spec": { "type": "LoadBalancer" },
        "metadata": { "name": name, "namespace": "default", "resourceVersion": version.to_string(), "annotations": annotations },
    })
}

pub(super) fn list(kind: &str, version: u32, items: &[Value]) -> String {
    let api = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    let bare: Vec<Value> = items
        .iter()
        .cloned()
        .map(|mut item| {
            ["kind", "apiVersion"].into_iter().for_each(|field| drop(item.as_object_mut().unwrap().shift_remove(field)));
            item
        })
        .collect();
    json!({ "kind": format!("{kind}List"), "apiVersion": api, "metadata": { "resourceVersion": version.to_string() }, "items": bare })
        .to_string()
        + "\n"
}

impl Node {
    pub(super) fn new(context: Context) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path(), Options::default()).unwrap());
        let outbox = Arc::new(Outbox::open(&store, outbox::Limits::default()));
        let cache = Cache::new("system:node:node1", store, Limits::default(), tokio::runtime::Handle::current());
        let filters = Filters::new(context, cache.newest());
        let access = Arc::new(Access::open(&cache.store));
        Node { filters, local: Local { access, cache, outbox }, _folder: folder }
    }

    /// An answer of the API server, kept and then filtered, as the hub does it.
    async fn serve(&self, agent: &str, target: &str, body: Body) -> Response<Body> {
        self.serve_as(agent, target, &[(header::CONTENT_TYPE, "application/json")], body).await
    }

    /// The same with these headers of the answer.
    pub(super) async fn serve_as(&self, agent: &str, target: &str, headers: &[(HeaderName, &'static str)], body: Body) -> Response<Body> {
        let accept = "application/json,application/vnd.kubernetes.protobuf";
        let request = Request::builder().method(Method::GET).uri(target).header(header::ACCEPT, accept);
        let request = request.header(header::USER_AGENT, format!("{agent}/v1")).body(()).unwrap();
        let info = RequestInfo::read(request.method(), request.uri().path(), request.uri().query());
        let asked = Asked::of(&Caller::Node, &request);
        let mut response = Response::new(body);
        response.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))));
        let response = self.local.cache.keep(&asked, &info, response);
        self.filters.serve(&self.local, &asked, &info, response).await
    }

    async fn list(&self, agent: &str, path: &str, body: &str) -> String {
        let response = self.serve(agent, path, full(body.to_string())).await;
        let length = response.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_string());
        let text = text(response.into_body()).await;
        assert!(length.is_none_or(|length| length == text.len().to_string()));
        text
    }

    async fn watch(&self, agent: &str, target: &str) -> Watch {
        let (upstream, receive) = mpsc::unbounded_channel();
        let frames = futures_util::stream::unfold(receive, |mut receive| async {
            let bytes: Bytes = receive.recv().await?;
            Some((Ok::<_, BodyError>(Frame::data(bytes)), receive))
        });
        let body = self.serve(agent, target, streamed(StreamBody::new(frames))).await.into_body();
        Watch { body, upstream, read: String::new() }
    }

    fn topology(&self, services: &[(&str, &str)]) {
        let name = |name: &str| ObjectName { namespace: "default".into(), name: name.into() };
        let topology = services.iter().map(|(service, key)| (name(service), (*key).to_string())).collect();
        self.filters.update(|context| context.topology = Arc::new(topology));
    }
}

pub(super) async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

impl Watch {
    fn send(&self, kind: EventKind, value: &Value) {
        self.upstream.send(encode(kind, value.to_string().as_bytes(), Encoding::Json).unwrap()).unwrap();
    }

    /// The next event, as it is on the wire.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.find('\n') {
                return Some(self.read.drain(..=end).collect());
            }
            let next = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("nothing comes");
            let piece = next?.unwrap().into_data().unwrap();
            self.read += std::str::from_utf8(&piece).unwrap();
        }
    }

    /// Its kind, its name, whether its version is one of the API server, and the endpoints.
    async fn next(&mut self) -> (String, String, bool, usize) {
        let event: Value = serde_json::from_str(&self.line().await.unwrap()).unwrap();
        let object = &event["object"];
        let own = !object["metadata"]["resourceVersion"].as_str().unwrap_or_default().starts_with('0');
        let endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
        (event["type"].as_str().unwrap().into(), object["metadata"]["name"].as_str().unwrap_or_default().into(), own, endpoints)
    }
}

fn event(kind: &str, name: &str, own: bool, endpoints: usize) -> (String, String, bool, usize) {
    (kind.into(), name.into(), own, endpoints)
}

fn bookmark(version: u32) -> Value {
    json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": version.to_string() } })
}

#[tokio::test]
async fn what_no_filter_changes_passes_byte_for_byte() {
    let node = Node::new(Context { node: "node1".into(), ..Context::default() });
    let body = list("EndpointSlice", 9, &[slice("a", 7, &["node1", "node2"])]);
    node.topology(&[("b", "kubernetes.io/hostname")]);
    for agent in ["kube-proxy", "kubelet", "other"] {
        assert_eq!(node.list(agent, SLICES, &body).await, body);
        let mut watch = node.watch(agent, &format!("{SLICES}?watch=1&resourceVersion=9")).await;
        // Neither the order of fields nor spaces.
        let odd = "{\"object\": {\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"10\", \"namespace\":\"default\"},\"kind\":\"EndpointSlice\",\"apiVersion\":\"discovery.k8s.io/v1\"},\"type\":\"MODIFIED\"}\n";
        for piece in odd.as_bytes().chunks(7) {
            watch.upstream.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        assert_eq!(watch.line().await.unwrap(), odd);
    }
    // A filter that finds nothing to change, and lists that are none.
    for body in [list("EndpointSlice", 9, &[slice("b", 7, &["node1"])]), "{".to_string(), String::new()] {
        assert_eq!(node.list("kube-proxy", SLICES, &body).await, body);
    }
}

#[tokio::test]
async fn open_watches_go_over_to_another_context() {
    let node = Node::new(Context { node: "node1".into(), pool: Some("p".into()), ..Context::default() });
    let slices = [slice("a", 5, &["node1", "node2", "node3"]), slice("b", 6, &["node2"])];
    let body = list("EndpointSlice", 9, &slices);
    assert_eq!(node.list("kube-proxy", SLICES, &body).await, body);
    let target = format!("{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion=9");
    let mut watch = node.watch("kube-proxy", &target).await;
    // The first event says that the watch has begun.
    watch.send(EventKind::Added, &slice("c", 10, &["node1"]));
    assert_eq!(watch.next().await, event("ADDED", "c", true, 1));
    // A Service asks for a topology, the nodes of the pool become known, one leaves it, and the Service asks no more.
    node.topology(&[("a", "openyurt.io/nodepool")]);
    node.filters.update(|context| context.pool_nodes = Some(["node1".into(), "node2".into()].into()));
    assert_eq!(watch.next().await, event("MODIFIED", "a", false, 2));
    assert_eq!(watch.next().await, event("BOOKMARK", "", true, 0));
    node.filters.update(|context| context.pool_nodes = Some(["node1".into()].into()));
    assert_eq!(watch.next().await, event("MODIFIED", "a", false, 1));
    assert_eq!(watch.next().await, event("BOOKMARK", "", true, 0));
    // An event of the API server passes the filters that there are now.
    watch.send(EventKind::Modified, &slice("a", 11, &["node1", "node2"]));
    assert_eq!(watch.next().await, event("MODIFIED", "a", false, 1));
    node.topology(&[]);
    assert_eq!(watch.next().await, event("MODIFIED", "a", true, 2));
    assert_eq!(watch.next().await, event("BOOKMARK", "", true, 0));
    watch.send(EventKind::Deleted, &slice("a", 12, &["node1", "node2"]));
    assert_eq!(watch.next().await, event("DELETED", "a", true, 2));
    // It ends with that of the API server.
    drop(watch.upstream);
    assert!(watch.body.frame().await.is_none());
}

#[tokio::test]
async fn hidden_objects_come_and_go_once() {
    let node = Node::new(Context { node: "node1".into(), pool: Some("p".into()), ..Context::default() });
    let discard = || json!({ "svc.openyurt.io/discard": "true" });
    let listen = |pools: &str| json!({ "nodeport.openyurt.io/listen": pools });
    let services = [service("hidden", 1, discard()), service("pool", 2, listen("q")), service("shown", 3, json!({}))];
    let found: Value = serde_json::from_str(&node.list("kube-proxy", SERVICES, &list("Service", 9, &services)).await).unwrap();
    let names: Vec<&str> = found["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shown"]);
    let mut watch = node.watch("kube-proxy", &format!("{SERVICES}?watch=1&resourceVersion=9")).await;
    // What is hidden stays hidden, and its end is not told.
    watch.send(EventKind::Modified, &service("hidden", 10, discard()));
    watch.send(EventKind::Added, &service("new", 11, discard()));
    watch.send(EventKind::Deleted, &service("new", 12, discard()));
    watch.send(EventKind::Modified, &service("shown", 13, discard()));
    assert_eq!(watch.next().await, event("DELETED", "shown", true, 0));
    watch.send(EventKind::Modified, &service("shown", 14, discard()));
    watch.send(EventKind::Deleted, &service("shown", 15, discard()));
    watch.send(EventKind::Modified, &service("hidden", 16, json!({})));
    assert_eq!(watch.next().await, event("ADDED", "hidden", true, 0));
    node.filters.update(|context| context.pool = Some("q".into()));
    assert_eq!(watch.next().await, event("ADDED", "pool", true, 0));
    node.filters.update(|context| context.pool = Some("p".into()));
    assert_eq!(watch.next().await, event("DELETED", "pool", true, 0));
    node.filters.update(|context| context.settings.disabled = ["nodeportisolation".into()].into());
    assert_eq!(watch.next().await, event("ADDED", "pool", true, 0));
    watch.send(EventKind::Deleted, &service("pool", 17, listen("q")));
    assert_eq!(watch.next().await, event("DELETED", "pool", true, 0));
}

#[tokio::test]
async fn a_watch_that_goes_on_learns_what_has_changed_meanwhile() {
    let node = Node::new(Context { node: "node1".into(), ..Context::default() });
    let body = list("EndpointSlice", 9, &[slice("a", 5, &["node1", "node2"]), slice("b", 6, &["node2"])]);
    assert_eq!(node.list("kube-proxy", SLICES, &body).await, body);
    node.topology(&[("a", "kubernetes.io/hostname")]);
    let target = |version: u32| format!("{SLICES}?watch=1&resourceVersion={version}");
    let mut watch = node.watch("kube-proxy", &target(9)).await;
    assert_eq!(watch.next().await, event("MODIFIED", "a", false, 1));
    assert_eq!(watch.next().await, event("MODIFIED", "b", true, 1));
    // One from a later version has seen everything with this context.
    let mut later = node.watch("kube-proxy", &target(10)).await;
    for watch in [&watch, &later] {
        watch.send(EventKind::Bookmark, &bookmark(11));
    }
    assert_eq!(watch.next().await, event("BOOKMARK", "", true, 0));
    assert_eq!(later.next().await, event("BOOKMARK", "", true, 0));
    // A list that was never kept: if the context changes, the client lists again.
    let other = format!("{SLICES}?labelSelector=x&watch=1&resourceVersion=20");
    let mut other = node.watch("kube-proxy", &other).await;
    other.send(EventKind::Added, &slice("a", 21, &["node1", "node2"]));
    assert_eq!(other.next().await, event("ADDED", "a", false, 1));
    node.topology(&[]);
    let gone: Value = serde_json::from_str(&other.line().await.unwrap()).unwrap();
    assert_eq!((&gone["type"], &gone["object"]["code"], &gone["object"]["reason"]), (&json!("ERROR"), &json!(410), &json!("Expired")));
    assert!(other.body.frame().await.is_none());
}

#[tokio::test]
async fn streaming_lists_are_filtered_and_go_over_once_they_are_whole() {
    let node = Node::new(Context { node: "node1".into(), ..Context::default() });
    let target = format!("{SLICES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut watch = node.watch("kube-proxy", &target).await;
    watch.send(EventKind::Added, &slice("a", 5, &["node1", "node2"]));
    assert_eq!(watch.next().await, event("ADDED", "a", true, 2));
    node.topology(&[("a", "kubernetes.io/hostname"), ("b", "kubernetes.io/hostname")]);
    watch.send(EventKind::Added, &slice("b", 6, &["node2"]));
    assert_eq!(watch.next().await, event("ADDED", "b", true, 1));
    let mut end = bookmark(9);
    end["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    watch.send(EventKind::Bookmark, &end);
    assert_eq!(watch.next().await, event("BOOKMARK", "", true, 0));
    assert_eq!(watch.next().await, event("MODIFIED", "a", false, 1));
    assert_eq!(watch.next().await, event("MODIFIED", "b", false, 0));
}

#[tokio::test]
async fn a_client_that_gets_a_filter_watches_again() {
    let node = Node::new(Context { node: "node1".into(), ..Context::default() });
    let mut watch = node.watch("other", &format!("{SERVICES}?watch=1&resourceVersion=9")).await;
    watch.send(EventKind::Added, &service("a", 10, json!({ "svc.openyurt.io/discard": "true" })));
    assert_eq!(watch.next().await, event("ADDED", "a", true, 0));
    node.filters.update(|context| context.settings.disabled = ["servicetopology".into()].into());
    watch.send(EventKind::Deleted, &service("a", 11, json!({})));
    assert_eq!(watch.next().await, event("DELETED", "a", true, 0));
    node.filters.update(|context| drop(context.settings.agents.insert("discardcloudservice".into(), ["other".into()].into())));
    assert!(watch.body.frame().await.is_none());
}

#[test]
fn a_changed_object_never_has_the_version_of_the_one_before() {
    let mut value = slice("a", 7, &["node1", "node2"]);
    let chain = crate::filters::chain::Chain::of(
        &Context::default(),
        "kube-proxy",
        &request(crate::apimachinery::request::Verb::List, "endpointslices"),
    )
    .unwrap();
    let name = ObjectName { namespace: "default".into(), name: "a".into() };
    let topology = Arc::new([(name, "kubernetes.io/hostname".to_string())].into());
    let context = Context { node: "node1".into(), topology, ..Context::default() };
    for i in 0..200 {
        value["endpoints"][0]["addresses"][0] = format!("10.0.0.{i}").into();
        let object = object(&value, Encoding::Json);
        let replaced = |before| match chain.apply(&object, &context, before).unwrap() {
            crate::filters::chain::Verdict::Replace(replaced) => replaced,
            other => panic!("{other:?}"),
        };
        let first = replaced(None);
        let second = replaced(Some(first.mark));
        assert!(first.mark != second.mark && first.hash == second.hash && first.bytes != second.bytes);
        assert_eq!(replaced(Some(first.mark + 1)), first);
    }
}
