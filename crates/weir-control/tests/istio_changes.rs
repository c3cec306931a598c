//! What a change costs and keeps: VirtualServices, DestinationRules, plugins and certificate files, over a watched folder.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Config, SecretContent, WasmCode},
};
use weir_control::{Control, Options, Update};
use weir_test::self_signed;

const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec: {hosts: [shop.test], gateways: [gw], http: [{route: [{destination: {host: a.test, subset: v1, port: {number: 80}}}]}]}
"#;
const ENTRY: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.test]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, labels: {v: "1"}}, {address: 10.0.0.2, labels: {v: "2"}}]
"#;

fn rule(label: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: a}}, spec: {{host: a.test, subsets: [{{name: v1, labels: {{v: \"{label}\"}}}}]}}}}"
    )
}

/// Writes as a careful program does: no half-written file is ever seen.
fn write(folder: &Path, name: &str, text: &[u8]) {
    let beside = folder.join(format!(".{name}.new"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, folder.join(name)).unwrap();
}

/// An update, and the configuration then.
struct Seen {
    update: Update,
    config: Config,
    findings: Vec<Arc<Diagnostic>>,
}

fn load(control: &mut Control, folder: &Path) -> Seen {
    let update = control.load_and_watch(&[folder.into()]);
    Seen { config: control.config(), findings: control.findings(), update }
}

/// Follows changes until one satisfies `good`.
fn until(control: &mut Control, good: impl Fn(&Seen) -> bool) -> Seen {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(update) = control.next(Duration::from_millis(100)) {
            let seen = Seen { config: control.config(), findings: control.findings(), update };
            if good(&seen) {
                return seen;
            }
        }
    }
    panic!("the change was not seen");
}

fn endpoints(config: &Config) -> Vec<String> {
    let found = config.endpoints.get("outbound|80|v1|a.test");
    found.iter().flat_map(|a| &a.endpoints).map(|e| format!("{:?}", e.address)).collect()
}

#[test]
fn what_is_referred_to_may_come_later() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "gateway.yaml", GATEWAY.as_bytes());
    let mut control = Control::new(Options::default());
    let first = load(&mut control, dir.path());
    assert!(first.findings.iter().any(|d| d.reason == "HostNotFound"), "{:?}", first.findings);
    assert!(endpoints(&first.config).is_empty());

    write(dir.path(), "entry.yaml", ENTRY.as_bytes());
    let update = until(&mut control, |u| u.findings.iter().any(|d| d.reason == "SubsetNotFound"));
    assert!(endpoints(&update.config).is_empty(), "an unknown subset has no endpoints");

    write(dir.path(), "rule.yaml", rule("1").as_bytes());
    let one = until(&mut control, |u| endpoints(&u.config).len() == 1);
    assert!(one.findings.is_empty(), "{:?}", one.findings);

    write(dir.path(), "rule.yaml", rule("2").as_bytes());
    let two = until(&mut control, |u| endpoints(&u.config) == ["Socket(10.0.0.2:80)"]);
    let host = |c: &Config| c.routes["http.80"].virtual_hosts[0].clone();
    assert!(Arc::ptr_eq(&host(&one.config), &host(&two.config)), "other labels leave the routes alone");
}

#[test]
fn a_rewritten_plugin_is_a_change_of_the_plugin_alone() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "gateway.yaml", GATEWAY.as_bytes());
    write(dir.path(), "auth.wasm", b"one");
    let plugin = "{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: auth}, spec: {url: file://auth.wasm}}";
    write(dir.path(), "plugin.yaml", plugin.as_bytes());
    let mut control = Control::new(Options::default());
    let digest = |c: &Config| match &c.plugins["default/auth"].code {
        WasmCode::File { sha256, .. } => sha256.clone(),
        WasmCode::Http { .. } | WasmCode::Image(_) | WasmCode::Unusable { .. } => String::new(),
    };
    let first = load(&mut control, dir.path());
    let before = digest(&first.config);
    write(dir.path(), "auth.wasm", b"two");
    let update = until(&mut control, |u| digest(&u.config) != before);
    assert!(Arc::ptr_eq(&first.config.listeners["0.0.0.0_80"], &update.config.listeners["0.0.0.0_80"]));
    assert_eq!(update.update.translated, 1, "only the plugin");

    fs::remove_file(dir.path().join("auth.wasm")).unwrap();
    let gone = until(&mut control, |u| u.findings.iter().any(|d| d.reason == "CodeNotFound"));
    assert!(gone.config.plugins.contains_key("default/auth"), "it is its failStrategy that says what comes of it");
}

#[test]
fn broken_certificate_files_leave_the_last_good_ones_serving() {
    let dir = tempfile::tempdir().unwrap();
    let made = || self_signed(&["shop.test"]);
    let (old, new) = (made(), made());
    write(dir.path(), "tls.crt", old.pem.as_bytes());
    write(dir.path(), "tls.key", old.key.as_bytes());
    let gateway = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: gw}, spec: {servers: [{port: {number: 443, name: a, protocol: HTTPS}, hosts: [shop.test], tls: {mode: SIMPLE, serverCertificate: tls.crt, privateKey: tls.key}}]}}";
    write(dir.path(), "gateway.yaml", gateway.as_bytes());
    let chain = |c: &Config| match c.secrets.values().next().map(|s| &s.content) {
        Some(SecretContent::TlsCertificate { certificate_chain, .. }) => certificate_chain.clone(),
        _ => String::new(),
    };
    let mut control = Control::new(Options::default());
    let first = load(&mut control, dir.path());
    assert_eq!(chain(&first.config), old.pem);

    write(dir.path(), "tls.crt", b"half");
    let broken = until(&mut control, |u| u.findings.iter().any(|d| d.reason == "InvalidCertificateRef"));
    assert_eq!(chain(&broken.config), old.pem);
    assert!(Arc::ptr_eq(&first.config.listeners["0.0.0.0_443"], &broken.config.listeners["0.0.0.0_443"]));

    write(dir.path(), "tls.key", new.key.as_bytes());
    write(dir.path(), "tls.crt", new.pem.as_bytes());
    let mended = until(&mut control, |u| chain(&u.config) == new.pem);
    assert!(mended.findings.is_empty(), "{:?}", mended.findings);

    // Without an object that names them nothing of them is kept, not even when they come back broken.
    fs::remove_file(dir.path().join("gateway.yaml")).unwrap();
    until(&mut control, |u| u.config.secrets.is_empty());
    write(dir.path(), "tls.crt", b"half");
    write(dir.path(), "gateway.yaml", gateway.as_bytes());
    let back = until(&mut control, |u| !u.findings.is_empty());
    assert!(back.config.secrets.is_empty() && back.config.listeners.is_empty());
}
