//! What a plugin may do in each phase of a stream: bodies frame by frame, their edits, trailers, replies, injected bytes, headers
//! of any bytes.
use crate::{
    client::{self, Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually, raw_upstream, runtime},
    plugin_kit::{guest, guest_of, istio, notes, on_headers, on_one_worker, shown},
    streams::{h2c, says, websocket},
    yaml::ToEcho,
};
use bytes::Bytes;
use http::Request;

/// Both callbacks of headers and bodies, noted by `h`, `b`, `H`, `B` with the size of what can be read. A body is answered with
/// the action that `x-request` or `x-response` names until its end, where `last` runs.
fn noting(last: &str) -> String {
    let direction = |name: &str, map: u32, h: char, b: char| {
        format!(
            r#"(func (export "proxy_on_{name}_headers") (param i32 i32) (param $end i32) (result i32)
              (if (call $is_tell) (then {tell} (return (i32.const 0))))
              (call $note (i32.const {h}) (i32.const 0) (local.get $end))
              (drop (call $remove (i32.const {map}) [content-length]))
              (i32.const 0))
            (func (export "proxy_on_{name}_body") (param i32) (param $size i32) (param $end i32) (result i32)
              (if (call $is_tell) (then (return (i32.const 0))))
              (call $note (i32.const {b}) (local.get $size) (local.get $end))
              (if (local.get $end) (then {last} (return (i32.const 0))))
              (if (i32.eqz (call $has [x-{name}])) (then (return (i32.const 0))))
              (i32.sub (i32.load8_u (i32.load (i32.const 4))) (i32.const 48)))"#,
            tell = if name == "request" { "(call $tell)" } else { "" },
            h = u32::from(h),
            b = u32::from(b),
            last = last.replace("DIRECTION", if name == "request" { "0" } else { "1" }).replace("NAME", name),
        )
    };
    direction("request", 0, 'h', 'b') + &direction("response", 2, 'H', 'B')
}

/// Sizes that were noted under a letter, and whether each was an end.
fn sizes(told: &str, letter: char) -> Vec<(usize, bool)> {
    let of_letter = told.split(' ').filter_map(|n| n.strip_prefix(letter));
    of_letter.map(|n| (n.trim_end_matches('!').parse().unwrap_or(0), n.ends_with('!'))).collect()
}

/// What was noted of a body of that size is as it must be for that action; how much of it goes on.
#[track_caller]
fn judge(what: &str, told: &[(usize, bool)], action: u32, size: usize) -> usize {
    let ends = told.iter().filter(|(_, end)| *end).count();
    assert!(ends == 1 && told.last().unwrap().1, "{what}: one end, and it comes last: {told:?}");
    let (sum, last) = (told.iter().map(|(n, _)| n).sum::<usize>(), told.last().unwrap().0);
    match action {
        0 => assert_eq!(sum, size, "{what}: {told:?}"),
        3 => {
            assert_eq!(sum, size, "{what}: {told:?}");
            return last;
        }
        // All that is held counts, the frame at hand included.
        _ => assert!(last == size && told.is_sorted(), "{what}: {told:?}"),
    }
    size
}

