//! What callbacks decide, and what is asked for within them.
#![allow(clippy::unwrap_used)]
use super::guests::*;
use weir_wasm::*;

#[test]
fn header_actions() {
    use Action::*;
    let old = [Continue, StopAllIterationAndWatermark, ContinueAndEndStream, StopAllIterationAndBuffer, StopAllIterationAndWatermark];
    let mut honest = old;
    honest[1] = StopIteration;
    for (abi, flag, expected) in
        [("0.1.0", false, old), ("0.2.0", false, old), ("0.2.1", false, old), ("0.2.1", true, honest), ("0.2.100", false, honest)]
    {
        // Request headers yield the first byte of the configuration, response headers the same; 0.1.0 has no end_of_stream.
        let params = if abi == "0.1.0" { "(param i32 i32)" } else { "(param i32 i32 i32)" };
        let body = ["request", "response"]
            .map(|side| format!("(func (export \"proxy_on_{side}_headers\") {params} (result i32) (global.get $action))"));
        let configure = r#"(global $action (mut i32) (i32.const 0))
            (func (export "proxy_on_configure") (param i32 i32) (result i32) (global.set $action (local.get 1)) i32.const 1)"#;
        for (result, expected) in expected.into_iter().chain([StopAllIterationAndWatermark]).enumerate() {
            let spec = PluginSpec { configuration: vec![b'x'; result], allow_on_headers_stop_iteration: flag, ..PluginSpec::new("p") };
            let mut running = start_with(abi, &(body.concat() + configure), &spec).unwrap();
            let stream = running.instance.create_stream(Request::new(&[], b"")).unwrap();
            for eos in [false, true] {
                assert_eq!(running.instance.on_request_headers(stream, eos).unwrap(), expected, "{abi} {flag} {result}");
                assert_eq!(running.instance.on_response_headers(stream, eos).unwrap(), expected, "{abi} {flag} {result}");
            }
        }
    }
}

#[test]
fn the_guest_sees_context_count_and_end() {
    let request = Request::new(&[(":path", b"/"), ("a", b"1"), ("a", b"2")], b"");
    let says = "(call $say (local.get 0)) (call $say (local.get 1)) (call $say (local.get 2)) i32.const 0";
    let (running, _) = on_headers(says, &request);
    assert_eq!(running.proxy.said(), "2 3 1");
}

#[test]
fn body_and_trailer_actions() {
    use Action::*;
    let body = r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (local.get 1))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (local.get 1))
        (func (export "proxy_on_request_trailers") (param i32 i32) (result i32) i32.const 1)"#;
    let mut running = start("0.2.1", body);
    let stream = running.instance.create_stream(Request::new(&[], b"")).unwrap();
    let expected = [Continue, StopIterationAndBuffer, StopIterationAndWatermark, StopIterationNoBuffer, StopIterationNoBuffer];
    for (size, expected) in expected.into_iter().enumerate() {
        assert_eq!(running.instance.on_request_body(stream, size, false).unwrap(), expected);
        assert_eq!(running.instance.on_response_body(stream, size, true).unwrap(), expected);
    }
    assert_eq!(running.instance.on_request_trailers(stream).unwrap(), StopIteration);
    assert_eq!(running.instance.on_response_trailers(stream).unwrap(), Continue, "not exported");
}

const REPLY: &str = "(call $say (call $reply (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 2)
    (i32.const 0) (i32.const 0) (i32.const -1)))";

