//! AuthorizationPolicy: who gets in, and that what cannot be enforced opens nothing.
use crate::{
    client::{self, Connection},
    harness::{Start, Weir, eventually},
    tls::{istio, server},
    tls_client::Client,
    yaml::{Service, TO_ECHO, ToEcho, holder},
};
use std::fmt::Write;
use weir_test::Ca;

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  {spec}\n"
    )
}

/// For the Gateway of [`TO_ECHO`].
fn here(spec: &str) -> String {
    policy("p", "default", &format!("targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: gateway }}]\n{spec}"))
}

/// `METHOD PATH [| HEADER: VALUE]…`, with the host `shop.test` unless a header says another.
fn status(weir: &Weir, request: &str) -> u16 {
    let mut parts = request.split(" | ");
    let (method, path) = parts.next().unwrap().split_once(' ').unwrap();
    let mut headers: Vec<(&str, &str)> = parts.map(|h| h.split_once(": ").unwrap()).collect();
    let host = headers.iter().position(|(n, _)| *n == "host").map_or("shop.test", |at| headers.remove(at).1);
    client::request(weir.address(), method, host, path, &headers, b"").unwrap().status
}

struct Row {
    policies: &'static str,
    allowed: &'static [&'static str],
    denied: &'static [&'static str],
}

