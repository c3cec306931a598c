//! Who may use the admin listener, and what it shows of secrets.
use crate::{
    client::{self, Connection},
    harness::{Start, TO_ECHO, root, weir},
};
use std::fs;

#[test]
fn the_status_listener_answers_health_checks_and_metrics_and_nothing_else() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--status").arg("127.0.0.1:0").run();
    let line = weir.says("status on http://").remove(0);
    let status: std::net::SocketAddr = line.rsplit('/').next().unwrap().parse().unwrap();
    for (method, path, code, body) in [
        ("GET", "/healthz/ready", 200, "LIVE\n"),
        ("GET", "/ready", 200, "LIVE\n"),
        ("GET", "/healthz/live", 200, "LIVE\n"),
        ("GET", "/stats/prometheus", 200, "# TYPE"),
        ("GET", "/metrics?usedonly", 200, "# TYPE"),
        ("GET", "/config_dump", 404, "invalid path `/config_dump`; there are /healthz/ready"),
        ("GET", "/objects", 404, "invalid path"),
        ("POST", "/quitquitquit", 405, "method POST not allowed, GET required"),
        ("POST", "/healthcheck/fail", 405, "method POST not allowed, GET required"),
    ] {
        // Load balancers send whatever host they have.
        let answer = client::request(status, method, "pod-7.example:80", path, &[], b"").unwrap();
        assert_eq!(answer.status, code, "{method} {path}: {answer:?}");
        assert!(answer.body.starts_with(body), "{method} {path}: {answer:?}");
    }
    assert_eq!(client::request(weir.admin, "POST", "localhost", "/healthcheck/fail", &[], b"").unwrap().status, 200);
    assert_eq!(client::get(status, "h", "/healthz/ready").unwrap().status, 503);
    assert_eq!(client::get(status, "h", "/healthz/live").unwrap().status, 200);
}

#[test]
fn other_sites_cannot_use_the_admin_listener() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--admin-allowed-hosts").arg("ops.test,other.test").run();
    let port = weir.admin.port();
    let own = format!("127.0.0.1:{port}");
    let (origin, evil) = (format!("http://{own}"), format!("evil.example:{port}"));
    let (evil_origin, sibling) = (format!("http://{evil}"), "http://127.0.0.1:3000".to_string());
    let site = |site| ("sec-fetch-site", site);
    for (host, headers, accepted) in [
        (&*own, vec![], true),
        ("localhost", vec![], true),
        ("[::1]:80", vec![], true),
        ("ops.test", vec![], true),
        (&own, vec![("origin", &*origin)], true),
        (&own, vec![("origin", &*origin), site("same-origin")], true),
        // The name of another site that resolves to this address.
        (&evil, vec![], false),
        (&evil, vec![("origin", &*evil_origin)], false),
        (&evil, vec![("origin", &*evil_origin), site("same-origin")], false),
        // A page of another site, of another port, or of none.
        (&own, vec![("origin", &*evil_origin)], false),
        (&own, vec![("origin", &*sibling)], false),
        (&own, vec![("origin", "null")], false),
        (&own, vec![site("cross-site")], false),
        (&own, vec![site("same-site")], false),
    ] {
        for (method, path) in [
            ("GET", "/config_dump"),
            ("GET", "/stats"),
            ("GET", "/"),
            ("GET", "/nothing"),
            ("POST", "/logging?dns=debug"),
            ("POST", "/healthcheck/ok"),
            ("OPTIONS", "/quitquitquit"),
        ] {
            let answer = client::request(weir.admin, method, host, path, &headers, b"").unwrap();
            assert_eq!(answer.status != 403, accepted, "{method} {path} {host} {headers:?}: {answer:?}");
            let said = ["Host `", "Origin `", "Sec-Fetch-Site `"].iter().any(|part| answer.body.starts_with(part));
            assert!(accepted || (said && !answer.body.contains("configs")), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        if !accepted {
            assert_eq!(client::request(weir.admin, "POST", host, "/quitquitquit", &headers, b"").unwrap().status, 403);
        }
    }
    // Older probes send no Host.
    let mut probe = Connection::open(weir.admin).unwrap();
    probe.send("GET /ready HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(probe.answer().unwrap().status, 200);
    weir.says("GET /config_dump refused: Host `evil.example");
    assert_eq!(weir.admin("/ready").status, 200);
}

/// Used wherever a secret can occur.
const MARK: &str = "Zq7pLmarker";

const SECRETS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: secrets }
spec:
  parentRefs: [{ name: gateway }]
  hostnames: [secrets.test]
  rules:
  - matches:
    - path: { type: Exact, value: /a }
      headers: [{ name: x-api-key, value: MARK }]
      queryParams: [{ name: token, value: MARK }]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{ name: Authorization, value: Bearer MARK0 }, { name: x-shown, value: as-it-is }]
        add: [{ name: x-api-key, value: MARK }]
    - type: ResponseHeaderModifier
      responseHeaderModifier: { set: [{ name: Set-Cookie, value: MARK }] }
    backendRefs: [{ name: echo, port: 80 }]
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: { name: held }
spec:
  url: file://greeting.wat
  pluginConfig:
    password: MARK
    shown: as-it-is
    consumers: [{ name: me, credential: MARK }]
    provider: { apiTokens: [MARK, MARK], nested: { secrets: { a: [MARK] } } }
    server: redis://me:MARK@127.0.0.1:6379/0?password=MARK
    headers: [{ key: x-auth-token, value: MARK }]
  vmConfig: { env: [{ name: MODE, value: MARK }] }
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: { name: fetched }
spec:
  url: http://me:MARK@127.0.0.1:$PORT3/plugin.wasm?token=MARK
  pluginConfig: { password: MARK, deep: { apiKey: MARK } }
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: { name: beside }
spec: { url: "file://greeting.wat", failStrategyy: FAIL_OPEN, pluginConfig: { password: MARK, apiTokens: [MARK] } }
---
apiVersion: v1
kind: Secret
metadata: { name: opaque }
stringdata: { x: 1 }
data: { tls.crt: MARK, tls.key: MARK, other: MARK }
type: kubernetes.io/tls
---
apiVersion: v1
kind: Secret
metadata: { name: text }
wrong: { token: MARK }
stringData: { tls.crt: MARK, tls.key: MARK }
type: kubernetes.io/tls
"#;

