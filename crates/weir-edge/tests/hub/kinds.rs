//! Kinds that this program does not know, and objects as large as they may be.
use super::{
    hub::{JSON, Rig},
    twin::{Protocol, To, Twin},
    upstream::{SERVICES, reply},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use weir_edge::{
    apimachinery::{
        event::{EventKind, encode},
        list::ListHead,
        media::Encoding,
        object::{Envelope, Object},
        wire::put_bytes,
    },
    body::{BodyError, full, streamed},
};
use weir_test::eventually;

const THINGS: &str = "/apis/unknown.test/v1/namespaces/default/things";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
    out
}

/// An object of which only the metadata can be read.
fn thing(name: &str, version: u64) -> Bytes {
    let version = version.to_string();
    let metadata = message(&[(1, name.as_bytes()), (3, b"default"), (6, version.as_bytes())]);
    Envelope::wrap("unknown.test/v1", "Thing", &message(&[(1, &metadata), (77, b"\x00\xff"), (2, version.as_bytes())]))
}

fn list(things: &[Bytes], version: u64) -> Bytes {
    let model = Object::read(things[0].clone(), Encoding::Protobuf).unwrap();
    ListHead::of_objects(&model, &version.to_string()).unwrap().assemble(things).unwrap().concat().into()
}

#[test]
fn a_kind_that_nobody_knows_is_kept_in_protobuf() {
    let mut rig = Rig::start();
    let first = list(&[thing("a", 5), thing("b", 6)], 10);
    let events: Vec<Bytes> = [(EventKind::Modified, "a", 11), (EventKind::Added, "c", 12), (EventKind::Deleted, "b", 13)]
        .map(|(kind, name, version)| encode(kind, &thing(name, version), Encoding::Protobuf).unwrap())
        .into();
    let watched: Bytes = events.concat().into();
    rig.upstream.script({
        let first = first.clone();
        move |seen| {
            (seen.path == THINGS).then(|| {
                let frames = stream::iter(events.clone()).map(|event| Ok::<_, BodyError>(Frame::data(event))).chain(stream::pending());
                let (body, media) = match seen.watches() {
                    true => (streamed(StreamBody::new(frames)), "application/vnd.kubernetes.protobuf;stream=watch"),
                    false => (full(first.clone()), PROTOBUF),
                };
                let mut response = reply(StatusCode::OK, body);
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
                response
            })
        }
    });
    let ask =
        |rig: &Rig| rig.block_on(async { Twin::connect(rig, To::Hub, Protocol::Http2).await.ask(THINGS, &[("accept", PROTOBUF)]).await });
    assert_eq!(ask(&rig).body, first);
    eventually("the list is kept", || (rig.hub().cache.newest() == 10).then_some(()));
    let seen = rig.block_on(async {
        let mut twin = Twin::connect(&rig, To::Hub, Protocol::Http2).await;
        let mut body = twin.open(&format!("{THINGS}?watch=1&resourceVersion=10"), &[("accept", PROTOBUF)]).await.unwrap().into_body();
        let mut seen = Vec::new();
        while seen.len() < watched.len() {
            seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        seen
    });
    assert_eq!(seen, watched);
    eventually("the events are kept", || (rig.hub().cache.newest() == 13).then_some(()));
    rig.upstream.cut();
    for _ in 0..2 {
        rig.is_down();
        let kept = ask(&rig);
        assert_eq!(kept.body, list(&[thing("a", 11), thing("c", 12)], 13));
        assert!(kept.headers.contains(&("content-type".to_string(), PROTOBUF.into())), "{:?}", kept.headers);
        rig.stop_hub();
        rig.start_hub();
    }
}

#[test]
fn an_object_of_fifteen_megabytes_is_watched_and_kept() {
    let rig = Rig::start();
    let from = rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    eventually("the list is kept", || (rig.hub().cache.newest() == from).then_some(()));
    let size = 15 << 20;
    let (seen, version) = rig.block_on(async {
        let mut twin = Twin::connect(&rig, To::Hub, Protocol::Http1).await;
        let path = format!("{SERVICES}?watch=1&resourceVersion={from}");
        let mut body = twin.open(&path, &[JSON]).await.unwrap().into_body();
        let version = rig.upstream.put("big", json!({ "size": "x".repeat(size) }));
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n") {
            seen.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        (seen, version)
    });
    let event: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(event["object"]["metadata"]["labels"]["size"].as_str().unwrap().len(), size);
    // The event is more than may wait of a watch; then the hub lists.
    let cache = &rig.hub().cache;
    eventually("it is kept", || (cache.newest() == version && cache.stale.is_empty()).then_some(()));
    rig.upstream.cut();
    rig.is_down();
    let kept = rig.get("/api/v1/namespaces/default/services/big", &[JSON]);
    assert!(kept.header("weir-cache").is_some() && kept.json() == event["object"], "{}", kept.status);
}

#[test]
fn openapi_is_kept_in_its_own_media_type() {
    const MEDIA: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    let rig = Rig::start();
    let document = Bytes::from_static(b"\x0a\x00\xff");
    rig.upstream.script({
        let document = document.clone();
        move |seen| {
            (seen.path == "/openapi/v3/api/v1").then(|| {
                let mut response = reply(StatusCode::OK, full(document.clone()));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA));
                response
            })
        }
    });
    let ask = || {
        let path = "/openapi/v3/api/v1?hash=1";
        rig.block_on(async { Twin::connect(&rig, To::Hub, Protocol::Http1).await.ask(path, &[("accept", MEDIA)]).await })
    };
    assert_eq!(ask().body, document);
    eventually("it is kept", || (rig.hub().cache.stats.kept.load(Relaxed) == 1).then_some(()));
    rig.upstream.cut();
    rig.is_down();
    let kept = ask();
    assert_eq!((kept.status, kept.body), (StatusCode::OK, document));
    assert!(kept.headers.contains(&("content-type".to_string(), MEDIA.into())), "{:?}", kept.headers);
}
