//! Certificates: chosen by server name, changed under open connections; TLS towards upstreams.
use crate::{
    client::{Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually, runtime},
};
use rcgen::{CertifiedKey, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use std::{io, net::TcpStream, sync::Arc};
use weir::echo;

/// A self-signed certificate.
pub fn certificate(names: &[&str]) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}\n")).collect()
}

pub fn secret(name: &str, made: &CertifiedKey<KeyPair>) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(&made.cert.pem()),
        indented(&made.signing_key.serialize_pem())
    )
}

/// Listeners for a.test and *.b.test on one port.
const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gateway }
spec:
  gatewayClassName: weir
  listeners:
  - { name: a, port: $PORT, protocol: HTTPS, hostname: a.test, tls: { certificateRefs: [{ name: a }] } }
  - { name: b, port: $PORT, protocol: HTTPS, hostname: '*.b.test', tls: { certificateRefs: [{ name: b }] } }
";

pub type Tls = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// A connection that trusts exactly one certificate; the leaf that was served.
pub fn connect(weir: &Weir, name: &str, trust: &CertificateDer<'static>) -> io::Result<(Tls, CertificateDer<'static>)> {
    let mut roots = RootCertStore::empty();
    roots.add(trust.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_string()).unwrap()).map_err(io::Error::other)?;
    let mut io = TcpStream::connect(weir.address())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut io)?;
    }
    let leaf = tls.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((Connection::over(StreamOwned::new(tls, io)), leaf))
}

fn get(c: &mut Tls, host: &str) -> Answer {
    c.request("GET", host, "/", &[], b"").unwrap()
}

#[test]
fn certificates_are_chosen_by_name_and_changed_under_open_connections() {
    let (a, b) = (certificate(&["a.test"]), certificate(&["*.b.test"]));
    let backend = TO_ECHO.split_once("---\n").unwrap().1;
    let weir = Start::new()
        .file("gateway.yaml", GATEWAY)
        .file("rest.yaml", backend)
        .file("a.yaml", secret("a", &a))
        .file("b.yaml", secret("b", &b))
        .run();
    let (mut open, leaf) = connect(&weir, "a.test", a.cert.der()).unwrap();
    assert_eq!(&leaf, a.cert.der());
    assert_eq!(get(&mut open, "a.test").json()["headers"]["x-forwarded-proto"], "https");
    let (_, leaf) = connect(&weir, "x.b.test", b.cert.der()).unwrap();
    assert_eq!(&leaf, b.cert.der());
    assert!(connect(&weir, "x.b.test", a.cert.der()).is_err());

    let renewed = certificate(&["a.test"]);
    weir.write("a.yaml", &secret("a", &renewed));
    eventually("the new certificate", || connect(&weir, "a.test", renewed.cert.der()).ok());
    assert_eq!(get(&mut open, "a.test").status, 200, "the open connection was touched");

    // A certificate that is none is refused with its name; the last good one keeps serving.
    let broken = secret("a", &renewed).replace("BEGIN CERTIFICATE", "BEGIN NOTHING");
    weir.write("a.yaml", &broken);
    eventually("a word about the bad certificate", || {
        weir.lines("Secret/default/a").first().cloned().or(weir.lines("a.yaml").first().cloned())
    });
    assert!(connect(&weir, "a.test", renewed.cert.der()).is_ok());
}

#[test]
fn many_certificates_on_one_port() {
    let mut files = Vec::new();
    let mut listeners = String::new();
    let made: Vec<_> = (0..60).map(|i| certificate(&[&format!("h{i}.test")])).collect();
    for (i, c) in made.iter().enumerate() {
        listeners += &format!(
            "  - {{ name: l{i}, port: $PORT, protocol: HTTPS, hostname: h{i}.test, tls: {{ certificateRefs: [{{ name: c{i} }}] }} }}\n"
        );
        files.push(secret(&format!("c{i}"), c));
    }
    let gateway = GATEWAY.split_once("  - ").unwrap().0.to_string() + &listeners;
    let weir = Start::new()
        .file("gateway.yaml", gateway)
        .file("secrets.yaml", files.join("---\n"))
        .file("rest.yaml", TO_ECHO.split_once("---\n").unwrap().1)
        .run();
    for (i, c) in made.iter().enumerate() {
        let name = format!("h{i}.test");
        let (mut connection, leaf) = connect(&weir, &name, c.cert.der()).unwrap();
        assert_eq!(&leaf, c.cert.der());
        assert_eq!(get(&mut connection, &name).status, 200);
    }
}

#[test]
fn upstream_certificates_are_verified() {
    let made = certificate(&["good.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key, ca) = (folder.path().join("c.pem"), folder.path().join("k.pem"), folder.path().join("ca.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let upstream = runtime()
        .block_on(echo::Server::start(echo::Options { name: "tls".into(), tls: Some((chain, key)), ..echo::Options::default() }))
        .unwrap();
    let objects = |sni: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers: [{{ port: {{ number: $PORT, name: http, protocol: HTTP }}, hosts: ['*'] }}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  http: [{{ route: [{{ destination: {{ host: up.test, port: {{ number: 443 }} }} }}] }}]\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: up }}\nspec:\n  hosts: [up.test]\n  ports: [{{ number: 443, name: https, protocol: HTTPS }}]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1, ports: {{ https: {} }} }}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: up }}\nspec:\n  host: up.test\n  trafficPolicy: {{ tls: {{ mode: SIMPLE, sni: {sni}, caCertificates: {} }} }}\n",
            upstream.address().port(),
            ca.display()
        )
    };
    let weir = Start::new().file("all.yaml", objects("good.test")).run();
    let answer = weir.get("h", "/");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["name"], "tls");
    weir.write("all.yaml", &objects("other.test"));
    let refused = weir.get_until("h", "/", |a| a.status != 200);
    assert_eq!(refused.status, 503, "{refused:?}");
}
