//! What became of each object, for those who ask while the configuration goes on to change.
use crate::{
    object::{Key, Kind, Object},
    translate::Condition,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weir_config::diagnostic::{Diagnostic, Severity};

/// Shared by the control plane, which writes it, and whoever shows it.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Board>>);

#[derive(Default)]
struct Board {
    /// Those that act: routes, gateways, plugins.
    objects: BTreeMap<Key, (Arc<Object>, Arc<[Condition]>)>,
    findings: Vec<Diagnostic>,
}

/// Warnings that an object as a whole has no effect.
const NO_EFFECT: [&str; 3] = ["NotAccepted", "MeshOnly", "NoParents"];

impl Status {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what became of some objects; `None` for those that are gone.
    pub(crate) fn set(&self, changed: impl Iterator<Item = (Key, Option<(Arc<Object>, Arc<[Condition]>)>)>) {
        let mut board = self.board();
        for (key, now) in changed {
            match now {
                Some(now) => _ = board.objects.insert(key, now),
                None => _ = board.objects.remove(&key),
            }
        }
    }

    pub(crate) fn set_findings(&self, findings: &[Diagnostic]) {
        self.board().findings = findings.to_vec();
    }

    /// A list of objects by kind and name, each with its place, its conditions and what was found about it. One that was
    /// never without errors is there by its findings.
    pub fn json(&self) -> Value {
        let board = self.board();
        let mut findings: BTreeMap<&str, Vec<&Diagnostic>> = BTreeMap::new();
        for finding in &board.findings {
            findings.entry(finding.object.as_deref().unwrap_or_default()).or_default().push(finding);
        }
        let mut all = Vec::with_capacity(board.objects.len());
        for (object, conditions) in board.objects.values() {
            let found = findings.remove(&*object.title).unwrap_or_default();
            // A class of another controller is none of ours to speak of.
            if object.key.kind == Kind::GatewayClass && conditions.is_empty() {
                continue;
            }
            let origin = object.origin();
            let mut entry = json!({ "object": object.title, "file": origin.file, "line": origin.line });
            describe(&mut entry, conditions, &found);
            all.push(entry);
        }
        for (title, found) in findings {
            let mut entry = if title.is_empty() { json!({}) } else { json!({ "object": title }) };
            match title {
                "" => entry["findings"] = json!(found),
                _ => describe(&mut entry, &[], &found),
            }
            all.push(entry);
        }
        Value::Array(all)
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Status")
    }
}

/// Kinds whose APIs define no conditions of their own are accepted unless something speaks against it.
fn describe(entry: &mut Value, conditions: &[Condition], findings: &[&Diagnostic]) {
    let against = findings.iter().find(|d| d.severity == Severity::Error || NO_EFFECT.contains(&d.reason));
    let own = match against {
        Some(finding) => json!([{ "type": "Accepted", "status": "False", "reason": finding.reason }]),
        None => json!([{ "type": "Accepted", "status": "True", "reason": "Accepted" }]),
    };
    entry["conditions"] = if conditions.is_empty() { own } else { conditions.iter().map(condition).collect() };
    if !findings.is_empty() {
        entry["findings"] = json!(findings);
    }
}

/// In Kubernetes' words.
fn condition(of: &Condition) -> Value {
    let mut out = Map::new();
    if !of.scope.is_empty() {
        out.insert("scope".into(), json!(of.scope));
    }
    let status = if of.status { "True" } else { "False" };
    out.extend([("type".into(), json!(of.kind)), ("status".into(), json!(status)), ("reason".into(), json!(of.reason))]);
    out.into()
}
