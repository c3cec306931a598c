//! Whether the node could restart now, without the API server: what the components of a node list when they start, and what its pods need.
pub mod pod;

use crate::{
    admin::inspect::{self, Set},
    apimachinery::{media::Encoding, object::Object, reported::POD},
    cache::{Cache, head::seconds},
    offline::replies::ServiceAccountToken,
    store::ObjectName,
    upstream::credentials::CredentialError,
};
use pod::Need;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

/// A component of a node.
struct Component {
    /// Its User-Agent up to the first slash.
    agent: &'static str,
    /// What the names of its pods begin with. A component that has no pods always runs.
    pods: &'static str,
    /// Resources that it lists when it starts.
    lists: &'static [&'static str],
}

const COMPONENTS: &[Component] = &[
    Component { agent: "kubelet", pods: "", lists: &["pods", "services"] },
    Component { agent: "kube-proxy", pods: "kube-proxy-", lists: &["services", "endpointslices.discovery.k8s.io"] },
    Component { agent: "coredns", pods: "coredns-", lists: &["services", "endpointslices.discovery.k8s.io", "namespaces"] },
    Component { agent: "flanneld", pods: "kube-flannel-", lists: &["nodes"] },
    Component {
        agent: "calico-node",
        pods: "calico-node-",
        lists: &["ippools.crd.projectcalico.org", "felixconfigurations.crd.projectcalico.org", "clusterinformations.crd.projectcalico.org"],
    },
    Component { agent: "cilium-agent", pods: "cilium-", lists: &["services", "endpointslices.discovery.k8s.io", "ciliumnodes.cilium.io"] },
];

/// What is known beside the cache.
pub struct Known<'a> {
    /// The user of the node.
    pub user: &'a str,
    /// The name of the node.
    pub node: &'a str,
    pub tokens: Vec<ServiceAccountToken>,
    /// When the certificate of the node expires, in seconds since 1970, or why that is not known.
    pub certificate: Result<u64, CredentialError>,
    pub now: SystemTime,
}

/// The findings; errors say that the node could not restart.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

pub fn report(cache: &Cache, known: &Known<'_>) -> Value {
    let sets = inspect::sets(&cache.store);
    let mut findings = Findings::default();
    let pods = pods(cache, known, &sets, &mut findings);
    let components: Vec<Value> = COMPONENTS.iter().filter_map(|of| component(of, cache, known, &sets, &pods, &mut findings)).collect();
    let kept = objects(cache, known.user, &sets);
    if !kept.contains(&("nodes".into(), ObjectName { namespace: String::new(), name: known.node.into() })) {
        findings.errors.push(format!("Node {} is not kept", known.node));
    }
    let pods: Vec<Value> = pods.iter().map(|pod| of_pod(pod, known, &kept, &mut findings)).collect();
    let now = seconds(known.now);
    let certificate = match &known.certificate {
        Err(e) => {
            findings.warnings.push(format!("the certificate of the node: {e}"));
            json!({ "error": e.to_string() })
        }
        Ok(at) => {
            if *at <= now {
                findings
                    .warnings
                    .push("the certificate of the node has expired: the node is served, but the API server cannot be asked".into());
            }
            json!({ "notAfter": at })
        }
    };
    json!({
        "ready": findings.errors.is_empty(), "node": known.node, "components": components, "pods": pods, "certificate": certificate,
        "errors": findings.errors, "warnings": findings.warnings,
    })
}

fn component(
    of: &Component,
    cache: &Cache,
    known: &Known<'_>,
    sets: &[Set],
    pods: &[(ObjectName, Object)],
    findings: &mut Findings,
) -> Option<Value> {
    let always = of.pods.is_empty();
    let runs = always || pods.iter().any(|(name, _)| name.name.starts_with(of.pods));
    let used = cache.agents.knows(of.agent);
    if !runs && !used {
        return None;
    }
    let mut lists = Vec::new();
    for resource in of.lists {
        // What an older version has kept does not say for whom.
        let of_agent =
            |set: &&Set| always && set.key.user == known.user || cache.agents.of(&set.name).iter().any(|agent| agent == of.agent);
        let all = sets.iter().filter(|set| set.resource() == *resource && set.is_list() && set.complete).filter(of_agent);
        let of_node = |set: &&Set| !always || *resource != "pods" || of_this_node(set, known.node);
        let best = all.filter(of_node).min_by_key(|set| (set.damaged, set.dirty, u64::MAX - set.at));
        let state = match best {
            None => "missing",
            Some(set) if set.damaged => "damaged",
            Some(set) if set.dirty => "old",
            Some(_) => "kept",
        };
        match state {
            "kept" => {}
            "old" => findings.warnings.push(format!("{}: {resource} are marked as old", of.agent)),
            state => findings.errors.push(format!("{}: {resource} are {state}", of.agent)),
        }
        lists.push(json!({ "resource": resource, "state": state, "ageSeconds": best.and_then(Set::age) }));
    }
    Some(json!({ "name": of.agent, "lists": lists }))
}

