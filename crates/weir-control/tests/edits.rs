//! Whatever way a configuration was arrived at by, it is the one that the files say: hundreds of edits of one file, each
//! compared with a reading of the whole by somebody who knows nothing of the time before.
#![allow(clippy::unwrap_used)]
mod dump;

use std::{fs, time::Duration};
use weir_config::model::Config;
use weir_control::{Control, Options};

const EDITS: usize = 300;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }
}

/// One of a few routes, in one of a few versions: of one host with others, or of a host of its own.
fn document(numbers: &mut Numbers) -> String {
    let (name, version) = (numbers.below(30), numbers.below(4));
    let host = ["all.test".to_string(), format!("h{name}.test")][numbers.below(2)].clone();
    let unknown = if numbers.below(12) == 0 { "  useDefaultGateways: All\n" } else { "" };
    let remark = "# a remark\n".repeat(numbers.below(3));
    format!(
        "{remark}apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{name}}}\nspec:\n{unknown}  parentRefs: [{{name: gw}}]\n  hostnames: [{host}]\n  rules: [{{matches: [{{path: {{value: /v{version}}}}}, {{path: {{value: /}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{hostname: v{version}.test}}}}]}}]\n"
    )
}

fn edit(documents: &mut Vec<String>, numbers: &mut Numbers) {
    let new = document(numbers);
    let len = documents.len();
    let (a, b) = (numbers.below(len), numbers.below(len));
    match numbers.below(8) {
        0 | 1 => documents[a] = new,
        2 | 3 => documents.insert(a, new),
        4 if len > 5 => _ = documents.remove(a),
        5 if len > 15 => _ = documents.drain(a.min(b)..a.max(b)),
        6 => documents.swap(a, b),
        _ => documents[a] = documents[a].replace("Gateways: All", "Gateways: None"),
    }
}

/// What does not depend on the way to it.
fn said(control: &Control, config: &Config) -> String {
    let findings: Vec<String> = control.findings().iter().map(|d| d.line()).collect();
    format!("{}{}", dump::dump(config), findings.join("\n"))
}

#[test]
fn edits_come_to_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().to_path_buf()];
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}\n";
    fs::write(folder.path().join("gateway.yaml"), gateway).unwrap();
    let mut numbers = Numbers(7);
    let mut documents: Vec<String> = (0..25).map(|_| document(&mut numbers)).collect();
    let file = folder.path().join("routes.yaml");
    fs::write(&file, documents.join("---\n")).unwrap();
    let mut control = Control::new(Options::default());
    let mut config = Config::default();
    config.apply(&control.load_and_watch(&paths).delta);
    for nth in 0..EDITS {
        edit(&mut documents, &mut numbers);
        fs::write(&file, documents.join("---\n")).unwrap();
        let mut fresh = Control::new(Options::default());
        fresh.load(&paths);
        let fresh = said(&fresh, &fresh.config());
        let update = control.next(Duration::from_secs(20)).expect("an update");
        config.apply(&update.delta);
        assert_eq!(said(&control, &config), fresh, "after edit {nth}");
    }
}
