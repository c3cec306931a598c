//! What instances share, and when it ends: data and queues across workers and plugins, ticks, metrics, contexts, traps.
use crate::{
    client::{self, Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually},
    plugin_kit::{guest, istio, notes, on_headers, on_one_worker, shown, with_guest},
};

/// Counts in shared data with compare-and-set, as often as it takes.
const COUNTS: &str = r#"
    (func $count (local $new i32)
      (loop $again
        (i32.store (i32.const 72) (i32.const 0))
        (i32.store (i32.const 80) (i32.const 0))
        (if (i32.eqz (call $get_shared [count] (i32.const 64) (i32.const 68) (i32.const 72)))
          (then (i32.store (i32.const 80) (i32.load (i32.load (i32.const 64))))))
        (i32.store (i32.const 80) (i32.add (i32.load (i32.const 80)) (i32.const 1)))
        ;; Somebody else was first: 8.
        (br_if $again (i32.eq (i32.const 8) (call $set_shared [count] (i32.const 80) (i32.const 4) (i32.load (i32.const 72)))))))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $count) (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
      (if (call $get_shared [count] (i32.const 64) (i32.const 68) (i32.const 72)) (then unreachable))
      (drop (call $add (i32.const 2) [x-count] (call $hex (i32.load (i32.const 64)) (i32.const 4)) (i32.const 8)))
      (drop (call $add (i32.const 2) [VERSION] [seen]))
      (i32.const 0))"#;

fn counted(answer: &Answer) -> u32 {
    u32::from_le_bytes(shown(answer.header("x-count").unwrap()).unwrap().try_into().unwrap())
}

