//! `servicetopology`: of a Service with the annotation `openyurt.io/topologyKeys`, clients see only the endpoints on the same node, or in the
//! same node pool.
use super::{context::Context, draft::Draft, outcome::Outcome};
use crate::{
    apimachinery::{object::Object, schema::ContentError},
    store::ObjectName,
};
use serde_json::Value;

pub const NAME: &str = "servicetopology";
/// On a Service.
pub const ANNOTATION: &str = "openyurt.io/topologyKeys";
const HOSTNAME: &str = "kubernetes.io/hostname";
const POOL: &[&str] = &["openyurt.io/nodepool", "kubernetes.io/zone"];
/// On an EndpointSlice.
const SERVICE: &str = "kubernetes.io/service-name";

/// The Service of an EndpointSlice or of an Endpoints.
fn service(object: &Object) -> Option<ObjectName> {
    let name = match object.labels().ok()?.remove(SERVICE) {
        Some(name) => name,
        None if object.kind == "Endpoints" => object.meta.name.clone(),
        None => return None,
    };
    Some(ObjectName { namespace: object.meta.namespace.clone(), name })
}

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    let Some(key) = service(draft.object).and_then(|service| context.topology.get(&service)) else { return Ok(Outcome::Keep) };
    let here = |node: &str| node == context.node;
    match (key.as_str(), &context.pool, &context.pool_nodes) {
        (HOSTNAME, ..) => draft.edit(|object| trim(object, here))?,
        (key, None, _) if POOL.contains(&key) => draft.edit(|object| trim(object, here))?,
        (key, Some(_), Some(nodes)) if POOL.contains(&key) => draft.edit(|object| trim(object, |node| nodes.contains(node)))?,
        // Another key, or it is not known yet who is in the pool.
        _ => {}
    }
    Ok(Outcome::Keep)
}

/// Removes the endpoints that are not on one of the `wanted` nodes, and those of which the node is not known.
fn trim(object: &mut Value, wanted: impl Fn(&str) -> bool) -> bool {
    let mut trimmed = retain(object.get_mut("endpoints"), |endpoint| node(endpoint).is_some_and(&wanted));
    if let Some(subsets) = object.get_mut("subsets").and_then(Value::as_array_mut) {
        for subset in subsets.iter_mut() {
            for field in ["addresses", "notReadyAddresses"] {
                trimmed |= retain(subset.get_mut(field), |address| node(address).is_some_and(&wanted));
            }
        }
        let some = |subset: &Value, field: &str| subset.get(field).and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        subsets.retain(|subset| some(subset, "addresses") || some(subset, "notReadyAddresses"));
    }
    trimmed
}

fn retain(list: Option<&mut Value>, wanted: impl Fn(&Value) -> bool) -> bool {
    let Some(list) = list.and_then(Value::as_array_mut) else { return false };
    let before = list.len();
    list.retain(wanted);
    list.len() != before
}

/// The node of an endpoint; `topology` is that of `discovery.k8s.io/v1beta1`.
fn node(endpoint: &Value) -> Option<&str> {
    let of_topology = || ["deprecatedTopology", "topology"].into_iter().find_map(|field| endpoint.get(field)?.get(HOSTNAME)?.as_str());
    endpoint.get("nodeName").and_then(Value::as_str).or_else(of_topology)
}
