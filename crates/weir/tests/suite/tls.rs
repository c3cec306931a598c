//! Certificates: chosen by server name, changed under open connections; TLS towards upstreams.
use crate::{
    client::Answer,
    harness::{Start, Weir, eventually, runtime},
    tls_client::{Client, Tls},
    yaml::{Service, ToEcho, holder, indented},
};
use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::{io, net::SocketAddr};
use weir::echo;
use weir_test::{Ca, Signed, self_signed};

pub fn secret(name: &str, made: &Signed) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(&made.pem),
        indented(&made.key)
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

/// A connection that trusts exactly one certificate; the leaf that was served.
pub fn connect(weir: &Weir, name: &str, trust: &CertificateDer<'static>) -> io::Result<(Tls, CertificateDer<'static>)> {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(trust));
    Client { trust: Some(&pem), ..Client::default() }.connect(weir.address(), name)
}

fn get(c: &mut Tls, host: &str) -> Answer {
    c.request("GET", host, "/", &[], b"").unwrap()
}

#[test]
fn certificates_are_chosen_by_name_and_changed_under_open_connections() {
    let (a, b) = (self_signed(&["a.test"]), self_signed(&["*.b.test"]));
    let weir = Start::new()
        .file("gateway.yaml", GATEWAY)
        .file("rest.yaml", ToEcho::new().backend())
        .file("a.yaml", secret("a", &a))
        .file("b.yaml", secret("b", &b))
        .run();
    let (mut open, leaf) = connect(&weir, "a.test", &a.der).unwrap();
    assert_eq!(leaf, a.der);
    assert_eq!(get(&mut open, "a.test").json()["headers"]["x-forwarded-proto"], "https");
    let (_, leaf) = connect(&weir, "x.b.test", &b.der).unwrap();
    assert_eq!(leaf, b.der);
    assert!(connect(&weir, "x.b.test", &a.der).is_err());

    let renewed = self_signed(&["a.test"]);
    weir.write("a.yaml", &secret("a", &renewed));
    eventually("the new certificate", || connect(&weir, "a.test", &renewed.der).ok());
    assert_eq!(get(&mut open, "a.test").status, 200, "the open connection was touched");

    // A certificate that is none is refused with its name; the last good one keeps serving.
    let broken = secret("a", &renewed).replace("BEGIN CERTIFICATE", "BEGIN NOTHING");
    weir.write("a.yaml", &broken);
    eventually("a word about the bad certificate", || {
        weir.lines("Secret/default/a").first().cloned().or(weir.lines("a.yaml").first().cloned())
    });
    assert!(connect(&weir, "a.test", &renewed.der).is_ok());
}

#[test]
fn many_certificates_on_one_port() {
    let mut files = Vec::new();
    let mut listeners = String::new();
    let made: Vec<_> = (0..60).map(|i| self_signed(&[&format!("h{i}.test")])).collect();
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
        .file("rest.yaml", ToEcho::new().backend())
        .run();
    for (i, c) in made.iter().enumerate() {
        let name = format!("h{i}.test");
        let (mut connection, leaf) = connect(&weir, &name, &c.der).unwrap();
        assert_eq!(leaf, c.der);
        assert_eq!(get(&mut connection, &name).status, 200);
    }
}