/// SDKs' users return Continue after a reply; the host stops all the same.
#[test]
fn a_reply_stops_whatever_the_guest_returns() {
    let body = format!(
        r#"(data (i32.const 100) "no")
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {REPLY} i32.const 0)
           (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) {REPLY} {REPLY} i32.const 0)
           (func (export "proxy_on_request_trailers") (param i32 i32) (result i32) {REPLY} i32.const 0)
           (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
           (func (export "proxy_on_tick") (param i32) {REPLY})"#
    );
    let mut running = start("0.2.1", &body);
    let request = Request::new(&[], b"");
    let stream = running.instance.create_stream(request.clone()).unwrap();
    assert_eq!(running.instance.on_request_headers(stream, false).unwrap(), Action::StopAllIterationAndWatermark);
    assert_eq!(running.instance.on_request_body(stream, 0, false).unwrap(), Action::StopIterationNoBuffer);
    assert_eq!(running.instance.on_request_trailers(stream).unwrap(), Action::StopIteration);
    assert_eq!(running.instance.on_response_headers(stream, true).unwrap(), Action::Continue, "the next callback is its own");
    assert_eq!(request.events.borrow().len(), 4);
    assert_eq!(request.events.borrow()[0], "reply 403 no None 0");
    running.instance.on_tick().unwrap();
    assert_eq!(request.events.borrow().len(), 4, "no stream is in effect in a tick");
    running.proxy.log.borrow_mut().retain(|(level, _)| *level == LogLevel::Info);
    assert_eq!(running.proxy.said(), "0 0 0 0 0", "the guest is always told Ok");
}

#[test]
fn callouts() {
    let body = r#"(data (i32.const 100) "authnone")
        (data (i32.const 200) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\02\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/a\00:authority\00h\00")
        (data (i32.const 300) "\01\00\00\00\05\00\00\00\02\00\00\00:path\00/a\00") (data (i32.const 400) "x-user")
        (global $token (mut i32) (i32.const 0))
        (func $send (param $upstream i32) (param $headers i32) (param $len i32) (param $timeout i32) (result i32)
          (call $http_call (local.get $upstream) (i32.const 4) (local.get $headers) (local.get $len) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (local.get $timeout) (i32.const 40)))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $say (call $send (i32.const 100) (i32.const 200) (i32.const 62) (i32.const 500)))
          (global.set $token (i32.load (i32.const 40)))
          (call $say (call $send (i32.const 104) (i32.const 200) (i32.const 62) (i32.const 500)))
          (call $say (call $send (i32.const 100) (i32.const 300) (i32.const 21) (i32.const 500)))
          (call $say (call $send (i32.const 100) (i32.const 200) (i32.const 61) (i32.const 500)))
          (call $say (call $send (i32.const 100) (i32.const 200) (i32.const 62) (i32.const -1)))
          (call $say (call $send (i32.const 140000) (i32.const 200) (i32.const 62) (i32.const 500)))
          i32.const 1)
        (func (export "proxy_on_http_call_response") (param $root i32) (param $token i32) (param $headers i32) (param $body i32) (param i32)
          (call $say (i32.eq (local.get $token) (global.get $token)))
          (call $say (local.get $root)) (call $say (local.get $headers)) (call $say (local.get $body))
          (call $say (call $get_header (i32.const 6) (i32.const 400) (i32.const 6) (i32.const 20) (i32.const 24)))
          (if (local.get $headers) (then (call $tell)))
          (call $say (call $get_buffer (i32.const 4) (i32.const 1) (i32.const 2147483647) (i32.const 20) (i32.const 24)))
          (if (local.get $headers) (then (call $tell)))
          (call $say (call $get_status (i32.const 60) (i32.const 20) (i32.const 24))) (call $say (i32.load (i32.const 60)))
          (call $say (call $continue_stream (i32.const 0)))
          (call $say (call $effective (i32.const 2)))
          (call $say (call $continue_stream (i32.const 0)))
          (call $say (call $continue_stream (i32.const 4))))
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $get_header (i32.const 6) (i32.const 400) (i32.const 6) (i32.const 20) (i32.const 24)))
          (call $say (call $get_buffer (i32.const 4) (i32.const 0) (i32.const 9) (i32.const 20) (i32.const 24))))"#;
    let mut running = start("0.2.1", body);
    let request = Request::new(&[], b"");
    let stream = running.instance.create_stream(request.clone()).unwrap();
    assert_eq!(running.instance.on_request_headers(stream, true).unwrap(), Action::StopAllIterationAndWatermark);
    assert_eq!(running.proxy.said(), "0 2 2 2 2 6", "ok, upstream, pseudo headers, encoding, timeout, memory");
    let calls = running.proxy.calls.take();
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].0 & 3, calls[0].1.as_str()), (0, "/a Some(500ms) from 2"));

    let headers = vec![(b":status".to_vec(), b"200".to_vec()), (b"X-User".to_vec(), b"weir".to_vec())];
    let answer = HttpAnswer { headers, body: "body".into(), trailers: Vec::new() };
    running.instance.on_http_call_response(calls[0].0, answer).unwrap();
    assert_eq!(running.proxy.said(), "1 1 2 4 0 weir 0 ody 0 0 0 0 0 2");
    assert_eq!(request.events.take(), ["continue Request"], "only on the effective context");

    running.instance.on_http_call_response(calls[0].0, HttpAnswer::failed()).unwrap();
    assert_eq!(running.proxy.said(), "1 1 0 0 1 0 0 11 0 0 0 2", "a failure: no headers, BrokenConnection");
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "1 1", "an answer is gone after its callback");
}