async fn over_http2(weir: &Weir, action: u32, size: usize) -> serde_json::Value {
    let request = Request::post(format!("http://{}/x", weir.address())).header("x-request", action.to_string()).body(()).unwrap();
    let (response, mut send) = h2c(weir.address()).await.ready().await.unwrap().send_request(request, size == 0).unwrap();
    let body = Bytes::from(vec![b'y'; size]);
    for at in (0..size).step_by(8192) {
        let end = (at + 8192).min(size);
        send.send_data(body.slice(at..end), end == size).unwrap();
    }
    let mut body = response.await.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        text.extend_from_slice(&piece.unwrap());
    }
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn bodies_by_action_size_and_protocol() {
    let weir = on_one_worker(guest(&noting("")), "");
    let tell = || notes(&weir.get("h", "/tell"));
    for size in [0, 1, 8192, 16384, 24576, 25246] {
        for action in 0..=3 {
            for protocol in ["length", "chunked", "h2"] {
                let what = format!("{size} bytes by {protocol}, action {action}");
                let seen = if protocol == "h2" {
                    runtime().block_on(over_http2(&weir, action, size))
                } else {
                    let mut client = Connection::open(weir.address()).unwrap();
                    let framing =
                        if protocol == "chunked" { "transfer-encoding: chunked".into() } else { format!("content-length: {size}") };
                    client.send(format!("POST /x HTTP/1.1\r\nhost: h\r\nx-request: {action}\r\n{framing}\r\n\r\n")).unwrap();
                    for piece in vec![b'y'; size].chunks(7000) {
                        let coded = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                        client.send(if protocol == "chunked" { &coded } else { piece }).unwrap();
                    }
                    if protocol == "chunked" {
                        client.send("0\r\n\r\n").unwrap();
                    }
                    client.answer().unwrap().json()
                };
                let told = tell();
                let bodies = sizes(&told, 'b');
                let wanted = if bodies.is_empty() {
                    assert!(size == 0 && told.starts_with("h!"), "{what}: {told}");
                    0
                } else {
                    assert!(told.starts_with("h b"), "{what}: {told}");
                    judge(&what, &bodies, action, size)
                };
                assert_eq!(seen["body_bytes"], wanted, "{what}: {told}");
            }
            let what = format!("{size} bytes of an answer, action {action}");
            let path = format!("/bytes/{size}");
            let answer = client::request(weir.address(), "GET", "h", &path, &[("x-response", &action.to_string())], b"").unwrap();
            let told = tell();
            let wanted = if size == 0 {
                assert_eq!(told, "h! H!", "{what}");
                0
            } else {
                judge(&what, &sizes(&told, 'B'), action, size)
            };
            assert_eq!((answer.status, answer.body.len()), (200, wanted), "{what}: {told}");
        }
    }
    // Answers that have no body, and what is no answer yet.
    for (method, path, wanted) in [("HEAD", "/bytes/5", "h! H!"), ("GET", "/status/204", "h! H!"), ("GET", "/status/304", "h! H!")] {
        let mut client = Connection::open(weir.address()).unwrap();
        client.send(format!("{method} {path} HTTP/1.1\r\nhost: h\r\n\r\n")).unwrap();
        client.head().unwrap();
        assert_eq!(tell(), wanted, "{method} {path}");
    }
}

#[test]
fn interim_answers_and_what_follows_an_upgrade_are_not_shown() {
    let early = raw_upstream(|_| "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into());
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().upstream(early).text())
        .file("guest.wat", guest(&noting("")))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .workers(1)
        .run();
    assert_eq!(weir.get("h", "/").body, "ok");
    // The end may come behind the last bytes.
    assert_eq!(notes(&weir.get("h", "/tell")).replace("B2 B!", "B2!"), "h! H B2!");
    weir.write("gateway.yaml", TO_ECHO);
    weir.get_until("h", "/", |a| a.body != "ok");
    weir.get("h", "/tell");
    runtime().block_on(async {
        let mut socket = websocket(weir.address()).await;
        says(&mut socket, "hello").await;
    });
    let told = notes(&weir.get("h", "/tell"));
    assert!(told.starts_with('h') && told.contains('H') && !told.contains("b5") && !told.contains("B5"), "{told}");
}

#[test]
fn edits_of_bodies_in_every_place() {
    let edit = |letter: char, start: &str, len: &str| {
        format!(
            "(if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const {})) (then
               (call $note (i32.const 69) (call $set_buffer (i32.const DIRECTION) {start} {len} [new]) (i32.const 0))))",
            u32::from(letter)
        )
    };
    let size = "(local.get $size)";
    let (zero, one, max) = ("(i32.const 0)", "(i32.const 1)", "(i32.const 0x7fffffff)");
    let edits = edit('p', zero, zero)
        + &edit('r', zero, size)
        + &edit('R', zero, max)
        + &edit('a', size, zero)
        + &edit('A', max, zero)
        + &edit('m', one, one)
        + &edit('n', one, zero)
        + &edit('e', zero, one);
    let weir = on_one_worker(guest(&noting(&format!("(if (call $has [x-edit-NAME]) (then {edits}))"))), "");
    for direction in ["request", "response"] {
        for (edit, wanted, status) in [
            ("p", "newtext", ""),
            ("r", "new", ""),
            ("R", "new", ""),
            ("a", "textnew", ""),
            ("A", "textnew", ""),
            ("m", "text", "2"),
            ("n", "text", "2"),
            ("e", "text", "2"),
        ] {
            let headers = [(&*format!("x-edit-{direction}"), edit), (&*format!("x-{direction}"), "1")];
            let answer = client::request(weir.address(), "POST", "h", "/stream", &headers, b"text").unwrap();
            assert_eq!((answer.status, &*answer.body), (200, wanted), "{direction} {edit}: {answer:?}");
            let told = notes(&weir.get("h", "/tell"));
            assert!(told.split(' ').any(|n| n == format!("E{status}")), "{direction} {edit}: {told}");
        }
    }
}