#[test]
fn upstream_certificates_are_verified() {
    let made = self_signed(&["good.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (chain, key, ca) = (folder.path().join("c.pem"), folder.path().join("k.pem"), folder.path().join("ca.pem"));
    std::fs::write(&chain, &made.pem).unwrap();
    std::fs::write(&ca, &made.pem).unwrap();
    std::fs::write(&key, &made.key).unwrap();
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

/// An Istio Gateway with these servers on `$PORT`, and every request to them to the echo upstream.
pub fn istio(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers:\n{servers}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  http: [{{ route: [{{ destination: {{ host: echo, port: {{ number: 80 }} }} }}] }}]\n---\n{}",
        Service::new("echo", "$ECHO").text()
    )
}

/// What one certificate is for.
const HOSTS: &[&str] = &[
    "mutual.test",
    "cacert.test",
    "named.test",
    "optional.test",
    "san.test",
    "hash.test",
    "spki.test",
    "simple.test",
    "default.test",
    "insecure.test",
    "open.test",
    "older.test",
    "any.test",
    "new.test",
    "old.test",
    "suite.test",
];

pub fn server(host: &str, tls: &str) -> String {
    format!("  - {{ port: {{ number: $PORT, name: p, protocol: HTTPS }}, hosts: [{host}], tls: {{ {tls} }} }}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn client_certificates_are_asked_for_and_told_to_upstreams() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let own = ca.sign(HOSTS);
    let (good, other) = (ca.sign_uri(&["client.test"], "spiffe://mesh/ns/a/sa/b"), ca.sign(&["other.test"]));
    let foreign = stranger.sign(&["client.test"]);
    let digest = hex(&Sha256::digest(&good.der));
    let colons: Vec<&str> = (0..32).map(|i| &digest[2 * i..2 * i + 2]).collect();
    let key = STANDARD.encode(weir_net::tls::Certificate::from_pem(&good.pem, &good.key).unwrap().details.key_digest);
    let servers = [
        server("mutual.test", "mode: MUTUAL, credentialName: both"),
        server("cacert.test", "mode: MUTUAL, credentialName: only"),
        server("named.test", "mode: MUTUAL, credentialName: own, caCertCredentialName: both"),
        server("optional.test", "mode: OPTIONAL_MUTUAL, credentialName: both"),
        server("san.test", "mode: MUTUAL, credentialName: both, subjectAltNames: ['spiffe://mesh/ns/a/sa/b']"),
        server("hash.test", &format!("mode: MUTUAL, credentialName: both, verifyCertificateHash: ['{}']", colons.join(":").to_uppercase())),
        server("spki.test", &format!("mode: MUTUAL, credentialName: both, verifyCertificateSpki: ['{key}']")),
        server("simple.test", "mode: SIMPLE, credentialName: own"),
    ];
    let pair = [("tls.crt", &*own.pem), ("tls.key", &*own.key)];
    let secrets = [
        holder("Secret", "own", &pair),
        holder("Secret", "only", &pair),
        holder("Secret", "only-cacert", &[("ca.crt", &ca.pem())]),
        holder("Secret", "both", &[pair[0], pair[1], ("ca.crt", &ca.pem())]),
    ];
    let weir = Start::new().file("gateway.yaml", istio(&servers.concat())).file("secrets.yaml", secrets.concat()).run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    // Which of nobody, the good one, the other and the foreign one get in.
    for (host, lets_in) in [
        ("mutual.test", [false, true, true, false]),
        ("cacert.test", [false, true, true, false]),
        ("named.test", [false, true, true, false]),
        ("optional.test", [true, true, true, false]),
        ("san.test", [false, true, false, false]),
        ("hash.test", [false, true, false, false]),
        ("spki.test", [false, true, false, false]),
        ("simple.test", [true, true, true, true]),
    ] {
        for (identity, expect) in [None, Some(&good), Some(&other), Some(&foreign)].into_iter().zip(lets_in) {
            let pem = ca.pem();
            let client = Client { trust: Some(&pem), identity, ..Client::default() };
            let who = identity.map(|i| i.der.len());
            let got = client.ask(weir.address(), host, &[("x-forwarded-client-cert", "Hash=forged")]);
            assert_eq!(got.is_ok(), expect, "{host} for {who:?}: {got:?}");
            let Ok(answer) = got else { continue };
            let told = answer.json()["headers"].get("x-forwarded-client-cert").map(|v| v.as_str().unwrap().to_string());
            match identity.filter(|_| host != "simple.test") {
                None => assert_eq!(told, None, "{host}: a forged certificate is believed"),
                Some(own) => {
                    let begin = format!("Hash={};Cert=\"-----BEGIN%20CERTIFICATE-----%0A", hex(&Sha256::digest(&own.der)));
                    assert!(told.as_ref().is_some_and(|t| t.starts_with(&begin)), "{host}: {told:?}");
                }
            }
        }
    }
    let pem = ca.pem();
    let client = Client { trust: Some(&pem), identity: Some(&good), ..Client::default() };
    let answer = client.ask(weir.address(), "mutual.test", &[]).unwrap().json();
    let told = answer["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    assert!(told.ends_with(";Subject=\"O=Weir,CN=client.test\";URI=spiffe://mesh/ns/a/sa/b;DNS=client.test"), "{told}");
    // A connection that was let in for one host does not reach the routes of another.
    let (mut c, _) = Client { trust: Some(&pem), ..Client::default() }.connect(weir.address(), "simple.test").unwrap();
    assert_eq!(c.request("GET", "simple.test", "/", &[], b"").unwrap().status, 200);
    assert_eq!(c.request("GET", "mutual.test", "/", &[], b"").unwrap().status, 404, "past the client's certificate");
}

#[test]
fn clients_are_validated_by_gateway_api_in_each_of_its_forms() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let own = ca.sign(HOSTS);
    let (good, foreign) = (ca.sign(&["client.test"]), stranger.sign(&["client.test"]));
    let listener = |name: &str, port: &str, more: &str| {
        format!(
            "  - {{ name: {name}, port: {port}, protocol: HTTPS, hostname: {name}.test, tls: {{ certificateRefs: [{{ name: own }}]{more} }} }}\n"
        )
    };
    let validation = |more: &str| format!("{{ caCertificateRefs: [{{ kind: ConfigMap, name: ca }}]{more} }}");
    let frontend = format!(
        "  tls:\n    frontend:\n      default: {{ validation: {} }}\n      perPort: [{{ port: $PORT2, tls: {{ validation: {} }} }}, {{ port: $PORT3, tls: {{}} }}]\n",
        validation(""),
        validation(", mode: AllowInsecureFallback")
    );
    let gateway = [
        GATEWAY.split_once("  - ").unwrap().0,
        &listener("default", "$PORT", ""),
        &listener("insecure", "$PORT2", ""),
        &listener("open", "$PORT3", ""),
        &listener("older", "$PORT3", &format!(", frontendValidation: {}", validation(""))),
        &frontend,
    ]
    .concat();
    let holders =
        [holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)]), holder("ConfigMap", "ca", &[("ca.crt", &ca.pem())])];
    let weir =
        Start::new().file("gateway.yaml", gateway).file("rest.yaml", ToEcho::new().backend()).file("holders.yaml", holders.concat()).run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    let pem = ca.pem();
    for (host, port, lets_in, tells) in [
        ("default.test", 0, [false, true, false], true),
        ("insecure.test", 1, [true, true, true], true),
        ("open.test", 2, [true, true, true], false),
        ("older.test", 2, [false, true, false], true),
    ] {
        for (identity, expect) in [None, Some(&good), Some(&foreign)].into_iter().zip(lets_in) {
            let to = SocketAddr::from(([127, 0, 0, 1], weir.ports[port]));
            let got = Client { trust: Some(&pem), identity, ..Client::default() }.ask(to, host, &[]);
            assert_eq!(got.is_ok(), expect, "{host}: {got:?}");
            let Ok(answer) = got else { continue };
            assert_eq!(answer.status, 200, "{host}: {answer:?}");
            let verified = identity.is_some_and(|i| i.der == good.der);
            let told = answer.json()["headers"].get("x-forwarded-client-cert").is_some();
            assert_eq!(told, tells && verified, "{host}: only what was verified is told");
        }
    }
    // Without the authority nobody is let in, and the reason is said.
    weir.write("holders.yaml", &holders[0]);
    eventually("the listener to close", || {
        Client { trust: Some(&pem), identity: Some(&good), ..Client::default() }
            .ask(weir.address(), "default.test", &[])
            .is_err()
            .then_some(())
    });
    eventually("a word about it", || weir.lines("there is no ConfigMap default/ca").first().cloned());
}

