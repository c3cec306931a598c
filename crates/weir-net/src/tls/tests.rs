#![allow(clippy::unwrap_used, clippy::type_complexity)]
use super::*;
use tokio::net::{TcpListener, TcpStream};
use weir_test::{Ca, Signed};

fn roots_of(ca: &Ca) -> Roots {
    Roots::from_pem(&ca.pem(), None).unwrap()
}

fn certificate(signed: &Signed) -> Arc<Certificate> {
    Arc::new(Certificate::from_pem(&signed.pem, &signed.key).unwrap())
}

fn server(certificates: &[Arc<Certificate>], client_auth: ClientAuth, names: &[&str]) -> Server {
    let options = ServerOptions {
        alpn: vec!["h2".into(), "http/1.1".into()],
        client_auth,
        demands: Demands { names: names.iter().map(|n| (*n).to_string()).collect(), ..Demands::default() },
        ..ServerOptions::default()
    };
    Server::new(options, CertificateTable::new(certificates)).unwrap()
}

fn client(trust: Trust, names: &[&str], certificate: Option<Arc<Certificate>>) -> Client {
    let names = names.iter().map(|n| (*n).to_string()).collect();
    Client::new(ClientOptions { trust, subject_alt_names: names, certificate, server_name: None, min_version: None }).unwrap()
}

/// One handshake; both sides' connections or the errors of both.
async fn shake(server: &Server, client: &Client, host: &str, alpn: Alpn) -> Result<Shaken, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    let connect = async {
        use tokio::io::AsyncReadExt;
        let mut c = client.connect(io, host, alpn).await?;
        // A server of TLS 1.3 refuses a client's certificate only after the client's side is done.
        c.read_exact(&mut [0]).await?;
        Ok::<_, std::io::Error>(c)
    };
    let accept = async {
        use tokio::io::AsyncWriteExt;
        let mut s = server.accept(accepted).await?;
        s.write_all(b"!").await?;
        s.flush().await?;
        Ok::<_, std::io::Error>(s)
    };
    let (c, s) = tokio::join!(connect, accept);
    match (c, s) {
        (Ok(c), Ok(s)) => Ok(Shaken { leaf: Details::from_der(&c.get_ref().1.peer_certificates().unwrap()[0]).unwrap(), server: s }),
        (c, s) => Err(format!("client: {:?}, server: {:?}", c.err().map(|e| e.to_string()), s.err().map(|e| e.to_string()))),
    }
}

#[derive(Debug)]
struct Shaken {
    leaf: Details,
    server: tokio_rustls::server::TlsStream<TcpStream>,
}

#[tokio::test]
async fn the_server_name_selects_the_certificate() {
    let ca = Ca::new();
    let certificates =
        [certificate(&ca.sign(&["first.test"])), certificate(&ca.sign(&["*.w.test", "w.test"])), certificate(&ca.sign(&["x.w.test"]))];
    let (s, c) = (server(&certificates, ClientAuth::None, &[]), client(Trust::Anyone, &[], None));
    for (name, expect) in [
        ("first.test", "first.test"),
        ("FIRST.test", "first.test"),
        ("w.test", "*.w.test"),
        ("y.w.test", "*.w.test"),
        ("x.w.test", "x.w.test"),
        ("z.y.w.test", "first.test"),
        ("unknown.test", "first.test"),
        ("127.0.0.1", "first.test"),
    ] {
        let got = shake(&s, &c, name, Alpn::None).await.unwrap();
        assert_eq!(got.leaf.dns_names[0], expect, "{name}");
    }
}

