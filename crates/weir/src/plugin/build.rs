//! `weir plugin build`: the toolchain's own command, with its result in one known place.
use super::BUILT;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TARGET: &str = "wasm32-wasip1";

/// The module in `folder`. If it is missing or older than a source, it is built first, with a message.
pub fn up_to_date(folder: &Path) -> Result<PathBuf> {
    let module = folder.join(BUILT);
    let Some(why) = stale(folder, &module) else { return Ok(module) };
    let toolchain = if folder.join("go.mod").is_file() { "go" } else { "cargo" };
    if module.is_file() && Command::new(toolchain).arg("version").output().is_err() {
        eprintln!("warning: {why}, but `{toolchain}` is not on the PATH: using {} as it is", module.display());
        return Ok(module);
    }
    eprintln!("{why}: building it");
    build(folder)
}

/// Why the module must be built; `None` also for a folder without a plugin's sources.
fn stale(folder: &Path, module: &Path) -> Option<String> {
    if !["go.mod", "Cargo.toml"].iter().any(|name| folder.join(name).is_file()) {
        return None;
    }
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let Some(built) = modified(module) else { return Some(format!("{} is missing", module.display())) };
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).ok()?.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().ok()?;
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if kind.is_file() && is_source(&name) && modified(&path) > Some(built) {
                return Some(format!("{} is older than {}", module.display(), path.display()));
            }
        }
    }
    None
}

fn is_source(name: &str) -> bool {
    ["go.mod", "go.sum", "Cargo.toml", "Cargo.lock"].contains(&name) || name.ends_with(".go") || name.ends_with(".rs")
}

/// Builds the plugin in `folder`; returns the path of the module.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let out = folder.join(BUILT);
    if folder.join("go.mod").is_file() {
        go(folder, &out)?;
    } else if folder.join("Cargo.toml").is_file() {
        rust(folder, &out)?;
    } else {
        bail!("{}: neither go.mod nor Cargo.toml is here; `weir plugin new NAME` starts a plugin", folder.display());
    }
    Ok(out)
}

fn go(folder: &Path, out: &Path) -> Result<()> {
    let out = std::path::absolute(out)?;
    let mut command = Command::new("go");
    // The same code is the same digest in every folder and commit, so that it is compiled once.
    command.args(["build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-o"]).arg(&out).arg(".");
    command.env("GOOS", "wasip1").env("GOARCH", "wasm").env("CGO_ENABLED", "0").current_dir(folder);
    run(command, "Go 1.24 or later is needed to build this plugin: https://go.dev/dl, or your distribution's package")
}

fn rust(folder: &Path, out: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]).current_dir(folder);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let done = command.output().map_err(|e| missing(&e, "cargo", "Rust is needed to build this plugin: https://rustup.rs"))?;
    if !done.status.success() {
        bail!("cargo build failed; if it misses the target, `rustup target add {TARGET}` installs it");
    }
    let modules = String::from_utf8_lossy(&done.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|m| m["reason"] == "compiler-artifact")
        .filter_map(|m| m["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|f| f.as_str().filter(|f| f.ends_with(".wasm")).map(PathBuf::from))
        .collect::<Vec<_>>();
    let Some(module) = modules.last() else {
        bail!("cargo built no .wasm: does Cargo.toml say crate-type = [\"cdylib\"]?");
    };
    fs::copy(module, out).with_context(|| format!("{} to {}", module.display(), out.display()))?;
    Ok(())
}

fn run(mut command: Command, hint: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|e| missing(&e, &program, hint))?;
    if !status.success() {
        bail!("{program} build failed");
    }
    Ok(())
}

fn missing(e: &std::io::Error, program: &str, hint: &str) -> anyhow::Error {
    match e.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("`{program}` is not on the PATH. {hint}"),
        _ => anyhow::anyhow!("{program}: {e}"),
    }
}
