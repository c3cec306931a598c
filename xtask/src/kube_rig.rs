//! `cargo xtask kube-rig up`, `cargo xtask kube-rig exec -- kubectl get pods -A`, …
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{os::unix::process::CommandExt, process::Command};
use weir_test::kube::programs::{INFORMER, KUBECTL, SUITE, programs};

#[derive(ClapArgs)]
pub struct Args {
    /// What follows kube-rig; see its README
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Becomes kube-rig, with all its programs on PATH and, for `up`, with the kinds that Weir reads.
pub fn run(args: &Args) -> Result<()> {
    let programs = programs(&[SUITE, KUBECTL, INFORMER].concat()).context("tools/kube-rig does not build")?;
    let mut command = Command::new("kube-rig");
    command.args(&args.arguments).env("PATH", &programs.path);
    if args.arguments.first().is_some_and(|a| a == "up") {
        programs.definitions.iter().for_each(|path| {
            command.arg("-apply").arg(path);
        });
    }
    bail!("kube-rig: {}", command.exec())
}