#[tokio::test]
async fn certificates_are_exchanged_under_way() {
    let ca = Ca::new();
    let s = server(&[certificate(&ca.sign(&["a.test"]))], ClientAuth::None, &[]);
    let c = client(Trust::Roots(roots_of(&ca)), &[], None);
    let old = shake(&s, &c, "a.test", Alpn::Auto).await.unwrap();
    let new = certificate(&ca.sign(&["a.test"]));
    s.set_certificates(CertificateTable::new(std::slice::from_ref(&new)));
    let fresh = client(Trust::Roots(roots_of(&ca)), &[], None);
    let got = shake(&s, &fresh, "a.test", Alpn::Auto).await.unwrap();
    assert_ne!(got.leaf.serial, old.leaf.serial);
    assert_eq!(got.leaf.serial, new.details.serial);
    assert_eq!(got.server.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The client that was here before resumes its session.
    assert_eq!(
        shake(&s, &c, "a.test", Alpn::Http1).await.unwrap().server.get_ref().1.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
}

#[tokio::test]
async fn upstreams_are_verified() {
    let (ca, other) = (Ca::new(), Ca::new());
    let s = server(&[certificate(&ca.sign_uri(&["a.test"], "spiffe://cluster.local/ns/x/sa/y"))], ClientAuth::None, &[]);
    let roots = || Trust::Roots(roots_of(&ca));
    let table: [(Trust, &[&str], &str, bool); 9] = [
        (roots(), &[], "a.test", true),
        (roots(), &[], "b.test", false),
        (Trust::Roots(roots_of(&other)), &[], "a.test", false),
        (Trust::Anyone, &[], "b.test", true),
        (roots(), &["a.test"], "b.test", true),
        (roots(), &["c.test"], "a.test", false),
        (roots(), &["c.test", "spiffe://cluster.local/ns/x/sa/y"], "b.test", true),
        (roots(), &["spiffe://cluster.local/ns/x/sa/z"], "b.test", false),
        (Trust::Roots(roots_of(&other)), &["a.test"], "a.test", false),
    ];
    for (trust, names, host, expect) in table {
        let got = shake(&s, &client(trust, names, None), host, Alpn::None).await;
        assert_eq!(got.is_ok(), expect, "{names:?} {host}: {got:?}");
    }
}

#[tokio::test]
async fn clients_are_verified() {
    let (ca, other) = (Ca::new(), Ca::new());
    let own = [certificate(&ca.sign(&["a.test"]))];
    let good = || Some(certificate(&ca.sign(&["client.test"])));
    let bad = || Some(certificate(&other.sign(&["client.test"])));
    let required = || ClientAuth::Required(roots_of(&ca));
    let optional = || ClientAuth::Optional(roots_of(&ca));
    let table: [(ClientAuth, &[&str], Option<Arc<Certificate>>, bool); 9] = [
        (ClientAuth::None, &[], None, true),
        (required(), &[], None, false),
        (required(), &[], bad(), false),
        (required(), &[], good(), true),
        (optional(), &[], None, true),
        (optional(), &[], bad(), false),
        (optional(), &[], good(), true),
        (required(), &["client.test"], good(), true),
        (required(), &["someone.test"], good(), false),
    ];
    for (i, (auth, names, certificate, expect)) in table.into_iter().enumerate() {
        let shown = certificate.is_some();
        let asks = !matches!(auth, ClientAuth::None);
        let got = shake(&server(&own, auth, names), &client(Trust::Anyone, &[], certificate), "a.test", Alpn::None).await;
        assert_eq!(got.is_ok(), expect, "row {i}: {got:?}");
        if let Ok(got) = got {
            assert_eq!(got.server.get_ref().1.peer_certificates().is_some(), shown && asks, "row {i}");
        }
    }
}

#[tokio::test]
async fn versions_are_bounded() {
    let ca = Ca::new();
    let make = |min, max| {
        let options = ServerOptions { min_version: min, max_version: max, ..ServerOptions::default() };
        Server::new(options, CertificateTable::new(&[certificate(&ca.sign(&["a.test"]))]))
    };
    let c = client(Trust::Anyone, &[], None);
    for (min, max, expect) in [(None, None, "TLSv1_3"), (Some(Version::Tls13), None, "TLSv1_3"), (None, Some(Version::Tls12), "TLSv1_2")] {
        let got = shake(&make(min, max).unwrap(), &c, "a.test", Alpn::None).await.unwrap();
        assert_eq!(format!("{:?}", got.server.get_ref().1.protocol_version().unwrap()), expect);
    }
    assert!(make(Some(Version::Tls13), Some(Version::Tls12)).is_err());
}

/// What rustls' own client sends, whole, cut at every byte, and split over two records.
#[tokio::test]
async fn a_client_hello_is_read_without_taking_part() {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut accepted = listener.accept().await.unwrap().0;
    let connecting = tokio::spawn(async move { client(Trust::Anyone, &[], None).connect(io, "Shop.test", Alpn::Auto).await.is_ok() });
    let mut bytes = vec![0; 5];
    accepted.read_exact(&mut bytes).await.unwrap();
    bytes.resize(5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]])), 0);
    accepted.read_exact(&mut bytes[5..]).await.unwrap();
    drop(accepted);
    assert!(!connecting.await.unwrap());

    let expect = Hello::Tls(ClientHello { server_name: Some("shop.test".into()), alpn: vec!["h2".into(), "http/1.1".into()] });
    assert_eq!(inspect(&bytes), expect);
    for cut in 0..bytes.len() {
        assert_eq!(inspect(&bytes[..cut]), Hello::Incomplete, "{cut}");
    }
    let body = &bytes[5..];
    for cut in [1, 3, 4, 50, body.len() - 1] {
        let record = |part: &[u8]| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
        assert_eq!(inspect(&[record(&body[..cut]), record(&body[cut..])].concat()), expect, "{cut}");
    }
    // No byte of it, turned into any other, makes the reader panic.
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut broken = bytes.clone();
            broken[at] = value;
            let _ = inspect(&broken);
        }
    }
}

#[test]
fn what_is_no_client_hello() {
    assert_eq!(inspect(b"GET / HTTP/1.1\r\n"), Hello::Plain);
    assert_eq!(inspect(b"\x80\x2e\x01\x00\x02"), Hello::Plain);
    assert_eq!(inspect(b"\x16\x03"), Hello::Incomplete);
    assert!(matches!(inspect(b"\x16\x03\x01\x00\x00"), Hello::Malformed(_)));
    assert!(matches!(inspect(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), Hello::Malformed(_)));
    assert!(matches!(inspect(b"\x16\x03\x01\x00\x04\x01\xff\x00\x00"), Hello::Malformed(_)));
    assert!(matches!(inspect(b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03"), Hello::Malformed(_)));
}
