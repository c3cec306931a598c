//! Every ABI version and the shapes of modules that toolchains make, behind the running gateway.
use crate::{
    client,
    harness::{Start, TO_ECHO, eventually},
    plugin_kit::{guest_of, istio, notes, on_one_worker, status, tried},
};

/// A route that `/moved` takes to the second upstream.
const MOVED: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: moved }
spec: { parentRefs: [{ name: gateway }], rules: [{ matches: [{ path: { value: /moved } }], backendRefs: [{ name: two, port: 80 }] }] }
---
{ apiVersion: v1, kind: Service, metadata: { name: two }, spec: { ports: [{ port: 80, targetPort: $ECHO2 }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: two, labels: { kubernetes.io/service-name: two } }
addressType: IPv4
ports: [{ port: $ECHO2 }]
endpoints: [{ addresses: [127.0.0.1] }]
";

/// What is 0.1.0's alone: `_start`, the older name of WASI, callbacks of headers with two parameters, a missing header that is
/// `Ok`, `proxy_get_configuration`, `proxy_continue_request`, `proxy_continue_response`, `proxy_clear_route_cache`.
const OLD: &str = r#"
    (global $started (mut i32) (i32.const 0))
    (global $waits (mut i32) (i32.const 0))
    (func $print (param i32 i32)
      (i32.store (i32.const 96) (local.get 0)) (i32.store (i32.const 100) (local.get 1))
      (drop (call $fd_write (i32.const 1) (i32.const 96) (i32.const 1) (i32.const 104))))
    (func (export "_start") (global.set $started (i32.const 1)) (call $print [main has run\n]))
    (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
      (if (i32.eqz (global.get $started)) (then unreachable))
      ;; The VM's configuration: none.
      (i32.store (i32.const 76) (i32.const 9))
      (if (call $get_configuration (i32.const 72) (i32.const 76)) (then unreachable))
      (i32.eqz (i32.load (i32.const 76))))
    (func (export "proxy_on_configure") (param $root i32) (param $size i32) (result i32)
      (if (call $get_configuration (i32.const 64) (i32.const 68)) (then unreachable))
      (i32.eq (i32.load (i32.const 68)) (local.get $size)))
    (func $ask (param $context i32)
      (global.set $waits (local.get $context))
      (if (call $http_call [mine] [pairs :method=GET,:path=/asked,:authority=a] (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 20000) (i32.const 84)) (then unreachable)))
    (func (export "proxy_on_request_headers") (param $context i32) (param $n i32) (result i32)
      (if (call $has [x-reply]) (then (call $answer (i32.const 418) [short and stout]) (return (i32.const 0))))
      (if (i32.eqz (call $has [x-careless])) (then (drop (call $remove (i32.const 0) [content-length]))))
      (drop (call $add (i32.const 0) [x-config] (i32.load (i32.const 64)) (i32.load (i32.const 68))))
      ;; Status and length of a header that is not there.
      (i32.store8 (i32.const 200) (i32.add (i32.const 48) (call $get_value (i32.const 0) [x-none] (i32.const 4) (i32.const 8))))
      (i32.store8 (i32.const 201) (i32.add (i32.const 48) (i32.load (i32.const 8))))
      (drop (call $add (i32.const 0) [x-missing] (i32.const 200) (i32.const 2)))
      (if (call $has [x-move]) (then
        (drop (call $set_property [clear_route_cache] [off]))
        (drop (call $set (i32.const 0) [:path] [/moved]))))
      (if (call $has [x-clear]) (then (drop (call $clear_route_cache))))
      (if (call $has [x-ask]) (then (call $ask (local.get $context)) (return (i32.const 1))))
      (i32.const 0))
    (func (export "proxy_on_request_body") (param i32 i32) (param $end i32) (result i32)
      (if (local.get $end) (then (drop (call $set_buffer (i32.const 0) (i32.const 0x7fffffff) (i32.const 0) [ and more]))))
      (i32.const 0))
    (func (export "proxy_on_response_headers") (param $context i32) (param $n i32) (result i32)
      (drop (call $remove (i32.const 2) [content-length]))
      (if (call $has [x-hold]) (then (call $ask (local.get $context)) (return (i32.const 1))))
      (i32.const 0))
    (func (export "proxy_on_response_body") (param i32 i32) (param $end i32) (result i32)
      (if (local.get $end) (then (drop (call $set_buffer (i32.const 1) (i32.const 0x7fffffff) (i32.const 0) [ the end]))))
      (i32.const 0))
    (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
      (if (call $effective (global.get $waits)) (then unreachable))
      (if (call $has [x-hold])
        (then
          (drop (call $add (i32.const 2) [x-held] [yes]))
          (drop (call $continue_response)))
        (else
          (drop (call $add (i32.const 0) [x-asked] [yes]))
          (drop (call $continue_request)))))
"#;

#[test]
fn a_plugin_of_abi_0_1_0() {
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO.to_string() + MOVED)
        .file("guest.wat", guest_of("0_1_0", OLD))
        .file("plugin.yaml", istio("old", "url: file://guest.wat\npluginConfig: { upstreams: { mine: '127.0.0.1:$ECHO2' } }"))
        .upstreams(2)
        .run();
    assert_eq!(status(&weir, "old").unwrap()["abi"], "0.1.0");
    eventually("the standard output", || weir.lines("default/old: main has run").first().cloned());
    let ask = |headers: &[(&str, &str)]| client::request(weir.address(), "POST", "h", "/x", headers, b"text").unwrap();
    let seen = |headers: &[(&str, &str)]| -> serde_json::Value {
        let answer = ask(headers);
        assert_eq!(answer.status, 200, "{headers:?}: {answer:?}");
        assert!(answer.body.ends_with(" the end"), "{answer:?}");
        serde_json::from_str(answer.body.trim_end_matches(" the end")).unwrap()
    };
    let plain = seen(&[]);
    assert!(plain["headers"]["x-config"].as_str().unwrap().contains("127.0.0.1"), "{plain}");
    assert_eq!((&plain["headers"]["x-missing"], &plain["body"]), (&"00".into(), &"text and more".into()), "{plain}");
    assert_eq!((&plain["name"], &plain["path"]), (&"echo".into(), &"/x".into()));
    for (headers, name, path) in [
        (&[("x-move", "1")][..], "echo", "/moved"),
        (&[("x-move", "1"), ("x-clear", "1")], "echo2", "/moved"),
        (&[("x-clear", "1")], "echo", "/x"),
    ] {
        let moved = seen(headers);
        assert_eq!((&moved["name"], &moved["path"]), (&name.into(), &path.into()), "{headers:?}: {moved}");
    }
    let asked = seen(&[("x-ask", "1")]);
    assert_eq!((&asked["headers"]["x-asked"], &asked["body"]), (&"yes".into(), &"text and more".into()), "{asked}");
    // A length that a plugin has left in the head does not cut its body.
    let careless = seen(&[("x-careless", "1")]);
    assert_eq!(careless["body"], "text and more", "{careless}");
    let held = ask(&[("x-hold", "1")]);
    assert!(held.header("x-held") == Some("yes") && held.body.ends_with(" the end"), "{held:?}");
    let reply = ask(&[("x-reply", "1")]);
    assert_eq!((reply.status, &*reply.body), (418, "short and stout the end"), "its own body callback sees it too");
    assert_eq!(weir.stat("weir_wasm_traps.default/old"), 0);
}

/// What each toolchain makes beside the ABI's own: imports, memory, allocator, start. `ready` is a global that its start sets
/// to 1; an export that is called before traps, and so does an allocator that is asked for nothing.
struct Shape {
    name: &'static str,
    abi: &'static str,
    imports: &'static str,
    memory: &'static str,
    allocator: &'static str,
    start: &'static str,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "tinygo",
        abi: "0_2_0",
        imports: r#"
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#,
        memory: r#"(memory (export "memory") 2)"#,
        allocator: r#"(export "malloc" (func $allocate)) (func (export "free") (param i32)) (func (export "calloc") (param i32 i32) (result i32) unreachable)
            (func (export "realloc") (param i32 i32) (result i32) unreachable)"#,
        // Standard output, no arguments, one variable, a clock that runs, random bytes that are not nought.
        start: r#"(func (export "_start")
            (i32.store (i32.const 48) (i32.const 1024)) (i32.store (i32.const 52) (i32.const 9))
            (if (call $write (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 56)) (then unreachable))
            (if (call $args (i32.const 48) (i32.const 52)) (then unreachable))
            (if (i32.load (i32.const 48)) (then unreachable))
            (if (call $environ (i32.const 48) (i32.const 52)) (then unreachable))
            (if (i32.ne (i32.load (i32.const 48)) (i32.const 1)) (then unreachable))
            (if (call $environ_get (i32.const 48) (i32.const 64)) (then unreachable))
            (if (i32.ne (i32.load8_u (i32.load (i32.const 48))) (i32.const 77)) (then unreachable))
            (if (call $clock (i32.const 0) (i64.const 1000) (i32.const 80)) (then unreachable))
            (if (i64.eqz (i64.load (i32.const 80))) (then unreachable))
            (if (call $random (i32.const 80) (i32.const 16)) (then unreachable))
            (if (i64.eqz (i64.or (i64.load (i32.const 80)) (i64.load (i32.const 88)))) (then unreachable))
            (global.set $ready (i32.const 1)))"#,
    },
    Shape {
        name: "emscripten",
        abi: "0_2_1",
        imports: r#"(import "env" "pthread_equal" (func (param i32 i32) (result i32)))
            (import "env" "emscripten_notify_memory_growth" (func (param i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#,
        memory: r#"(memory (export "memory") 256 256)"#,
        allocator: r#"(export "malloc" (func $allocate)) (func (export "free") (param i32))"#,
        start: r#"(func (export "_start") (global.set $ready (i32.const 1)) (call $exit (i32.const 0)))"#,
    },
    Shape {
        name: "assemblyscript",
        abi: "0_1_0",
        imports: r#"(import "wasi_unstable" "proc_exit" (func (param i32)))
            (import "env" "abort" (func (param i32 i32 i32 i32)))"#,
        memory: r#"(memory (export "memory") 1)"#,
        allocator: r#"(export "malloc" (func $allocate))"#,
        start: r#"(func $begin (global.set $ready (i32.const 1))) (start $begin)"#,
    },
    Shape {
        name: "rust",
        abi: "0_2_1",
        imports: "",
        memory: r#"(memory (export "memory") 17)"#,
        allocator: r#"(export "proxy_on_memory_allocate" (func $allocate))"#,
        start: r#"(func (export "_initialize") (global.set $ready (i32.const 1))) (func (export "_start") unreachable)"#,
    },
    Shape {
        name: "main",
        abi: "0_2_100",
        imports: "",
        memory: r#"(memory (export "memory") 17)"#,
        allocator: r#"(export "proxy_on_memory_allocate" (func $allocate)) (export "malloc" (func $allocate))"#,
        start: r#"(global $initialized (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $initialized (i32.const 1)))
            (func (export "main") (param i32 i32) (result i32) (global.set $ready (global.get $initialized)) (i32.const 0))"#,
    },
    Shape {
        name: "go",
        abi: "0_2_100",
        imports: r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))"#,
        memory: r#"(memory (export "memory") 61)"#,
        // Its scheduler looks for events within any export, and dies of an error; memory grows below it meanwhile.
        allocator: r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32)
            (i32.store (i32.const 96) (i32.const 1))
            (if (i32.or (call $poll (i32.const 32) (i32.const 64) (i32.const 1) (i32.const 96)) (call $yield)) (then unreachable))
            (if (i32.load (i32.const 96)) (then unreachable))
            (drop (memory.grow (i32.const 1)))
            (call $allocate (local.get 0)))"#,
        start: r#"(func (export "_initialize") (global.set $ready (i32.const 1)))"#,
    },
];

