//! The part of an object's `status` that is Weir's own: what to compare, and what to put in its place. All else in it stays as it is.
use super::status::validation;
use crate::object::Kind;
use serde_json::{Map, Value, json};
use std::hash::{DefaultHasher, Hasher};

/// How a kind's `status` is divided among controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A list with entries of many controllers, told apart by `controllerName`.
    Entries(&'static str),
    /// One controller has all of these fields, and the conditions whose types have no domain.
    Fields(&'static [&'static str]),
    /// Only the condition `Accepted`, and the messages of Istio's kinds that Weir wrote: other controllers may have some of their own.
    Accepted,
    /// Only the addresses.
    LoadBalancer,
}

const MESSAGES: &str = "validationMessages";

fn shape(kind: Kind) -> Option<Shape> {
    use Kind::*;
    Some(match kind {
        GatewayClass => Shape::Fields(&["supportedFeatures"]),
        Gateway => Shape::Fields(&["addresses", "listeners", "attachedListenerSets"]),
        HttpRoute | GrpcRoute | TlsRoute | TcpRoute | UdpRoute => Shape::Entries("parents"),
        ListenerSet => Shape::Fields(&["listeners"]),
        BackendTlsPolicy => Shape::Entries("ancestors"),
        Ingress => Shape::LoadBalancer,
        McpBridge => Shape::Fields(&["registries"]),
        IstioGateway | VirtualService | DestinationRule | ServiceEntry | WorkloadEntry => Shape::Accepted,
        AuthorizationPolicy | WasmPlugin | HigressWasmPlugin => Shape::Accepted,
        _ => return None,
    })
}

/// Whether Weir writes the status of a kind.
pub fn is_written(kind: Kind) -> bool {
    shape(kind).is_some()
}

/// Whether the status of a kind is written only while something uses the object.
pub fn is_written_where_used(kind: Kind) -> bool {
    matches!(kind, Kind::DestinationRule | Kind::ServiceEntry | Kind::WorkloadEntry)
}

/// What of a status is Weir's, in a form in which equal ones are the same: without times, lists in order.
pub fn own(kind: Kind, controller: &str, status: &Value) -> Value {
    let mut own = match shape(kind) {
        Some(Shape::Entries(field)) => {
            let entries = items(status, field).filter(|entry| entry["controllerName"] == controller).cloned();
            json!({ field: entries.collect::<Vec<_>>() })
        }
        Some(Shape::Fields(fields)) => {
            let mut own: Map<String, Value> =
                fields.iter().filter_map(|field| Some((field.to_string(), status.get(*field)?.clone()))).collect();
            own.insert("conditions".into(), items(status, "conditions").filter(|c| is_plain(c)).cloned().collect());
            own.into()
        }
        Some(Shape::Accepted) => {
            let conditions = items(status, "conditions").filter(|c| is_accepted(c)).cloned();
            let messages = items(status, MESSAGES).filter(|m| validation::is_own(m)).cloned();
            json!({ "conditions": conditions.collect::<Vec<_>>(), MESSAGES: messages.collect::<Vec<_>>() })
        }
        Some(Shape::LoadBalancer) => json!({ "loadBalancer": status.get("loadBalancer").cloned().unwrap_or_else(|| json!({})) }),
        None => json!({}),
    };
    canonical(&mut own);
    own
}

/// A condition whose type has no domain is one of the API itself.
fn is_plain(condition: &Value) -> bool {
    !condition["type"].as_str().unwrap_or_default().contains('/')
}

fn is_accepted(condition: &Value) -> bool {
    condition["type"] == "Accepted"
}

/// A status in which nothing is Weir's; `None` for kinds that are left as they are.
pub fn nothing(kind: Kind) -> Option<Value> {
    match shape(kind)? {
        Shape::Entries(field) => Some(json!({ field: [] })),
        _ => None,
    }
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn canonical(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(canonical);
            map.retain(|key, value| key != "lastTransitionTime" && !is_empty(value));
            map.sort_keys();
        }
        Value::Array(list) => {
            list.iter_mut().for_each(canonical);
            list.sort_by_cached_key(Value::to_string);
        }
        _ => {}
    }
}

