//! Annotations about connections: TLS with clients, and what holds for all who lead to a Service.
use super::{PREFIXES, ROOT, came_to, check, ingress, no_findings, start};
use crate::{harness::eventually, tls_client::Client, yaml::holder};
use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::aws_lc_rs::cipher_suite::{TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
    version::{TLS12, TLS13},
};
use std::net::{SocketAddr, TcpListener};
use weir_test::Ca;

/// By Ingress objects of the Services, for all who lead there.
#[test]
fn services_are_spoken_to_as_said() {
    let mut all = String::new();
    for (i, (short, prefix)) in PREFIXES.into_iter().enumerate() {
        let name = |n: usize| format!("Prefix /{n} echo{}", 2 + i * 3 + n);
        let of = |n: usize, annotations: &str| ingress(&format!("{short}-{n}"), &format!("{short}.test"), prefix, annotations, &[&name(n)]);
        all += &of(0, "backend-protocol: grpc");
        all += &of(1, "affinity: cookie\nsession-cookie-name: sticky\nsession-cookie-max-age: 60");
        all += &of(2, "affinity: cookie\nsession-cookie-expires: 90\nsession-cookie-path: /2/shop");
    }
    let weir = start(7, &all).run();
    no_findings(&weir);
    for (short, _) in PREFIXES {
        let host = format!("{short}.test");
        assert_eq!(weir.get(&host, "/0").json()["protocol"], "HTTP/2.0");
        for (path, parts) in [("/1", ["sticky=", "Max-Age=60", "Path=/"]), ("/2", ["INGRESSCOOKIE=", "Max-Age=90", "Path=/2/shop"])] {
            let cookie = weir.get(&host, path).header("set-cookie").unwrap().to_string();
            let mut found = cookie.split("; ");
            assert!(found.next().unwrap().starts_with(parts[0]), "{cookie}");
            let found: Vec<&str> = found.collect();
            assert!(parts[1..].iter().all(|part| found.contains(part)), "{cookie}");
        }
    }
    let policies = [
        ("load-balance: round_robin", "ROUND_ROBIN", ""),
        ("upstream-hash-by: $remote_addr", "RING_HASH", "source_ip"),
        ("upstream-hash-by: $http_x_user", "RING_HASH", "x-user"),
        ("upstream-hash-by: $arg_user", "RING_HASH", "query_parameter"),
    ];
    for (annotation, policy, hash) in policies {
        weir.write("more.yaml", &ingress("more", "a.test", "higress.io", annotation, ROOT));
        eventually(annotation, || {
            let dump = weir.admin("/config_dump").body;
            (dump.contains(policy) && dump.contains(hash)).then_some(())
        });
    }
}

/// A backend that accepts connections and never answers a TLS handshake: the connection is not made in time, long before the request
/// would be too late.
#[test]
fn a_connection_that_is_not_made_in_time_fails() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let to_silent = |name: &str, prefix: &str, timeout: &str| {
        let annotations = format!("backend-protocol: HTTPS\nproxy-next-upstream: off\ntimeout: 4{timeout}");
        format!(
            "---\n{{ apiVersion: v1, kind: Service, metadata: {{ name: {name} }}, spec: {{ ports: [{{ port: 80 }}] }} }}\n---\n\
             {{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{ name: {name}, labels: {{ kubernetes.io/service-name: {name} }} }}, \
             addressType: IPv4, ports: [{{ port: {port} }}], endpoints: [{{ addresses: [127.0.0.1] }}] }}\n"
        ) + &ingress(name, &format!("{name}.test"), prefix, &annotations, &[&format!("Prefix / {name}")])
    };
    let all = PREFIXES.map(|(short, prefix)| to_silent(short, prefix, "\nproxy-connect-timeout: 1")).concat();
    let weir = start(1, &(all + &to_silent("without", PREFIXES[0].1, ""))).run();
    for (short, _) in PREFIXES {
        assert_eq!(weir.get(&format!("{short}.test"), "/").status, 503, "{short}");
        let stat = format!("cluster.outbound|80||{short}.default.svc.cluster.local.upstream_cx_connect_timeout");
        eventually(&stat, || (weir.stat(&stat) == 1).then_some(()));
    }
    // Without the annotation the timeout of the request comes first.
    assert_eq!(weir.get("without.test", "/").status, 504);
}

