//! What became of each object, for those who ask while the configuration goes on to change.
use crate::{
    api::gateway_api::gateway::Listener,
    object::{Key, Kind, Object, Spec},
    translate::Condition,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weir_config::{
    delta::Verdict,
    diagnostic::{Diagnostic, Severity},
};

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

    /// A list of objects by kind and name, each with its place, its conditions and what was found about it, here and where the
    /// resources that it became are used. One that was never without errors is there by its findings.
    pub fn json(&self, verdicts: &[Arc<Verdict>]) -> Value {
        let board = self.board();
        let mut findings: BTreeMap<&str, Vec<&Diagnostic>> = BTreeMap::new();
        for finding in &board.findings {
            findings.entry(finding.object.as_deref().unwrap_or_default()).or_default().push(finding);
        }
        let mut unused: BTreeMap<&str, Vec<Unused<'_>>> = BTreeMap::new();
        for (verdict, finding) in verdicts.iter().flat_map(|v| v.findings.iter().map(move |d| (v, d))) {
            let object = finding.object.as_deref().unwrap_or_default();
            let of_object = findings.entry(object).or_default();
            // That a plugin's code cannot be had is also seen where its object is read.
            if !of_object.iter().any(|d| d.severity == Severity::Error && d.reason == finding.reason) {
                of_object.push(finding);
            }
            if finding.severity == Severity::Error {
                unused.entry(object).or_default().push(Unused { verdict, finding });
            }
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
            let unused = unused.remove(&*object.title).unwrap_or_default();
            describe(&mut entry, conditions, &found, |c| unused.iter().find_map(|u| u.contradicts(object, c)));
            all.push(entry);
        }
        for (title, found) in findings {
            let mut entry = if title.is_empty() { json!({}) } else { json!({ "object": title }) };
            match title {
                "" => entry["findings"] = json!(found),
                _ => describe(&mut entry, &[], &found, |_| None),
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
fn describe(
    entry: &mut Value,
    conditions: &[Condition],
    findings: &[&Diagnostic],
    contradiction: impl Fn(&Condition) -> Option<&'static str>,
) {
    let against = findings.iter().find(|d| d.severity == Severity::Error || NO_EFFECT.contains(&d.reason));
    let own = match against {
        Some(finding) => json!([{ "type": "Accepted", "status": "False", "reason": finding.reason }]),
        None => json!([{ "type": "Accepted", "status": "True", "reason": "Accepted" }]),
    };
    entry["conditions"] = if conditions.is_empty() { own } else { conditions.iter().map(|c| condition(c, contradiction(c))).collect() };
    if !findings.is_empty() {
        entry["findings"] = json!(findings);
    }
}

/// Why a resource of an object is not in use, or not in full.
struct Unused<'a> {
    verdict: &'a Verdict,
    finding: &'a Diagnostic,
}

impl Unused<'_> {
    /// The reason, if this speaks against a condition of the object. A Gateway and its listeners are programmed once they are open;
    /// other objects are not accepted if a part of them is not.
    fn contradicts(&self, object: &Object, of: &Condition) -> Option<&'static str> {
        let concerned = match &object.spec {
            Spec::Gateway(gateway) => {
                let port = |l: &Listener| self.verdict.id.name.rsplit('_').next().is_some_and(|port| *port == *l.port.to_string());
                of.kind == "Programmed" && (of.scope.is_empty() || gateway.listeners.iter().any(|l| *l.name == *of.scope && port(l)))
            }
            _ => of.kind == "Accepted",
        };
        let reason = if self.finding.reason == "ListenFailed" { "AddressNotUsable" } else { self.finding.reason };
        (concerned && of.status).then_some(reason)
    }
}

/// In Kubernetes' words. `not`: the reason why it is not so after all.
fn condition(of: &Condition, not: Option<&'static str>) -> Value {
    let mut out = Map::new();
    if !of.scope.is_empty() {
        out.insert("scope".into(), json!(of.scope));
    }
    let status = if of.status && not.is_none() { "True" } else { "False" };
    out.extend([("type".into(), json!(of.kind)), ("status".into(), json!(status)), ("reason".into(), json!(not.unwrap_or(of.reason)))]);
    out.into()
}
