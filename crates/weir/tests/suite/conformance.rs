//! h2spec, pinned in tests/tools, against the running gateway.
use crate::{
    harness::{Start, TO_ECHO, Weir, root},
    tls,
    yaml::ToEcho,
};
use std::{path::PathBuf, process::Command};
use weir_test::self_signed;

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
    let made = self_signed(&["h.test"]);
    let secure = ToEcho::new().tls("h").text();
    let secured = Start::new().file("gateway.yaml", secure).file("h.yaml", tls::secret("h", &made)).run();
    passes(&Start::new().file("gateway.yaml", TO_ECHO).run(), &[]);
    passes(&secured, &["-t", "-k"]);
}

fn passes(weir: &Weir, more: &[&str]) {
    let port = weir.ports[0].to_string();
    let out = Command::new(h2spec()).args(["-h", "127.0.0.1", "-p", &port, "-o", "60"]).args(more).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let summary = text.lines().rev().find(|l| l.contains("tests,")).unwrap_or_default();
    assert!(out.status.success() && summary.contains(" 0 failed"), "{text}");
}
