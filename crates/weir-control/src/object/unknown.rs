//! Documents that are not of a kind that Weir reads: mistakes (errors, so that what stood there before keeps serving), kinds
//! that Weir does not support yet (warnings), and kinds that are no business of a gateway (nothing to say).
use super::meta::{KINDS, KindInfo};
use weir_config::{
    node::{Node, Value},
    reader::{Field, nearest},
};

/// Groups whose kinds are no business of a gateway.
const QUIET_GROUPS: &[&str] = &[
    "",
    "apps",
    "batch",
    "autoscaling",
    "policy",
    "rbac.authorization.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "admissionregistration.k8s.io",
    "storage.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "networking.k8s.io",
    "kustomize.config.k8s.io",
    "cert-manager.io",
    "monitoring.coreos.com",
];

/// Groups whose kinds say something about traffic, with what it means that Weir does not support them.
const TRAFFIC_GROUPS: &[(&str, &str)] = &[
    ("gateway.networking.k8s.io", ""),
    ("gateway.networking.x-k8s.io", ""),
    ("networking.istio.io", ""),
    ("security.istio.io", ", and does not check requests against it"),
    ("telemetry.istio.io", ""),
    ("networking.higress.io", ""),
];

/// Kinds of the groups that Weir reads which it does not read: no misspellings of those that it does.
const OTHER_KINDS: &[(&str, &[&str])] = &[
    ("gateway.networking.k8s.io", &["BackendLBPolicy", "BackendTrafficPolicy", "ReferencePolicy", "Mesh", "XMesh", "XListenerSet"]),
    ("networking.istio.io", &["EnvoyFilter", "Sidecar", "WorkloadGroup", "ProxyConfig"]),
    ("security.istio.io", &["PeerAuthentication", "RequestAuthentication"]),
    ("networking.k8s.io", &["NetworkPolicy", "IPAddress", "ServiceCIDR", "ClusterTrustBundle"]),
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            "Event",
            "LimitRange",
            "List",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "ServiceAccount",
            "Status",
        ],
    ),
];

/// Other projects' groups that have a kind of the same name as one that Weir reads.
const SAME_NAMES: &[&str] = &[
    "serving.knative.dev",
    "networking.internal.knative.dev",
    "config.openshift.io",
    "gateway.solo.io",
    "appmesh.k8s.aws",
    "networking.gke.io",
    "submariner.io",
];

