//! HTTPRoute: matches and their precedence, filters, references.
use super::{ask, came_to, check, no_findings, seen, services};
use crate::{
    client::Connection,
    harness::{Start, Weir, eventually},
};

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: weir
  listeners: [{ name: http, port: $PORT, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }]
";

/// A route of one object; `metadata` and `spec` (without parents) as flow YAML.
fn route(metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ {metadata} }}\nspec:\n  parentRefs: [{{ name: gateway, namespace: default }}]\n{spec}\n"
    )
}

/// A rule that tells the upstream its name.
fn rule(name: &str, matches: &str) -> String {
    format!(
        "  - matches: [{matches}]\n    filters: [{{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-route, value: {name} }}] }} }}]\n    backendRefs: [{{ name: echo, port: 80 }}]\n"
    )
}

fn start(routes: &[String]) -> Weir {
    let all = format!("{GATEWAY}---\n{}{}", services("default", 2), routes.concat());
    Start::new().upstreams(2).file("all.yaml", all).run()
}

#[test]
fn the_most_specific_match_wins() {
    let path = |kind: &str, value: &str| format!("path: {{ type: {kind}, value: {value} }}");
    let header = |name: &str, value: &str| format!("{{ name: {name}, value: {value} }}");
    let paths = [
        rule("root", &format!("{{ {} }}", path("PathPrefix", "/"))),
        rule("a", &format!("{{ {} }}", path("PathPrefix", "/a"))),
        rule("a-prod", &format!("{{ {}, headers: [{}] }}", path("PathPrefix", "/a"), header("x-env", "prod"))),
        rule("a-prod-eu", &format!("{{ {}, headers: [{}, {}] }}", path("PathPrefix", "/a"), header("X-Env", "prod"), header("x-at", "eu"))),
        rule("a-query", &format!("{{ {}, queryParams: [{}] }}", path("PathPrefix", "/a"), header("q", "'1'"))),
        rule("a-post", &format!("{{ {}, method: POST }}", path("PathPrefix", "/a"))),
        rule("ab", &format!("{{ {} }}", path("PathPrefix", "/a/b/"))),
        rule("exact", &format!("{{ {} }}", path("Exact", "/a/b"))),
        rule("pattern", &format!("{{ {} }}", path("RegularExpression", "'/n/[0-9]+'"))),
        rule("any-of", &format!("{{ {} }}, {{ {}, method: PUT }}", path("Exact", "/one"), path("Exact", "/two"))),
        rule("header-pattern", "{ headers: [{ name: x-v, type: RegularExpression, value: 'v[0-9]+' }], path: { value: /hp } }"),
        rule("query-pattern", "{ queryParams: [{ name: v, type: RegularExpression, value: 'a|b c' }], path: { value: /qp } }"),
    ];
    let hosts =
        |name: &str, hosts: &str| route(&format!("name: {name}"), &format!("  hostnames: [{hosts}]\n  rules:\n{}", rule(name, "{}")));
    let weir = start(&[
        hosts("exact", "shop.test"),
        hosts("wild", "'*.test'"),
        hosts("wilder", "'*.shop.test'"),
        route("name: any", &format!("  rules:\n{}", rule("any", "{}"))),
        route("name: paths", &format!("  hostnames: [paths.test]\n  rules:\n{}", paths.concat())),
        // Equals: the oldest object, then the first by namespace and name, then the first rule.
        route("name: b, creationTimestamp: '2024-01-01T00:00:00Z'", &format!("  hostnames: [age.test]\n  rules:\n{}", rule("older", "{}"))),
        route(
            "name: a, creationTimestamp: '2025-01-01T00:00:00Z'",
            &format!("  hostnames: [age.test]\n  rules:\n{}", rule("younger", "{}")),
        ),
        // Without rules: one that matches everything, to nowhere.
        route("name: empty", "  hostnames: [empty.test]"),
        route("name: z", &format!("  hostnames: [name.test]\n  rules:\n{}", rule("z", "{}"))),
        route("name: y", &format!("  hostnames: [name.test]\n  rules:\n{}{}", rule("y-first", "{}"), rule("y-second", "{}"))),
    ]);
    no_findings(&weir);
    check(
        weir.address(),
        came_to,
        &[
            ("GET shop.test/", "exact"),
            ("GET empty.test/a", "500"),
            ("GET SHOP.test/", "exact"),
            ("GET shop.test:8080/", "exact"),
            ("GET a.shop.test/", "wilder"),
            ("GET a.b.shop.test/", "wilder"),
            ("GET other.test/", "wild"),
            ("GET a.other.test:1/", "wild"),
            ("GET test/", "any"),
            ("GET shop.testing/", "any"),
            ("GET 127.0.0.1:80/", "any"),
            ("GET paths.test/", "root"),
            ("GET paths.test/ab", "root"),
            ("GET paths.test/A", "root"),
            ("GET paths.test/a", "a"),
            ("GET paths.test/a/", "a"),
            ("GET paths.test/a/bc", "a"),
            ("GET paths.test/a?q=2", "a"),
            ("GET paths.test/a | x-env: dev", "a"),
            ("GET paths.test/a | x-env: prod", "a-prod"),
            ("GET paths.test/a | X-ENV: prod", "a-prod"),
            ("GET paths.test/a | x-env: prod | x-at: eu", "a-prod-eu"),
            // A method counts more than headers, and those more than a query.
            ("POST paths.test/a | x-env: prod | x-at: eu", "a-post"),
            ("GET paths.test/a?q=1", "a-query"),
            ("GET paths.test/a?x=2&q=1&q=2", "a-query"),
            ("GET paths.test/a?q=1 | x-env: prod", "a-prod"),
            ("GET paths.test/a/b/c", "ab"),
            ("GET paths.test/a/b/", "ab"),
            // The longer path wins over everything that is not the path.
            ("POST paths.test/a/b/c | x-env: prod", "ab"),
            ("GET paths.test/a/b", "exact"),
            ("GET paths.test/a/b?q=1", "exact"),
            ("GET paths.test/n/12", "pattern"),
            ("GET paths.test/n/12x", "root"),
            ("GET paths.test/x/n/12", "root"),
            ("GET paths.test/one", "any-of"),
            ("GET paths.test/two", "root"),
            ("PUT paths.test/two", "any-of"),
            ("GET paths.test/hp | x-v: v12", "header-pattern"),
            ("GET paths.test/hp | x-v: av12", "root"),
            ("GET paths.test/hp", "root"),
            ("GET paths.test/qp?v=b%20c", "query-pattern"),
            ("GET paths.test/qp?v=ab", "root"),
            ("GET age.test/", "older"),
            ("GET name.test/", "y-first"),
        ],
    );
}

