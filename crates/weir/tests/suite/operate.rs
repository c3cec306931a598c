//! What an operator sees: the admin listener, the access log, findings, `--to`.
use crate::{
    client,
    harness::{Start, TO_ECHO, eventually, weir},
    yaml::ToEcho,
};
use std::collections::{HashMap, HashSet};

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
        ("GET", "/stats?format=xml", 400, "accepted are text, json and prometheus"),
        ("GET", "/stats?type=Gauges&filter=downstream_cx_active", 200, "downstream_cx_active: "),
        ("GET", "/stats?type=Histograms&filter=rq_time", 200, "downstream_rq_time: P0("),
        ("GET", "/stats?type=Sums", 400, "accepted are All, Counters, Gauges and Histograms"),
        ("GET", "/reopen_logs", 405, "POST"),
        ("POST", "/reopen_logs", 200, "OK"),
        ("GET", "/help", 200, "/config_dump"),
        ("GET", "/logging", 405, "POST"),
        ("POST", "/logging?level=debug", 200, "debug"),
        ("POST", "/logging?level=loud", 400, "trace"),
        ("GET", "/nothing", 404, "/config_dump"),
        ("POST", "/drain_listeners?graceful", 200, "OK"),
    ] {
        let answer = client::request(weir.admin, method, "localhost", path, &[("connection", "close")], b"").unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.body.contains(part), "{method} {path}: no {part} in {}", answer.body);
    }
    let some = weir.admin("/stats?type=Counters").body;
    assert!(some.contains("downstream_rq_total: 3") && !some.contains("_cx_active: ") && !some.contains("_rq_time: "), "{some}");
    let dump = weir.admin("/config_dump").body;
    assert!(!dump.contains("PRIVATE KEY"), "a private key is shown");
}

/// Strictly as the text format is written down: one bad line and Prometheus takes nothing of all.
#[test]
fn what_prometheus_scrapes_is_well_formed() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    for path in ["/", "/status/404", "/status/503"] {
        weir.get("h", path);
    }
    let name = regex::Regex::new("^[a-zA-Z_:][a-zA-Z0-9_:]*$").unwrap();
    let sample =
        regex::Regex::new(r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$"#)
            .unwrap();
    let le = regex::Regex::new(r#",?le="([^"]*)""#).unwrap();
    let text = weir.admin("/stats/prometheus").body;
    assert!(text.ends_with('\n'));
    let (mut declared, mut series) = (HashMap::new(), HashSet::new());
    let (mut family, mut kind) = ("", "");
    // Of one histogram: its labels, the last bucket's bound and count.
    let mut bucket: Option<(String, f64, f64)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').unwrap();
            assert!(name.is_match(family) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(declared.insert(family, kind).is_none(), "twice: {line}");
            continue;
        }
        let parts = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
        let labels = parts.get(2).map_or("", |l| l.as_str());
        let value: f64 = parts[3].parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(series.insert((parts[1].to_string(), labels.to_string())), "twice: {line}");
        let suffix = parts[1].strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        match (kind, suffix) {
            ("counter" | "gauge", "") | ("histogram", "_sum") => {}
            ("histogram", "_bucket") => {
                let bound = le.captures(labels).unwrap_or_else(|| panic!("{line}"))[1].parse::<f64>().unwrap();
                let rest = le.replace(labels, "").into_owned();
                if let Some((of, below, count)) = bucket.take().filter(|b| b.0 == rest) {
                    assert!(below < bound && count <= value, "{line} behind {count} up to {below} of {of}");
                }
                bucket = Some((rest, bound, value));
            }
            ("histogram", "_count") => {
                let (of, bound, count) = bucket.take().unwrap();
                assert!(of == labels && bound.is_infinite() && count == value, "{line}");
            }
            other => panic!("{other:?}: {line}"),
        }
    }
    for (family, kind) in [
        ("envoy_http_downstream_rq_xx", "counter"),
        ("envoy_http_downstream_rq_time", "histogram"),
        ("envoy_cluster_upstream_rq", "counter"),
        ("envoy_cluster_outlier_detection_ejections_enforced_consecutive_5xx", "counter"),
        ("envoy_server_live", "gauge"),
    ] {
        assert_eq!(declared.get(family), Some(&kind), "{family}");
    }
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
    for part in ["\"GET /a?b=c HTTP/1.1\" 200 - via_upstream - \"-\" 0 ", "tester", "\"h.test\" \"127.0.0.1:"] {
        assert!(first.contains(part), "no {part} in {first}");
    }
    assert!(line("/status/503").contains("\" 503 "), "{text}");
}

