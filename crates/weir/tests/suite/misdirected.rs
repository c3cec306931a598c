//! Several listeners of a Gateway on one port of TLS: a request whose Host belongs to another listener than its connection is
//! asked to use another connection (421, RFC 9110 section 15.5.20).
use crate::{
    harness::{Start, TO_ECHO, Weir, eventually, runtime},
    tls_client::Client,
    yaml::holder,
};
use http::Request;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::sync::Arc;
use weir_test::{Ca, Signed};

/// Listeners of one Gateway on `$PORT2`: name, hostname, Secret; the hostnames of its route.
const LISTENERS: [(&str, &str, &str, &str); 4] = [
    ("any", "", "all", "hostnames: [first.test], "),
    ("second", "hostname: second.test, ", "all", ""),
    ("wild", "hostname: '*.w.test', ", "all", ""),
    ("fourth", "hostname: fourth.w.test, ", "other", ""),
];

/// A Gateway with some of the listeners, and a route of each.
fn listeners(names: &[&str]) -> String {
    let chosen = || LISTENERS.iter().filter(|l| names.contains(&l.0));
    let listeners = chosen().map(|(name, hostname, secret, _)| {
        format!("  - {{ name: {name}, port: $PORT2, protocol: HTTPS, {hostname}tls: {{ certificateRefs: [{{ name: {secret} }}] }} }}\n")
    });
    let routes = chosen().map(|(name, _, _, hostnames)| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name} }}\nspec: {{ parentRefs: [{{ name: tls, sectionName: {name} }}], {hostnames}rules: [{{ backendRefs: [{{ name: echo, port: 80 }}] }}] }}\n---\n"
        )
    });
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: tls }}\nspec:\n  gatewayClassName: weir\n  listeners:\n{}---\n{}",
        listeners.collect::<String>(),
        routes.collect::<String>()
    )
}

/// Server name, Host, status.
const TABLE: [(&str, &str, u16); 15] = [
    ("first.test", "first.test", 200),
    ("first.test", "FIRST.test:443", 200),
    ("first.test", "second.test", 421),
    ("first.test", "unknown.test", 404),
    ("second.test", "second.test", 200),
    ("second.test", "first.test", 421),
    ("second.test", "unknown.test", 421),
    ("third.w.test", "third.w.test", 200),
    ("third.w.test", "fifth.w.test", 200),
    ("third.w.test", "fourth.w.test", 421),
    ("third.w.test", "unknown.test", 421),
    ("fourth.w.test", "fourth.w.test", 200),
    ("fourth.w.test", "fifth.w.test", 421),
    ("unknown.test", "first.test", 200),
    ("unknown.test", "unknown.test", 404),
];

fn secrets(ca: &Ca) -> String {
    let names = ["first.test", "second.test", "unknown.test", "*.w.test", "only.test", "istio.test"];
    let own = |signed: &Signed, name: &str| holder("Secret", name, &[("tls.crt", &signed.pem), ("tls.key", &signed.key)]);
    own(&ca.sign(&names), "all") + &own(&ca.sign(&["fourth.w.test", "*.w.test"]), "other")
}

fn over_http1(weir: &Weir, trust: &str, sni: &str, host: &str) -> u16 {
    let client = Client { trust: Some(trust), ..Client::default() };
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    client.connect(to, sni).unwrap().0.request("GET", host, "/", &[], b"").unwrap().status
}

fn over_http2(weir: &Weir, trust: &str, sni: &str, host: &str) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trust.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    runtime().block_on(async {
        let io = tokio::net::TcpStream::connect(("127.0.0.1", weir.ports[1])).await.unwrap();
        let name = ServerName::try_from(sni.to_string()).unwrap();
        let io = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io).await.unwrap();
        let (client, connection) = h2::client::handshake::<_>(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("https://{host}/")).body(()).unwrap();
        client.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap().status().as_u16()
    })
}

#[test]
fn a_host_of_another_listener_is_misdirected() {
    let ca = Ca::new();
    let weir = Start::new().file("all.yaml", [&*secrets(&ca), &listeners(&["any", "second", "wild", "fourth"]), TO_ECHO].concat()).run();
    let trust = ca.pem();
    for (sni, host, status) in TABLE {
        assert_eq!(over_http1(&weir, &trust, sni, host), status, "HTTP/1: {sni} > {host}");
        assert_eq!(over_http2(&weir, &trust, sni, host), status, "HTTP/2: {sni} > {host}");
    }
    // Listeners come and go while connections live.
    weir.write("all.yaml", &[&*secrets(&ca), &listeners(&["any", "wild", "fourth"]), TO_ECHO].concat());
    eventually("the change", || (over_http1(&weir, &trust, "first.test", "second.test") == 404).then_some(()));
}

/// One listener alone, and Istio's servers, answer for the Host that is asked for.
#[test]
fn others_answer_by_the_host_alone() {
    let ca = Ca::new();
    let istio = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: istio }
spec:
  servers:
  - { port: { number: $PORT2, name: a, protocol: HTTPS }, hosts: [first.test], tls: { mode: SIMPLE, credentialName: all } }
  - { port: { number: $PORT2, name: b, protocol: HTTPS }, hosts: [second.test], tls: { mode: SIMPLE, credentialName: all } }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: v }
spec: { hosts: [first.test, second.test], gateways: [istio], http: [{ route: [{ destination: { host: echo, port: { number: 80 } } }] }] }
---
";
    for (name, yaml, host) in [("one listener", &*listeners(&["any"]), "first.test"), ("Istio", istio, "second.test")] {
        let weir = Start::new().file("all.yaml", format!("{}{yaml}{TO_ECHO}", secrets(&ca))).run();
        assert_eq!(over_http1(&weir, &ca.pem(), "first.test", host), 200, "{name}");
    }
}
