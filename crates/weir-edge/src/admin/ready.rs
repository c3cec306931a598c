//! Whether the node can use the hub, as `/readyz` of Kubernetes says it: one line for each check.
use super::Reply;
use crate::hub::Hub;
use http::StatusCode;
use serde_json::json;
use std::time::SystemTime;

struct Check {
    name: &'static str,
    passed: bool,
    reason: String,
}

fn checks(hub: &Hub) -> Vec<Check> {
    let (lists, objects) = hub.cache.kept();
    let known = hub.remote.servers().iter().any(|server| server.status().known);
    let (linked, reason) = match (hub.remote.is_up(), known) {
        (true, true) => (true, "the API server can be reached".to_string()),
        (true, false) => (false, "no API server has answered yet".to_string()),
        (false, _) if lists > 0 => (true, format!("the API server cannot be reached; {lists} lists and {objects} objects are kept")),
        (false, _) => (false, "the API server cannot be reached, and no list is kept".to_string()),
    };
    let (valid, certificate) = match hub.remote.certificate() {
        Err(e) => (false, e.to_string()),
        Ok(until) if until <= SystemTime::now() => (false, "it has expired".to_string()),
        Ok(_) => (true, "it is valid".to_string()),
    };
    let stats = hub.cache.store.stats();
    let (stored, store) = match stats.damaged_sets {
        0 => (true, "all that is kept can be read".to_string()),
        n => (false, format!("{n} lists were damaged and wait to be listed again")),
    };
    vec![
        Check { name: "link", passed: linked, reason },
        // Without the link nobody is shown the certificate.
        Check { name: "certificate", passed: valid || !hub.remote.is_up(), reason: certificate },
        // Damage of one list keeps nobody else from being served.
        Check { name: "store", passed: stored || lists > 0, reason: store },
    ]
}

pub fn reply(hub: &Hub, as_json: bool) -> Reply {
    let checks = checks(hub);
    let ready = checks.iter().all(|check| check.passed);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_json {
        let list = checks.iter().map(|c| json!({ "name": c.name, "passed": c.passed, "reason": c.reason }));
        return Reply { status, ..Reply::json(&json!({ "ready": ready, "checks": list.collect::<Vec<_>>() })) };
    }
    let mut text: String = checks
        .iter()
        .map(|c| format!("[{}]{} {}: {}\n", if c.passed { '+' } else { '-' }, c.name, if c.passed { "ok" } else { "failed" }, c.reason))
        .collect();
    text.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
    Reply { status, ..Reply::text(text) }
}
