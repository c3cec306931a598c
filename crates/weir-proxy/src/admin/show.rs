//! What is there, in Envoy's shapes.
use super::{Query, Reply};
use crate::{
    Shared, State,
    app_log::rfc3339,
    cluster::{ClusterRt, EndpointRt},
};
use hyper::StatusCode;
use serde_json::{Value, json};
use std::{
    fmt::Write,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use weir_config::{model::HealthStatus, redact};

pub(super) fn state_word(state: State) -> &'static str {
    match state {
        State::PreInitializing => "PRE_INITIALIZING",
        State::Initializing => "INITIALIZING",
        State::Live => "LIVE",
        State::Draining => "DRAINING",
    }
}

/// 200 where it serves; the body names the state.
pub(super) fn state(shared: &Shared) -> Reply {
    let state = shared.state();
    let status = if state == State::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Reply::error(status, format!("{}\n", state_word(state)))
}

pub(super) fn server_info(shared: &Arc<Shared>, _: &Query) -> Reply {
    let uptime = format!("{}s", shared.started.elapsed().as_secs());
    let o = &shared.options;
    Reply::json(&json!({
        "version": format!("weir/{}", env!("CARGO_PKG_VERSION")),
        "state": state_word(shared.state()),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "start_time": rfc3339(seconds(shared.started_at)),
        "configuration_version": shared.summary.load().version,
        "command_line_options": {
            "concurrency": o.workers,
            "admin_address": o.admin.map(|a| a.to_string()),
            "drain_time": format!("{}s", o.drain_time.as_secs_f64()),
            "parent_shutdown_time": format!("{}s", (o.drain_time + o.shutdown_timeout).as_secs_f64()),
        },
        "node": {},
    }))
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

pub(super) fn memory(_: &Arc<Shared>, _: &Query) -> Reply {
    let (size, resident) = process_memory();
    Reply::json(&json!({ "allocated": resident.to_string(), "heap_size": size.to_string(), "total_physical_bytes": resident.to_string() }))
}

/// Bytes of address space and of memory that the process has.
pub(super) fn process_memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_ascii_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (field("VmData:"), field("VmRSS:"))
}

fn socket_address(a: SocketAddr) -> Value {
    json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } })
}

pub(super) fn listeners(shared: &Arc<Shared>, query: &Query) -> Reply {
    let listeners = shared.listeners.load();
    if query.get("format") == Some("json") {
        let all: Vec<_> = listeners.iter().map(|l| json!({ "name": l.name, "local_address": socket_address(l.address) })).collect();
        return Reply::json(&json!({ "listener_statuses": all }));
    }
    Reply::text(listeners.iter().map(|l| format!("{}::{}\n", l.name, l.address)).collect::<String>())
}

pub(super) fn certs(shared: &Arc<Shared>, _: &Query) -> Reply {
    let now = seconds(SystemTime::now());
    let all: Vec<_> = shared
        .certificates()
        .iter()
        .map(|(name, d)| {
            let names = d.dns_names.iter().map(|n| json!({ "dns": n }));
            let names =
                names.chain(d.uris.iter().map(|u| json!({ "uri": u }))).chain(d.addresses.iter().map(|a| json!({ "ip_address": a })));
            json!({
                "ca_cert": [],
                "cert_chain": [{
                    "path": name,
                    "subject": d.subject,
                    "serial_number": d.serial,
                    "subject_alt_names": names.collect::<Vec<_>>(),
                    "days_until_expiration": ((d.not_after - now).max(0) / 86_400).to_string(),
                    "valid_from": rfc3339(d.not_before),
                    "expiration_time": rfc3339(d.not_after),
                }],
            })
        })
        .collect();
    Reply::json(&json!({ "certificates": all }))
}

pub(super) fn plugins(shared: &Arc<Shared>, _: &Query) -> Reply {
    let mut all = json!({ "plugins": shared.plugins.statuses() });
    if !shared.options.admin_show_secrets {
        redact::strings(&mut all);
    }
    Reply::json(&all)
}

