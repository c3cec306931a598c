//! VirtualService: matches in the order of their list, actions, delegates.
use super::{ask, came_to, check, no_findings, seen, services};
use crate::{
    client::Connection,
    harness::{Start, Weir, eventually},
};
use std::net::SocketAddr;

const GATEWAY: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  selector: { istio: ingressgateway }
  servers:
  - { port: { number: $PORT, name: http, protocol: HTTP }, hosts: ['*'] }
  - { port: { number: $PORT2, name: second, protocol: HTTP }, hosts: ['*'] }
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: other, namespace: edge }
spec:
  selector: { istio: ingressgateway }
  servers: [{ port: { number: $PORT3, name: http, protocol: HTTP }, hosts: ['*'] }]
";

/// Of the host `NAME.test`; `http` is a list.
fn virtual_service(name: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.test]\n  gateways: [gateway, edge/other]\n  http:\n{http}"
    )
}

/// A route that tells the upstream its name.
fn named(name: &str, matches: &str) -> String {
    let matches = if matches.is_empty() { String::new() } else { format!("match: [{matches}], ") };
    format!("  - {{ {matches}headers: {{ request: {{ set: {{ x-route: {name} }} }} }}, route: [{{ destination: {{ host: echo }} }}] }}\n")
}

fn to_echo(matches: &str, more: &str) -> String {
    format!("  - {{ match: [{matches}], {more}, route: [{{ destination: {{ host: echo }} }}] }}\n")
}

fn start(upstreams: usize, documents: &[String], args: &[&str]) -> Weir {
    let all = format!("{GATEWAY}---\n{}{}", services("default", upstreams), documents.concat());
    args.iter().fold(Start::new().upstreams(upstreams).file("all.yaml", all), |s, a| s.arg(*a)).run()
}

fn port(weir: &Weir, number: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], weir.ports[number]))
}

