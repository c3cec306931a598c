//! The Service and the EndpointSlices of a Gateway as they should be, and whether those of the cluster are.
use crate::{
    api::{
        gateway_api::{GROUP, gateway::Gateway},
        target_ports::{PortsOfGateway, word},
    },
    kubernetes::client::GatewayService,
    object::{Key, Kind},
};
use k8s_openapi::{api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::{Map, Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// By Gateway API (GEP-1762) what is generated for a Gateway has these.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "weir";
/// The digest of what was applied: fields that are not wanted any more show by it.
const APPLIED: &str = "weir.dev/applied";
/// An EndpointSlice has no more endpoints.
const MAX_ENDPOINTS: usize = 1000;
const MAX_NAME: usize = 63;

/// The Gateway that owns a Service or EndpointSlice of the cluster.
pub fn gateway_of(meta: &ObjectMeta) -> Option<Key> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.kind == "Gateway")?;
    Some(Key::new(Kind::Gateway, meta.namespace.as_deref()?, &owner.name))
}

/// Whether an object was made for the Gateway with this uid.
pub fn is_of(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// Whether Weir made an object for the Gateway, or for an earlier one of its name.
pub fn is_managed(meta: &ObjectMeta, gateway: &Key) -> bool {
    let by_weir = meta.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|by| by == MANAGER);
    by_weir && gateway_of(meta).as_ref() == Some(gateway)
}

/// `NAME-CLASS`, as GEP-1762 has it.
pub fn name(gateway: &Key, class: &str) -> String {
    let name = format!("{}-{class}", gateway.name).replace('.', "-");
    let prefix = if name.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "g-" };
    short(&format!("{prefix}{name}"))
}

/// As long as names of Services and values of labels may be: the end of a longer one is replaced by a digest.
fn short(text: &str) -> String {
    if text.len() <= MAX_NAME {
        return text.into();
    }
    let end = format!("-{:08x}", digest(&text) as u32);
    let start: String = text.chars().take(MAX_NAME - end.len()).collect();
    start.trim_end_matches(['-', '.']).to_string() + &end
}

fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn metadata(gateway: &Key, spec: &Gateway, name: &str, labels: Map<String, Value>) -> Value {
    let owner = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "name": gateway.name, "uid": spec.uid, "controller": true,
    });
    json!({ "name": name, "namespace": gateway.namespace, "labels": labels, "ownerReferences": [owner] })
}

fn labels(gateway: &Key, spec: &Gateway) -> Map<String, Value> {
    let mut labels: Map<String, Value> = spec.labels.iter().map(|(key, value)| (key.to_string(), json!(value))).collect();
    labels.insert(GATEWAY_NAME.into(), json!(short(&gateway.name)));
    labels.insert(GATEWAY_CLASS.into(), json!(short(&spec.class)));
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    labels
}

pub fn service(gateway: &Key, spec: &Gateway, targets: &PortsOfGateway, options: &GatewayService) -> Value {
    let port = |((port, protocol), target): (&(u16, _), &u16)| {
        let protocol = word(*protocol);
        json!({ "name": format!("{}-{port}", protocol.to_lowercase()), "port": port, "protocol": protocol, "targetPort": target })
    };
    let mut wanted = json!({
        "type": options.kind.name(),
        "ipFamilyPolicy": "PreferDualStack",
        "ports": targets.iter().map(port).collect::<Vec<_>>(),
    });
    if options.kind.is_external() {
        wanted["externalTrafficPolicy"] = json!(options.external_traffic_policy.name());
    }
    if options.kind.is_load_balancer() {
        if let Some(class) = &options.load_balancer_class {
            wanted["loadBalancerClass"] = json!(class);
        }
        if let Some(address) = spec.addresses.first() {
            wanted["loadBalancerIP"] = json!(address);
        }
    }
    let mut metadata = metadata(gateway, spec, &name(gateway, &spec.class), labels(gateway, spec));
    metadata["annotations"] = spec.annotations.iter().map(|(key, value)| (key.to_string(), json!(value))).collect::<Map<_, _>>().into();
    let mut service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wanted });
    let digest = format!("{:016x}", digest(&service.to_string()));
    service["metadata"]["annotations"][APPLIED] = json!(digest);
    service
}

