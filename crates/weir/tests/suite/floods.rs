//! Clients of HTTP/2 that mean harm: floods of frames that cost work and carry nothing, and requests that another reader could
//! read otherwise. Each ends its own connection or stream, and nobody else's.
use crate::{
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
        WINDOW_UPDATE, block, frame,
    },
    harness::{Start, TO_ECHO, Weir, eventually, runtime},
    streams::h2c,
};
use http::Request;
use std::{io::Write, net::Shutdown};

fn counter(weir: &Weir, name: &str) -> u64 {
    weir.stat(&format!("http.0.0.0.0_{}.{name}", weir.ports[0]))
}

/// Sends `begin`, then `more` for ever rising stream numbers until the connection ends.
fn flood(weir: &Weir, name: &str, begin: &[u8], more: &dyn Fn(u32) -> Vec<u8>) {
    let mut raw = Raw::open(weir.address());
    let mut reader = Raw { io: raw.io.try_clone().unwrap() };
    let reading = std::thread::spawn(move || while reader.next().is_some() {});
    raw.send(begin).unwrap();
    let mut stream = 1;
    for _ in 0..400 {
        let batch: Vec<u8> = (0..100).flat_map(|i| more(stream + 2 * i)).collect();
        stream += 200;
        if raw.io.write_all(&batch).is_err() || reading.is_finished() {
            break;
        }
    }
    eventually(&format!("{name}: the end of the connection"), || reading.is_finished().then_some(()));
    let _ = raw.io.shutdown(Shutdown::Both);
}

#[test]
fn floods_end_the_connection_and_no_other() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let request = |stream: u32| frames::get(stream, "/x?delay=10s");
    let open = {
        let fields = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "h.test"), (":path", "/stream")]);
        frame(HEADERS, END_HEADERS, 1, &fields)
    };
    // A head that never ends.
    let endless = frame(HEADERS, 0, 1, &block(&[(":method", "GET"), (":scheme", "http"), (":authority", "h.test"), (":path", "/")]));
    let cancel = 8u32.to_be_bytes();
    type More<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let table: &[(&str, &[u8], More)] = &[
        ("rapid reset", b"", &|s| [request(s), frame(RST_STREAM, 0, s, &cancel)].concat()),
        ("ping", b"", &|_| frame(PING, 0, 0, &[0; 8])),
        ("settings", b"", &|_| frame(SETTINGS, 0, 0, &[])),
        ("settings with values", b"", &|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("continuation", &endless, &|_| frame(CONTINUATION, 0, 1, &[])),
        ("continuation with fields", &endless, &|_| frame(CONTINUATION, 0, 1, &block(&[("a", "b")]))),
        ("empty data", &open, &|_| frame(DATA, 0, 1, &[])),
        ("empty data with padding", &open, &|_| frame(DATA, 8, 1, &[3, 0, 0, 0])),
        ("priority", b"", &|s| frame(PRIORITY, 0, s, &[0, 0, 0, 0, 16])),
        ("window update", b"", &|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ];
    let other = runtime().block_on(h2c(weir.address()));
    let ask = || {
        let client = other.clone();
        runtime().block_on(async {
            let request = Request::get("http://h.test/x").body(()).unwrap();
            client.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap().status()
        })
    };
    assert_eq!(ask(), 200);
    let before = weir.resident_kb();
    for (name, begin, more) in table {
        let counted = counter(&weir, "downstream_rq_http2_flood");
        flood(&weir, name, begin, more);
        eventually(&format!("{name}: the counter"), || (counter(&weir, "downstream_rq_http2_flood") == counted + 1).then_some(()));
        assert_eq!(ask(), 200, "{name}: another connection was hurt");
    }
    eventually("the connections to be gone", || (counter(&weir, "downstream_cx_http2_active") == 1).then_some(()));
    eventually("the requests to be gone", || (counter(&weir, "downstream_rq_active") == 0).then_some(()));
    let grown = weir.resident_kb().saturating_sub(before);
    assert!(grown < 30_000, "floods left {grown} kB");
}

/// What a stream came to: its frames up to its end, or the connection's.
fn outcome(raw: &mut Raw, stream: u32) -> &'static str {
    loop {
        match raw.next_of(stream) {
            None | Some(Frame { kind: GOAWAY, .. }) => return "connection",
            Some(Frame { kind: RST_STREAM, .. }) => return "reset",
            // 400, 403, 404, 431 are answers of the gateway's own; only 200 means that it was taken.
            Some(Frame { kind: HEADERS, payload, .. }) => return if payload[0] == frames::OK[0] { "taken" } else { "refused" },
            Some(_) => {}
        }
    }
}