/// Answers with its configuration in the header `x-NAME`.
fn module(shape: &Shape) -> String {
    let Shape { name, abi, imports, memory, allocator, start } = shape;
    let header = format!("x-{name}");
    let parameters = if *abi == "0_1_0" { "i32 i32" } else { "i32 i32 i32" };
    let (read, import) = match *abi {
        "0_1_0" => {
            ("(call $configuration (i32.const 4) (i32.const 8))", r#""proxy_get_configuration" (func $configuration (param i32 i32)"#)
        }
        _ => (
            "(call $configuration (i32.const 7) (i32.const 0) (local.get 1) (i32.const 4) (i32.const 8))",
            r#""proxy_get_buffer_bytes" (func $configuration (param i32 i32 i32 i32 i32)"#,
        ),
    };
    format!(
        r#"(module
        (import "env" {import} (result i32)))
        (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
        {imports} {memory}
        (global $ready (mut i32) (i32.const 0))
        (global $next (mut i32) (i32.const 8192))
        (data (i32.const 1024) "starting\n") (data (i32.const 2048) "{header}") (data (i32.const 2080) "x-empty")
        (func (export "proxy_abi_version_{abi}"))
        (func $allocate (param i32) (result i32)
          (if (i32.or (i32.eqz (local.get 0)) (i32.eqz (global.get $ready))) (then unreachable))
          (global.set $next (i32.add (global.get $next) (i32.const 64)))
          (if (i32.gt_u (global.get $next) (i32.const 60000)) (then (global.set $next (i32.const 8192))))
          (global.get $next))
        {allocator} {start}
        (func (export "proxy_on_context_create") (param i32 i32) (if (i32.eqz (global.get $ready)) (then unreachable)))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if {read} (then unreachable))
          (i32.store (i32.const 16) (i32.load (i32.const 4))) (i32.store (i32.const 20) (i32.load (i32.const 8)))
          (i32.const 1))
        ;; Nothing is to be had: neither a value of this header, nor a body.
        (func (export "proxy_on_request_headers") (param {parameters}) (result i32)
          (drop (call $get (i32.const 0) (i32.const 2080) (i32.const 7) (i32.const 4) (i32.const 8)))
          (drop (call $buffer (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 8)))
          (i32.const 0))
        (func (export "proxy_on_response_headers") (param {parameters}) (result i32)
          (drop (call $add (i32.const 2) (i32.const 2048) (i32.const {length}) (i32.load (i32.const 16)) (i32.load (i32.const 20))))
          (i32.const 0)))"#,
        length = header.len(),
    )
}

