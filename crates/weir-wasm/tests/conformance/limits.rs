//! Guests that trap, loop, grow, and lie about their memory.
#![allow(clippy::unwrap_used)]
use super::guests::*;
use std::time::{Duration, Instant};
use weir_wasm::*;

#[test]
fn a_trap_ends_this_instance_only() {
    let body = r#"(func $inner unreachable) (func $outer (call $inner))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $outer) i32.const 0)
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_delete") (param i32) (call $say (i32.const 1)))"#;
    let module = compile(&guest("0.2.1", body)).unwrap();
    let proxy = std::rc::Rc::new(Proxy::default());
    let start = || Instance::start(&module, &PluginSpec::new("p"), proxy.clone()).unwrap();
    let (mut first, mut second) = (start(), start());
    let (a, b) = (first.create_stream(Request::new(&[], b"")).unwrap(), second.create_stream(Request::new(&[], b"")).unwrap());
    let trap = first.on_request_headers(a, true).unwrap_err();
    assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, "proxy_on_request_headers"));
    assert_eq!(&trap.backtrace[..2], ["inner", "outer"], "innermost first");
    for trap in [
        first.on_response_headers(a, true).unwrap_err(),
        first.end_stream(a).unwrap_err(),
        first.on_tick().unwrap_err(),
        first.create_stream(Request::new(&[], b"")).unwrap_err(),
    ] {
        assert_eq!(trap.kind, TrapKind::Dead, "{trap}");
    }
    assert!(first.is_dead() && first.is_done());
    assert_eq!(first.streams(), 0, "it keeps no stream alive");
    drop(first);
    assert_eq!(proxy.said(), "", "no call after a trap");
    assert_eq!(second.on_response_headers(b, true).unwrap(), Action::Continue);
    assert!(!second.is_dead());
}

#[test]
fn every_callback_may_trap() {
    let traps =
        |name: &str, params: &str, result: &str| format!("(func (export \"proxy_on_{name}\") (param {params}) {result} unreachable)");
    type Call = fn(&mut Instance, ContextId) -> Result<(), Trap>;
    let cases: &[(&str, &str, &str, Call)] = &[
        ("request_headers", "i32 i32 i32", "(result i32)", |i, c| i.on_request_headers(c, true).map(drop)),
        ("request_body", "i32 i32 i32", "(result i32)", |i, c| i.on_request_body(c, 1, true).map(drop)),
        ("request_trailers", "i32 i32", "(result i32)", |i, c| i.on_request_trailers(c).map(drop)),
        ("response_headers", "i32 i32 i32", "(result i32)", |i, c| i.on_response_headers(c, true).map(drop)),
        ("response_body", "i32 i32 i32", "(result i32)", |i, c| i.on_response_body(c, 1, true).map(drop)),
        ("response_trailers", "i32 i32", "(result i32)", |i, c| i.on_response_trailers(c).map(drop)),
        ("log", "i32", "", |i, c| i.end_stream(c)),
        ("done", "i32", "(result i32)", |i, c| i.end_stream(c)),
        ("delete", "i32", "", |i, c| i.end_stream(c)),
        ("tick", "i32", "", |i, _| i.on_tick()),
        ("queue_ready", "i32 i32", "", |i, _| i.on_queue_ready(1)),
        ("http_call_response", "i32 i32 i32 i32 i32", "", |i, _| i.on_http_call_response(4, HttpAnswer::failed())),
        ("redis_call_response", "i32 i32 i32 i32", "", |i, _| i.on_redis_call_response(7, None)),
        ("grpc_receive", "i32 i32 i32", "", |i, _| i.on_grpc_receive(5, "x".into())),
        ("grpc_close", "i32 i32 i32", "", |i, _| i.on_grpc_close(5, 14, "gone".into())),
    ];
    for (name, params, result, call) in cases {
        let mut running = start("0.2.1", &traps(name, params, result));
        let stream = running.instance.create_stream(Request::new(&[], b"")).unwrap();
        let trap = call(&mut running.instance, stream).unwrap_err();
        assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, format!("proxy_on_{name}").as_str()));
    }
}

#[test]
fn an_endless_loop_meets_its_deadline() {
    let limits = Limits { call_deadline: Duration::from_millis(50), start_deadline: Duration::from_millis(50), ..Limits::default() };
    let spec = PluginSpec { limits, ..PluginSpec::new("p") };
    let spin = "(loop $for_ever (br $for_ever))";
    let mut running = start_with("0.2.1", &format!("(func $spin (export \"proxy_on_tick\") (param i32) {spin})"), &spec).unwrap();
    let begun = Instant::now();
    let trap = running.instance.on_tick().unwrap_err();
    assert_eq!(trap.kind, TrapKind::Deadline, "{trap}");
    assert_eq!(trap.backtrace, ["spin"]);
    assert!(trap.message.contains("50ms"), "{trap}");
    assert!(begun.elapsed() >= limits.call_deadline);

    for body in ["_initialize", "_start"] {
        let error = start_with("0.2.1", &format!("(func (export \"{body}\") {spin})"), &spec).err().unwrap();
        assert!(matches!(&error, StartError::Trap(t) if t.kind == TrapKind::Deadline && t.callback == body), "{error}");
    }
    // Nor does a loop through the host help.
    let body = "(func (export \"proxy_on_tick\") (param i32) (loop $l (drop (call $map_size (i32.const 0) (i32.const 20))) (br $l)))";
    assert_eq!(start_with("0.2.1", body, &spec).unwrap().instance.on_tick().unwrap_err().kind, TrapKind::Deadline);
}

