//! What waits behind a write that the API server never takes.
use super::{
    hub::{JSON, Rig},
    upstream::{reply, status},
};
use http::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;
use weir_edge::body::full;
use weir_test::eventually;

const EVENTS: &str = "/api/v1/namespaces/default/events";

#[test]
fn a_write_that_the_api_server_never_takes_makes_way() {
    let rig = Rig::with(|options| options.outbox.retry_timeout = Duration::ZERO);
    rig.upstream.cut();
    rig.is_down();
    for name in ["stuck", "other"] {
        let event = json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" } }).to_string();
        let headers = [JSON, ("content-type", "application/json")];
        let answer = rig.open().request("POST", "hub", EVENTS, &headers, event.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.header("weir-cache")), (201, Some("queued")), "{answer:?}");
    }
    rig.upstream.script(|seen| {
        let event = seen.path == EVENTS && seen.method == Method::POST;
        event.then(|| match seen.body.windows(5).any(|part| part == b"stuck") {
            true => status(500, "InternalError", "no"),
            false => reply(StatusCode::CREATED, full("{}")),
        })
    });
    rig.upstream.mend();
    let waits = || rig.hub().writes.outbox.events.items().into_iter().map(|(_, path, ..)| path).collect::<Vec<_>>();
    eventually("the other one is sent", || (waits() == [format!("{EVENTS}/stuck")]).then_some(()));
    assert!(rig.upstream.count(|seen| seen.path == EVENTS) >= 2);
}