#[test]
fn versions_and_cipher_suites_are_as_configured() {
    use rustls::version::{TLS12, TLS13};
    let ca = Ca::new();
    let own = ca.sign(HOSTS);
    let suites = "cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384, AES128-SHA]";
    let servers = [
        server("any.test", "mode: SIMPLE, credentialName: own"),
        server("new.test", "mode: SIMPLE, credentialName: own, minProtocolVersion: TLSV1_3"),
        server("old.test", "mode: SIMPLE, credentialName: own, maxProtocolVersion: TLSV1_2"),
        server("suite.test", &format!("mode: SIMPLE, credentialName: own, {suites}")),
    ];
    let weir = Start::new()
        .file("gateway.yaml", istio(&servers.concat()))
        .file("own.yaml", holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)]))
        .arg("--access-log-format")
        .arg("LOG %REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%")
        .run();
    assert_eq!(weir.says("AES128-SHA is not spoken").len(), 1, "{}", weir.printed());
    let pem = ca.pem();
    for (host, old, new) in [("any.test", true, true), ("new.test", false, true), ("old.test", true, false), ("suite.test", true, true)] {
        for (versions, expect) in [(&[&TLS12][..], old), (&[&TLS13][..], new)] {
            let versions: &'static [_] = Vec::from(versions).leak();
            let got = Client { trust: Some(&pem), versions: Some(versions), ..Client::default() }.ask(weir.address(), host, &[]);
            assert_eq!(got.is_ok(), expect, "{host}: {got:?}");
        }
    }
    eventually("the log", || weir.lines("LOG suite.test TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384").first().cloned());
}

