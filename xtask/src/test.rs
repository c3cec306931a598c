//! Everything that must hold, with one command that installs for itself what it needs.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

#[derive(ClapArgs)]
pub struct Args {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 10)]
    fuzz_seconds: u32,
}

/// A program that the tests run, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] =
    &[("redis-server", "redis-server"), ("redis-cli", "redis-tools"), ("valgrind", "valgrind"), ("g++", "g++"), ("openssl", "openssl")];

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let began = Instant::now();
    step("packages", packages)?;
    step("rust components", || {
        cargo_like(root, "rustup", &["target", "add", "wasm32-wasip1"])?;
        cargo_like(root, "rustup", &["component", "add", "rustfmt", "clippy"])
    })?;
    step("format", || cargo(root, &["fmt", "--all", "--check"]))?;
    step("tidy", || super::tidy::run(root))?;
    step("clippy", || cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("build", || cargo(root, &["build", "--workspace"]))?;
    step("tests", || tests(root))?;
    step("fuzz", || super::fuzz::run(root, &super::fuzz::Args::all(args.fuzz_seconds)))?;
    step("instructions per request", || super::callgrind::run(root, &super::callgrind::Args::checked(binary(root))))?;
    println!("all passed in {} min", began.elapsed().as_secs() / 60);
    Ok(())
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let began = Instant::now();
    work().with_context(|| name.to_string())?;
    println!("== {name}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// So many failures may be a busy machine's; more are not.
const DOUBTFUL: usize = 3;

/// All tests. One that fails is asked once more, alone: on a machine that others share, a deadline may pass for no fault of the
/// code. It is named, so that it gets mended, and counts as passed only if it then does.
fn tests(root: &Path) -> Result<()> {
    let failed = match failing(root, &["test", "--workspace", "--no-fail-fast"])? {
        Run { success: true, .. } => return Ok(()),
        Run { failed, .. } if failed.is_empty() || failed.len() > DOUBTFUL => bail!("{} tests failed", failed.len()),
        Run { failed, .. } => failed,
    };
    for name in &failed {
        println!("== once more, alone: {name}");
        let again = failing(root, &["test", "--workspace", "--no-fail-fast", "--", "--exact", name, "--test-threads", "1"])?;
        if !again.success {
            bail!("{name} failed twice");
        }
    }
    println!("== failed beside others and passed alone: {}; find out why", failed.join(", "));
    Ok(())
}

struct Run {
    success: bool,
    /// Names of tests.
    failed: Vec<String>,
}

fn failing(root: &Path, args: &[&str]) -> Result<Run> {
    let mut child = Command::new("cargo").args(args).current_dir(root).stdout(Stdio::piped()).spawn().context("cargo is missing")?;
    let mut failed = Vec::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok)) {
        println!("{line}");
        failed.extend(line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")).map(str::to_string));
    }
    failed.dedup();
    Ok(Run { success: child.wait()?.success(), failed })
}

fn binary(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("debug/weir")
}

fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    cargo_like(root, "cargo", args)
}

fn cargo_like(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).current_dir(root).status().with_context(|| format!("{program} is missing"))?;
    if !status.success() {
        bail!("{program} {} failed", args.join(" "));
    }
    Ok(())
}

/// Installs the Debian packages of the programs that are missing.
fn packages() -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| super::bench::which(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if super::bench::which("apt-get").is_none() {
        bail!("please install {}", missing.join(" "));
    }
    println!("installing {}", missing.join(" "));
    let apt = |args: &[&str]| -> Result<()> {
        let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.arg("apt-get");
        }
        let status = command.args(args).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        if status.success() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("apt-get {} failed; please install {}", args.join(" "), missing.join(" ")))
        }
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}