const ROWS: &[Row] = &[
    // Nothing is allowed, everything is.
    Row { policies: "{}", allowed: &[], denied: &["GET /"] },
    Row { policies: "rules: [{}]", allowed: &["GET /", "POST /x"], denied: &[] },
    Row { policies: "action: DENY\nrules: [{}]", allowed: &[], denied: &["GET /"] },
    Row { policies: "action: DENY", allowed: &["GET /"], denied: &[] },
    // Operations.
    Row {
        policies: "rules: [{ to: [{ operation: { methods: [GET, HEAD], paths: [/public/*, /exact, '*.css'] } }] }]",
        allowed: &["GET /public/", "GET /public/a/b?x=1", "GET /exact?q", "GET /a/b.css"],
        denied: &["POST /public/a", "GET /publi", "GET /exact/", "GET /b.css/x", "GET /public/../private"],
    },
    Row {
        policies: "action: DENY\nrules: [{ to: [{ operation: { paths: [/admin*], notMethods: [GET] } }, { operation: { hosts: [admin.test, '*.internal.test'] } }] }]",
        allowed: &["GET /admin", "POST /x", "GET / | host: shop.test", "GET / | host: xadmin.test"],
        denied: &[
            "POST /admin/x",
            "GET / | host: admin.test",
            "GET / | host: ADMIN.test:8080",
            "GET / | host: admin.test.",
            "GET / | host: a.internal.test",
        ],
    },
    Row {
        policies: "rules: [{ to: [{ operation: { paths: ['/items/{*}', '/files/{**}', '/a/{*}/b/{**}'] } }] }]",
        allowed: &["GET /items/1", "GET /files/", "GET /files/a/b", "GET /a/x/b/c/d"],
        denied: &["GET /items/", "GET /items/1/2", "GET /files", "GET /a/x/y/b/c"],
    },
    Row { policies: "rules: [{ to: [{ operation: { ports: ['$PORT'] } }] }]", allowed: &["GET /"], denied: &[] },
    Row { policies: "rules: [{ to: [{ operation: { notPorts: ['$PORT'] } }] }]", allowed: &[], denied: &["GET /"] },
    // Who asks. The client is 127.0.0.1, and says by x-forwarded-for who it is.
    Row { policies: "rules: [{ from: [{ source: { ipBlocks: [127.0.0.0/8] } }] }]", allowed: &["GET /"], denied: &[] },
    Row {
        policies: "rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/8] } }] }]",
        allowed: &[],
        denied: &["GET / | x-forwarded-for: 10.1.1.1"],
    },
    Row {
        policies: "rules: [{ from: [{ source: { remoteIpBlocks: [10.0.0.0/8, '2001:db8::/32'], notRemoteIpBlocks: [10.9.0.0/16] } }] }]",
        allowed: &["GET / | x-forwarded-for: 10.1.1.1", "GET / | x-forwarded-for: 2001:db8::5"],
        denied: &["GET /", "GET / | x-forwarded-for: 10.9.1.1", "GET / | x-forwarded-for: 192.0.2.1"],
    },
    // Conditions hold for every `from` and `to`.
    Row {
        policies: "rules: [{ to: [{ operation: { methods: [GET] } }, { operation: { methods: [PUT] } }], when: [{ key: 'request.headers[x-role]', values: [admin, 'ops-*'] }, { key: remote.ip, notValues: [10.0.0.0/8] }] }]",
        allowed: &["GET / | x-role: admin", "PUT / | x-role: ops-1"],
        denied: &["GET /", "GET / | x-role: user", "POST / | x-role: admin", "GET / | x-role: admin | x-forwarded-for: 10.1.1.1"],
    },
    Row {
        policies: "action: DENY\nrules: [{ when: [{ key: 'request.headers[x-debug]', values: ['*'] }] }, { when: [{ key: destination.port, values: ['1'] }] }, { when: [{ key: source.ip, notValues: [127.0.0.1] }] }]",
        allowed: &["GET /"],
        denied: &["GET / | x-debug: 1"],
    },
    // No client has a certificate here.
    Row { policies: "rules: [{ from: [{ source: { principals: ['*'] } }] }]", allowed: &[], denied: &["GET /"] },
    Row { policies: "rules: [{ from: [{ source: { notNamespaces: [shop] } }] }]", allowed: &["GET /"], denied: &[] },
    // What Weir cannot decide opens nothing.
    Row { policies: "rules: [{ from: [{ source: { requestPrincipals: ['*'] } }] }]", allowed: &[], denied: &["GET /"] },
    Row { policies: "rules: [{ when: [{ key: 'request.auth.claims[iss]', notValues: [x] }] }]", allowed: &[], denied: &["GET /"] },
    Row {
        policies: "action: DENY\nrules: [{ from: [{ source: { notRequestPrincipals: ['*'] } }], to: [{ operation: { paths: [/private] } }] }]",
        allowed: &["GET /"],
        denied: &["GET /private"],
    },
    Row {
        policies: "action: CUSTOM\nprovider: { name: opa }\nrules: [{ to: [{ operation: { paths: [/private*] } }] }]",
        allowed: &["GET /"],
        denied: &["GET /private/x"],
    },
    Row { policies: "action: AUDIT\nrules: [{}]", allowed: &["GET /"], denied: &[] },
];