/// An empty list is as good as none.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// What stands for an own part where they are many.
pub fn digest(own: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(own.to_string().as_bytes());
    hasher.finish()
}

/// The fields to write: `current` with the own part `desired` in place of what was there. Conditions that did not change keep the time
/// of their last transition; others get `now`.
pub fn merged(kind: Kind, controller: &str, current: &Value, desired: &Value, now: &str) -> Value {
    let mut new = desired.clone();
    match shape(kind) {
        Some(Shape::Entries(field)) => {
            let identity = |entry: &Value| {
                let reference = entry.get("parentRef").or_else(|| entry.get("ancestorRef"));
                reference.map(|r| {
                    let mut r = r.clone();
                    canonical(&mut r);
                    r.to_string()
                })
            };
            let before: Vec<&Value> = items(current, field).collect();
            for entry in new.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                let same = before.iter().find(|b| b["controllerName"] == controller && identity(b) == identity(entry));
                keep_times(entry, same.copied(), now);
            }
            let mut all: Vec<Value> = before.into_iter().filter(|b| b["controllerName"] != controller).cloned().collect();
            all.extend(items(&new, field).cloned());
            new[field] = all.into();
        }
        Some(Shape::Fields(fields)) => {
            keep_times(&mut new, Some(current), now);
            let foreign: Vec<Value> = items(current, "conditions").filter(|c| !is_plain(c)).cloned().collect();
            if let Some(conditions) = new.get_mut("conditions").and_then(Value::as_array_mut) {
                conditions.extend(foreign);
            }
            for list in ["listeners", "registries"] {
                let before: Vec<&Value> = items(current, list).collect();
                for part in new.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    // Registries of different types may have one name.
                    let same = before.iter().find(|b| (&b["name"], &b["type"]) == (&part["name"], &part["type"]));
                    keep_times(part, same.copied(), now);
                }
            }
            // A merge patch removes what is null.
            for field in fields.iter().filter(|field| current.get(**field).is_some() && desired.get(**field).is_none()) {
                new[*field] = Value::Null;
            }
        }
        Some(Shape::Accepted) => {
            keep_times(&mut new, Some(current), now);
            let others: Vec<Value> = items(current, "conditions").filter(|c| !is_accepted(c)).cloned().collect();
            if let Some(conditions) = new.get_mut("conditions").and_then(Value::as_array_mut) {
                conditions.extend(others);
            }
            let others = items(current, MESSAGES).filter(|m| !validation::is_own(m)).cloned();
            let messages: Vec<Value> = others.chain(items(desired, MESSAGES).cloned()).collect();
            // Also where there are none any more.
            if !messages.is_empty() || current.get(MESSAGES).is_some() {
                new[MESSAGES] = messages.into();
            } else if let Some(fields) = new.as_object_mut() {
                fields.remove(MESSAGES);
            }
        }
        Some(Shape::LoadBalancer) | None => {}
    }
    new
}