#[test]
fn shared_data_counts_right_across_workers_and_outlives_versions() {
    let weir = with_guest(&COUNTS.replace("VERSION", "x-one"), "");
    // The first one alone: what is not there yet is set whatever anybody else does.
    assert_eq!(counted(&weir.get("h", "/")), 1);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let to = weir.address();
            std::thread::spawn(move || {
                let mut client = Connection::open(to).unwrap();
                for _ in 0..50 {
                    assert_eq!(client.request("GET", "h", "/", &[], b"").unwrap().status, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(counted(&weir.get("h", "/")), 402);
    weir.write("guest.wat", &guest(&COUNTS.replace("VERSION", "x-two")));
    let mut asked = 402;
    eventually("the new version", || {
        asked += 1;
        let answer = weir.get("h", "/");
        assert_eq!(counted(&answer), asked, "the new version goes on where the old one was");
        answer.header("x-two").map(drop)
    });
}

#[test]
fn queues_between_two_plugins() {
    // One takes what the other puts in; the queue belongs to the first one's VM.
    let takes = r#"(global $metric (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (call $define (i32.const 0) [queue.bytes] (i32.const 64)) (then unreachable))
          (global.set $metric (i32.load (i32.const 64)))
          (if (call $register_queue [work] (i32.const 64)) (then unreachable))
          (i32.const 1))
        (func (export "proxy_on_queue_ready") (param $root i32) (param $queue i32)
          (block $empty (loop $next
            (br_if $empty (call $dequeue (local.get $queue) (i32.const 4) (i32.const 8)))
            (drop (call $increment (global.get $metric) (i64.extend_i32_u (i32.load (i32.const 8)))))
            (br $next))))"#;
    // Statuses: of a queue that nobody has, of an empty one, of one that does not exist.
    let puts = on_headers(
        "response",
        "(if (call $resolve_queue [default/takes] [work] (i32.const 64)) (then unreachable))
         (drop (call $enqueue (i32.load (i32.const 64)) [0123456789]))
         (call $note (i32.const 78) (call $resolve_queue [default/takes] [nothing] (i32.const 68)) (i32.const 0))
         (drop (call $register_queue [mine] (i32.const 68)))
         (call $note (i32.const 69) (call $dequeue (i32.load (i32.const 68)) (i32.const 4) (i32.const 8)) (i32.const 0))
         (call $note (i32.const 88) (call $dequeue (i32.const 999) (i32.const 4) (i32.const 8)) (i32.const 0))",
    ) + &on_headers("request", "(if (call $is_tell) (then (call $tell)))");
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("takes.wat", guest(takes))
        .file("puts.wat", guest(&puts))
        .file("plugin.yaml", istio("takes", "url: file://takes.wat") + &istio("puts", "url: file://puts.wat"))
        .run();
    for _ in 0..20 {
        assert_eq!(weir.get("h", "/").status, 200);
    }
    eventually("all of it", || (weir.stat("wasmcustom.queue.bytes") == 200).then_some(()));
    let told = eventually("a worker that was asked", || Some(notes(&weir.get("h", "/tell"))).filter(|t| !t.is_empty()));
    assert!(told.starts_with("N1 E7 X1"), "{told}");
    assert_eq!(weir.stat("weir_wasm_traps.default/takes") + weir.stat("weir_wasm_traps.default/puts"), 0);
}

#[test]
fn ticks_change_their_pace_and_stop() {
    // Three quick ones, then none.
    let stops = r#"(global $n (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $define (i32.const 0) [ticks.stopped] (i32.const 64)))
          (drop (call $tick (i32.const 100000))) (drop (call $tick (i32.const 1)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (global.set $n (i32.add (global.get $n) (i32.const 1)))
          (drop (call $increment (i32.load (i32.const 64)) (i64.const 1)))
          (if (i32.eq (global.get $n) (i32.const 3)) (then (drop (call $tick (i32.const 0))))))"#;
    let goes_on = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $define (i32.const 0) [ticks.going] (i32.const 64)))
          (drop (call $tick (i32.const 1)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (drop (call $increment (i32.load (i32.const 64)) (i64.const 1))))"#;
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("stops.wat", guest(stops))
        .file("goes-on.wat", guest(goes_on))
        .file("plugin.yaml", istio("stops", "url: file://stops.wat") + &istio("goes-on", "url: file://goes-on.wat"))
        .workers(1)
        .run();
    eventually("three ticks", || (weir.stat("wasmcustom.ticks.stopped") == 3).then_some(()));
    let going = weir.stat("wasmcustom.ticks.going");
    eventually("many ticks of the other", || (weir.stat("wasmcustom.ticks.going") > going + 50).then_some(()));
    assert_eq!(weir.stat("wasmcustom.ticks.stopped"), 3);
    // Those of a version that has gone end with it.
    weir.write("goes-on.wat", &guest(&goes_on.replace("ticks.going", "ticks.newer")));
    eventually("the old ticks' end", || {
        let (old, newer) = (weir.stat("wasmcustom.ticks.going"), weir.stat("wasmcustom.ticks.newer"));
        eventually("fifty of the new ones", || (weir.stat("wasmcustom.ticks.newer") > newer + 50).then_some(()));
        (weir.stat("wasmcustom.ticks.going") == old).then_some(())
    });
}

#[test]
fn rules_of_metrics_and_of_contexts() {
    let note = |letter: char, call: &str| format!("(call $note (i32.const {}) {call} (i32.const 0))\n", u32::from(letter));
    let steps = [
        // The same name is the same metric; kinds are 0 to 2.
        note('a', "(call $define (i32.const 0) [m.counter] (i32.const 64))"),
        note('b', "(call $define (i32.const 0) [m.counter] (i32.const 68))"),
        note('c', "(i32.sub (i32.load (i32.const 64)) (i32.load (i32.const 68)))"),
        note('d', "(call $define (i32.const 3) [m.other] (i32.const 68))"),
        note('e', "(call $define (i32.const 1) [m.gauge] (i32.const 68))"),
        note('f', "(call $define (i32.const 2) [m.size] (i32.const 72))"),
        // Counters only grow, histograms are only recorded and not read.
        note('g', "(call $increment (i32.load (i32.const 64)) (i64.const 5))"),
        note('h', "(call $increment (i32.load (i32.const 64)) (i64.const 0))"),
        note('i', "(call $increment (i32.load (i32.const 64)) (i64.const -1))"),
        note('j', "(call $increment (i32.load (i32.const 72)) (i64.const 1))"),
        note('k', "(call $increment (i32.const 777777) (i64.const 1))"),
        note('l', "(call $record (i32.load (i32.const 64)) (i64.const 2))"),
        note('m', "(call $record (i32.load (i32.const 68)) (i64.const 9))"),
        note('n', "(call $increment (i32.load (i32.const 68)) (i64.const -4))"),
        note('o', "(call $record (i32.const 777777) (i64.const 1))"),
        note('p', "(call $get_metric (i32.load (i32.const 64)) (i32.const 80))"),
        note('q', "(i32.load (i32.const 80))"),
        note('r', "(call $get_metric (i32.load (i32.const 68)) (i32.const 80))"),
        note('s', "(i32.load (i32.const 80))"),
        note('t', "(call $get_metric (i32.load (i32.const 72)) (i32.const 80))"),
        note('u', "(call $get_metric (i32.const 777777) (i32.const 80))"),
        // Contexts: one that is not there, the root, which has no stream, and back.
        note('v', "(call $effective (i32.const 424242))"),
        note('w', "(call $effective (i32.const 1))"),
        note('x', "(call $add (i32.const 0) [x-on-root] [lost])"),
        note('y', "(call $effective (local.get 0))"),
        note('z', "(call $add (i32.const 0) [x-back] [kept])"),
        // A root that is not over cannot be done; paths of properties may be empty.
        note('A', "(call $done)"),
        note('B', "(call $get_property (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 8))"),
        note('C', "(call $get_property [no\\0such\\0thing] (i32.const 4) (i32.const 8))"),
        note('D', "(call $continue (i32.const 9))"),
    ];
    let code = on_headers("request", &format!("(if (call $is_tell) (then (call $tell) (return (i32.const 0)))) {}", steps.concat()));
    let weir = on_one_worker(guest(&format!("(func (export \"proxy_on_context_create\") (param i32 i32)) {code}")), "");
    let seen = weir.get("h", "/x").json();
    assert_eq!((&seen["headers"]["x-back"], &seen["headers"]["x-on-root"]), (&"kept".into(), &serde_json::Value::Null));
    let wanted = "a b c d2 e f g h2 i2 j2 k1 l m n o1 p q7 r s5 t2 u1 v2 w x2 y z A1 B1 C1 D2";
    assert_eq!(notes(&weir.get("h", "/tell")), wanted);
    let values = ["wasmcustom.m.counter", "wasmcustom.m.gauge", "wasmcustom.m.size_count"].map(|name| weir.stat(name));
    assert_eq!(values, [7, 5, 0]);
}

#[test]
fn one_plugin_reads_what_another_has_set() {
    let sets = "(drop (call $set_property [shared\\0word] [hello])) (drop (call $set_property [user] [ann]))";
    let shows = "(call $show [shared\\0word] [x-word]) (call $show [user] [x-user]) (call $show [filter_state\\0wasm.user] [x-state])";
    let plugins = istio("sets", "url: file://sets.wat\nphase: AUTHN") + &istio("shows", "url: file://shows.wat\nphase: STATS");
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("sets.wat", guest(&on_headers("request", sets)))
        .file("shows.wat", guest(&on_headers("response", shows)))
        .file("plugin.yaml", plugins)
        .run();
    let answer = weir.get("h", "/");
    let seen = ["x-word", "x-user", "x-state"].map(|name| shown(answer.header(name).unwrap()).map(|v| String::from_utf8(v).unwrap()));
    assert_eq!(seen, [Some("hello".into()), Some("ann".into()), Some("ann".into())]);
}

/// Traps in the callback whose letter `x-trap` has.
fn trapping() -> String {
    let trap = |letter: char| {
        format!(
            "(if (call $has [x-trap]) (then (if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const {})) (then unreachable))))",
            u32::from(letter)
        )
    };
    let callback = |name: &str, parameters: &str, letter: char, more: &str| {
        format!("(func (export \"proxy_on_{name}\") (param {parameters}) {} {more})", trap(letter))
    };
    let tick = r#"(global $tick_traps (mut i32) (i32.const 0))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_tick") (param i32) (if (global.get $tick_traps) (then unreachable)))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) unreachable)"#;
    let ask = "(if (call $has [x-trap]) (then
        (if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const 105)) (then
          (global.set $tick_traps (i32.const 1)) (drop (call $tick (i32.const 1))) (return (i32.const 1))))
        (if (i32.eq (i32.load8_u (i32.load (i32.const 4))) (i32.const 99)) (then
          (drop (call $get_value (i32.const 0) [x-to] (i32.const 64) (i32.const 68)))
          (if (call $http_call (i32.load (i32.const 64)) (i32.load (i32.const 68)) [pairs :method=GET,:path=/,:authority=a]
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 20000) (i32.const 84)) (then unreachable))
          (return (i32.const 1))))))
        (i32.const 0)";
    callback("request_headers", "i32 i32 i32) (result i32", 'h', ask)
        + &callback("request_body", "i32 i32 i32) (result i32", 'b', "(i32.const 0)")
        + &callback("request_trailers", "i32 i32) (result i32", 't', "(i32.const 0)")
        + &callback("response_headers", "i32 i32 i32) (result i32", 'H', "(drop (call $add (i32.const 2) [x-alive] [yes])) (i32.const 0)")
        + &callback("response_body", "i32 i32 i32) (result i32", 'B', "(i32.const 0)")
        + &callback("response_trailers", "i32 i32) (result i32", 'T', "(i32.const 0)")
        + &callback("log", "i32", 'l', "")
        + &callback("done", "i32) (result i32", 'd', "(i32.const 1)")
        + &callback("delete", "i32", 'e', "")
        + tick
}