/// What the client of a gateway is shown as its upstream's certificate, and who answered.
pub fn through(weir: &Weir, port: usize, ca: &Ca, host: &str) -> Option<(CertificateDer<'static>, String)> {
    let (pem, to) = (ca.pem(), SocketAddr::from(([127, 0, 0, 1], weir.ports[port])));
    let (mut c, leaf) = Client { trust: Some(&pem), ..Client::default() }.connect(to, host).ok()?;
    let name = c.request("GET", host, "/", &[], b"").ok()?.json()["name"].as_str().unwrap().to_string();
    Some((leaf, name))
}

/// An echo upstream behind TLS.
pub fn secure_echo(name: &str, own: &Signed) -> echo::Server {
    let folder = tempfile::tempdir().unwrap();
    let files = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&files.0, &own.pem).unwrap();
    std::fs::write(&files.1, &own.key).unwrap();
    runtime().block_on(echo::Server::start(echo::Options { name: name.into(), tls: Some(files), ..echo::Options::default() })).unwrap()
}

#[test]
fn tls_is_passed_through_or_ends_by_its_server_name() {
    let ca = Ca::new();
    let certs = ["a.test", "x.b.test", "t.test", "h.test"].map(|name| ca.sign(&[name]));
    let (a, b) = (secure_echo("a", &certs[0]), secure_echo("b", &certs[1]));
    let objects = [
        Service::new("a", a.address().port()).text(),
        Service::new("b", b.address().port()).text(),
        holder("Secret", "t", &[("tls.crt", &certs[2].pem), ("tls.key", &certs[2].key)]),
        holder("Secret", "h", &[("tls.crt", &certs[3].pem), ("tls.key", &certs[3].key)]),
        Service::new("echo", "$ECHO").text(),
    ]
    .concat();
    let istio = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: g }
spec:
  servers:
  - { port: { number: $PORT, name: tls, protocol: TLS }, hosts: [a.test, '*.b.test'], tls: { mode: PASSTHROUGH } }
  - { port: { number: $PORT, name: ends, protocol: TLS }, hosts: [t.test], tls: { mode: SIMPLE, credentialName: t } }
  - { port: { number: $PORT, name: https, protocol: HTTPS }, hosts: [h.test], tls: { mode: SIMPLE, credentialName: h } }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: v }
spec:
  hosts: ['*']
  gateways: [g]
  tls:
  - { match: [{ port: $PORT, sniHosts: [a.test] }], route: [{ destination: { host: a, port: { number: 80 } } }] }
  - { match: [{ port: $PORT, sniHosts: ['*.b.test'] }], route: [{ destination: { host: b, port: { number: 80 } } }] }
  tcp: [{ route: [{ destination: { host: echo, port: { number: 80 } } }] }]
  http: [{ route: [{ destination: { host: echo, port: { number: 80 } } }] }]