#[test]
fn the_first_match_of_the_list_wins() {
    let matches = [
        named("exact", "{ uri: { exact: /exact } }"),
        named("short", "{ uri: { prefix: /p } }"),
        named("never", "{ uri: { prefix: /pq } }"),
        named("pattern", "{ uri: { regex: '/r/[0-9]+' } }"),
        named("case", "{ uri: { prefix: /Case }, ignoreUriCase: true }"),
        named("case-exact", "{ uri: { exact: /Other }, ignoreUriCase: true }"),
        named("header-exact", "{ headers: { x-h: { exact: one } } }"),
        named("header-prefix", "{ headers: { X-H: { prefix: two } } }"),
        named("header-pattern", "{ headers: { x-h: { regex: 'three|four' } } }"),
        named("header-there", "{ headers: { x-there: {} } }"),
        named("without", "{ uri: { prefix: /without }, withoutHeaders: { x-no: {}, x-v: { exact: '1' } } }"),
        named("query", "{ queryParams: { a: { exact: '1' }, b: { prefix: x }, c: { regex: '[0-9]' } } }"),
        named("query-there", "{ queryParams: { there: {} } }"),
        named("method", "{ method: { exact: PUT } }"),
        named("scheme", "{ uri: { prefix: /scheme }, scheme: { exact: https } }"),
        named("authority", "{ uri: { prefix: /authority }, authority: { prefix: 'm.test:9' } }"),
        named("second", "{ uri: { prefix: /second }, port: $PORT2 }"),
        named("other", "{ uri: { prefix: /gateway }, gateways: [edge/other] }"),
        named("mesh", "{ uri: { prefix: /mesh }, gateways: [mesh] }"),
        named("labels", "{ uri: { prefix: /labels }, sourceLabels: { app: edge } }"),
        named("namespace", "{ uri: { prefix: /namespace }, sourceNamespace: edge }"),
        named("either", "{ uri: { exact: /either }, method: { exact: GET } }, { uri: { exact: /or } }"),
        named("rest", "{ uri: { prefix: /x } }, { uri: { prefix: /case } }, { uri: { prefix: /r } }"),
    ];
    let weir = start(1, &[virtual_service("m", &matches.concat())], &["--labels", "app=edge,istio=ingressgateway"]);
    check(
        weir.address(),
        came_to,
        &[
            ("GET m.test/exact", "exact"),
            ("GET m.test/exact?q", "exact"),
            ("GET m.test/exact/", "404"),
            // The first that matches, however long.
            ("GET m.test/pq", "short"),
            // Istio's prefixes are texts, not segments.
            ("GET m.test/papa", "short"),
            ("GET m.test/r/12", "pattern"),
            ("GET m.test/r/12/x", "rest"),
            ("GET m.test/cAsE/x", "case"),
            ("GET m.test/OTHER", "case-exact"),
            ("GET m.test/OTHERS", "404"),
            ("GET m.test/x | x-h: one", "header-exact"),
            ("GET m.test/x | x-h: two-more", "header-prefix"),
            ("GET m.test/x | x-h: four", "header-pattern"),
            ("GET m.test/x | x-h: fours", "rest"),
            ("GET m.test/x | x-there: any", "header-there"),
            ("GET m.test/without", "without"),
            ("GET m.test/without | x-v: 2", "without"),
            ("GET m.test/without | x-v: 1", "404"),
            ("GET m.test/without | x-no: any", "404"),
            ("GET m.test/x?a=1&b=xy&c=5", "query"),
            ("GET m.test/x?a=1&b=xy&c=55", "rest"),
            ("GET m.test/x?there", "query-there"),
            ("GET m.test/x?there=1", "query-there"),
            ("PUT m.test/anything", "method"),
            ("GET m.test/scheme", "404"),
            ("GET m.test:9/authority", "authority"),
            ("GET m.test:8/authority", "404"),
            ("GET m.test/second", "404"),
            ("GET m.test/gateway", "404"),
            ("GET m.test/mesh", "404"),
            ("GET m.test/labels", "labels"),
            ("GET m.test/namespace", "404"),
            ("GET m.test/either", "either"),
            ("POST m.test/either", "404"),
            ("POST m.test/or", "either"),
            ("GET m.test/xyz", "rest"),
            ("GET other.test/xyz", "404"),
        ],
    );
    check(port(&weir, 1), came_to, &[("GET m.test/second", "second"), ("GET m.test/gateway", "404")]);
    check(port(&weir, 2), came_to, &[("GET m.test/second", "404"), ("GET m.test/gateway", "other"), ("GET m.test/namespace", "namespace")]);
    // Without labels of its own no source's labels are this gateway's, and it says so.
    let weir = start(1, &[virtual_service("m", &named("labels", "{ sourceLabels: { app: edge } }"))], &[]);
    assert_eq!(weir.get("m.test", "/").status, 404);
    weir.says("was given no labels");
}

