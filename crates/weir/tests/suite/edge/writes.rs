//! What a node writes without the API server: taken where that is honest, and sent later.
use super::hub::{Edge, JSON, Link, PROTOBUF, prepare, until};
use crate::harness::{Kube, eventually};
use bytes::Bytes;
use serde_json::{Value, json};
use weir_edge::apimachinery::{object::Envelope, schema::LEASE_SPEC, wire::put_bytes};
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

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
    out
}

fn protobuf_lease(renewed: u32) -> Bytes {
    let mut spec = lease(renewed)["spec"].clone();
    spec["holderIdentity"] = "holder in protobuf".into();
    let metadata = message(&[(1, b"rig-node"), (3, b"kube-node-lease")]);
    Envelope::wrap("coordination.k8s.io/v1", "Lease", &message(&[(1, &metadata), (2, &LEASE_SPEC.encode(&spec).unwrap())]))
}

fn protobuf_event(name: &str) -> Bytes {
    let metadata = message(&[(1, name.as_bytes()), (3, b"default")]);
    let involved = message(&[(1, b"Pod"), (2, b"default"), (3, b"p")]);
    Envelope::wrap("v1", "Event", &message(&[(1, &metadata), (2, &involved), (3, b"Started"), (4, b"m"), (9, b"Normal")]))
}

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" }, "count": 1, "message": "m",
        "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" }, "reason": "Started", "type": "Normal",
    })
}

/// How often the API server was asked for a write that it made.
#[track_caller]
fn wrote(kube: &Kube, verb: &str, path: &str, wanted: usize) {
    let made = |line: &&String| {
        let line: Value = serde_json::from_str(line).unwrap();
        let code = line["responseStatus"]["code"].as_u64().unwrap_or_default();
        line["verb"] == verb && line["requestURI"].as_str().is_some_and(|uri| uri.split('?').next() == Some(path)) && code < 300
    };
    // The API server logs a write behind its answer.
    eventually(&format!("{wanted} writes of {path}"), || (kube.audit().iter().filter(made).count() == wanted).then_some(()));
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
    edge.kept(&own, JSON);
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
    // kubelet speaks protobuf; readers of JSON see what it wrote.
    let protobuf = ("content-type", "application/vnd.kubernetes.protobuf");
    let answer = edge.request("PUT", &own, &[PROTOBUF, protobuf], &protobuf_lease(3));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(protobuf.1)), "{answer:?}");
    assert!(edge.get(&own, &[PROTOBUF]).body.contains("holder in protobuf"));
    let holder = |answer: Answer| answer.json()["spec"]["holderIdentity"] == "holder in protobuf";
    eventually("the Lease in JSON", || holder(edge.get(&own, &[JSON])).then_some(()));
    let answer = edge.request("POST", EVENTS, &[PROTOBUF, protobuf], &protobuf_event("e"));
    assert_eq!((answer.status, answer.header("weir-cache")), (201, Some("queued")), "{answer:?}");
    queued(send(&edge, "PATCH", &format!("{EVENTS}/e"), STRATEGIC, &json!({ "count": 2 })));
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
    edge.says("waiting to be sent: 6 writes");
    for renewed in [4, 5] {
        queued(renew(&edge, renewed));
    }
    queued(send(&edge, "POST", EVENTS, PLAIN, &event("d")));
    link.mend();
    edge.says("what was written without the API server has been sent: 8");
    edge.says("/events/expired is gone");
    assert_eq!(kube.object(&own).unwrap()["spec"], lease(5)["spec"]);
    wrote(&kube, "patch", &own, 1);
    let counts = [("a", 1), ("b", 3), ("c", 1), ("d", 1), ("e", 2), ("online", 3)];
    for (name, count) in counts {
        assert_eq!(kube.object(&format!("{EVENTS}/{name}")).unwrap()["count"], count, "{name}");
    }
    wrote(&kube, "create", EVENTS, 5);
    // A renewal that is older than that of the API server is not sent.
    link.cut();
    queued(renew(&edge, 4));
    link.mend();
    edge.says("what was written without the API server has been sent: 1");
    assert_eq!(kube.object(&own).unwrap()["spec"], lease(5)["spec"]);
}