---
";
    let route = |kind: &str, version: &str, name: &str, section: &str, hosts: &str, to: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ name: gateway, sectionName: {section} }}]\n  hostnames: [{hosts}]\n  rules: [{{ backendRefs: [{{ name: {to}, port: 80 }}] }}]\n---\n"
        )
    };
    let gateway_api = [
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  gatewayClassName: weir\n  listeners:\n  - { name: through, port: $PORT, protocol: TLS, tls: { mode: Passthrough } }\n  - { name: ends, port: $PORT, protocol: TLS, hostname: t.test, tls: { mode: Terminate, certificateRefs: [{ name: t }] } }\n  - { name: https, port: $PORT, protocol: HTTPS, hostname: h.test, tls: { certificateRefs: [{ name: h }] } }\n---\n",
        &route("TLSRoute", "v1", "a", "through", "a.test", "a"),
        &route("TLSRoute", "v1alpha2", "b", "through", "'*.b.test'", "b"),
        &route("TLSRoute", "v1alpha3", "t", "ends", "t.test", "echo"),
        &route("HTTPRoute", "v1", "h", "https", "h.test", "echo"),
    ]
    .concat();
    for (api, yaml) in [("Istio", istio.to_string()), ("Gateway API", gateway_api)] {
        let weir = Start::new().file("all.yaml", yaml + &objects).run();
        assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{api}: {}", weir.printed());
        for (host, leaf, name) in [("a.test", 0, "a"), ("x.b.test", 1, "b"), ("t.test", 2, "echo"), ("h.test", 3, "echo")] {
            let (shown, answered) = through(&weir, 0, &ca, host).unwrap_or_else(|| panic!("{api}: {host}"));
            assert!(shown == certs[leaf].der && answered == name, "{api}: {host} was answered by {answered}");
        }
        assert!(through(&weir, 0, &ca, "elsewhere.test").is_none(), "{api}");
        let text = weir.admin("/stats?filter=no_filter_chain_match").body;
        assert!(text.lines().any(|l| !l.ends_with(": 0")), "{api}: {text}");
    }
}

#[test]
fn backend_tls_policies_say_whom_to_trust() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let upstream = secure_echo("secure", &ca.sign_uri(&["good.test", "10.0.0.1"], "spiffe://up"));
    let echo = ToEcho::new().upstream(upstream.address().port()).service(|s| s.port_name("web"));
    let policy = |validation: &str, section: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{ name: p }}\nspec:\n  targetRefs: [{{ group: '', kind: Service, name: echo{section} }}]\n  validation: {validation}\n"
        )
    };
    let absent = "{ hostname: good.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: absent }] }";
    let rest = [
        echo.text() + "---\n",
        holder("ConfigMap", "ca", &[("ca.crt", &ca.pem())]),
        holder("Secret", "ca", &[("ca.crt", &ca.pem())]),
        holder("ConfigMap", "stranger", &[("ca.crt", &stranger.pem())]),
    ];
    let weir = Start::new().upstreams(0).file("all.yaml", rest.concat()).file("policy.yaml", policy(absent, "")).run();
    // Without anything to verify by, nothing is sent.
    assert_eq!(weir.get("h.test", "/").status, 503);
    eventually("a word about what is missing", || weir.lines("there is no ConfigMap default/absent").first().cloned());
    for (validation, section, status) in [
        ("{ hostname: good.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }", "", 200),
        ("{ hostname: good.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: stranger }] }", "", 503),
        ("{ hostname: good.test, caCertificateRefs: [{ group: '', kind: Secret, name: ca }] }", ", sectionName: web", 200),
        ("{ hostname: bad.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }", "", 503),
        (
            "{ hostname: bad.test, subjectAltNames: [{ type: URI, uri: 'spiffe://up' }], caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }",
            "",
            200,
        ),
        (
            "{ hostname: good.test, subjectAltNames: [{ type: Hostname, hostname: bad.test }], caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }",
            "",
            503,
        ),
        ("{ hostname: good.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }", "", 200),
        ("{ hostname: good.test, wellKnownCACertificates: System }", "", 503),
        ("{ hostname: good.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] }", ", sectionName: web", 200),
    ] {
        weir.write("policy.yaml", &policy(validation, section));
        let answer = weir.get_until("h.test", "/", |a| a.status == status);
        if status == 200 {
            assert_eq!(answer.json()["name"], "secure", "{validation}");
        }
    }
}

