//! What an operator sees: the admin listener, the access log, findings, `--to`.
use crate::{
    client,
    harness::{Start, TO_ECHO, eventually, weir},
};

#[test]
fn the_admin_listener_answers() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    for _ in 0..3 {
        weir.get("h", "/");
    }
    for (method, path, status, part) in [
        ("GET", "/ready", 200, "LIVE"),
        ("GET", "/stats", 200, "downstream_rq_total: 3"),
        ("GET", "/stats?format=json", 200, "\"stats\""),
        ("GET", "/stats?format=prometheus", 200, "envoy_http_downstream_rq_total{"),
        ("GET", "/stats/prometheus", 200, "# TYPE envoy_http_downstream_rq_total counter"),
        ("GET", "/config_dump", 200, "\"configs\""),
        ("GET", "/clusters", 200, "outbound|80||echo.default.svc.cluster.local::127.0.0.1:"),
        ("GET", "/clusters?format=json", 200, "cluster_statuses"),
        ("GET", "/listeners", 200, "::"),
        ("GET", "/certs", 200, "certificates"),
        ("GET", "/server_info", 200, "\"state\": \"LIVE\""),
        ("GET", "/help", 200, "/config_dump"),
        ("GET", "/logging", 405, "POST"),
        ("POST", "/logging?level=debug", 200, "debug"),
        ("POST", "/logging?level=loud", 400, "trace"),
        ("GET", "/nothing", 404, "/config_dump"),
        ("POST", "/drain_listeners?graceful", 200, "OK"),
    ] {
        let answer = client::request(weir.admin, method, "admin", path, &[("connection", "close")], b"").unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.body.contains(part), "{method} {path}: no {part} in {}", answer.body);
    }
    let dump = weir.admin("/config_dump").body;
    assert!(!dump.contains("PRIVATE KEY"), "a private key is shown");
}

#[test]
fn the_access_log_says_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg(log.display().to_string()).run();
    client::request(weir.address(), "GET", "h.test", "/a?b=c", &[("user-agent", "tester \"x\"")], b"").unwrap();
    weir.get("h.test", "/status/503");
    let text = eventually("two lines", || std::fs::read_to_string(&log).ok().filter(|t| t.lines().count() == 2));
    // Two workers write to one file, in any order.
    let line = |part: &str| text.lines().find(|l| l.contains(part)).unwrap_or_else(|| panic!("no {part} in {text}"));
    let first = line("/a?b=c");
    for part in ["\"GET /a?b=c HTTP/1.1\" 200 - 0 ", "tester", "\"h.test\" \"127.0.0.1:"] {
        assert!(first.contains(part), "no {part} in {first}");
    }
    assert!(line("/status/503").contains("\" 503 "), "{text}");
}

#[test]
fn check_prints_every_finding_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let text = TO_ECHO.replace("$PORT", "8080").replace("$ECHO", "9000");
    std::fs::write(&file, &text).unwrap();
    let good = weir().arg("check").arg(&file).output().unwrap();
    assert!(good.status.success(), "{good:?}");
    let bad = text
        .replace("backendRefs: [{ name: echo, port: 80 }]", "backendRef: [{ name: echo, port: 80 }], timeouts: { request: 5 s }")
        .replace("protocol: HTTP }", "protocol: HTTPX }");
    std::fs::write(&file, bad).unwrap();
    let out = weir().arg("check").arg(&file).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{printed}");
    for part in ["shop.yaml:6", "HTTPX", "shop.yaml:13", "did you mean backendRefs?", "is not a duration", "^^^"] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let json = weir().args(["check", "-o", "json"]).arg(&file).output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(findings.as_array().is_some_and(|f| f.len() >= 3 && f.iter().all(|d| d["line"].is_u64())), "{findings}");
}

#[test]
fn bad_command_lines_are_told_in_one_line() {
    for (args, expected, code) in [
        (vec!["run"], "nothing to run: give files with -f PATH, or a URL with --to URL", 1),
        (vec!["run", "-f", "nowhere"], "no such file or folder: nowhere", 1),
        (vec!["run", "--to", "ftp://x"], "the scheme must be http or https", 2),
        (vec!["run", "--to", "http://x", "--plugin", "no.wasm"], "no such file or folder: no.wasm", 1),
        (vec!["check", "nowhere"], "no such file or folder: nowhere", 1),
        (vec!["plugin", "inspect", "no.wasm"], "no.wasm: No such file", 1),
        (vec!["runn"], "unrecognized subcommand 'runn'", 2),
    ] {
        let output = weir().args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected) && output.status.code() == Some(code), "{args:?}: {:?} {said}", output.status);
        assert!(code == 2 || said.trim_end().lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn an_admin_address_in_use_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let out = weir().args(["run", "--to", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", &address]).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{printed}");
    assert!(printed.contains(&address) && !printed.contains("panicked"), "{printed}");
}
