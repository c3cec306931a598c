//! Ingress: paths, hosts, default backends, classes.
use super::{came_to, check, services};
use crate::{
    harness::{Start, eventually},
    tls,
};
use weir_test::{Signed, self_signed};

fn ingress(name: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{ name: {name}{metadata} }}\nspec:\n{spec}")
}

fn path(kind: &str, path: &str, service: &str) -> String {
    format!("      - {{ pathType: {kind}, path: '{path}', backend: {{ service: {{ name: {service}, port: {{ number: 80 }} }} }} }}\n")
}

fn rule(host: &str, paths: &[String]) -> String {
    let host = if host.is_empty() { String::new() } else { format!("host: '{host}', ") };
    format!("  - {{ {host}http: {{ paths: [\n{}    ] }} }}\n", paths.concat().replace("      - ", "      ").replace("}\n", "},\n"))
}

#[test]
fn the_longest_path_wins_and_exact_ones_before_it() {
    let rules = [
        rule(
            "a.test",
            &[
                path("Prefix", "/", "echo"),
                path("Prefix", "/a", "echo2"),
                path("Prefix", "/a/b/", "echo3"),
                path("Exact", "/a/b", "echo4"),
                path("ImplementationSpecific", "/i", "echo5"),
                path("Exact", "/slash/", "echo2"),
            ],
        ),
        rule("*.wild.test", &[path("Prefix", "/", "echo2")]),
        rule("one.wild.test", &[path("Prefix", "/only", "echo3")]),
        rule("", &[path("Prefix", "/any", "echo4")]),
    ];
    let all = [
        services("default", 5),
        ingress("rules", "", &format!("  ingressClassName: weir\n  rules:\n{}", rules.concat())),
        // The port by its name.
        "---\n{ apiVersion: v1, kind: Service, metadata: { name: named }, spec: { ports: [{ name: web, port: 8000 }, { name: admin, port: 8001 }] } }\n---\n{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: { name: named, labels: { kubernetes.io/service-name: named } }, addressType: IPv4, ports: [{ name: admin, port: 1 }, { name: web, port: $ECHO5 }], endpoints: [{ addresses: [127.0.0.1] }] }\n".into(),
        ingress(
            "named",
            "",
            "  rules: [{ host: named.test, http: { paths: [{ pathType: Prefix, path: /, backend: { service: { name: named, port: { name: web } } } }] } }]\n",
        ),
        // Of equals the older object.
        ingress("younger", ", creationTimestamp: '2025-01-01T00:00:00Z'", &format!("  rules:\n{}", rule("age.test", &[path("Prefix", "/", "echo")]))),
        ingress("zz-older", ", creationTimestamp: '2024-01-01T00:00:00Z'", &format!("  rules:\n{}", rule("age.test", &[path("Prefix", "/", "echo2")]))),
        ingress("missing", "", &format!("  rules:\n{}", rule("missing.test", &[path("Prefix", "/", "nothing")]))),
    ];
    let weir = Start::new().upstreams(5).file("all.yaml", all.concat()).arg("--http-port").arg("$PORT").run();
    check(
        weir.address(),
        came_to,
        &[
            ("GET a.test/", "echo"),
            ("GET a.test:80/x", "echo"),
            ("GET a.test/ab", "echo"),
            ("GET a.test/a", "echo2"),
            ("GET a.test/a/", "echo2"),
            ("GET a.test/a/bc", "echo2"),
            ("GET a.test/a/b", "echo4"),
            ("GET a.test/a/b/", "echo3"),
            ("GET a.test/a/b/c?x", "echo3"),
            ("GET a.test/i/x", "echo5"),
            ("GET a.test/slash/", "echo2"),
            ("GET a.test/slash", "echo"),
            ("GET a.test/any", "echo"),
            ("GET b.wild.test/x", "echo2"),
            // A wildcard is one label.
            ("GET c.b.wild.test/x", "404"),
            ("GET wild.test/x", "404"),
            ("GET one.wild.test/only/x", "echo3"),
            // What no path of an exact host takes goes to the wildcard.
            ("GET one.wild.test/x", "echo2"),
            ("GET other.test/any/x", "echo4"),
            ("GET other.test/x", "404"),
            ("GET named.test/", "echo5"),
            ("GET age.test/", "echo2"),
            ("GET missing.test/", "503"),
        ],
    );
}

#[test]
fn default_backends_take_what_is_left() {
    let backend = |name: &str| format!("  defaultBackend: {{ service: {{ name: {name}, port: {{ number: 80 }} }} }}\n");
    let all = [
        services("default", 3),
        ingress("both", "", &format!("{}  rules:\n{}", backend("echo3"), rule("a.test", &[path("Prefix", "/a", "echo")]))),
    ];
    let weir = Start::new().upstreams(3).file("all.yaml", all.concat()).arg("--http-port").arg("$PORT").run();
    super::no_findings(&weir);
    check(
        weir.address(),
        came_to,
        &[("GET a.test/a", "echo"), ("GET a.test/b", "echo3"), ("GET b.test/a", "echo3"), ("GET 10.0.0.1/", "echo3")],
    );
}

