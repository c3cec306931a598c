//! What could not be kept beside a client is listed again by the hub.
use super::{
    hub::{JSON, Rig},
    upstream::{SERVICES, Seen},
};
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;
use weir_edge::cache::Limits;
use weir_test::eventually;

fn lists(seen: &Seen) -> bool {
    seen.is_list_of_hub()
}

#[test]
fn a_watch_that_cannot_be_read_reaches_its_client_and_its_list_is_made_again() {
    let mut rig = Rig::start();
    rig.upstream.put("a", json!({}));
    let list = rig.get(SERVICES, &[JSON]);
    let from = list.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion={from}"), &[]);
    rig.upstream.put("b", json!({}));
    watch.until("\"b\"");
    // The client gets it as it is. The cache cannot read it, and misses what follows.
    rig.upstream.send("{\"type\":\"NONSENSE\"}\n");
    assert_eq!(watch.until("NONSENSE").last().unwrap()["type"], "NONSENSE");
    rig.upstream.put("c", json!({}));
    watch.until("\"c\"");
    eventually("the list is made again", || (rig.upstream.count(lists) == 1).then_some(()));
    let asked = rig.upstream.seen().into_iter().find(lists).unwrap();
    assert_eq!((asked.token.as_str(), asked.parameter("resourceVersionMatch").as_deref()), ("", Some("NotOlderThan")));
    // The hub follows it in place of the client's watch, and no longer than that.
    rig.upstream.has_watches(2);
    rig.upstream.put("d", json!({}));
    watch.until("\"d\"");
    eventually("one relist", || (rig.hub().cache.stats.relists.load(Relaxed) == 1).then_some(()));
    drop(watch);
    rig.upstream.has_watches(0);
    // All of it is there without the API server, also after a restart.
    rig.upstream.cut();
    for round in 0..2 {
        rig.stop_hub();
        rig.start_hub();
        rig.is_down();
        let kept = rig.get(SERVICES, &[JSON]);
        assert!(kept.header("weir-cache").is_some(), "{round}: {kept:?}");
        assert_eq!(super::hub::names(&kept), ["a", "b", "c", "d"]);
    }
}

#[test]
fn lists_that_overflow_are_made_again_with_the_rights_of_their_client() {
    // Nothing may wait for the cache: every copy is given up.
    let rig = Rig::with(|options| options.limits = Limits { waiting: 0, ..Limits::default() });
    rig.upstream.put("a", json!({}));
    let token = ("authorization", "Bearer reader");
    // The first answer makes the token known.
    for _ in 0..2 {
        assert_eq!(rig.names(SERVICES, &[JSON, token]), ["a"]);
    }
    eventually("the list of the token", || rig.upstream.seen().into_iter().find(|seen| lists(seen) && seen.token == "reader"));
    eventually("it is kept", || (rig.hub().cache.stats.relists.load(Relaxed) >= 1).then_some(()));
    assert!(rig.hub().cache.stats.overflows.load(Relaxed) >= 1);
    assert_eq!(rig.upstream.count(|seen| lists(seen) && seen.token != "reader"), 0);
    // A list that the API server refuses is not asked for again and again.
    rig.upstream.script(|seen| lists(seen).then(|| super::upstream::status(403, "Forbidden", "no")));
    let failed = || rig.hub().cache.stats.failed_relists.load(Relaxed);
    let other = ("authorization", "Bearer other");
    assert_eq!(rig.names(SERVICES, &[JSON, other]), ["a"]);
    eventually("it is refused", || (failed() == 1).then_some(()));
    eventually("nothing waits", || rig.hub().cache.stale.is_empty().then_some(()));
}
