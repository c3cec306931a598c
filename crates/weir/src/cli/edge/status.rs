//! `weir edge status`.
use super::{ask, report::Report};
use crate::cli::age::{age, now};
use anyhow::Result;
use clap::Args as ClapArgs;
use serde_json::Value;
use std::{fmt::Write, process::ExitCode};

/// Show the link, what is kept and how old it is, disk use and the last errors of a hub that runs
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir edge status
  weir edge status --json | jq .link.up
  weir edge status --admin-socket /run/weir/edge.sock")]
pub struct Args {
    #[command(flatten)]
    report: Report,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let stats = ask::json(&args.report.place, "GET", "/stats")?;
    args.report.print(&stats, |stats| text(stats, now()))?;
    Ok(ExitCode::SUCCESS)
}

fn mib(bytes: &Value) -> String {
    format!("{:.1} MiB", bytes.as_f64().unwrap_or_default() / 1_048_576.0)
}

/// What pods and clients that are gone have left.
fn collected(stats: &Value) -> String {
    if stats["gracePeriodSeconds"] == 0.0 {
        return "off".into();
    }
    let counts = ["objects", "lists", "tokens"].map(|kind| format!("{} {kind}", stats[kind]));
    let pods = if stats["podsKnown"] == true { "" } else { "; the pods of the node are not known as a whole" };
    format!("{}; {} waiting{pods}", counts.join(", "), stats["waiting"])
}

fn text(stats: &Value, now: u64) -> String {
    let mut out = String::new();
    let since = |at: &Value| age(now.saturating_sub(at.as_u64().unwrap_or(now)));
    let up = |of: &Value| if of["up"] == true { "up" } else { "down" };
    let _ = writeln!(out, "node         {}", stats["node"].as_str().unwrap_or_default());
    let _ = writeln!(out, "link         {}", up(&stats["link"]));
    for server in stats["servers"].as_array().into_iter().flatten() {
        let state = if server["known"] == true { up(server) } else { "not known yet" };
        let (name, for_) = (server["server"].as_str().unwrap_or_default(), since(&server["since"]));
        let _ =
            writeln!(out, "server       {name} {state} for {for_}, {} connections, {} requests", server["connections"], server["streams"]);
    }
    let pool = &stats["pool"];
    for peer in pool["peers"].as_array().into_iter().flatten() {
        let (node, address) = (peer["node"].as_str().unwrap_or_default(), peer["address"].as_str().unwrap_or_default());
        let _ = writeln!(out, "peer         {node} {address} {}", if peer["up"] == true { "up" } else { "left for now" });
    }
    for followed in pool["followed"].as_array().into_iter().flatten() {
        let of = |field: &str| followed[field].as_str().unwrap_or_default();
        let (resource, media, source) = (of("resource"), of("media"), followed["source"].as_str().unwrap_or("nowhere yet"));
        let peers = followed["peers"].as_u64().filter(|n| *n > 0).map(|n| format!(", {n} hubs follow it here")).unwrap_or_default();
        let _ = writeln!(out, "followed     {resource} ({media}) at {source} for {}{peers}", since(&followed["since"]));
    }
    let certificate = &stats["certificate"];
    let _ = match (certificate["notAfter"].as_u64(), certificate["error"].as_str()) {
        (Some(until), _) if until > now => writeln!(out, "certificate  valid for {}", age(until - now)),
        (Some(until), _) => writeln!(out, "certificate  expired {} ago", age(now - until)),
        (None, error) => writeln!(out, "certificate  {}", error.unwrap_or("not known")),
    };
    let store = &stats["store"];
    let encrypted = if store["encrypted"] == true { "encrypted" } else { "not encrypted" };
    let _ = writeln!(out, "disk         {} of {}, {encrypted}", mib(&store["bytes"]), mib(&store["quotaBytes"]));
    let _ = writeln!(out, "collected    {}", collected(&stats["collected"]));
    let _ = writeln!(out, "watches      {}", stats["watches"]);
    let _ = writeln!(out, "outbox       {} waiting", stats["outbox"]["waiting"]);
    for (i, user) in stats["users"].as_array().into_iter().flatten().enumerate() {
        let _ = writeln!(out, "{:<12} {}", if i == 0 { "users" } else { "" }, user.as_str().unwrap_or_default());
    }
    let _ = writeln!(out, "\n{:<44} {:>6} {:>8} {:>8}  STATE", "RESOURCE", "LISTS", "OBJECTS", "AGE");
    for kept in stats["kept"].as_array().into_iter().flatten() {
        let oldest = kept["ageSeconds"].as_u64().map_or("-".to_string(), age);
        let state = match (kept["damaged"].as_u64(), kept["dirty"].as_u64()) {
            (Some(1..), _) => "damaged",
            (_, Some(1..)) => "old",
            _ => "ok",
        };
        let (resource, lists, objects) = (kept["resource"].as_str().unwrap_or_default(), &kept["lists"], &kept["objects"]);
        let _ = writeln!(out, "{resource:<44} {:>6} {:>8} {oldest:>8}  {state}", lists.to_string(), objects.to_string());
    }
    let errors = stats["errors"].as_array().filter(|errors| !errors.is_empty());
    for (i, error) in errors.into_iter().flatten().enumerate() {
        let heading = if i == 0 { "\nLAST ERRORS\n" } else { "" };
        let times = error["times"].as_u64().filter(|n| *n > 1).map(|n| format!(" ({n} times)")).unwrap_or_default();
        let _ = writeln!(out, "{heading}{} ago: {}{times}", since(&error["at"]), error["text"].as_str().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_printed_for_people() {
        let stats = json!({
            "node": "system:node:a", "link": { "up": false },
            "servers": [{ "server": "api:6443", "up": false, "known": true, "since": 940, "connections": 0, "streams": 0 }],
            "certificate": { "notAfter": 900 },
            "store": { "bytes": 1_048_576, "quotaBytes": 2_097_152, "encrypted": true },
            "pool": {
                "peers": [{ "node": "b", "address": "10.0.0.2:10269", "up": true }, { "node": "c", "address": "10.0.0.3:10269", "up": false }],
                "followed": [
                    { "resource": "services", "media": "json", "source": "API server", "since": 940, "peers": 2 },
                    { "resource": "endpointslices.discovery.k8s.io", "media": "protobuf", "source": null, "since": null, "peers": 0 },
                ],
            },
            "collected": { "objects": 7, "lists": 1, "tokens": 2, "waiting": 3, "podsKnown": false, "gracePeriodSeconds": 3600.0 },
            "watches": 2, "outbox": { "waiting": 3 }, "users": ["u"],
            "kept": [{ "resource": "pods", "lists": 1, "objects": 2, "ageSeconds": 7200, "dirty": 1, "damaged": 0 }],
            "errors": [{ "at": 990, "text": "api:6443: refused", "times": 4 }],
        });
        let text = text(&stats, 1000);
        for part in [
            "link         down\n",
            "api:6443 down for 60s",
            "expired 100s ago",
            "peer         b 10.0.0.2:10269 up\n",
            "peer         c 10.0.0.3:10269 left for now\n",
            "followed     services (json) at API server for 60s, 2 hubs follow it here\n",
            "followed     endpointslices.discovery.k8s.io (protobuf) at nowhere yet for 0s\n",
            "1.0 MiB of 2.0 MiB, encrypted",
            "3 waiting\n",
            "collected    7 objects, 1 lists, 2 tokens; 3 waiting; the pods of the node are not known as a whole\n",
            "2h0m  old",
            "10s ago: api:6443: refused (4 times)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
