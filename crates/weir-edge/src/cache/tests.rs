use super::*;
use crate::{body::BodyError, store::Options};
use http::{HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A list of pods with about this many bytes.
fn pods(bytes: usize) -> String {
    let pod =
        |i: usize| format!(r#"{{"metadata":{{"name":"p{i}","namespace":"default","resourceVersion":"1"}},"spec":"{}"}}"#, "x".repeat(1000));
    let items: Vec<String> = (0..bytes / 1000).map(pod).collect();
    format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"1"}},"items":[{}]}}"#, items.join(","))
}

/// Events of a watch with about this many bytes.
fn events(bytes: usize) -> String {
    let filler = "x".repeat(10_000);
    let event = format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"Pod","apiVersion":"v1","metadata":{{"resourceVersion":"2","annotations":{{"a":"{filler}"}}}}}}}}"#
    );
    format!("{event}\n").repeat(bytes / event.len())
}

#[test]
fn a_list_may_wait_as_a_whole_for_a_cache_that_is_busy_and_a_watch_may_not() {
    // The cache works only while this runtime runs: never while a client reads.
    let busy = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(folder.path(), Options::default()).unwrap());
    let cache = Cache::new("system:node:n", store, Limits::default(), busy.handle().clone());
    for (query, body, overflows) in [
        ("", pods(4 << 20), 0),
        ("?watch=true&resourceVersion=1", events(4 << 20), 1),
        ("?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", events(4 << 20), 1),
    ] {
        let request = Request::builder().method(Method::GET).uri(format!("{PODS}{query}"));
        let request = request.header(header::ACCEPT, "application/json").body(()).unwrap();
        let asked = Asked::of(&Caller::Node, &request);
        let info = RequestInfo::read(request.method(), request.uri().path(), request.uri().query());
        // The body comes in pieces, as from a connection.
        let pieces: Vec<Bytes> = body.as_bytes().chunks(16 << 10).map(Bytes::copy_from_slice).collect();
        let pieces = futures_util::stream::iter(pieces.into_iter().map(|piece| Ok::<_, BodyError>(Frame::data(piece))));
        let mut response = Response::new(streamed(StreamBody::new(pieces)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let client = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = client.block_on(cache.keep(&asked, &info, response).into_body().collect()).unwrap().to_bytes();
        assert_eq!(read.len(), body.len(), "{query}");
        // A copy has the cache until it is done.
        busy.block_on(async {
            while Arc::strong_count(&cache) > 1 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(cache.stats.overflows.load(Relaxed), overflows, "{query}");
        assert_eq!(cache.stats.kept.load(Relaxed), 1, "{query}");
    }
}

#[test]
fn a_document_is_kept_once_whatever_its_digest_and_however_long_a_client_waits() {
    let name = |target: &str| {
        let request = Request::builder().uri(target).header(header::ACCEPT, "application/json").body(()).unwrap();
        document("u", &Asked::of(&Caller::Node, &request))
    };
    for (target, same) in [
        ("/openapi/v3?timeout=32s", "/openapi/v3"),
        ("/openapi/v3/api/v1?hash=A1", "/openapi/v3/api/v1?hash=B2&timeout=1s"),
        ("/apis?x=1&timeout=32s&y=2", "/apis?x=1&y=2"),
    ] {
        assert_eq!(name(target), name(same), "{target}");
    }
    assert_ne!(name("/apis?x=1"), name("/apis"));
    assert_ne!(name("/openapi/v3"), name("/openapi/v2"));
}

#[test]
fn an_object_that_has_not_changed_is_not_written_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Nothing is written but what is kept.
    let options = Options { commit_interval: std::time::Duration::from_secs(3600), ..Options::default() };
    let store = Arc::new(Store::open(folder.path(), options).unwrap());
    let cache = Cache::new("system:node:n", store.clone(), Limits::default(), runtime.handle().clone());
    let pod = |name: &str, version: u64| {
        format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","resourceVersion":"{version}"}},"x":"{}"}}"#,
            // It does not compress to nothing.
            (0..200u64).map(|i| format!("{:x}", (i + version).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect::<String>()
        )
    };
    let mut kept = 0;
    for (name, version, written) in [("a", 1, true), ("a", 1, false), ("b", 1, true), ("a", 1, false), ("a", 2, true), ("a", 2, false)] {
        let request = Request::builder().uri(format!("{PODS}/{name}")).header(header::ACCEPT, "application/json").body(()).unwrap();
        let (asked, info) = (Asked::of(&Caller::Node, &request), RequestInfo::read(request.method(), request.uri().path(), None));
        let body = pod(name, version);
        let mut response = Response::new(crate::body::full(body.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // By less than an object takes, the time at which the set was as new as the API server may be written.
        let before = store.stats().written_bytes;
        runtime.block_on(async {
            let read = cache.keep(&asked, &info, response).into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read, body);
            kept += 1;
            while cache.stats.kept.load(Relaxed) < kept {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(store.stats().written_bytes > before + 1000, written, "{name} {version}");
        let set = store.sets().into_iter().find(|set| set.name.contains("pods")).unwrap();
        let object = ObjectName { namespace: "default".into(), name: name.into() };
        assert_eq!(store.get(&set.name, &object).unwrap().unwrap(), body);
    }
}