#[test]
fn redirects_say_where() {
    let mut rules = String::new();
    for (path, redirect) in [
        ("/scheme", "scheme: https"),
        ("/host", "hostname: other.test"),
        ("/port", "port: 8443"),
        ("/both", "scheme: https, port: 8443, hostname: other.test"),
        ("/https-port", "scheme: https, port: 443"),
        ("/full", "path: { type: ReplaceFullPath, replaceFullPath: /new }"),
        ("/prefix", "path: { type: ReplacePrefixMatch, replacePrefixMatch: /new/ }"),
        ("/gone", "path: { type: ReplacePrefixMatch, replacePrefixMatch: / }"),
        ("/301", "scheme: https, statusCode: 301"),
        ("/303", "scheme: https, statusCode: 303"),
        ("/307", "scheme: https, statusCode: 307"),
        ("/308", "scheme: https, statusCode: 308"),
    ] {
        rules += &format!(
            "  - matches: [{{ path: {{ value: {path} }} }}]\n    filters: [{{ type: RequestRedirect, requestRedirect: {{ {redirect} }} }}]\n"
        );
    }
    let weir = start(&[route("name: r", &format!("  hostnames: [a.test]\n  rules:\n{rules}"))]);
    no_findings(&weir);
    let own = format!(":{}", weir.ports[0]);
    check(
        weir.address(),
        |a| came_to(a).replace(&own, ":OWN"),
        &[
            ("GET a.test/scheme/x?y=z", "302 https://a.test/scheme/x?y=z"),
            ("GET a.test:1234/scheme", "302 https://a.test/scheme"),
            ("GET a.test/host", "302 http://other.test:OWN/host"),
            ("GET a.test/port", "302 http://a.test:8443/port"),
            ("GET a.test/both?q", "302 https://other.test:8443/both?q"),
            ("GET a.test/https-port", "302 https://a.test/https-port"),
            ("GET a.test/full/x?y=z", "302 http://a.test:OWN/new?y=z"),
            ("GET a.test/prefix", "302 http://a.test:OWN/new"),
            ("GET a.test/prefix/", "302 http://a.test:OWN/new/"),
            ("GET a.test/prefix/x/y", "302 http://a.test:OWN/new/x/y"),
            ("GET a.test/gone", "302 http://a.test:OWN/"),
            ("GET a.test/gone/x", "302 http://a.test:OWN/x"),
            ("GET a.test/301", "301 https://a.test/301"),
            ("POST a.test/303", "303 https://a.test/303"),
            ("POST a.test/307", "307 https://a.test/307"),
            ("GET a.test/308", "308 https://a.test/308"),
        ],
    );
}

