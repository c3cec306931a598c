//! What clients of a node see otherwise than the API server says it, and how open watches hear of a change, with the link and without it.
use super::hub::{Edge, JSON, Link, Watch, prepare};
use crate::harness::{Kube, eventually};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const POOLS: &str = "/apis/apps.openyurt.io/v1beta2/nodepools";
const OF_NODE: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Drig-node";
const STRATEGIC: (&str, &str) = ("content-type", "application/strategic-merge-patch+json");

pub const POOL_KIND: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: nodepools.apps.openyurt.io }
spec:
  group: apps.openyurt.io
  scope: Cluster
  names: { plural: nodepools, singular: nodepool, kind: NodePool, listKind: NodePoolList }
  versions:
    - { name: v1beta2, served: true, storage: true, schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } } }
";

pub fn pool(name: &str, nodes: &[&str]) -> String {
    json!({ "apiVersion": "apps.openyurt.io/v1beta2", "kind": "NodePool", "metadata": { "name": name }, "status": { "nodes": nodes } })
        .to_string()
}

fn node(pool: &str) -> String {
    let labels = json!({ "apps.openyurt.io/nodepool": pool });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "rig-node", "labels": labels } }).to_string()
}

/// Endpoints on this node, with an address of its pod, and on two others.
fn slice(here: &str, uid: &Value) -> String {
    let target = json!({ "kind": "Pod", "namespace": "default", "name": "web", "uid": uid });
    let endpoints = json!([
        { "addresses": [here], "nodeName": "rig-node", "targetRef": target, "conditions": { "ready": true } },
        { "addresses": ["10.0.0.3"], "nodeName": "node2", "conditions": { "ready": true } },
        { "addresses": ["10.0.0.4"], "nodeName": "node3", "conditions": { "ready": true } },
    ]);
    let metadata = json!({ "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } });
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints }).to_string()
}

/// A change reaches open watches within a second. On a busy machine, and with what the test itself does, it may take so long.
const PROMPT: Duration = Duration::from_secs(30);

#[track_caller]
fn promptly(change: impl FnOnce()) {
    let begun = Instant::now();
    change();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}

/// Turns a filter on or off in the file of settings.
fn set(config: &Path, filter: &str, enabled: bool) {
    let new = config.with_extension("new");
    fs::write(&new, format!("filters:\n- name: {filter}\n  enabled: {enabled}\n")).unwrap();
    fs::rename(new, config).unwrap();
}

fn watch(edge: &Edge, agent: &str) -> Watch {
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    edge.watch_as(&format!("{agent}/v1.34.2 (linux/amd64)"), &format!("{SLICES}?{initial}"))
}

/// Waits until a watch has brought the slice with these addresses. It may begin again where the link comes and goes.
#[track_caller]
fn sees(watch: &mut Watch, wanted: &[&str]) {
    let addresses = |event: &Value| -> Vec<String> {
        let endpoints = event["object"]["endpoints"].as_array().into_iter().flatten();
        endpoints.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_string()).collect()
    };
    watch.event(&format!("the addresses {wanted:?}"), |event| event["object"]["metadata"]["name"] == "web-1" && addresses(event) == wanted);
}

/// The node's own patch of a status, which waits for the API server.
#[track_caller]
fn patched(edge: &Edge, path: &str, patch: &Value) {
    eventually(path, || {
        let answer = edge.request("PATCH", &format!("{path}/status"), &[JSON, STRATEGIC], patch.to_string().as_bytes());
        (answer.status == 200 && answer.header("weir-cache") == Some("queued")).then_some(())
    });
}

