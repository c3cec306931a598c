//! Services and EndpointSlices: one list and one watch of the API server for all clients.
use super::{
    hub::{JSON, Rig, Watch, names, told},
    upstream::{SERVICES, Seen, status},
};
use serde_json::json;
use weir_edge::apimachinery::request::GroupVersionResource;
use weir_test::eventually;

const IN_NAMESPACE: &str = "/api/v1/namespaces/default/services";
const READER: (&str, &str) = ("authorization", "Bearer reader");
/// The API server of these tests forbids everything to it.
const NOBODY: (&str, &str) = ("authorization", "Bearer nobody");

fn rig() -> Rig {
    Rig::with(|options| options.pool_scope_resources = vec![GroupVersionResource::read("v1/services").unwrap()])
}

fn watch(rig: &Rig, query: &str, headers: &[(&str, &str)]) -> Watch {
    rig.watch(&format!("{SERVICES}?watch=1&{query}"), headers)
}

fn lists(seen: &Seen) -> bool {
    seen.is_list_of_hub()
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[test]
fn twenty_clients_have_one_watch_of_the_api_server_and_see_what_they_ask_for() {
    let rig = rig();
    rig.upstream.put("a", json!({ "app": "web" }));
    let from = rig.upstream.put("b", json!({}));
    // The newest state, any state, a streaming list, a version; the node and a token; all and some.
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut all: Vec<Watch> = Vec::new();
    for query in ["", "resourceVersion=0", initial, &format!("resourceVersion={from}"), &format!("{initial}&resourceVersion=0")] {
        for headers in [&[][..], &[READER], &[("user-agent", "kube-proxy")]] {
            let mut watch = watch(&rig, query, headers);
            if !query.contains(&from.to_string()) {
                assert_eq!(told(&watch.until("\"b\"")), [event("ADDED", "a"), event("ADDED", "b")], "{query}");
            }
            if query.contains("Initial") {
                let mark = watch.until("initial-events-end").pop().unwrap();
                assert_eq!(mark["object"]["metadata"]["resourceVersion"], from.to_string(), "{query}");
            }
            all.push(watch);
        }
    }
    all.push(rig.watch(&format!("{IN_NAMESPACE}?watch=1&resourceVersion={from}"), &[]));
    all.push(watch(&rig, &format!("resourceVersion={from}&labelSelector=!legacy"), &[]));
    let mut web: Vec<Watch> = (0..2).map(|_| watch(&rig, "resourceVersion=0&labelSelector=app%3Dweb", &[])).collect();
    let mut elsewhere = rig.watch("/api/v1/namespaces/default/services?watch=1&resourceVersion=0&labelSelector=app%3Dnone", &[]);
    assert_eq!(all.len() + web.len() + 1, 20);
    rig.upstream.has_watches(1);
    web.iter_mut().for_each(|web| assert_eq!(told(&web.until("\"a\"")), [event("ADDED", "a")]));
    rig.upstream.put("c", json!({ "app": "web" }));
    rig.upstream.put("a", json!({}));
    rig.upstream.put("b", json!({ "app": "none" }));
    let last = rig.upstream.delete("c");
    let end = format!("\"{last}\"");
    for watch in &mut all {
        let seen = told(&watch.until(&end));
        assert_eq!(seen, [event("ADDED", "c"), event("MODIFIED", "a"), event("MODIFIED", "b"), event("DELETED", "c")]);
    }
    // Objects enter and leave what some have selected.
    for web in &mut web {
        assert_eq!(told(&web.until(&end)), [event("ADDED", "c"), event("DELETED", "a"), event("DELETED", "c")]);
    }
    assert_eq!(told(&elsewhere.until("\"b\"")), [event("ADDED", "b")]);
    assert_eq!((rig.upstream.watches(), rig.upstream.count(Seen::watches), rig.hub().share.followed().len()), (1, 1, 1));
    // Bookmarks reach those who want them.
    let bookmark = format!("\"{}\"", rig.upstream.bookmark());
    let marked = all[6].until(&bookmark);
    assert_eq!((marked.len(), marked[0]["type"].as_str()), (1, Some("BOOKMARK")));
    // Lists of any state or one that is new enough come from the set, the newest one from the API server.
    let before = rig.upstream.seen().len();
    for query in ["resourceVersion=0", "resourceVersion=0&limit=1", &format!("resourceVersion={last}&resourceVersionMatch=NotOlderThan")] {
        assert_eq!(rig.names(&format!("{SERVICES}?{query}"), &[JSON]), ["a", "b"], "{query}");
    }
    assert_eq!(rig.names(&format!("{SERVICES}?resourceVersion=0&labelSelector=app"), &[JSON]), ["b"]);
    assert!(rig.upstream.seen()[before..].iter().all(|seen| seen.path != SERVICES));
    let newest = rig.get(SERVICES, &[JSON]);
    assert!(newest.header("weir-cache").is_none() && names(&newest) == ["a", "b"]);
    // A version that is gone.
    let mut expired = rig.open();
    let answer = expired.request("GET", "hub", &format!("{SERVICES}?watch=1&resourceVersion=7"), &[JSON], b"").unwrap();
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (410, Some("Expired")), "{answer:?}");
}

