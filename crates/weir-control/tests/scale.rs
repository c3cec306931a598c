//! What one change costs among many routes: counted always, timed for those who look (`SCALE=10000 cargo test -p
//! weir-control --test scale -- --nocapture`; in the dev profile these crates are not optimised).
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, fmt::Write, fs, path::Path, sync::Arc, time::Duration};
use weir_config::{delta::Resource, model::Config};
use weir_control::{Control, Options, Update};

const SERVICES: usize = 100;

fn scale() -> usize {
    std::env::var("SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

fn common() -> String {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: weir, listeners: [{name: http, port: 8080, protocol: HTTP}]}\n".to_string();
    for i in 0..SERVICES {
        write!(text, "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{i}}}, spec: {{ports: [{{port: 80}}]}}}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{i}-1, labels: {{kubernetes.io/service-name: s{i}}}}}\naddressType: IPv4\nports: [{{port: 3000}}]\nendpoints: [{{addresses: [10.0.0.{i}]}}]\n").unwrap();
    }
    text
}

/// A route with two rules: of a host of its own, or of one host for all.
fn route(i: usize, one_host: bool, service: usize) -> String {
    let host = if one_host { "all.test".to_string() } else { format!("h{i}.test") };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: route-{i}\nspec:\n  parentRefs:\n  - name: gw\n  hostnames:\n  - {host}\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix\n        value: /p{i}\n    backendRefs:\n    - name: s{service}\n      port: 80\n  - matches:\n    - path:\n        type: Exact\n        value: /e{i}\n      method: GET\n    backendRefs:\n    - name: s{service}\n      port: 80\n"
    )
}

/// Time on the processor of this thread so far: what a busy machine does not distort.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn resident_kib() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

/// Waits for the one update that a write leads to; gives the time from the close of the file to the update.
fn change(control: &mut Control, path: &Path, text: &str) -> Update {
    fs::write(path, text).unwrap();
    let (closed, before) = (std::time::Instant::now(), cpu());
    loop {
        if let Some(update) = control.next(Duration::from_secs(60)) {
            let (seen, took) = (closed.elapsed().as_secs_f64() * 1e3, update.took.as_secs_f64() * 1e3);
            println!("  change of one: {:.2} ms CPU; {took:.2} ms to read and translate, {seen:.2} ms after the close", cpu() - before);
            return update;
        }
    }
}

/// Resources that an update sets, with the routes of virtual hosts that are not the very ones of before.
fn new_ones(before: &Config, update: &Update) -> Vec<String> {
    let old: HashSet<_> = before.routes.values().flat_map(|t| &t.virtual_hosts).flat_map(|h| &h.routes).map(Arc::as_ptr).collect();
    let mut all = Vec::new();
    for resource in &update.delta.set {
        all.push(resource.id().to_string());
        if let Resource::VirtualHost(_, host) = resource {
            all.extend(host.routes.iter().filter(|r| !old.contains(&Arc::as_ptr(r))).map(|r| r.name.to_string()));
        }
    }
    assert_eq!(update.delta.gone, []);
    all
}

fn run(one_host: bool, one_file: bool) {
    let n = scale();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("common.yaml"), common()).unwrap();
    let all = |changed: usize, service: usize| {
        let text = |i| route(i, one_host, if i == changed { service } else { i % SERVICES });
        (0..n).map(text).collect::<Vec<_>>().join("---\n")
    };
    if one_file {
        fs::write(dir.path().join("routes.yaml"), all(0, 0)).unwrap();
    } else {
        for i in 0..n {
            fs::write(dir.path().join(format!("route-{i}.yaml")), route(i, one_host, i % SERVICES)).unwrap();
        }
    }
    let (before, start) = (resident_kib(), cpu());
    let mut control = Control::new(Options::default());
    let first = control.load_and_watch(&[dir.path().to_path_buf()]);
    assert_eq!(control.findings(), []);
    let host = if one_host { "one host" } else { "a host each" };
    let files = if one_file { "one file" } else { "a file each" };
    println!(
        "{n} HTTPRoutes, {host}, {files}: loaded in {:.0} ms ({:.0} ms CPU), {} KiB more resident",
        first.took.as_secs_f64() * 1e3,
        cpu() - start,
        resident_kib().saturating_sub(before)
    );
    let mut config = Config::default();
    config.apply(&first.delta);
    for (round, i) in [7, n / 2, n - 1].into_iter().enumerate() {
        let service = (i + 1 + round) % SERVICES;
        let (path, text) = match one_file {
            // Only one document differs from the file as it was first, and one is as it was then.
            true => (dir.path().join("routes.yaml"), all(i, service)),
            false => (dir.path().join(format!("route-{i}.yaml")), route(i, one_host, service)),
        };
        let update = change(&mut control, &path, &text);
        let new = new_ones(&config, &update);
        let changed = if one_file && round > 0 { 2 } else { 1 };
        assert_eq!((update.objects, update.translated), (changed, changed), "{new:?}");
        // The virtual hosts, and both routes of each.
        let hosts = if one_host { 1 } else { changed };
        assert_eq!(new.len(), hosts + 2 * changed, "{new:?}");
        config.apply(&update.delta);
    }
    let update = change(&mut control, &dir.path().join("common.yaml"), &common().replace("10.0.0.5]", "10.0.1.5]"));
    assert_eq!(new_ones(&config, &update), ["endpoints `outbound|80||s5.default.svc.cluster.local`"], "no cluster and no route");
}

#[test]
fn routes_with_a_host_each() {
    run(false, false);
}

#[test]
fn routes_of_one_host() {
    run(true, false);
}

#[test]
fn routes_in_one_file() {
    run(false, true);
}