/// What is written in place of a group and kind that Weir reads.
enum Meant {
    /// The group is right, or nearly so, and the kind is misspelt.
    Kind(&'static KindInfo),
    /// There is such a kind in another group.
    Group(&'static KindInfo),
}

fn meant(group: &str, kind: &str) -> Option<Meant> {
    let others = OTHER_KINDS.iter().filter(|(g, _)| *g == group).flat_map(|(_, kinds)| *kinds);
    if SAME_NAMES.contains(&group) || others.into_iter().any(|k| *k == kind) {
        return None;
    }
    let mut same = KINDS.iter().filter(|i| i.name == kind);
    // Of two groups with the kind, the nearer one.
    let groups: Vec<&str> = same.clone().map(|i| i.group).collect();
    let near = nearest(group, groups);
    if let Some(info) = same.clone().find(|i| Some(i.group) == near).or_else(|| same.next()) {
        return Some(Meant::Group(info));
    }
    let ours = |info: &&KindInfo| info.group == group || (!group.is_empty() && nearest(group, [info.group]).is_some());
    let near = nearest(kind, KINDS.iter().filter(ours).map(|i| i.name))?;
    KINDS.iter().filter(ours).find(|i| i.name == near).map(Meant::Kind)
}

/// Reports a kind that Weir does not read.
pub fn report(field: &Field<'_>, group: &str, kind: &str) {
    match meant(group, kind) {
        Some(Meant::Kind(info)) => {
            let help = format!("did you mean {}?", info.name);
            return field.error("UnknownKind", format!("unknown kind \"{kind}\" of {}", shown(group)), help);
        }
        Some(Meant::Group(info)) => {
            let help = format!("write apiVersion: {}", info.api_version(info.versions[0]));
            return field.error("UnknownKind", format!("there is no kind {kind} in {}", shown(group)), help);
        }
        None => {}
    }
    if let Some((group, more)) = TRAFFIC_GROUPS.iter().find(|(g, _)| *g == group) {
        let message = format!("{kind} of {group} is not supported yet: Weir ignores it{more}");
        return field.warning("UnsupportedKind", message, "see the kinds in docs/reference/objects.md");
    }
    if !QUIET_GROUPS.contains(&group) {
        let message = format!("unknown kind {kind} of {}: Weir ignores it", shown(group));
        field.warning("UnknownKind", message, format!("Weir reads {}", names()));
    }
}

fn shown(group: &str) -> String {
    if group.is_empty() { "the core group".into() } else { format!("the group {group}") }
}

fn names() -> String {
    let mut names: Vec<&str> = KINDS.iter().map(|i| i.name).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Whether a document without `apiVersion` and `kind` is an object with these misspelt, rather than some other file.
fn is_nearly_object(node: &Node) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    let near = |words: &[&'static str]| entries.iter().any(|(key, _)| nearest(&key.text, words.iter().copied()).is_some());
    near(&["apiVersion", "kind"]) || (near(&["metadata"]) && near(&["spec"]))
}

/// Reports a document that has neither `apiVersion` nor `kind`.
pub fn report_no_object(field: &Field<'_>) {
    let message = "this document has neither apiVersion nor kind: it is not a Kubernetes object";
    if is_nearly_object(field.node()) {
        return field.error("MissingField", message, "add apiVersion and kind");
    }
    field.warning("NotAnObject", format!("{message}; Weir ignores it"), "keep other files elsewhere");
}

/// Reports a document that is not even a map.
pub fn report_no_map(field: &Field<'_>) {
    let found = field.node().kind();
    let help = match &field.node().value {
        Value::List(_) => "separate objects by lines of ---, or list them under items of kind: List, apiVersion: v1",
        Value::String(text) if text.contains(';') && text.contains('{') => {
            "this looks like an nginx configuration; Weir reads Kubernetes objects with apiVersion, kind and metadata"
        }
        _ => "an object with apiVersion, kind and metadata",
    };
    field.error("InvalidType", format!("expected a Kubernetes object, found {found}"), help);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_from_kinds_of_others() {
        let shown = |group, kind| match meant(group, kind) {
            Some(Meant::Kind(info)) => format!("kind {}", info.name),
            Some(Meant::Group(info)) => format!("group {}", info.group),
            None => String::new(),
        };
        for (group, kind, want) in [
            ("gateway.networking.k8s.io", "HTTPRout", "kind HTTPRoute"),
            ("gateway.networking.k8s.io", "HttpRoute", "kind HTTPRoute"),
            ("gateway.networking.k8.io", "HTTPRoutes", "kind HTTPRoute"),
            ("", "Servise", "kind Service"),
            ("networking.k8s.io", "HTTPRoute", "group gateway.networking.k8s.io"),
            ("extensions", "Ingress", "group networking.k8s.io"),
            ("gateway.networking.k8.io", "Gateway", "group gateway.networking.k8s.io"),
            ("networking.istio.i", "Gateway", "group networking.istio.io"),
            ("extensions.istio.io", "VirtualService", "group networking.istio.io"),
            ("gateway.networking.k8s.io", "XMesh", ""),
            ("networking.istio.io", "Sidecar", ""),
            ("serving.knative.dev", "Service", ""),
            ("crd.antrea.io", "Egress", ""),
            ("example.com", "Ingres", ""),
            ("", "Node", ""),
            ("apps", "Deployment", ""),
        ] {
            assert_eq!(shown(group, kind), want, "{group} {kind}");
        }
    }
}
