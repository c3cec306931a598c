use super::*;
use crate::{
    apimachinery::{list::List, media::MediaType},
    body::{BodyError, streamed},
    cache::{Limits, Outcome, key::SetKey},
    store::{Options, Store},
};
use http::{Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use std::{path::Path, sync::Arc};

fn cache(folder: &Path) -> Arc<Cache> {
    let store = Arc::new(Store::open(folder, Options::default()).unwrap());
    Cache::new("system:node:n", store, Limits::default(), tokio::runtime::Handle::current())
}

fn key(media: MediaType) -> SetKey {
    let request = crate::apimachinery::request::RequestInfo::read(&http::Method::GET, "/api/v1/configmaps", None);
    let crate::apimachinery::request::RequestInfo::Resource(request) = request else { panic!() };
    SetKey::of("system:node:n", &request, media).unwrap()
}

async fn fill(cache: &Arc<Cache>, media: MediaType, body: &[u8], size: usize) -> Outcome {
    let pieces: Vec<_> = body.chunks(size).map(|piece| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let mut response = Response::new(streamed(StreamBody::new(futures_util::stream::iter(pieces))));
    response.headers_mut().insert(header::CONTENT_TYPE, media.content_type(false).parse().unwrap());
    cache.fill_list(key(media), media, false, response).await
}

/// The objects of a set.
fn kept(cache: &Cache, media: MediaType) -> Vec<Bytes> {
    cache.store.list(&key(media).name()).unwrap().unwrap().items.into_iter().map(|(_, bytes)| bytes).collect()
}

/// The objects of a list that lies there whole.
fn whole(body: &[u8], media: MediaType) -> Vec<Bytes> {
    let list = List::split(&Bytes::copy_from_slice(body), media.encoding).unwrap();
    let items: BTreeMap<_, _> =
        list.items.iter().map(|item| (format!("{}/{}", item.meta.namespace, item.meta.name), list.head.whole(item))).collect();
    items.into_values().collect()
}

#[tokio::test]
async fn lists_in_pieces_are_kept_as_whole_ones_are() {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (name, accept) in [
        ("configmaps.json", "application/json"),
        ("configmaps.pb", "application/vnd.kubernetes.protobuf"),
        ("things.json", "application/json"),
        ("things-none.json", "application/json"),
        ("configmaps.table.json", table),
        ("empty.table.json", table),
        ("empty.json", "application/json"),
        ("empty.pb", "application/vnd.kubernetes.protobuf"),
    ] {
        let body = std::fs::read(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let media = MediaType::accepted([accept]).unwrap()[0];
        for size in [1, 100, body.len()] {
            let folder = tempfile::tempdir().unwrap();
            let cache = cache(folder.path());
            for _ in 0..2 {
                assert_eq!(fill(&cache, media, &body, size).await, Outcome::Kept, "{name} {size}");
                assert_eq!(kept(&cache, media), whole(&body, media), "{name} {size}");
            }
            // What breaks off changes nothing.
            for broken in [&body[..body.len() / 2], b"", b"[]", b"{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":7}"]
            {
                assert_eq!(fill(&cache, media, broken, size).await, Outcome::Missed, "{name} {size}");
            }
            assert_eq!(kept(&cache, media), whole(&body, media), "{name} {size}");
        }
    }
}

#[tokio::test]
async fn a_list_takes_the_place_of_the_one_before_whatever_they_share() {
    let media = MediaType::accepted(["application/json"]).unwrap()[0];
    let list = |version: u64, objects: &[(&str, u64)]| {
        let item = |(name, version): &(&str, u64)| {
            format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"d","resourceVersion":"{version}"}},"data":{{"x":"{}"}}}}"#,
                "y".repeat(300)
            )
        };
        let items: Vec<String> = objects.iter().map(item).collect();
        format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#,
            items.join(",")
        )
    };
    let lists: [&[(&str, u64)]; 8] = [
        &[("a", 1), ("b", 1), ("c", 1)],
        &[("a", 1), ("b", 2), ("c", 1), ("d", 1)],
        &[("a", 1), ("c", 1), ("d", 1)],
        &[("c", 1), ("d", 2)],
        &[],
        &[("a", 3)],
        &[("a", 3), ("b", 3)],
        &[("b", 3)],
    ];
    for remembers in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let set = key(media).name();
        if remembers {
            cache.watchers.remember(&set, None);
        }
        for (version, objects) in (10..).zip(lists) {
            let body = list(version, objects);
            for _ in 0..2 {
                assert_eq!(fill(&cache, media, body.as_bytes(), 64).await, Outcome::Kept);
                assert_eq!(kept(&cache, media), whole(body.as_bytes(), media), "{version}");
                assert_eq!(cache.head(&set).unwrap().resource_version, version.to_string());
            }
        }
        if remembers {
            let (changes, _) = cache.watchers.subscribe_after(&set, 10).unwrap();
            let told: Vec<(u64, String)> = changes.iter().map(|change| (change.version.unwrap(), change.kind.to_string())).collect();
            let wanted = [
                (11, "MODIFIED"),
                (11, "ADDED"),
                (12, "DELETED"),
                (13, "DELETED"),
                (13, "MODIFIED"),
                (14, "DELETED"),
                (14, "DELETED"),
                (15, "ADDED"),
                (16, "ADDED"),
                (17, "DELETED"),
            ];
            assert_eq!(told, wanted.map(|(version, kind)| (version, kind.to_string())));
        }
    }
}
