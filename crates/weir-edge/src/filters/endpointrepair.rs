//! `endpointrepair`: a pod that came back with another address while the API server could not be reached has it in the EndpointSlices and
//! Endpoints that clients see, as kubelet reported it. The controllers in the cloud write the same once they hear of it.
use super::{
    context::{Context, Repair},
    draft::Draft,
    outcome::Outcome,
};
use crate::{
    apimachinery::{object::Object, schema::ContentError},
    store::ObjectName,
};
use serde_json::{Value, json};
use std::net::IpAddr;

pub const NAME: &str = "endpointrepair";

impl Repair {
    /// From a pod's status.
    pub fn of(status: &Value, uid: &str, sent: Option<u64>) -> Repair {
        let listed = status["podIPs"].as_array().into_iter().flatten().map(|entry| &entry["ip"]);
        let ips = listed.chain([&status["podIP"]]).filter_map(|ip| ip.as_str()?.parse().ok());
        let mut all: Vec<IpAddr> = Vec::new();
        ips.for_each(|ip| {
            if !all.contains(&ip) {
                all.push(ip)
            }
        });
        let conditions = status["conditions"].as_array();
        let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        Repair { uid: uid.to_string(), ips: all, ready, sent }
    }

    fn ip(&self, v4: bool) -> Option<String> {
        self.ips.iter().find(|ip| ip.is_ipv4() == v4).map(ToString::to_string)
    }
}

pub fn apply(draft: &mut Draft<'_>, context: &Context) -> Result<Outcome, ContentError> {
    let repairs = Repairs { context, version: version(draft.object), namespace: draft.object.meta.namespace.clone() };
    draft.edit(|object| {
        let v4 = object.get("addressType").is_some_and(|kind| kind == "IPv4");
        let mut changed = false;
        for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(repair) = repairs.of(endpoint) {
                changed |= endpoint_of(endpoint, repair, v4);
            }
        }
        for subset in object.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
            changed |= subset_of(subset, &repairs);
        }
        changed
    })?;
    Ok(Outcome::Keep)
}

/// A version that is no number is later than all that is known.
fn version(object: &Object) -> u64 {
    object.meta.resource_version.parse().unwrap_or(u64::MAX)
}

struct Repairs<'a> {
    context: &'a Context,
    version: u64,
    namespace: String,
}

impl<'a> Repairs<'a> {
    /// What is to be repaired of an endpoint: it stands for a pod that was changed here, and the API server has not written it since.
    fn of(&self, endpoint: &Value) -> Option<&'a Repair> {
        let target = endpoint.get("targetRef").filter(|target| target["kind"] == "Pod")?;
        let text = |field: &str| target.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let namespace = text("namespace").unwrap_or(&self.namespace).to_string();
        let repair = self.context.repairs.get(&ObjectName { namespace, name: text("name")?.to_string() })?;
        let same = text("uid").is_none_or(|uid| uid == repair.uid);
        (same && repair.sent.is_none_or(|sent| self.version <= sent)).then_some(repair)
    }
}

/// Sets a field to a value; whether it was another one.
fn set(object: &mut Value, field: &str, value: Value) -> bool {
    let Some(object) = object.as_object_mut() else { return false };
    let changed = object.get(field) != Some(&value);
    object.insert(field.to_string(), value);
    changed
}

fn endpoint_of(endpoint: &mut Value, repair: &Repair, v4: bool) -> bool {
    let mut changed = false;
    let ip = repair.ip(v4);
    let ready = repair.ready && ip.is_some();
    // An endpoint has an address: a pod without one keeps its last, and is not ready.
    if let Some(ip) = ip {
        changed |= set(endpoint, "addresses", json!([ip]));
    }
    let conditions = match endpoint.as_object_mut() {
        Some(endpoint) => endpoint.entry("conditions").or_insert_with(|| json!({})),
        None => return changed,
    };
    let terminating = conditions.get("terminating").is_some_and(|value| *value == true);
    // What is not set is true.
    let is = |conditions: &Value, field: &str| conditions.get(field).is_none_or(|value| *value != false);
    for (field, value) in [("ready", ready && !terminating), ("serving", ready)] {
        if is(conditions, field) != value {
            changed |= set(conditions, field, value.into());
        }
    }
    changed
}

fn subset_of(subset: &mut Value, repairs: &Repairs<'_>) -> bool {
    let Some(subset) = subset.as_object_mut() else { return false };
    let mut changed = false;
    let fields = ["notReadyAddresses", "addresses"];
    let mut moved: [Vec<Value>; 2] = Default::default();
    for (was_ready, field) in fields.into_iter().enumerate() {
        let Some(addresses) = subset.get_mut(field).and_then(Value::as_array_mut) else { continue };
        addresses.retain_mut(|address| {
            let Some(repair) = repairs.of(address) else { return true };
            let v4 = address["ip"].as_str().is_none_or(|ip| !ip.contains(':'));
            let ip = repair.ip(v4);
            let ready = usize::from(repair.ready && ip.is_some());
            if let Some(ip) = ip {
                changed |= set(address, "ip", ip.into());
            }
            if ready != was_ready {
                moved[ready].push(address.take());
            }
            ready == was_ready
        });
    }
    for (field, moved) in fields.into_iter().zip(moved) {
        changed |= !moved.is_empty();
        if !moved.is_empty()
            && let Some(all) = subset.entry(field).or_insert_with(|| json!([])).as_array_mut()
        {
            all.extend(moved);
        }
    }
    // A list without addresses is not there at all.
    fields.into_iter().for_each(|field| {
        if changed && subset.get(field).is_some_and(|all| *all == json!([])) {
            subset.shift_remove(field);
        }
    });
    changed
}