#[test]
fn modules_in_the_shapes_that_toolchains_make() {
    let mut start = Start::new().file("gateway.yaml", TO_ECHO);
    let mut plugins = String::new();
    for shape in SHAPES {
        plugins += &istio(shape.name, &format!("url: file://{0}.wat\npluginConfig: {{ is: {0} }}", shape.name));
        plugins += "  vmConfig: { env: [{ name: MODE, value: test }] }\n";
    }
    let names: Vec<String> = SHAPES.iter().map(|s| format!("{}.wat", s.name)).collect();
    for (name, shape) in names.iter().zip(SHAPES) {
        start = start.file(name, module(shape));
    }
    let weir = start.file("plugin.yaml", plugins).run();
    for shape in SHAPES {
        assert_eq!(tried(&weir, shape.name), "active", "{}: {:?}", shape.name, status(&weir, shape.name));
        assert_eq!(status(&weir, shape.name).unwrap()["abi"], shape.abi.replace('_', "."));
    }
    for empty in [None, Some("")] {
        let headers: Vec<_> = empty.iter().map(|v| ("x-empty", *v)).collect();
        let answer = client::request(weir.address(), "GET", "h", "/", &headers, b"").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        for Shape { name, .. } in SHAPES {
            assert_eq!(answer.header(&format!("x-{name}")), Some(&*format!("{{\"is\":\"{name}\"}}")), "{answer:?}");
        }
    }
    eventually("TinyGo's standard output", || weir.lines("default/tinygo: starting").first().cloned());
}

