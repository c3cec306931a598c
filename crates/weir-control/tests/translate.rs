//! YAML in, the model as text out. `cases/GROUP.yaml` holds cases that begin with `#### NAME` lines; what stands before the
//! first of them belongs to every case. `cases/GROUP.txt` holds what must come of them; `UPDATE=1` rewrites it.
#![allow(clippy::unwrap_used)]
mod dump;

use std::{fmt::Write, fs, path::Path};
use weir_control::{Control, Options};

fn check(group: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let text = fs::read_to_string(folder.join(format!("{group}.yaml"))).unwrap();
    let mut parts = text.split("#### ");
    let common = parts.next().unwrap();
    let mut got = String::new();
    for part in parts {
        let (name, yaml) = part.split_once('\n').unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("case.yaml");
        // The case comes first, so that its lines can be told.
        fs::write(&file, format!("{yaml}---\n{common}")).unwrap();
        for (name, content) in certificates() {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::write(dir.path().join("plugin.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let mut control = Control::new(Options::default());
        control.load(&[file, dir.path().join("secrets.yaml")]);
        let dump = dump::dump(&control.config()).replace(&format!("{}/", dir.path().display()), "");
        writeln!(got, "#### {name}\n{}", dump.trim_end()).unwrap();
        for found in control.findings() {
            let line = found.line().replace(&format!("{}/", dir.path().display()), "");
            writeln!(got, "{line}").unwrap();
        }
        got.push('\n');
    }
    let golden = folder.join(format!("{group}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&golden, &got).unwrap();
    }
    let want = fs::read_to_string(&golden).unwrap_or_default();
    for (got, want) in got.split("#### ").zip(want.split("#### ")) {
        assert_eq!(got, want, "{group}");
    }
    assert_eq!(got, want, "{group}");
}

/// `cert.pem` and `key.pem`; in `secrets.yaml` `Secret/default/cert` (a.test), `other/cert`, both of the type kubernetes.io/tls.
fn certificates() -> Vec<(&'static str, String)> {
    let key = weir_test::self_signed(&["a.test"]);
    let (chain, private) = (indent(&key.pem), indent(&key.key));
    let secret = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: {namespace}}}\ntype: kubernetes.io/tls\nstringData:\n  ca.crt: |\n{chain}\n  tls.crt: |\n{chain}\n  tls.key: |\n{private}\n"
        )
    };
    let files = [("cert.pem", key.pem), ("key.pem", key.key)];
    let mut all = vec![("secrets.yaml", format!("{}---\n{}", secret("default"), secret("other")))];
    all.extend(files);
    all
}

fn indent(pem: &str) -> String {
    pem.lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

macro_rules! groups {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*
    };
}

groups! { gateway http_route http_route_filters grpc_route precedence services documents ingress settings }
groups! { tls istio_gateway virtual_service delegate destination_rule service_entry bookinfo wasm_plugin }