pub(super) fn objects(shared: &Arc<Shared>, query: &Query) -> Reply {
    let filter = match query.regex("filter") {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let wanted = |title: &str| filter.as_ref().is_none_or(|filter| filter.is_match(title));
    let mut all = shared.options.objects.as_ref().map_or_else(|| json!([]), |objects| objects.0(&wanted));
    if !shared.options.admin_show_secrets {
        redact::strings(&mut all);
    }
    Reply::json(&json!({ "objects": all }))
}

pub(super) fn clusters(shared: &Arc<Shared>, query: &Query) -> Reply {
    let filter = match query.regex("filter") {
        Ok(filter) => filter,
        Err(reply) => return reply,
    };
    let all = shared.clusters.all();
    let all = all.iter().filter(|s| filter.as_ref().is_none_or(|f| f.is_match(&s.name))).filter_map(|s| s.current());
    if query.get("format") == Some("json") {
        return Reply::json(&json!({ "cluster_statuses": all.map(|c| cluster_json(&c)).collect::<Vec<_>>() }));
    }
    let mut out = String::new();
    all.for_each(|c| cluster_text(&c, &mut out));
    Reply::text(out)
}

/// `max_connections` and the like with their settings and what is in use.
fn thresholds(c: &ClusterRt) -> [(&'static str, u32, u32); 4] {
    let (b, now) = (&c.config.circuit_breakers, &c.breakers);
    [
        ("max_connections", b.max_connections, now.connections.load(Ordering::Relaxed)),
        ("max_pending_requests", b.max_pending_requests, now.pending.load(Ordering::Relaxed)),
        ("max_requests", b.max_requests, now.requests.load(Ordering::Relaxed)),
        ("max_retries", b.max_retries, now.retries.load(Ordering::Relaxed)),
    ]
}

fn health(e: &EndpointRt) -> &'static str {
    match e.config.health {
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "/failed_eds_health",
        HealthStatus::Draining => "/eds_status_draining",
    }
}

fn cluster_text(c: &ClusterRt, out: &mut String) {
    let name = &c.config.name;
    let _ = writeln!(out, "{name}::observability_name::{name}");
    for (what, limit, _) in thresholds(c) {
        let _ = writeln!(out, "{name}::default_priority::{what}::{limit}");
    }
    let _ = writeln!(out, "{name}::added_via_api::true");
    for e in &c.endpoints.load().endpoints {
        let at = format!("{name}::{}", e.address);
        let _ = writeln!(out, "{at}::hostname::{}", e.hostname().unwrap_or_default());
        let _ = writeln!(out, "{at}::health_flags::{}", health(e));
        let _ = writeln!(out, "{at}::weight::{}", e.config.weight);
        let _ = writeln!(out, "{at}::zone::{}", e.config.locality.as_deref().unwrap_or_default());
        let _ = writeln!(out, "{at}::priority::{}", e.config.priority);
    }
}

fn cluster_json(c: &ClusterRt) -> Value {
    let host = |e: &Arc<EndpointRt>| {
        json!({
            "address": socket_address(e.address),
            "health_status": { "eds_health_status": e.config.health },
            "weight": e.config.weight,
            "priority": e.config.priority,
            "hostname": e.hostname(),
            "locality": { "zone": e.config.locality },
        })
    };
    let limits: serde_json::Map<_, _> = thresholds(c).into_iter().map(|(what, limit, _)| (what.to_string(), limit.into())).collect();
    let in_use: serde_json::Map<_, _> =
        thresholds(c).into_iter().map(|(what, _, now)| (what.replacen("max_", "", 1), now.into())).collect();
    json!({
        "name": c.config.name,
        "observability_name": c.config.name,
        "added_via_api": true,
        "host_statuses": c.endpoints.load().endpoints.iter().map(host).collect::<Vec<_>>(),
        "circuit_breakers": { "thresholds": [limits], "in_use": in_use },
    })
}