#[test]
fn trailers_are_seen_held_changed_and_added() {
    let direction = |name: &str, map: u32, t: char| {
        format!(
            r#"(func (export "proxy_on_{name}_trailers") (param $context i32) (param $n i32) (result i32)
              (call $note (i32.const {t}) (local.get $n) (i32.const 0))
              (drop (call $add (i32.const {map}) [x-more] [yes]))
              (if (i32.eqz (call $has [x-hold])) (then (return (i32.const 0))))
              (global.set $held (local.get $context))
              (drop (call $tick (i32.const 20)))
              (i32.const 1))"#,
            t = u32::from(t)
        )
    };
    // Where a body ends without trailers, some can be added with its last bytes.
    let last = "(if (call $has [x-add-NAME]) (then
        (call $note (i32.const 65) (call $add (i32.add (i32.mul (i32.const DIRECTION) (i32.const 2)) (i32.const 1)) [x-late] [yes]) (i32.const 0))))";
    let code = noting(last)
        + &direction("request", 1, 't')
        + &direction("response", 3, 'T')
        + r#"(global $held (mut i32) (i32.const 0))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $tick (i32.const 0)))
          (call $note (i32.const 33) (i32.const 0) (i32.const 0))
          (if (call $effective (global.get $held)) (then unreachable))
          (drop (call $continue (i32.const 0)))
          (drop (call $continue (i32.const 1))))"#;
    let weir = on_one_worker(guest(&code), "");
    let ask = |path: &str, headers: &str, trailer: &str| -> (Answer, String) {
        let mut client = Connection::open(weir.address()).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\nte: trailers\r\n{headers}transfer-encoding: chunked\r\n\r\n");
        client.send(format!("{head}4\r\ntext\r\n0\r\n{trailer}\r\n")).unwrap();
        let answer = client.answer().unwrap();
        (answer, notes(&weir.get("h", "/tell")))
    };
    for hold in ["", "x-hold: 1\r\n"] {
        let tick = if hold.is_empty() { "" } else { " !" };
        let (answer, told) = ask("/x", hold, "x-t: v\r\n");
        assert_eq!(answer.json()["trailers"], serde_json::json!({ "x-t": "v", "x-more": "yes" }), "{answer:?}");
        assert!(told.starts_with(&format!("h b4 t1{tick} H")), "{told}");
        let (answer, told) = ask("/trailers", hold, "");
        let trailers: Vec<_> = answer.trailers.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(trailers, [("x-echo-trailer", "the end"), ("x-more", "yes")], "{told}");
        assert!(told.contains("T1"), "{told}");
    }
    let (answer, told) = ask("/x", "x-add-request: 1\r\n", "");
    assert_eq!((&answer.json()["trailers"]["x-late"], told.contains(" A ")), (&"yes".into(), true), "{answer:?} {told}");
    let (answer, told) = ask("/stream", "x-add-response: 1\r\n", "");
    assert_eq!((&*answer.body, &*answer.trailers), ("text", &[("x-late".to_string(), "yes".to_string())][..]), "{told}");
    assert_eq!(weir.stat("weir_wasm_traps.default/under-test"), 0);
}

/// Replies in the phase whose letter `x-at` has, twice, and goes on as if nothing were; holds the head of the answer in ABI
/// 0.2.100 where `x-hold` is there.
fn replying() -> String {
    let replies = |letter: char| {
        format!(
            "(if (call $has [x-at]) (then (if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const {})) (then
               (drop (call $reply (i32.const 418) [as asked] [short and stout] [pairs x-from=plugin,x-from=twice]
                 (select (i32.const 7) (i32.const -1) (call $has [x-grpc]))))
               (drop (call $reply (i32.const 500) (i32.const 0) (i32.const 0) [never] (i32.const 0) (i32.const 0) (i32.const -1)))))))",
            u32::from(letter)
        )
    };
    let callback = |name: &str, parameters: &str, letter: char, result: &str| {
        format!("(func (export \"proxy_on_{name}\") (param {parameters}) (result i32) {} {result})", replies(letter))
    };
    let hold = "(if (call $has [x-hold]) (then (return (i32.const 1)))) (i32.const 0)";
    callback("request_headers", "i32 i32 i32", 'h', "(i32.const 0)")
        + &callback("request_body", "i32 i32 i32", 'b', "(i32.const 0)")
        + &callback("request_trailers", "i32 i32", 't', "(i32.const 0)")
        + &callback("response_headers", "i32 i32 i32", 'H', hold)
        + &callback("response_body", "i32 i32 i32", 'B', "(i32.const 0)")
        + &callback("response_trailers", "i32 i32", 'T', "(i32.const 0)")
}

