//! The board as `/objects` shows it.
use super::{
    board::{Board, ObjectStatus},
    condition::{Condition, Scope},
};
use serde_json::{Map, Value, json};

/// Objects by kind and name. Those that were never without errors follow, by their findings, then findings without an object.
pub fn list(board: &Board, wanted: &dyn Fn(&str) -> bool) -> Value {
    let (objects, others) = board.list();
    let mut all = Vec::new();
    for (key, object) in objects {
        let origin = object.origin();
        if !wanted(&origin.object) {
            continue;
        }
        let Some(status) = board.status(key).filter(|status| !status.conditions.is_empty()) else { continue };
        let mut entry = json!({ "object": origin.object, "file": origin.file, "line": origin.line });
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
    if !status.findings.is_empty() {
        entry["findings"] = json!(status.findings);
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
