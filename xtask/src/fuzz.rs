//! Fuzzing with libFuzzer on the stable toolchain: the coverage instrumentation that libFuzzer wants is an ordinary LLVM
//! pass, which a wrapper around rustc adds for the workspace's own crates. Dependencies come from the usual build.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(ClapArgs)]
pub struct Args {
    /// Only targets whose name contains this
    #[arg(default_value = "")]
    only: String,
    /// Seconds for each target
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

impl Args {
    /// Every target, for so long each.
    pub fn all(seconds: u32) -> Args {
        Args { only: String::new(), seconds }
    }
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut names: Vec<String> = fs::read_dir(root.join("fuzz/targets"))?
        .filter_map(|e| e.ok()?.path().file_stem()?.to_str().map(|stem| format!("fuzz_{stem}")))
        .filter(|n| n.contains(&args.only))
        .collect();
    names.sort();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // With the whole workspace selected, dependencies have the features that every other build of it gives them.
    let status = Command::new("cargo")
        .args(["build", "--workspace"])
        .args(names.iter().flat_map(|n| ["--bin", n]))
        .env("RUSTC_WORKSPACE_WRAPPER", root.join("fuzz/rustc"))
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the fuzz targets do not build");
    }
    let mut failed = Vec::new();
    for name in &names {
        let corpus = root.join("fuzz/corpus").join(name);
        let artifacts = root.join("fuzz/artifacts").join(name);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        println!("fuzz: {name} for {} s", args.seconds);
        let output = Command::new(target.join("debug").join(name))
            .arg(&corpus)
            .arg(root.join("fuzz/seeds").join(name.trim_start_matches("fuzz_")))
            .args([format!("-max_total_time={}", args.seconds), format!("-artifact_prefix={}/", artifacts.display())])
            .args(["-rss_limit_mb=4096", "-timeout=10", "-print_final_stats=1"])
            .output()
            .with_context(|| name.clone())?;
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let runs = log.lines().find(|l| l.contains("number_of_executed_units")).unwrap_or_default();
            println!("  {runs}");
        } else {
            log.lines().rev().take(40).collect::<Vec<_>>().iter().rev().for_each(|l| println!("  {l}"));
            failed.push(name.as_str());
        }
    }
    if names.is_empty() {
        bail!("no target's name contains {}", args.only);
    }
    if failed.is_empty() { Ok(()) } else { bail!("found something: {}", failed.join(", ")) }
}
