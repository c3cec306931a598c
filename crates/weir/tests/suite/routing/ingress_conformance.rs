//! The cases of kubernetes-sigs/ingress-controller-conformance: default backends, rules for hosts and paths, and load balancing. Those of
//! classes and of the status are in `kube_ingress`.
use super::{ask, check, no_findings};
use crate::{
    client::{Answer, Connection},
    harness::{Start, eventually},
    tls,
};
use std::{collections::BTreeMap, net::SocketAddr};
use weir_test::self_signed;

const SERVICES: [&str; 8] = ["default", "wildcard", "host", "foo-exact", "foo-prefix", "bbb-prefix", "aaa-prefix", "bbb-slash-prefix"];
/// Of the service whose requests are balanced.
const REPLICAS: usize = 10;

fn service(name: &str, ports: &[usize]) -> String {
    let port = |nth: &usize| if *nth == 0 { "$ECHO".to_string() } else { format!("$ECHO{}", nth + 1) };
    let slice = |nth: &usize| {
        format!(
            "---\n{{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{ name: {name}-{nth}, labels: {{ kubernetes.io/service-name: {name} }} }}, addressType: IPv4, ports: [{{ name: http, port: {} }}], endpoints: [{{ addresses: [127.0.0.1] }}] }}\n",
            port(nth)
        )
    };
    let slices: String = ports.iter().map(slice).collect();
    format!(
        "---\n{{ apiVersion: v1, kind: Service, metadata: {{ name: {name} }}, spec: {{ ports: [{{ name: http, port: 8080 }}] }} }}\n{slices}"
    )
}

/// A rule for a host, with paths as `TYPE PATH SERVICE PORT`.
fn rule(host: &str, paths: &[&str]) -> String {
    let one = |path: &&str| {
        let [kind, path, service, port] = path.split(' ').collect::<Vec<_>>()[..] else { panic!("{path}") };
        format!("      - {{ path: {path}, pathType: {kind}, backend: {{ service: {{ name: {service}, port: {{ {port} }} }} }} }}\n")
    };
    format!("  - host: '{host}'\n    http:\n      paths:\n{}", paths.iter().map(one).collect::<String>())
}

fn ingress(spec: &str) -> String {
    format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: conformance }}\nspec:\n{spec}")
}

/// The service whose upstream answered, or the status.
fn served_by(answer: &Answer) -> String {
    if answer.status != 200 {
        return answer.status.to_string();
    }
    let told = answer.json();
    let nth = told["name"].as_str().unwrap().trim_start_matches("echo").parse().unwrap_or(1);
    SERVICES[nth - 1].to_string()
}