fn trap(weir: &Weir, at: &str) -> std::io::Result<Answer> {
    let mut client = Connection::open(weir.address()).unwrap();
    let path = if at == "T" { "/trailers" } else { "/x" };
    let to = weir.echo();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nx-trap: {at}\r\nx-to: {to}\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\nx-t: v\r\n\r\n"
    ))?;
    client.answer()
}

#[test]
fn a_trap_in_any_callback_follows_the_fail_strategy_and_harms_no_other_plugin() {
    let other = guest(&on_headers("response", "(drop (call $add (i32.const 2) [x-other] [seen]))"));
    for strategy in ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"] {
        let other_plugin = istio("other", "url: file://other.wat");
        let weir = Start::new()
            .file("gateway.yaml", TO_ECHO)
            .file("other.wat", other.clone())
            .file("plugin.yaml", other_plugin.clone())
            .workers(1)
            .run();
        for at in ["h", "b", "t", "H", "B", "T", "l", "d", "e", "i", "c"] {
            // A plugin of its own for each, so that none waits for the back-off of the one before.
            let name = format!("traps-{}", at.bytes().map(|b| b.to_string()).collect::<String>());
            weir.write(&format!("{name}.wat"), &guest(&trapping().replace("[yes]", &format!("[{name}]"))));
            let plugin = istio(&name, &format!("url: file://{name}.wat\nfailStrategy: {strategy}"));
            weir.write("plugin.yaml", &(plugin + &other_plugin));
            let works = |a: &Answer| a.status == 200 && a.header("x-alive") == Some(&*name);
            weir.get_until("h", "/", works);
            let answer = trap(&weir, at);
            eventually(&format!("{strategy} {at}: the trap"), || {
                (weir.stat(&format!("weir_wasm_traps.default/{name}")) == 1).then_some(())
            });
            let late = matches!(at, "l" | "d" | "e");
            match answer {
                // What has left cannot be taken back.
                answer if matches!(at, "B" | "T") && strategy != "FAIL_OPEN" => {
                    assert!(answer.as_ref().is_ok_and(|a| a.status == 503) || answer.is_err(), "{strategy} {at}: {answer:?}");
                }
                Ok(answer) if late || strategy == "FAIL_OPEN" => {
                    assert_eq!((answer.status, answer.header("x-other")), (200, Some("seen")), "{strategy} {at}: {answer:?}");
                }
                Ok(answer) => assert_eq!(answer.status, 503, "{strategy} {at}: {answer:?}"),
                Err(e) => panic!("{strategy} {at}: {e}"),
            }
            // The next instance takes the next streams.
            weir.get_until("h", "/", works);
        }
        assert_eq!(weir.stat("weir_wasm_traps.default/other"), 0);
    }
}

