//! Annotations of Ingress objects: each under both of its prefixes, wrong values, and what is refused.
mod auth;
mod connection;
mod errors;
mod migrate;

use super::{ask, came_to, check, no_findings, seen, services};
use crate::{
    client::{Answer, Connection},
    harness::{Start, eventually},
};
use std::{fmt::Write, net::SocketAddr};

const PREFIXES: [(&str, &str); 2] = [("nginx", "nginx.ingress.kubernetes.io"), ("higress", "higress.io")];

/// One Ingress for the host `HOST`, and the results of its requests.
struct Row {
    /// `NAME: VALUE`, one in each line; a value may go on in lines that begin with a space.
    annotations: &'static str,
    /// `TYPE PATH SERVICE`, one after the other.
    paths: &'static [&'static str],
    /// Requests without their host, and their results, where `HOST` is replaced by the host of the Ingress.
    requests: &'static [(&'static str, &'static str)],
    what: fn(&Answer) -> String,
}

const fn row(annotations: &'static str, paths: &'static [&'static str], requests: &'static [(&'static str, &'static str)]) -> Row {
    Row { annotations, paths, requests, what: came_to }
}

const fn rewritten(annotations: &'static str, paths: &'static [&'static str], requests: &'static [(&'static str, &'static str)]) -> Row {
    Row { annotations, paths, requests, what: seen }
}

/// The fields of a response that begin with `x-` or `access-control-`, or are cookies.
fn response_fields(answer: &Answer) -> String {
    let wanted =
        |name: &str| (name.starts_with("x-r") || name.starts_with("access-control-") || name == "set-cookie") && name != "x-request-id";
    let mut fields: Vec<String> = answer.headers.iter().filter(|(n, _)| wanted(n)).map(|(n, v)| format!("{n}: {v}")).collect();
    fields.sort();
    format!("{} {}", answer.status, fields.join("; "))
}

/// What the upstream saw of the headers whose names begin with `x-r`.
fn request_fields(answer: &Answer) -> String {
    let told = answer.json();
    let headers = told["headers"].as_object().unwrap();
    let own = headers.iter().filter(|(name, _)| name.starts_with("x-r") && !["x-request-id", "x-real-ip"].contains(&name.as_str()));
    let mut own: Vec<String> = own.map(|(name, value)| format!("{name}: {}", value.to_string().replace('"', ""))).collect();
    own.sort();
    own.join("; ")
}

const ROOT: &[&str] = &["Prefix / echo"];

const ROWS: &[Row] = &[
    // Redirects.
    row("app-root: /home", ROOT, &[("GET /", "302 http://HOST/home"), ("GET /x", "echo")]),
    row("permanent-redirect: https://b.test:8443/new", ROOT, &[("GET /old?q", "301 https://b.test:8443/new?q")]),
    row("permanent-redirect: http://b.test\npermanent-redirect-code: 308", ROOT, &[("GET /old", "308 http://b.test/old")]),
    row("temporal-redirect: http://b.test\ntemporal-redirect-code: 307", ROOT, &[("GET /old", "307 http://b.test/old")]),
    row("permanent-redirect: https://b.test?a=b", ROOT, &[("GET /old", "301 https://b.test/?a=b")]),
    row("temporal-redirect: http://b.test/new\npermanent-redirect: http://c.test", ROOT, &[("GET /old", "302 http://b.test/new")]),
    row("ssl-redirect: true", ROOT, &[("GET /x?q", "308 https://HOST/x?q")]),
    row("force-ssl-redirect: true", ROOT, &[("POST /x", "308 https://HOST/x")]),
    row("ssl-redirect: false", ROOT, &[("GET /", "echo")]),
    // Matching.
    row("exact-match-header-x-a: 1", ROOT, &[("GET / | x-a: 1", "echo"), ("GET / | x-a: 11", "404"), ("GET /", "404")]),
    row("prefix-match-header-X-A: beta", ROOT, &[("GET / | x-a: beta-2", "echo"), ("GET / | x-a: alpha", "404")]),
    row("regex-match-header-x-a: [0-9]+", ROOT, &[("GET / | x-a: 12", "echo"), ("GET / | x-a: 12b", "404")]),
    row("exact-match-query-v: 1", ROOT, &[("GET /?v=1", "echo"), ("GET /?v=2", "404"), ("GET /", "404")]),
    row("prefix-match-query-v: be", ROOT, &[("GET /?a=b&v=beta", "echo"), ("GET /?v=b", "404")]),
    row("regex-match-query-v: (a|b)+", ROOT, &[("GET /?v=abba", "echo"), ("GET /?v=abc", "404")]),
    row("exact-match-pseudo-header-method: PUT", ROOT, &[("PUT /", "echo"), ("GET /", "404")]),
    row("prefix-match-pseudo-header-path: /v3/bar", ROOT, &[("GET /v3/bars?x", "echo"), ("GET /v3/foo", "404")]),
    row("regex-match-pseudo-header-authority: .+\\.test", ROOT, &[("GET /", "echo")]),
    row("match-method: GET post", ROOT, &[("GET /", "echo"), ("POST /", "echo"), ("PUT /", "404")]),
    row(
        "use-regex: true",
        &["ImplementationSpecific /foo/[A-Z]{3} echo", "Prefix / echo2"],
        &[("GET /foo/ABC", "echo"), ("GET /foo/ABCD/x", "echo"), ("GET /foo/abc", "echo2"), ("GET /x/foo/ABC", "echo2")],
    ),
    row(
        "full-path-regex: true",
        &["ImplementationSpecific /foo/[A-Z]{3} echo"],
        &[("GET /foo/ABC", "echo"), ("GET /foo/ABCD", "404"), ("GET /foo/ABC?q", "echo")],
    ),
    row(
        "full-path-regex: true",
        &["ImplementationSpecific /cost\\$ echo", "ImplementationSpecific /end$ echo2"],
        &[("GET /cost$", "echo"), ("GET /cost", "404"), ("GET /end", "echo2"), ("GET /end$", "404")],
    ),
    row(
        "ignore-path-case: true",
        &["Exact /Foo echo", "Prefix /bar echo2"],
        &[("GET /foo", "echo"), ("GET /FOO", "echo"), ("GET /BAR/x", "echo2"), ("GET /barx", "404")],
    ),
    // Rewrites.
    rewritten(
        "rewrite-target: /$2",
        &["Prefix /svc(/|$)(.*) echo"],
        &[("GET /svc/a/b?q=1", "HOST/a/b?q=1"), ("GET /svc", "HOST/"), ("GET /x", "404")],
    ),
    rewritten(
        "rewrite-target: /app",
        &["Prefix /foo echo", "Exact /one echo"],
        &[("GET /foo/a", "HOST/app/a"), ("GET /foo", "HOST/app"), ("GET /one", "HOST/app")],
    ),
    rewritten("rewrite-target: /", &["Prefix /foo echo"], &[("GET /foo/a", "HOST/a"), ("GET /foo", "HOST/")]),
    rewritten("rewrite-path: /new", &["Prefix /foo echo", "Exact /one echo"], &[("GET /foo/a", "HOST/new/a"), ("GET /one", "HOST/new")]),
    rewritten("upstream-vhost: inner.test", ROOT, &[("GET /a", "inner.test/a")]),
    // Headers.
    Row {
        annotations: "request-header-control-add: |\n  x-r1 one\n  'x-r2' \"two words\"\nrequest-header-control-update: x-r3 new\nrequest-header-control-remove: x-r4, x-r5",
        paths: ROOT,
        requests: &[(
            "GET / | x-r1: zero | x-r3: old | x-r4: 4 | x-r5: 5 | x-r6: 6",
            "x-r1: [zero,one]; x-r2: two words; x-r3: new; x-r6: 6",
        )],
        what: request_fields,
    },
    Row {
        annotations: "x-forwarded-prefix: /app\nrequest-header-control-add: x-r1 one",
        paths: ROOT,
        requests: &[("GET / | x-r1: zero", "x-r1: [zero,one] /app")],
        what: |answer| {
            format!("{} {}", request_fields(answer), answer.json()["headers"]["x-forwarded-prefix"].as_str().unwrap_or_default())
        },
    },
    Row {
        annotations: "response-header-control-add: x-r1 one\nresponse-header-control-update: x-r2 two\nresponse-header-control-remove: x-echo-name",
        paths: ROOT,
        requests: &[("GET /", "200 x-r1: one; x-r2: two")],
        what: response_fields,
    },
    Row {
        annotations: "enable-cors: true\ncors-allow-origin: https://*.shop.test, http://b.test\ncors-allow-methods: GET, PUT\ncors-allow-headers: x-a\ncors-expose-headers: x-b\ncors-allow-credentials: false\ncors-max-age: 60",
        paths: ROOT,
        requests: &[
            (
                "GET / | origin: https://a.shop.test",
                "200 access-control-allow-origin: https://a.shop.test; access-control-expose-headers: x-b",
            ),
            ("GET / | origin: http://b.test", "200 access-control-allow-origin: http://b.test; access-control-expose-headers: x-b"),
            ("GET / | origin: https://shop.test", "200 "),
            (
                "OPTIONS / | origin: http://b.test | access-control-request-method: PUT",
                "200 access-control-allow-headers: x-a; access-control-allow-methods: GET,PUT; access-control-allow-origin: http://b.test; access-control-expose-headers: x-b; access-control-max-age: 60",
            ),
        ],
        what: response_fields,
    },
    Row {
        annotations: "enable-cors: true",
        paths: ROOT,
        requests: &[("GET / | origin: http://any", "200 access-control-allow-credentials: true; access-control-allow-origin: http://any")],
        what: response_fields,
    },
    // Access.
    row("whitelist-source-range: 192.0.2.0/24, 2001:db8::/32", ROOT, &[("GET /", "403")]),
    row("whitelist-source-range: 192.0.2.1,127.0.0.0/8", ROOT, &[("GET /", "echo")]),
    row("whitelist-source-range: \"*\"", ROOT, &[("GET /", "echo")]),
    row("allowlist-source-range: 192.0.2.0/24", ROOT, &[("GET /", "403")]),
    row("allowlist-source-range: 192.0.2.1, 127.0.0.1", ROOT, &[("GET /", "echo")]),
    row("denylist-source-range: 127.0.0.1", ROOT, &[("GET /", "403")]),
    row("blacklist-source-range: 192.0.2.1", ROOT, &[("GET /", "echo")]),
    row(
        "route-limit-rpm: 1\nroute-limit-burst-multiplier: 2",
        ROOT,
        &[("GET /", "echo"), ("GET /", "echo"), ("GET /", "429"), ("GET /", "429")],
    ),
    // On the way to the upstream.
    row("timeout: 1", ROOT, &[("GET /?delay=20s", "504"), ("GET /", "echo")]),
    row("proxy-read-timeout: 1", ROOT, &[("GET /?delay=20s", "504"), ("GET /", "echo")]),
    row("proxy-send-timeout: 1", ROOT, &[("GET /?delay=20s", "504"), ("GET /", "echo")]),
    // The longer one counts.
    row("proxy-read-timeout: 1\nproxy-send-timeout: 60", ROOT, &[("GET /?delay=2s", "echo")]),
    row("proxy-next-upstream-timeout: 1\nproxy-next-upstream-tries: 1", ROOT, &[("GET /?delay=20s", "504"), ("GET /", "echo")]),
    row(
        "proxy-next-upstream: http_503\nproxy-next-upstream-tries: 2",
        &["Prefix /flaky echo"],
        &[("GET /flaky/HOST-a?fail=2", "200"), ("GET /flaky/HOST-b?fail=3", "503")],
    ),
    row(
        "proxy-next-upstream: error timeout",
        &["Prefix /flaky echo"],
        &[("GET /flaky/HOST-c?fail=3", "200"), ("GET /flaky/HOST-d?fail=4", "503")],
    ),
    row("proxy-next-upstream: off", &["Prefix /flaky echo"], &[("GET /flaky/HOST-e?fail=1", "503")]),
    row(
        "default-backend: echo2",
        &["Prefix /a echo", "Prefix /b nothing", "Prefix /c empty", "Prefix /d listed", "Prefix /e selected"],
        &[("GET /a", "echo"), ("GET /b", "echo2"), ("GET /c", "echo2"), ("GET /d", "echo"), ("GET /e", "echo")],
    ),
];

fn ingress(name: &str, host: &str, prefix: &str, annotations: &str, paths: &[&str]) -> String {
    let mut out = format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n");
    for line in annotations.lines() {
        match line.split_once(": ").filter(|_| !line.starts_with(' ')) {
            Some((key, "|")) => _ = writeln!(out, "    {prefix}/{key}: |"),
            Some((key, value)) => _ = writeln!(out, "    {prefix}/{key}: {}", serde_json::to_string(value.trim_matches('"')).unwrap()),
            None => _ = writeln!(out, "    {line}"),
        }
    }
    let _ = writeln!(out, "spec:\n  rules:\n  - host: '{host}'\n    http:\n      paths:");
    for path in paths {
        let mut parts = path.split(' ');
        let (kind, path, service) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let _ = writeln!(
            out,
            "      - {{ pathType: {kind}, path: {path:?}, backend: {{ service: {{ name: {service}, port: {{ number: 80 }} }} }} }}"
        );
    }
    out
}

const EMPTY: &str = "---\n{ apiVersion: v1, kind: Service, metadata: { name: empty }, spec: { ports: [{ port: 80 }] } }\n---\n{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: { name: empty, labels: { kubernetes.io/service-name: empty } }, addressType: IPv4, ports: [{ port: 1 }], endpoints: [] }\n---\n{ apiVersion: v1, kind: Service, metadata: { name: listed }, spec: { ports: [{ port: 80 }] } }\n---\n{ apiVersion: v1, kind: Endpoints, metadata: { name: listed }, subsets: [{ addresses: [{ ip: 127.0.0.1 }], ports: [{ port: $ECHO }] }] }\n---\n{ apiVersion: v1, kind: Service, metadata: { name: selected }, spec: { selector: { app: a }, ports: [{ port: 80, targetPort: $ECHO }] } }\n---\n{ apiVersion: v1, kind: Pod, metadata: { name: pod, labels: { app: a } }, spec: { containers: [] }, status: { podIP: 127.0.0.1 } }\n";

fn start(upstreams: usize, ingresses: &str) -> Start<'static> {
    let all = format!("{}{EMPTY}{ingresses}", services("default", upstreams));
    Start::new().upstreams(upstreams).file("all.yaml", all).arg("--http-port").arg("$PORT")
}

#[test]
fn each_means_the_same_under_both_prefixes() {
    let mut all = String::new();
    for (short, prefix) in PREFIXES {
        for (i, row) in ROWS.iter().enumerate() {
            all += &ingress(&format!("{short}-{i}"), &format!("r{i}.{short}.test"), prefix, row.annotations, row.paths);
        }
    }
    let weir = start(2, &all).arg("--access-log-format").arg("[%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%]").run();
    no_findings(&weir);
    let mut wrong = Vec::new();
    for (short, _) in PREFIXES {
        for (i, row) in ROWS.iter().enumerate() {
            let host = format!("r{i}.{short}.test");
            for (request, wanted) in row.requests {
                let line = request.replace("HOST", &host).replacen(' ', &format!(" {host}"), 1);
                let come = || (row.what)(&ask(&mut Connection::open(weir.address()).unwrap(), &line));
                let (mut got, wanted) = (come(), wanted.replace("HOST", &host));
                // On a busy machine a request may be late without being delayed.
                if got == "504" && wanted == "echo" {
                    got = come();
                }
                if got != wanted {
                    wrong.push(format!("{}: {line}\n  wanted {wanted}\n  got    {got}", row.annotations));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    // Envoy's words and names for what was refused.
    weir.says("[403 - rbac_access_denied_matched_policy[none]]");
    weir.says("[429 RL local_rate_limited]");
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.{name}", weir.ports[0]));
    assert_eq!(["rbac.denied", "rbac.allowed", "http_local_rate_limit.ok", "http_local_rate_limit.rate_limited"].map(stat), [6, 8, 4, 4],);
}

/// Requests of one route share its limit, on all workers.
#[test]
fn a_rate_limit_holds_over_all_workers() {
    let limit = ingress("limit", "a.test", "higress.io", "route-limit-rpm: 1\nroute-limit-burst-multiplier: 12", ROOT);
    let weir = start(1, &limit).workers(4).run();
    let statuses: Vec<u16> = (0..24).map(|_| weir.get("a.test", "/").status).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 12, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == 429).count(), 12, "{statuses:?}");
    // A change elsewhere does not fill the bucket again.
    weir.write("more.yaml", &ingress("more", "b.test", "higress.io", "timeout: 5", ROOT));
    weir.get_until("b.test", "/", |a| a.status == 200);
    assert_eq!(weir.get("a.test", "/").status, 429);
}

#[test]
fn mirrors_get_a_copy() {
    let all = PREFIXES.iter().enumerate().map(|(i, (short, prefix))| {
        let annotations = format!("mirror-target-service: default/echo{}:80\nmirror-percentage: 100", i + 2);
        ingress(short, &format!("{short}.test"), prefix, &annotations, ROOT)
    });
    let weir = start(3, &all.collect::<String>()).run();
    no_findings(&weir);
    for (i, (short, _)) in PREFIXES.iter().enumerate() {
        assert_eq!(weir.get(&format!("{short}.test"), "/").json()["name"], "echo");
        let name = format!("cluster.outbound|80||echo{}.default.svc.cluster.local.upstream_rq_mirror_total", i + 2);
        eventually("the copy", || (weir.stat(&name) == 1).then_some(()));
    }
}

#[test]
fn canaries_take_their_part() {
    let canary = |name: &str, path: &str, annotations: &str, service: &str| {
        ingress(
            &format!("{name}-canary"),
            "a.test",
            "higress.io",
            &format!("canary: true\n{annotations}"),
            &[&format!("Prefix {path} {service}")],
        )
    };
    let base = |path: &str| {
        ingress(
            &format!("base{}", path.replace('/', "-")),
            "a.test",
            "nginx.ingress.kubernetes.io",
            "rewrite-target: /r\nrequest-header-control-add: x-r1 base",
            &[&format!("Prefix {path} echo")],
        )
    };
    let paths = ["/header", "/value", "/pattern", "/cookie", "/none", "/half", "/all", "/total"];
    let all = [
        paths.map(base).concat(),
        canary("header", "/header", "canary-by-header: x-c\nrequest-header-control-add: x-r1 canary", "echo2"),
        canary("value", "/value", "canary-by-header: x-c\ncanary-by-header-value: blue|green", "echo2"),
        canary("pattern", "/pattern", "canary-by-header: x-c\ncanary-by-header-pattern: ^b|n$", "echo2"),
        canary("cookie", "/cookie", "canary-by-cookie: side", "echo2"),
        canary("none", "/none", "canary-weight: 0", "echo2"),
        canary("half", "/half", "canary-weight: 50\nrequest-header-control-add: x-r1 canary", "echo2"),
        canary("all", "/all", "canary-weight: 100", "echo2"),
        canary("total", "/total", "canary-weight: 10\ncanary-weight-total: 10", "echo2"),
        canary("lost", "/lost", "canary-weight: 100", "echo2"),
    ];
    let weir = start(2, &all.concat()).run();
    check(
        weir.address(),
        |a| if a.status == 200 { a.json()["name"].as_str().unwrap().to_string() } else { a.status.to_string() },
        &[
            ("GET a.test/header", "echo"),
            ("GET a.test/header | x-c: always", "echo2"),
            ("GET a.test/header | x-c: never", "echo"),
            ("GET a.test/value | x-c: always", "echo2"),
            ("GET a.test/value | x-c: green", "echo2"),
            ("GET a.test/value | x-c: greens", "echo"),
            ("GET a.test/pattern | x-c: blue", "echo2"),
            ("GET a.test/pattern | x-c: green", "echo2"),
            ("GET a.test/pattern | x-c: red", "echo"),
            ("GET a.test/cookie | cookie: a=b; side=always", "echo2"),
            ("GET a.test/cookie | cookie: aside=always", "echo"),
            ("GET a.test/cookie | cookie: side=never", "echo"),
            ("GET a.test/none", "echo"),
            ("GET a.test/all", "echo2"),
            ("GET a.test/total", "echo2"),
            ("GET a.test/lost", "404"),
        ],
    );
    // Annotations of the primary also apply to the canary, except header control.
    check(
        weir.address(),
        |a| format!("{} {}", seen(a), request_fields(a)),
        &[
            ("GET a.test/header/x", "a.test/r/x x-r1: base"),
            ("GET a.test/header/x | x-c: always", "a.test/r/x x-r1: canary"),
            ("GET a.test/all/x", "a.test/r/x "),
        ],
    );
    let (mut c, mut counts) = (Connection::open(weir.address()).unwrap(), [0, 0]);
    for _ in 0..100 {
        let told = ask(&mut c, "GET a.test/half").json();
        let canary = told["name"] == "echo2";
        assert_eq!(told["headers"]["x-r1"], if canary { "canary" } else { "base" });
        counts[usize::from(canary)] += 1;
    }
    assert!(counts.iter().all(|n| *n > 20), "{counts:?}");
    weir.says("this canary takes no requests of it");
}

/// A request that no path of an exact host takes goes to the wildcard's.
#[test]
fn exact_hosts_fall_back_to_their_wildcard() {
    let none = |name: &str, host: &str, paths: &[&str]| ingress(name, host, "higress.io", "", paths);
    let all = [
        none("wild", "*.foo.test", &["Prefix / echo"]),
        none("exact", "www.foo.test", &["Exact /bar echo2"]),
        none("any", "other.test", &["Exact /bar echo2"]),
    ];
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: g }\nspec: { gatewayClassName: weir, listeners: [{ name: http, port: $PORT2, protocol: HTTP }] }\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: wild }\nspec: { parentRefs: [{ name: g }], hostnames: ['*.foo.test'], rules: [{ backendRefs: [{ name: echo, port: 80 }] }] }\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: exact }\nspec: { parentRefs: [{ name: g }], hostnames: [www.foo.test], rules: [{ matches: [{ path: { value: /bar } }], backendRefs: [{ name: echo2, port: 80 }] }] }\n";
    let weir = start(2, &(all.concat() + gateway)).run();
    let table = |rest| {
        [
            ("GET www.foo.test/bar", "echo2"),
            ("GET www.foo.test/foo", rest),
            ("GET www.foo.test:80/foo", rest),
            ("GET b.foo.test/bar", "echo"),
        ]
    };
    check(weir.address(), came_to, &table("echo"));
    check(weir.address(), came_to, &[("GET other.test/foo", "404"), ("GET b.a.foo.test/", "404")]);
    // Gateway API says that it does not.
    check(SocketAddr::from(([127, 0, 0, 1], weir.ports[1])), came_to, &table("404"));
}

