//! Long runs of tests of the edge hub, of which every test run has a short one.
use anyhow::{Context, Result, bail};
use clap::Args;
use std::{path::Path, process::Command};

#[derive(Args)]
pub struct Crash {
    /// How many processes are killed
    #[arg(long, default_value_t = 10_000)]
    rounds: u32,
}

#[derive(Args)]
pub struct Link {
    /// How long the links are watched
    #[arg(long, default_value_t = 600)]
    seconds: u32,
}

/// Processes that write are killed, and what they had not synced is truncated.
pub fn crash(root: &Path, args: &Crash) -> Result<()> {
    test(root, &["--lib", "--", "store::tests::crash::"], "WEIR_EDGE_CRASH_ROUNDS", args.rounds).context("the store lost something")
}

pub fn link(root: &Path, args: &Link) -> Result<()> {
    let name = "links::a_link_that_takes_two_seconds_and_loses_a_third_does_not_flap";
    test(root, &["--test", "hub", "--", name], "WEIR_EDGE_LINK_SECONDS", args.seconds).context("a link flapped")
}

fn test(root: &Path, which: &[&str], variable: &str, value: u32) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "weir-edge"]).args(which).arg("--nocapture");
    let status = command.env(variable, value.to_string()).current_dir(root).status().context("cargo test")?;
    if !status.success() {
        bail!("the test failed");
    }
    Ok(())
}