const BROKEN: &str = "
apiVersion: v1
kind: Secret
metadata: { name: broken }
stringData: { password: MARK, token: 'MARK }
";

#[test]
fn secrets_are_shown_nowhere() {
    let (secrets, broken) = (SECRETS.replace("MARK", MARK), BROKEN.replace("MARK", MARK));
    let greeting = fs::read_to_string(root().join("examples/quickstart/greeting.wat")).unwrap();
    let start = || {
        Start::new()
            .file("gateway.yaml", TO_ECHO)
            .file("secrets.yaml", secrets.clone())
            .file("broken.yaml", broken.clone())
            .file("greeting.wat", greeting.clone())
    };
    let running = start().run();
    running.says("plugin.wasm");
    let dump = running.admin("/config_dump?include_eds");
    for part in ["[redacted]", "as-it-is", "\"apiTokens\\\"", "x-api-key", "http://[redacted]@127.0.0.1:", "MODE"] {
        assert!(dump.body.contains(part), "no {part} in {}", dump.body);
    }
    for path in ["/config_dump?include_eds", "/objects", "/plugins", "/clusters?format=json", "/server_info", "/stats", "/certs", "/"] {
        let shown = running.admin(path);
        assert!(shown.status == 200 && !shown.body.contains(MARK), "{path}: {}", shown.body);
    }
    for part in ["failStrategyy", "broken.yaml", "secrets.yaml", "[redacted]"] {
        running.says(part);
    }
    assert!(!running.printed().contains(MARK), "{}", running.printed());
    for output in ["text", "json"] {
        let out = weir().args(["check", "-o", output]).arg(running.path("")).output().unwrap();
        let report = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(report.contains("failStrategyy") && !report.contains(MARK), "{report}");
    }
    // Asked for, they are.
    let showing = start().arg("--admin-show-secrets").run();
    let dump = showing.admin("/config_dump").body;
    assert!(dump.contains(&format!("\\\"password\\\":\\\"{MARK}\\\"")) && dump.contains(&format!("Bearer {MARK}")), "{dump}");
    assert!(!showing.printed().contains(MARK), "{}", showing.printed());
}