#[test]
fn redirects_answers_and_faults() {
    let uri = |path: &str| format!("{{ uri: {{ prefix: {path} }} }}");
    let redirect = |path: &str, what: &str| format!("  - {{ match: [{}], redirect: {{ {what} }} }}\n", uri(path));
    let http = [
        redirect("/uri", "uri: /new"),
        redirect("/authority", "authority: b.test"),
        redirect("/port", "port: 8443, scheme: https"),
        redirect("/request-port", "derivePort: FROM_REQUEST_PORT, scheme: https"),
        redirect("/protocol-port", "derivePort: FROM_PROTOCOL_DEFAULT, authority: b.test"),
        redirect("/303", "uri: /new, redirectCode: 303"),
        redirect("/308", "uri: /new, redirectCode: 308"),
        format!("  - {{ match: [{}], directResponse: {{ status: 418, body: {{ string: short and stout }} }} }}\n", uri("/teapot")),
        format!("  - {{ match: [{}], directResponse: {{ status: 503, body: {{ bytes: aGVsbG8= }} }} }}\n", uri("/bytes")),
        to_echo(&uri("/abort"), "fault: { abort: { httpStatus: 555, percentage: { value: 100 } } }"),
        to_echo(
            &uri("/never"),
            "fault: { abort: { httpStatus: 555, percentage: { value: 0 } }, delay: { fixedDelay: 60s, percentage: { value: 0 } } }",
        ),
        to_echo(&uri("/half"), "fault: { abort: { httpStatus: 555, percentage: { value: 50 } } }"),
        to_echo(&uri("/delay"), "fault: { delay: { fixedDelay: 0.3s, percentage: { value: 100 } } }"),
        to_echo(&uri("/timeout"), "timeout: 0.2s, retries: { attempts: 0 }"),
        to_echo(&uri("/flaky"), "retries: { attempts: 2, retryOn: '503,connect-failure', backoff: 1ms }"),
    ];
    let weir = start(1, &[virtual_service("a", &http.concat())], &[]);
    no_findings(&weir);
    let own = format!(":{}", weir.ports[0]);
    check(
        weir.address(),
        |a| came_to(a).replace(&own, ":OWN"),
        &[
            ("GET a.test/uri/x?y", "301 http://a.test/new?y"),
            ("GET a.test/authority/x", "301 http://b.test/authority/x"),
            ("GET a.test/port", "301 https://a.test:8443/port"),
            ("GET a.test/request-port", "301 https://a.test:OWN/request-port"),
            ("GET a.test:99/protocol-port", "301 http://b.test/protocol-port"),
            ("GET a.test/303", "303 http://a.test/new"),
            ("GET a.test/308", "308 http://a.test/new"),
            ("GET a.test/teapot", "418"),
            ("GET a.test/bytes", "503"),
            ("GET a.test/abort", "555"),
            ("GET a.test/never", "echo"),
            ("GET a.test/timeout?delay=20s", "504"),
            ("GET a.test/flaky/a?fail=2", "200"),
            ("GET a.test/flaky/b?fail=3", "503"),
        ],
    );
    assert_eq!((weir.get("a.test", "/teapot").body.as_str(), weir.get("a.test", "/bytes").body.as_str()), ("short and stout", "hello"));
    // On a busy machine a request may be late without being delayed.
    weir.get_until("a.test", "/timeout", |a| came_to(a) == "echo");
    let (mut c, start) = (Connection::open(weir.address()).unwrap(), std::time::Instant::now());
    assert_eq!(ask(&mut c, "GET a.test/delay").status, 200);
    assert!(start.elapsed() >= std::time::Duration::from_millis(300), "{:?}", start.elapsed());
    let aborted = (0..200).filter(|_| ask(&mut c, "GET a.test/half").status == 555).count();
    assert!((50..150).contains(&aborted), "{aborted} of 200");
}

#[test]
fn rewrites_and_header_edits() {
    let uri = |kind: &str, path: &str| format!("{{ uri: {{ {kind}: '{path}' }} }}");
    let http = [
        to_echo(&uri("prefix", "/prefix/"), "rewrite: { uri: /new/ }"),
        to_echo(&uri("prefix", "/text"), "rewrite: { uri: /new }"),
        to_echo(&uri("exact", "/exact"), "rewrite: { uri: /new }"),
        to_echo(&uri("regex", "/r/.*"), "rewrite: { uri: /new }"),
        to_echo(&uri("prefix", "/users"), "rewrite: { uriRegexRewrite: { match: '^/users/([^/]+)/(.*)$', rewrite: '/\\2/of/\\1' } }"),
        to_echo(&uri("prefix", "/authority"), "rewrite: { authority: b.test }"),
        to_echo(&uri("prefix", "/both"), "rewrite: { authority: b.test, uri: /new }"),
        to_echo(&uri("prefix", "/host-header"), "headers: { request: { set: { host: c.test } } }"),
        "  - route: [{ destination: { host: echo }, weight: 100, headers: { request: { set: { x-set: destination }, add: { x-add: destination }, remove: [x-gone] }, response: { add: { y-add: destination } } } }, { destination: { host: echo }, weight: 0 }]\n    headers: { request: { set: { x-set: route, x-path: '%REQ(:PATH)%' }, add: { x-add: route } }, response: { set: { y-set: route }, remove: [y-gone] } }\n".to_string(),
    ];
    let weir = start(1, &[virtual_service("a", &http.concat())], &[]);
    no_findings(&weir);
    check(
        weir.address(),
        seen,
        &[
            ("GET a.test/prefix/x?y", "a.test/new/x?y"),
            ("GET a.test/texts/x", "a.test/news/x"),
            ("GET a.test/exact?y", "a.test/new?y"),
            ("GET a.test/r/x/y", "a.test/new"),
            ("GET a.test/users/7/cart/2?x", "a.test/cart/2/of/7?x"),
            ("GET a.test/users", "a.test/users"),
            ("GET a.test:1/authority", "b.test/authority"),
            ("GET a.test/both/x", "b.test/new/x"),
            ("GET a.test/host-header", "c.test/host-header"),
        ],
    );
    let mut c = Connection::open(weir.address()).unwrap();
    let answer = ask(&mut c, "GET a.test/here?q | x-add: mine | x-gone: 1 | x-echo-header: y-gone=1 | x-echo-header: y-set=theirs");
    let told = answer.json();
    let headers = &told["headers"];
    assert_eq!((&headers["x-set"], &headers["x-path"]), (&"destination".into(), &"/here?q".into()));
    assert_eq!(headers["x-add"], serde_json::json!(["mine", "route", "destination"]));
    assert!(headers["x-gone"].is_null(), "{headers}");
    assert_eq!((answer.header("y-set"), answer.header("y-add"), answer.header("y-gone")), (Some("route"), Some("destination"), None));
}