/// What a client offers in its handshake, and whether it gets through.
#[test]
fn versions_and_cipher_suites_of_a_host_are_kept_to() {
    const AES_128: &[SupportedCipherSuite] = &[TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    const AES_256: &[SupportedCipherSuite] = &[TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384];
    type Offer = (Option<&'static [&'static SupportedProtocolVersion]>, Option<&'static [SupportedCipherSuite]>);
    const V2: Offer = (Some(&[&TLS12]), None);
    const V3: Offer = (Some(&[&TLS13]), None);
    const V2_AES_128: Offer = (Some(&[&TLS12]), Some(AES_128));
    const V2_AES_256: Offer = (Some(&[&TLS12]), Some(AES_256));
    let hosts = [
        ("any", "timeout: 5", &[(V2, true), (V3, true), (V2_AES_128, true), (V2_AES_256, true)][..]),
        ("max", "tls-max-protocol-version: TLSv1.2", &[(V2, true), (V3, false)]),
        ("min", "tls-min-protocol-version: TLSv1.3", &[(V2, false), (V3, true)]),
        ("suite", "ssl-cipher: ECDHE-ECDSA-AES128-GCM-SHA256", &[(V2_AES_128, true), (V2_AES_256, false)]),
        ("suites", "ssl-ciphers: ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256", &[(V2_AES_128, false), (V2_AES_256, true)]),
    ];
    let ca = Ca::new();
    let mut all = String::new();
    let mut names = Vec::new();
    for (short, prefix) in PREFIXES {
        for (name, annotations, _) in hosts {
            let host = format!("{name}.{short}.test");
            all += &ingress(&format!("{short}-{name}"), &host, prefix, annotations, ROOT)
                .replace("spec:\n", &format!("spec:\n  tls: [{{ hosts: [{host}], secretName: own }}]\n"));
            names.push(host);
        }
    }
    let own = ca.sign(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let secret = holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)]);
    let weir = start(1, &all).file("secret.yaml", secret).arg("--https-port").arg("$PORT2").run();
    no_findings(&weir);
    let (https, pem) = (SocketAddr::from(([127, 0, 0, 1], weir.ports[1])), ca.pem());
    for (short, _) in PREFIXES {
        for (name, annotations, offers) in hosts {
            let host = format!("{name}.{short}.test");
            for ((versions, suites), wanted) in offers {
                let client = Client { trust: Some(&pem), versions: *versions, suites: *suites, ..Client::default() };
                let got = client.ask(https, &host, &[]).map(|answer| came_to(&answer));
                assert_eq!(got.as_deref().ok(), wanted.then_some("echo"), "{host}, {annotations}, {versions:?} {suites:?}: {got:?}");
            }
        }
    }
}

#[test]
fn clients_show_a_certificate_where_it_is_asked_for() {
    let (ca, other) = (Ca::new(), Ca::new());
    let own = ca.sign(&["a.test", "b.test", "c.test", "d.test"]);
    let (known, stranger) = (ca.sign(&["client.test"]), other.sign(&["client.test"]));
    let of_host = |name: &str, host: &str, annotations: &str, path: &str| {
        ingress(name, host, "nginx.ingress.kubernetes.io", annotations, &[path])
            .replace("spec:\n", &format!("spec:\n  tls: [{{ hosts: [{host}], secretName: own }}]\n"))
    };
    let host = |name: &str, annotations: &str| of_host(name, &format!("{name}.test"), annotations, "Prefix / echo");
    let all = [
        host("a", "auth-tls-secret: default/ca"),
        host("b", "ssl-cipher: ECDHE-ECDSA-AES128-GCM-SHA256\ntls-min-protocol-version: TLSv1.2"),
        // Each setting counts by itself.
        host("c", "tls-min-protocol-version: TLSv1.3"),
        of_host("c-client", "c.test", "auth-tls-secret: default/ca\ntls-min-protocol-version: TLSv1.2", "Prefix /more echo2"),
        // Another Ingress of the host, without the annotation, opens no other way in.
        ingress("second", "a.test", "higress.io", "timeout: 5", &["Prefix /second echo2"]),
    ];
    let secrets =
        [holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)]), holder("Secret", "ca", &[("ca.crt", &ca.pem())])];
    let weir = start(2, &all.concat()).file("secrets.yaml", secrets.concat()).arg("--https-port").arg("$PORT2").run();
    no_findings(&weir);
    let https = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    let pem = ca.pem();
    let ask = |name: &str, path: &str, identity| {
        let mut c = Client { trust: Some(&pem), identity, ..Client::default() }.connect(https, name).ok()?.0;
        Some(came_to(&c.request("GET", name, path, &[], b"").ok()?))
    };
    assert_eq!(ask("a.test", "/", Some(&known)).as_deref(), Some("echo"));
    assert_eq!(ask("a.test", "/second", Some(&known)).as_deref(), Some("echo2"));
    assert_eq!(ask("a.test", "/", None), None);
    assert_eq!(ask("a.test", "/", Some(&stranger)), None);
    assert_eq!(ask("b.test", "/", None).as_deref(), Some("echo"));
    // Plain HTTP is no other way in, and neither is a connection for another host.
    let to = |path: &str| format!("308 https://a.test:{}{path}", weir.ports[1]);
    check(weir.address(), came_to, &[("GET a.test/", &to("/")), ("GET a.test/second", &to("/second")), ("GET b.test/", "echo")]);
    let mut c = Client { trust: Some(&pem), ..Client::default() }.connect(https, "b.test").unwrap().0;
    let answer = c.request("GET", "a.test", "/", &[], b"").unwrap();
    assert!([404, 421].contains(&answer.status), "{answer:?}");
    assert_eq!(ask("c.test", "/more", Some(&known)).as_deref(), Some("echo2"));
    assert_eq!(ask("c.test", "/", None), None);
    // Of two that say how clients are verified the oldest counts, and is named.
    let optional = host("d", "auth-tls-secret: default/ca\nauth-tls-verify-client: optional");
    weir.write("d.yaml", &(optional + &of_host("d-client", "d.test", "auth-tls-secret: default/ca", "Prefix /more echo2")));
    weir.says("Ingress/default/d is older and makes certificates optional for d.test: requests are answered with 503");
    weir.get_until("d.test", "/", |a| a.status == 200);
    assert_eq!(weir.get("d.test", "/more").status, 503);
    weir.write(
        "d.yaml",
        &(host("d", "auth-tls-secret: default/ca") + &of_host("d-client", "d.test", "auth-tls-secret: default/own", ROOT[0])),
    );
    weir.says("has no effect for d.test: Ingress/default/d is older and says how its clients are verified");
}