const NODE: &str = "/api/v1/nodes/rig-node";
const PODS: &str = "/api/v1/namespaces/default/pods";
const OF_NODE: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Drig-node";

/// As kubectl asks for the pods that a node still has to run.
const PENDING: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Drig-node,status.phase%3DPending";

fn pod(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default}}, spec: {{nodeName: rig-node, automountServiceAccountToken: false, containers: [{{name: c, image: i}}]}}}}"
    )
}

/// The node with pods, and another one of another node, all of them kept in both encodings.
fn with_pods(kube: &Kube, edge: &Edge, names: &[&str]) {
    kube.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}");
    kube.apply("{apiVersion: v1, kind: Node, metadata: {name: rig-node}}");
    names.iter().for_each(|name| kube.apply(&pod(name)));
    kube.apply(&pod("elsewhere").replace("nodeName: rig-node", "nodeName: other"));
    for path in [OF_NODE, "/api/v1/pods", "/api/v1/nodes?fieldSelector=metadata.name%3Drig-node", PENDING] {
        for accept in [JSON, PROTOBUF] {
            edge.kept(path, accept);
        }
    }
}

/// A list or object that was kept, once it was: that happens beside the client.
fn offline(edge: &Edge, path: &str, accept: (&str, &str)) -> Answer {
    let wanted = accept.1.split(',').next();
    eventually(path, || {
        let answer = edge.get(path, &[accept]);
        (answer.status == 200 && answer.header("weir-cache").is_some() && answer.header("content-type") == wanted).then_some(answer)
    })
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == name).unwrap_or_else(|| panic!("{name}: {list}"))
}

