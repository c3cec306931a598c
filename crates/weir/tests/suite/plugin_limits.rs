//! Guests that try to make the gateway hold more and more: each is refused, counted, and the gateway's memory stays.
use crate::{
    client::Connection,
    harness::{Start, TO_ECHO, Weir},
    plugin_kit::guest,
};

/// What a guest does again and again; `NAME` is a text of eight characters, a new one each time.
struct Row {
    what: &'static str,
    /// Annotations.
    limits: &'static str,
    /// Runs once before.
    first: &'static str,
    again: String,
    times: u32,
    /// What counts it; empty where the repetition itself has no effect.
    counter: &'static str,
}

fn row(what: &'static str, limits: &'static str, again: &str, times: u32, counter: &'static str) -> Row {
    Row { what, limits, first: "", again: again.into(), times, counter }
}

fn rows() -> Vec<Row> {
    let megabyte = "(i32.const 1048576) (i32.const 1048576)";
    let stream = "weir_wasm_stream_overflows";
    let register = "(drop (call $register_queue [q] (i32.const 64)))";
    let open = "(drop (call $grpc_stream [127.0.0.1:1] [s] [m] (i32.const 0) (i32.const 0) (i32.const 64)))";
    vec![
        row("injected data", "weir.dev/stream-memory-limit: 4Mi", &format!("(drop (call $inject {megabyte} (i32.const 0)))"), 300, stream),
        row(
            "empty injections",
            "weir.dev/stream-memory-limit: 64Ki",
            "(drop (call $inject (i32.const 0) (i32.const 0) (i32.const 0)))",
            20_000,
            stream,
        ),
        row("filter state", "weir.dev/stream-memory-limit: 4Mi", &format!("(drop (call $set_property NAME {megabyte}))"), 300, stream),
        row(
            "empty filter state",
            "weir.dev/stream-memory-limit: 64Ki",
            "(drop (call $set_property NAME (i32.const 0) (i32.const 0)))",
            20_000,
            stream,
        ),
        row(
            "headers",
            "weir.dev/stream-memory-limit: 64Ki",
            &format!("(drop (call $add (i32.const 0) [x-greedy] [{}]))", "a".repeat(4000)),
            50_000,
            stream,
        ),
        row(
            "a larger buffer",
            "weir.dev/stream-memory-limit: 4Mi",
            "(drop (call $set_property [set_decoder_buffer_limit] [999999999999]))",
            1,
            stream,
        ),
        row(
            "a local response",
            "weir.dev/stream-memory-limit: 64Ki",
            "(call $answer (i32.const 200) (i32.const 1048576) (i32.const 1048576))",
            1,
            stream,
        ),
        row("resumed streams", "", "(drop (call $continue (i32.const 0)))", 2_000_000, ""),
        row("changed ticks", "", "(drop (call $tick (i32.const 100000)))", 500_000, ""),
        row(
            "shared data",
            "weir.dev/shared-data-limit: 4Mi",
            &format!("(drop (call $set_shared NAME {megabyte} (i32.const 0)))"),
            300,
            "weir_wasm_shared_data_evicted",
        ),
        Row {
            first: register,
            ..row(
                "queue entries",
                "weir.dev/queue-limit: 4Mi",
                &format!("(drop (call $enqueue (i32.load (i32.const 64)) {megabyte}))"),
                300,
                "weir_wasm_queue_dropped",
            )
        },
        Row {
            first: register,
            ..row(
                "empty queue entries",
                "",
                "(drop (call $enqueue (i32.load (i32.const 64)) (i32.const 0) (i32.const 0)))",
                500_000,
                "weir_wasm_queue_dropped",
            )
        },
        row("queues", "", "(drop (call $register_queue NAME (i32.const 64)))", 5_000, "weir_wasm_queue_dropped"),
        row("metrics", "", "(drop (call $define (i32.const 0) NAME (i32.const 64)))", 5_000, "weir_wasm_metric_overflows"),
        row("log lines", "", "(call $say (i32.const 1048576) (i32.const 16384))", 2_000, "weir_wasm_log_dropped"),
        row(
            "callouts",
            "weir.dev/callout-memory-limit: 4Mi",
            &format!(
                "(drop (call $http_call [127.0.0.1:1] [pairs :method=POST,:path=/,:authority=a] {megabyte} (i32.const 0) (i32.const 0)
                   (i32.const 1000) (i32.const 64)))"
            ),
            300,
            "weir_wasm_callout_overflows",
        ),
        Row {
            first: open,
            ..row(
                "messages of gRPC",
                "weir.dev/callout-memory-limit: 4Mi",
                "(drop (call $grpc_send (i32.load (i32.const 64)) (i32.const 0) (i32.const 0) (i32.const 0)))",
                1_000_000,
                "weir_wasm_callout_overflows",
            )
        },
        row(
            "Redis servers",
            "",
            "(i64.store (i32.const 901) (i64.load (call $hex (i32.const 800) (i32.const 4))))
             (drop (call $redis_init (i32.const 900) (i32.const 14) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000)))",
            2_000,
            "weir_wasm_callout_overflows",
        ),
    ]
}

