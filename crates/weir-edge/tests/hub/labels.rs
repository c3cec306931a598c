//! What the metrics look like to Prometheus, and what clients can add to them.
use super::{
    hub::{JSON, Rig},
    upstream::SERVICES,
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
};
use weir_test::{client::Connection, eventually};

fn metrics(rig: &Rig) -> String {
    let io = UnixStream::connect(rig.path("admin.sock")).unwrap();
    let answer = Connection::over(io).request("GET", "localhost", "/metrics", &[("connection", "close")], b"").unwrap();
    assert_eq!(answer.status, 200);
    answer.body
}

/// Names and labels, without values.
fn series(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_string()).collect()
}

/// What clients may ask for, by a number that they make up.
fn ask(rig: &Rig, n: usize) {
    let agent = format!("agent-{n}/1.0");
    let token = format!("Bearer token-{n}");
    let mut client = rig.open();
    let table: [(&str, &str, Option<&str>); 5] = [
        ("GET", SERVICES, None),
        ("GET", SERVICES, Some(&token)),
        ("GET", &format!("/apis/made.up{n}/v{n}/things{n}"), None),
        ("GET", &format!("/made/up/{n}"), Some(&token)),
        ("POST", &format!("/api/v1/namespaces/n{n}/things{n}"), None),
    ];
    for (method, path, token) in table {
        let token = token.map(|token| ("authorization", token));
        let headers: Vec<(&str, &str)> = [JSON, ("user-agent", &agent)].into_iter().chain(token).collect();
        client.request(method, "hub", path, &headers, b"{}").unwrap();
    }
}

#[test]
fn a_thousand_clients_add_no_series() {
    let rig = Rig::start();
    rig.upstream.put("a", json!({}));
    ask(&rig, 0);
    let settled = || (rig.hub().cache.kept().0 == 2 && rig.hub().cache.lag() == 0).then(|| series(&metrics(&rig)));
    let before = eventually("two lists", settled);
    (1..=1000).for_each(|n| ask(&rig, n));
    let after = series(&metrics(&rig));
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty() && after.len() == before.len(), "{new:?}");
    assert!(!after.iter().any(|series| series.contains("made") || series.contains("agent-") || series.contains("token-")), "{after:?}");
}

/// The rules of `promtool check metrics`.
#[test]
fn metrics_follow_the_rules_of_prometheus() {
    let rig = Rig::start();
    ask(&rig, 0);
    let text = metrics(&rig);
    let (mut types, mut helps) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => assert!(types.insert(name, kind).is_none(), "twice: {name}"),
            (Some("#"), Some("HELP"), Some(name), Some(help)) => assert!(!help.is_empty() && helps.insert(name), "{line}"),
            _ => assert!(!line.starts_with('#'), "{line}"),
        }
    }
    assert!(types.len() > 50);
    let units = ["milliseconds", "_ms", "minutes", "hours", "days", "kilobytes", "megabytes", "kib", "mib", "percent"];
    for (name, kind) in &types {
        assert!(helps.contains(name), "{name} has no help");
        assert!(["counter", "gauge", "summary", "histogram"].contains(kind), "{name} {kind}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} {kind}");
        assert!(!["_count", "_sum", "_bucket", "_info"].iter().any(|end| name.ends_with(end)), "{name}");
        assert!(!name.contains(kind) && !units.iter().any(|unit| name.contains(unit)), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    }
    for series in series(&text) {
        let name = series.split('{').next().unwrap();
        let family =
            ["_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).filter(|family| types.get(family) == Some(&"summary"));
        assert!(types.contains_key(family.unwrap_or(name)), "{series}");
        assert!(!series.contains("job=") && !series.contains("le="), "{series}");
    }
}