fn running(uid: &Value) -> Value {
    let conditions = json!([{ "type": "Ready", "status": "True" }]);
    json!({ "metadata": { "uid": uid }, "status": { "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{ "ip": "10.0.0.7" }], "conditions": conditions } })
}

#[test]
fn a_status_is_seen_at_once_and_after_a_restart_and_is_sent_later() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    with_pods(&kube, &edge, &["a", "b"]);
    link.cut();
    let list = offline(&edge, OF_NODE, JSON).json();
    offline(&edge, OF_NODE, PROTOBUF);
    for accept in [JSON, PROTOBUF] {
        offline(&edge, "/api/v1/pods", accept);
        offline(&edge, NODE, accept);
    }
    let uid = |name: &str| named(&list, name)["metadata"]["uid"].clone();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let open = format!("{OF_NODE}&watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    let mut watch = edge.watch(&open);
    // A list of pods in one phase: it leaves this one.
    assert_eq!(offline(&edge, PENDING, JSON).json()["items"].as_array().map(Vec::len), Some(2));
    let mut leaves = edge.watch(&format!("{PENDING}&watch=1"));
    until(&mut leaves, "\"name\":\"b\"");
    // As kubelet does it: a strategic merge patch, and protobuf as the answer.
    let own = format!("{PODS}/a/status");
    let answer = edge.request("PATCH", &own, &[PROTOBUF, STRATEGIC], running(&uid("a")).to_string().as_bytes());
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/vnd.kubernetes.protobuf")), "{answer:?}");
    assert!(answer.body.contains("Running") && answer.body.contains("10.0.0.7"));
    assert!(until(&mut leaves, "Running").starts_with("{\"type\":\"DELETED\""));
    let left = offline(&edge, PENDING, JSON).json();
    assert_eq!((named(&left, "b")["status"]["phase"].as_str(), left["items"].as_array().map(Vec::len)), (Some("Pending"), Some(1)));
    let seen = until(&mut watch, "BOOKMARK");
    let event: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["status"]["phase"]), (&json!("MODIFIED"), &json!("Running")), "{seen}");
    let local = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let before = named(&list, "a")["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(local, format!("0{before}"));
    assert!(seen.contains(&format!("\"resourceVersion\":\"{version}\"")), "{seen}");
    // A watch from the version of the list begins with what changed since then.
    until(&mut edge.watch(&open), "10.0.0.7");
    // The other ways to write a status; each change is another version.
    let merged = queued(send(&edge, "PATCH", &own, MERGE, &json!({ "status": { "message": "merged" } })));
    assert_eq!(merged["metadata"]["resourceVersion"], format!("00{before}"));
    let json_patch = ("content-type", "application/json-patch+json");
    let patch = json!([{ "op": "replace", "path": "/status/message", "value": "patched" }]);
    let mut whole = queued(send(&edge, "PATCH", &own, json_patch, &patch));
    whole["status"]["reason"] = "whole".into();
    let put = queued(send(&edge, "PUT", &own, PLAIN, &whole));
    assert_eq!((&put["status"]["message"], &put["status"]["reason"]), (&json!("patched"), &json!("whole")));
    let conflicts = [
        ("PUT", PLAIN, whole.clone()),
        ("PATCH", STRATEGIC, running(&json!("another"))),
        ("PATCH", MERGE, json!({ "metadata": { "resourceVersion": before }, "status": {} })),
    ];
    for (method, content_type, body) in conflicts {
        let answer = send(&edge, method, &own, content_type, &body);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (409, Some("Conflict")), "{method} {answer:?}");
    }
    let wrong = [
        ("PATCH", STRATEGIC, json!({ "status": { "conditions": [{ "status": "True" }] } }), 400, "BadRequest"),
        ("PATCH", json_patch, json!([{ "op": "test", "path": "/status/phase", "value": "Failed" }]), 422, "Invalid"),
        ("PATCH", PLAIN, json!({ "status": {} }), 503, "ServiceUnavailable"),
        ("PUT", ("content-type", "text/plain"), json!({}), 415, "UnsupportedMediaType"),
        ("PUT", PLAIN, json!([]), 400, "BadRequest"),
    ];
    for (method, content_type, body, code, reason) in wrong {
        let answer = send(&edge, method, &own, content_type, &body);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (code, Some(reason)), "{method} {answer:?}");
    }
    // The node's own status.
    let at = "2026-11-28T02:04:38Z";
    let ready = json!({
        "type": "Ready", "status": "False", "reason": "r", "message": "m", "lastHeartbeatTime": at, "lastTransitionTime": at,
    });
    queued(send(&edge, "PATCH", &format!("{NODE}/status"), STRATEGIC, &json!({ "status": { "conditions": [ready] } })));
    let check = |edge: &Edge| {
        for list in [OF_NODE, "/api/v1/pods"] {
            let pods = offline(edge, list, JSON).json();
            assert_eq!(named(&pods, "a")["status"], put["status"], "{list}");
            assert_eq!(named(&pods, "b")["status"]["phase"], "Pending", "{list}");
            assert_eq!(pods["metadata"]["resourceVersion"].as_str().map(|v| v.starts_with('0')), Some(false));
            assert!(offline(edge, list, PROTOBUF).body.contains("whole"), "{list}");
        }
        let pod = offline(edge, &format!("{PODS}/a"), JSON).json();
        assert_eq!((&pod["status"], &pod["metadata"]["resourceVersion"]), (&put["status"], &put["metadata"]["resourceVersion"]));
        assert_eq!(offline(edge, NODE, JSON).json()["status"]["conditions"], json!([ready]));
    };
    check(&edge);
    edge.kill();
    let edge = Edge::start(&kube, &link, cache.path());
    edge.says("waiting to be sent: 2 writes");
    check(&edge);
    link.mend();
    edge.says("what was written without the API server has been sent: 2");
    let sent = kube.object(&format!("{PODS}/a")).unwrap();
    for field in ["phase", "podIP", "podIPs", "message", "reason"] {
        assert_eq!(sent["status"][field], put["status"][field], "{field}");
    }
    assert_eq!(kube.object(NODE).unwrap()["status"]["conditions"], json!([ready]));
    wrote(&kube, "patch", &own, 1);
    wrote(&kube, "patch", &format!("{NODE}/status"), 1);
    // What was kept before still shows it when the link is cut again.
    link.cut();
    assert_eq!(named(&offline(&edge, OF_NODE, JSON).json(), "a")["status"]["reason"], "whole");
}