/// DENY comes before ALLOW, and a change holds at once on open connections.
#[test]
fn policies_decide_as_istio_says() {
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio }\ndata:\n  mesh: |\n    defaultConfig: { gatewayTopology: { numTrustedProxies: 1 } }\n")
        .run();
    let mut wrong = String::new();
    for (at, row) in ROWS.iter().enumerate() {
        let text = row.policies.replace("$PORT", &weir.ports[0].to_string());
        let text = if text == "{}" { "action: ALLOW".to_string() } else { text };
        // What tells this version from the one before.
        let marker = policy(
            "marker",
            "default",
            &format!(
                "targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: gateway }}]\naction: DENY\nrules: [{{ to: [{{ operation: {{ hosts: [m{at}.test] }} }}] }}]"
            ),
        );
        weir.write("policy.yaml", &(here(&text) + &marker));
        let host = format!("m{at}.test");
        eventually("this version is there", || weir.admin("/config_dump").body.contains(&host).then_some(()));
        assert_eq!(weir.get(&host, "/").status, 403);
        for (requests, wanted) in [(row.allowed, 200), (row.denied, 403)] {
            for request in requests {
                let got = status(&weir, request);
                if got != wanted {
                    let _ = writeln!(wrong, "{text}: {request}: wanted {wanted}, got {got}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");

    let deny = "action: DENY\nrules: [{ to: [{ operation: { paths: [/a/private] } }] }]";
    let allow = "rules: [{ to: [{ operation: { paths: [/a/*] } }] }]";
    weir.write("policy.yaml", &(here(allow) + &here(deny).replace("name: p,", "name: q,")));
    let mut open = Connection::open(weir.address()).unwrap();
    let mut ask = |path: &str| open.request("GET", "h", path, &[], b"").unwrap();
    eventually("both hold", || (ask("/b").status == 403 && ask("/a/private").status == 403 && ask("/a/x").status == 200).then_some(()));
    assert_eq!(ask("/a/private").body, "RBAC: access denied");
    weir.remove("policy.yaml");
    eventually("it is open again", || (ask("/b").status == 200).then_some(()));
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.rbac.{name}", weir.ports[0]));
    assert!(stat("denied") > 10 && stat("allowed") > 10);
}

#[test]
fn a_denial_names_its_policy_and_a_dry_run_only_counts() {
    let deny = "action: DENY\nrules: [{ to: [{ operation: { paths: [/x] } }] }, { to: [{ operation: { paths: [/y] } }] }]";
    let dry = here("action: DENY\nrules: [{}]").replace("name: p,", "name: dry, annotations: { istio.io/dry-run: 'true' },");
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("policy.yaml", here(deny) + &dry)
        .arg("--access-log-format")
        .arg("[%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%]")
        .run();
    assert_eq!((status(&weir, "GET /y"), status(&weir, "GET /")), (403, 200));
    weir.says("[403 rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[1]]]");
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.rbac.{name}", weir.ports[0]));
    assert_eq!(["denied", "allowed", "shadow_denied", "shadow_allowed"].map(stat), [1, 1, 2, 0]);
}

/// The gateways that a policy is for, by its namespace, its selector and its targets.
#[test]
fn policies_have_a_scope() {
    let gateway = |name: &str, namespace: &str, port: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  gatewayClassName: weir\n  listeners: [{{ name: http, port: {port}, protocol: HTTP, allowedRoutes: {{ namespaces: {{ from: All }} }} }}]\n---\n"
        )
    };
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\nspec:\n  parentRefs: [{ name: one }, { name: two, namespace: other }]\n  rules: [{ backendRefs: [{ name: echo, port: 80 }] }]\n---\n";
    let all =
        [&gateway("one", "default", "$PORT"), &gateway("two", "other", "$PORT2"), route, &Service::new("echo", "$ECHO").text()].concat();
    let weir = Start::new().file("gateway.yaml", all).run();
    let statuses = || [0, 1].map(|at| client::get(([127, 0, 0, 1], weir.ports[at]).into(), "h", "/").unwrap().status);
    let deny = |namespace: &str, scope: &str| policy("p", namespace, &format!("{scope}\naction: DENY\nrules: [{{}}]"));
    let table = [
        (deny("default", ""), [403, 200]),
        (deny("other", ""), [200, 403]),
        (deny("istio-system", ""), [403, 403]),
        (deny("default", "selector: { matchLabels: { gateway.networking.k8s.io/gateway-name: one } }"), [403, 200]),
        (deny("default", "selector: { matchLabels: { gateway.networking.k8s.io/gateway-name: two } }"), [200, 200]),
        (deny("istio-system", "selector: { matchLabels: { gateway.networking.k8s.io/gateway-name: two } }"), [200, 403]),
        (deny("other", "targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: two }]"), [200, 403]),
        (deny("istio-system", "targetRef: { group: gateway.networking.k8s.io, kind: GatewayClass, name: weir }"), [403, 403]),
        (deny("nowhere", ""), [200, 200]),
    ];
    for (text, wanted) in table {
        weir.write("policy.yaml", &text);
        eventually(&format!("{wanted:?} by {text}"), || (statuses() == wanted).then_some(()));
    }
    weir.says("no gateway is in the scope of this policy: it is not enforced");
    weir.write("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio }\ndata:\n  mesh: |\n    rootNamespace: nowhere\n");
    eventually("the root namespace is another", || (statuses() == [403, 403]).then_some(()));
}

/// A policy in error refuses all requests, unless a version before it was good.
#[test]
fn a_policy_in_error_opens_nothing() {
    let weir =
        Start::new().file("gateway.yaml", TO_ECHO).file("policy.yaml", here("rules: [{ to: [{ operation: { methd: [GET] } }] }]")).run();
    assert_eq!(status(&weir, "GET /"), 403);
    weir.says("unknown field \"methd\"");
    weir.write("policy.yaml", &here("rules: [{ to: [{ operation: { methods: [GET] } }] }]"));
    eventually("the policy is good", || (status(&weir, "GET /") == 200).then_some(()));
    weir.write("policy.yaml", &here("action: DENNY"));
    eventually("the mistake is shown", || weir.printed().contains("unknown value \"DENNY\"").then_some(()));
    assert_eq!((status(&weir, "GET /"), status(&weir, "POST /")), (200, 403));
    let table = [
        ("rules: [{ from: [] }]", "from is empty"),
        ("rules: [{ from: [{ source: {} }] }]", "source is empty"),
        ("rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/33] } }] }]", "is not an address or a range of addresses"),
        ("rules: [{ to: [{ operation: { ports: ['70000'] } }] }]", "\"70000\" is not a port"),
        ("rules: [{ to: [{ operation: { paths: ['/a/{**}/{*}'] } }] }]", "{**} is not the last operator"),
        ("rules: [{ to: [{ operation: { paths: ['/a{*}'] } }] }]", "is not a segment of a path template"),
        ("rules: [{ when: [{ key: destination.user, values: [a] }] }]", "unknown value \"destination.user\""),
        ("rules: [{ when: [{ key: source.ip }] }]", "the condition source.ip has no values"),
        ("selector: { matchLabels: { a: b } }\nrules: [{}]", "selector and targetRefs exclude each other"),
        ("provider: { name: x }\nrules: [{}]", "provider goes with action: CUSTOM only"),
        ("action: CUSTOM\nrules: [{}]", "provider"),
    ];
    for (spec, message) in table {
        weir.write("policy.yaml", &here(spec));
        eventually(message, || weir.printed().contains(message).then_some(()));
    }
}

#[test]
fn certificates_say_who_a_client_is() {
    let ca = Ca::new();
    let own = ca.sign(&["h.test"]);
    let secret = holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key), ("ca.crt", &ca.pem())]);
    let gateway = istio(&server("h.test", "mode: MUTUAL, credentialName: own")) + "---\n" + &secret;
    let rule = |source: &str| policy("p", "default", &format!("rules: [{{ from: [{{ source: {{ {source} }} }}] }}]"));
    let weir = Start::new().file("gateway.yaml", gateway).file("policy.yaml", rule("principals: [cluster.local/ns/shop/sa/web]")).run();
    let web = ca.sign_uri(&["web"], "spiffe://cluster.local/ns/shop/sa/web");
    let other = ca.sign_uri(&["other"], "spiffe://cluster.local/ns/other/sa/web");
    let statuses = || {
        [&web, &other].map(|signed| {
            let client = Client { trust: Some(&ca.pem()), identity: Some(signed), ..Client::default() };
            client.ask(weir.address(), "h.test", &[]).unwrap().status
        })
    };
    assert_eq!(statuses(), [200, 403]);
    let table = [
        ("principals: ['*/ns/other/sa/web']", [403, 200]),
        ("principals: ['cluster.local/ns/*']", [200, 200]),
        ("notPrincipals: ['cluster.local/ns/shop/*']", [403, 200]),
        ("namespaces: [shop]", [200, 403]),
        ("namespaces: ['*op']", [200, 403]),
        ("serviceAccounts: [shop/web]", [200, 403]),
        ("serviceAccounts: [web]", [403, 403]),
        ("trustDomains: [cluster.local]", [200, 200]),
        ("trustDomains: ['other.*']", [403, 403]),
    ];
    for (source, wanted) in table {
        weir.write("policy.yaml", &rule(source));
        eventually(&format!("{wanted:?} by {source}"), || (statuses() == wanted).then_some(()));
    }
}

