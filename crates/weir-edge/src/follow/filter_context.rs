//! Keeps what the filters know: the pool of the node, the nodes of that pool, the topology of Services, and the pods that were changed
//! without the API server. The hub reads it as a client of the node does, so it is known without the link, too.
use crate::{
    apimachinery::{object::Object, reported::POD},
    body::whole,
    filters::{
        context::{self as filters, Repair},
        servicetopology::ANNOTATION,
    },
    follow::{REFUSED, follow, value},
    hub::Hub,
    offline::local::Local,
    random::between,
    settings::Settings,
    store::ObjectName,
};
use http::StatusCode;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The label of nodes that names their pool.
pub(super) const POOL: &str = "apps.openyurt.io/nodepool";
const GROUP: &str = "apps.openyurt.io";
/// Of an answer of discovery.
const MAX_GROUP: usize = 1 << 20;
/// Between two looks at the pods that were changed here: kubelet writes many of them at a time.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the pool of the node is read: what is given comes before the label of the node.
#[derive(Default)]
struct Pools {
    given: Option<String>,
    label: Option<String>,
}

/// Keeps it for as long as the future is polled. `given`: the pool of the node by its flag.
pub async fn run(hub: Arc<Hub>, given: Option<String>) {
    let flags = hub.filters.context().settings.clone();
    let pools = Mutex::new(Pools::default());
    let set_pool = |change: &dyn Fn(&mut Pools)| {
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pools);
        let pool = pools.given.clone().or_else(|| pools.label.clone());
        hub.filters.update(|context| context.pool = pool);
    };
    let settings = async {
        let mut settings = hub.settings.subscribe();
        loop {
            let now = settings.borrow_and_update().clone();
            set_pool(&|pools| pools.given = now.file.pool.clone().or_else(|| given.clone()));
            hub.filters.update(|context| context.settings = merged(&flags, &now));
            if settings.changed().await.is_err() {
                return;
            }
        }
    };
    let node = async {
        hub.filters.wanted().await;
        let path = format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", hub.writes.node);
        follow(&hub, &path, pool, |nodes| set_pool(&|pools| pools.label = nodes.values().next().cloned())).await;
    };
    let services = async {
        hub.filters.wanted().await;
        follow(&hub, "/api/v1/services", topology, |keys| {
            hub.filters.update(|context| {
                if *context.topology != *keys {
                    context.topology = Arc::new(keys.clone());
                }
                context.settled = true;
            });
        })
        .await;
    };
    tokio::join!(settings, node, pool_nodes(&hub), services, repairs(&hub));
}

/// The settings of the flags with those of the file and of the ConfigMap.
fn merged(flags: &filters::Settings, settings: &Settings) -> filters::Settings {
    let mut merged = flags.clone();
    for rule in &settings.file.filters {
        if !rule.enabled {
            merged.disabled.insert(rule.name.clone());
        }
        merged.agents.entry(rule.name.clone()).or_default().extend(rule.agents.iter().cloned());
    }
    for (name, agents) in &settings.yurt_hub.filters {
        merged.agents.entry(name.clone()).or_default().extend(agents.iter().cloned());
    }
    merged
}

/// The pool that the label of a node names.
fn pool(node: &Object) -> Option<String> {
    node.labels().ok()?.remove(POOL).filter(|pool| !pool.is_empty())
}

/// The topology that a Service asks for.
fn topology(service: &Object) -> Option<String> {
    Some(service.annotations().ok()?.remove(ANNOTATION)?.trim().to_string())
}

/// The nodes of a NodePool.
fn nodes(pool: &Object) -> Option<BTreeSet<String>> {
    let pool = value(pool)?;
    let nodes = pool["status"]["nodes"].as_array().into_iter().flatten();
    Some(nodes.filter_map(|node| node.as_str().map(str::to_string)).collect())
}

/// Follows the NodePool of the node, whichever it is.
async fn pool_nodes(hub: &Arc<Hub>) {
    let mut contexts = hub.filters.subscribe();
    loop {
        let Ok(pool) = contexts.wait_for(|context| context.pool.is_some()).await.map(|context| context.pool.clone()) else { return };
        tokio::select! {
            () = nodes_of(hub, pool.as_deref().unwrap_or_default()) => {}
            _ = contexts.wait_for(|context| context.pool != pool) => {}
        }
        hub.filters.update(|context| context.pool_nodes = None);
    }
}

