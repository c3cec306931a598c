//! Settings of the whole gateway, in the ConfigMaps that Istio and Higress have for them.
use crate::{
    client::{self, Connection},
    harness::{Start, TO_ECHO, Weir, eventually},
    yaml::ToEcho,
};
use std::fs;

fn settings(downstream: &str, mesh: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  higress: |\n    downstream: {{ {downstream} }}\n  mesh: |\n    {mesh}\n"
    )
}

/// The status for a request with one header of this many bytes.
fn with_header(weir: &Weir, bytes: usize) -> u16 {
    let mut c = Connection::open(weir.address()).unwrap();
    // One that is too long is answered, and after a moment cut off, before all of it is sent.
    let _ = c.send(format!("GET / HTTP/1.1\r\nhost: h\r\nx-long: {}\r\n\r\n", "x".repeat(bytes)));
    c.answer().unwrap().status
}

#[test]
fn limits_change_under_an_open_connection() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mut open = Connection::open(weir.address()).unwrap();
    assert_eq!(open.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    assert_eq!((with_header(&weir, 50_000), with_header(&weir, 100_000)), (200, 431));

    // More than a read buffer holds; what arrives upstream is all of it.
    weir.write("settings.yaml", &settings("maxRequestHeadersKb: 512, maxHeadersCount: 10", "{}"));
    eventually("the larger limit", || (with_header(&weir, 100_000) == 200).then_some(()));
    let long = "y".repeat(400_000);
    let echoed = client::request(weir.address(), "POST", "h", "/", &[("x-long", &long)], b"body").unwrap().json();
    assert_eq!((echoed["headers"]["x-long"].as_str(), echoed["body"].as_str()), (Some(&*long), Some("body")));
    assert_eq!(with_header(&weir, 600_000), 431);
    let many: Vec<(String, &str)> = (0..11).map(|i| (format!("x-{i}"), "v")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (&**n, *v)).collect();
    assert_eq!(client::request(weir.address(), "GET", "h", "/", &many, b"").unwrap().status, 431);
    assert_eq!(open.request("GET", "h", "/", &[], b"").unwrap().status, 200);

    // A mistake leaves the last good settings; their end brings the defaults back.
    weir.write("settings.yaml", &settings("maxRequestHeadersKb: 9000", "{}"));
    eventually("the mistake is shown", || weir.printed().contains("9000 is out of bounds").then_some(()));
    assert_eq!(with_header(&weir, 100_000), 200);
    weir.remove("settings.yaml");
    eventually("the default limit", || (with_header(&weir, 100_000) == 431).then_some(()));
    assert_eq!(open.request("GET", "h", "/", &[], b"").unwrap().status, 200);
}

#[test]
fn the_mesh_says_how_paths_and_clients_are_seen() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let seen = |path: &str| weir.get("h", path).json()["path"].as_str().unwrap().to_string();
    assert_eq!(seen("/a//b/../c"), "/a//c");
    let log = tempfile::tempdir().unwrap();
    let file = log.path().join("access.log");
    let mesh = [
        "pathNormalization: { normalization: DECODE_AND_MERGE_SLASHES }",
        "defaultConfig: { gatewayTopology: { numTrustedProxies: 1 } }",
        &format!("accessLogFile: {}", file.display()),
        "accessLogEncoding: JSON",
        r#"accessLogFormat: '{"code": "%RESPONSE_CODE%", "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}'"#,
    ];
    weir.write("settings.yaml", &settings("", &mesh.join("\n    ")));
    eventually("slashes are merged", || (seen("/a//b%2F..//c") == "/a/c").then_some(()));
    let hops = [("x-forwarded-for", "203.0.113.9, 198.51.100.7")];
    assert_eq!(client::request(weir.address(), "GET", "h", "/status/418", &hops, b"").unwrap().status, 418);
    let line = eventually("the log has the request", || {
        let text = fs::read_to_string(&file).ok()?;
        text.lines().find(|l| l.contains("418")).map(str::to_string)
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), serde_json::json!({ "code": 418, "client": "198.51.100.7" }));
}

/// What `higress` says beside `downstream`, and its `routeTimeout`.
#[test]
fn higress_says_what_upstreams_and_clients_are_told() {
    let rule =
        |path: &str, more: &str| format!("matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: echo, port: 80 }}]{more}");
    let rules = [
        rule("/", ""),
        rule("/own", ", timeouts: { request: 60s }"),
        rule("/old", ", filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }]"),
    ];
    let gateway = ToEcho::new().rules(&rules.each_ref().map(|r| &**r)).text();
    let weir = Start::new().file("gateway.yaml", gateway).run();
    let write = |higress: &str| {
        let topology = "mesh: 'defaultConfig: { gatewayTopology: { numTrustedProxies: 1 } }'";
        weir.write(
            "settings.yaml",
            &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  {topology}\n  higress: |\n{higress}"),
        );
    };
    let ask = |path: &str| {
        let headers = [("x-real-ip", "192.0.2.1"), ("x-forwarded-for", "203.0.113.9, 198.51.100.7")];
        client::request(weir.address(), "GET", "h", path, &headers, b"").unwrap()
    };
    // The client's own word, the headers of Envoy's router, no time that is too long.
    let before = ask("/old?delay=300ms");
    assert_eq!(before.json()["headers"]["x-real-ip"], "192.0.2.1");
    assert!(before.header("x-envoy-upstream-service-time").is_some() && before.json()["headers"]["x-envoy-original-path"].is_string());

    let told = |answer: &client::Answer| match answer.status {
        200 => answer.json()["headers"]["x-real-ip"].as_str().map(str::to_string),
        _ => None,
    };
    let higress = "    addXRealIpHeader: true\n    disableXEnvoyHeaders: true\n    upstream: { idleTimeout: 100ms }\n";
    write(higress);
    eventually("the real address", || (told(&ask("/")).as_deref() == Some("198.51.100.7")).then_some(()));
    let quiet = ask("/old");
    assert_eq!((quiet.header("x-envoy-upstream-service-time"), quiet.json()["path"].as_str()), (None, Some("/new")));
    assert_eq!(quiet.json()["headers"].get("x-envoy-original-path"), None);
    // Without anybody in between it is the peer's.
    assert_eq!(told(&weir.get("h", "/")).as_deref(), Some("127.0.0.1"));
    let active = "cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_active";
    eventually("idle connections to be closed", || (weir.stat(active) == 0).then_some(()));
    let closed = "cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_idle_timeout";
    eventually("their counter", || (weir.stat(closed) > 0).then_some(()));
    // A route's own timeout stands.
    write(&format!("{higress}    downstream: {{ routeTimeout: 200ms }}\n"));
    eventually("the settings' time", || (ask("/?delay=1s").status == 504).then_some(()));
    assert_eq!(ask("/own?delay=1s").status, 200);

    // What a DestinationRule says of a cluster comes first.
    weir.write("rule.yaml", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: echo }\nspec:\n  host: echo\n  trafficPolicy: { connectionPool: { http: { idleTimeout: 1234s } } }\n");
    let dump = || weir.admin("/config_dump").body;
    eventually("the rule's timeout", || dump().contains("1234s").then_some(()));
    write("    upstream: { idleTimeout: 77 }\n");
    eventually("the settings without headers", || (told(&ask("/")).as_deref() == Some("192.0.2.1")).then_some(()));
    assert!(dump().contains("1234s") && ask("/old").header("x-envoy-upstream-service-time").is_some());
    weir.remove("rule.yaml");
    eventually("the settings' timeout", || dump().contains("\"77s\"").then_some(()));
}
