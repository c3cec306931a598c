//! Header maps, bodies and properties, as bytes that cross the border.
#![allow(clippy::unwrap_used)]
use super::guests::*;
use weir_wasm::*;

#[test]
fn values_first_of_several_any_bytes_and_none() {
    let request = Request::new(&[("set-cookie", b"a=1"), ("set-cookie", b"b=2"), ("raw", b"\xff\xfe")], b"");
    let get = |name_len: u32, at: u32| {
        format!("(call $say (call $get_header (i32.const 0) (i32.const {at}) (i32.const {name_len}) (i32.const 20) (i32.const 24)))")
    };
    let code = format!(
        "{} (call $tell) {} (call $say (i32.eq (i32.load16_u (i32.load (i32.const 20))) (i32.const 0xfeff))) {} i32.const 0",
        get(10, 100),
        get(3, 120),
        get(4, 130)
    );
    for (abi, missing) in [("0.1.0", "0"), ("0.2.1", "1")] {
        let body = format!(
            r#"(data (i32.const 100) "Set-Cookie") (data (i32.const 120) "raw") (data (i32.const 130) "none")
               (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {code})"#
        );
        let mut running = start(abi, &body);
        let stream = running.instance.create_stream(request.clone()).unwrap();
        running.instance.on_request_headers(stream, true).unwrap();
        assert_eq!(running.proxy.said(), format!("0 a=1 0 1 {missing}"), "{abi}");
    }
}

#[test]
fn a_map_goes_to_the_guest_and_comes_back_whole() {
    let request = Request::new(&[("set-cookie", b"a=1"), ("set-cookie", b""), ("x", b"\0\xff")], b"");
    let before = request.headers.borrow().clone();
    let code = "(call $say (call $map_pairs (i32.const 0) (i32.const 20) (i32.const 24)))
        (call $say (call $set_pairs (i32.const 0) (i32.load (i32.const 20)) (i32.load (i32.const 24))))
        (call $say (call $map_size (i32.const 0) (i32.const 40))) (call $say (i32.sub (i32.load (i32.const 40)) (i32.const 20)))
        (call $say (call $map_pairs (i32.const 3) (i32.const 20) (i32.const 24))) (call $say (i32.load (i32.const 24)))
        (call $say (call $map_pairs (i32.const 99) (i32.const 20) (i32.const 24)))
        i32.const 0";
    let (running, _) = on_headers(code, &request);
    assert_eq!(running.proxy.said(), "0 0 0 6 0 0 2", "byte size 26; an unavailable map is empty, an unknown one refused");
    assert_eq!(*request.headers.borrow(), before);
}

#[test]
fn bad_maps_are_refused_and_change_nothing() {
    for (what, bytes) in [
        ("truncated", r"\01\00\00\00\01\00\00\00\01\00\00\00a\00b"),
        ("no NUL", r"\01\00\00\00\01\00\00\00\01\00\00\00aXb\00"),
        ("1025 pairs", r"\01\04\00\00"),
        ("a length beyond everything", r"\01\00\00\00\ff\ff\ff\ff\ff\ff\ff\ffa\00b\00"),
    ] {
        let request = Request::new(&[("x", b"1")], b"");
        let body = format!(
            r#"(data (i32.const 100) "{bytes}") (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                 (call $say (call $set_pairs (i32.const 0) (i32.const 100) (i32.const {}))) i32.const 0)"#,
            bytes.split('\\').map(|p| p.len().saturating_sub(1).max(usize::from(!p.is_empty()))).sum::<usize>()
        );
        let mut running = start("0.2.1", &body);
        let stream = running.instance.create_stream(request.clone()).unwrap();
        running.instance.on_request_headers(stream, true).unwrap();
        assert_eq!((running.proxy.said().as_str(), request.headers.borrow().len()), ("2", 1), "{what}");
    }
}