#[test]
fn rewrites_are_what_the_upstream_sees() {
    let mut rules = String::new();
    for (path, rewrite) in [
        ("/full", "path: { type: ReplaceFullPath, replaceFullPath: /new }"),
        ("/prefix", "path: { type: ReplacePrefixMatch, replacePrefixMatch: /new }"),
        ("/slash", "path: { type: ReplacePrefixMatch, replacePrefixMatch: /new/ }"),
        ("/gone", "path: { type: ReplacePrefixMatch, replacePrefixMatch: / }"),
        ("/empty", "path: { type: ReplacePrefixMatch, replacePrefixMatch: '' }"),
        ("/host", "hostname: other.test"),
        ("/both", "hostname: other.test, path: { type: ReplaceFullPath, replaceFullPath: /new }"),
    ] {
        rules += &format!(
            "  - matches: [{{ path: {{ value: {path} }} }}]\n    filters: [{{ type: URLRewrite, urlRewrite: {{ {rewrite} }} }}]\n    backendRefs: [{{ name: echo, port: 80 }}]\n"
        );
    }
    let weir = start(&[route("name: r", &format!("  rules:\n{rules}"))]);
    no_findings(&weir);
    check(
        weir.address(),
        seen,
        &[
            ("GET a.test/full/x?y=z", "a.test/new?y=z"),
            ("GET a.test/prefix", "a.test/new"),
            ("GET a.test/prefix/", "a.test/new/"),
            ("GET a.test/prefix/x%20y?y=z", "a.test/new/x%20y?y=z"),
            ("GET a.test/slash/x", "a.test/new/x"),
            ("GET a.test/slash", "a.test/new"),
            ("GET a.test/gone/x", "a.test/x"),
            ("GET a.test/gone", "a.test/"),
            ("GET a.test/empty/x", "a.test/x"),
            ("GET a.test/empty", "a.test/"),
            ("GET a.test/host/x", "other.test/host/x"),
            ("GET a.test:80/both", "other.test/new"),
        ],
    );
}

#[test]
fn headers_are_edited_by_rule_and_by_backend() {
    let edits = |who: &str| {
        format!(
            "{{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-set, value: {who} }}], add: [{{ name: x-add, value: {who} }}], remove: [x-{who}] }} }}, {{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: [{{ name: y-set, value: '{who} 100%' }}], add: [{{ name: y-add, value: {who} }}], remove: [y-{who}] }} }}"
        )
    };
    let rules = format!(
        "  rules:\n  - filters: [{}]\n    backendRefs: [{{ name: echo, port: 80, filters: [{}] }}]",
        edits("rule"),
        edits("backend")
    );
    let weir = start(&[route("name: r", &rules)]);
    no_findings(&weir);
    let mut c = Connection::open(weir.address()).unwrap();
    let answer = ask(
        &mut c,
        "GET a.test/ | x-set: mine | x-add: mine | x-rule: 1 | x-backend: 1 | x-stays: 1 | x-echo-header: y-set=theirs | x-echo-header: y-add=theirs | x-echo-header: y-rule=1 | x-echo-header: y-backend=1",
    );
    let told = answer.json();
    let headers = &told["headers"];
    assert_eq!(headers["x-set"], "backend", "the backend's word comes last");
    assert_eq!(headers["x-add"], serde_json::json!(["mine", "rule", "backend"]));
    assert!(headers["x-rule"].is_null() && headers["x-backend"].is_null() && headers["x-stays"] == "1", "{headers}");
    let all = |name: &str| answer.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    assert_eq!(all("y-set"), ["rule 100%"], "answers pass the backend's filters first, then the rule's");
    assert_eq!(all("y-add"), ["theirs", "backend", "rule"]);
    assert!(all("y-rule").is_empty() && all("y-backend").is_empty(), "{answer:?}");
}

