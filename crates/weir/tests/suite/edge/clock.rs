//! The wall clock of the node is set, by years and while the hub runs. Nothing that is kept or waits is lost by it.
use super::hub::{Edge, JSON, Link, prepare, until};
use crate::{
    clock::shim,
    harness::{Kube, eventually},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const YEARS: i64 = 2 * 365 * 86_400;

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" }, "count": 1, "message": "m",
        "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" }, "reason": "Started", "type": "Normal",
    })
}

fn lease(renewed: usize) -> Value {
    let renewed = format!("2026-11-28T02:04:38.{renewed:06}Z");
    let spec = json!({ "holderIdentity": "rig-node", "leaseDurationSeconds": 40, "renewTime": renewed });
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "rig-node", "namespace": "kube-node-lease" }, "spec": spec })
}

fn start(kube: &Kube, link: &Link, cache: &Path, step: &Path) -> Edge {
    let mut command = Edge::command_with(kube, link, cache, &[]);
    command.env("LD_PRELOAD", shim(cache)).env("CLOCK_STEP", step);
    Edge::run(command, cache)
}

#[test]
fn a_clock_that_jumps_by_years_costs_nothing() {
    let kube = Kube::bare();
    prepare(&kube);
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let (cache, step) = (folder.path().join("cache"), folder.path().join("step"));
    fs::create_dir(&cache).unwrap();
    kube.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: kept, namespace: default}}}}\n---\n{}", lease(0)));
    let mut edge = start(&kube, &link, &cache, &step);
    let plain = ("content-type", "application/json");
    let queued = |edge: &Edge, method: &str, path: &str, body: &Value| {
        eventually(path, || {
            let answer = edge.request(method, path, &[JSON, plain], body.to_string().as_bytes());
            (answer.status / 100 == 2 && answer.header("weir-cache") == Some("queued")).then_some(())
        });
    };
    let own = format!("{LEASES}/rig-node");
    edge.kept(&own, JSON);
    for (round, years) in [YEARS, -YEARS].into_iter().enumerate() {
        let list = edge.kept(MAPS, JSON);
        let version = list.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
        eventually("the list is kept", || edge.admin("/metrics").body.contains("cache_lists{resource=\"configmaps\"} 1").then_some(()));
        let mut watch = edge.watch(&format!("{MAPS}?watch=1&resourceVersion={version}"));
        fs::write(&step, years.to_string()).unwrap();
        // What is open goes on.
        let name = format!("jump-{round}");
        kube.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, namespace: default}}}}"));
        until(&mut watch, &format!("\"{name}\""));
        let names = |answer: &weir_test::client::Answer| answer.json()["items"].to_string();
        eventually("the event is kept", || edge.command(&["cache", "get", "configmaps", &format!("default/{name}")]).0.then_some(()));
        link.cut();
        // The certificate of the API server is not valid at this time, nor is that of the node. What was kept is answered all the same.
        for restart in [false, true] {
            if restart {
                edge.kill();
                edge = start(&kube, &link, &cache, &step);
            }
            let offline =
                eventually("an answer that was kept", || Some(edge.get(MAPS, &[JSON])).filter(|a| a.header("weir-cache").is_some()));
            assert!(offline.status == 200 && names(&offline).contains(&name), "{offline:?}");
            queued(&edge, "POST", EVENTS, &event(&format!("event-{round}-{restart}")));
            // After the restart kubelet renews its Lease once more.
            queued(&edge, "PUT", &own, &lease(2 * round + 1 + usize::from(restart)));
        }
        fs::write(&step, "0").unwrap();
        link.mend();
        for restart in [false, true] {
            let path = format!("{EVENTS}/event-{round}-{restart}");
            eventually(&path, || (kube.api("GET", &path, plain.1, b"").unwrap().status == 200).then_some(()));
        }
        let renewed = lease(2 * round + 2)["spec"].clone();
        eventually("the Lease is renewed", || (kube.object(&own).unwrap()["spec"] == renewed).then_some(()));
        eventually("an answer of the API server", || edge.get(MAPS, &[JSON]).header("weir-cache").is_none().then_some(()));
    }
}
