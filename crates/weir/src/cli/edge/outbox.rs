//! `weir edge outbox`.
use super::{ask, place::Place, report::Report};
use crate::cli::age::{age, now};
use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand};
use serde_json::Value;
use std::{fmt::Write, process::ExitCode};

/// Show or drop what the node wrote and the API server does not have
///
/// What waits is sent when the API server can be reached. What it has refused for good is kept for you to read.
#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Examples:
  weir edge outbox ls
  weir edge outbox get status/pods/default/web-0
  weir edge outbox drop refused/3")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List what waits, and what the API server has refused
    Ls(Report),
    /// Print one item as JSON, with what was written
    Get(One),
    /// Forget one item: it is not sent
    Drop(One),
}

#[derive(ClapArgs, Debug)]
struct One {
    #[command(flatten)]
    place: Place,
    /// As `weir edge outbox ls` names it
    item: String,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Ls(report) => report.print(&ask::json(&report.place, "GET", "/outbox")?, |outbox| text(outbox, now()))?,
        Command::Get(one) => {
            println!("{}", serde_json::to_string_pretty(&ask::json(&one.place, "GET", &path("/outbox/item", &one.item))?)?);
        }
        Command::Drop(one) => {
            ask::json(&one.place, "POST", &path("/outbox/drop", &one.item))?;
            println!("{} was dropped", one.item);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(endpoint: &str, item: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("name", item).finish();
    format!("{endpoint}?{query}")
}

fn text(outbox: &Value, now: u64) -> String {
    let mut out = String::new();
    let list = |name: &str| outbox[name].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().map_or_else(|| value.as_u64().map_or("-".to_string(), |n| n.to_string()), str::to_string);
    let old = |value: &Value| value.as_u64().map_or("-".to_string(), |at| age(now.saturating_sub(at)));
    let (waiting, refused) = (list("waiting"), list("refused"));
    if waiting.is_empty() && refused.is_empty() {
        return "nothing waits, and nothing was refused\n".into();
    }
    let _ = writeln!(out, "{:<48} {:>8} {:>8}  PATH", "WAITING", "AGE", "BYTES");
    for item in &waiting {
        let path = item["path"].as_str().unwrap_or_default();
        let _ = writeln!(out, "{:<48} {:>8} {:>8}  {path}", word(&item["item"]), old(&item["at"]), word(&item["bytes"]));
    }
    if !refused.is_empty() {
        let _ = writeln!(out, "\n{:<16} {:>8} {:>5}  REQUEST", "REFUSED", "AGE", "CODE");
        for item in &refused {
            let request = format!("{} {}: {}", word(&item["method"]), word(&item["path"]), word(&item["message"]));
            let _ = writeln!(out, "{:<16} {:>8} {:>5}  {request}", word(&item["item"]), old(&item["at"]), word(&item["code"]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_outbox_is_printed_for_people() {
        let outbox = json!({
            "waiting": [{ "item": "lease", "at": null, "bytes": null }, { "item": "event/7", "at": 40, "bytes": 12, "path": "/e" }],
            "refused": [{ "item": "refused/1", "at": 90, "code": 422, "method": "PATCH", "path": "/p", "message": "no" }],
        });
        let text = text(&outbox, 100);
        for part in ["lease", "event/7", "60s", "  /e\n", "10s   422  PATCH /p: no\n"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(super::text(&json!({ "waiting": [], "refused": [] }), 0), "nothing waits, and nothing was refused\n");
        assert_eq!(path("/x", "status/pods/a/b"), "/x?name=status%2Fpods%2Fa%2Fb");
    }
}