#[test]
fn check_prints_every_finding_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    let text = ToEcho::new().port(8080).upstream(9000).text();
    std::fs::write(&file, &text).unwrap();
    let good = weir().arg("check").arg(&file).output().unwrap();
    assert!(good.status.success(), "{good:?}");
    let bad = ToEcho::new()
        .listeners(&["name: http, port: 8080, protocol: HTTPX"])
        .rules(&["backendRef: [{ name: echo, port: 80 }], timeouts: { request: 5 s }"])
        .text();
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
fn an_admin_address_in_use_is_said_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let out = weir().args(["run", "--to", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", &address]).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{printed}");
    assert!(printed.contains(&format!("cannot listen on {address}: Address already in use")) && !printed.contains("Some("), "{printed}");
}

#[test]
fn the_configuration_is_dumped_in_envoys_shapes_with_its_sources() {
    let more = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: more }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [more.test]
  rules:
  - matches: [{ path: { type: Exact, value: /a }, method: POST, headers: [{ name: x, type: RegularExpression, value: 'y.*' }] }]
    filters:
    - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: h, value: v }], remove: [g] } }
    - { type: RequestMirror, requestMirror: { backendRef: { name: echo, port: 80 }, percent: 10 } }
    - { type: URLRewrite, urlRewrite: { hostname: b.test, path: { type: ReplaceFullPath, replaceFullPath: /b } } }
    timeouts: { request: 1500ms }
    retry: { codes: [503], attempts: 2 }
    backendRefs: [{ name: echo, port: 80, weight: 3 }, { name: nothing, port: 80 }]
  - filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, port: 8443, statusCode: 308 } }]
";
    let weir = Start::new().file("all.yaml", format!("{TO_ECHO}{more}")).run();
    let dump = weir.admin("/config_dump?include_eds").json();
    let section = |name: &str| {
        let all = dump["configs"].as_array().unwrap();
        let wanted = format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump");
        all.iter().find(|c| c["@type"] == wanted).unwrap_or_else(|| panic!("no {name} in {dump}")).clone()
    };
    assert_eq!(section("Bootstrap")["bootstrap"]["node"]["user_agent_name"], "weir");
    let listener = &section("Listeners")["dynamic_listeners"][0]["active_state"]["listener"];
    assert_eq!(listener["@type"], "type.googleapis.com/envoy.config.listener.v3.Listener");
    assert_eq!(listener["address"]["socket_address"]["port_value"], weir.ports[0]);
    let manager = &listener["filter_chains"][0]["filters"][0];
    assert_eq!(manager["name"], "envoy.filters.network.http_connection_manager");
    assert_eq!(manager["typed_config"]["rds"]["route_config_name"], format!("http.{}", weir.ports[0]));
    let table = &section("Routes")["dynamic_route_configs"][0]["route_config"];
    let hosts = table["virtual_hosts"].as_array().unwrap();
    let routes = hosts.iter().find(|h| h["domains"][0] == "more.test").unwrap()["routes"].as_array().unwrap();
    let at = |pointer: &str| routes[0].pointer(pointer).cloned().unwrap_or_default();
    for (pointer, value) in [
        ("/name", serde_json::json!("default/more/0")),
        ("/match/path", "/a".into()),
        ("/match/headers/0", serde_json::json!({ "name": ":method", "string_match": { "exact": "POST" } })),
        ("/match/headers/1/string_match/safe_regex/regex", "y.*".into()),
        ("/route/weighted_clusters/clusters/0", serde_json::json!({ "name": "outbound|80||echo.default.svc.cluster.local", "weight": 3 })),
        ("/route/weighted_clusters/clusters/1/unresolved_status", 500.into()),
        ("/route/timeout", "1.5s".into()),
        ("/route/host_rewrite_literal", "b.test".into()),
        ("/route/retry_policy/num_retries", 2.into()),
        ("/route/request_mirror_policies/0/runtime_fraction/default_value/numerator", 100_000.into()),
        ("/request_headers_to_add/0/header", serde_json::json!({ "key": "h", "value": "v" })),
        ("/request_headers_to_remove/0", "g".into()),
    ] {
        assert_eq!(at(pointer), value, "{pointer} in {:#}", routes[0]);
    }
    assert_eq!(
        routes[1]["redirect"],
        serde_json::json!({ "scheme_redirect": "https", "port_redirect": 8443, "response_code": "PERMANENT_REDIRECT" })
    );
    let cluster = &section("Clusters")["dynamic_active_clusters"][0]["cluster"];
    assert_eq!((&cluster["type"], &cluster["lb_policy"]), (&"EDS".into(), &"LEAST_REQUEST".into()));
    let endpoints = &section("Endpoints")["dynamic_endpoint_configs"][0]["endpoint_config"];
    let address = &endpoints["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!(address["address"], "127.0.0.1");
    // Where each comes from.
    for (resource, object) in
        [(listener, "Gateway/default/gateway"), (&routes[0], "HTTPRoute/default/more"), (cluster, "Service/default/echo")]
    {
        let source = &resource["metadata"]["filter_metadata"]["weir"]["sources"][0];
        assert_eq!(source["object"], object);
        assert!(source["file"].as_str().unwrap().ends_with("all.yaml"), "{source}");
        assert!(source["line"].as_u64().unwrap() > 0, "{source}");
    }
}
