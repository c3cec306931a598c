//! Requests that two readers could read differently are refused, and nothing behind them is read as a request.
use crate::{
    client::Connection,
    harness::{Received, Start, TO_ECHO, Weir},
    yaml::ToEcho,
};

/// A gateway in front of an upstream that keeps what it receives.
fn recorded((port, received): (u16, Received)) -> (Weir, Received) {
    (ToEcho::new().upstream(port).start().run(), received)
}

const GET: &str = "GET / HTTP/1.1\r\n";
const POST: &str = "POST / HTTP/1.1\r\n";
const HOST: &str = "Host: h.test\r\n";
/// For requests that are well-formed: the gateway would keep the connection.
const LAST: &str = "Host: h.test\r\nConnection: close\r\n";

#[test]
fn ambiguous_requests_are_refused() {
    let (weir, received) = recorded(Received::start());
    let cases: &[(&str, String, u16)] = &[
        ("length and chunks", format!("{POST}{HOST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("chunks and length", format!("{POST}{HOST}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"), 400),
        ("two lengths", format!("{POST}{HOST}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"), 400),
        ("the same length twice", format!("{POST}{HOST}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 400),
        ("a list of lengths", format!("{POST}{HOST}Content-Length: 3, 3\r\n\r\nabc"), 400),
        ("a length with a sign", format!("{POST}{HOST}Content-Length: +3\r\n\r\nabc"), 400),
        ("a negative length", format!("{POST}{HOST}Content-Length: -3\r\n\r\nabc"), 400),
        ("a length in hex", format!("{POST}{HOST}Content-Length: 0x3\r\n\r\nabc"), 400),
        ("an empty length", format!("{POST}{HOST}Content-Length: \r\n\r\nabc"), 400),
        ("a length beyond bounds", format!("{POST}{HOST}Content-Length: 99999999999999999999\r\n\r\nabc"), 400),
        ("chunked twice", format!("{POST}{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("another coding", format!("{POST}{HOST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        ("a coding before chunked", format!("{POST}{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501),
        ("the same on two lines", format!("{POST}{HOST}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501),
        ("a coding behind chunked", format!("{POST}{HOST}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        ("chunks in HTTP/1.0", format!("POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("a folded line", format!("{GET}{HOST}X: a\r\n b\r\n\r\n"), 400),
        ("a folded coding", format!("{POST}{HOST}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), 400),
        ("bare line feeds", "GET / HTTP/1.1\nHost: h.test\n\n".to_string(), 400),
        ("one bare line feed", format!("{GET}Host: h.test\nX: y\r\n\r\n"), 400),
        ("a bare carriage return", format!("{GET}Host: h.test\rX: y\r\n\r\n"), 400),
        ("a NUL", format!("{GET}{HOST}X: a\0b\r\n\r\n"), 400),
        ("a control character", format!("{GET}{HOST}X: a\x01b\r\n\r\n"), 400),
        ("DEL", format!("{GET}{HOST}X: a\x7fb\r\n\r\n"), 400),
        ("a space before the host's colon", format!("{GET}Host : h.test\r\n\r\n"), 400),
        ("a space in a name", format!("{GET}{HOST}a b: x\r\n\r\n"), 400),
        ("a space before the colon", format!("{POST}{HOST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        ("a space before the name", format!("{GET} Host: h.test\r\n\r\n"), 400),
        ("no colon", format!("{GET}{HOST}abc\r\n\r\n"), 400),
        ("no name", format!("{GET}{HOST}: x\r\n\r\n"), 400),
        ("no host", format!("{GET}\r\n"), 400),
        ("two hosts", format!("{GET}{HOST}{HOST}\r\n"), 400),
        ("a port that is no number", format!("{GET}Host: a.test:abc\r\n\r\n"), 400),
        ("two ports", format!("{GET}Host: a:80:90\r\n\r\n"), 400),
        ("a port beyond bounds", format!("{GET}Host: a:65536\r\n\r\n"), 400),
        ("an open bracket", format!("{GET}Host: [::1\r\n\r\n"), 400),
        ("a closing bracket", format!("{GET}Host: a]b\r\n\r\n"), 400),
        ("brackets in a name", format!("{GET}Host: a[1]\r\n\r\n"), 400),
        ("text behind an address", format!("{GET}Host: [::1]a\r\n\r\n"), 400),
        ("no address", format!("{GET}Host: []\r\n\r\n"), 400),
        ("an absolute target with two ports", format!("GET http://a:80:90/ HTTP/1.1\r\n{HOST}\r\n"), 400),
        ("a path for a host", format!("{GET}Host: a/b\r\n\r\n"), 400),
        ("two spaces", format!("GET  / HTTP/1.1\r\n{HOST}\r\n"), 400),
        ("a tab", format!("GET\t/ HTTP/1.1\r\n{HOST}\r\n"), 400),
        ("a control character in the target", format!("GET /\x01 HTTP/1.1\r\n{HOST}\r\n"), 400),
        ("a path out of the root", format!("GET /../x HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("an escaped NUL", format!("GET /%00 HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("a fragment", format!("GET /a#b HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("a relative target", format!("GET x HTTP/1.1\r\n{HOST}\r\n"), 400),
        ("CONNECT", format!("CONNECT a:443 HTTP/1.1\r\n{LAST}\r\n"), 403),
        ("a version in lower case", format!("GET / http/1.1\r\n{HOST}\r\n"), 400),
        ("HTTP/2 in text", "GET / HTTP/2.0\r\n\r\n".to_string(), 505),
        ("another version", format!("GET / HTTP/3.0\r\n{HOST}\r\n"), 505),
        ("too many headers", format!("{GET}{HOST}{}\r\n", "a: b\r\n".repeat(200)), 431),
        ("a head too large", format!("{GET}{HOST}a: {}\r\n\r\n", "x".repeat(70_000)), 431),
        ("a head without end", format!("{GET}{HOST}a: {}", "x".repeat(900_000)), 431),
    ];
    for (name, raw, status) in cases {
        let mut c = Connection::open(weir.address()).unwrap();
        // The gateway may close before it has read everything.
        let _ = c.send(raw);
        let answer = c.answer().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(answer.status, *status, "{name}: {answer:?}");
        assert!(c.is_closed(), "{name}: the connection stays open");
        assert_eq!(received.take(), "", "{name}: the upstream has seen it");
    }
    for host in ["a.test:80", "a.test:", "", "[::1]", "[::1]:80", "[fe80::1%25eth0]:8080", "a_b.test", "127.0.0.1:1"] {
        let mut c = Connection::open(weir.address()).unwrap();
        assert_eq!(c.request("GET", host, "/", &[], b"").unwrap().status, 200, "{host}");
    }
    received.take();
    // Bodies that break off: the upstream never sees a whole request, and nothing is read as another one.
    for (name, chunks) in [
        ("no size", "zz\r\n"),
        ("a negative size", "-1\r\n"),
        ("a size with a prefix", "0x3\r\nabc\r\n"),
        ("a size beyond bounds", "fffffffffffffffff\r\n"),
        ("line feeds", "3\nabc\n0\n\n"),
        ("a chunk too long", "3\r\nabcd\r\n"),
        ("a space before the size", " 3\r\nabc\r\n"),
        ("a line feed in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a trailer without a colon", "0\r\nabc\r\n\r\n"),
        ("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n"),
    ] {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(format!("{POST}{HOST}Transfer-Encoding: chunked\r\n\r\n{chunks}GET /smuggled HTTP/1.1\r\n{HOST}\r\n")).unwrap();
        let mut all = Vec::new();
        while let Ok(answer) = c.answer() {
            all.push(answer.status);
        }
        assert_eq!(all, [400], "{name}");
        // The head may have gone before the body was seen to be broken; its end never does, nor anything behind it.
        let seen = received.take();
        let requests = Received::requests(&seen);
        // Among them may be one of the row before, which came late.
        assert!(requests.iter().all(|line| *line == "POST / HTTP/1.1"), "{name}: {seen}");
        assert!(!seen.contains("0\r\n\r\n") && !seen.contains("smuggled"), "{name}: {seen}");
    }
    assert_eq!(weir.get("h.test", "/").status, 200);
    let stats = weir.admin("/stats?filter=downstream_cx_protocol_error").body;
    assert!(stats.lines().any(|l| !l.ends_with(": 0")), "{stats}");
}

#[test]
fn paths_are_made_plain_before_they_are_matched() {
    let rule = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: admin }
spec:
  parentRefs: [{ name: gateway }]
  rules:
  - matches: [{ path: { type: PathPrefix, value: /admin } }]
    filters: [{ type: RequestRedirect, requestRedirect: { hostname: closed.test } }]
";
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("admin.yaml", rule).run();
    for (path, closed) in [
        ("/admin", true),
        ("/x/../admin", true),
        ("/./admin/x", true),
        ("/%61dmin", true),
        ("/x/%2e%2e/admin", true),
        ("/x/%2E./admin/secret?q=1", true),
        ("/administrator", false),
        ("/x/admin", false),
        ("/?p=/admin", false),
    ] {
        let answer = weir.get("h.test", path);
        assert_eq!(answer.status == 302, closed, "{path}: {answer:?}");
    }
    // Above the root there is nothing.
    assert_eq!(weir.get("h.test", "/../../admin").status, 400);
}

#[test]
fn a_body_is_never_read_as_a_request() {
    let (weir, received) = recorded(Received::early());
    // The answer comes before the body does; the rest of the body is not another request.
    let mut c = Connection::open(weir.address()).unwrap();
    let inner = format!("{GET}{HOST}\r\n");
    let _ = c.send(format!("POST /early HTTP/1.1\r\n{HOST}Content-Length: 100000\r\n\r\n"));
    let _ = c.send(inner.repeat(50));
    let mut statuses = Vec::new();
    while let Ok(answer) = c.answer() {
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200]);
    let seen = received.connections();
    assert!(seen.len() == 1 && seen[0].starts_with("POST /early HTTP/1.1\r\n"), "{seen:?}");
}
