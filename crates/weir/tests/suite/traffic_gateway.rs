//! Traffic policy in the words of Gateway API: retries, timeouts, mirrors, CORS and weights of HTTPRoutes.
use crate::{
    client::{self, Connection},
    harness::{Start, Weir, eventually},
    mesh::{FORMAT, record},
    yaml::Service,
};

/// A Gateway on `$PORT` and Services a, b, c, each with an echo upstream.
fn base() -> String {
    let mut text = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: weir
  listeners: [{ name: http, port: $PORT, protocol: HTTP }]
"
    .to_string();
    for (name, port) in [("a", "$ECHO"), ("b", "$ECHO2"), ("c", "$ECHO3"), ("dead", "$DEAD")] {
        text += "---\n";
        text += Service::new(name, port).text().trim_end_matches("---\n");
    }
    text
}

/// An HTTPRoute of a host with one rule.
fn route(host: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {} }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  \
         hostnames: [{host}]\n  rules:\n  - {{ {rule} }}\n",
        host.replace('.', "-")
    )
}

const TO_A: &str = "backendRefs: [{ name: a, port: 80 }]";

fn start(routes: &[(&str, String)]) -> Weir {
    let routes: String = routes.iter().map(|(host, rule)| route(host, rule)).collect();
    let weir = Start::new()
        .file("all.yaml", base() + &routes)
        .arg("--access-log-format")
        .arg(FORMAT)
        .word("DEAD", crate::harness::free_port())
        .upstreams(3)
        .run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    weir
}

fn of_service(weir: &Weir, service: &str, stat: &str) -> u64 {
    weir.stat(&format!("cluster.outbound|80||{service}.default.svc.cluster.local.{stat}"))
}

#[test]
fn retries_and_timeouts() {
    let weir = start(&[
        ("retry.test", format!("{TO_A}, retry: {{ codes: [500, 503], attempts: 2, backoff: 1ms }}")),
        ("dead.test", "backendRefs: [{ name: dead, port: 80 }], retry: { attempts: 2, backoff: 1ms }".into()),
        ("plain.test", TO_A.into()),
        ("whole.test", format!("{TO_A}, timeouts: {{ request: 300ms }}")),
        ("each.test", format!("{TO_A}, timeouts: {{ request: 20s, backendRequest: 200ms }}, retry: {{ attempts: 1, backoff: 1ms }}")),
    ]);
    for (host, path, status, flags, attempts) in [
        ("retry.test", "/flaky/a?fail=2", 200, "-", 3),
        ("retry.test", "/flaky/b?fail=9", 503, "URX", 3),
        ("retry.test", "/flaky/c?fail=1&status=502", 502, "-", 1),
        ("dead.test", "/dead", 503, "UF,URX", 3),
        ("plain.test", "/flaky/d?fail=1", 503, "-", 1),
        ("whole.test", "/whole?delay=10s", 504, "UT", 1),
        ("each.test", "/each?delay=10s", 504, "URX,UT", 2),
    ] {
        assert_eq!(weir.get(host, path).status, status, "{host}{path}");
        record(&weir, path, &[&format!("code={status}"), &format!("flags={flags}"), &format!("attempts={attempts}")]);
    }
    for (stat, n) in
        [("upstream_rq_retry_success", 1), ("upstream_rq_timeout", 1), ("upstream_rq_per_try_timeout", 2), ("upstream_rq_504", 2)]
    {
        assert_eq!(of_service(&weir, "a", stat), n, "{stat}");
    }
    assert_eq!(of_service(&weir, "dead", "upstream_cx_connect_fail"), 3);
}

#[test]
fn weights_mirrors_and_cross_origin_requests() {
    let mirror = "filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: b, port: 80 } } }, \
        { type: RequestMirror, requestMirror: { backendRef: { name: c, port: 80 }, fraction: { numerator: 1, denominator: 4 } } }]";
    let cors =
        "filters: [{ type: CORS, cors: { allowOrigins: ['https://a.test'], allowMethods: [GET], allowHeaders: [x-one], maxAge: 60 } }]";
    let weir = start(&[
        ("mirror.test", format!("{TO_A}, {mirror}")),
        (
            "split.test",
            "backendRefs: [{ name: a, port: 80, weight: 3 }, { name: b, port: 80, weight: 1 }, { name: c, port: 80, weight: 0 }]".into(),
        ),
        ("cors.test", format!("{TO_A}, {cors}")),
    ]);
    const N: usize = 2000;
    let mut c = Connection::open(weir.address()).unwrap();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..N {
        *seen.entry(crate::mesh::name(&c.request("GET", "split.test", "/", &[], b"").unwrap())).or_default() += 1;
    }
    // Five standard deviations.
    assert!(seen.len() == 2 && (N * 3 / 4).abs_diff(seen["echo"]) < 97, "{seen:?}");
    for _ in 0..400 {
        assert_eq!(c.request("GET", "mirror.test", "/status/204", &[], b"").unwrap().status, 204);
    }
    eventually("a copy of each", || (of_service(&weir, "b", "upstream_rq_mirror_total") == 400).then_some(()));
    assert!(
        (57..143).contains(&of_service(&weir, "c", "upstream_rq_mirror_total")),
        "{}",
        of_service(&weir, "c", "upstream_rq_mirror_total")
    );
    eventually("all copies are answered", || (of_service(&weir, "b", "upstream_rq_204") == 400).then_some(()));
    let preflight = |origin| {
        let headers = [("origin", origin), ("access-control-request-method", "GET")];
        client::request(weir.address(), "OPTIONS", "cors.test", "/p", &headers, b"").unwrap()
    };
    let allowed = preflight("https://a.test");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.test"), "{allowed:?}");
    assert_eq!((allowed.header("access-control-max-age"), allowed.header("access-control-allow-headers")), (Some("60"), Some("x-one")));
    assert_eq!(preflight("https://evil.test").header("access-control-allow-origin"), None);
}
