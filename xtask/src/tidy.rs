//! Rules that no compiler knows. Every finding is printed; any makes the command fail.
mod borders;
mod circles;
mod imports;
mod sources;

use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BINARIES: &[&str] = &["wasm", "so", "a", "o", "exe", "cwasm"];

pub fn run(root: &Path) -> Result<()> {
    let files = tracked(root)?;
    let mut found = Vec::new();
    borders::borders(root, &mut found)?;
    borders::banned(root, &mut found)?;
    circles::check(&circles::graphs(root, &files)?, &mut found);
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
            "rs" => sources::rust(file, &text, &mut found),
            "md" => sources::links(root, file, &text, &mut found),
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
