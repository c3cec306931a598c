//! Borders between crates, and which of them may use a dependency.
use anyhow::{Context, Result};
use std::{path::Path, process::Command};

/// Which of the workspace's crates a crate may depend on.
const BORDERS: &[(&str, &[&str])] = &[
    ("weir-test", &[]),
    ("weir-config", &[]),
    ("weir-net", &[]),
    ("weir-wasm", &[]),
    ("weir-redis", &[]),
    ("weir-proxy", &["weir-config", "weir-net", "weir-redis", "weir-wasm"]),
    ("weir-control", &["weir-config", "weir-net"]),
    ("weir-edge", &["weir-config", "weir-net"]),
    ("weir-fuzz", &["weir-config", "weir-edge", "weir-net", "weir-wasm"]),
    ("weir", &["weir-config", "weir-net", "weir-redis", "weir-wasm", "weir-proxy", "weir-control", "weir-edge"]),
    ("xtask", &["weir-test"]),
];

/// Dependencies with one owner, so that one crate's rebuild pays for them and one place knows their ways.
const OWNERS: &[(&str, &[&str])] = &[
    ("wasmtime", &["weir-wasm"]),
    ("h2", &["weir-net", "weir-proxy", "weir-edge", "weir"]),
    ("notify", &["weir-control"]),
    ("kube", &["weir-control"]),
    ("saphyr-parser", &["weir-config"]),
    ("hickory-resolver", &["weir-net"]),
    ("clap", &["weir", "xtask"]),
    ("mlua", &["weir-redis"]),
];

/// One TLS stack (rustls on aws-lc-rs), one YAML parser; `deny.toml` says the same to cargo-deny.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml", "rustls-pemfile"];

pub fn borders(root: &Path, found: &mut Vec<String>) -> Result<()> {
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
pub fn banned(root: &Path, found: &mut Vec<String>) -> Result<()> {
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