fn keep_times(new: &mut Value, before: Option<&Value>, now: &str) {
    for condition in new.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = before.into_iter().flat_map(|b| items(b, "conditions")).find(|b| b["type"] == condition["type"]);
        let same = same.filter(|b| b["status"] == condition["status"]);
        let time = same.and_then(|b| b["lastTransitionTime"].as_str()).unwrap_or(now);
        condition["lastTransitionTime"] = time.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "weir.dev/gateway-controller";

    fn condition(kind: &str, status: &str, time: Option<&str>) -> Value {
        let mut condition = json!({ "type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": 1 });
        if let Some(time) = time {
            condition["lastTransitionTime"] = time.into();
        }
        condition
    }

    fn parent(controller: &str, name: &str, conditions: &[Value]) -> Value {
        json!({ "controllerName": controller, "parentRef": { "name": name, "group": "g", "kind": "Gateway" }, "conditions": conditions })
    }

    #[test]
    fn entries_of_other_controllers_and_times_stay() {
        let current = json!({ "parents": [
            parent("other", "g", &[condition("Accepted", "True", Some("t0"))]),
            parent(US, "gone", &[]),
            parent(US, "g", &[condition("ResolvedRefs", "False", Some("t2")), condition("Accepted", "True", Some("t1"))]),
        ] });
        let desired = json!({ "parents": [
            parent(US, "g", &[condition("Accepted", "True", None), condition("ResolvedRefs", "True", None)]),
            parent(US, "h", &[condition("Accepted", "True", None)]),
        ] });
        let new = merged(Kind::HttpRoute, US, &current, &desired, "now");
        let want = json!({ "parents": [
            parent("other", "g", &[condition("Accepted", "True", Some("t0"))]),
            parent(US, "g", &[condition("Accepted", "True", Some("t1")), condition("ResolvedRefs", "True", Some("now"))]),
            parent(US, "h", &[condition("Accepted", "True", Some("now"))]),
        ] });
        assert_eq!(new, want);
        assert_ne!(own(Kind::HttpRoute, US, &current), own(Kind::HttpRoute, US, &desired));
        assert_eq!(own(Kind::HttpRoute, US, &new), own(Kind::HttpRoute, US, &desired), "what is written is what was asked for");
        // Of another controller alone, nothing is ours.
        let foreign = json!({ "parents": [current["parents"][0]] });
        assert_eq!(own(Kind::HttpRoute, US, &foreign), own(Kind::HttpRoute, US, &json!({})));
    }

    #[test]
    fn messages_of_others_stay() {
        let message =
            |code: &str, by: &str| json!({ "type": { "code": code }, "documentationUrl": format!("https://istio.io/{code}/?ref={by}") });
        let (theirs, ours, new) = (message("ist0128", "istiod"), message("ist0101", "weir"), message("ist0106", "weir"));
        let status = |messages: &[&Value]| json!({ "conditions": [condition("Accepted", "True", Some("t"))], MESSAGES: messages });
        let none = json!({ "conditions": [condition("Accepted", "True", Some("t"))] });
        // What is there, what is asked for, what is written.
        let table = [
            (none.clone(), status(&[]), none.clone()),
            (none.clone(), status(&[&new]), status(&[&new])),
            (status(&[&ours, &theirs]), status(&[&new]), status(&[&theirs, &new])),
            (status(&[&ours, &theirs]), status(&[]), status(&[&theirs])),
            (status(&[&ours]), status(&[]), status(&[])),
        ];
        for (current, desired, want) in table {
            let written = merged(Kind::VirtualService, US, &current, &desired, "now");
            assert_eq!(written, want, "{current} {desired}");
            assert_eq!(own(Kind::VirtualService, US, &written), own(Kind::VirtualService, US, &desired));
        }
        assert_ne!(own(Kind::VirtualService, US, &status(&[&ours])), own(Kind::VirtualService, US, &status(&[&theirs])));
    }

    #[test]
    fn fields_are_compared_whatever_their_order() {
        let listener = |name: &str, kinds: &[&str], time: Option<&str>| {
            let kinds: Vec<Value> = kinds.iter().map(|kind| json!({ "group": "g", "kind": kind })).collect();
            json!({ "name": name, "attachedRoutes": 0, "supportedKinds": kinds, "conditions": [condition("Accepted", "True", time)] })
        };
        let current = json!({
            "addresses": [{ "type": "IPAddress", "value": "10.0.0.1" }],
            "conditions": [condition("Programmed", "Unknown", Some("1970")), condition("other.io/X", "True", Some("t"))],
            "listeners": [listener("b", &[], Some("t1")), listener("a", &["HTTPRoute", "GRPCRoute"], Some("t1"))],
        });
        let desired = json!({
            "conditions": [condition("Programmed", "True", None)],
            "listeners": [listener("a", &["GRPCRoute", "HTTPRoute"], None), listener("b", &[], None)],
        });
        let new = merged(Kind::Gateway, US, &current, &desired, "now");
        assert_eq!(new["addresses"], Value::Null);
        assert_eq!(new["conditions"][0]["lastTransitionTime"], "now");
        assert_eq!(new["conditions"][1]["type"], "other.io/X");
        assert_eq!(new["listeners"][0]["conditions"][0]["lastTransitionTime"], "t1");
        let mut same = current.clone();
        same["addresses"] = json!([]);
        same["conditions"][0] = condition("Programmed", "True", Some("t9"));
        assert_eq!(own(Kind::Gateway, US, &same), own(Kind::Gateway, US, &desired));
    }
}
