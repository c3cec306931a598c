//! Answers that only look whole, and what else an upstream may get wrong.
use crate::{
    client::Connection,
    frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS},
    harness::raw_upstream,
    yaml::{ToEcho, holder},
};
use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};
use weir_test::Ca;

/// An upstream of TLS that answers with a body up to the close of the connection; `polite`: it ends TLS before it closes.
fn closing(identity: &weir_test::Signed, polite: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let key = rustls::pki_types::pem::PemObject::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.der.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut io);
            if !matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf of it");
            let _ = stream.flush();
            if polite {
                tls.send_close_notify();
                while tls.wants_write() && tls.write_tls(&mut io).is_ok() {}
            }
            let _ = io.shutdown(std::net::Shutdown::Write);
        }
    });
    port
}

/// An attacker who cuts the connection must not be able to shorten a body that ends with it.
#[test]
fn a_cut_of_tls_is_no_end_of_a_body() {
    let ca = Ca::new();
    let identity = ca.sign(&["h.test"]);
    for polite in [true, false] {
        let port = closing(&identity, polite);
        let policy = format!(
            "{}apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{ name: p }}\nspec:\n  targetRefs: [{{ group: '', kind: Service, name: echo }}]\n  validation: {{ hostname: h.test, caCertificateRefs: [{{ group: '', kind: ConfigMap, name: ca }}] }}\n",
            holder("ConfigMap", "ca", &[("ca.crt", &ca.pem())])
        );
        let weir = ToEcho::new().upstream(port).start().file("policy.yaml", policy).run();
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("GET /cut HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
        let answer = c.answer();
        match polite {
            true => assert_eq!(answer.unwrap().body, "half of it"),
            false => assert!(answer.is_err(), "a broken answer looks whole: {answer:?}"),
        }
        // The log's word for it.
        let log = weir.says("/cut");
        assert_eq!(log[0].contains(" UC "), !polite, "{log:?}");
    }
}

/// A head and a contradicting body arrive together: the client gets an error.
#[test]
fn a_wrong_length_from_http2_is_a_bad_gateway() {
    const CASES: [(&str, &str, &[u8]); 3] = [("less", "10", b"short"), ("more", "3", b"too long"), ("nothing", "4", b"")];
    for (name, length, body) in CASES {
        let port = frames::upstream(&[], move |mut raw| {
            while let Some(frame) = raw.next() {
                if frame.kind == HEADERS {
                    let fields = frames::block(&[(":status", "200"), ("content-length", length)]);
                    let end = if body.is_empty() { END_STREAM } else { 0 };
                    let mut all = frames::frame(HEADERS, END_HEADERS | end, frame.stream, &fields);
                    if !body.is_empty() {
                        all.extend(frames::frame(DATA, END_STREAM, frame.stream, body));
                    }
                    let _ = raw.send(all);
                }
            }
        });
        let weir = ToEcho::new().upstream(port).h2c().start().run();
        let mut c = Connection::open(weir.address()).unwrap();
        let told = c.request("GET", "h.test", "/", &[], b"").unwrap();
        assert_eq!(told.status, 502, "{name}: {told:?}");
        assert!(weir.stat("cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_protocol_error") > 0, "{name}");
    }
}

/// Interim answers may be many, but not without end.
#[test]
fn interim_answers_have_an_end() {
    for (count, status) in [(100, 200), (101, 502), (10_000, 502)] {
        let port = raw_upstream(move |_| {
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(count) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        });
        let weir = ToEcho::new().upstream(port).start().run();
        let mut c = Connection::open(weir.address()).unwrap();
        assert_eq!(c.request("GET", "h.test", "/", &[], b"").unwrap().status, status, "{count}");
        let counted = weir.stat("cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_protocol_error");
        assert_eq!(counted > 0, status == 502, "{count}");
    }
}

/// A head that is too long ends its stream, not the connection that others share.
#[test]
fn a_long_head_from_http2_ends_one_stream() {
    let port = frames::upstream(&[], |mut raw| {
        while let Some(frame) = raw.next() {
            if frame.kind == HEADERS && frame.stream == 1 {
                let fields = frames::block(&[(":status", "200"), ("x-long", &"x".repeat(200_000))]);
                let _ = raw.send(frames::head(1, END_STREAM, &fields));
            } else if frame.kind == HEADERS {
                let _ = raw.send(frames::frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, frames::OK));
            }
        }
    });
    let weir = ToEcho::new().upstream(port).h2c().start().workers(1).run();
    assert_eq!(weir.get("h.test", "/").status, 502);
    assert_eq!(weir.get("h.test", "/").status, 200);
    assert_eq!(weir.stat("cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_total"), 1);
}
