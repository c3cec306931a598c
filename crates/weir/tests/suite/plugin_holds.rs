//! Plugins that hold a stream: every way to hold, in front of bodies of every size, and what happens meanwhile.
use crate::{
    aborts::{descriptors, left},
    client::{Answer, Connection},
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, block, frame},
    harness::{PATIENCE, Start, Weir, eventually, runtime, sized_upstream},
    plugin_kit::{guest_of, istio},
    streams::h2c,
    yaml::ToEcho,
};
use bytes::Bytes;
use http::Request;
use std::{io::Write, net::TcpStream, time::Duration};

/// Holds the head of a request with the action that `x-hold-request` names and its whole body where `x-wait-request` is there
/// (`s`: with back-pressure), of a response likewise. A tick resumes it. With `x-keep` only a request with `x-release` does: a tick
/// that an earlier stream asked for is cancelled.
fn holding(bodies: bool) -> String {
    let keep = "(global.set $held (local.get $context))
        (call $say [it holds])
        (drop (call $tick (select (i32.const 0) (i32.const 10) (call $has [x-keep]))))";
    let head = |name: &str, first: &str| {
        format!(
            r#"(func (export "proxy_on_{name}_headers") (param $context i32) (param i32 i32) (result i32)
              {first}
              (if (i32.eqz (call $has [x-hold-{name}])) (then (return (i32.const 0))))
              {keep}
              (drop (call $has [x-hold-{name}]))
              (i32.sub (i32.load8_u (i32.load (i32.const 4))) (i32.const 48)))"#
        )
    };
    let body = |name: &str| {
        format!(
            r#"(func (export "proxy_on_{name}_body") (param $context i32) (param $size i32) (param $end i32) (result i32)
              (if (i32.eqz (call $has [x-wait-{name}])) (then (return (i32.const 0))))
              (if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const 115)) (then {keep} (return (i32.const 2))))
              (if (local.get $end) (then {keep}))
              (i32.const 1))"#
        )
    };
    let release = "(if (call $has [x-release]) (then
        (drop (call $effective (global.get $held)))
        (drop (call $continue (i32.const 0)))
        (drop (call $continue (i32.const 1)))
        (drop (call $effective (local.get $context)))
        (return (i32.const 0))))";
    let bodies = if bodies { body("request") + &body("response") } else { String::new() };
    guest_of(
        "0_2_100",
        &(head("request", release)
            + &head("response", "")
            + &bodies
            + r#"(global $held (mut i32) (i32.const 0))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func (export "proxy_on_tick") (param i32)
              (drop (call $tick (i32.const 0)))
              (if (i32.eqz (call $effective (global.get $held))) (then
                (drop (call $continue (i32.const 0)))
                (drop (call $continue (i32.const 1))))))"#),
    )
}

/// Reports when it is shown a body before its head.
fn watching() -> String {
    let direction = |name: &str, bit: u32| {
        format!(
            r#"(func (export "proxy_on_{name}_headers") (param $context i32) (param i32 i32) (result i32)
              (i32.store (call $place (i32.shl (local.get $context) (i32.const 2)))
                (i32.or (i32.load (call $place (i32.shl (local.get $context) (i32.const 2)))) (i32.const {bit})))
              (i32.const 0))
            (func (export "proxy_on_{name}_body") (param $context i32) (param i32 i32) (result i32)
              (if (i32.eqz (i32.and (i32.load (call $place (i32.shl (local.get $context) (i32.const 2)))) (i32.const {bit})))
                (then (call $say [a body before its head])))
              (i32.const 0))"#
        )
    };
    let create = "(func (export \"proxy_on_context_create\") (param $context i32) (param i32)
        (i32.store (call $place (i32.shl (local.get $context) (i32.const 2))) (i32.const 0)))";
    guest_of("0_2_100", &(direction("request", 1) + &direction("response", 2) + create))
}

/// On one worker: a plugin that holds between two that watch, so that each direction meets one behind it.
fn gateway(bodies: bool) -> Weir {
    let plugins: String = [("before", 3, "watches"), ("holds", 2, "holds"), ("behind", 1, "watches")]
        .iter()
        .map(|(name, priority, file)| istio(name, &format!("url: file://{file}.wat\npriority: {priority}")))
        .collect();
    Start::new()
        .file("gateway.yaml", ToEcho::and_sized())
        .word("SIZED", sized_upstream())
        .file("holds.wat", holding(bodies))
        .file("watches.wat", watching())
        .file("plugins.yaml", plugins)
        .workers(1)
        .run()
}

