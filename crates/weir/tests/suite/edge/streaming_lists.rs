//! Real clients that begin with a streaming list (WatchList): client-go's reflector and the watcher of kube-rs.
use super::hub::{Edge, Link, prepare};
use crate::harness::{Kube, PATIENCE, eventually};
use futures_util::StreamExt;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    pin::pin,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use weir_test::kube::programs::{INFORMER, programs};

const MAPS: usize = 300;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";

/// Resource versions by name.
type Objects = BTreeMap<String, String>;

/// What a client has once it is synced, and how long that took.
struct Synced {
    objects: Objects,
    took: Duration,
}

fn of_kube_rs(edge: &Edge) -> Synced {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config::new(format!("http://{}", edge.address).parse().unwrap());
    runtime.block_on(async {
        let maps = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
        let maps: Api<DynamicObject> = Api::namespaced_with(Client::try_from(config).unwrap(), "default", &maps);
        let (began, mut objects) = (Instant::now(), Objects::new());
        let mut events = pin!(watcher(maps, watcher::Config::default().streaming_lists()).default_backoff());
        let synced = tokio::time::timeout(PATIENCE, async {
            loop {
                match events.next().await.unwrap() {
                    Ok(Event::InitApply(map)) => drop(objects.insert(map.name_any(), map.resource_version().unwrap())),
                    Ok(Event::InitDone) => break,
                    Ok(Event::Init) | Err(_) => objects.clear(),
                    Ok(event) => panic!("{event:?} before the list is whole"),
                }
            }
        });
        synced.await.unwrap();
        Synced { objects, took: began.elapsed() }
    })
}

fn of_client_go(edge: &Edge, encoding: &str) -> Synced {
    let mut command = Command::new("informer");
    command.env("PATH", programs(INFORMER).unwrap().path).args(["-server", &format!("http://{}", edge.address), "-encoding", encoding]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let synced: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let requests = synced["requests"].as_array().unwrap();
    assert!(requests.len() == 1 && requests[0].as_str().unwrap().contains("sendInitialEvents=true"), "it fell back: {requests:?}: {said}");
    Synced {
        objects: serde_json::from_value(synced["objects"].clone()).unwrap(),
        took: Duration::from_millis(synced["milliseconds"].as_u64().unwrap()),
    }
}

type Starts = fn(&Edge) -> Synced;

const CLIENTS: [(&str, Starts); 3] = [
    ("kube-rs", of_kube_rs),
    ("client-go, JSON", |edge| of_client_go(edge, JSON)),
    ("client-go, protobuf", |edge| of_client_go(edge, PROTOBUF)),
];

#[test]
fn streaming_lists_are_whole_with_the_link_and_without_it() {
    let kube = Kube::bare();
    prepare(&kube);
    let map = |i| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m{i}, namespace: default}}, data: {{x: '{i}'}}}}");
    kube.apply(&(0..MAPS).map(map).collect::<Vec<_>>().join("\n---\n"));
    let list = kube.object("/api/v1/namespaces/default/configmaps").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let about = |item: &Value| (text(&item["metadata"]["name"]), text(&item["metadata"]["resourceVersion"]));
    let twin: Objects = list["items"].as_array().unwrap().iter().map(about).collect();
    assert!(twin.len() >= MAPS, "{}", twin.len());
    let (cache, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let mut edge = Edge::start(&kube, &link, cache.path());
    edge.says("the API server can be reached");
    for (name, client) in CLIENTS {
        assert_eq!(client(&edge).objects, twin, "{name}");
    }
    // In JSON and in protobuf.
    let objects = format!("cache_objects{{resource=\"configmaps\"}} {}\n", 2 * twin.len());
    eventually("the lists are kept", || {
        let metrics = edge.admin("/metrics").body;
        (metrics.contains("cache_lists{resource=\"configmaps\"} 2\n") && metrics.contains(&objects)).then_some(())
    });

    link.cut();
    for restart in [false, true] {
        if restart {
            // The clients come before the hub knows that there is no link.
            edge.kill();
            edge = Edge::start(&kube, &link, cache.path());
        }
        for (name, client) in CLIENTS {
            // A busy machine may hold a process up.
            eventually(&format!("{name} is synced within a second, restart: {restart}"), || {
                let Synced { objects, took } = client(&edge);
                assert_eq!(objects, twin, "{name}, restart: {restart}");
                println!("{name}, restart {restart}: synced in {took:?}");
                (took < Duration::from_secs(1)).then_some(())
            });
        }
    }
}