#[test]
fn pools_topology_and_pods_that_came_back_reach_open_watches_also_without_the_link() {
    let kube = Kube::bare();
    prepare(&kube);
    kube.apply(POOL_KIND);
    eventually("the kind of node pools", || kube.object(POOLS));
    kube.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}");
    kube.apply("{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default}, spec: {nodeName: rig-node, automountServiceAccountToken: false, containers: [{name: c, image: i}]}}");
    let uid = kube.object("/api/v1/namespaces/default/pods/web").unwrap()["metadata"]["uid"].clone();
    for object in [node("hangzhou"), pool("hangzhou", &["rig-node", "node2"]), pool("shanghai", &["node2"]), slice("10.0.0.2", &uid)] {
        kube.apply(&object);
    }
    let service = |annotations: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: default, annotations: {annotations}}}, spec: {{ports: [{{port: 80}}], selector: {{app: web}}}}}}"
        )
    };
    kube.apply(&service("{openyurt.io/topologyKeys: openyurt.io/nodepool}"));
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let config = cache.path().join("edge.yaml");
    set(&config, "servicetopology", true);
    let flags = ["--advertise-address", "192.0.2.9", "--config", config.to_str().unwrap()];
    let edge = Edge::with(&kube, &link, cache.path(), &flags);

    // kubelet is given the address of the hub as that of the API server, and nobody else is.
    let port = edge.says("listening on https://").rsplit(':').next().unwrap().parse::<u16>().unwrap();
    for (agent, is_hub) in [("kubelet/v1.34.2", true), ("kubectl/v1.34.2", false)] {
        let services = edge.kept_for(SERVICES, &[JSON, ("user-agent", agent)]).json();
        let master = services["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "kubernetes").unwrap();
        let found = (master["spec"]["clusterIP"] == "192.0.2.9", master["spec"]["ports"][0]["port"] == port);
        assert_eq!(found, (is_hub, is_hub), "{agent} {master}");
    }

    // kube-proxy sees the endpoints of its pool, whatever becomes of it; others see all of them.
    let (mut proxy, mut other) = (watch(&edge, "kube-proxy"), watch(&edge, "other"));
    sees(&mut other, &["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    sees(&mut proxy, &["10.0.0.2", "10.0.0.3"]);
    promptly(|| {
        kube.apply(&pool("hangzhou", &["rig-node", "node3"]));
        sees(&mut proxy, &["10.0.0.2", "10.0.0.4"]);
    });
    promptly(|| {
        kube.apply(&node("shanghai"));
        sees(&mut proxy, &["10.0.0.3"]);
    });
    for (enabled, seen) in [(false, &["10.0.0.2", "10.0.0.3", "10.0.0.4"][..]), (true, &["10.0.0.3"])] {
        promptly(|| {
            set(&config, "servicetopology", enabled);
            sees(&mut proxy, seen);
        });
    }
    kube.apply(&service("{openyurt.io/topologyKeys: kubernetes.io/hostname}"));
    sees(&mut proxy, &["10.0.0.2"]);
    kube.apply(&service("{}"));
    sees(&mut proxy, &["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    kube.apply(&service("{openyurt.io/topologyKeys: openyurt.io/nodepool}"));
    sees(&mut proxy, &["10.0.0.3"]);
    kube.apply(&node("hangzhou"));
    sees(&mut proxy, &["10.0.0.2", "10.0.0.4"]);

    // Without the link, the pod comes back with another address.
    edge.kept(OF_NODE, JSON);
    link.cut();
    edge.offline(OF_NODE, &[JSON]);
    let ready = |status: &str| json!([{ "type": "Ready", "status": status }]);
    let status = |ip: &str| json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready("True") } });
    patched(&edge, "/api/v1/namespaces/default/pods/web", &status("10.0.0.77"));
    sees(&mut proxy, &["10.0.0.77", "10.0.0.4"]);
    sees(&mut other, &["10.0.0.77", "10.0.0.3", "10.0.0.4"]);
    // The same after a restart of the hub, and the node moves to another pool meanwhile.
    edge.kill();
    let edge = Edge::with(&kube, &link, cache.path(), &flags);
    let (mut proxy, mut other) = (watch(&edge, "kube-proxy"), watch(&edge, "other"));
    sees(&mut proxy, &["10.0.0.77", "10.0.0.4"]);
    promptly(|| {
        patched(&edge, "/api/v1/nodes/rig-node", &json!({ "metadata": { "labels": { "apps.openyurt.io/nodepool": "shanghai" } } }));
        // The nodes of that pool were kept when the node was in it before.
        sees(&mut proxy, &["10.0.0.3"]);
    });
    for (enabled, seen) in [(false, &["10.0.0.77", "10.0.0.3", "10.0.0.4"][..]), (true, &["10.0.0.3"])] {
        promptly(|| {
            set(&config, "servicetopology", enabled);
            sees(&mut proxy, seen);
        });
    }
    // What the filters did is counted.
    let metrics = edge.admin("/metrics").body;
    let total = |name: &str| -> u64 {
        let sample = format!("weir_edge_filter_{name}_total{{filter=\"servicetopology\",resource=\"endpointslices\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
    };
    assert!(total("changed_objects") >= 2 && total("objects") >= total("changed_objects") && total("dropped_objects") == 0, "{metrics}");
    sees(&mut other, &["10.0.0.77", "10.0.0.3", "10.0.0.4"]);

    // With the link, what the API server has written since counts.
    link.mend();
    edge.says("what was written without the API server has been sent: 2");
    kube.apply(&slice("10.0.0.88", &uid));
    sees(&mut other, &["10.0.0.88", "10.0.0.3", "10.0.0.4"]);
    kube.apply(&node("hangzhou"));
    sees(&mut proxy, &["10.0.0.88", "10.0.0.4"]);
}