/// The endpoints of the Service in front of all gateways, at the ports of this one.
pub fn slice(gateway: &Key, spec: &Gateway, targets: &PortsOfGateway, of: &EndpointSlice) -> Value {
    let service = name(gateway, &spec.class);
    let port = |((port, protocol), target): (&(u16, _), &u16)| {
        let protocol = word(*protocol);
        json!({ "name": format!("{}-{port}", protocol.to_lowercase()), "port": target, "protocol": protocol })
    };
    let endpoint = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        let mut copy = json!({ "addresses": endpoint.addresses });
        let conditions = endpoint.conditions.as_ref().map(|c| json!(c)).filter(|c| c.as_object().is_some_and(|c| !c.is_empty()));
        let more = [
            ("conditions", conditions),
            ("nodeName", endpoint.node_name.as_ref().map(|n| json!(n))),
            ("zone", endpoint.zone.as_ref().map(|z| json!(z))),
        ];
        more.into_iter().filter_map(|(key, value)| Some((key, value?))).for_each(|(key, value)| copy[key] = value);
        copy
    };
    let mut labels = Map::new();
    labels.insert("kubernetes.io/service-name".into(), json!(service));
    labels.insert("endpointslice.kubernetes.io/managed-by".into(), json!(MANAGER));
    labels.insert(GATEWAY_NAME.into(), json!(short(&gateway.name)));
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(gateway, spec, &format!("{service}-{:08x}", digest(&of.metadata.name) as u32), labels),
        "addressType": of.address_type,
        "ports": targets.iter().map(port).collect::<Vec<_>>(),
        "endpoints": of.endpoints.iter().take(MAX_ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Whether an object of the cluster says all that is wanted. It may say more: labels of others, and what the API server fills in.
pub fn says(observed: &Value, wanted: &Value) -> bool {
    match (observed, wanted) {
        (_, Value::Object(wanted)) => wanted.iter().all(|(key, value)| match (observed.get(key), value) {
            // Others may own it, too.
            (Some(Value::Array(observed)), Value::Array(owners)) if key == "ownerReferences" => {
                owners.iter().all(|one| observed.iter().any(|other| says(other, one)))
            }
            (Some(observed), value) => says(observed, value),
            // An empty map or list is not kept.
            (None, value) => {
                matches!(key.as_str(), "apiVersion" | "kind")
                    || value.as_object().is_some_and(Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty)
            }
        }),
        (Value::Array(observed), Value::Array(wanted)) => {
            observed.len() == wanted.len() && wanted.iter().all(|one| observed.iter().any(|other| says(other, one)))
        }
        (observed, wanted) => observed == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_services() {
        let name = |gateway: &str, class: &str| name(&Key::new(Kind::Gateway, "shop", gateway), class);
        assert_eq!(name("web", "weir"), "web-weir");
        assert_eq!(name("web.v1", "weir"), "web-v1-weir");
        let long = "x".repeat(200);
        assert_eq!(name("1st", "weir"), "g-1st-weir");
        for (gateway, class) in [(&*long, "weir"), ("1st", &*long)] {
            assert_eq!(name(gateway, class).len(), MAX_NAME);
        }
        assert_ne!(name(&long, "a"), name(&long, "b"));
    }

    #[test]
    fn what_others_add_is_no_difference() {
        let wanted =
            json!({ "metadata": { "labels": { "a": "1" }, "annotations": {} }, "spec": { "ports": [{ "port": 80 }, { "port": 81 }] } });
        let same = json!({
            "metadata": { "labels": { "a": "1", "b": "2" }, "uid": "u" },
            "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": 81, "nodePort": 30001 }, { "port": 80, "nodePort": 30000 }] },
        });
        assert!(says(&same, &wanted));
        for (path, value) in
            [("/metadata/labels/a", json!("2")), ("/spec/ports/0/port", json!(82)), ("/spec/ports", json!([{ "port": 80 }]))]
        {
            let mut other = same.clone();
            *other.pointer_mut(path).unwrap_or(&mut Value::Null) = value;
            assert!(!says(&other, &wanted), "{path}");
        }
    }
}