#[test]
fn filters_of_one_backend_touch_no_other() {
    let rules = "  rules:
  - matches: [{ path: { value: /redirect } }]
    backendRefs:
    - { name: echo, port: 80, weight: 0 }
    - { name: echo2, port: 80, filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, hostname: b.test, path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }] }
  - matches: [{ path: { value: /rewrite } }]
    backendRefs: [{ name: echo, port: 80, filters: [{ type: URLRewrite, urlRewrite: { hostname: b.test, path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }] }]
  - matches: [{ path: { value: /cors } }]
    backendRefs: [{ name: echo, port: 80, filters: [{ type: CORS, cors: { allowOrigins: ['https://*.ok.test'], allowMethods: [GET], maxAge: 7 } }] }]
  - matches: [{ path: { value: /mirror } }]
    backendRefs:
    - { name: echo, port: 80, filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: echo2, port: 80 } } }] }
  - matches: [{ path: { value: /split } }]
    backendRefs:
    - { name: echo, port: 80, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: one }] } }] }
    - { name: echo2, port: 80, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-route, value: two }] } }] }
";
    let weir = start(&[route("name: r", rules)]);
    no_findings(&weir);
    check(weir.address(), came_to, &[("GET a.test/redirect/x", "302 https://b.test/new/x")]);
    check(weir.address(), seen, &[("GET a.test/rewrite/x", "b.test/new/x")]);
    let mut c = Connection::open(weir.address()).unwrap();
    let preflight = ask(&mut c, "OPTIONS a.test/cors | origin: https://a.ok.test | access-control-request-method: GET");
    assert_eq!(
        (preflight.header("access-control-allow-origin"), preflight.header("access-control-max-age")),
        (Some("https://a.ok.test"), Some("7")),
        "{preflight:?}"
    );
    for _ in 0..20 {
        let told = ask(&mut c, "GET a.test/split").json();
        let wanted = if told["name"] == "echo" { "one" } else { "two" };
        assert_eq!(told["headers"]["x-route"], wanted);
    }
    let mirrored = "cluster.outbound|80||echo2.default.svc.cluster.local.upstream_rq_mirror_total";
    assert_eq!(weir.stat(mirrored), 0);
    assert_eq!(ask(&mut c, "GET a.test/mirror").json()["name"], "echo");
    eventually("the copy", || (weir.stat(mirrored) == 1).then_some(()));
}

