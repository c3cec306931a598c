//! Which clients' answers are kept: by the hub's file, and by OpenYurt's ConfigMap.
use super::hub::{Edge, JSON, Link, prepare};
use crate::harness::{Kube, eventually};
use serde_json::Value;
use std::fs;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The list of one client: each has a selector of its own.
fn path(agent: &str) -> String {
    format!("{MAPS}?labelSelector=agent%3D{agent}")
}

/// A client lists something; the answer is that of the API server.
fn list(edge: &Edge, agent: &str) {
    edge.kept_for(&path(agent), &[JSON, ("user-agent", &format!("{agent}/v1.0 (linux/amd64)"))]);
}

/// Waits until as many lists of ConfigMaps are kept.
#[track_caller]
fn kept(edge: &Edge, wanted: usize) {
    let sample = format!("weir_edge_cache_lists{{resource=\"configmaps\"}} {wanted}\n");
    eventually(&sample, || edge.admin("/metrics").body.contains(&sample).then_some(()));
}

#[track_caller]
fn settings(edge: &Edge, wanted: impl Fn(&Value) -> bool) {
    eventually("the settings", || wanted(&edge.admin("/stats").json()["settings"]).then_some(()));
}

#[test]
fn the_file_and_openyurts_config_map_say_whose_answers_are_kept() {
    let kube = Kube::bare();
    prepare(&kube);
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let (cache, config) = (folder.path().join("cache"), folder.path().join("edge.yaml"));
    fs::write(&config, "").unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--yurt-hub-cfg"];
    let edge = Edge::with(&kube, &link, &cache, &flags);
    // The hub's own list of the ConfigMap is one of them.
    kept(&edge, 1);
    list(&edge, "calico-node");
    list(&edge, "kubelet");
    kept(&edge, 3);

    // A client is left out: what was kept for it alone goes, and nothing more of it is kept.
    fs::write(&config, "agents:\n- name: calico-node\n  keep: false\n").unwrap();
    edge.says("edge.yaml was read again");
    kept(&edge, 2);
    list(&edge, "calico-node");
    list(&edge, "kube-proxy");
    kept(&edge, 3);
    fs::write(&config, "agents: [{ name: a/b }]").unwrap();
    edge.says("the previous settings stay in effect");
    settings(&edge, |settings| settings["agents"][0]["name"] == "calico-node");

    // The ConfigMap names further clients, and OpenYurt's own are always kept.
    let map = |agents: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: yurt-hub-cfg, namespace: kube-system}}, data: {{cache_agents: '{agents}'}}}}"
        )
    };
    kube.apply(&map("my-operator, calico-node"));
    settings(&edge, |settings| settings["cacheAgents"] == serde_json::json!(["my-operator", "calico-node"]));
    list(&edge, "other");
    list(&edge, "my-operator");
    kept(&edge, 4);

    // The same after a restart without the API server.
    link.cut();
    edge.kill();
    let edge = Edge::with(&kube, &link, &cache, &["--yurt-hub-cfg"]);
    settings(&edge, |settings| settings["cacheAgents"][0] == "my-operator");
    for agent in ["kubelet", "kube-proxy", "my-operator"] {
        let answer = edge.offline(&path(agent), &[JSON]);
        assert!(answer.header("weir-cache").is_some_and(|value| value.starts_with("hit; age=")), "{agent}: {answer:?}");
    }
    for agent in ["calico-node", "other"] {
        assert_eq!(edge.get(&path(agent), &[JSON]).status, 503, "{agent}");
    }
}
