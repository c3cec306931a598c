//! Bounds on a plugin, by annotations: no API has fields for them.
use super::{PREFIX, canary};
use weir_config::{
    model::WasmLimits,
    reader::{Object, duration},
};

/// The names that [`set`] knows.
pub const NAMES: [&str; 20] = [
    "memory-limit",
    "call-deadline",
    "start-deadline",
    "body-buffer-limit",
    "stream-memory-limit",
    "callout-limit",
    "callout-hosts",
    "callout-memory-limit",
    "log-limit",
    "metric-limit",
    "shared-data-limit",
    "queue-limit",
    "cpu-limit",
    "retire-after-requests",
    "retire-above-memory",
    "rollback-traps",
    "rollback-5xx",
    "rollback-latency",
    "rollback-window",
    "rollback-min-streams",
];

/// Reads `weir.dev/*` of the object's annotations.
pub fn read(root: &Object<'_>) -> WasmLimits {
    let mut limits = WasmLimits::default();
    let Some(meta) = root.object("metadata") else { return limits };
    meta.ignore_rest();
    if let Some(annotations) = meta.get("annotations") {
        NAMES.iter().chain(&canary::NAMES).for_each(|name| annotations.asks_for(&format!("{PREFIX}{name}"), &[]));
    }
    for (name, value) in meta.entries("annotations") {
        let Some(limit) = name.strip_prefix(PREFIX).filter(|name| !canary::NAMES.contains(name)) else { continue };
        let text = value.str();
        match set(&mut limits, limit, text.unwrap_or_default()) {
            None => value.warning(
                "UnknownField",
                format!("there is no annotation weir.dev/{limit} here"),
                format!(
                    "one of {}",
                    NAMES.iter().chain(&canary::NAMES).map(|name| format!("{PREFIX}{name}")).collect::<Vec<_>>().join(", ")
                ),
            ),
            Some(Err(wrong)) if text.is_some() => value.invalid(wrong.problem, wrong.help),
            Some(_) => {}
        }
    }
    limits
}

/// Why a value is not valid for a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub problem: String,
    pub help: &'static str,
}

/// Sets the limit of that name; `None` if there is no such limit.
pub fn set(limits: &mut WasmLimits, name: &str, value: &str) -> Option<Result<(), Wrong>> {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let done = match name {
        "memory-limit" => bytes(value).map(|n| limits.memory_bytes = n),
        "body-buffer-limit" => bytes(value).map(|n| limits.body_buffer_bytes = narrow(n)),
        "stream-memory-limit" => bytes(value).map(|n| limits.stream_bytes = narrow(n)),
        "log-limit" => bytes(value).map(|n| limits.log_bytes = narrow(n)),
        "callout-memory-limit" => bytes(value).map(|n| limits.callout_bytes = narrow(n)),
        "metric-limit" => count(value).map(|n| limits.max_metrics = n),
        "shared-data-limit" => bytes(value).map(|n| limits.shared_data_bytes = narrow(n)),
        "queue-limit" => bytes(value).map(|n| limits.queue_bytes = narrow(n)),
        "cpu-limit" => cpu(value).map(|n| limits.cpu_millis = n),
        "retire-after-requests" => count(value).map(|n| limits.retire_after_requests = n),
        "retire-above-memory" => bytes(value).map(|n| limits.retire_above_bytes = n),
        "callout-limit" => count(value).map(|n| limits.max_callouts = n),
        "callout-hosts" => hosts(value).map(|hosts| limits.callout_hosts = Some(hosts)),
        "call-deadline" => time(value).map(|t| limits.call_deadline = t),
        "start-deadline" => time(value).map(|t| limits.start_deadline = t),
        "rollback-traps" => count_or_none(value).map(|n| limits.rollback.traps = n),
        "rollback-5xx" => points(value).map(|n| limits.rollback.share_5xx = Some(n)),
        "rollback-latency" => time_or_none(value).map(|t| limits.rollback.latency = t),
        "rollback-window" => time(value).map(|t| limits.rollback.window = t),
        "rollback-min-streams" => count(value).map(|n| limits.rollback.min_streams = n),
        _ => return None,
    };
    Some(done)
}

/// Names and addresses, with `,` between them; none for an empty text.
fn hosts(text: &str) -> Result<Vec<String>, Wrong> {
    let is_host = |host: &str| {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        host == "*" || is_address || !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let hosts = text.split(',').map(|host| host.trim().to_ascii_lowercase()).filter(|host| !host.is_empty());
    let hosts: Vec<_> = hosts.collect();
    match hosts.iter().find(|host| !is_host(host)) {
        Some(wrong) => Err(Wrong {
            problem: format!("\"{wrong}\" is not a host"),
            help: "names and addresses without ports, as \"api.example.com, *.example.org, 10.0.0.7\"; empty for none",
        }),
        None => Ok(hosts),
    }
}

fn time(text: &str) -> Result<std::time::Duration, Wrong> {
    let wrong = || Wrong { problem: format!("\"{text}\" is not a duration above 0"), help: "30s, 1m30s or 500ms" };
    duration(text).filter(|t| !t.is_zero()).ok_or_else(wrong)
}

fn time_or_none(text: &str) -> Result<std::time::Duration, Wrong> {
    duration(text).ok_or_else(|| Wrong { problem: format!("\"{text}\" is not a duration"), help: "2ms or 1s; 0s for never" })
}

/// A percentage of which others are subtracted.
fn points(text: &str) -> Result<u32, Wrong> {
    let wrong =
        || Wrong { problem: format!("\"{text}\" is not a percentage"), help: "a whole number from 0 to 100, in quotes; 0 for never" };
    text.parse().ok().filter(|n| *n <= 100).ok_or_else(wrong)
}

fn count(text: &str) -> Result<u32, Wrong> {
    let wrong = || Wrong { problem: format!("\"{text}\" is not a count"), help: "a whole number above 0, in quotes" };
    text.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)
}

/// CPUs as Kubernetes writes them, in thousandths: `0.5` or `500m`.
fn cpu(text: &str) -> Result<u32, Wrong> {
    let wrong = || Wrong { problem: format!("\"{text}\" is not a number of CPUs above 0"), help: "0.5 or 500m" };
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u32>().ok(),
        None => text.parse::<f64>().ok().map(|cpus| cpus * 1000.0).filter(|m| (1.0..=1e6).contains(m)).map(|m| m as u32),
    };
    millis.filter(|m| (1..=1_000_000).contains(m)).ok_or_else(wrong)
}

fn count_or_none(text: &str) -> Result<u32, Wrong> {
    text.parse().map_err(|_| Wrong { problem: format!("\"{text}\" is not a count"), help: "a whole number, in quotes; 0 for never" })
}

/// A Kubernetes quantity: `64Mi`, `1G`, or bytes.
fn bytes(text: &str) -> Result<u64, Wrong> {
    let found = weir_config::reader::quantity(text).filter(|n| *n > 0);
    found.ok_or_else(|| Wrong { problem: format!("\"{text}\" is not a size"), help: "bytes, or a number with Ki, Mi, Gi, k, M or G" })
}
