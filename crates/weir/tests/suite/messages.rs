//! Which parts of a message the gateway may change, by RFC 9110 and RFC 9112, where other gateways are known to differ: bytes in,
//! bytes out, on both sides.
use crate::{
    client::Connection,
    frames::{self, END_HEADERS, END_STREAM, HEADERS, Raw, block, frame},
    harness::{Weir, raw_upstream, runtime},
    streams::h2c,
    yaml::ToEcho,
};
use bytes::Bytes;
use http::Request;
use std::{
    future::poll_fn,
    io::Write,
    net::TcpListener,
    sync::{Arc, Mutex},
};

/// A gateway before an upstream that answers everything with the same bytes, and the heads that it saw, in lower case.
fn answering(answer: &'static str) -> (Weir, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let port = raw_upstream(move |head| {
        heads.lock().unwrap().push(head.to_ascii_lowercase());
        answer.into()
    });
    (ToEcho::new().upstream(port).start().run(), seen)
}

#[test]
fn an_upstream_is_told_what_is_meant_for_it() {
    let (weir, seen) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    // A request's lines; what the upstream sees of them, and what it does not.
    let table: &[(&str, &[&str], &[&str])] = &[
        // Said by proxies of a mesh to each other, never by a client.
        (
            "HTTP/1.1|x-envoy-original-path: /p|X-Envoy-Internal: true|x-envoy-upstream-rq-timeout-ms: 1|x-envoyed: 1",
            &["x-envoyed: 1"],
            &["x-envoy-"],
        ),
        // The sender of `te` must list it in `connection`; what passes trailers on may say so itself.
        ("HTTP/1.1|te: trailers|connection: te", &["te: trailers"], &["connection"]),
        ("HTTP/1.1|te: gzip", &[], &["te:"]),
        // Trailers pass, and so does their announcement.
        ("HTTP/1.1|trailer: x-t", &["trailer: x-t"], &[]),
        ("HTTP/1.1|connection: x-a, keep-alive|x-a: 1|x-b: 2", &["x-b: 2"], &["x-a", "connection", "keep-alive"]),
        // An upgrade is what it is in HTTP/1.1 only.
        ("HTTP/1.1|connection: upgrade|upgrade: x", &["connection: upgrade", "upgrade: x"], &[]),
        ("HTTP/1.0|connection: upgrade|upgrade: x", &[], &["upgrade"]),
        ("HTTP/1.1|upgrade: x", &[], &["upgrade"]),
    ];
    for (lines, with, without) in table {
        let mut c = Connection::open(weir.address()).unwrap();
        let (version, fields) = lines.split_once('|').unwrap();
        c.send(format!("GET /x {version}\r\nhost: h.test\r\n{}\r\n\r\n", fields.replace('|', "\r\n"))).unwrap();
        assert_eq!(c.answer().unwrap().status, 200, "{lines}");
        let head = seen.lock().unwrap().pop().unwrap();
        for part in *with {
            assert!(head.contains(&format!("\n{part}")), "{lines}: no {part} in {head}");
        }
        for part in *without {
            assert!(!head.contains(&format!("\n{part}")), "{lines}: {part} in {head}");
        }
    }
    // A body that is usual and missing: HTTP/2 says so by its flag, HTTP/1 by a length.
    let mut raw = Raw::open(weir.address());
    for (stream, method, length) in [(1, "POST", true), (3, "PUT", true), (5, "GET", false), (7, "DELETE", false)] {
        let head = block(&[(":method", method), (":scheme", "http"), (":authority", "h.test"), (":path", "/x")]);
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)).unwrap();
        assert!(raw.next_of(stream).is_some_and(|f| f.kind == HEADERS), "{method}");
        let head = seen.lock().unwrap().pop().unwrap();
        assert_eq!(head.contains("content-length: 0"), length, "{method}: {head}");
        assert!(!head.contains("transfer-encoding"), "{method}: {head}");
    }
}

