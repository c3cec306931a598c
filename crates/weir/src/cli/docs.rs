//! The reference pages that are made from where things are declared: `weir __docs flags > docs/reference/flags.md`.
mod compatibility;
mod objects;

use super::Cli;
use anyhow::{Result, bail};
use clap::{Arg, Args as ClapArgs, Command, CommandFactory};
use std::{fmt::Write, process::ExitCode};
use weir_proxy::{
    admin::{MEMBERSHIP, PROCESS},
    stats::{
        ClusterStats, CompressorsStats, DOWNSTREAM_CX_ACTIVE, Declared, HttpStats, Kind, ListenerStats, PLUGIN, PLUGIN_CODE,
        PluginRedisStats, PluginStats, Table,
    },
};

/// Print a generated page of the documentation
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// As under docs/reference, or under docs, without `.md`
    page: String,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let pages = pages();
    let named = |name: &str| name == args.page || name.strip_prefix("reference/") == Some(&args.page);
    let Some((_, text)) = pages.iter().find(|(name, _)| named(name)) else {
        let names: Vec<&str> = pages.iter().map(|(name, _)| &**name).collect();
        bail!("there is no page {}; there are {}", args.page, names.join(", "));
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// All of them: their paths below docs without `.md`, and their texts.
pub fn pages() -> Vec<(String, String)> {
    let single =
        [("flags", flags()), ("admin", admin()), ("metrics", metrics()), ("access-log", access_log()), ("gateway-api", gateway_api())];
    let reference = single.into_iter().map(|(name, text)| (name.to_string(), text)).chain(objects::pages());
    let mut pages: Vec<_> = reference.map(|(name, text)| (format!("reference/{name}"), text)).collect();
    pages.push(("plugins/compatibility".into(), compatibility::page()));
    pages
}

/// The tests that docs/plugins/compatibility.md names.
pub use compatibility::tests as tests_of_compatibility;

fn admin() -> String {
    let mut out = "# Admin endpoints\n\nMade by `weir __docs admin`; the table is in `crates/weir-proxy/src/admin.rs`.\n\n\
                   | | | |\n| --- | --- | --- |\n"
        .to_string();
    for e in weir_proxy::admin::ENDPOINTS {
        let parameters: Vec<String> = e.parameters.iter().map(|p| format!("`{}`: {}", p.name, p.help)).collect();
        let _ = writeln!(out, "| {} `{}` | {} | {} |", e.method(), e.path, cell(e.help), cell(&parameters.join("<br>")));
    }
    out
}

fn metrics() -> String {
    let mut out = "# Statistics\n\nMade by `weir __docs metrics` from the tables that declare them. In `/stats/prometheus` a name begins with `envoy_`, dots are \
                   underscores, and what varies is a label.\n"
        .to_string();
    let _ = writeln!(out, "\n## The process\n\nUnder these names:\n\n| | | |\n| --- | --- | --- |");
    PROCESS.iter().for_each(|single| row(&single.declared, &mut out));
    let _ = writeln!(
        out,
        "\n## The Kubernetes API\n\nOf `weir gateway`; those of a kind end with it, as `.httproutes.gateway.networking.k8s.io`, or have the label `resource`:\n\n| | | |\n| --- | --- | --- |"
    );
    for stat in weir_control::kubernetes::stats::STATS {
        let _ = writeln!(
            out,
            "| `{}{}` | {} | {} |",
            stat.name,
            if stat.by_resource { ".<resource>" } else { "" },
            if stat.counter { "counter" } else { "gauge" },
            cell(stat.help)
        );
    }
    let _ = writeln!(
        out,
        "\n## Registries\n\nOf the registries of a McpBridge; they end with the name of the registry, or have the label `registry`:\n\n| | | |\n| --- | --- | --- |"
    );
    for stat in weir_control::registry::stats::STATS {
        let _ = writeln!(out, "| `{}.<registry>` | {} | {} |", stat.name, if stat.counter { "counter" } else { "gauge" }, cell(stat.help));
    }
    declared::<HttpStats>("HTTP connection managers", "stat_prefix", &mut out);
    CompressorsStats::declared().for_each(|d| row(d, &mut out));
    declared::<ClusterStats>("Clusters", "name", &mut out);
    MEMBERSHIP.iter().for_each(|gauge| row(gauge, &mut out));
    declared::<ListenerStats>("Listeners", "address", &mut out);
    row(&DOWNSTREAM_CX_ACTIVE, &mut out);
    let _ = writeln!(out, "\n## Plugins\n\nWith the label `plugin`:\n\n| | | |\n| --- | --- | --- |");
    PLUGIN.iter().for_each(|d| row(d, &mut out));
    for d in PluginStats::DECLARED {
        let _ = writeln!(out, "| `{}_{}` | {} | {} |", PluginStats::PREFIX, d.name, kind(d), cell(d.help));
    }
    let _ =
        writeln!(out, "\nWith the labels `plugin` and `upstream`, for each Redis upstream of a plugin:\n\n| | | |\n| --- | --- | --- |");
    for d in PluginRedisStats::DECLARED {
        let _ = writeln!(out, "| `{}_{}` | {} | {} |", PluginRedisStats::PREFIX, d.name, kind(d), cell(d.help));
    }
    let _ = writeln!(out, "\nOf all plugins together:\n\n| | | |\n| --- | --- | --- |");
    PLUGIN_CODE.iter().for_each(|d| row(d, &mut out));
    out
}

fn gateway_api() -> String {
    let mut out = "# Features of Gateway API\n\nMade by `weir __docs gateway-api` from the table in `crates/weir-control/src/api/gateway_api/features.rs`. The \
                   names are those of Gateway API v1.6 and its conformance suite. `status.supportedFeatures` of Weir's GatewayClasses lists those \
                   that are supported.\n\n| feature | channel | supported |\n| --- | --- | --- |\n"
        .to_string();
    for feature in weir_control::FEATURES {
        let channel = if feature.experimental { "experimental" } else { "standard" };
        let supported = if feature.needs_services { "with `weir gateway --gateway-service-type`" } else { "yes" };
        let _ = writeln!(out, "| `{}` | {channel} | {supported} |", feature.name);
    }
    out
}

fn declared<T: Table>(title: &str, varies: &str, out: &mut String) {
    let _ = writeln!(out, "\n## {title}\n\n`{}.<{varies}>.` and:\n\n| | | |\n| --- | --- | --- |", T::PREFIX);
    T::DECLARED.iter().for_each(|d| row(d, out));
}

fn row(d: &Declared, out: &mut String) {
    let rest = if d.kind == Kind::Codes { "<status>" } else { "" };
    let _ = writeln!(out, "| `{}{rest}` | {} | {} |", d.name, kind(d), cell(d.help));
}

fn kind(d: &Declared) -> &'static str {
    match d.kind {
        Kind::Counter | Kind::Codes => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn access_log() -> String {
    let mut out = "# Access log operators\n\nMade by `weir __docs access-log`. Written as `%NAME%` in a format.\n\n| | |\n| --- | --- |\n"
        .to_string();
    pairs(weir_proxy::access_log::PLAIN_DOCS, &mut out);
    pairs(weir_proxy::access_log::ARGUMENT_DOCS, &mut out);
    out
}

fn pairs(table: &[(&str, &str)], out: &mut String) {
    for (name, means) in table {
        let _ = writeln!(out, "| `{}` | {} |", cell(name), cell(means));
    }
}

/// A text within a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn flags() -> String {
    let mut out = "# Commands and flags\n\nMade by `weir __docs flags`; the declarations are in `crates/weir/src/cli`.\n".to_string();
    let mut root = Cli::command();
    root.build();
    for command in root.get_subcommands() {
        describe(command, &format!("weir {}", command.get_name()), &mut out);
    }
    out
}

fn describe(command: &Command, path: &str, out: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(out, "\n## {path}\n\n{about}\n");
    let args: Vec<&Arg> =
        command.get_arguments().filter(|a| !a.is_hide_set() && !matches!(a.get_id().as_str(), "help" | "version")).collect();
    if !args.is_empty() {
        out.push_str("\n| | |\n| --- | --- |\n");
    }
    for arg in args {
        let _ = writeln!(out, "| `{}` | {} |", name(arg), help(arg));
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(out, "\n```text\n{}\n```\n", after.to_string().trim_end());
    }
    for sub in command.get_subcommands() {
        describe(sub, &format!("{path} {}", sub.get_name()), out);
    }
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
    let value = value.filter(|_| arg.get_action().takes_values()).unwrap_or_default();
    match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long} {value}"),
        (None, Some(long)) => format!("--{long} {value}"),
        (Some(short), None) => format!("-{short} {value}"),
        (None, None) => value,
    }
    .trim_end()
    .into()
}

fn help(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let words: Vec<String> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
    if !words.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, ": {}", words.join(", "));
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
    if !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let _ = write!(text, " (default {})", defaults.join(" "));
    }
    cell(&text)
}