#[test]
fn delegates_weights_and_mirrors() {
    let root = "  - { match: [{ uri: { prefix: /shop } }], delegate: { name: shop, namespace: team }, timeout: 20s }
  - { match: [{ uri: { prefix: /gone } }], delegate: { name: nobody } }
  - { match: [{ uri: { prefix: /split } }], route: [{ destination: { host: echo }, weight: 25 }, { destination: { host: echo2 }, weight: 75 }] }
  - { match: [{ uri: { prefix: /mirror } }], route: [{ destination: { host: echo } }], mirrors: [{ destination: { host: echo2 } }, { destination: { host: echo3 }, percentage: { value: 0 } }] }
  - { match: [{ uri: { prefix: /nowhere } }], route: [{ destination: { host: nobody } }] }
  - { match: [{ uri: { prefix: /subset } }], route: [{ destination: { host: echo, subset: none } }] }
";
    let delegate = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop, namespace: team }
spec:
  http:
  - { match: [{ uri: { prefix: /shop/cart } }], headers: { request: { set: { x-route: cart } } }, route: [{ destination: { host: echo.default.svc.cluster.local } }] }
  - { match: [{ uri: { prefix: /other } }], headers: { request: { set: { x-route: other } } }, route: [{ destination: { host: echo.default.svc.cluster.local } }] }
  - { headers: { request: { set: { x-route: rest } } }, route: [{ destination: { host: echo.default.svc.cluster.local } }] }
";
    let weir = start(3, &[virtual_service("a", root), delegate.into()], &[]);
    check(
        weir.address(),
        came_to,
        &[
            ("GET a.test/shop/cart/1", "cart"),
            ("GET a.test/shop/x", "rest"),
            ("GET a.test/other", "404"),
            ("GET a.test/gone", "503"),
            ("GET a.test/nowhere", "503"),
            ("GET a.test/subset", "503"),
        ],
    );
    let mut c = Connection::open(weir.address()).unwrap();
    let first = (0..400).filter(|_| ask(&mut c, "GET a.test/split").json()["name"] == "echo").count();
    assert!((50..150).contains(&first), "{first} of 400 for a weight of 25");
    let mirrored = |n: &str| weir.stat(&format!("cluster.outbound|80||echo{n}.default.svc.cluster.local.upstream_rq_mirror_total"));
    for _ in 0..10 {
        assert_eq!(ask(&mut c, "GET a.test/mirror").json()["name"], "echo");
    }
    eventually("ten copies", || (mirrored("2") == 10).then_some(()));
    assert_eq!(mirrored("3"), 0);
    for part in
        ["there is no VirtualService default/nobody", "matches nothing that this route does", "nobody.default.svc", "has a subset none"]
    {
        weir.says(part);
    }
    // The team changes its own object.
    let changed = format!(
        "{GATEWAY}---\n{}{}{}",
        services("default", 3),
        virtual_service("a", root),
        delegate.replace("x-route: cart", "x-route: basket")
    );
    weir.write("all.yaml", &changed);
    eventually("the changed delegate", || (came_to(&ask(&mut c, "GET a.test/shop/cart")) == "basket").then_some(()));
}

