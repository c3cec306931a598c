//! The long run of the crash test of the edge store: processes that write are killed, and what they had not synced is truncated.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{path::Path, process::Command};

#[derive(ClapArgs)]
pub struct Args {
    /// How many processes are killed
    #[arg(long, default_value_t = 10_000)]
    rounds: u32,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let status = Command::new("cargo")
        .args(["test", "--package", "weir-edge", "--lib", "--", "store::tests::crash::", "--nocapture"])
        .env("WEIR_EDGE_CRASH_ROUNDS", args.rounds.to_string())
        .current_dir(root)
        .status()
        .context("cargo test")?;
    if !status.success() {
        bail!("the store lost something");
    }
    Ok(())
}
