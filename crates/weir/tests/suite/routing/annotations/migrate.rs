//! `weir migrate`: verdicts, and objects of Gateway API that do what the Ingress objects do.
use super::{ROOT, ask, came_to, ingress, seen, start};
use crate::{
    client::{Answer, Connection},
    harness::{Weir, eventually, runtime, weir},
};
use std::{
    io::Write,
    process::{Output, Stdio},
};

const NGINX: &str = "nginx.ingress.kubernetes.io";

fn migrate(args: &[&str], yaml: &str) -> Output {
    let mut child =
        weir().arg("migrate").args(args).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_annotation_has_a_verdict() {
    let table = [
        ("rewrite-target: /a", "works-with-difference", ""),
        ("app-root: /home", "works", ""),
        ("proxy-buffering: \"on\"", "not-needed", "Weir streams bodies"),
        ("proxy-body-size: 8m", "not-supported", "there is no limit"),
        ("unheard-of: a", "not-supported", "remove it"),
        ("auth-url: http://auth", "closes-route", "guard the route by a WasmPlugin"),
        ("auth-unheard-of: a", "closes-route", "guard the route"),
        ("limit-rps: 5", "closes-route", "route-limit-rps"),
        ("configuration-snippet: deny all;", "closes-route", "nginx directives"),
        ("configuration-snippet: gzip on;", "not-supported", "nginx directives"),
        ("enable-modsecurity: false", "not-supported", "waf"),
        ("app-root: home", "invalid", "does not begin with /"),
    ];
    for (annotation, verdict, text) in table {
        let yaml = ingress("shop", "a.test", NGINX, annotation, ROOT);
        let out = migrate(&["--from", "ingress-nginx", "-o", "json"], &yaml);
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        let rows = told["verdicts"].as_array().unwrap();
        let row = rows.iter().find(|row| row["verdict"] == verdict).unwrap_or_else(|| panic!("{annotation}: {told:#}"));
        assert!(rows.len() == 1 && row["text"].as_str().unwrap().contains(text), "{annotation}: {told:#}");
        assert_eq!(row["object"], "Ingress/default/shop", "{annotation}");
        let good = ["works", "works-with-difference", "not-needed"].contains(&verdict);
        assert_eq!(out.status.code(), Some(i32::from(!good)), "{annotation}");
    }
    // What is no YAML is said.
    let out = migrate(&["--from", "ingress-nginx"], "spec: [\n");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    // Text, with a summary; and what ingress-nginx does without being told.
    let secured = ingress("shop", "a.test", NGINX, "app-root: /home", ROOT)
        .replace("spec:\n", "spec:\n  tls: [{ hosts: [a.test], secretName: own }]\n");
    let out = migrate(&["--from", "ingress-nginx"], &secured);
    let text = String::from_utf8(out.stdout).unwrap();
    for part in [
        "Ingress/default/shop\n",
        "  nginx.ingress.kubernetes.io/app-root: works\n",
        "  spec.tls: works with a difference: plain HTTP is served too",
        "1 Ingress object: 1 works, 1 works with a difference\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let of_higress = migrate(&["--from", "higress"], &secured);
    assert!(!String::from_utf8(of_higress.stdout).unwrap().contains("spec.tls"));
}

/// A redirect of Gateway API names the port of the listener, unless it is the usual one.
fn without_port(answer: &Answer) -> String {
    let text = came_to(answer);
    match text.split_once(".test:") {
        Some((before, rest)) => format!("{before}.test{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => text,
    }
}

struct Row {
    annotations: &'static str,
    paths: &'static [&'static str],
    requests: &'static [&'static str],
    what: fn(&Answer) -> String,
}

/// The headers that the upstream saw, and those of the response.
fn fields(answer: &Answer) -> String {
    let own = |name: &str| name.starts_with("x-r") && !["x-request-id", "x-real-ip"].contains(&name);
    let mut all: Vec<String> =
        answer.headers.iter().filter(|(n, _)| own(n) || n.starts_with("access-control")).map(|(n, v)| format!("{n}={v}")).collect();
    if let Ok(serde_json::Value::Object(seen)) = serde_json::from_str::<serde_json::Value>(&answer.body).map(|json| json["headers"].clone())
    {
        all.extend(
            seen.iter().filter(|(name, _)| own(name) || *name == "x-forwarded-prefix").map(|(name, value)| format!("{name}:{value}")),
        );
    }
    all.sort();
    format!("{} {}", answer.status, all.join(" "))
}

const ROWS: &[Row] = &[
    Row {
        annotations: "timeout: 30",
        paths: &["Exact /one echo", "Prefix /two echo2"],
        requests: &["GET /one", "GET /one/x", "GET /two/x", "GET /twox"],
        what: came_to,
    },
    Row { annotations: "app-root: /home", paths: ROOT, requests: &["GET /", "GET /x"], what: without_port },
    Row { annotations: "permanent-redirect: https://b.test:8443/new", paths: ROOT, requests: &["GET /old?q"], what: came_to },
    Row {
        annotations: "temporal-redirect: http://b.test\ntemporal-redirect-code: 307",
        paths: ROOT,
        requests: &["GET /old"],
        what: came_to,
    },
    Row { annotations: "ssl-redirect: true", paths: ROOT, requests: &["GET /x?q", "POST /x"], what: came_to },
    Row { annotations: "exact-match-header-x-a: 1", paths: ROOT, requests: &["GET / | x-a: 1", "GET / | x-a: 11", "GET /"], what: came_to },
    Row { annotations: "prefix-match-header-x-a: b.", paths: ROOT, requests: &["GET / | x-a: b.c", "GET / | x-a: bxc"], what: came_to },
    Row { annotations: "regex-match-query-v: (a|b)+", paths: ROOT, requests: &["GET /?v=abba", "GET /?v=abc"], what: came_to },
    Row { annotations: "match-method: GET post", paths: ROOT, requests: &["GET /", "POST /", "PUT /"], what: came_to },
    Row {
        annotations: "use-regex: true",
        paths: &["ImplementationSpecific /foo/[A-Z]{3} echo", "Prefix / echo2"],
        requests: &["GET /foo/ABC", "GET /foo/ABCD/x", "GET /foo/abc"],
        what: came_to,
    },
    Row {
        annotations: "rewrite-target: /app",
        paths: &["Prefix /foo echo", "Exact /one echo"],
        requests: &["GET /foo/a?q", "GET /foo", "GET /one"],
        what: seen,
    },
    Row { annotations: "rewrite-path: /", paths: &["Prefix /foo echo"], requests: &["GET /foo/a", "GET /foo"], what: seen },
    Row { annotations: "upstream-vhost: inner.test", paths: ROOT, requests: &["GET /a"], what: seen },
    Row {
        annotations: "request-header-control-add: x-r1 one\nrequest-header-control-update: x-r3 new\nrequest-header-control-remove: x-r4\nresponse-header-control-add: x-r5 five\nx-forwarded-prefix: /app",
        paths: ROOT,
        requests: &["GET / | x-r1: zero | x-r3: old | x-r4: 4"],
        what: fields,
    },
    Row {
        annotations: "enable-cors: true\ncors-allow-origin: https://*.shop.test, http://b.test\ncors-allow-methods: GET, PUT\ncors-max-age: 60",
        paths: ROOT,
        requests: &[
            "GET / | origin: https://a.shop.test",
            "GET / | origin: https://shop.test",
            "OPTIONS / | origin: http://b.test | access-control-request-method: PUT",
        ],
        what: fields,
    },
    Row { annotations: "timeout: 1", paths: ROOT, requests: &["GET /?delay=20s", "GET /"], what: came_to },
    Row {
        annotations: "proxy-next-upstream: http_503\nproxy-next-upstream-tries: 2",
        paths: &["Prefix /flaky echo"],
        requests: &["GET /flaky/SIDE-a?fail=2", "GET /flaky/SIDE-b?fail=3"],
        what: |a| a.status.to_string(),
    },
];

const CANARIES: [(&str, &str); 3] =
    [("canary-by-header: x-canary", "by-header"), ("canary-by-cookie: canary", "by-cookie"), ("canary-weight: 100", "by-weight")];

fn answers(weir: &Weir, side: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut asked = |host: &str, request: &str, what: fn(&Answer) -> String| {
        let line = request.replace("SIDE", side).replacen(' ', &format!(" {host}"), 1);
        let answer = ask(&mut Connection::open(weir.address()).unwrap(), &line);
        all.push(format!("{host} {request}: {}", what(&answer)));
    };
    for (i, row) in ROWS.iter().enumerate() {
        for request in row.requests {
            asked(&format!("r{i}.test"), request, row.what);
        }
    }
    for (_, host) in CANARIES {
        for request in ["GET /", "GET / | x-canary: always", "GET / | cookie: a=b; canary=always"] {
            asked(&format!("{host}.test"), request, came_to);
        }
    }
    all
}

#[test]
fn objects_of_gateway_api_do_the_same() {
    let mut all = String::new();
    for (i, row) in ROWS.iter().enumerate() {
        all += &ingress(&format!("r{i}"), &format!("r{i}.test"), NGINX, row.annotations, row.paths);
    }
    for (annotation, name) in CANARIES {
        all += &ingress(name, &format!("{name}.test"), NGINX, "timeout: 30", ROOT);
        all += &ingress(
            &format!("{name}-canary"),
            &format!("{name}.test"),
            NGINX,
            &format!("canary: true\n{annotation}"),
            &["Prefix / echo2"],
        );
    }
    let out = migrate(&["--from", "ingress-nginx", "--to", "gateway-api", "--http-port", "12345"], &all);
    let (yaml, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success() && !told.contains("no equivalent") && !yaml.contains('#'), "{told}\n{yaml}");
    let before = start(2, &all).run();
    let after = start(2, &format!("---\n{}", yaml.replace("12345", "$PORT"))).run();
    super::no_findings(&after);
    assert_eq!(answers(&before, "before"), answers(&after, "after"), "{yaml}");
}

#[test]
fn certificates_mirrors_and_named_ports_migrate() {
    let named = "---\n{ apiVersion: v1, kind: Service, metadata: { name: named }, spec: { ports: [{ name: admin, port: 81 }, { name: web, port: 8080 }] } }\n---\n{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: { name: named, labels: { kubernetes.io/service-name: named } }, addressType: IPv4, ports: [{ name: admin, port: 9 }, { name: web, port: $ECHO2 }], endpoints: [{ addresses: [127.0.0.1] }] }\n";
    let signed = weir_test::self_signed(&["secured.test"]);
    let ingresses = ingress("secured", "secured.test", NGINX, "ssl-redirect: \"false\"", ROOT)
        .replace("spec:\n", "spec:\n  tls: [{ hosts: [secured.test], secretName: own }]\n")
        + &ingress("mirrored", "mirrored.test", NGINX, "mirror-target-service: echo3:80", ROOT)
        + &ingress("named", "named.test", NGINX, "timeout: 30", &["Prefix / named"]).replace("number: 80", "name: web");
    let ports = ["--http-port", "12345", "--https-port", "23456"];
    let service = named.split("---\n").nth(1).unwrap();
    let out = migrate(&[&["--from", "ingress-nginx", "--to", "gateway-api"], &ports[..]].concat(), &format!("{service}{ingresses}"));
    let (yaml, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success() && !told.contains("no equivalent"), "{told}\n{yaml}");
    let run = |objects: &str| {
        let start = start(3, &format!("{objects}{named}")).file("secret.yaml", crate::tls::secret("own", &signed));
        start.arg("--https-port").arg("$PORT2").run()
    };
    let before = run(&ingresses);
    let after = run(&format!("---\n{}", yaml.replace("12345", "$PORT").replace("23456", "$PORT2")));
    for weir in [&before, &after] {
        super::no_findings(weir);
        for (host, wanted) in [("secured.test", "echo"), ("mirrored.test", "echo"), ("named.test", "echo2")] {
            assert_eq!(came_to(&weir.get(host, "/")), wanted, "{host}: {yaml}");
        }
        let secure = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
        let client = crate::tls_client::Client { trust: Some(&signed.pem), ..Default::default() };
        assert_eq!(came_to(&client.ask(secure, "secured.test", &[]).unwrap()), "echo", "{yaml}");
        let mirrored = "cluster.outbound|80||echo3.default.svc.cluster.local.upstream_rq_total";
        eventually("the copy", || (weir.stat(mirrored) == 1).then_some(()));
    }
}

#[test]
fn verified_tls_to_backends_becomes_a_policy() {
    let signed = weir_test::self_signed(&["inner.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&chain, &signed.pem).unwrap();
    std::fs::write(&key, &signed.key).unwrap();
    let options = weir::echo::Options { name: "tls".into(), tls: Some((chain, key)), ..Default::default() };
    let upstream = runtime().block_on(weir::echo::Server::start(options)).unwrap();
    let service = |name: &str| {
        format!(
            "---\n{{ apiVersion: v1, kind: Service, metadata: {{ name: {name} }}, spec: {{ ports: [{{ port: 80 }}] }} }}\n---\n{{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {name} }} }}, addressType: IPv4, ports: [{{ port: {} }}], endpoints: [{{ addresses: [127.0.0.1] }}] }}\n",
            upstream.address().port()
        )
    };
    let tls = |name: &str| {
        format!(
            "backend-protocol: HTTPS\nproxy-ssl-verify: \"on\"\nproxy-ssl-server-name: \"on\"\nproxy-ssl-name: {name}\nproxy-ssl-secret: own"
        )
    };
    let ingresses = ingress("right", "right.test", NGINX, &tls("inner.test"), &["Prefix / right"])
        + &ingress("wrong", "wrong.test", NGINX, &tls("other.test"), &["Prefix / wrong"])
        + &ingress("unverified", "unverified.test", NGINX, "backend-protocol: HTTPS", &["Prefix / unverified"]);
    let out = migrate(&["--from", "ingress-nginx", "--to", "gateway-api", "--http-port", "12345"], &ingresses);
    let (yaml, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    // Without verification there is no equivalent.
    assert!(yaml.contains(&format!("# Ingress/default/unverified: Gateway API has no equivalent of {NGINX}/backend-protocol\n")), "{yaml}");
    assert!(!yaml.contains(&format!("Ingress/default/right: Gateway API has no equivalent of {NGINX}")), "{yaml}");
    assert_eq!(yaml.matches("kind: BackendTLSPolicy\n").count(), 2, "{told}\n{yaml}");
    let secret = crate::tls::secret("own", &signed) + &format!("  ca.crt: |\n{}", crate::yaml::indented(&signed.pem));
    let run = |objects: &str| {
        let services = service("right") + &service("wrong");
        start(1, &format!("{objects}{services}")).file("secret.yaml", secret.clone()).run()
    };
    let before = run(&ingresses.split("---\n").take(3).collect::<Vec<_>>().join("---\n"));
    let after = run(&format!("---\n{}", yaml.replace("12345", "$PORT")));
    for weir in [&before, &after] {
        assert_eq!(came_to(&weir.get("right.test", "/")), "tls", "{yaml}\n{}", weir.printed());
        assert_eq!(came_to(&weir.get("wrong.test", "/")), "503", "{yaml}");
    }
}

/// What has no equivalent is named, and what would open a route stays an Ingress.
#[test]
fn what_gateway_api_lacks_is_named() {
    let all = ingress("hash", "a.test", NGINX, "load-balance: ewma", ROOT)
        + &ingress("groups", "b.test", NGINX, "rewrite-target: /$1", &["Prefix /a/(.*) echo"])
        + &ingress("guarded", "c.test", NGINX, "whitelist-source-range: 192.0.2.0/24", ROOT)
        + &ingress("closed", "d.test", NGINX, "auth-url: http://auth", ROOT);
    let out = migrate(&["--from", "ingress-nginx", "--to", "gateway-api"], &all);
    let (yaml, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    for (object, key) in [("hash", "load-balance"), ("groups", "rewrite-target")] {
        assert!(yaml.contains(&format!("# Ingress/default/{object}: Gateway API has no equivalent of {NGINX}/{key}\n")), "{yaml}");
        assert!(yaml.contains(&format!("name: {object}-0\n")), "{yaml}");
    }
    assert!(!yaml.contains("name: guarded-0") && !yaml.contains("name: closed-0"), "{yaml}");
    for key in ["load-balance", "rewrite-target", "whitelist-source-range"] {
        assert!(told.lines().any(|l| l.contains(key) && l.contains("Gateway API has no equivalent")), "{told}");
    }
}
