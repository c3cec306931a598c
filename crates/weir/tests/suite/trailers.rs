//! Chunks and trailers: the gateway writes its own chunks on each connection, and no trailer carries a field that belongs in a head.
use crate::{
    client::Connection,
    frames::{self, DATA, END_STREAM, HEADERS, Raw},
    harness::{Received, Start, TO_ECHO, Weir, raw_upstream},
    streams::h2c,
    yaml::ToEcho,
};

/// Trailers that forge what upstreams trust, between two that may pass.
const FORGED: [&str; 16] = [
    "x-forwarded-for: 6.6.6.6",
    "X-Forwarded-Client-Cert: By=evil",
    "x-forwarded-host: evil",
    "x-forwarded-port: 1",
    "x-envoy-original-path: /evil",
    "x-envoy-anything: evil",
    "X-Real-IP: 6.6.6.6",
    "Cookie: session=evil",
    "Host: evil",
    "Content-Length: 9",
    "Transfer-Encoding: evil",
    "TE: evil",
    "Expect: 100-continue",
    "Authorization: Basic ZXZpbA==",
    "Set-Cookie: session=evil",
    "x-request-id: evil",
];

fn to(port: u16) -> Weir {
    ToEcho::new().upstream(port).start().run()
}

#[test]
fn requests_bring_no_forged_trailers_and_no_foreign_chunk_lines() {
    let (port, received) = Received::start();
    let weir = to(port);
    let forged = FORGED.join("\r\n");
    for (name, body) in [
        ("plain", "5\r\nhello\r\n0\r\n".to_string()),
        ("an extension", "5 abc\r\nhello\r\n0;a=b\r\n".to_string()),
        ("blanks", "5 \r\nhe".to_string() + "llo\r\n0\t\r\n"),
        ("zeros", "0005;a=\"b\"\r\nhello\r\n000\r\n".to_string()),
    ] {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(format!("POST / HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}X-A: 1\r\n{forged}\r\nX-B: 2\r\n\r\n"))
            .unwrap();
        assert_eq!(c.answer().unwrap().status, 200, "{name}");
        let got = received.take();
        assert_eq!(got.split_once("\r\n\r\n").unwrap().1, "5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n", "{name}: {got}");
        // The connection is in step on both sides.
        assert_eq!(c.request("GET", "h.test", "/next", &[], b"").unwrap().status, 200, "{name}");
        assert!(received.take().starts_with("GET /next HTTP/1.1\r\n"), "{name}");
    }
    // From HTTP/2, whose trailers are a head of their own.
    let fields: Vec<(String, &str)> =
        FORGED.iter().map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
    let mut trailers = vec![("x-a", "1")];
    trailers.extend(fields.iter().filter(|(n, _)| n != "transfer-encoding" && n != "te").map(|(n, v)| (n.as_str(), *v)));
    trailers.push(("x-b", "2"));
    let mut raw = Raw::open(weir.address());
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "h.test"), (":path", "/")];
    raw.send(frames::head(1, 0, &frames::block(&head))).unwrap();
    raw.send(frames::frame(DATA, 0, 1, b"hello")).unwrap();
    raw.send(frames::head(1, END_STREAM, &frames::block(&trailers))).unwrap();
    let answer = std::iter::from_fn(|| raw.next_of(1)).find(|f| f.kind == HEADERS);
    assert!(answer.is_some());
    let got = received.take();
    assert_eq!(got.split_once("\r\n\r\n").unwrap().1, "5\r\nhello\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", "{got}");
}

/// Large chunks go out from where they are; they arrive whole, however the sender cut them.
#[test]
fn bodies_of_any_cut_arrive_whole() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let text: String = (0..60_000).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect();
    for size in [1, 7, 4000, 4096, 4097, 9000, 16_384, 40_000, 60_000] {
        let chunks: String =
            text.as_bytes().chunks(size).map(|c| format!("{:x};x\r\n{}\r\n", c.len(), std::str::from_utf8(c).unwrap())).collect();
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("POST /stream HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let all = format!("{chunks}0\r\n\r\n");
        for piece in all.as_bytes().chunks(5000) {
            c.send(piece).unwrap();
        }
        let answer = c.answer().unwrap();
        assert!(answer.body == text, "{size}: {} bytes of {}", answer.body.len(), text.len());
    }
}

/// An upstream that sends fields of the head as trailers: the answer is complete without them.
#[test]
fn answers_with_forbidden_trailers_are_whole() {
    let port = raw_upstream(|_| {
        let lines = FORGED.join("\r\n");
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8;x=y\r\nconsole;\r\n0\r\nX-A: 1\r\n{lines}\r\nX-B: 2\r\n\r\n")
    });
    let weir = to(port);
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /app.js HTTP/1.1\r\nHost: h.test\r\nTE: trailers\r\n\r\n").unwrap();
    let answer = c.answer().unwrap();
    let expected = [("x-a", "1"), ("x-b", "2")].map(|(n, v)| (n.to_string(), v.to_string()));
    assert!(answer.status == 200 && answer.body == "console;" && answer.trailers == expected, "{answer:?}");
    crate::harness::runtime().block_on(async {
        let mut client = h2c(weir.address()).await.ready().await.unwrap();
        let request = http::Request::get("http://h.test/app.js").body(()).unwrap();
        let head = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(head.status(), 200);
        let mut body = head.into_body();
        let mut all = Vec::new();
        while let Some(piece) = body.data().await {
            all.extend_from_slice(&piece.unwrap());
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert!(all == b"console;" && trailers.len() == 2 && trailers["x-a"] == "1" && trailers["x-b"] == "2", "{trailers:?}");
    });
}

/// Towards upstreams of HTTP/2 as well.
#[test]
fn http2_upstreams_get_no_forged_trailers() {
    let weir = ToEcho::new().h2c().start().run();
    let mut c = Connection::open(weir.address()).unwrap();
    let forged = FORGED.join("\r\n");
    c.send(format!(
        "POST /stream HTTP/1.1\r\nHost: h.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: 1\r\n{forged}\r\n\r\n"
    ))
    .unwrap();
    let back = c.answer().unwrap();
    assert!(back.body == "hello" && back.trailers == [("x-a".to_string(), "1".to_string())], "{back:?}");
}
