//! What a node writes without the API server: taken where that is honest, and sent later.
use super::hub::{Edge, JSON, Link, prepare};
use crate::harness::Kube;
use serde_json::{Value, json};
use weir_test::client::Answer;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const PLAIN: (&str, &str) = ("content-type", "application/json");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const STRATEGIC: (&str, &str) = ("content-type", "application/strategic-merge-patch+json");

fn send(edge: &Edge, method: &str, path: &str, content_type: (&str, &str), body: &Value) -> Answer {
    edge.request(method, path, &[JSON, content_type], body.to_string().as_bytes())
}

/// The answer was made in place of the API server.
#[track_caller]
fn queued(answer: Answer) -> Value {
    assert_eq!((answer.status / 100, answer.header("weir-cache")), (2, Some("queued")), "{answer:?}");
    answer.json()
}

fn lease(renewed: u32) -> Value {
    let spec =
        json!({ "holderIdentity": "rig-node", "leaseDurationSeconds": 40, "renewTime": format!("2026-11-28T02:04:38.{renewed:06}Z") });
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "rig-node", "namespace": "kube-node-lease" }, "spec": spec })
}

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" }, "count": 1, "message": "m",
        "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" }, "reason": "Started", "type": "Normal",
    })
}

/// How often the API server was asked for a write that it made.
fn writes(kube: &Kube, verb: &str, path: &str) -> usize {
    let made = |line: &&String| {
        let line: Value = serde_json::from_str(line).unwrap();
        let code = line["responseStatus"]["code"].as_u64().unwrap_or_default();
        line["verb"] == verb && line["requestURI"].as_str().is_some_and(|uri| uri.split('?').next() == Some(path)) && code < 300
    };
    kube.audit().iter().filter(made).count()
}

#[test]
fn the_lease_and_events_are_taken_without_the_api_server_and_sent_later() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    let own = format!("{LEASES}/rig-node");
    let created = send(&edge, "POST", LEASES, PLAIN, &lease(1));
    assert_eq!((created.status, created.header("weir-cache")), (201, None), "{created:?}");
    let online = send(&edge, "POST", EVENTS, PLAIN, &event("online"));
    assert_eq!(online.status, 201, "{online:?}");
    link.cut();
    // The Lease is read as it was last written.
    let renew = |edge: &Edge, renewed: u32| {
        let mut lease = lease(renewed);
        lease["metadata"]["resourceVersion"] = created.json()["metadata"]["resourceVersion"].clone();
        send(edge, "PUT", &own, PLAIN, &lease)
    };
    assert_eq!(edge.get(&own, &[JSON]).json()["spec"], lease(1)["spec"]);
    for renewed in [2, 3] {
        queued(renew(&edge, renewed));
        assert_eq!(edge.get(&own, &[JSON]).json()["spec"], lease(renewed)["spec"]);
    }
    let patched = queued(send(&edge, "PATCH", &own, MERGE, &json!({ "spec": { "leaseDurationSeconds": 50 } })));
    assert_eq!((&patched["spec"]["leaseDurationSeconds"], &patched["spec"]["renewTime"]), (&json!(50), &lease(3)["spec"]["renewTime"]));
    // Events have their names; one of a name is enough, and repetitions count.
    for name in ["a", "b", "c"] {
        assert_eq!(queued(send(&edge, "POST", EVENTS, PLAIN, &event(name)))["metadata"]["name"], name);
    }
    let again = send(&edge, "POST", EVENTS, PLAIN, &event("a"));
    assert_eq!((again.status, again.json()["reason"].as_str()), (409, Some("AlreadyExists")), "{again:?}");
    for count in [2, 3] {
        queued(send(&edge, "PATCH", &format!("{EVENTS}/b"), STRATEGIC, &json!({ "count": count })));
        queued(send(&edge, "PATCH", &format!("{EVENTS}/online"), STRATEGIC, &json!({ "count": count })));
    }
    queued(send(&edge, "PATCH", &format!("{EVENTS}/expired"), STRATEGIC, &json!({ "count": 2 })));
    // The hub ends at any time. What it had sent by then it sends once more: `c` stands for that.
    edge.kill();
    kube.apply(&event("c").to_string());
    let edge = Edge::start(&kube, &link, cache.path());
    edge.says("waiting to be sent: 5 writes");
    for renewed in [4, 5] {
        queued(renew(&edge, renewed));
    }
    queued(send(&edge, "POST", EVENTS, PLAIN, &event("d")));
    link.mend();
    edge.says("what was written without the API server has been sent: 7");
    edge.says("/events/expired is gone");
    assert_eq!(kube.object(&own).unwrap()["spec"], lease(5)["spec"]);
    assert_eq!(writes(&kube, "patch", &own), 1);
    let counts = [("a", 1), ("b", 3), ("c", 1), ("d", 1), ("online", 3)];
    for (name, count) in counts {
        assert_eq!(kube.object(&format!("{EVENTS}/{name}")).unwrap()["count"], count, "{name}");
    }
    assert_eq!(writes(&kube, "create", EVENTS), 4);
    // A renewal that is older than that of the API server is not sent.
    link.cut();
    queued(renew(&edge, 4));
    link.mend();
    edge.says("what was written without the API server has been sent: 1");
    assert_eq!(kube.object(&own).unwrap()["spec"], lease(5)["spec"]);
}