#[test]
fn the_cases_of_the_conformance_suite_hold() {
    let signed = self_signed(&["foo.bar.com"]);
    let services: String = SERVICES.iter().enumerate().map(|(nth, name)| service(name, &[nth])).collect();
    let rules = [
        rule("*.foo.com", &["Prefix / wildcard number:8080"]),
        rule("foo.bar.com", &["Prefix / host name:http"]),
        rule("exact-path-rules", &["Exact /foo foo-exact number:8080"]),
        rule(
            "prefix-path-rules",
            &["Prefix /foo foo-prefix number:8080", "Prefix /aaa/bbb bbb-prefix number:8080", "Prefix /aaa aaa-prefix number:8080"],
        ),
        rule("mixed-path-rules", &["Prefix /foo foo-prefix number:8080", "Exact /foo foo-exact number:8080"]),
        rule("trailing-slash-path-rules", &["Prefix /aaa/bbb/ bbb-slash-prefix number:8080", "Exact /foo/ foo-exact number:8080"]),
    ];
    let rules = rules.concat().replace("number:8080", "number: 8080").replace("name:http", "name: http");
    let rules = ingress(&format!("  tls: [{{ hosts: [foo.bar.com], secretName: conformance-tls }}]\n  rules:\n{rules}"));
    let weir = Start::new()
        .upstreams(REPLICAS)
        .file("services.yaml", services.clone())
        .file("secret.yaml", tls::secret("conformance-tls", &signed))
        .file("ingress.yaml", rules)
        .arg("--https-port")
        .arg("$PORT")
        .arg("--http-port")
        .arg("$PORT2")
        .run();
    no_findings(&weir);
    let plain = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    check(
        plain,
        served_by,
        &[
            ("GET foo.bar.com/", "host"),
            ("GET subdomain.bar.com/", "404"),
            ("GET bar.foo.com/", "wildcard"),
            ("GET baz.bar.foo.com/", "404"),
            ("GET foo.com/", "404"),
            ("GET exact-path-rules/foo", "foo-exact"),
            ("GET exact-path-rules/foo/", "404"),
            ("GET exact-path-rules/FOO", "404"),
            ("GET exact-path-rules/bar", "404"),
            ("GET prefix-path-rules/foo", "foo-prefix"),
            ("GET prefix-path-rules/foo/", "foo-prefix"),
            ("GET prefix-path-rules/FOO", "404"),
            ("GET prefix-path-rules/aaa/bbb", "bbb-prefix"),
            ("GET prefix-path-rules/aaa/bbb/ccc", "bbb-prefix"),
            ("GET prefix-path-rules/aaa/ccc", "aaa-prefix"),
            ("GET prefix-path-rules/aaaccc", "404"),
            ("GET mixed-path-rules/foo", "foo-exact"),
            ("GET trailing-slash-path-rules/aaa/bbb", "bbb-slash-prefix"),
            ("GET trailing-slash-path-rules/aaa/bbb/", "bbb-slash-prefix"),
            ("GET trailing-slash-path-rules/foo", "404"),
        ],
    );
    let mut c = Connection::open(plain).unwrap();
    assert_eq!(ask(&mut c, "GET bar.foo.com/").json()["host"], "bar.foo.com");
    let (mut secure, certificate) = tls::connect(&weir, "foo.bar.com", &signed.der).unwrap();
    assert_eq!(certificate, signed.der);
    let answer = secure.request("GET", "foo.bar.com", "/", &[], b"").unwrap();
    assert_eq!((served_by(&answer).as_str(), answer.json()["host"].as_str()), ("host", Some("foo.bar.com")));

    // Only a default backend: it takes every request.
    let all: Vec<usize> = (0..REPLICAS).collect();
    let backend = |name: &str| ingress(&format!("  defaultBackend: {{ service: {{ name: {name}, port: {{ number: 8080 }} }} }}\n"));
    weir.write("ingress.yaml", &(backend("default") + &service("replicas", &all)));
    let mut c = Connection::open(plain).unwrap();
    eventually("the default backend", || (served_by(&ask(&mut c, "GET subdomain.bar.com/")) == "default").then_some(()));
    for (method, host, path) in [
        ("GET", "my-host", "/"),
        ("GET", "my-host", "/sub-path"),
        ("POST", "some-host", "/"),
        ("PUT", "127.0.0.1", "/resource"),
        ("DELETE", "some-host", "/resource"),
        ("PATCH", "my-host", "/resource"),
    ] {
        let fields = [("user-agent", "Go-http-client/1.1")];
        let answer = c.request(method, host, path, &fields, b"").unwrap();
        let told = answer.json();
        assert_eq!(served_by(&answer), "default", "{method} {host}{path}");
        assert_eq!((told["method"].as_str(), told["path"].as_str()), (Some(method), Some(path)));
        assert_eq!((told["headers"]["user-agent"].as_str(), told["protocol"].as_str()), (Some(fields[0].1), Some("HTTP/1.1")), "{told}");
        // The suite asks for `server` as well, which Weir leaves to upstreams.
        for name in ["content-length", "content-type", "date"] {
            assert!(answer.header(name).is_some(), "{name}: {answer:?}");
        }
    }

    // Each of ten replicas gets some of 100 requests.
    weir.write("ingress.yaml", &(backend("replicas") + &service("replicas", &all)));
    let name = |answer: Answer| answer.json()["name"].as_str().unwrap_or_default().to_string();
    eventually("the other backend", || (name(ask(&mut c, "GET load-balancing/")) != "echo").then_some(()));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..100 {
        *seen.entry(name(ask(&mut c, "GET load-balancing/"))).or_default() += 1;
    }
    assert_eq!(seen.len(), REPLICAS, "{seen:?}");
}
