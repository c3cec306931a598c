//! Thousands of findings are read, rendered and kept in time that is linear in their number, wherever they are.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};
use weir_control::{Control, Options};

const FINDINGS: usize = 3000;

/// Seconds on the processor of this thread so far: a busy machine does not distort them.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

const GATEWAY: &str = r#"{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "weir", "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]}}"#;

/// A route to a Service that is not there.
fn route(i: usize) -> String {
    format!(
        r#"{{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {{"name": "r{i}"}}, "spec": {{"parentRefs": [{{"name": "gw"}}], "hostnames": ["h{i}.test"], "rules": [{{"backendRefs": [{{"name": "nobody", "port": 80}}]}}]}}}}"#
    )
}

/// The findings as `weir check` prints them, and the seconds that reading and printing took.
fn check(path: &Path) -> (Vec<String>, f64) {
    let before = cpu();
    let mut control = Control::new(Options::default());
    control.load(&[path.to_path_buf()]);
    let found = control.findings();
    (found.iter().map(|d| d.snippet(false)).collect(), cpu() - before)
}

/// Checks what is printed, and that twice as many findings take no more than some three times as long.
fn is_linear(name: &str, text: impl Fn(usize) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let time = |count: usize| {
        fs::write(&path, text(count)).unwrap();
        let (printed, took) = check(&path);
        assert_eq!(printed.len(), count);
        let good = |p: &String| p.contains("there is no Service default/nobody") && p.contains('^') && p.len() < 2000;
        assert!(printed.iter().all(good), "{}", printed[0]);
        took
    };
    let (half, whole) = (time(FINDINGS / 2), time(FINDINGS));
    assert!(whole < 3.5 * half + 0.5, "{name}: {half:.2} s for half of what takes {whole:.2} s");
}

#[test]
fn findings_of_many_documents() {
    is_linear("all.yaml", |count| (0..count).fold(GATEWAY.to_string(), |text, i| text + "\n---\n" + &route(i)));
}

#[test]
fn findings_of_one_line() {
    is_linear("all.json", |count| {
        let items = (0..count).fold(GATEWAY.to_string(), |text, i| text + ", " + &route(i));
        format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{items}]}}"#)
    });
}

#[test]
fn findings_that_stay_cost_a_change_little() {
    let dir = tempfile::tempdir().unwrap();
    let text = (0..FINDINGS).fold(GATEWAY.to_string(), |text, i| text + "\n---\n" + &route(i));
    fs::write(dir.path().join("all.yaml"), text).unwrap();
    let before = cpu();
    let mut control = Control::new(Options::default());
    control.load_and_watch(&[dir.path().to_path_buf()]);
    assert_eq!(control.findings().len(), FINDINGS);
    let first = cpu() - before;
    let before = cpu();
    fs::write(dir.path().join("another.yaml"), GATEWAY.replace("\"gw\"", "\"another\"").replace("8080", "8081")).unwrap();
    let update = control.next(Duration::from_secs(20)).unwrap();
    assert_eq!((update.objects, control.findings().len()), (1, FINDINGS));
    let change = cpu() - before;
    assert!(change < first / 4.0, "{change:.3} s for a change, {first:.3} s for all");
}
