//! Rules that no compiler knows. Every finding is printed; any makes the command fail.
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which of the workspace's crates a crate may depend on.
const BORDERS: &[(&str, &[&str])] = &[
    ("weir-test", &[]),
    ("weir-config", &[]),
    ("weir-net", &[]),
    ("weir-wasm", &[]),
    ("weir-proxy", &["weir-config", "weir-net", "weir-wasm"]),
    ("weir-control", &["weir-config"]),
    ("weir-fuzz", &["weir-config", "weir-net", "weir-wasm"]),
    ("weir", &["weir-config", "weir-net", "weir-wasm", "weir-proxy", "weir-control"]),
    ("xtask", &["weir-test"]),
];

/// Dependencies with one owner, so that one crate's rebuild pays for them and one place knows their ways.
const OWNERS: &[(&str, &[&str])] = &[
    ("wasmtime", &["weir-wasm"]),
    ("h2", &["weir-net", "weir-proxy", "weir"]),
    ("notify", &["weir-control"]),
    ("saphyr-parser", &["weir-config"]),
    ("hickory-resolver", &["weir-net"]),
    ("clap", &["weir", "xtask"]),
];

/// One TLS stack (rustls on aws-lc-rs), one YAML parser; `deny.toml` says the same to cargo-deny.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml", "rustls-pemfile"];

/// Files with unsafe code: wasmtime maps compiled code by an unsafe function only. The rule names itself here.
const UNSAFE: &[&str] = &["crates/weir-wasm/src/cache.rs", "xtask/src/tidy.rs"];

/// Lines of a file that are not tests.
const MAX_LINES: usize = 900;
const BINARIES: &[&str] = &["wasm", "so", "a", "o", "exe", "cwasm"];

pub fn run(root: &Path) -> Result<()> {
    let files = tracked(root)?;
    let mut found = Vec::new();
    borders(root, &mut found)?;
    banned(root, &mut found)?;
    for file in &files {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let shown = file.display();
        if BINARIES.contains(&extension) {
            found.push(format!("{shown}: a built binary is committed"));
        }
        // Below tests/ a name.rs would be a test program of its own.
        if file.file_name().is_some_and(|n| n == "mod.rs") && !file.components().any(|c| c.as_os_str() == "tests") {
            found.push(format!("{shown}: use name.rs beside name/ instead of mod.rs"));
        }
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        match extension {
            "rs" => rust(file, &text, &mut found),
            "md" => links(root, file, &text, &mut found),
            _ => {}
        }
    }
    if found.is_empty() {
        println!("tidy: {} files, nothing found", files.len());
        return Ok(());
    }
    found.iter().for_each(|f| println!("{f}"));
    bail!("tidy: {} findings", found.len());
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root).output().context("git ls-files")?;
    let mut files: Vec<PathBuf> = String::from_utf8(out.stdout)?.lines().map(PathBuf::from).collect();
    files.retain(|f| root.join(f).is_file());
    Ok(files)
}

fn borders(root: &Path, found: &mut Vec<String>) -> Result<()> {
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).context("cargo metadata")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed = BORDERS.iter().find(|(n, _)| *n == name).map(|(_, a)| *a);
        if allowed.is_none() {
            found.push(format!("{name}: a crate that tidy does not know; say in BORDERS what it may depend on"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null()) {
            let to = dependency["name"].as_str().unwrap_or_default();
            let ours = BORDERS.iter().any(|(n, _)| *n == to);
            if ours && !allowed.unwrap_or_default().contains(&to) {
                found.push(format!("{name}: must not depend on {to}"));
            }
            if let Some((_, owners)) = OWNERS.iter().find(|(n, _)| *n == to)
                && !owners.contains(&name)
            {
                found.push(format!("{name}: {to} belongs to {}", owners.join(", ")));
            }
        }
    }
    Ok(())
}

/// The lock file also names what no feature switches on; the tree does not.
fn banned(root: &Path, found: &mut Vec<String>) -> Result<()> {
    let out = Command::new("cargo")
        .args(["tree", "--workspace", "--prefix", "none", "--format", "{p}"])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    let tree = String::from_utf8(out.stdout)?;
    for name in BANNED {
        if tree.lines().any(|l| l.split(' ').next() == Some(name)) {
            found.push(format!("{name} is banned (deny.toml), and something depends on it: cargo tree -i {name}"));
        }
    }
    Ok(())
}

fn rust(file: &Path, text: &str, found: &mut Vec<String>) {
    let shown = file.display();
    let of_tests = file.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "benches" | "tests.rs")));
    let lines = text.lines().take_while(|l| l.trim() != "#[cfg(test)]").count();
    if !of_tests && lines > MAX_LINES {
        found.push(format!("{shown}: {lines} lines; one subject each, at most {MAX_LINES}"));
    }
    let unsafe_allowed = UNSAFE.iter().any(|p| file.starts_with(p));
    for (i, line) in text.lines().enumerate() {
        if !unsafe_allowed && line.contains("allow(unsafe_code)") {
            found.push(format!("{shown}:{}: unsafe code is allowed in {} only", i + 1, UNSAFE[0]));
        }
        if line.trim() == "#[ignore]" {
            found.push(format!("{shown}:{}: an ignored test says why: #[ignore = \"…\"]", i + 1));
        }
    }
}

/// Every relative link of a document leads to a file.
fn links(root: &Path, file: &Path, text: &str, found: &mut Vec<String>) {
    let folder = root.join(file).parent().map(PathBuf::from).unwrap_or_default();
    for (i, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let Some(target) = rest.split([')', '#', ' ']).next() else { continue };
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !folder.join(target).exists() {
                found.push(format!("{}:{}: a link to {target}, which does not exist", file.display(), i + 1));
            }
        }
    }
}