impl Row {
    fn guest(&self) -> String {
        let name = "(call $hex (i32.const 800) (i32.const 4)) (i32.const 8)";
        guest(&format!(
            r#"(data (i32.const 900) "h00000000:6379")
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $left i32)
              {first}
              (local.set $left (i32.const {times}))
              (loop $again
                (i32.store (i32.const 800) (i32.add (i32.load (i32.const 800)) (i32.const 1)))
                {again}
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
              (i32.const 0))"#,
            first = self.first,
            times = self.times,
            again = self.again.replace("NAME", name),
        ))
    }

    fn gateway(&self) -> Weir {
        gateway(&self.guest(), self.limits)
    }
}

fn gateway(guest: &str, limits: &str) -> Weir {
    let object = format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata:\n  name: greedy\n  annotations:\n    weir.dev/call-deadline: 60s\n    {limits}\nspec: {{ url: file://guest.wat }}\n"
    );
    Start::new().file("gateway.yaml", TO_ECHO).file("guest.wat", guest).file("plugin.yaml", object).workers(1).run()
}

/// Without its bound each of them would take 200 MB or more.
#[test]
fn whatever_a_guest_asks_the_gateway_to_hold_is_bounded_and_counted() {
    for row in rows() {
        let weir = row.gateway();
        let before = weir.resident_kb();
        // What it answers is another matter: a request with 64 KB of headers is refused, for example.
        let _ = crate::client::request(weir.address(), "GET", "h", "/", &[], b"");
        let grown = weir.resident_kb().saturating_sub(before);
        assert!(grown < 80_000, "{}: the gateway has grown by {grown} kB", row.what);
        assert_eq!(weir.stat("weir_wasm_traps.default/greedy"), 0, "{}", row.what);
        if !row.counter.is_empty() {
            assert!(weir.stat(&format!("{}.default/greedy", row.counter)) > 0, "{}: {} does not count", row.what, row.counter);
        }
    }
}

#[test]
fn contexts_that_are_never_done_are_bounded() {
    let never = r#"(func (export "proxy_on_done") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let weir = gateway(&guest(never), "");
    let mut client = Connection::open(weir.address()).unwrap();
    for _ in 0..1200 {
        assert_eq!(client.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    }
    crate::harness::eventually("the oldest contexts are ended", || {
        (weir.stat("weir_wasm_contexts_dropped.default/greedy") > 100).then_some(())
    });
    assert_eq!(weir.stat("weir_wasm_traps.default/greedy"), 0);
}

/// A request that asks one of these plugins to misbehave harms no other request, even on the same worker.
#[test]
fn a_hundred_plugins_survive_one_that_spins_one_that_leaks_and_one_that_traps() {
    let bad = |header: &str, what: &str| {
        guest(&format!(
            "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) (if (call $has [{header}]) (then {what})) (i32.const 0))"
        ))
    };
    let spins = bad("x-spin", "(loop $for_ever (br $for_ever))");
    let leaks = bad("x-leak", "(if (i32.lt_s (memory.grow (i32.const 32)) (i32.const 0)) (then unreachable))");
    let traps = bad("x-trap", "unreachable");
    let plain = bad("x-none", "");
    let object = |name: &str, code: &str| {
        format!(
            "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: {name}, annotations: {{ weir.dev/memory-limit: 8Mi }} }}\nspec: {{ url: file://{code}.wat }}\n"
        )
    };
    let mut objects: String = (0..97).map(|i| object(&format!("plain{i}"), "plain")).collect();
    objects.extend(["spins", "leaks", "traps"].map(|name| object(name, name)));
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("spins.wat", spins)
        .file("leaks.wat", leaks)
        .file("traps.wat", traps)
        .file("plain.wat", plain)
        .file("plugin.yaml", objects)
        .workers(2)
        .run();
    assert_eq!(weir.get("h", "/").status, 200);
    std::thread::scope(|scope| {
        for header in ["x-spin", "x-leak", "x-trap"] {
            let to = weir.address();
            scope.spawn(move || {
                for _ in 0..12 {
                    // It is answered with 503, or not at all badly while there is room to leak.
                    let _ = crate::client::request(to, "GET", "h", "/", &[(header, "1")], b"");
                }
            });
        }
        for _ in 0..4 {
            let to = weir.address();
            scope.spawn(move || {
                for _ in 0..40 {
                    let answer = crate::client::request(to, "GET", "h", "/", &[], b"").unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
    for name in ["spins", "leaks", "traps"] {
        assert!(weir.stat(&format!("weir_wasm_traps.default/{name}")) > 0, "{name}");
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/plain0"), 0);
    assert!(weir.resident_kb() < 300_000, "{} kB", weir.resident_kb());
}