#[test]
fn streams_in_flight_share_the_fate_of_their_instance() {
    for (strategy, delay, wanted) in [("FAIL_CLOSE", "100s", 503), ("FAIL_OPEN", "300ms", 200)] {
        let weir = on_one_worker(guest(&trapping()), &format!("failStrategy: {strategy}"));
        let mut waiting = Connection::open(weir.address()).unwrap();
        waiting.send(format!("GET /x?delay={delay} HTTP/1.1\r\nhost: h\r\n\r\n")).unwrap();
        eventually("its stream", || (weir.stat("weir_wasm_streams.default/under-test") == 1).then_some(()));
        let _ = trap(&weir, "h");
        assert_eq!(waiting.answer().unwrap().status, wanted, "{strategy}");
        weir.get_until("h", "/", |a| a.header("x-alive") == Some("yes"));
    }
}

#[test]
fn a_hundred_plugins_start_together_and_stay_small() {
    let code = on_headers("response", "(drop (call $add (i32.const 2) [x-count] [1]))");
    let plugins: String =
        (0..100).map(|i| istio(&format!("p{i}"), &format!("url: file://guest.wat\npluginConfig: {{ n: {i} }}"))).collect();
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("guest.wat", guest(&code)).file("plugin.yaml", plugins).run();
    let answer = client::request(weir.address(), "GET", "h", "/", &[], b"").unwrap();
    assert_eq!(answer.headers.iter().filter(|(n, _)| n == "x-count").count(), 100, "{answer:?}");
    // One module, compiled once (here or in another test), for all.
    assert_eq!(weir.stat("weir_wasm_compiled") + weir.stat("weir_wasm_artifacts_loaded"), 1);
    assert!(weir.resident_kb() < 400_000, "{} kB", weir.resident_kb());
}