#[test]
fn what_changed_in_the_cloud_is_kept_beside_what_the_node_wrote() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    with_pods(&kube, &edge, &["deleted", "again", "drained", "shared", "refused"]);
    link.cut();
    let list = offline(&edge, OF_NODE, JSON).json();
    for name in ["deleted", "again", "drained", "shared"] {
        queued(send(&edge, "PATCH", &format!("{PODS}/{name}/status"), STRATEGIC, &running(&named(&list, name)["metadata"]["uid"])));
    }
    queued(send(&edge, "PATCH", &format!("{PODS}/refused/status"), STRATEGIC, &json!({ "status": { "podIPs": [{ "ip": "nonsense" }] } })));
    // Meanwhile in the cloud.
    let cloud = |method: &str, path: &str, content_type: &str, body: Value| {
        let answer = kube.api(method, path, content_type, body.to_string().as_bytes()).unwrap();
        assert_eq!(answer.status / 100, 2, "{answer:?}");
    };
    let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
    for name in ["deleted", "again"] {
        cloud("DELETE", &format!("{PODS}/{name}"), PLAIN.1, now.clone());
    }
    kube.apply(&pod("again"));
    cloud("DELETE", &format!("{PODS}/drained"), PLAIN.1, json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 30 }));
    let ours = json!([{ "type": "Ready", "status": "False", "reason": "NodeLost" }, { "type": "example.com/Gate", "status": "True" }]);
    cloud("PATCH", &format!("{PODS}/shared/status"), STRATEGIC.1, json!({ "status": { "conditions": ours, "reason": "NodeLost" } }));
    cloud("PATCH", &format!("{PODS}/shared"), MERGE.1, json!({ "metadata": { "labels": { "cloud": "1" } } }));
    link.mend();
    edge.says("what was written without the API server has been sent: 5");
    for name in ["deleted", "again"] {
        edge.says(&format!("{PODS}/{name} is gone: what was written of it without the API server is dropped"));
    }
    edge.says(&format!("the API server refuses what was written without it: PATCH {PODS}/refused/status: 422"));
    let pod = |name: &str| kube.object(&format!("{PODS}/{name}"));
    assert_eq!(pod("deleted"), None);
    assert_eq!(pod("again").unwrap()["status"]["phase"], "Pending");
    // A pod that is being deleted gets its status, and kubelet can end it.
    let drained = pod("drained").unwrap();
    assert_eq!((drained["metadata"]["deletionTimestamp"].is_string(), &drained["status"]["phase"]), (true, &json!("Running")));
    let end = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": { "uid": drained["metadata"]["uid"] } });
    assert_eq!(send(&edge, "DELETE", &format!("{PODS}/drained"), PLAIN, &end).status, 200);
    assert_eq!(pod("drained"), None);
    let shared = pod("shared").unwrap();
    let condition = |kind: &str| shared["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).cloned();
    let ready = condition("Ready").unwrap();
    assert_eq!((&ready["status"], ready.get("reason")), (&json!("True"), None), "{ready}");
    assert_eq!(condition("example.com/Gate").unwrap()["status"], "True");
    assert_eq!((&shared["status"]["reason"], &shared["metadata"]["labels"]["cloud"]), (&json!("NodeLost"), &json!("1")));
    assert_eq!(pod("refused").unwrap()["status"]["phase"], "Pending");
}

