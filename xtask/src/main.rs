//! The project's own tools: `cargo xtask <command>`.
mod bench;
mod callgrind;
mod conformance;
mod edge_long;
mod fuzz;
mod kube_rig;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(name = "xtask", about = "The project's own tools")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold before a change lands; installs what it needs
    Test(test::Args),
    /// Holds the rules that no compiler knows: crate borders, file sizes, generated files, what may not be committed
    Tidy,
    /// Weir beside Envoy, nginx, HAProxy and a bare TCP relay, in one run
    Bench(Box<bench::Args>),
    /// Counts instructions per request and holds them to a budget
    Callgrind(callgrind::Args),
    /// Runs the fuzz targets for a while; finds stay in fuzz/artifacts
    Fuzz(fuzz::Args),
    /// Kills processes that write to the store of the edge hub, and checks what is left
    EdgeCrash(edge_long::Crash),
    /// Runs edge hubs behind links that are slow and lose packets, and prints how often each link went down
    EdgeLink(edge_long::Link),
    /// Runs the conformance suite of Gateway API against `weir gateway`
    Conformance(conformance::Args),
    /// A Kubernetes API on this machine: builds tools/kube-rig and runs it
    KubeRig(kube_rig::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Test(args) => test::run(&root(), &args),
        Command::Tidy => tidy::run(&root()),
        Command::Bench(args) => bench::run(&root(), &args),
        Command::Callgrind(args) => callgrind::run(&root(), &args),
        Command::Fuzz(args) => fuzz::run(&root(), &args),
        Command::EdgeCrash(args) => edge_long::crash(&root(), &args),
        Command::EdgeLink(args) => edge_long::link(&root(), &args),
        Command::Conformance(args) => conformance::run(&root(), &args),
        Command::KubeRig(args) => kube_rig::run(&args),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}