#[test]
fn what_is_not_enforced_is_said() {
    let table = [
        (
            "rules: [{ from: [{ source: { requestPrincipals: ['*'] } }] }]",
            "Weir does not know the principal of a JWT: the rule allows nothing",
        ),
        (
            "action: DENY\nrules: [{ when: [{ key: 'request.auth.claims[a]', values: [b] }] }]",
            "Weir does not know a claim of a JWT: the rule denies as if this condition held",
        ),
        (
            "action: CUSTOM\nprovider: { name: opa }\nrules: [{}]",
            "CUSTOM needs an external authorizer, which is not supported yet: requests that the rules match are denied",
        ),
        ("action: AUDIT\nrules: [{}]", "AUDIT only logs, which is not supported yet"),
    ];
    for (spec, message) in table {
        let weir = Start::new().file("gateway.yaml", TO_ECHO).file("policy.yaml", here(spec)).run();
        assert!(weir.printed().contains(message), "{message}: {}", weir.printed());
    }
}

/// On a port that passes bytes on, addresses decide; what asks about a request allows nothing, and denies as if it held.
#[test]
fn connections_without_http_are_checked_too() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: { name: t }\nspec:\n  parentRefs: [{ name: gateway, sectionName: tcp }]\n  rules: [{ backendRefs: [{ name: echo, port: 80 }] }]\n";
    let weir = ToEcho::new().listener("name: tcp, port: $PORT2, protocol: TCP").start().file("tcp.yaml", route).run();
    let passes = || client::get(([127, 0, 0, 1], weir.ports[1]).into(), "h", "/").is_ok_and(|a| a.status == 200);
    assert!(passes());
    let table = [
        ("rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/8] } }] }]", false),
        ("rules: [{ from: [{ source: { ipBlocks: [127.0.0.0/8] } }] }]", true),
        ("rules: [{ to: [{ operation: { paths: ['*'] } }] }]", false),
        ("rules: [{ to: [{ operation: { ports: ['$PORT2'] } }] }]", true),
        ("rules: [{ to: [{ operation: { notMethods: [PUT] } }] }]", false),
        ("action: DENY\nrules: [{ to: [{ operation: { paths: [/x], ports: ['$PORT'] } }] }]", true),
        ("action: DENY\nrules: [{ to: [{ operation: { paths: [/x] } }] }]", false),
        ("action: DENY\nrules: [{ from: [{ source: { notIpBlocks: [127.0.0.1] } }] }]", true),
        ("action: DENY\nrules: [{ from: [{ source: { ipBlocks: [127.0.0.0/8] } }] }]", false),
        ("action: DENY\nrules: [{ from: [{ source: { ipBlocks: [127.0.0.2] } }] }]", true),
    ];
    let denied = || weir.stat(&format!("listener.0.0.0.0_{}.rbac.denied", weir.ports[1]));
    for (spec, wanted) in table {
        weir.write("policy.yaml", &here(&spec.replace("$PORT2", &weir.ports[1].to_string()).replace("$PORT", &weir.ports[0].to_string())));
        eventually(&format!("{wanted} by {spec}"), || (passes() == wanted).then_some(()));
        let before = denied();
        assert_eq!((passes(), denied() - before), (wanted, u64::from(!wanted)), "{spec}");
    }
}
