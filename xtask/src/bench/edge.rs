//! `weir edge` beside YurtHub, with `tools/kube-rig/edge` in one cluster: memory, CPU, latency, cut links, restarts, fleets.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use weir_test::{
    Kube,
    kube::programs::{EDGE, YURTHUB, programs},
};

#[derive(ClapArgs)]
pub struct Args {
    /// The weir binary; built with --release where not given
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The yurthub binary; built from its Go module where not given
    #[arg(long, env = "YURTHUB")]
    yurthub: Option<PathBuf>,
    /// Measure Weir only
    #[arg(long, conflicts_with = "yurthub")]
    without_yurthub: bool,
    /// Measure less of everything: a few minutes in all
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the tables into docs/benchmarks.md
    #[arg(long)]
    docs: bool,
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

/// What is between these lines of docs/benchmarks.md is replaced.
const BEGIN: &str = "<!-- Begin of what cargo xtask bench edge --docs writes -->\n";
const END: &str = "<!-- End of it -->\n";

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let found = |path: &PathBuf| path.canonicalize().with_context(|| path.display().to_string());
    let weir = match &args.weir {
        Some(path) => found(path)?,
        None => super::build(root)?,
    };
    let build_yurthub = args.yurthub.is_none() && !args.without_yurthub;
    let wanted = if build_yurthub { [EDGE, YURTHUB].concat() } else { EDGE.to_vec() };
    let programs = programs(&wanted).context("tools/kube-rig does not build")?;
    let mut flags = vec!["-api-only"];
    flags.extend(API_SERVER.iter().flat_map(|argument| ["-apiserver-arg", argument]));
    let kube = Kube::with(programs, &flags, &[]);
    // What it mounts goes away with it.
    let mut bench = kube.command("unshare");
    bench.args(["--mount", "edge-bench", "-weir"]).arg(weir);
    if let Some(yurthub) = &args.yurthub {
        bench.arg("-yurthub").arg(found(yurthub)?);
    } else if build_yurthub {
        bench.args(["-yurthub", "yurthub"]);
    }
    if args.quick {
        bench.arg("-quick");
    }
    if let Some(json) = &args.json {
        bench.arg("-json").arg(std::path::absolute(json)?);
    }
    let output = bench.args(&args.flags).stdout(Stdio::piped()).spawn().context("kube-rig")?.wait_with_output()?;
    let tables = String::from_utf8_lossy(&output.stdout);
    println!("{tables}");
    if let Some(keep) = &args.keep {
        fs::create_dir_all(keep)?;
        for log in fs::read_dir(kube.logs())?.flatten() {
            fs::copy(log.path(), keep.join(log.file_name()))?;
        }
    }
    if args.docs {
        document(&root.join("docs/benchmarks.md"), &format!("{}\n\n{}\n", command_line(args), tables.trim_end()))?;
    }
    if !output.status.success() {
        bail!("edge-bench failed");
    }
    Ok(())
}

/// How to repeat it.
fn command_line(args: &Args) -> String {
    let quick = if args.quick { " --quick" } else { "" };
    let flags = if args.flags.is_empty() { String::new() } else { format!(" -- {}", args.flags.join(" ")) };
    format!("Made by `cargo xtask bench edge{quick}{flags}`.")
}

fn document(path: &Path, text: &str) -> Result<()> {
    let page = fs::read_to_string(path)?;
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has no place for the tables", path.display()))?;
    fs::write(path, format!("{before}{BEGIN}{text}{END}{after}")).with_context(|| path.display().to_string())
}
