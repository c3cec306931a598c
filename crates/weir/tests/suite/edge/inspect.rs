//! What an operator asks of a hub: whether the node could restart, what is kept, what waits to be sent.
use super::hub::{Edge, JSON, Link, PROTOBUF, command, prepare};
use crate::harness::{Kube, eventually};
use serde_json::{Value, json};
use std::fs;

const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Drig-node";
const KUBELET: (&str, &str) = ("user-agent", "kubelet/v1.34.0 (linux/amd64)");

/// A pod that names each kind of object it can need.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: default }
spec:
  nodeName: rig-node
  automountServiceAccountToken: false
  containers:
  - { name: c, image: i, envFrom: [{ configMapRef: { name: settings } }] }
  volumes:
  - { name: s, secret: { secretName: password } }
  - { name: o, secret: { secretName: nowhere, optional: true } }
  - { name: t, projected: { sources: [{ serviceAccountToken: { path: token } }] } }
";

/// `weir edge COMMAND --json`: whether it succeeded, and what it printed.
fn json_of(edge: &Edge, arguments: &[&str]) -> (bool, Value) {
    let (good, text) = edge.command(&[arguments, &["--json"]].concat());
    (good, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}")))
}

fn errors(report: &Value) -> Vec<String> {
    report["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap().to_string()).collect()
}

#[test]
fn an_operator_sees_what_is_missing_kept_and_waiting() {
    let kube = Kube::bare();
    prepare(&kube);
    kube.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}");
    kube.apply("{apiVersion: v1, kind: Node, metadata: {name: rig-node}}");
    kube.apply("{apiVersion: v1, kind: Secret, metadata: {name: password, namespace: default}, stringData: {word: hunter2}}");
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: default}, data: {A: b}}");
    kube.apply(POD);
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let cache = folder.path().join("cache");
    // So that the test can damage a record that it finds by its name.
    let plain = "--disk-cache-encryption=false";
    let edge = Edge::with(&kube, &link, &cache, &[plain]);

    // The audit names what is missing, one after the other.
    let (good, report) = json_of(&edge, &["audit"]);
    assert!(!good && report["ready"] == false);
    let wanted = ["kubelet: pods are missing", "kubelet: services are missing", "Node rig-node is not kept"];
    assert_eq!(errors(&report), wanted);
    // kubelet reads pods in protobuf.
    for (path, accept) in [(PODS, PROTOBUF), ("/api/v1/services", PROTOBUF), ("/api/v1/nodes/rig-node", JSON)] {
        edge.kept_for(path, &[accept, KUBELET]);
    }
    let of_pod = |what: &str| format!("Pod default/web needs {what}, which is not kept");
    let missing = [of_pod("Secret password"), of_pod("ConfigMap settings"), of_pod("ServiceAccount token default")];
    eventually("the needs of the pod", || (errors(&json_of(&edge, &["audit"]).1) == missing).then_some(()));
    let namespace = "/api/v1/namespaces/default";
    edge.kept_for(&format!("{namespace}/secrets?fieldSelector=metadata.name%3Dpassword"), &[JSON, KUBELET]);
    edge.kept_for(&format!("{namespace}/configmaps/settings"), &[JSON, KUBELET]);
    eventually("only the token is missing", || (errors(&json_of(&edge, &["audit"]).1) == missing[2..]).then_some(()));
    let (good, text) = edge.command(&["audit"]);
    assert!(!good && text.contains("error: Pod default/web needs ServiceAccount token default"), "{text}");
    let uid = kube.object(&format!("{namespace}/pods/web")).unwrap()["metadata"]["uid"].clone();
    let spec = json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid } });
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec }).to_string();
    let path = format!("{namespace}/serviceaccounts/default/token");
    eventually("a token", || {
        let answer = edge.request("POST", &path, &[JSON, ("content-type", "application/json")], request.as_bytes());
        (answer.status == 201 && answer.header("weir-cache").is_none()).then_some(())
    });
    let (good, report) = json_of(&edge, &["audit"]);
    assert!(good && report["pods"][0]["tokenExpires"].is_u64(), "{report}");
    assert!(edge.command(&["audit"]).1.contains("the node could restart now"));

    // What is kept, from the hub that runs; Secrets are hidden.
    let looks = |arguments: &dyn Fn(&[&str]) -> (bool, String)| {
        let (good, text) = arguments(&["cache", "ls"]);
        assert!(good && text.contains("secrets in default metadata.name=password"), "{text}");
        let (good, text) = arguments(&["cache", "get", "secrets", "default/password"]);
        assert!(good && text.contains("REDACTED") && !text.contains("aHVudGVyMg=="), "{text}");
        let (good, text) = arguments(&["cache", "get", "secrets", "default/password", "--show-secrets"]);
        assert!(good && text.contains("aHVudGVyMg=="), "{text}");
        let (good, text) = arguments(&["cache", "get", "secrets", "default/none"]);
        assert!(!good && text.contains("no such object is kept"), "{text}");
        let (good, text) = arguments(&["cache", "export"]);
        assert!(good && text.lines().count() >= 5 && !text.contains("aHVudGVyMg=="), "{text}");
        assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
        let (good, text) = arguments(&["cache", "verify"]);
        assert!(good && text.contains("0 are damaged"), "{text}");
    };
    looks(&|arguments| edge.command(arguments));
    let (good, text) = edge.command(&["cache", "repair"]);
    assert!(!good && text.contains("the hub is running: stop it first"), "{text}");

    // What waits, by name; what is dropped is not sent.
    link.cut();
    let event = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" }, "reason": "Started", "type": "Normal",
            "involvedObject": { "kind": "Pod", "name": "web", "namespace": "default" },
        })
    };
    for name in ["a", "b"] {
        let body = event(name).to_string();
        let answer = edge.request("POST", &format!("{namespace}/events"), &[JSON, ("content-type", "application/json")], body.as_bytes());
        assert_eq!((answer.status, answer.header("weir-cache")), (201, Some("queued")), "{answer:?}");
    }
    let status = json!({ "status": { "phase": "Running" } }).to_string();
    let patch = ("content-type", "application/strategic-merge-patch+json");
    let answer = edge.request("PATCH", &format!("{namespace}/pods/web/status"), &[PROTOBUF, patch], status.as_bytes());
    assert_eq!((answer.status, answer.header("weir-cache")), (200, Some("queued")), "{answer:?}");
    let (good, outbox) = json_of(&edge, &["outbox", "ls"]);
    let items: Vec<&str> = outbox["waiting"].as_array().unwrap().iter().map(|item| item["item"].as_str().unwrap()).collect();
    assert!(good && items.len() == 3 && items[0] == "status/pods/default/web", "{outbox}");
    let (good, text) = edge.command(&["outbox", "get", items[0]]);
    assert!(good && text.contains("\"phase\": \"Running\""), "{text}");
    let (good, text) = edge.command(&["outbox", "drop", items[1]]);
    assert!(good && text.contains(&format!("{} was dropped", items[1])), "{text}");
    for (item, says) in [(items[1], "is not in the outbox"), ("something", "is no item of the outbox")] {
        let (good, text) = edge.command(&["outbox", "get", item]);
        assert!(!good && text.contains(says), "{item}: {text}");
    }
    link.mend();
    edge.says("what was written without the API server has been sent: 2");
    assert!(kube.object(&format!("{namespace}/events/a")).is_none() && kube.object(&format!("{namespace}/events/b")).is_some());

    // The same of the folder, when no hub runs; damage is named and repaired.
    edge.kill();
    looks(&|arguments| command(&cache, arguments));
    damage(&cache, b"default/password");
    let (good, text) = command(&cache, &["cache", "verify"]);
    assert!(!good && text.contains("damaged: ") && text.contains("secrets"), "{text}");
    let (good, text) = command(&cache, &["cache", "repair"]);
    assert!(good && text.contains("dropped"), "{text}");
    let (good, text) = command(&cache, &["cache", "verify"]);
    assert!(good, "{text}");
    let (good, text) = command(&folder.path().join("none"), &["cache", "ls"]);
    assert!(!good && text.contains("there is no store in"), "{text}");
}

/// Flips a bit behind the name of an object, in each of its records.
fn damage(cache: &std::path::Path, name: &[u8]) {
    for entry in fs::read_dir(cache).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|end| end.to_str()) {
            Some("log") => {
                let mut bytes = fs::read(&path).unwrap();
                let found: Vec<usize> = bytes.windows(name.len()).enumerate().filter(|(_, part)| *part == name).map(|(at, _)| at).collect();
                for at in found {
                    bytes[at + name.len() + 40] ^= 1;
                }
                fs::write(&path, bytes).unwrap();
            }
            // What was written down of the segments would hide it.
            Some("idx") => fs::remove_file(&path).unwrap(),
            _ => {}
        }
    }
}