#[test]
fn everything_else_fails_until_the_api_server_can_be_reached() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    with_pods(&kube, &edge, &["a"]);
    link.cut();
    offline(&edge, OF_NODE, JSON);
    offline(&edge, NODE, JSON);
    let lease = lease(1);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "namespace": "default" }, "spec": {} });
    let node = |name: &str| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
    let status = json!({ "status": { "phase": "Running" } });
    let review = |kind: &str| json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {} });
    let nameless = json!({ "apiVersion": "v1", "kind": "Event", "metadata": { "generateName": "e-", "namespace": "default" } });
    let mut big = event("big");
    big["message"] = "x".repeat(70 << 10).into();
    let table = [
        // Of others than the node, and of its objects that were not kept.
        ("PUT", format!("{LEASES}/other"), PLAIN, lease.clone()),
        ("PATCH", format!("{LEASES}/other"), MERGE, json!({})),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases".into(), PLAIN, lease.clone()),
        ("DELETE", format!("{LEASES}/rig-node"), PLAIN, json!({})),
        ("PATCH", format!("{LEASES}/rig-node?dryRun=All"), MERGE, json!({})),
        ("PATCH", "/api/v1/nodes/other/status".into(), STRATEGIC, status.clone()),
        ("PATCH", format!("{PODS}/elsewhere/status"), STRATEGIC, status.clone()),
        ("PATCH", format!("{PODS}/unknown-here/status"), ("content-type", "application/apply-patch+yaml"), status.clone()),
        // Only the API server makes up names, and judges what an event is worth.
        ("POST", EVENTS.into(), PLAIN, nameless),
        ("POST", EVENTS.into(), PLAIN, big),
        ("PATCH", format!("{EVENTS}/x"), ("content-type", "application/json-patch+json"), json!([])),
        ("PUT", format!("{EVENTS}/x"), PLAIN, event("x")),
        ("DELETE", EVENTS.into(), PLAIN, json!({})),
        // Everything but status.
        ("POST", PODS.into(), PLAIN, pod.clone()),
        ("PUT", format!("{PODS}/a"), PLAIN, pod.clone()),
        ("PATCH", format!("{PODS}/a"), STRATEGIC, json!({ "metadata": { "labels": {} } })),
        ("DELETE", format!("{PODS}/a"), PLAIN, json!({})),
        ("DELETE", PODS.into(), PLAIN, json!({})),
        ("POST", format!("{PODS}/a/eviction"), PLAIN, json!({})),
        ("POST", format!("{PODS}/a/binding"), PLAIN, json!({})),
        ("PATCH", NODE.into(), STRATEGIC, json!({ "spec": { "unschedulable": true } })),
        ("DELETE", NODE.into(), PLAIN, json!({})),
        ("POST", "/api/v1/nodes".into(), PLAIN, node("other")),
        ("PATCH", "/apis/apps/v1/namespaces/default/deployments/d".into(), STRATEGIC, json!({ "spec": { "replicas": 2 } })),
        ("PATCH", "/apis/apps/v1/namespaces/default/deployments/d/status".into(), STRATEGIC, json!({ "status": {} })),
        ("PUT", "/api/v1/namespaces/default/configmaps/m".into(), PLAIN, json!({})),
        ("POST", "/api/v1/namespaces/default/secrets".into(), PLAIN, json!({})),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token".into(), PLAIN, json!({ "spec": {} })),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews".into(), PLAIN, review("TokenReview")),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews".into(), PLAIN, review("SubjectAccessReview")),
        ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests".into(), PLAIN, json!({})),
        ("POST", "/apis/example.com/v1/things".into(), PLAIN, json!({})),
    ];
    let check = |method: &str, path: &str, headers: &[(&str, &str)], body: &Value| {
        let answer = edge.request(method, path, headers, body.to_string().as_bytes());
        let status = answer.json();
        let found = (answer.status, status["kind"].as_str(), status["reason"].as_str(), status["code"].as_u64());
        assert_eq!(found, (503, Some("Status"), Some("ServiceUnavailable"), Some(503)), "{method} {path}: {answer:?}");
        assert_eq!(answer.header("retry-after"), Some(&*status["details"]["retryAfterSeconds"].to_string()), "{method} {path}");
    };
    for (method, path, content_type, body) in &table {
        check(method, path, &[JSON, *content_type], body);
    }
    // The same that the node may do, by somebody else.
    for header in [("authorization", "Bearer unknown"), ("impersonate-user", "other")] {
        check("PATCH", &format!("{PODS}/a/status"), &[JSON, STRATEGIC, header], &status);
        check("POST", EVENTS, &[JSON, PLAIN, header], &event("x"));
        check("PUT", &format!("{LEASES}/rig-node"), &[JSON, PLAIN, header], &lease);
    }
    // What is known not to be there, and what is known to be there.
    let answer = send(&edge, "PATCH", &format!("{PODS}/none/status"), STRATEGIC, &status);
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (404, Some("NotFound")), "{answer:?}");
    let answer = send(&edge, "POST", "/api/v1/nodes", PLAIN, &node("rig-node"));
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (409, Some("AlreadyExists")), "{answer:?}");
    let answer = edge.request("PATCH", &format!("{PODS}/a/status"), &[JSON, STRATEGIC], &vec![b' '; (3 << 20) + 1]);
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (413, Some("RequestEntityTooLarge")), "{answer:?}");
}