/// The deadline is CPU time: a guest whose proxy is slow in a host call has not run away.
#[test]
fn waiting_is_no_runaway() {
    struct Slow;
    impl Services for Slow {
        fn log(&self, _: LogLevel, _: &str) {
            std::thread::sleep(Duration::from_millis(150));
        }
        fn log_level(&self) -> LogLevel {
            LogLevel::Trace
        }
        fn http_call(&self, _: u32, _: HttpCall<'_>) -> Result<(), Status> {
            Err(Status::BadArgument)
        }
        fn define_metric(&self, _: MetricType, _: &str) -> Result<u32, Status> {
            Err(Status::InternalFailure)
        }
        fn increment_metric(&self, _: MetricType, _: u32, _: i64) -> Status {
            Status::NotFound
        }
        fn record_metric(&self, _: MetricType, _: u32, _: u64) -> Status {
            Status::NotFound
        }
        fn metric(&self, _: MetricType, _: u32) -> Option<u64> {
            None
        }
        fn set_tick_period(&self, _: Option<Duration>) {}
    }
    let limits = Limits { call_deadline: Duration::from_millis(50), ..Limits::default() };
    let body = "(func (export \"proxy_on_tick\") (param i32) (call $say (i32.const 1)) (call $say (i32.const 1)) (loop $l))";
    let module = compile(&guest("0.2.1", body)).unwrap();
    let mut instance = Instance::start(&module, &PluginSpec { limits, ..PluginSpec::new("p") }, std::rc::Rc::new(Slow)).unwrap();
    instance.on_tick().unwrap();
}

#[test]
fn memory_beyond_the_limit_is_named() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let spec = PluginSpec { limits, ..PluginSpec::new("p") };
    // As Go: what cannot be had ends the program.
    let grow = "(func (export \"proxy_on_tick\") (param i32) (if (i32.eq (memory.grow (i32.const 8)) (i32.const -1)) (then unreachable)))";
    let mut running = start_with("0.2.1", grow, &spec).unwrap();
    running.instance.on_tick().unwrap();
    assert_eq!(running.instance.memory_bytes(), 10 << 16);
    let trap = running.instance.on_tick().unwrap_err();
    assert_eq!(trap.kind, TrapKind::Memory, "{trap}");
    assert!(trap.message.starts_with("memory limit: 2 MiB are not within its 1 MiB"), "{trap}");

    // A guest that copes with the refusal lives, and what it does later is not blamed on memory.
    let cope = "(func (export \"proxy_on_tick\") (param i32) (drop (memory.grow (i32.const 60000))))
        (func (export \"proxy_on_queue_ready\") (param i32 i32) unreachable)";
    let mut running = start_with("0.2.1", cope, &spec).unwrap();
    running.instance.on_tick().unwrap();
    assert_eq!(running.instance.on_queue_ready(1).unwrap_err().kind, TrapKind::Unreachable);

    let limits = Limits { memory_bytes: 1 << 16, ..limits };
    let error = start_with("0.2.1", "", &PluginSpec { limits, ..spec }).err().unwrap();
    assert!(matches!(&error, StartError::Trap(t) if t.kind == TrapKind::Memory), "{error}");
}

#[test]
fn deep_recursion_and_large_tables_end() {
    let mut running = start(
        "0.2.1",
        "(func $deeper (param i32) (call $deeper (local.get 0))) (func (export \"proxy_on_tick\") (param i32) (call $deeper (i32.const 0)))",
    );
    assert_eq!(running.instance.on_tick().unwrap_err().kind, TrapKind::StackOverflow);
    let grow = "(table $t 1 funcref) (func (export \"proxy_on_tick\") (param i32) (call $say (i32.eq (table.grow $t (ref.null func) (i32.const 100000000)) (i32.const -1))))";
    let mut running = start("0.2.1", grow);
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "1");
}

#[test]
fn exits_and_last_words_are_told() {
    let body = r#"(data (i32.const 100) "panic: boom") (func (export "proxy_on_tick") (param i32)
        (i32.store (i32.const 40) (i32.const 100)) (i32.store (i32.const 44) (i32.const 11))
        (drop (call $fd_write (i32.const 2) (i32.const 40) (i32.const 1) (i32.const 60))) (call $exit (i32.const 2)))"#;
    let trap = start("0.2.0", body).instance.on_tick().unwrap_err();
    assert_eq!(trap.kind, TrapKind::Exit(2));
    assert!(trap.message.contains("exit code 2") && trap.said == "panic: boom", "{trap}");
}