/// An access annotation that cannot be honoured closes its routes, even if a wider route exists; the rest is a warning.
#[test]
fn what_is_not_supported_is_never_open() {
    let closed = [
        "auth-url: http://auth",
        "auth-type: basic",
        "auth-type: digest",
        "auth-secret: default/users",
        "limit-rps: 5",
        "configuration-snippet: deny all;",
        "denylist-source-range: 10.0.0",
        "whitelist-source-range: \"\"",
        "route-limit-rps: none",
        "route-limit-rpm: \"\"",
        "domain-blacklist-source-range: 192.0.2.1",
        "modsecurity-snippet: SecRuleEngine On",
        "configuration-snippet: access_by_lua_block { ngx.exit(403) }",
        "server-snippet: ssl_verify_client on;",
    ];
    let mut all = ingress("wide", "a.test", "higress.io", "proxy-body-size: 8m", ROOT);
    for (i, annotations) in closed.into_iter().enumerate() {
        all += &ingress(&format!("closed-{i}"), "a.test", PREFIXES[i % 2].1, annotations, &[&format!("Prefix /{i} echo")]);
    }
    all += &ingress("tls", "a.test", "higress.io", "auth-tls-secret: default/ca", &["Prefix /tls echo"]);
    all += &ingress("other", "a.test", "mse.ingress.kubernetes.io", "auth-url: http://auth", &["Prefix /other echo"]);
    all += &ingress("canary", "a.test", "mse.ingress.kubernetes.io", "canary: true\ncanary-weight: 100", ROOT);
    all += &ingress("off", "off.test", "nginx.ingress.kubernetes.io", "enable-modsecurity: false\nauth-realm: shop", ROOT);
    all += &ingress("guarded-canary", "a.test", "higress.io", "canary: true\ncanary-weight: 100\nauth-url: http://auth", ROOT);
    // The readable paths of an Ingress in error are closed; an unreadable path could be any path.
    const GUARD: &str = "auth-url: http://auth";
    all += &ingress("number", "a.test", "higress.io", "limit-rps: 5", &["Prefix /number echo"]).replace("\"5\"", "5");
    all += &ingress("type", "a.test", "higress.io", GUARD, &["prefix /type echo"]);
    all += &ingress("a-wide", "b.test", "higress.io", "timeout: 5", &["Prefix / echo", "Prefix /open echo"]);
    all += &ingress("path", "b.test", "higress.io", GUARD, &["Prefix none echo"]);
    all += &ingress("any", "", "higress.io", "timeout: 5", &["Prefix /any echo"]);
    all += &ingress("host", "c.test:80", "higress.io", GUARD, &["Prefix /any/x echo"]);
    let weir = start(2, &all).run();
    let status = |path: &str| weir.get("a.test", path).status;
    for (i, annotations) in closed.into_iter().enumerate() {
        assert_eq!(status(&format!("/{i}")), 503, "{annotations}");
    }
    assert_eq!((status("/tls"), status("/other"), status("/x"), weir.get("off.test", "/").status), (503, 503, 200, 200));
    let table = [
        ("a.test", "/number", 503),
        ("a.test", "/type/x", 503),
        ("b.test", "/x", 503),
        ("b.test", "/open", 200),
        ("d.test", "/any/x", 200),
    ];
    for (host, path, wanted) in table {
        assert_eq!(weir.get(host, path).status, wanted, "{host}{path}");
    }
    for told in [
        "higress.io/auth-url is not supported, and without it access would be open: this canary takes no requests",
        "higress.io/proxy-body-size is not supported and has no effect",
        "nginx.ingress.kubernetes.io/auth-url is not supported, and without it access would be open",
        "mse.ingress.kubernetes.io/canary is not supported: its Ingress takes no requests",
        "\"10.0.0\" is not an address or a range of addresses",
        "has no address",
        "no certificate for a.test",
    ] {
        weir.says(told);
    }
    // An object that was good goes on as it was when its list becomes wrong, and is closed when it asks for what there is not.
    let guarded = |annotations: &str| ingress("late", "late.test", "higress.io", annotations, ROOT);
    weir.write("late.yaml", &guarded("whitelist-source-range: 127.0.0.1"));
    weir.get_until("late.test", "/", |a| a.status == 200);
    weir.write("late.yaml", &guarded("whitelist-source-range: 127.0.0.1.1"));
    weir.says("\"127.0.0.1.1\" is not an address");
    assert_eq!(weir.get("late.test", "/").status, 200);
    weir.write("late.yaml", &guarded("auth-signin: http://auth"));
    weir.get_until("late.test", "/", |a| a.status == 503);
}

