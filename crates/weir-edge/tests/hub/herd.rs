//! Many watches when the link comes back: they go on one after the other, and nobody lists.
use super::{
    hub::{JSON, Rig},
    twin::{Protocol, To, Twin},
    upstream::{SERVICES, Seen},
};
use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::json;
use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};
use weir_test::eventually;

const WATCHES: usize = 200;

/// Watches as clients do: where a watch ends, the next one goes on. Returns once an event has this text.
async fn follow(rig: &Rig, from: u64, until: &[u8], cached: &AtomicUsize, lists: &AtomicUsize) {
    loop {
        let mut twin = Twin::connect(rig, To::Hub, Protocol::Http1).await;
        let path = format!("{SERVICES}?watch=1&resourceVersion={from}");
        // Where the link ends before the head of an answer is sent, there is none.
        let Ok(response) = twin.open(&path, &[JSON]).await else { continue };
        if response.status() == StatusCode::GONE {
            lists.fetch_add(1, SeqCst);
            return;
        }
        assert_eq!(response.status(), StatusCode::OK);
        if response.headers().contains_key("weir-cache") {
            cached.fetch_add(1, SeqCst);
        }
        let (mut body, mut seen) = (response.into_body(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            seen.extend(frame.into_data().unwrap());
            if seen.windows(until.len()).any(|part| part == until) {
                return;
            }
        }
    }
}

async fn reached(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn two_hundred_watches_go_back_to_the_api_server_one_after_the_other() {
    let rig = Rig::with(|options| options.max_connections = 1000);
    let from = rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    eventually("the list is kept", || (rig.hub().cache.newest() == from).then_some(()));
    let (cached, lists) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let watches = join_all((0..WATCHES).map(|_| follow(&rig, from, b"\"b\"", &cached, &lists)));
    let cut = async {
        reached(|| rig.upstream.watches() == WATCHES).await;
        rig.upstream.cut();
        // All are answered from the cache.
        reached(|| !rig.hub().remote.is_up() && rig.hub().cache.watchers.count(None) == WATCHES).await;
        rig.upstream.put("b", json!({}));
        let mended = Instant::now();
        rig.upstream.mend();
        mended
    };
    let (_, mended) = rig.block_on(async { tokio::join!(watches, cut) });
    let after: Vec<Seen> = rig.upstream.seen().into_iter().filter(|seen| seen.path == SERVICES && seen.at >= mended).collect();
    let back: Vec<Instant> = after.iter().filter(|seen| seen.watches()).map(|seen| seen.at).collect();
    let spread = back.iter().max().unwrap().duration_since(*back.iter().min().unwrap());
    let listed = after.len() - back.len();
    println!("{} watches are back within {spread:?}, with {listed} lists", back.len());
    assert_eq!((back.len(), listed, lists.into_inner()), (WATCHES, 0, 0));
    assert!(cached.into_inner() >= WATCHES && spread >= Duration::from_secs(5), "{spread:?}");
}