#[test]
fn classes_decide_whose_an_ingress_is() {
    let host = |name: &str| format!("  rules:\n{}", rule(&format!("{name}.test"), &[path("Prefix", "/", "echo")]));
    let class = |name: &str, controller: &str, annotations: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{ name: {name}{annotations} }}\nspec: {{ controller: {controller} }}\n"
        )
    };
    let all = [
        services("default", 1),
        class("mine", "weir.dev/ingress-controller", ""),
        class("nginx", "k8s.io/ingress-nginx", ""),
        ingress("mine", "", &format!("  ingressClassName: mine\n{}", host("mine"))),
        ingress("weir", "", &format!("  ingressClassName: weir\n{}", host("weir"))),
        ingress("old", ", annotations: { kubernetes.io/ingress.class: weir }", &host("old")),
        ingress("nginx", "", &format!("  ingressClassName: nginx\n{}", host("nginx"))),
        ingress("unknown", "", &format!("  ingressClassName: unknown\n{}", host("unknown"))),
        ingress("none", "", &host("none")),
    ];
    let weir = Start::new().file("all.yaml", all.concat()).arg("--http-port").arg("$PORT").run();
    let table = |none: &'static str| {
        [
            ("GET mine.test/", "echo"),
            ("GET weir.test/", "echo"),
            ("GET old.test/", "echo"),
            ("GET nginx.test/", "404"),
            // No object gives this class to another controller.
            ("GET unknown.test/", "echo"),
            ("GET none.test/", none),
        ]
    };
    check(weir.address(), came_to, &table("echo"));
    // Another controller's class becomes the default: what names no class is no longer Weir's.
    let annotated = class("nginx", "k8s.io/ingress-nginx", ", annotations: { ingressclass.kubernetes.io/is-default-class: 'true' }");
    weir.write("all.yaml", &all.concat().replace(&class("nginx", "k8s.io/ingress-nginx", ""), &annotated));
    eventually("the end of the route", || (weir.get("none.test", "/").status == 404).then_some(()));
    check(weir.address(), came_to, &table("404"));
}

#[test]
fn hosts_with_a_certificate_are_served_over_tls_too() {
    let (a, wild) = (self_signed(&["a.test"]), self_signed(&["*.w.test"]));
    let host = |name: &str, tls: &str, service: &str| {
        ingress(&name.replace(['*', '.'], "x"), "", &format!("{tls}  rules:\n{}", rule(name, &[path("Prefix", "/", service)])))
    };
    let all = [
        services("default", 3),
        host("a.test", "  tls: [{ hosts: [a.test], secretName: a }]\n", "echo"),
        // The certificate of one Ingress serves the hosts of others that it is for.
        host("one.w.test", "", "echo2"),
        host("*.w.test", "  tls: [{ hosts: ['*.w.test'], secretName: w }]\n", "echo3"),
        host("plain.test", "", "echo"),
        host("lost.test", "  tls: [{ hosts: [lost.test], secretName: nowhere }]\n", "echo"),
    ];
    let weir = Start::new()
        .upstreams(3)
        .file("all.yaml", all.concat())
        .file("a.yaml", tls::secret("a", &a))
        .file("w.yaml", tls::secret("w", &wild))
        .arg("--https-port")
        .arg("$PORT")
        .arg("--http-port")
        .arg("$PORT2")
        .run();
    let secure = |name: &str, trust: &Signed| {
        let (mut c, _) = tls::connect(&weir, name, &trust.der).ok()?;
        Some(came_to(&c.request("GET", name, "/", &[], b"").unwrap()))
    };
    assert_eq!(secure("a.test", &a).as_deref(), Some("echo"));
    assert_eq!(secure("one.w.test", &wild).as_deref(), Some("echo2"));
    assert_eq!(secure("two.w.test", &wild).as_deref(), Some("echo3"));
    assert_eq!(secure("plain.test", &a), None);
    assert_eq!(secure("lost.test", &a), None);
    let plain = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    check(
        plain,
        came_to,
        &[("GET a.test/", "echo"), ("GET one.w.test/", "echo2"), ("GET plain.test/", "echo"), ("GET lost.test/", "echo")],
    );
    weir.says("there is no Secret default/nowhere");
    // The certificate comes, and the host is served.
    let lost = self_signed(&["lost.test"]);
    weir.write("nowhere.yaml", &tls::secret("nowhere", &lost));
    eventually("the certificate", || (secure("lost.test", &lost).as_deref() == Some("echo")).then_some(()));
}
