//! Rate limits: what clients learn of them. That they hold over all workers is tested with the annotations of Ingress objects.
use crate::{
    client::{self, Connection},
    harness::{Start, Weir, eventually},
    yaml::Service,
};

fn ingress(annotations: &str) -> String {
    let service = Service::new("echo", "$ECHO").text();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: i\n  annotations: {{ {annotations} }}\nspec:\n  rules: [{{ host: h.test, http: {{ paths: [{{ path: /, pathType: Prefix, backend: {{ service: {{ name: echo, port: {{ number: 80 }} }} }} }}] }} }}]\n---\n{service}"
    )
}

fn start(annotations: &str) -> Weir {
    Start::new().file("gateway.yaml", ingress(annotations)).arg("--http-port").arg("$PORT").run()
}

#[test]
fn responses_say_what_is_left() {
    let weir = start("higress.io/route-limit-rpm: '1', higress.io/route-limit-burst-multiplier: '10'");
    let mut c = Connection::open(weir.address()).unwrap();
    for sent in 1..=10 {
        let answer = c.request("GET", "h.test", "/", &[], b"").unwrap();
        let left = (10 - sent).to_string();
        assert_eq!(answer.status, 200);
        assert_eq!((answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")), (Some("10"), Some(&*left)));
        let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
        assert!(if sent < 10 { reset == 0 } else { (1..=60).contains(&reset) }, "{sent}: {reset}");
    }
    let refused = c.request("GET", "h.test", "/", &[], b"").unwrap();
    assert_eq!((refused.status, &*refused.body), (429, "local_rate_limited"));
    assert_eq!((refused.header("x-envoy-ratelimited"), refused.header("x-ratelimit-remaining")), (Some("true"), Some("0")));
    assert_eq!(refused.header("x-ratelimit-limit"), Some("10"));
    let grpc = c.request("POST", "h.test", "/a.B/C", &[("content-type", "application/grpc")], b"").unwrap();
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.http_local_rate_limit.{name}", weir.ports[0]));
    assert_eq!(["enabled", "ok", "rate_limited", "enforced"].map(stat), [12, 10, 2, 2]);

    // Higress' switch for headers that begin with x-envoy.
    weir.write(
        "settings.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: higress-config }\ndata: { higress: 'disableXEnvoyHeaders: true' }\n",
    );
    let last = eventually("the header is gone", || {
        let answer = client::get(weir.address(), "h.test", "/").unwrap();
        answer.header("x-envoy-ratelimited").is_none().then_some(answer)
    });
    assert_eq!((last.status, last.header("x-ratelimit-remaining")), (429, Some("0")));
}