#[test]
fn a_client_is_told_what_is_meant_for_it() {
    // Request, the upstream's answer, what the client gets first, and what it must not get.
    let get = "GET /x HTTP/1.1\r\nhost: h.test\r\n\r\n";
    let table: &[(&str, &str, &str, &[&str])] = &[
        (get, "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", "HTTP/1.1 204 ", &["content-length"]),
        (get, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 204 ", &["transfer-encoding"]),
        (get, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n", &[]),
        (
            get,
            "HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 ",
            &["content-length: 5"],
        ),
        (
            "HEAD /x HTTP/1.0\r\nhost: h.test\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 ",
            &["transfer-encoding"],
        ),
        (
            get,
            "HTTP/1.1 200 OK\r\ntrailer: x-t\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-t: v\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntrailer: x-t\r\n",
            &[],
        ),
        // What is asked for is a tunnel: nothing that follows may be taken for a request.
        (
            "CONNECT h.test:443 HTTP/1.1\r\nhost: h.test\r\n\r\nGET / HTTP/1.1\r\nhost: h.test\r\n\r\n",
            "",
            "HTTP/1.1 403 ",
            &["HTTP/1.1 404"],
        ),
    ];
    for (request, answer, told, without) in table {
        let (weir, _) = answering(answer);
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(request).unwrap();
        let mut all = String::new();
        // One head more than the interim ones.
        while all.matches("\r\n\r\n").count() <= told.matches("\r\n\r\n").count() {
            all += &String::from_utf8(c.bytes(1).unwrap()).unwrap();
        }
        if request.starts_with("CONNECT") {
            assert!(all.contains("connection: close"), "{all}");
            c.bytes(9).unwrap();
            assert!(c.is_closed(), "{request}");
        }
        assert!(all.starts_with(told), "{request:?} {answer:?}: {all:?}");
        for part in *without {
            assert!(!all.contains(part), "{request:?} {answer:?}: {all:?}");
        }
    }
}

/// What ends before its head does is no answer at all: 502, as of any upstream that cannot be understood.
#[test]
fn a_part_of_a_head_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            let _ = std::io::Read::read(&mut io, &mut [0; 4096]);
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-le");
        }
    });
    let weir = ToEcho::new().upstream(port).start().run();
    assert_eq!(weir.get("h.test", "/x").status, 502);
}

#[test]
fn http2_says_the_same_as_http1() {
    // A client that waits for 100 Continue before its body.
    for yaml in [ToEcho::new(), ToEcho::new().h2c()] {
        let weir = yaml.start().run();
        runtime().block_on(async {
            let mut client = h2c(weir.address()).await.ready().await.unwrap();
            let request = Request::post("http://h.test/x").header("expect", "100-continue").body(()).unwrap();
            let (mut response, mut out) = client.send_request(request, false).unwrap();
            let told = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!(told.status(), 100);
            out.send_data(Bytes::from_static(b"abc"), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        });
    }
    // Bytes that HTTP/1 tolerates in a target are escaped where they cannot be said.
    let weir = ToEcho::new().h2c().start().run();
    let mut c = Connection::open(weir.address()).unwrap();
    let told = c.request("GET", "h.test", "/a<b>`c|d^{e}?q=\"f\"<g>|h", &[], b"").unwrap().json();
    assert_eq!(told["path"], "/a%3Cb%3E%60c%7Cd%5E%7Be%7D");
    assert_eq!(told["query"], "q=%22f%22%3Cg%3E%7Ch");
    // An upstream that says two lengths is not believed.
    for (name, lengths, status) in [("one", "2", 200), ("twice the same", "2,2", 502), ("two", "2,3", 502), ("none", "x", 502)] {
        let port = frames::upstream(&[], move |mut raw| {
            while let Some(f) = raw.next() {
                if f.kind == HEADERS {
                    let fields = lengths.split(',').map(|n| ("content-length", n));
                    let head = block(&[(":status", "200")].into_iter().chain(fields).collect::<Vec<_>>());
                    let _ =
                        raw.send([frame(HEADERS, END_HEADERS, f.stream, &head), frame(frames::DATA, END_STREAM, f.stream, b"ok")].concat());
                }
            }
        });
        let weir = ToEcho::new().upstream(port).h2c().start().run();
        assert_eq!(weir.get("h.test", "/x").status, status, "{name}");
    }
}
