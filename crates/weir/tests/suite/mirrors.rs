//! Copies of requests, and splits: what a copy's Host is, and who goes where.
use crate::{
    client,
    harness::{Received, Start, TO_ECHO, eventually},
    http2::istio,
};
use std::collections::BTreeSet;

/// Gateway API does not specify the Host of a copy; Istio adds `-shadow` before the port.
#[test]
fn the_host_of_a_copy() {
    let route = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: mirrored }
spec:
  parentRefs: [{ name: gateway }]
  rules:
  - filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: raw, port: 80 } } }]
    backendRefs: [{ name: echo, port: 80 }]
---
";
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: raw }\nspec: { ports: [{ port: 80, targetPort: $RAW }] }\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: { name: raw, labels: { kubernetes.io/service-name: raw } }\naddressType: IPv4\nports: [{ port: $RAW }]\nendpoints: [{ addresses: [127.0.0.1] }]\n---\n";
    let plain = TO_ECHO.replace(
        "  rules: [{ backendRefs: [{ name: echo, port: 80 }] }]",
        "  hostnames: [none.test]\n  rules: [{ backendRefs: [{ name: echo, port: 80 }] }]",
    );
    let gateway = format!("{route}{service}{plain}");
    let virtual_service = format!(
        "{service}{}",
        istio("$ECHO", "HTTP", "{}").replace(
            "route: [{ destination: { host: up.test, port: { number: 80 } } }]",
            "route: [{ destination: { host: up.test, port: { number: 80 } } }], mirror: { host: raw, port: { number: 80 } }"
        )
    );
    for (name, yaml, table) in [
        ("HTTPRoute", gateway, [("b.test:8080", "b.test:8080"), ("b.test", "b.test"), ("[::1]:80", "[::1]:80")]),
        (
            "VirtualService",
            virtual_service,
            [("b.test:8080", "b.test-shadow:8080"), ("b.test", "b.test-shadow"), ("127.0.0.1:1", "127.0.0.1-shadow:1")],
        ),
    ] {
        let (port, received) = Received::start();
        let weir = Start::new().word("RAW", port).file("all.yaml", yaml).run();
        for (host, expected) in table {
            let sent = client::request(weir.address(), "POST", host, "/copied", &[], b"hello").unwrap();
            assert_eq!(sent.status, 200, "{name}: {host}: {sent:?}");
            let got = eventually("a copy", || Some(received.take()).filter(|t| t.ends_with("hello")));
            let line = got.split("\r\n").find_map(|l| l.to_ascii_lowercase().strip_prefix("host: ").map(str::to_string));
            assert_eq!(line.as_deref(), Some(expected), "{name}: {got}");
        }
    }
}

/// Consistent hashing holds across the subsets of a split: a user stays with one, and all users together keep the weights.
#[test]
fn a_consistent_hash_chooses_the_subset() {
    let yaml = |policy: &str, weights: (u32, u32)| {
        let route = format!(
            "route: [{{ destination: {{ host: up.test, subset: v1 }}, weight: {} }}, {{ destination: {{ host: up.test, subset: v2 }}, weight: {} }}]",
            weights.0, weights.1
        );
        istio("$ECHO", "HTTP", &format!("{policy}\n  subsets: [{{ name: v1, labels: {{ v: one }} }}, {{ name: v2, labels: {{ v: two }} }}]"))
            .replace("route: [{ destination: { host: up.test, port: { number: 80 } } }]", &route)
            .replace("endpoints: [{ address: 127.0.0.1, ports: { web: $ECHO } }]", "endpoints: [{ address: 127.0.0.1, ports: { web: $ECHO }, labels: { v: one } }, { address: 127.0.0.1, ports: { web: $ECHO2 }, labels: { v: two } }]")
    };
    for (weights, low, high) in [((50, 50), 60, 140), ((90, 10), 150, 198)] {
        let policy = "{ loadBalancer: { consistentHash: { httpHeaderName: x-user } } }";
        let weir = Start::new().upstreams(2).file("all.yaml", yaml(policy, weights)).run();
        let ask = |headers: &[(&str, &str)]| {
            let answer = client::request(weir.address(), "GET", "h.test", "/", headers, b"").unwrap();
            answer.json()["name"].as_str().unwrap().to_string()
        };
        for user in ["ann", "bob", "cleo"] {
            let seen: BTreeSet<String> = (0..20).map(|_| ask(&[("x-user", user)])).collect();
            assert_eq!(seen.len(), 1, "{user} is with {seen:?}");
        }
        let first = (0..200).filter(|i| ask(&[("x-user", &format!("user-{i}"))]) == "echo").count();
        assert!((low..=high).contains(&first), "{weights:?}: {first} of 200");
        // Without the header there is nothing to go by.
        let seen: BTreeSet<String> = (0..100).map(|_| ask(&[])).collect();
        assert_eq!(seen.len(), 2, "{weights:?}");
    }
    // A cookie that is made for the choice leads back to it.
    let policy = "{ loadBalancer: { consistentHash: { httpCookie: { name: who, ttl: 60s } } } }";
    let weir = Start::new().upstreams(2).file("all.yaml", yaml(policy, (50, 50))).run();
    for _ in 0..10 {
        let first = client::get(weir.address(), "h.test", "/").unwrap();
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_string();
        for _ in 0..5 {
            let again = client::request(weir.address(), "GET", "h.test", "/", &[("cookie", &cookie)], b"").unwrap();
            assert_eq!(again.json()["name"], first.json()["name"], "{cookie}");
            assert_eq!(again.header("set-cookie"), None);
        }
    }
}
