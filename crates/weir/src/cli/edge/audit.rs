//! `weir edge audit`.
use super::{ask, report::Report};
use crate::cli::age::{age, now};
use anyhow::Result;
use clap::Args as ClapArgs;
use serde_json::Value;
use std::{fmt::Write, process::ExitCode};

/// Check whether the node could restart now without the API server
///
/// Names what kubelet, kube-proxy, CoreDNS and the network agent list when they start, and how old each list is; and for each pod of the
/// node the Secrets, ConfigMaps, PersistentVolumeClaims and service account tokens that are not kept. Exits with 1 if something is missing.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir edge audit
  weir edge audit --json | jq '.pods[] | select(.missing != [])'")]
pub struct Args {
    #[command(flatten)]
    report: Report,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let found = ask::json(&args.report.place, "GET", "/audit")?;
    args.report.print(&found, |found| text(found, now()))?;
    Ok(if found["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text(report: &Value, now: u64) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<16} {:<48} {:>8}  STATE", "COMPONENT", "LISTS", "AGE");
    for component in list(report, "components") {
        for of in list(component, "lists") {
            let old = of["ageSeconds"].as_u64().map_or("-".to_string(), age);
            let _ = writeln!(out, "{:<16} {:<48} {old:>8}  {}", word(&component["name"]), word(&of["resource"]), word(&of["state"]));
        }
    }
    let _ = writeln!(out, "\n{:<64} {:>6} {:>8}  TOKEN", "POD", "NEEDS", "MISSING");
    for pod in list(report, "pods") {
        let name = format!("{}/{}", word(&pod["namespace"]), word(&pod["name"]));
        let token = pod["tokenExpires"].as_u64().map_or("-".to_string(), |at| format!("for {}", age(at.saturating_sub(now))));
        let _ = writeln!(out, "{name:<64} {:>6} {:>8}  {token}", pod["needs"].to_string(), list(pod, "missing").count());
    }
    out.push('\n');
    for (of, title) in [("errors", "error"), ("warnings", "warning")] {
        for finding in list(report, of) {
            let _ = writeln!(out, "{title}: {}", word(finding));
        }
    }
    out.push_str(match report["ready"] == true {
        true => "the node could restart now\n",
        false => "the node could not restart now\n",
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_audit_is_printed_for_people() {
        let report = json!({
            "ready": false, "components": [{ "name": "kubelet", "lists": [{ "resource": "pods", "state": "kept", "ageSeconds": 7 }] }],
            "pods": [{ "namespace": "n", "name": "p", "needs": 3, "missing": [{ "kind": "Secret", "name": "s" }], "tokenExpires": 160 }],
            "errors": ["Pod n/p needs Secret s, which is not kept"], "warnings": ["w"],
        });
        let text = text(&report, 100);
        for part in ["7s  kept\n", "n/p", "3        1  for 60s\n", "error: Pod n/p needs Secret s", "warning: w\nthe node could not"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
