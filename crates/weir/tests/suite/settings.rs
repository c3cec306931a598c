//! Settings of the whole gateway, in the ConfigMaps that Istio and Higress have for them.
use crate::{
    client::{self, Connection},
    harness::{Start, TO_ECHO, Weir, eventually},
};
use std::fs;

fn settings(downstream: &str, mesh: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  higress: |\n    downstream: {{ {downstream} }}\n  mesh: |\n    {mesh}\n"
    )
}

/// The status for a request with one header of so many bytes.
fn with_header(weir: &Weir, bytes: usize) -> u16 {
    client::request(weir.address(), "GET", "h", "/", &[("x-long", &"x".repeat(bytes))], b"").unwrap().status
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