#[test]
fn replies_in_every_phase() {
    let plugin = istio("under-test", "url: file://guest.wat");
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("guest.wat", guest_of("0_2_100", &replying()))
        .file("plugin.yaml", plugin)
        .arg("--access-log-format")
        .arg("%REQ(X-AT)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%")
        .run();
    let ask = |at: &str, path: &str, headers: &str| {
        let mut client = Connection::open(weir.address()).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\nx-at: {at}\r\nte: trailers\r\n{headers}transfer-encoding: chunked\r\n\r\n");
        client.send(format!("{head}4\r\ntext\r\n0\r\nx-t: v\r\n\r\n")).unwrap();
        client.answer()
    };
    // The head of an answer that is held can still be another's.
    for (at, headers) in [("h", ""), ("b", ""), ("t", ""), ("H", ""), ("B", "x-hold: 1\r\n")] {
        let answer = ask(at, "/x", headers).unwrap();
        assert_eq!((answer.status, &*answer.body), (418, "short and stout"), "{at}: {answer:?}");
        let from: Vec<_> = answer.headers.iter().filter(|(n, _)| n == "x-from").map(|(_, v)| &**v).collect();
        assert_eq!(from, ["plugin", "twice"], "{at}");
        let line = format!("{at} 418 as_asked");
        eventually(&line, || weir.lines(&line).first().cloned());
    }
    // What has been sent cannot be taken back: the stream is cut off, unless all of it came at once.
    for at in ["B", "T"] {
        let path = if at == "B" { "/sse?n=2&every=60s" } else { "/trailers" };
        let answer = ask(at, path, "");
        assert!(answer.is_err() || answer.as_ref().is_ok_and(|a| a.status == 418), "{at}: {answer:?}");
    }
    let grpc = ask("h", "/x", "content-type: application/grpc\r\nx-grpc: 1\r\n").unwrap();
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("7")), "{grpc:?}");
    assert_eq!(weir.get("h", "/").status, 200);
    assert_eq!(weir.stat("weir_wasm_traps.default/under-test"), 0);
}

#[test]
fn injected_bytes_keep_their_order_and_wait_for_a_slow_reader() {
    // Each frame is consumed and injected again, with a mark before the first and behind the last.
    let code = r#"(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
          (drop (call $remove (i32.const 2) [content-length]))
          (drop (call $inject [<] (i32.const 0)))
          (i32.const 0))
        (func (export "proxy_on_response_body") (param i32) (param $size i32) (param $end i32) (result i32)
          (if (i32.eqz (call $get_buffer (i32.const 1) (i32.const 0) (local.get $size) (i32.const 4) (i32.const 8))) (then
            (if (local.get $size) (then (drop (call $inject (i32.load (i32.const 4)) (i32.load (i32.const 8)) (i32.const 0)))))))
          (if (local.get $end) (then (drop (call $inject [>] (i32.const 1)))))
          (i32.const 3))"#;
    let weir = on_one_worker(guest_of("0_2_100", code), "");
    for size in [1, 5000, 300_000] {
        let answer = weir.get("h", &format!("/bytes/{size}"));
        assert_eq!((answer.status, answer.body.len()), (200, size + 2));
        assert!(answer.body.starts_with("<x") && answer.body.ends_with("x>"), "{size}");
    }
    let before = weir.resident_kb();
    let mut slow = Connection::open(weir.address()).unwrap();
    slow.send("GET /bytes/400000000 HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    slow.bytes(1_000_000).unwrap();
    let name = "cluster.outbound|80||echo.default.svc.cluster.local.upstream_cx_rx_bytes_total";
    let mut last = (0, 0);
    eventually("the upstream waits", || {
        let now = weir.stat(name);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        std::thread::sleep(std::time::Duration::from_millis(5));
        (last.1 > 20).then_some(())
    });
    assert!(weir.resident_kb() < before + 20_000, "a slow reader makes the gateway hold {} kB", weir.resident_kb() - before);
}