#[test]
fn a_thousand_events_arrive_once_however_often_the_hub_ends() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let flags = ["--outbox-event-qps", "1000"];
    let edge = Edge::with(&kube, &link, cache.path(), &flags);
    link.cut();
    let mut connection = edge.open();
    for i in 0..1000 {
        let body = event(&format!("e{i:04}")).to_string();
        queued(connection.request("POST", "hub", EVENTS, &[JSON, PLAIN], body.as_bytes()).unwrap());
    }
    link.mend();
    // They come in order.
    let arrived = |i: usize| eventually("an event", || kube.object(&format!("{EVENTS}/e{i:04}")));
    let mut edge = edge;
    for i in [0, 100, 300] {
        arrived(i);
        edge.kill();
        edge = Edge::with(&kube, &link, cache.path(), &flags);
    }
    for i in [500, 750, 999] {
        arrived(i);
    }
    assert_eq!(kube.object(EVENTS).unwrap()["items"].as_array().unwrap().len(), 1000);
    // What waits is bounded: the oldest make room.
    edge.kill();
    let cache = tempfile::tempdir().unwrap();
    let edge = Edge::with(&kube, &link, cache.path(), &[&flags[..], &["--outbox-quota", "1"]].concat());
    link.cut();
    for i in 0..20 {
        let mut large = event(&format!("large{i:02}"));
        large["message"] = "x".repeat(60_000).into();
        queued(send(&edge, "POST", EVENTS, PLAIN, &large));
    }
    link.mend();
    edge.says("what was written without the API server has been sent: 17");
    for (i, there) in [(0, false), (2, false), (3, true), (19, true)] {
        assert_eq!(kube.object(&format!("{EVENTS}/large{i:02}")).is_some(), there, "large{i:02}");
    }
}

#[test]
fn real_tokens_and_reviews_are_given_again_to_the_same_request() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::start(&kube, &link, cache.path());
    let path = "/api/v1/namespaces/default/serviceaccounts/reader/token";
    let token = |seconds: u32| json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": seconds } });
    let issued = send(&edge, "POST", path, PLAIN, &token(3600));
    assert_eq!((issued.status, issued.header("weir-cache")), (201, None), "{issued:?}");
    let bearer = issued.json()["status"]["token"].clone();
    let authentication = "/apis/authentication.k8s.io/v1/tokenreviews";
    let authorization = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let who = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": bearer } });
    let may = |user: &str| {
        let spec = json!({ "user": user, "resourceAttributes": { "verb": "get", "resource": "nodes", "subresource": "metrics" } });
        json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec })
    };
    let reader = "system:serviceaccount:default:reader";
    let said = send(&edge, "POST", authentication, PLAIN, &who);
    assert_eq!((said.status, &said.json()["status"]["authenticated"]), (201, &json!(true)), "{said:?}");
    let allowed = send(&edge, "POST", authorization, PLAIN, &may(reader));
    assert_eq!((allowed.status, &allowed.json()["status"]["allowed"]), (201, &json!(true)), "{allowed:?}");
    link.cut();
    let again = |edge: &Edge, path: &str, body: &Value, of: &Answer| {
        let answer = send(edge, "POST", path, PLAIN, body);
        assert_eq!((answer.status, answer.header("weir-cache"), &answer.body), (201, Some("hit"), &of.body), "{path}");
    };
    again(&edge, path, &token(3600), &issued);
    again(&edge, authentication, &who, &said);
    again(&edge, authorization, &may(reader), &allowed);
    let fails = |edge: &Edge, path: &str, headers: &[(&str, &str)], body: &Value| {
        let answer = edge.request("POST", path, headers, body.to_string().as_bytes());
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("ServiceUnavailable")), "{path} {answer:?}");
    };
    fails(&edge, path, &[JSON, PLAIN], &token(7200));
    fails(&edge, authorization, &[JSON, PLAIN], &may("system:serviceaccount:default:other"));
    // Nobody else gets the token, not even with the same request.
    fails(&edge, path, &[JSON, PLAIN, ("authorization", &format!("Bearer {}", bearer.as_str().unwrap()))], &token(3600));
    edge.kill();
    // Tokens outlive the hub, reviews do not.
    let edge = Edge::start(&kube, &link, cache.path());
    again(&edge, path, &token(3600), &issued);
    fails(&edge, authorization, &[JSON, PLAIN], &may(reader));
}
