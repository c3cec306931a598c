//! The admin endpoints and commands of a hub that runs.
use super::hub::{Edge, JSON, Link, command, prepare, until};
use crate::{
    client,
    harness::{Kube, eventually},
};
use std::{collections::HashSet, fs, net::SocketAddr, os::unix::fs::PermissionsExt};
use weir_test::client::Connection;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The value of a sample.
fn metric(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == sample))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_hub_says_how_it_fares() {
    let kube = Kube::bare();
    prepare(&kube);
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let edge = Edge::with(&kube, &link, cache.path(), &["--serve-port", "0"]);
    let socket = cache.path().join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((edge.admin("/healthz").status, edge.admin("/nowhere").status), (200, 404));
    eventually("the hub is ready", || {
        let answer = edge.admin("/readyz");
        (answer.status == 200 && answer.body.contains("[+]link ok: the API server can be reached")).then_some(())
    });
    let list = edge.kept(MAPS, JSON).json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = edge.watch(&format!("{MAPS}?watch=1&resourceVersion={version}"));
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: new, namespace: default}}");
    until(&mut watch, "\"new\"");
    let listed = "weir_edge_requests_total{verb=\"list\",resource=\"configmaps\",code=\"200\",source=\"remote\"}";
    let text = eventually("the event is kept", || {
        let text = edge.admin("/metrics").body;
        let kept = metric(&text, "weir_edge_cache_events_total{}") >= Some(1.0)
            && metric(&text, "weir_edge_watches{}") == Some(1.0)
            && metric(&text, "weir_edge_cache_lists{resource=\"configmaps\"}") == Some(1.0)
            && metric(&text, listed) >= Some(1.0);
        kept.then_some(text)
    });
    // Every sample follows the type of its family.
    let mut families = HashSet::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(family) => assert!(families.insert(family.split(' ').next().unwrap().to_string()), "twice: {family}"),
            None if line.starts_with("# HELP ") => {}
            None => {
                let name = line.split('{').next().unwrap();
                let family = ["_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                assert!(families.contains(family) || families.contains(name), "{line}");
            }
        }
    }
    // Names that clients make up have no series of their own.
    let mut client = edge.open();
    for i in 0..100 {
        let path = format!("/apis/made.up/v1/things{i}");
        client.request("GET", "hub", &path, &[JSON, ("user-agent", &format!("agent-{i}"))], b"").unwrap();
    }
    let text = edge.admin("/metrics").body;
    assert!(text.contains("resource=\"other\"") && !text.contains("made.up") && !text.contains("agent-"), "{text}");
    // The port has the same, under its own name only.
    let port: SocketAddr = edge.says("admin endpoints at http://").rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(client::get(port, "localhost", "/metrics").unwrap().status, 200);
    assert_eq!(client::get(port, "page.test", "/metrics").unwrap().status, 403);
    assert_eq!(Connection::open(port).unwrap().request("POST", "localhost", "/metrics", &[], b"").unwrap().status, 405);

    let (good, text) = edge.command(&["status"]);
    assert!(good && text.contains("link         up") && text.contains("configmaps") && text.contains("system:node:rig-node"), "{text}");
    link.cut();
    eventually("an answer that was kept", || edge.get(MAPS, &[JSON]).header("weir-cache").map(|_| ()));
    assert_eq!(edge.get("/api/v1/secrets", &[JSON]).status, 503);
    let text = eventually("the link counts as down", || {
        let text = edge.admin("/metrics").body;
        (metric(&text, "weir_edge_link_up{}") == Some(0.0)).then_some(text)
    });
    assert!(metric(&text, "weir_edge_cache_hits_total{resource=\"configmaps\"}") >= Some(1.0), "{text}");
    assert_eq!(metric(&text, "weir_edge_cache_misses_total{resource=\"secrets\"}"), Some(1.0));
    let ready = edge.admin("/readyz?format=json");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()), "{}", ready.body);
    let (good, text) = edge.command(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(good && status["link"]["up"] == false && status["servers"][0]["up"] == false, "{text}");
    assert!(!status["errors"].as_array().unwrap().is_empty(), "{text}");
    edge.kill();
    // Nothing is kept and nobody answers: not ready.
    let empty = tempfile::tempdir().unwrap();
    let edge = Edge::start(&kube, &link, empty.path());
    let answer = eventually("the link counts as down", || Some(edge.admin("/readyz")).filter(|a| a.body.contains("no list is kept")));
    assert_eq!(answer.status, 503);
    edge.kill();
    let (good, text) = command(empty.path(), &["status"]);
    assert!(!good && text.contains("is the hub running?"), "{text}");
}