/// Answers the callback of headers with the action that `x-request` or `x-response` names; notes heads, bodies and the tick that
/// lets go on what was held. In 0.2.100 only what carries `x-tick` is let go by the tick.
fn actions(abi: &str) -> String {
    let head = if abi == "0_1_0" { "(param $context i32) (param i32)" } else { "(param $context i32) (param i32) (param $end i32)" };
    let end = if abi == "0_1_0" { "(i32.const 0)" } else { "(local.get $end)" };
    let digit = |name: &str| {
        format!(
            "(if (i32.eqz (call $has [{name}])) (then (return (i32.const 0))))
             (local.set $action (i32.sub (i32.load8_u (i32.load (i32.const 4))) (i32.const 48)))
             (if (call $has [x-tick]) (then (global.set $held (local.get $context)) (drop (call $tick (i32.const 20)))))
             (local.get $action)"
        )
    };
    let direction = |name: &str, letters: (char, char), reset: &str| {
        let letter = |c: char| u32::from(c);
        format!(
            r#"(func (export "proxy_on_{name}_headers") {head} (result i32) (local $action i32)
              {reset}
              (call $note (i32.const {h}) (i32.const 0) {end})
              {digit})
            (func (export "proxy_on_{name}_body") (param i32) (param $size i32) (param $end i32) (result i32)
              (if (i32.and (local.get $end) (i32.eqz (call $is_tell))) (then (call $note (i32.const {b}) (i32.const 0) (i32.const 1))))
              (i32.const 0))"#,
            h = letter(letters.0),
            b = letter(letters.1),
            digit = digit(&format!("x-{name}")),
        )
    };
    let tell = "(if (call $is_tell) (then (call $tell) (return (i32.const 0))))";
    let own = "(if (call $is_tell) (then (return (i32.const 0))))";
    let code = direction("request", ('h', 'b'), tell)
        + &direction("response", ('H', 'B'), own)
        + r#"(global $held (mut i32) (i32.const 0))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $tick (i32.const 0)))
          (call $note (i32.const 84) (i32.const 0) (i32.const 0))
          (if (call $effective (global.get $held)) (then unreachable))
          (drop (call $continue (i32.const 0)))
          (drop (call $continue (i32.const 1))))"#;
    guest_of(abi, &code)
}