#[test]
fn redis_tokens_and_answers() {
    let body = r#"(data (i32.const 100) "redis*1\0d\0a$4\0d\0aPING\0d\0a")
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $redis_call (i32.const 100) (i32.const 5) (i32.const 105) (i32.const 14) (i32.const 40)))
          (call $say (i32.and (i32.load (i32.const 40)) (i32.const 3))))
        (func (export "proxy_on_redis_call_response") (param i32 i32 i32 i32)
          (call $say (local.get 2)) (call $say (local.get 3))
          (call $say (call $get_buffer (i32.const 9) (i32.const 0) (i32.const 100) (i32.const 20) (i32.const 24))) (call $tell))"#;
    let mut running = start("0.2.100", body);
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "0 3");
    let (token, call) = running.proxy.calls.take().remove(0);
    assert_eq!(call, "redis *1\r\n$4\r\nPING\r\n");
    running.instance.on_redis_call_response(token, Some("+PONG\r\n".into())).unwrap();
    assert_eq!(running.proxy.said(), "0 7 0 +PONG\r\n");
    running.instance.on_redis_call_response(token, None).unwrap();
    assert_eq!(running.proxy.said(), "1 0 0 ");
}

#[test]
fn ends_of_streams_and_of_the_plugin() {
    let body = r#"(global $later (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (global.set $later (local.get 1)) i32.const 1)
        (func (export "proxy_on_log") (param i32) (call $say (i32.const 1)))
        (func (export "proxy_on_done") (param i32) (result i32) (call $say (i32.const 2)) (i32.eqz (global.get $later)))
        (func (export "proxy_on_delete") (param i32) (call $say (i32.const 3)))
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $done)) (drop (call $effective (i32.const 2))) (call $say (call $done)) (call $say (call $done)))"#;
    let mut running = start("0.2.1", body);
    let stream = running.instance.create_stream(Request::new(&[], b"")).unwrap();
    running.instance.end_stream(stream).unwrap();
    running.instance.end_stream(stream).unwrap();
    assert_eq!((running.proxy.said().as_str(), running.instance.streams()), ("1 2 3", 0));
    assert!(running.instance.begin_shutdown().unwrap());
    running.instance.finish_shutdown().unwrap();
    assert_eq!(running.proxy.said(), "2 3");

    let later = PluginSpec { configuration: b"x".to_vec(), ..PluginSpec::new("p") };
    let mut running = start_with("0.2.1", body, &later).unwrap();
    let stream = running.instance.create_stream(Request::new(&[], b"")).unwrap();
    running.instance.end_stream(stream).unwrap();
    assert_eq!((running.proxy.said().as_str(), running.instance.streams()), ("1 2", 1), "not yet");
    running.instance.on_tick().unwrap();
    assert_eq!((running.proxy.said().as_str(), running.instance.streams()), ("1 0 1 3", 0), "proxy_done counts once");
    assert!(!running.instance.begin_shutdown().unwrap() && !running.instance.is_done());
    running.proxy.said();
    running.instance.on_tick().unwrap();
    assert!(running.instance.is_done());
}