#[test]
fn wrong_values_are_told() {
    let table = [
        ("permanent-redirect: b.test", "is not a URL"),
        ("temporal-redirect-code: 200", "is not a status of redirects"),
        ("custom-http-errors: 404,200", "\"200\" is not the status of an error"),
        ("custom-http-errors: 404", "has no effect without default-backend"),
        ("auth-type: digest", "is not accepted here"),
        ("auth-type: basic", "auth-type needs auth-secret"),
        ("auth-secret: users", "auth-secret has no effect without auth-type"),
        ("auth-type: basic\nauth-secret: a/b/c", "is not the name of a Secret"),
        ("auth-type: basic\nauth-secret: a\nauth-realm: a\"b", "has a character that a realm must not have"),
        ("affinity-mode: random", "is not accepted here"),
        ("permanent-redirect-code: 200", "is not a status of redirects"),
        ("app-root: home", "does not begin with /"),
        ("ssl-redirect: maybe", "is not a boolean"),
        ("regex-match-header-x: (", "is not a regular expression"),
        ("exact-match-pseudo-header-host: a", "there is no pseudo-header :host"),
        ("match-method: FETCH", "is not a method"),
        ("request-header-control-add: lonely", "has no value"),
        ("request-header-control-remove: a b", "is not the name of a header"),
        ("cors-allow-origin: '*.shop.test'", "has a * that is not accepted"),
        ("timeout: soon", "is not a number of seconds"),
        ("route-limit-rps: 0", "is not a number that is accepted"),
        ("proxy-next-upstream: never", "is not a reason to try again"),
        ("mirror-target-service: a:b", "is not a Service"),
        ("backend-protocol: FCGI", "is not accepted here"),
        ("load-balance: best", "is not accepted here"),
        ("upstream-hash-by: $geo", "cannot be hashed by"),
        ("canary-weight: half", "is not a number that is accepted"),
        ("ssl-cipher: AES128-SHA", "the cipher suite \"AES128-SHA\" is not supported"),
        ("tls-min-protocol-version: TLSv1.0", "is not accepted here"),
        ("rewrite-target: /$3", "the rewrite names group 3, and this path has 0"),
    ];
    let objects = table
        .iter()
        .enumerate()
        .map(|(i, (annotations, _))| ingress(&format!("w{i}"), &format!("w{i}.test"), PREFIXES[i % 2].1, annotations, ROOT));
    let weir = start(1, &objects.collect::<String>()).run();
    for (i, (annotations, told)) in table.iter().enumerate() {
        weir.says(told);
        assert!(weir.printed().contains(&format!("Ingress/default/w{i}")), "{annotations}: {}", weir.printed());
    }
}
