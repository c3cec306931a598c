//! `weir plugin new`: a folder with a plugin that works, its tests and what to read next.
use anyhow::{Context, Result, bail};
use std::{fs, path::Path};

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// Go 1.24 or later, with the Higress SDK
    #[default]
    Go,
    /// With the proxy-wasm SDK
    Rust,
}

/// The name that the templates carry; they are plugins that build as they stand.
const NAME: &str = "my-plugin";

const COMMON: &[(&str, &str)] =
    &[("cases.yaml", include_str!("templates/cases.yaml")), ("gateway.yaml", include_str!("templates/gateway.yaml"))];
const GO: &[(&str, &str)] = &[
    ("main.go", include_str!("templates/go/main.go")),
    ("go.mod", include_str!("templates/go/go.mod")),
    ("go.sum", include_str!("templates/go/go.sum")),
    ("README.md", include_str!("templates/go/README.md")),
    (".gitignore", "plugin.wasm\n"),
];
const RUST: &[(&str, &str)] = &[
    ("src/lib.rs", include_str!("templates/rust/src/lib.rs")),
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml")),
    ("Cargo.lock", include_str!("templates/rust/Cargo.lock")),
    ("README.md", include_str!("templates/rust/README.md")),
    (".gitignore", "plugin.wasm\ntarget\n"),
];

/// Writes the folder `parent/name`, which must not exist yet. Returns the names of its files.
pub fn create(parent: &Path, name: &str, language: Language) -> Result<Vec<&'static str>> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(good) {
        bail!("`{name}` cannot be a plugin's name: lower case letters, digits and `-`, beginning with a letter");
    }
    let folder = parent.join(name);
    if folder.exists() {
        bail!("{} exists already", folder.display());
    }
    let files: Vec<_> = COMMON.iter().chain(if language == Language::Go { GO } else { RUST }).collect();
    for (file, text) in &files {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        fs::write(&path, text.replace(NAME, name)).with_context(|| path.display().to_string())?;
    }
    Ok(files.iter().map(|(file, _)| *file).collect())
}
