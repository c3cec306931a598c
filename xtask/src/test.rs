//! Everything that must hold, with one command that installs for itself what it needs.
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[derive(ClapArgs)]
pub struct Args {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 10)]
    fuzz_seconds: u32,
}

/// A program that the tests run, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("docker-registry", "docker-registry"),
    ("valgrind", "valgrind"),
    ("g++", "g++"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("sysctl", "procps"),
    ("systemd-analyze", "systemd"),
    ("java", "default-jre-headless"),
    ("javac", "default-jdk-headless"),
    ("mvn", "maven"),
    ("/usr/share/java/zookeeper.jar", "zookeeper"),
];

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    let result = all(root, args, &mut steps);
    steps.print();
    result
}

fn all(root: &Path, args: &Args, steps: &mut Steps) -> Result<()> {
    steps.run("packages", packages)?;
    steps.run("rust components", || {
        cargo_like(root, "rustup", &["target", "add", "wasm32-wasip1"])?;
        cargo_like(root, "rustup", &["component", "add", "rustfmt", "clippy"])
    })?;
    steps.run("format", || cargo(root, &["fmt", "--all", "--check"]))?;
    steps.run("tidy", || super::tidy::run(root))?;
    steps.run("clippy", || cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    steps.run("build", || cargo(root, &["build", "--workspace", "--all-targets"]))?;
    steps.run("kubernetes", || kubernetes(root))?;
    let mut passed = 0;
    steps.run("tests", || tests(root, &mut passed))?;
    steps.run("conformance", || super::conformance::run(root, &super::conformance::Args::all(binary(root))))?;
    steps.run("fuzz", || super::fuzz::run(root, &super::fuzz::Args::all(args.fuzz_seconds)))?;
    steps.run("instructions per request", || super::callgrind::run(root, &super::callgrind::Args::checked(binary(root))))?;
    println!("== all passed, {passed} tests");
    Ok(())
}

/// What was done so far, and how long it took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn run(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let began = Instant::now();
        let result = work().with_context(|| name.to_string());
        self.0.push((name, began.elapsed()));
        result
    }
    fn print(&self) {
        println!();
        for (name, took) in &self.0 {
            println!("{name:<26}{:>6.0} s", took.as_secs_f64());
        }
        println!("{:<26}{:>6.0} s", "in all", self.0.iter().map(|(_, took)| took.as_secs_f64()).sum::<f64>());
    }
}

/// Runs all tests. A test that fails makes the command fail: one that passes only sometimes has a fault, or the code has.
fn tests(root: &Path, passed: &mut usize) -> Result<()> {
    let mut command = Command::new("cargo");
    // Most tests wait for other processes most of the time.
    let threads = 4 * std::thread::available_parallelism().map_or(2, usize::from);
    command.args(["test", "--workspace", "--no-fail-fast"]).env("RUST_TEST_THREADS", threads.to_string());
    command.current_dir(root).stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo is missing")?;
    let mut failed = Vec::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok)) {
        println!("{line}");
        failed.extend(line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")).map(str::to_string));
        let passed_here = line.strip_prefix("test result: ").and_then(|l| l.split_once(" passed;")?.0.rsplit(' ').next()?.parse().ok());
        *passed += passed_here.unwrap_or(0);
    }
    if !child.wait()?.success() {
        bail!("{} failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

/// Checks the sources of the cluster that the tests run, and builds it, with Consul and Eureka.
fn kubernetes(root: &Path) -> Result<()> {
    let rig = root.join("tools/kube-rig");
    let output = Command::new("gofmt").args(["-l", "."]).current_dir(&rig).output().context("gofmt is missing")?;
    if !output.stdout.is_empty() || !output.status.success() {
        bail!("gofmt tools/kube-rig: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    for module in [&rig, &rig.join("edge")] {
        cargo_like(module, "go", &["vet", "./..."])?;
    }
    use weir_test::kube::programs::{CONSUL, HELM, SUITE, programs};
    programs(&[SUITE, HELM, CONSUL].concat())?;
    weir_test::eureka::classes()?;
    Ok(())
}

pub fn binary(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("debug/weir")
}

pub fn cargo(root: &Path, args: &[&str]) -> Result<()> {
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