async fn nodes_of(hub: &Arc<Hub>, pool: &str) {
    let mut link = hub.remote.changes();
    let version = loop {
        if let Some(version) = version(hub).await {
            break version;
        }
        link.mark_unchanged();
        let _ = timeout(between(REFUSED.0, REFUSED.1), link.changed()).await;
    };
    let name: String = url::form_urlencoded::byte_serialize(pool.as_bytes()).collect();
    let path = format!("/apis/{GROUP}/{version}/nodepools?fieldSelector=metadata.name%3D{name}");
    follow(hub, &path, nodes, |pools| {
        let nodes = pools.values().next().cloned();
        hub.filters.update(|context| context.pool_nodes = nodes);
    })
    .await;
}

/// The version in which the API server has node pools.
async fn version(hub: &Hub) -> Option<String> {
    let response = hub.get(&format!("/apis/{GROUP}"), "application/json").await;
    if response.status() != StatusCode::OK {
        return None;
    }
    preferred(&serde_json::from_slice(&whole(response.into_body(), MAX_GROUP).await.ok()?).ok()?)
}

/// The version that an APIGroup prefers.
fn preferred(group: &Value) -> Option<String> {
    let version = group["preferredVersion"]["version"].as_str()?;
    version.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| version.to_string())
}

/// Follows the pods that were changed here.
async fn repairs(hub: &Hub) {
    let mut changes = hub.local.outbox.statuses.changes();
    loop {
        changes.mark_unchanged();
        let now = changed_pods(&hub.local, &hub.node);
        hub.filters.update(|context| {
            if *context.repairs != now {
                context.repairs = Arc::new(now);
            }
        });
        if changes.changed().await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}

fn changed_pods(local: &Local, user: &str) -> BTreeMap<ObjectName, Repair> {
    let statuses = &local.outbox.statuses;
    let names = statuses.names(&POD);
    if names.is_empty() {
        return BTreeMap::new();
    }
    let repair = |name: ObjectName| {
        let changed = statuses.get(&POD, &name)?;
        let kept = local.copies(user, POD.resource, &name).into_iter().filter(|pod| pod.meta.uid == changed.uid);
        let kept = kept.max_by_key(|pod| pod.meta.resource_version.parse::<u64>().unwrap_or_default())?;
        let seen = statuses.view(&POD, &kept).and_then(|bytes| Object::read(bytes, kept.encoding()).ok()).unwrap_or(kept);
        let repair = Repair::of(&POD.read(&seen).ok()?["status"], &changed.uid, changed.sent);
        Some((name, repair))
    };
    names.into_iter().filter_map(repair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apimachinery::{media::Encoding, object::Envelope, wire::put_bytes};
    use serde_json::json;

    fn read(metadata: &Value) -> [Object; 2] {
        let json = json!({ "kind": "Node", "apiVersion": "v1", "metadata": metadata, "status": { "nodes": ["a", 7, "b"] } });
        let mut meta = Vec::new();
        for (number, field) in [(11, "labels"), (12, "annotations")] {
            for (key, value) in metadata[field].as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put_bytes(&mut entry, 2, value.as_str().unwrap().as_bytes());
                put_bytes(&mut meta, number, &entry);
            }
        }
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &meta);
        let protobuf = Envelope::wrap("v1", "Node", &message);
        [(json.to_string().into(), Encoding::Json), (protobuf, Encoding::Protobuf)]
            .map(|(bytes, encoding)| Object::read(bytes, encoding).unwrap())
    }

    #[test]
    fn pools_and_topology_are_read_from_labels_and_annotations() {
        for (metadata, found) in [
            (json!({ "labels": { POOL: "p" } }), (Some("p"), None)),
            (json!({ "labels": { POOL: "" }, "annotations": { "other": "x" } }), (None, None)),
            (json!({ "annotations": { ANNOTATION: " kubernetes.io/hostname " } }), (None, Some("kubernetes.io/hostname"))),
            (json!({}), (None, None)),
        ] {
            for object in read(&metadata) {
                assert_eq!((pool(&object).as_deref(), topology(&object).as_deref()), found, "{metadata}");
            }
        }
        // OpenYurt has these labels on nodes, too; they name no pool that the node is in.
        for label in ["apps.openyurt.io/desired-nodepool", "apps.openyurt.io/pool-name", "nodepool.openyurt.io/type"] {
            for object in read(&json!({ "labels": { label: "p" } })) {
                assert_eq!(pool(&object), None, "{label}");
            }
        }
        let [json, protobuf] = read(&json!({}));
        assert_eq!(nodes(&json), Some(["a".to_string(), "b".to_string()].into()));
        assert_eq!(nodes(&protobuf), None);
    }

    #[test]
    fn node_pools_of_all_versions_are_read() {
        let taints = json!([{ "key": "node-role.openyurt.io/edge", "effect": "NoSchedule" }]);
        let spec_v1alpha1 = json!({ "type": "Edge", "selector": { "matchLabels": { POOL: "hangzhou" } }, "taints": taints });
        let spec_v1beta1 =
            json!({ "type": "Edge", "hostNetwork": true, "labels": { "a": "b" }, "annotations": { "c": "d" }, "taints": taints });
        let spec_v1beta2 = json!({
            "type": "Edge", "hostNetwork": false, "interConnectivity": true, "enableLeaderElection": true,
            "leaderElectionStrategy": "mark", "leaderReplicas": 2, "leaderNodeLabelSelector": { "leader": "true" },
            "poolScopeMetadata": [{ "group": "", "version": "v1", "resource": "services" }],
        });
        let counts = json!({ "readyNodeNum": 1, "unreadyNodeNum": 1, "nodes": ["edge-1", "edge-2"] });
        let leaders = json!({
            "readyNodeNum": 1, "unreadyNodeNum": 1, "nodes": ["edge-1", "edge-2"], "leaderNum": 1,
            "leaderEndpoints": [{ "nodeName": "leader", "address": "10.0.0.9" }], "leaderLastElectedTime": "2026-01-01T00:00:00Z",
            "conditions": [{ "type": "LeaderReady", "status": "True" }],
        });
        let no_nodes = json!({ "readyNodeNum": 0, "unreadyNodeNum": 0 });
        let both: &[&str] = &["edge-1", "edge-2"];
        for (version, spec, status, wanted) in [
            ("v1alpha1", &spec_v1alpha1, &counts, both),
            ("v1beta1", &spec_v1beta1, &counts, both),
            ("v1beta2", &spec_v1beta2, &leaders, both),
            // The API server answers in the version that it prefers, with what another one was stored with.
            ("v1beta2", &spec_v1beta1, &counts, both),
            ("v1beta2", &spec_v1beta2, &no_nodes, &[]),
            ("v1beta1", &spec_v1beta1, &Value::Null, &[]),
        ] {
            let pool = json!({
                "apiVersion": format!("{GROUP}/{version}"), "kind": "NodePool", "metadata": { "name": "hangzhou" },
                "spec": spec, "status": status,
            });
            let found = nodes(&Object::read(pool.to_string().into(), Encoding::Json).unwrap());
            assert_eq!(found, Some(wanted.iter().map(ToString::to_string).collect()), "{pool}");
        }
        for (versions, wanted) in [
            (&["v1alpha1"][..], Some("v1alpha1")),
            (&["v1beta1", "v1alpha1"], Some("v1beta1")),
            (&["v1beta2", "v1beta1", "v1alpha1"], Some("v1beta2")),
            // It becomes part of a path.
            (&["../v1"], None),
            (&[], None),
        ] {
            let entry = |version: &&str| json!({ "groupVersion": format!("{GROUP}/{version}"), "version": version });
            let all: Vec<Value> = versions.iter().map(entry).collect();
            let group = json!({ "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": all, "preferredVersion": all.first() });
            assert_eq!(preferred(&group).as_deref(), wanted, "{group}");
        }
    }
}