fn over_http1(weir: &Weir, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>, chunked: bool) -> Answer {
    let mut client = Connection::open(weir.address()).unwrap();
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\n");
    headers.iter().for_each(|(n, v)| head += &format!("{n}: {v}\r\n"));
    match (body, chunked) {
        (None, _) => head += "\r\n",
        (Some(_), true) => head += "transfer-encoding: chunked\r\n\r\n",
        (Some(body), false) => head += &format!("content-length: {}\r\n\r\n", body.len()),
    }
    let mut bytes = head.into_bytes();
    for piece in body.unwrap_or_default().chunks(50_000) {
        if chunked {
            bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        }
        bytes.extend(piece);
        if chunked {
            bytes.extend(b"\r\n");
        }
    }
    if body.is_some() && chunked {
        bytes.extend(b"0\r\n\r\n");
    }
    // One that is answered early stops reading.
    let _ = client.send(bytes);
    client.answer().unwrap_or_else(|e| panic!("{path} {headers:?} {:?}: {e}", body.map(<[u8]>::len)))
}

fn over_http2(weir: &Weir, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
    runtime().block_on(async {
        let uri = format!("http://{}{path}", weir.address());
        let mut request = if body.is_some() { Request::post(uri) } else { Request::get(uri) };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let ends = body.is_none_or(<[u8]>::is_empty);
        let (response, mut send) = h2c(weir.address()).await.ready().await.unwrap().send_request(request.body(()).unwrap(), ends).unwrap();
        if let Some(body) = body.filter(|b| !b.is_empty()) {
            send.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let response = tokio::time::timeout(PATIENCE, response).await.unwrap_or_else(|_| panic!("{path} {headers:?} hangs"));
        let (parts, mut body) = response.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend_from_slice(&piece);
        }
        Answer { status: parts.status.as_u16(), body: String::from_utf8_lossy(&bytes).into_owned(), ..Answer::default() }
    })
}

const SIZES: [usize; 7] = [0, 10, 65535, 65536, 65537, 200_000, 3_000_000];
const PROTOCOLS: [&str; 3] = ["length", "chunked", "h2"];

fn send(weir: &Weir, protocol: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
    match protocol {
        "h2" => over_http2(weir, path, headers, body),
        _ => over_http1(weir, path, headers, body, protocol == "chunked"),
    }
}

#[test]
fn a_held_head_lets_bodies_of_every_size_flow_once_it_is_resumed() {
    for bodies in [true, false] {
        let weir = gateway(bodies);
        for size in SIZES {
            let body = vec![b'y'; size];
            for protocol in PROTOCOLS {
                // StopIteration, StopAllIterationAndBuffer, StopAllIterationAndWatermark.
                for hold in ["1", "3", "4"] {
                    let what = format!("{hold} in front of {size} bytes, {protocol}, bodies are seen: {bodies}");
                    let answer = send(&weir, protocol, "/x", &[("x-hold-request", hold)], Some(&body));
                    // A plugin may hold 1 MiB without back-pressure; a body that no plugin wants to see is not held.
                    if hold == "3" && size > 1 << 20 && answer.status == 413 {
                        continue;
                    }
                    assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &size.into()), "{what}");
                    if protocol == "chunked" {
                        continue;
                    }
                    for path in ["bytes", "sized"] {
                        let answer = send(&weir, protocol, &format!("/{path}/{size}"), &[("x-hold-response", hold)], None);
                        if hold == "3" && size > 1 << 20 && answer.status == 500 {
                            assert!(answer.body.contains("default/holds"), "{what}: {}", answer.body);
                            continue;
                        }
                        assert_eq!((answer.status, answer.body.len()), (200, size), "{what}, response of /{path}");
                    }
                }
            }
        }
        assert_eq!(weir.lines("a body before its head"), Vec::<String>::new());
        eventually("nothing is left", || left(&weir, false).is_empty().then_some(()));
    }
}

#[test]
fn a_plugin_that_waits_for_a_whole_body_gets_it_or_a_clear_answer() {
    let weir = gateway(true);
    for size in SIZES {
        let body = vec![b'y'; size];
        for protocol in PROTOCOLS {
            // Buffered until its end; held with back-pressure and let go by a tick.
            for wait in ["b", "s"] {
                // With the head going on, and held until the body has come.
                for hold in [&[][..], &[("x-hold-request", "1")]] {
                    let what = format!("{wait} {size} bytes, {protocol}, {hold:?}");
                    let headers = [hold, &[("x-wait-request", wait)]].concat();
                    let answer = send(&weir, protocol, "/x", &headers, Some(&body));
                    if wait == "b" && size > 1 << 20 {
                        assert_eq!(answer.status, 413, "{what}: {answer:?}");
                        assert!(answer.body.contains("default/holds"), "{what}: {answer:?}");
                    } else {
                        assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &size.into()), "{what}");
                    }
                }
                if protocol == "chunked" {
                    continue;
                }
                // The second one does not say its length: its head must be held for an answer that is another one.
                for (path, hold) in [("sized", &[][..]), ("bytes", &[("x-hold-response", "1")])] {
                    let what = format!("{wait} {size} bytes, {protocol}, {path}");
                    let too_large = wait == "b" && size > 1 << 20;
                    // The head is not let go before the body has reached the limit.
                    let keep = if too_large { &[("x-keep", "1")][..] } else { &[] };
                    let headers = [hold, keep, &[("x-wait-response", wait)]].concat();
                    let answer = send(&weir, protocol, &format!("/{path}/{size}"), &headers, None);
                    if too_large {
                        assert_eq!(answer.status, 500, "{what}: {answer:?}");
                        assert!(answer.body.contains("default/holds"), "{what}: {answer:?}");
                    } else {
                        assert_eq!((answer.status, answer.body.len()), (200, size), "{what}");
                    }
                }
            }
        }
    }
    assert_eq!(weir.lines("a body before its head"), Vec::<String>::new());
}