#[test]
fn shared_lists_are_only_for_those_who_may_read_them_also_without_the_api_server() {
    let mut rig = rig();
    rig.upstream.put("a", json!({}));
    watch(&rig, "resourceVersion=0", &[READER]).until("\"a\"");
    let path = format!("{SERVICES}?resourceVersion=0");
    let refused = |rig: &Rig, path: &str| {
        let answer = rig.get(path, &[JSON, NOBODY]);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (403, Some("Forbidden")), "{path}: {answer:?}");
        answer
    };
    let watched = format!("{SERVICES}?watch=1&resourceVersion=0");
    let online: Vec<_> = [&path, &watched].map(|path| refused(&rig, path)).into();
    assert!(online.iter().all(|answer| answer.header("weir-cache").is_none()));
    // Allowed to one, it is known to have been asked for this one only.
    assert_eq!(rig.names(&path, &[JSON, READER]), ["a"]);
    rig.upstream.cut();
    rig.is_down();
    for round in 0..2 {
        for (path, online) in [&path, &watched].into_iter().zip(&online) {
            let offline = refused(&rig, path);
            assert_eq!((&offline.body, offline.header("weir-cache")), (&online.body, Some("hit")), "{round}");
        }
        assert_eq!(rig.names(&path, &[JSON, READER]), ["a"]);
        watch(&rig, "", &[READER]).until("\"a\"");
        let one = rig.get(&format!("{IN_NAMESPACE}/a"), &[JSON, READER]);
        assert_eq!((one.status, one.json()["metadata"]["name"].as_str()), (200, Some("a")));
        assert_eq!(rig.get(&format!("{IN_NAMESPACE}/a"), &[JSON, NOBODY]).status, 503);
        // Nobody has asked for this one.
        assert_eq!(rig.get(&path, &[JSON, ("authorization", "Bearer other")]).status, 503);
        rig.stop_hub();
        rig.start_hub();
        rig.is_down();
    }
}

#[test]
fn a_shared_watch_stays_open_over_a_cut_and_goes_on_without_a_list() {
    let rig = rig();
    rig.upstream.put("a", json!({}));
    let mut clients: Vec<Watch> = (0..5).map(|_| watch(&rig, "resourceVersion=0&allowWatchBookmarks=true", &[])).collect();
    clients.iter_mut().for_each(|client| drop(client.until("\"a\"")));
    assert_eq!(rig.upstream.count(lists), 1);
    rig.upstream.cut();
    rig.is_down();
    rig.upstream.put("b", json!({}));
    // One that begins without the API server.
    let mut late = watch(&rig, "resourceVersion=0", &[]);
    assert_eq!(told(&late.until("\"a\"")), [event("ADDED", "a")]);
    rig.upstream.mend();
    clients.push(late);
    for client in &mut clients {
        assert_eq!(told(&client.until("\"b\"")), [event("ADDED", "b")]);
    }
    assert_eq!((rig.upstream.count(lists), rig.upstream.watches()), (1, 1));
    // A version that is too old for the API server: it is listed again, and clients see the difference.
    rig.upstream.put("gone", json!({}));
    clients.iter_mut().for_each(|client| drop(client.until("\"gone\"")));
    rig.upstream.quietly(|upstream| {
        upstream.delete("gone");
        upstream.put("a", json!({ "new": "yes" }));
        upstream.put("c", json!({}));
    });
    rig.upstream.expire();
    for client in &mut clients {
        let mut seen = told(&client.until("\"c\""));
        seen.retain(|(kind, _)| kind != "BOOKMARK");
        assert_eq!(seen, [event("DELETED", "gone"), event("MODIFIED", "a"), event("ADDED", "c")]);
    }
    assert_eq!(rig.upstream.count(lists), 2);
    rig.upstream.has_watches(1);
}

#[test]
fn where_the_node_may_not_watch_the_token_of_a_client_does() {
    let rig = rig();
    rig.upstream.put("a", json!({}));
    // Node authorization lets nodes read no EndpointSlices, for one.
    rig.upstream.script(|seen| (seen.is_list_of_hub() && seen.token.is_empty()).then(|| status(403, "Forbidden", "not for nodes")));
    let mut client = watch(&rig, "resourceVersion=0", &[READER]);
    client.until("\"a\"");
    let list = rig.upstream.seen().into_iter().filter(lists).map(|seen| seen.token).collect::<Vec<_>>();
    assert_eq!(list.last().map(String::as_str), Some("reader"), "{list:?}");
    let watches = || rig.upstream.seen().into_iter().filter(Seen::watches).map(|seen| (seen.token, seen.agent)).collect::<Vec<_>>();
    eventually("one watch", || (watches() == [("reader".to_string(), "weir-edge".to_string())]).then_some(()));
    rig.upstream.put("b", json!({}));
    client.until("\"b\"");
}

#[test]
fn a_client_that_never_reads_holds_nobody_back() {
    let rig = rig();
    rig.upstream.put("a", json!({}));
    let slow = watch(&rig, "resourceVersion=0", &[]);
    let mut quick = watch(&rig, "resourceVersion=0", &[]);
    quick.until("\"a\"");
    // More than sockets, queues and the remembered changes hold.
    let filler = "x".repeat(100_000);
    for i in 0..600 {
        rig.upstream.put(&format!("n{i}"), json!({ "filler": filler }));
        quick.until(&format!("\"n{i}\""));
    }
    // It is told so far, and no further; then it may go on where it was, or lists again.
    let seen = slow.rest();
    assert!(seen.contains("\"a\"") && !seen.contains("\"n599\""), "{} bytes", seen.len());
    assert_eq!(rig.upstream.watches(), 1);
}
