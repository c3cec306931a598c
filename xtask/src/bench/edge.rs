//! `weir edge` beside YurtHub, with `tools/kube-rig/edge` in one cluster: memory, CPU, latency, cut links, restarts, fleets.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    fs,
    path::{Path, PathBuf},
};
use weir_test::{
    Kube,
    kube::programs::{EDGE, programs},
};

#[derive(ClapArgs)]
pub struct Args {
    /// The weir binary; built with --release where not given
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The yurthub binary; tools/kube-rig/README.md says how to build it. Left out of the table where not given
    #[arg(long, env = "YURTHUB")]
    yurthub: Option<PathBuf>,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep the logs of the hubs in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Flags of edge-bench, behind `--`: -only, -fleet, -objects, …; -h lists them
    #[arg(last = true)]
    flags: Vec<String>,
}

/// The API server answers many hubs at once, and pods need no service account.
const API_SERVER: &[&str] =
    &["--max-requests-inflight=3000", "--max-mutating-requests-inflight=1000", "--disable-admission-plugins=ServiceAccount"];

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let found = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
    let weir = match &args.weir {
        Some(path) => found(path)?,
        None => super::build(root)?,
    };
    let yurthub = args.yurthub.as_ref().map(found).transpose()?;
    let programs = programs(EDGE).context("tools/kube-rig does not build")?;
    let mut flags = vec!["-api-only"];
    flags.extend(API_SERVER.iter().flat_map(|argument| ["-apiserver-arg", argument]));
    let kube = Kube::with(programs, &flags, &[]);
    // What it mounts goes away with it.
    let mut bench = kube.command("unshare");
    bench.args(["--mount", "edge-bench", "-weir"]).arg(weir);
    if let Some(yurthub) = yurthub {
        bench.arg("-yurthub").arg(yurthub);
    }
    if let Some(json) = &args.json {
        bench.arg("-json").arg(std::path::absolute(json)?);
    }
    let status = bench.args(&args.flags).status().context("kube-rig")?;
    if let Some(keep) = &args.keep {
        fs::create_dir_all(keep)?;
        for log in fs::read_dir(kube.logs())?.flatten() {
            fs::copy(log.path(), keep.join(log.file_name()))?;
        }
    }
    if !status.success() {
        bail!("edge-bench failed");
    }
    Ok(())
}