fn of_this_node(set: &Set, node: &str) -> bool {
    set.key.selected.as_ref().is_some_and(|selectors| {
        selectors.fields.is_empty() || selectors.fields.split(',').any(|term| term.strip_prefix("spec.nodeName=") == Some(node))
    })
}

/// The pods of the node that are still to run.
fn pods(cache: &Cache, known: &Known<'_>, sets: &[Set], findings: &mut Findings) -> Vec<(ObjectName, Object)> {
    let mut pods = BTreeMap::new();
    let of_pods = sets.iter().filter(|set| set.key.user == known.user && set.resource() == "pods" && set.is_list() && set.complete);
    for set in of_pods.filter(|set| of_this_node(set, known.node)) {
        let Some(encoding) = encoding(set) else { continue };
        let Ok(Some(listing)) = cache.store.list(&set.name) else { continue };
        for (name, bytes) in listing.items {
            match Object::read(bytes, encoding) {
                Ok(pod) if runs(&pod, known.node) => drop(pods.insert(name, pod)),
                Ok(_) => {}
                Err(e) => findings.errors.push(format!("Pod {name} cannot be read: {e}")),
            }
        }
    }
    pods.into_iter().collect()
}

fn encoding(set: &Set) -> Option<Encoding> {
    [Encoding::Json, Encoding::Protobuf].into_iter().find(|encoding| encoding.name() == set.key.media)
}

/// Whether kubelet would start a pod again. Mirrors of static pods need nothing of the API server.
fn runs(pod: &Object, node: &str) -> bool {
    let mirrored = pod.annotations().is_ok_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"));
    let report = POD.read(pod).unwrap_or_default();
    let ended = matches!(report["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !mirrored && !ended && crate::apimachinery::reported::node_name(pod).is_ok_and(|name| name == node)
}

/// The objects that are kept for the node: by resource and name.
fn objects(cache: &Cache, user: &str, sets: &[Set]) -> HashSet<(String, ObjectName)> {
    const WANTED: [&str; 4] = ["secrets", "configmaps", "persistentvolumeclaims", "nodes"];
    let mut all = HashSet::new();
    for set in sets.iter().filter(|set| set.key.user == user && !set.damaged && encoding(set).is_some()) {
        let resource = set.resource();
        if WANTED.contains(&resource.as_str()) {
            all.extend(cache.store.names(&set.name).into_iter().map(|name| (resource.clone(), name)));
        }
    }
    all
}

fn of_pod((name, pod): &(ObjectName, Object), known: &Known<'_>, kept: &HashSet<(String, ObjectName)>, findings: &mut Findings) -> Value {
    let needs = match pod::needs(pod) {
        Ok(needs) => needs,
        Err(e) => {
            findings.errors.push(format!("Pod {name} cannot be read: {e}"));
            return json!({ "namespace": name.namespace, "name": name.name, "error": e.to_string() });
        }
    };
    let now = seconds(known.now);
    let has = |resource: &str, of: &str| {
        kept.contains(&(resource.to_string(), ObjectName { namespace: name.namespace.clone(), name: of.to_string() }))
    };
    let token = |account: &str| {
        let ours =
            |t: &&ServiceAccountToken| t.namespace == name.namespace && t.account == account && t.pod == name.name && t.expires > now;
        known.tokens.iter().filter(ours).map(|token| token.expires).max()
    };
    let is_kept = |need: &Need| match need {
        Need::Secret(of) => has("secrets", of),
        Need::ConfigMap(of) => has("configmaps", of),
        Need::PersistentVolumeClaim(of) => has("persistentvolumeclaims", of),
        Need::Token(account) => token(account).is_some(),
    };
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_kept(need)).collect();
    for need in &missing {
        let (kind, of) = need.parts();
        findings.errors.push(format!("Pod {name} needs {kind} {of}, which is not kept"));
    }
    let expires = needs.iter().filter_map(|need| if let Need::Token(account) = need { token(account) } else { None }).min();
    let missing: Vec<Value> = missing.iter().map(|need| json!({ "kind": need.parts().0, "name": need.parts().1 })).collect();
    json!({ "namespace": name.namespace, "name": name.name, "needs": needs.len(), "missing": missing, "tokenExpires": expires })
}
