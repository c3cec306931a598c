//! Copies of requests, and splits: what a copy's Host is, and who goes where.
use crate::{
    client,
    harness::{Received, Start, eventually},
    mesh::{Mesh, of_cluster},
    yaml::{Service, ToEcho},
};
use std::collections::BTreeSet;

/// Gateway API does not specify the Host of a copy; Istio adds `-shadow` before the port.
#[test]
fn the_host_of_a_copy() {
    let raw = Service::new("raw", "$RAW").text();
    let rule = "filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: raw, port: 80 } } }], backendRefs: [{ name: echo, port: 80 }]";
    let gateway = raw.clone() + &ToEcho::new().rules(&[rule]).text();
    let mirror = "- route: [{ destination: { host: up.test } }]\n  mirror: { host: raw, port: { number: 80 } }";
    let virtual_service = raw + &Mesh::new().upstream("up.test", &["$ECHO"]).routes("'*'", mirror).text();
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
            let got = eventually("a copy", || Some(received.text()).filter(|t| t.ends_with("hello")));
            received.take();
            let line = got.split("\r\n").find_map(|l| l.to_ascii_lowercase().strip_prefix("host: ").map(str::to_string));
            assert_eq!(line.as_deref(), Some(expected), "{name}: {got}");
        }
    }
}

/// More copies than the limit are not sent; the requests themselves are served.
#[test]
fn copies_are_bounded() {
    let mirror = "- route: [{ destination: { host: up.test } }]\n  mirror: { host: up.test }";
    let yaml = Mesh::new().upstream("up.test", &["$ECHO"]).routes("'*'", mirror).text();
    for (limit, body, sent) in
        [("--max-mirrored-requests=0", "", 0), ("--max-mirrored-bytes=4", "hello", 0), ("--max-mirrored-bytes=5", "hello", 1)]
    {
        let weir = Start::new().file("all.yaml", yaml.clone()).arg(limit).run();
        assert_eq!(client::request(weir.address(), "POST", "h.test", "/", &[], body.as_bytes()).unwrap().status, 200);
        // The copy is counted when it has the whole body, which may be after the answer.
        let counts = || ["upstream_rq_mirror_total", "upstream_rq_mirror_overflow"].map(|name| of_cluster(&weir, "up.test", name));
        eventually(limit, || (counts() == [sent, 1 - sent]).then_some(()));
    }
}

/// Consistent hashing holds across the subsets of a split: a user stays with one, and all users together keep the weights.
#[test]
fn a_consistent_hash_chooses_the_subset() {
    let yaml = |hash: &str, (one, two): (u32, u32)| {
        let to = |subset: &str, weight: u32| format!("{{ destination: {{ host: up.test, subset: {subset} }}, weight: {weight} }}");
        let subsets = "subsets: [{ name: v1, labels: { v: one } }, { name: v2, labels: { v: two } }]";
        Mesh::new()
            .upstream("up.test", &["$ECHO { v: one }", "$ECHO2 { v: two }"])
            .routes("'*'", &format!("- route: [{}, {}]", to("v1", one), to("v2", two)))
            .rule("up.test", &format!("trafficPolicy: {{ loadBalancer: {{ consistentHash: {hash} }} }}\n{subsets}"))
            .text()
    };
    for (weights, low, high) in [((50, 50), 60, 140), ((90, 10), 150, 198)] {
        let hash = "{ httpHeaderName: x-user }";
        let weir = Start::new().upstreams(2).file("all.yaml", yaml(hash, weights)).run();
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
    let hash = "{ httpCookie: { name: who, ttl: 60s } }";
    let weir = Start::new().upstreams(2).file("all.yaml", yaml(hash, (50, 50))).run();
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