#[test]
fn malformed_requests_are_refused_and_the_connection_lives() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const A: (&str, &str) = (":authority", "h.test");
    const P: (&str, &str) = (":path", "/x");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8]);
    let table: &[Case] = &[
        ("connection", &[M, S, A, P, ("connection", "x-y")], b""),
        ("keep-alive", &[M, S, A, P, ("keep-alive", "1")], b""),
        ("proxy-connection", &[M, S, A, P, ("proxy-connection", "close")], b""),
        ("transfer-encoding", &[M, S, A, P, ("transfer-encoding", "chunked")], b""),
        ("upgrade", &[M, S, A, P, ("upgrade", "websocket")], b""),
        ("te", &[M, S, A, P, ("te", "gzip")], b""),
        ("an upper-case name", &[M, S, A, P, ("X-Y", "z")], b""),
        ("an empty name", &[M, S, A, P, ("", "z")], b""),
        ("a space in a name", &[M, S, A, P, ("x y", "z")], b""),
        ("a colon in a name", &[M, S, A, P, ("x:y", "z")], b""),
        ("a line feed in a value", &[M, S, A, P, ("x", "a\nb: c")], b""),
        ("a carriage return in a value", &[M, S, A, P, ("x", "a\rb")], b""),
        ("a NUL in a value", &[M, S, A, P, ("x", "a\0b")], b""),
        ("no path", &[M, S, A], b""),
        ("an empty path", &[M, S, A, (":path", "")], b""),
        ("a path without its slash", &[M, S, A, (":path", "x")], b""),
        ("a space in the path", &[M, S, A, (":path", "/x HTTP/1.1")], b""),
        ("a line feed in the path", &[M, S, A, (":path", "/x\r\nHost: evil")], b""),
        ("no method", &[S, A, P], b""),
        ("a space in the method", &[(":method", "GET /"), S, A, P], b""),
        ("two paths", &[M, S, A, P, P], b""),
        ("two authorities", &[M, S, A, A, P], b""),
        ("no host at all", &[M, S, P], b""),
        ("another host", &[M, S, A, P, ("host", "evil.test")], b""),
        ("a user in the authority", &[M, S, (":authority", "me@h.test"), P], b""),
        ("a slash in the authority", &[M, S, (":authority", "h.test/x"), P], b""),
        ("a response's field", &[M, S, A, P, (":status", "200")], b""),
        ("an unknown pseudo field", &[M, S, A, P, (":x", "y")], b""),
        ("a pseudo field after others", &[M, S, A, ("x", "y"), P], b""),
        (":protocol without CONNECT", &[M, S, A, P, (":protocol", "websocket")], b""),
        ("CONNECT", &[(":method", "CONNECT"), A], b""),
        ("a length below the body", &[(":method", "POST"), S, A, P, ("content-length", "3")], b"abcd"),
        ("a length beyond the body", &[(":method", "POST"), S, A, P, ("content-length", "5")], b"abcd"),
        ("two lengths", &[(":method", "POST"), S, A, P, ("content-length", "4"), ("content-length", "5")], b"abcd"),
        ("the same length twice", &[(":method", "POST"), S, A, P, ("content-length", "4"), ("content-length", "4")], b"abcd"),
        // Requests in it would pass every route.
        ("HTTP/2 within HTTP/2", &[(":method", "CONNECT"), (":protocol", "h2c"), S, A, P], b""),
        ("a length that is none", &[(":method", "POST"), S, A, P, ("content-length", "+4")], b"abcd"),
    ];
    for (name, fields, body) in table {
        let mut raw = Raw::open(weir.address());
        let end = if body.is_empty() { END_STREAM } else { 0 };
        let mut request = frame(HEADERS, END_HEADERS | end, 1, &block(fields));
        if !body.is_empty() {
            request.extend(frame(DATA, END_STREAM, 1, body));
        }
        raw.send(request).unwrap();
        let came_to = outcome(&mut raw, 1);
        assert_ne!(came_to, "taken", "{name}");
        if came_to != "connection" {
            raw.send(frames::get(3, "/fine")).unwrap();
            assert_eq!(outcome(&mut raw, 3), "taken", "{name}: the connection is hurt");
        }
    }
    // What is fine: in one cookie, and `te: trailers`.
    let mut raw = Raw::open(weir.address());
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[M, S, A, P, ("te", "trailers"), ("host", "H.test")]))).unwrap();
    assert_eq!(outcome(&mut raw, 1), "taken");
}

#[test]
fn limits_of_heads_and_streams_are_held() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mut raw = Raw::open(weir.address());
    let head = [(":method", "GET"), (":scheme", "http"), (":authority", "h.test"), (":path", "/x")];
    // 120 fields; then 90 fields of 720 bytes.
    let many: Vec<(&str, &str)> = head.into_iter().chain(std::iter::repeat_n(("a", "b"), 120)).collect();
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&many))).unwrap();
    assert_eq!(outcome(&mut raw, 1), "refused");
    let mut large = block(&head);
    for _ in 0..90 {
        // A length of 720 does not fit in a byte: RFC 7541 section 5.1.
        large.extend([0, 1, b'a', 127, 0xd1, 4]);
        large.extend([b'x'; 127 + 0x51 + (4 << 7)]);
    }
    let mut pieces = large.chunks(16_000).peekable();
    raw.send(frame(HEADERS, END_STREAM, 3, pieces.next().unwrap())).unwrap();
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        raw.send(frame(CONTINUATION, last, 3, piece)).unwrap();
    }
    assert_eq!(outcome(&mut raw, 3), "refused");
    eventually("the counter", || (counter(&weir, "downstream_rq_headers_too_large") == 2).then_some(()));
    // A hundred streams at once, and the next is refused; it may be asked again when one has ended.
    for stream in (5..5 + 2 * 101).step_by(2) {
        raw.send(frames::get(stream, "/x?delay=10m")).unwrap();
    }
    assert_eq!(outcome(&mut raw, 5 + 2 * 100), "reset");
    eventually("the counter", || (counter(&weir, "downstream_rq_http2_refused") == 1).then_some(()));
    raw.send(frame(RST_STREAM, 0, 5, &8u32.to_be_bytes())).unwrap();
    eventually("the end of one", || (counter(&weir, "downstream_rq_active") == 99).then_some(()));
    raw.send(frames::get(5 + 2 * 101, "/x")).unwrap();
    assert_eq!(outcome(&mut raw, 5 + 2 * 101), "taken");
}