/// Another gateway is the upstream: it tells what it was shown.
#[test]
fn upstreams_are_shown_a_certificate() {
    let ca = Ca::new();
    let (own, client) = (ca.sign(&["up.test"]), ca.sign_uri(&["client.test"], "spiffe://client"));
    let both = holder("Secret", "both", &[("tls.crt", &own.pem), ("tls.key", &own.key), ("ca.crt", &ca.pem())]);
    let up = Start::new().file("all.yaml", istio(&server("up.test", "mode: MUTUAL, credentialName: both")) + "---\n" + &both).run();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("chain.pem", &client.pem), ("key.pem", &client.key), ("ca.pem", &ca.pem())] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let at = folder.path().display();
    let rule = |tls: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: up }}\nspec:\n  host: echo\n  trafficPolicy: {{ tls: {{ sni: up.test, {tls} }} }}\n"
        )
    };
    let credential = holder("Secret", "client", &[("tls.crt", &client.pem), ("tls.key", &client.key), ("ca.crt", &ca.pem())]);
    let weir = Start::new()
        .upstreams(0)
        .file("all.yaml", ToEcho::new().upstream(up.ports[0]).text())
        .file("secret.yaml", credential)
        .file("rule.yaml", rule("mode: MUTUAL, credentialName: absent"))
        .run();
    // Without its certificate the upstream is not talked to as if none were asked for.
    assert_eq!(weir.get("up.test", "/").status, 503);
    for (tls, status) in [
        ("mode: MUTUAL, credentialName: client".to_string(), 200),
        (format!("mode: SIMPLE, caCertificates: {at}/ca.pem"), 503),
        (format!("mode: MUTUAL, clientCertificate: {at}/chain.pem, privateKey: {at}/key.pem, caCertificates: {at}/ca.pem"), 200),
    ] {
        weir.write("rule.yaml", &rule(&tls));
        let answer = weir.get_until("up.test", "/", |a| a.status == status);
        if status == 200 {
            let told = answer.json()["headers"]["x-forwarded-client-cert"].as_str().unwrap().to_string();
            assert!(told.contains(";URI=spiffe://client;"), "{told}");
        }
    }
}

#[test]
fn a_server_name_says_the_cluster() {
    let ca = Ca::new();
    let name = |subset: &str, host: &str| format!("outbound_.80_.{subset}_.{host}.default.svc.cluster.local");
    let names = [("", "a"), ("v1", "b"), ("v2", "b"), ("", "other"), ("", "c")].map(|(subset, host)| name(subset, host));
    let own = ca.sign(&names.each_ref().map(|s| &**s));
    let [a, b1, b2, c] = ["a", "b1", "b2", "c"].map(|name| secure_echo(name, &own));
    let [first, second] =
        [("v1", &b1), ("v2", &b2)].map(|(version, up)| Service::new("b", up.address().port()).labels(&format!("version: {version}, ")));
    let objects = [
        Service::new("a", a.address().port()).text(),
        first.text(),
        second.slice("b-2"),
        // What would be a handshake within the client's own is for others.
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: b }\nspec:\n  host: b\n  trafficPolicy: { tls: { mode: SIMPLE } }\n  subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }]\n---\n".into(),
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: other }\nspec:\n  hosts: [other.default.svc.cluster.local, elsewhere.test]\n  ports: [{ number: 80, name: tls, protocol: TLS }]\n  resolution: STATIC\n  endpoints: [{ address: 127.0.0.1, ports: { tls: $C } }]\n---\n".into(),
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: g }\nspec:\n  servers:\n  - { port: { number: $PORT, name: tls, protocol: TLS }, hosts: ['*.local'], tls: { mode: AUTO_PASSTHROUGH } }\n  - { port: { number: $PORT2, name: tls, protocol: TLS }, hosts: [default/a.default.svc.cluster.local, other/b.default.svc.cluster.local], tls: { mode: AUTO_PASSTHROUGH } }\n".into(),
    ];
    let weir = Start::new().upstreams(0).word("C", c.address().port()).file("all.yaml", objects.concat()).run();
    assert!(weir.lines("warning").is_empty() && weir.lines("error").is_empty(), "{}", weir.printed());
    let answers = |port: usize, name: &str| through(&weir, port, &ca, name).map(|(_, name)| name);
    for (name, first, second) in [
        (name("", "a"), Some("a"), Some("a")),
        (name("v1", "b"), Some("b1"), None),
        (name("v2", "b"), Some("b2"), None),
        (name("V2", "b").to_uppercase(), Some("b2"), None),
        (name("", "other"), Some("c"), None),
        (name("v3", "b"), None, None),
        (name("", "a").replace("80", "81"), None, None),
        ("a.default.svc.cluster.local".into(), None, None),
    ] {
        for (port, wanted) in [(0, first), (1, second)] {
            assert_eq!(answers(port, &name).as_deref(), wanted, "{name} on port {port}");
        }
    }
    assert!(weir.stat(&format!("listener.0.0.0.0_{}.tcp.downstream_cx_no_route", weir.ports[0])) >= 2);
    // A new Service needs nothing else.
    assert_eq!(answers(0, &name("", "c")), None);
    weir.write("c.yaml", &Service::new("c", c.address().port()).text());
    eventually("the new cluster", || answers(0, &name("", "c")).filter(|found| found == "c"));
}
