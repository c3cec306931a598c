//! Links that fail in different ways.
use super::{
    hub::{JSON, Rig, names},
    upstream::{Reset, SERVICES},
};
use http::Response;
use serde_json::json;
use std::time::{Duration, Instant};
use weir_test::eventually;

#[test]
fn a_hub_that_starts_in_front_of_a_black_hole_answers_what_is_kept_at_once() {
    let mut rig = Rig::start();
    rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    eventually("the list is kept", || (rig.hub().cache.kept().0 == 1).then_some(()));
    rig.stop_hub();
    rig.upstream.black_hole();
    rig.start_hub();
    // The connection may take a minute: the answer did not wait for it.
    let began = Instant::now();
    let kept = rig.get(SERVICES, &[JSON]);
    assert_eq!(names(&kept), ["a"]);
    assert!(kept.header("weir-cache").is_some() && began.elapsed() < Duration::from_secs(30));
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
    watch.until("\"a\"");
    assert!(rig.hub().remote.is_up() && !rig.hub().remote.is_proven());
    // What nobody has kept waits for the API server, as does what it finds out.
    rig.upstream.mend();
    let version = rig.upstream.put("b", json!({})).to_string();
    let fresh =
        eventually("the API server answers", || Some(rig.get(SERVICES, &[JSON])).filter(|list| list.header("weir-cache").is_none()));
    assert_eq!(
        (names(&fresh), fresh.json()["metadata"]["resourceVersion"].as_str()),
        (vec!["a".into(), "b".into()], Some(version.as_str()))
    );
    watch.rest();
}

#[test]
fn a_stream_that_is_reset_does_not_take_the_link_down() {
    let rig = Rig::start();
    rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    // All of them, those of probes among them.
    rig.upstream.script(|_| {
        let mut response = Response::new(weir_edge::body::empty());
        response.extensions_mut().insert(Reset);
        Some(response)
    });
    for _ in 0..5 {
        let answer = rig.get("/api/v1/secrets", &[JSON]);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("ServiceUnavailable")), "{answer:?}");
        assert!(rig.hub().remote.is_up() && rig.hub().remote.is_proven());
    }
    // What was kept is answered meanwhile.
    let kept = rig.get(SERVICES, &[JSON]);
    assert!(kept.header("weir-cache").is_some() && names(&kept) == ["a"], "{kept:?}");
    rig.upstream.behave();
    let fresh = rig.get(SERVICES, &[JSON]);
    assert!(fresh.header("weir-cache").is_none() && names(&fresh) == ["a"], "{fresh:?}");
    assert_eq!(rig.upstream.connections(), 1);
}