#[test]
fn cross_origin_requests_are_answered_by_policy() {
    let policy = |unmatched: &str| {
        format!(
            "corsPolicy: {{ allowOrigins: [{{ exact: 'https://ok.test' }}, {{ regex: 'https://.*[.]good[.]test' }}], allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 24h, allowCredentials: true{unmatched} }}"
        )
    };
    let http =
        [to_echo("{ uri: { prefix: /strict } }", &policy(", unmatchedPreflights: IGNORE")), to_echo("{ uri: { prefix: / } }", &policy(""))];
    let weir = start(1, &[virtual_service("a", &http.concat())], &[]);
    no_findings(&weir);
    let mut c = Connection::open(weir.address()).unwrap();
    let mut allowed = |line: &str| {
        let answer = ask(&mut c, line);
        (answer.status, answer.header("access-control-allow-origin").map(str::to_string))
    };
    let preflight = " | access-control-request-method: PUT";
    assert_eq!(allowed(&format!("OPTIONS a.test/x | origin: https://ok.test{preflight}")), (200, Some("https://ok.test".into())));
    assert_eq!(allowed(&format!("OPTIONS a.test/x | origin: https://a.good.test{preflight}")), (200, Some("https://a.good.test".into())));
    assert_eq!(allowed(&format!("OPTIONS a.test/x | origin: https://bad.test{preflight}")).1, None);
    assert_eq!(allowed("GET a.test/x | origin: https://ok.test"), (200, Some("https://ok.test".into())));
    assert_eq!(allowed("GET a.test/x | origin: https://bad.test"), (200, None));
    assert_eq!(allowed("GET a.test/x"), (200, None));
    let answer = ask(&mut c, &format!("OPTIONS a.test/x | origin: https://ok.test{preflight}"));
    for (name, value) in [
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "86400"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(answer.header(name).map(|v| v.replace(' ', "")).as_deref(), Some(value), "{name}: {answer:?}");
    }
    assert_eq!(ask(&mut c, "GET a.test/x | origin: https://ok.test").header("access-control-expose-headers"), Some("x-b"));
}

/// What takes everything in an older VirtualService of a host hides no path of a younger one; within one list the order counts.
#[test]
fn what_takes_everything_comes_last() {
    let of = |name: &str, created: &str, routes: &[String]| {
        virtual_service(name, &routes.concat())
            .replace(&format!("hosts: [{name}.test]"), "hosts: [a.test]")
            .replace(&format!("name: {name} }}\nspec"), &format!("name: {name}, creationTimestamp: '{created}-01-01T00:00:00Z' }}\nspec"))
    };
    let documents = [
        of("old", "2024", &[named("first", "{ uri: { prefix: /a } }"), named("all", ""), named("behind", "{ uri: { prefix: /b } }")]),
        of("new", "2025", &[named("new", "{ uri: { prefix: /b } }, { uri: { prefix: /a/b } }"), named("never", "{ uri: { prefix: / } }")]),
        of("newer", "2026", &[named("headers", "{ headers: { x-v: { exact: '2' } } }")]),
    ];
    let weir = start(1, &documents, &[]);
    check(
        port(&weir, 0),
        came_to,
        &[
            ("GET a.test/a", "first"),
            ("GET a.test/a/b", "first"),
            ("GET a.test/b", "new"),
            ("GET a.test/c", "all"),
            ("GET a.test/c | x-v: 2", "headers"),
        ],
    );
}
