//! What a single file may be: its size, its attributes, its links.
use std::path::{Path, PathBuf};

/// Files with unsafe code: wasmtime maps compiled code by an unsafe function only. The rule names itself here.
const UNSAFE: &[&str] = &["crates/weir-wasm/src/cache.rs", "xtask/src/tidy/sources.rs"];

/// Lines of a file that are not tests.
const MAX_LINES: usize = 900;

pub fn rust(file: &Path, text: &str, found: &mut Vec<String>) {
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
pub fn links(root: &Path, file: &Path, text: &str, found: &mut Vec<String>) {
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