/// Go's collector polls while it allocates, and its memory may move to another size: answers must find the new memory.
#[test]
fn the_allocator_may_poll_log_and_grow() {
    let body = r#"(module
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 100) "poll ok") (func (export "proxy_abi_version_0_2_0"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32)
          (i32.store (i32.const 60) (i32.const 9))
          (if (i32.or (call $poll (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 60)) (i32.load (i32.const 60))) (then unreachable))
          (drop (call $log (i32.const 2) (i32.const 100) (i32.const 7)))
          (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $get (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 20) (i32.const 24)))
          (drop (call $log (i32.const 2) (i32.load (i32.const 20)) (i32.load (i32.const 24))))
          (call $pairs (i32.const 0) (i32.const 20) (i32.const 24))))"#;
    let module = compile(&wat::parse_str(body).unwrap()).unwrap();
    let proxy = std::rc::Rc::new(Proxy::default());
    let mut instance = Instance::start(&module, &PluginSpec::new("p"), proxy.clone()).unwrap();
    let stream = instance.create_stream(Request::new(&[("a", b"1")], b"body")).unwrap();
    assert_eq!(instance.on_request_headers(stream, true).unwrap(), Action::Continue);
    assert_eq!(proxy.messages(), ["poll ok", "body", "poll ok"]);
    assert_eq!(instance.memory_bytes(), 3 << 16);
}

/// An allocator that lies or fails costs the guest a status, never the host a panic.
#[test]
fn bad_allocators() {
    for (allocator, expected) in [("i32.const 0", 10), ("i32.const -1", 6), ("i32.const 65535", 6)] {
        let wat = format!(
            r#"(module (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_0"))
              (func (export "malloc") (param i32) (result i32) {allocator})
              (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
                (if (i32.ne (call $get (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 20) (i32.const 24)) (i32.const {expected}))
                  (then unreachable)) i32.const 0))"#
        );
        let module = compile(&wat::parse_str(wat).unwrap()).unwrap();
        let mut instance = Instance::start(&module, &PluginSpec::new("p"), std::rc::Rc::new(Proxy::default())).unwrap();
        let stream = instance.create_stream(Request::new(&[], b"body")).unwrap();
        instance.on_request_body(stream, 4, true).unwrap_or_else(|t| panic!("{allocator}: {t}"));
    }
}

/// Pointers and lengths at the edges of 32 bits and of the memory, for every function that takes them.
#[test]
fn wild_pointers() {
    let at = ["i32.const -1", "i32.const -4", "i32.const 131072", "i32.const 131070", "i32.const 2147483647"];
    for p in at {
        for len in ["i32.const 8", "i32.const -1", "i32.const 2147483647"] {
            let calls = [
                format!("(call $log (i32.const 2) ({p}) ({len}))"),
                format!("(call $log_level ({p}))"),
                format!("(call $get_property ({p}) ({len}) (i32.const 20) (i32.const 24))"),
                format!("(call $set_property ({p}) ({len}) ({p}) ({len}))"),
                format!("(call $get_header (i32.const 0) ({p}) ({len}) (i32.const 20) (i32.const 24))"),
                format!("(call $get_header (i32.const 0) (i32.const 100) (i32.const 1) ({p}) ({p}))"),
                format!("(call $add_header (i32.const 0) ({p}) ({len}) ({p}) ({len}))"),
                format!("(call $map_pairs (i32.const 0) ({p}) ({p}))"),
                format!("(call $set_pairs (i32.const 0) ({p}) ({len}))"),
                format!("(call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) ({p}) ({len}))"),
                format!("(call $set_shared ({p}) ({len}) ({p}) ({len}) (i32.const 0))"),
                format!("(call $enqueue (i32.const 1) ({p}) ({len}))"),
                format!("(call $register_queue ({p}) ({len}) ({p}))"),
                format!("(call $define_metric (i32.const 0) ({p}) ({len}) ({p}))"),
                format!("(call $reply (i32.const 200) ({p}) ({len}) ({p}) ({len}) ({p}) ({len}) (i32.const 0))"),
                format!("(call $redis_call ({p}) ({len}) ({p}) ({len}) ({p}))"),
                format!("(call $foreign ({p}) ({len}) ({p}) ({len}) ({p}) ({p}))"),
                format!("(call $poll ({p}) ({p}) (i32.const 1) ({p}))"),
                format!("(call $random ({p}) ({len}))"),
                format!("(call $fd_write (i32.const 1) ({p}) ({len}) (i32.const 60))"),
            ];
            let code: String = calls.iter().map(|call| format!("(if (i32.eqz {call}) (then (call $say (i32.const 1))))")).collect();
            let request = Request::new(&[("a", b"1")], b"body");
            let body = format!(
                "(data (i32.const 100) \"a\") (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) {code} i32.const 0)"
            );
            let mut running = start("0.2.1", &body);
            let stream = running.instance.create_stream(request.clone()).unwrap();
            running.instance.on_request_headers(stream, true).unwrap_or_else(|t| panic!("{p} {len}: {t}"));
            assert_eq!(running.proxy.said(), "", "{p} {len}: a call was told that it went well");
            assert_eq!(request.events.take(), Vec::<String>::new());
        }
    }
}
