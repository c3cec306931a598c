//! h2spec, pinned in tests/tools, against the running gateway.
use crate::harness::{Start, TO_ECHO, root};
use std::{path::PathBuf, process::Command};

fn h2spec() -> PathBuf {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&out)
        .arg("github.com/summerwind/h2spec/cmd/h2spec")
        .current_dir(root().join("crates/weir/tests/tools"))
        .status()
        .expect("go is needed to build h2spec");
    assert!(built.success());
    out
}

#[test]
fn h2spec_passes() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let out = Command::new(h2spec()).args(["-h", "127.0.0.1", "-p", &weir.ports[0].to_string(), "-o", "5"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let summary = text.lines().rev().find(|l| l.contains("tests,")).unwrap_or_default();
    assert!(out.status.success() && summary.contains(" 0 failed"), "{text}");
}