#[test]
fn references_lead_somewhere_or_to_an_error() {
    let to = |path: &str, backends: &str| format!("  - matches: [{{ path: {{ value: {path} }} }}]\n    backendRefs: [{backends}]\n");
    let rules = [
        to("/own", "{ name: echo, port: 80 }"),
        to("/missing", "{ name: nothing, port: 80 }"),
        to("/port", "{ name: echo, port: 81 }"),
        to("/kind", "{ group: example.com, kind: Bucket, name: echo }"),
        to("/closed", "{ name: echo, namespace: closed, port: 80 }"),
        to("/open", "{ name: echo, namespace: open, port: 80 }"),
        to("/open2", "{ name: echo2, namespace: open, port: 80 }"),
        to("/none", ""),
        to("/zero", "{ name: echo, port: 80, weight: 0 }, { name: echo2, port: 80 }"),
        to("/zeros", "{ name: echo, port: 80, weight: 0 }, { name: echo2, port: 80, weight: 0 }"),
        to("/half", "{ name: echo, port: 80 }, { name: nothing, port: 80 }"),
        "  - matches: [{ path: { value: /filter } }]\n    filters: [{ type: ExtensionRef, extensionRef: { group: a.b, kind: C, name: d } }]\n    backendRefs: [{ name: echo, port: 80 }]\n".into(),
    ];
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: { name: g, namespace: open }\nspec:\n  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default }]\n  to: [{ group: '', kind: Service, name: echo }]\n";
    let all = format!(
        "{GATEWAY}---\n{}---\n{}---\n{}{}",
        services("default", 2),
        services("closed", 1),
        services("open", 2),
        route("name: r", &format!("  hostnames: [a.test]\n  rules:\n{}", rules.concat()))
    );
    let weir = Start::new().upstreams(2).file("all.yaml", all).file("grant.yaml", grant).run();
    let table = [
        ("GET a.test/own", "echo"),
        ("GET a.test/missing", "500"),
        ("GET a.test/port", "500"),
        ("GET a.test/kind", "500"),
        ("GET a.test/closed", "500"),
        ("GET a.test/open", "echo"),
        ("GET a.test/open2", "500"),
        ("GET a.test/none", "500"),
        ("GET a.test/zero", "echo2"),
        ("GET a.test/zeros", "500"),
        ("GET a.test/filter", "500"),
        ("GET a.test/", "404"),
        ("GET b.test/own", "404"),
    ];
    check(weir.address(), came_to, &table);
    let (mut c, mut statuses) = (Connection::open(weir.address()).unwrap(), [0, 0]);
    for _ in 0..100 {
        assert_eq!(ask(&mut c, "GET a.test/zero").json()["name"], "echo2");
        statuses[usize::from(ask(&mut c, "GET a.test/half").status == 500)] += 1;
    }
    assert!(statuses.iter().all(|n| *n > 20), "{statuses:?}");
    // The grant goes, and with it the way.
    weir.remove("grant.yaml");
    weir.get_until("a.test", "/open", |a| a.status == 500);
    for part in ["there is no Service default/nothing", "has no port 81", "without a ReferenceGrant", "Bucket of the group"] {
        weir.says(part);
    }
}

#[test]
fn timeouts_retries_and_mirrors_of_a_rule() {
    let rules = "  rules:
  - matches: [{ path: { value: /request } }]
    timeouts: { request: 200ms }
    filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }]
    backendRefs: [{ name: echo, port: 80 }]
  - matches: [{ path: { value: /backend } }]
    timeouts: { request: 20s, backendRequest: 200ms }
    backendRefs: [{ name: echo, port: 80 }]
  - matches: [{ path: { value: /flaky } }]
    name: again
    retry: { codes: [503], attempts: 3, backoff: 1ms }
    backendRefs: [{ name: echo, port: 80 }]
  - matches: [{ path: { value: /mirror } }]
    filters:
    - { type: RequestMirror, requestMirror: { backendRef: { name: echo2, port: 80 }, percent: 0 } }
    - { type: RequestMirror, requestMirror: { backendRef: { name: echo3, port: 80 }, fraction: { numerator: 5, denominator: 5 } } }
    backendRefs: [{ name: echo, port: 80 }]
";
    let all = format!("{GATEWAY}---\n{}{}", services("default", 3), route("name: r", rules));
    let weir = Start::new().upstreams(3).file("all.yaml", all).arg("--access-log-format").arg("route=%ROUTE_NAME%").run();
    no_findings(&weir);
    check(
        weir.address(),
        came_to,
        &[
            ("GET a.test/request?delay=20s", "504"),
            ("GET a.test/backend?delay=20s", "504"),
            ("GET a.test/flaky/one?fail=3", "200"),
            ("GET a.test/flaky/two?fail=4", "503"),
            ("GET a.test/flaky/three?fail=1&status=500", "500"),
        ],
    );
    // On a busy machine a request may be late without being delayed.
    for path in ["/request", "/backend"] {
        weir.get_until("a.test", path, |a| a.status == 200 && came_to(a) == "echo");
    }
    eventually("the name of the rule in the log", || weir.lines("route=again").first().cloned());
    // A rule without a name is identified by its position.
    weir.says("route=default/r/0");
    let mirrored = |n: &str| weir.stat(&format!("cluster.outbound|80||echo{n}.default.svc.cluster.local.upstream_rq_mirror_total"));
    for _ in 0..10 {
        assert_eq!(weir.get("a.test", "/mirror").status, 200);
    }
    eventually("ten copies", || (mirrored("3") == 10).then_some(()));
    assert_eq!(mirrored("2"), 0);
}
