//! What pods that are gone leave behind is removed from the cache and from the disk.
use super::hub::{Edge, JSON, Link, Watch, prepare};
use crate::harness::{Kube, eventually};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

const KUBELET: (&str, &str) = ("user-agent", "kubelet/v1.34.2 (linux/amd64)");
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Drig-node";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/reader/token";
const USER: &str = "system:serviceaccount:default:reader";
const N: usize = 100;

/// What the names of the secrets begin with.
const PREFIX: &str = "secret-5d0c6e-";

fn secret(i: usize) -> String {
    format!("{PREFIX}{i:03}")
}

fn path(i: usize) -> String {
    format!("/api/v1/namespaces/default/secrets/{}", secret(i))
}

fn object(pod: usize) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{pod}, namespace: default}}, spec: {{nodeName: rig-node, serviceAccountName: reader, automountServiceAccountToken: false, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: i}}], volumes: [{{name: v, secret: {{secretName: {}}}}}]}}}}",
        secret(pod)
    )
}

/// The secrets whose names are in the files of the cache. The store is not encrypted here: names are written as they are.
fn on_disk(cache: &Path) -> BTreeSet<usize> {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    // A file may be removed meanwhile.
    let all = files.filter_map(|path| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned()));
    let numbers = |text: String| -> Vec<usize> {
        text.match_indices(PREFIX).filter_map(|(at, _)| text.get(at + PREFIX.len()..)?.get(..3)?.parse().ok()).collect()
    };
    all.flat_map(numbers).collect()
}

/// The secrets that an operator is shown.
fn listed(edge: &Edge) -> BTreeSet<usize> {
    let exported = edge.admin("/cache/export?resource=secrets").body;
    let names: BTreeSet<String> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["object"]["metadata"]["name"].as_str().unwrap().to_string())
        .collect();
    (0..N).filter(|i| names.contains(&secret(*i))).collect()
}

fn collected(edge: &Edge) -> Value {
    edge.admin("/stats").json()["collected"].clone()
}

#[test]
fn secrets_of_deleted_pods_vanish_from_the_cache_and_the_disk() {
    let kube = Kube::bare();
    prepare(&kube);
    let secrets: Vec<String> = (0..N)
        .map(|i| {
            format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {}, namespace: default}}, data: {{password: c2VjcmV0}}}}", secret(i))
        })
        .collect();
    kube.apply(&secrets.join("\n---\n"));
    kube.apply(&(0..N).map(object).collect::<Vec<_>>().join("\n---\n"));
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::with(&kube, &link, cache.path(), &["--disk-cache-encryption=false", "--gc-grace-period", "500ms"]);
    // As kubelet does: all pods of the node, a watch of them, and each Secret by itself.
    let pods = edge.kept_for(PODS, &[JSON, KUBELET]).json();
    let version = pods["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch: Watch = edge.watch_as(KUBELET.1, &format!("{PODS}&watch=1&resourceVersion={version}"));
    for i in 0..N {
        edge.kept_for(&path(i), &[JSON, KUBELET]);
    }
    // A pod that will be deleted reads something with its own token, which kubelet has asked for.
    let pod = kube.object("/api/v1/namespaces/default/pods/pod-0").unwrap();
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": "pod-0", "uid": pod["metadata"]["uid"] });
    let request =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "boundObjectRef": bound } }).to_string();
    let token = eventually("a token", || {
        let answer = edge.request("POST", ACCOUNT, &[JSON, KUBELET, ("content-type", "application/json")], request.as_bytes());
        (answer.status == 201).then(|| format!("Bearer {}", answer.json()["status"]["token"].as_str().unwrap()))
    });
    edge.kept_for("/api/v1/namespaces/default/configmaps", &[JSON, ("authorization", &token)]);
    eventually("what the pod has read is kept", || edge.admin("/cache/sets").body.contains(USER).then_some(()));
    let all: BTreeSet<usize> = (0..N).collect();
    eventually("all secrets are kept", || (listed(&edge) == all && on_disk(cache.path()) == all).then_some(()));
    // All pods but two are deleted. The watch that kubelet has goes on.
    let left = BTreeSet::from([7, 42]);
    let gone: Vec<String> = all.difference(&left).map(|i| object(*i)).collect();
    kube.delete(&gone.join("\n---\n"));
    watch.event("the last pod is deleted", |event| event["type"] == "DELETED" && event["object"]["metadata"]["name"] == "pod-99");
    eventually("the secrets vanish", || {
        let stats = collected(&edge);
        (listed(&edge) == left && on_disk(cache.path()) == left && stats["waiting"] == 0).then_some(())
    });
    eventually("the pod's own copies vanish", || {
        let stats = collected(&edge);
        (!edge.admin("/cache/sets").body.contains(USER) && stats["lists"] == 1 && stats["tokens"] == 1).then_some(())
    });
    let (_, text) = edge.command(&["status"]);
    let line = text.lines().find(|line| line.starts_with("collected ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("98 objects"), "{line}");
    // Without the link nothing is collected: what was kept is all that the node has.
    link.cut();
    for i in &left {
        edge.offline(&path(*i), &[JSON, KUBELET]);
    }
    assert_eq!(edge.get(&path(0), &[JSON, KUBELET]).status, 503);
}
