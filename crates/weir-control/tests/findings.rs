//! Thousands of findings: reading, rendering and repeating them is linear.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Instant};
use weir_control::{Control, Options};

fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
fn x() {
    const N: usize = 5500;
    let dir = tempfile::tempdir().unwrap();
    let route = |i: usize| {
        format!("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{i}}}\nspec:\n  parentRefs: [{{name: gw}}]\n  hostnames: [h{i}.test]\n  rules:\n  - backendRefs:\n    - name: nobody{i}\n      port: 80\n")
    };
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: weir, listeners: [{name: http, port: 8080, protocol: HTTP}]}\n";
    if std::env::var_os("LIST").is_some() {
    let item = |i: usize| {
        format!("- apiVersion: gateway.networking.k8s.io/v1\n  kind: HTTPRoute\n  metadata: {{name: r{i}}}\n  spec:\n    parentRefs: [{{name: gw}}]\n    hostnames: [h{i}.test]\n    rules:\n    - backendRefs:\n      - name: nobody{i}\n        port: 80\n")
    };
    fs::write(dir.path().join("all.yaml"), gateway.to_string() + "---\napiVersion: v1\nkind: List\nitems:\n"+ &(0..N).map(item).collect::<String>()).unwrap();
    } else {
    fs::write(dir.path().join("all.yaml"), gateway.to_string() + &(0..N).map(route).collect::<String>()).unwrap();
    }
    let mut control = Control::new(Options::default());
    let t = cpu();
    let update = control.load(&[dir.path().to_path_buf()]);
    println!("load {:.3}", cpu() - t);
    assert_eq!(update.diagnostics.len(), N);
    let t = cpu();
    let _ = control.diagnostics();
    println!("diagnostics {:.3}", cpu() - t);
    let t = cpu();
    let lines: usize = update.diagnostics.iter().map(|d| d.line().len()).sum();
    println!("line {:.3} {lines}", cpu() - t);
    let t = cpu();
    let lines: usize = update.diagnostics.iter().map(|d| d.snippet(false).len()).sum();
    println!("snippet {:.3} {lines}", cpu() - t);
    let t = cpu();
    let json = serde_json::to_string_pretty(&update.diagnostics).unwrap();
    println!("json {:.3} {}", cpu() - t, json.len());
    let _ = Instant::now();
}