#[test]
fn actions_of_headers_by_abi_and_end() {
    for abi in ["0_1_0", "0_2_0", "0_2_1", "0_2_100"] {
        let weir = on_one_worker(actions(abi), "");
        let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
            let answer = client::request(weir.address(), method, "h", path, headers, body).unwrap();
            assert_eq!(answer.status, 200, "{abi} {headers:?}: {answer:?}");
            let told = notes(&weir.get("h", "/tell"));
            (answer, told)
        };
        // ABI 0.1.0 does not pass the end of the stream to the callback of headers.
        let ends = |told: &str| if abi == "0_1_0" { told.replace("h!", "h").replace("H!", "H") } else { told.to_string() };
        let honest = abi == "0_2_100";
        for (action, with_body, without) in [
            ("0", "h b!", "h!"),
            ("1", if honest { "h b!" } else { "h T b!" }, "h! T"),
            ("2", "h", "h!"),
            ("3", "h T b!", "h! T"),
            ("4", "h T b!", "h! T"),
            ("9", "h T b!", "h! T"),
        ] {
            let tick = |told: &str| if told.contains('T') { &[("x-tick", "1")][..] } else { &[] };
            let headers = |name: &'static str, told: &str| [&[(name, action)], tick(told)].concat();
            // Of the answer only the beginning is the row's: what follows it is the echo's own.
            let (answer, told) = ask("POST", "/x", &headers("x-request", with_body), b"text");
            assert!(told.starts_with(&ends(&format!("{with_body} H"))), "{abi} {action}: {told}");
            assert_eq!(answer.json()["body"], if action == "2" { "" } else { "text" }, "{abi} {action}");
            let (_, told) = ask("GET", "/x", &headers("x-request", without), b"");
            assert!(told.starts_with(&ends(&format!("{without} H"))), "{abi} {action}: {told}");
            // The same on the way back.
            let upper = |told: &str| format!("h! {}", told.to_uppercase());
            let (answer, told) = ask("GET", "/bytes/4", &headers("x-response", with_body), b"");
            assert_eq!((told, answer.body.len()), (ends(&upper(with_body)), if action == "2" { 0 } else { 4 }), "{abi} {action}");
            let (answer, told) = ask("GET", "/bytes/0", &headers("x-response", without), b"");
            assert_eq!((told, &*answer.body), (ends(&upper(without)), ""), "{abi} {action}");
        }
    }
}