#[test]
fn body_reads_and_edits() {
    let get = |start: i32, max: i32| {
        format!(
            "(call $say (call $get_buffer (i32.const 0) (i32.const {start}) (i32.const {max}) (i32.const 20) (i32.const 24))) (call $tell)"
        )
    };
    let set = |start: i32, len: i32| {
        format!("(call $say (call $set_buffer (i32.const 0) (i32.const {start}) (i32.const {len}) (i32.const 16) (i32.const 1)))")
    };
    for (code, body, said) in [
        (get(0, i32::MAX), "hello", "0 hello"),
        (get(1, 3), "hello", "0 ell"),
        (get(9, 3), "hello", "0 "),
        ("(call $say (call $get_buffer (i32.const 0) (i32.const -1) (i32.const 2) (i32.const 20) (i32.const 24)))".into(), "hello", "2"),
        ("(call $say (call $get_buffer (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 20) (i32.const 24)))".into(), "hello", "1"),
        (set(0, 0), "0hello", "0"),
        (set(0, i32::MAX), "0", "0"),
        (set(0, 5), "0", "0"),
        (set(i32::MAX, 0), "hello0", "0"),
        (set(1, 2), "hello", "2"),
    ] {
        let request = Request::new(&[], b"hello");
        let (running, action) = on_headers(&format!("(i32.store8 (i32.const 16) (i32.const 48)) {code} i32.const 0"), &request);
        action.unwrap();
        assert_eq!(running.proxy.said(), said, "{code}");
        assert_eq!(String::from_utf8_lossy(&request.body.borrow()), body, "{code}");
    }
}

#[test]
fn properties() {
    let request = Request::new(&[], b"");
    request.state.borrow_mut().insert(b"request\0path".to_vec(), b"/a?b".to_vec());
    let get =
        |at: u32, len: u32| format!("(call $say (call $get_property (i32.const {at}) (i32.const {len}) (i32.const 20) (i32.const 24)))");
    let code = format!(
        "{} (call $tell) {} (call $tell) {} (call $tell) {} {} (call $say (call $set_property (i32.const 200) (i32.const 4) (i32.const 100) (i32.const 4))) {} (call $tell) \
         {} (call $say (i32.wrap_i64 (i64.shr_u (i64.load (i32.load (i32.const 20))) (i64.const 16)))) i32.const 0",
        get(100, 12),
        get(120, 18),
        get(140, 11),
        get(160, 7),
        get(160, 0),
        get(200, 4),
        get(220, 16),
    );
    let body = format!(
        r#"(data (i32.const 100) "request\00path") (data (i32.const 120) "node\00metadata\00NAME") (data (i32.const 140) "plugin_name")
           (data (i32.const 160) "unknown") (data (i32.const 200) "mine") (data (i32.const 220) "plugin_vm_memory")
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {code})
           (func (export "proxy_on_tick") (param i32)
             (call $say (call $set_property (i32.const 200) (i32.const 4) (i32.const 100) (i32.const 4))))"#
    );
    let mut running = start("0.2.1", &body);
    let stream = running.instance.create_stream(request.clone()).unwrap();
    running.instance.on_request_headers(stream, true).unwrap();
    assert_eq!(running.proxy.said(), "0 /a?b 0 weir 0 test 1 1 0 0 requ 0 2");
    assert_eq!(request.state.borrow().get(&b"mine"[..]).unwrap(), b"requ");
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "0", "without a stream still Ok: the Rust SDK panics otherwise");
}

#[test]
fn foreign_functions() {
    let call = |name: (u32, u32), args: (&str, &str), outs: (u32, u32)| {
        format!(
            "(call $say (call $foreign (i32.const {}) (i32.const {}) {} {} (i32.const {}) (i32.const {})))",
            name.0, name.1, args.0, args.1, outs.0, outs.1
        )
    };
    let (text, of_result) = (("(i32.const 200)", "(i32.const 9)"), ("(i32.load (i32.const 20))", "(i32.load (i32.const 24))"));
    let code = [
        call((110, 8), text, (20, 24)),
        call((120, 10), of_result, (20, 24)),
        "(call $tell)".into(),
        call((120, 10), text, (20, 24)),
        call((140, 7), text, (20, 24)),
        call((110, 8), text, (0, 0)),
        call((150, 13), text, (20, 24)),
        "(call $say (i32.load (i32.load (i32.const 20))))".into(),
        call((170, 17), text, (0, 0)),
        "i32.const 0".into(),
    ]
    .concat();
    let body = format!(
        r#"(data (i32.const 110) "compress") (data (i32.const 120) "uncompress") (data (i32.const 140) "unknown")
           (data (i32.const 150) "get_log_level") (data (i32.const 170) "clear_route_cache") (data (i32.const 200) "some text")
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {code})"#
    );
    let mut running = start("0.2.100", &body);
    let request = Request::new(&[], b"");
    let stream = running.instance.create_stream(request.clone()).unwrap();
    running.proxy.level.set(Some(LogLevel::Info));
    running.instance.on_request_headers(stream, true).unwrap();
    assert_eq!(running.proxy.said(), "0 0 some text 3 1 0 0 2 0");
    assert_eq!(request.events.take(), ["clear route cache"]);
}