#[test]
fn what_is_held_back_waits_with_the_client() {
    const SIZE: usize = 30_000_000;
    let weir = gateway(true);
    let before = weir.resident_kb();
    for hold in ["x-hold-request: 4", "x-wait-request: s"] {
        let holds = weir.lines("it holds").len();
        let client = TcpStream::connect(weir.address()).unwrap();
        (&client)
            .write_all(format!("POST /x HTTP/1.1\r\nhost: h\r\nx-keep: 1\r\n{hold}\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes())
            .unwrap();
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || sender.write_all(&vec![b'y'; SIZE]).unwrap());
        eventually("it holds", || (weir.lines("it holds").len() > holds).then_some(()));
        // The socket takes some megabytes; the gateway must not take the rest.
        let mut calm = 0;
        let mut last = 0;
        eventually("the client waits", || {
            let now = weir.resident_kb();
            calm = if now == last { calm + 1 } else { 0 };
            last = now;
            std::thread::sleep(Duration::from_millis(5));
            (calm > 20).then_some(())
        });
        assert!(!sending.is_finished(), "{hold}");
        assert!(weir.resident_kb() < before + 10_000, "{hold}: {} kB", weir.resident_kb() - before);
        // A body that is shown piece by piece is paused separately for each piece.
        while !sending.is_finished() {
            over_http1(&weir, "/", &[("x-release", "1")], None, false);
        }
        sending.join().unwrap();
        client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        eventually("an answer", || {
            over_http1(&weir, "/", &[("x-release", "1")], None, false);
            client.peek(&mut [0]).ok()
        });
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let answer = Connection::over(client).answer().unwrap();
        assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &SIZE.into()), "{hold}");
    }
}

#[test]
fn a_client_that_leaves_while_a_plugin_holds_is_noticed() {
    let weir = gateway(true);
    assert_eq!(weir.get("h", "/").status, 200);
    let before = descriptors(&weir);
    // What holds, and bytes of the request's body: all of it read by then, and more than is read.
    let small = ["x-hold-request: 4", "x-wait-request: b", "x-wait-request: s", "x-hold-response: 4", "x-wait-response: b"];
    let rows = small.iter().map(|h| (*h, 5)).chain(["x-hold-request: 4", "x-wait-request: s"].map(|h| (h, 150_000)));
    for (hold, size) in rows {
        for protocol in ["h1", "h1 half closed", "h2", "h2 reset"] {
            let holds = weir.lines("it holds").len();
            let body = vec![b'y'; size];
            let mut raw;
            let mut half = None;
            let (name, value) = hold.split_once(": ").unwrap();
            if protocol.starts_with("h1") {
                raw = Raw { io: TcpStream::connect(weir.address()).unwrap() };
                // The client sends more than the gateway reads: the end of the connection comes after unread bytes.
                let length = if size == 5 { size } else { 10_000_000 };
                raw.send(format!("POST /stream HTTP/1.1\r\nhost: h.test\r\nx-keep: 1\r\n{hold}\r\ncontent-length: {length}\r\n\r\n"))
                    .unwrap();
                raw.send(&body).unwrap();
                half = Some(raw.io.try_clone().unwrap());
            } else {
                raw = Raw::open(weir.address());
                let fields = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":authority", "h.test"),
                    (":path", "/stream"),
                    ("x-keep", "1"),
                    (name, value),
                ];
                raw.send(frame(HEADERS, END_HEADERS, 1, &block(&fields))).unwrap();
                // Within the first window.
                let body = &body[..size.min(60_000)];
                for piece in body.chunks(15_000) {
                    raw.send(frame(DATA, if size == 5 { END_STREAM } else { 0 }, 1, piece)).unwrap();
                }
            }
            eventually("it holds", || (weir.lines("it holds").len() > holds).then_some(()));
            match protocol {
                "h1 half closed" => half.as_ref().unwrap().shutdown(std::net::Shutdown::Write).unwrap(),
                "h2 reset" => raw.send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).unwrap(),
                _ => {}
            }
            if protocol == "h1 half closed" || protocol == "h2 reset" {
                eventually(&format!("{hold} {size} {protocol}: no stream is left"), || {
                    (!left(&weir, false).iter().any(|l| l.contains("downstream_rq_active"))).then_some(())
                });
            }
            drop((raw, half));
            eventually(&format!("{hold} {size} {protocol}: nothing is left"), || {
                let nothing = left(&weir, false).is_empty() && descriptors(&weir) <= before;
                nothing.then_some(())
            });
        }
    }
}
