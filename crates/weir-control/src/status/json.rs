//! The board as `/objects` shows it.
use super::{
    board::{Board, Details, ListenerStatus, ObjectStatus},
    condition::{Condition, Scope},
};
use serde_json::{Map, Value, json};

/// Objects by kind and name. Those that were never without errors follow, by their findings, then findings without an object.
pub fn list(board: &Board, wanted: &dyn Fn(&str) -> bool) -> Value {
    let (objects, others) = board.list();
    let mut all = Vec::new();
    for (key, object) in objects {
        let origin = object.origin();
        if !wanted(&origin.object.to_string()) {
            continue;
        }
        let Some(status) = board.status(key).filter(|status| !status.conditions.is_empty()) else { continue };
        let mut entry = json!({ "object": origin.object, "file": origin.file(), "line": origin.line });
        describe(&mut entry, &status);
        all.push(entry);
    }
    for title in others.into_iter().filter(|title| wanted(title)) {
        let status = board.status_of_title(title);
        if title.is_empty() {
            all.push(json!({ "findings": status.findings }));
            continue;
        }
        let mut entry = json!({ "object": title });
        describe(&mut entry, &status);
        all.push(entry);
    }
    Value::Array(all)
}

fn describe(entry: &mut Value, status: &ObjectStatus) {
    entry["conditions"] = status.conditions.iter().map(|c| condition(c, status.observed_generation)).collect();
    if let Some(details) = &status.details {
        self::details(entry, details);
    }
    if !status.findings.is_empty() {
        entry["findings"] = json!(status.findings);
    }
}

fn details(entry: &mut Value, details: &Details) {
    let listener = |l: &ListenerStatus| {
        let kinds: Vec<&str> = l.supported_kinds.iter().map(|kind| kind.info().name).collect();
        json!({ "name": l.name, "supportedKinds": kinds, "attachedRoutes": l.attached_routes })
    };
    if !details.listeners.is_empty() {
        entry["listeners"] = details.listeners.iter().map(listener).collect();
    }
    if details.attached_listener_sets > 0 {
        entry["attachedListenerSets"] = json!(details.attached_listener_sets);
    }
    if !details.ancestors.is_empty() {
        entry["ancestors"] = details.ancestors.iter().map(|key| json!(key.to_string())).collect();
    }
}

/// In Kubernetes' words.
fn condition(of: &Condition, observed_generation: i64) -> Value {
    let mut out = Map::new();
    if of.scope != Scope::Object {
        out.insert("scope".into(), json!(of.scope.to_string()));
    }
    let status = if of.status { "True" } else { "False" };
    out.extend([("type".into(), json!(of.kind)), ("status".into(), json!(status)), ("reason".into(), json!(of.reason))]);
    out.insert("message".into(), json!(of.message));
    if observed_generation > 0 {
        out.insert("observedGeneration".into(), json!(observed_generation));
    }
    out.into()
}