#[test]
fn headers_of_any_bytes_and_repeated_ones() {
    let show = |map: u32, name: &str, as_: &str| {
        format!(
            "(if (call $get_value (i32.const {map}) [{name}] (i32.const 4) (i32.const 8)) (then (drop (call $add (i32.const 2) [{as_}] [-])))
             (else (drop (call $add (i32.const 2) [{as_}]
               (call $hex (i32.load (i32.const 4)) (i32.load (i32.const 8))) (i32.mul (i32.load (i32.const 8)) (i32.const 2))))))"
        )
    };
    let code = on_headers(
        "response",
        &[
            show(0, "x-raw", "x-seen-raw"),
            show(2, "set-cookie", "x-first-cookie"),
            "(drop (call $add (i32.const 2) [set-cookie] [c=3])) (drop (call $add (i32.const 2) [x-list] [1])) (drop (call $add (i32.const 2) [x-list] [2]))
             (drop (call $set (i32.const 2) [x-twice] [once])) (drop (call $remove (i32.const 2) [X-Gone])) (drop (call $remove (i32.const 2) [x-never]))"
                .into(),
            // All pairs there and back change nothing.
            "(if (call $get_pairs (i32.const 2) (i32.const 4) (i32.const 8)) (then unreachable))
             (if (call $set_pairs (i32.const 2) (i32.load (i32.const 4)) (i32.load (i32.const 8))) (then unreachable))"
                .into(),
        ]
        .concat(),
    );
    let raw = raw_upstream(|head| {
        let mark = head.lines().find(|l| l.to_ascii_lowercase().starts_with("x-raw")).unwrap_or_default().to_string();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nx-twice: a\r\nx-twice: b\r\nx-gone: a\r\nx-gone: b\r\nx-mark: {}\r\n\r\n",
            mark.len()
        )
    });
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().upstream(raw).text())
        .file("guest.wat", guest(&code))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let mut client = Connection::open(weir.address()).unwrap();
    client.send([&b"GET / HTTP/1.1\r\nhost: h\r\nx-raw: \xff\xfe caf\xe9\r\n\r\n"[..]].concat()).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(shown(answer.header("x-seen-raw").unwrap()).unwrap(), b"\xff\xfe caf\xe9");
    let all = |name: &str| answer.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    assert_eq!(shown(answer.header("x-first-cookie").unwrap()).unwrap(), b"a=1");
    assert_eq!(all("set-cookie"), ["a=1", "b=2", "c=3"]);
    assert_eq!((all("x-list"), all("x-twice"), all("x-gone")), (vec!["1".into(), "2".into()], vec!["once".into()], vec![]));
}

#[test]
fn maps_beyond_their_limits_are_refused_and_change_nothing() {
    let pairs = |n: usize| weir_wasm::pairs::encode((0..n).map(|_| (&b"a"[..], &b"b"[..])));
    let (full, over) = (pairs(1024), pairs(1025));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:02x}")).collect::<String>();
    let at = 65536;
    let then = at + full.len();
    // Each is one way to hand over a map: where it lies, how long it is, and the status noted.
    let set = |p: usize, l: usize| {
        format!("(call $note (i32.const 83) (call $set_pairs (i32.const 0) (i32.const {p}) (i32.const {l})) (i32.const 0))")
    };
    let code = format!(
        r#"(data (i32.const {at}) "{}{}")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $is_tell) (then (call $tell) (return (i32.const 0))))
          {} {} {} {} {} {}
          ;; A key without its NUL.
          (i32.store8 (i32.const {}) (i32.const 33))
          {}
          (i32.store8 (i32.const {}) (i32.const 0))
          (if (call $has [x-full]) (then {}))
          (i32.const 0))"#,
        hex(&full),
        hex(&over),
        set(then, over.len()),
        set(at, full.len() - 1),
        set(at, full.len() + 1),
        set(0, (1 << 20) + 1),
        set(64 * 65536 - 4, 8),
        set(at, 3),
        at + 4 + 8 * 1024 + 1,
        set(at, full.len()),
        at + 4 + 8 * 1024 + 1,
        set(at, full.len()),
    );
    let weir = on_one_worker(guest(&code), "");
    let seen = client::request(weir.address(), "GET", "h", "/x", &[("x-mine", "kept")], b"").unwrap().json();
    assert_eq!(
        (&seen["headers"]["x-mine"], &seen["path"], &seen["headers"]["a"]),
        (&"kept".into(), &"/x".into(), &serde_json::Value::Null)
    );
    // Memory that is not there is another mistake than a map that is none.
    assert_eq!(notes(&weir.get("h", "/tell")), "S2 S2 S2 S2 S6 S2 S2");
    // Whether this many headers are too many is for the upstream to decide.
    client::request(weir.address(), "GET", "h", "/x", &[("x-full", "1")], b"").unwrap();
    assert_eq!(notes(&weir.get("h", "/tell")), "S2 S2 S2 S2 S6 S2 S2 S");
    assert_eq!(weir.stat("weir_wasm_traps.default/under-test"), 0);
}
