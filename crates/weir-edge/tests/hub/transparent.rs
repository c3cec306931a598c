//! What passes the hub is what the API server sends: byte for byte, frame for frame.
use super::{
    hub::{JSON, Rig},
    twin::{Protocol, To, Twin},
    upstream::{SERVICES, Seen},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use std::{collections::BTreeMap, fs};
use weir_edge::body::{BodyError, full, streamed};
use weir_test::{eventually, kube::programs::module_folder};

/// Kinds that no filter knows: all of them pass as they come.
const THINGS: &str = "/apis/golden.test/v1/namespaces/default/things";
const ENCODINGS: [(&str, &str); 3] =
    [("json", "application/json"), ("pb", "application/vnd.kubernetes.protobuf"), ("yaml", "application/yaml")];

/// The objects that `k8s.io/api` tests its own encoders with, by name and media type.
fn golden() -> BTreeMap<(String, String), Bytes> {
    let folder = module_folder("", "k8s.io/api").unwrap().join("testdata/HEAD");
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().unwrap().to_string_lossy().into_owned();
        let Some((_, media)) = ENCODINGS.iter().find(|(end, _)| *end == extension) else { continue };
        all.insert((path.file_stem().unwrap().to_string_lossy().into_owned(), media.to_string()), fs::read(&path).unwrap().into());
    }
    assert!(all.len() >= 3 * 150, "{}", all.len());
    all
}

/// As API servers answer. Half of the answers have a length; the others come in pieces, and have trailers.
fn answer(seen: &Seen, all: &BTreeMap<(String, String), Bytes>) -> Option<Response<weir_edge::body::Body>> {
    let name = seen.path.strip_prefix(THINGS)?.trim_start_matches('/');
    let media = seen.headers.get(header::ACCEPT)?.to_str().ok()?;
    let body = all.get(&(name.to_string(), media.to_string()))?.clone();
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, media)
        .header(header::DATE, "Sat, 01 Jan 2000 00:00:00 GMT")
        .header(header::CACHE_CONTROL, "no-cache, private")
        .header("audit-id", name)
        .header("warning", "299 - \"first\"")
        .header("warning", HeaderValue::from_bytes(b"299 - \"\xc3\xa9\"").unwrap())
        .header("x-kubernetes-pf-flowschema-uid", seen.headers.get("x-test")?);
    if body.len().is_multiple_of(2) {
        return Some(response.body(full(body)).unwrap());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-digest", HeaderValue::from_str(&body.len().to_string()).unwrap());
    response = response.header(header::TRAILER, "x-digest");
    let pieces = body.chunks(1000).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect::<Vec<Result<_, BodyError>>>();
    let frames = pieces.into_iter().chain([Ok(Frame::trailers(trailers))]);
    Some(response.body(streamed(StreamBody::new(futures_util::stream::iter(frames)))).unwrap())
}

#[test]
fn every_kind_passes_byte_for_byte_in_each_encoding_and_protocol() {
    let rig = Rig::start();
    let all = golden();
    rig.upstream.script({
        let all = all.clone();
        move |seen| answer(seen, &all)
    });
    rig.block_on(async {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut direct = Twin::connect(&rig, To::ApiServer, protocol).await;
            let mut hub = Twin::connect(&rig, To::Hub, protocol).await;
            let mut with_trailers = 0;
            for ((name, media), body) in &all {
                let path = format!("{THINGS}/{name}");
                let headers = [("accept", media.as_str()), ("te", "trailers"), ("x-test", name.as_str())];
                let wanted = direct.ask(&path, &headers).await;
                let found = hub.ask(&path, &headers).await;
                assert_eq!((wanted.status, &wanted.body), (StatusCode::OK, body), "{name} {media}");
                assert_eq!(found, wanted, "{protocol:?} {name} {media}");
                with_trailers += usize::from(!wanted.trailers.is_empty());
            }
            assert!(with_trailers > all.len() / 4, "{with_trailers}");
        }
    });
}

#[test]
fn ten_thousand_events_come_in_their_order_and_each_once() {
    const EVENTS: usize = 10_000;
    let rig = Rig::start();
    let from = rig.upstream.put("first", json!({}));
    let path = format!("{SERVICES}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
    // The hub keeps what passes.
    assert_eq!(rig.names(SERVICES, &[JSON]), ["first"]);
    let read = async |to, protocol| {
        let mut twin = Twin::connect(&rig, to, protocol).await;
        let mut body = twin.open(&path, &[JSON]).await.unwrap().into_body();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}\n") || !seen[seen.len().saturating_sub(1000)..].windows(6).any(|part| part == b"\"last\"") {
            seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        seen
    };
    let write = async {
        while rig.upstream.watches() < 4 {
            tokio::task::yield_now().await;
        }
        for i in 1..EVENTS {
            match i % 100 {
                0 => drop(rig.upstream.bookmark()),
                1 if i > 100 => drop(rig.upstream.delete("s2")),
                i => drop(rig.upstream.put(&format!("s{i}"), json!({ "i": i.to_string() }))),
            }
            if i % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        rig.upstream.put("last", json!({}));
    };
    let (wanted, others, ()) = rig.block_on(async {
        tokio::join!(
            read(To::ApiServer, Protocol::Http2),
            async { tokio::join!(read(To::ApiServer, Protocol::Http1), read(To::Hub, Protocol::Http1), read(To::Hub, Protocol::Http2)) },
            write
        )
    });
    assert_eq!(wanted.split(|byte| *byte == b'\n').count(), EVENTS + 1);
    for other in [&others.0, &others.1, &others.2] {
        assert!(*other == wanted, "{} bytes, {} wanted", other.len(), wanted.len());
    }
    // And what was kept is what the API server lists.
    let listed = rig.block_on(async { Twin::connect(&rig, To::ApiServer, Protocol::Http1).await.ask(SERVICES, &[JSON]).await });
    let listed: serde_json::Value = serde_json::from_slice(&listed.body).unwrap();
    let version: u64 = listed["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    // Where the cache was too slow for a moment, the hub lists once more.
    let cache = &rig.hub().cache;
    eventually("all events are kept", || (cache.newest() == version && cache.stale.is_empty()).then_some(()));
    rig.upstream.cut();
    rig.is_down();
    let kept = rig.get(SERVICES, &[JSON]);
    assert!(kept.header("weir-cache").is_some());
    assert_eq!(kept.json(), listed);
}
