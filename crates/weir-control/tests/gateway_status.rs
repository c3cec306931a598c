//! The status of objects of Gateway API. `status/gateway_api.yaml` holds cases that begin with `#### NAME` lines; what stands before the
//! first of them belongs to every case. `status/gateway_api.txt` holds what they show; `UPDATE=1` writes it.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{fmt::Write, fs, path::Path};
use weir_control::{Control, Options};

/// One line for each condition, then what there is beside them.
fn show(object: &Value, out: &mut String) {
    let title = object["object"].as_str().unwrap();
    for c in object["conditions"].as_array().unwrap() {
        let text = |name: &str| c[name].as_str().unwrap_or_default();
        let scope = if text("scope").is_empty() { String::new() } else { format!(" [{}]", text("scope")) };
        writeln!(out, "{title}{scope} {}={} {}: {}", text("type"), text("status"), text("reason"), text("message")).unwrap();
    }
    for listener in object["listeners"].as_array().into_iter().flatten() {
        let kinds: Vec<&str> = listener["supportedKinds"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        writeln!(out, "{title} [{}] {} routes of {}", listener["name"].as_str().unwrap(), listener["attachedRoutes"], kinds.join(", "))
            .unwrap();
    }
    for name in ["attachedListenerSets", "ancestors"] {
        if !object[name].is_null() {
            writeln!(out, "{title} {name} {}", object[name]).unwrap();
        }
    }
}

#[test]
fn statuses_of_gateway_api() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/status");
    let made = weir_test::self_signed(&["a.test"]);
    let text = fs::read_to_string(folder.join("gateway_api.yaml")).unwrap();
    let text = text.replace("$CERT", &format!("{:?}", made.pem)).replace("$KEY", &format!("{:?}", made.key));
    let mut parts = text.split("#### ");
    let common = parts.next().unwrap();
    let mut got = String::new();
    for part in parts {
        let (name, yaml) = part.split_once('\n').unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("case.yaml");
        fs::write(&file, format!("{yaml}---\n{common}")).unwrap();
        let mut control = Control::new(Options::default());
        control.load(&[file]);
        writeln!(got, "#### {name}").unwrap();
        let all = control.index().status().json(&|title| {
            title.contains("Route/") || ["Gateway/", "ListenerSet/", "BackendTLSPolicy/"].iter().any(|kind| title.starts_with(kind))
        });
        all.as_array().unwrap().iter().for_each(|object| show(object, &mut got));
        got.push('\n');
    }
    let golden = folder.join("gateway_api.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&golden, &got).unwrap();
    }
    let want = fs::read_to_string(&golden).unwrap_or_default();
    for (got, want) in got.split("#### ").zip(want.split("#### ")) {
        assert_eq!(got, want);
    }
    assert_eq!(got.len(), want.len());
}
