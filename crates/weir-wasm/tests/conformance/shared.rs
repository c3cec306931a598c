//! Ticks, shared data, queues, metrics, effective contexts.
#![allow(clippy::unwrap_used)]
use super::guests::*;
use std::{rc::Rc, time::Duration};
use weir_wasm::*;

fn of_vm(id: &str) -> PluginSpec {
    PluginSpec { vm_id: id.into(), ..PluginSpec::new("p") }
}

#[test]
fn tick_period_changes_and_stops() {
    let body = r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (drop (call $tick (i32.const 100))) i32.const 1)
        (func (export "proxy_on_tick") (param i32) (call $say (local.get 0)) (drop (call $tick (i32.const 0))))"#;
    let mut running = start("0.2.0", body);
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.ticks.take(), [Some(Duration::from_millis(100)), None]);
    assert_eq!(running.proxy.said(), "1");
}

/// Four workers count one key up by compare and set; none of the steps is lost.
#[test]
fn compare_and_set_across_workers() {
    let body = r#"(data (i32.const 100) "n")
        (func (export "proxy_on_tick") (param i32)
          (block $done (loop $again
            (if (call $get_shared (i32.const 100) (i32.const 1) (i32.const 20) (i32.const 24) (i32.const 28))
              (then (i32.store (i32.const 40) (i32.const 0)) (i32.store (i32.const 28) (i32.const 0)))
              (else (i32.store (i32.const 40) (i32.load (i32.load (i32.const 20))))))
            (i32.store (i32.const 40) (i32.add (i32.load (i32.const 40)) (i32.const 1)))
            (global.set $next (i32.const 32768))
            (br_if $again (call $set_shared (i32.const 100) (i32.const 1) (i32.const 40) (i32.const 4) (i32.load (i32.const 28)))))))"#;
    let module = compile(&guest("0.2.1", body)).unwrap();
    let vm = engine().shared().vm("count");
    vm.set(b"n", &0u32.to_le_bytes(), 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut instance = Instance::start(&module, &of_vm("count"), Rc::new(Proxy::default())).unwrap();
                (0..250).for_each(|_| instance.on_tick().unwrap());
            });
        }
    });
    let mut value = Vec::new();
    vm.get(b"n", &mut value);
    assert_eq!(value, 1000u32.to_le_bytes());
}

#[test]
fn statuses_of_shared_data() {
    let get = "(call $say (call $get_shared (i32.const 100) (i32.const 1) (i32.const 20) (i32.const 24) (i32.const 28)))";
    let set = |cas: &str| format!("(call $say (call $set_shared (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 4) {cas}))");
    let body = format!(
        r#"(data (i32.const 100) "ktext") (func (export "proxy_on_tick") (param i32) {get} {} {get} (call $tell) (call $say (i32.load (i32.const 28))) {} {} {})"#,
        set("(i32.const 7)"),
        set("(i32.const 9)"),
        set("(i32.load (i32.const 28))"),
        set("(i32.const 0)"),
    );
    let mut running = start_with("0.2.1", &body, &of_vm("statuses")).unwrap();
    running.instance.on_tick().unwrap();
    // Unknown key: NotFound, and its CAS is ignored. Then a wrong, a right and no CAS.
    assert_eq!(running.proxy.said(), "1 0 0 text 1 8 0 0");
}

/// A limit survives a plugin's swap: the data belongs to the id and lasts while something holds it.
#[test]
fn data_outlives_an_instance() {
    let body = r#"(data (i32.const 100) "k") (func (export "proxy_on_tick") (param i32)
        (call $say (call $get_shared (i32.const 100) (i32.const 1) (i32.const 20) (i32.const 24) (i32.const 28)))
        (drop (call $set_shared (i32.const 100) (i32.const 1) (i32.const 100) (i32.const 1) (i32.const 0))))"#;
    let said = || {
        let mut running = start_with("0.2.1", body, &of_vm("outlives")).unwrap();
        running.instance.on_tick().unwrap();
        running.proxy.said()
    };
    assert_eq!((said(), said()), ("1".into(), "1".into()), "nobody held it");
    let held = engine().shared().vm("outlives");
    assert_eq!((said(), said(), held.stats().data_entries), ("1".into(), "0".into(), 1));
}

#[test]
fn queues_between_two_plugins() {
    let receiver = r#"(data (i32.const 100) "jobs")
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
          (drop (call $register_queue (i32.const 100) (i32.const 4) (i32.const 40)))
          (call $say (call $register_queue (i32.const 100) (i32.const 4) (i32.const 44)))
          (call $say (i32.eq (i32.load (i32.const 40)) (i32.load (i32.const 44)))) i32.const 1)
        (func (export "proxy_on_queue_ready") (param i32 i32)
          (call $say (call $dequeue (local.get 1) (i32.const 20) (i32.const 24))) (call $tell)
          (call $say (call $dequeue (local.get 1) (i32.const 20) (i32.const 24)))
          (call $say (call $dequeue (i32.const -1) (i32.const 20) (i32.const 24))))"#;
    let sender = r#"(data (i32.const 100) "jobsreceivernone")
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $resolve_queue (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 40)))
          (call $say (call $resolve_queue (i32.const 104) (i32.const 8) (i32.const 112) (i32.const 4) (i32.const 40)))
          (call $say (call $resolve_queue (i32.const 104) (i32.const 8) (i32.const 100) (i32.const 4) (i32.const 40)))
          (call $say (call $enqueue (i32.load (i32.const 40)) (i32.const 104) (i32.const 8)))
          (call $say (call $enqueue (i32.const -1) (i32.const 104) (i32.const 8))))"#;
    let mut receiver = start_with("0.2.1", receiver, &of_vm("receiver")).unwrap();
    assert_eq!(receiver.proxy.said(), "0 1");
    let mut sender = start_with("0.2.1", sender, &of_vm("sender")).unwrap();
    sender.instance.on_tick().unwrap();
    assert_eq!(sender.proxy.said(), "1 1 0 0 1", "not its own, no such name, found, sent, no such queue");
    let woken = std::mem::take(&mut *receiver.proxy.woken.lock().unwrap());
    assert_eq!(woken.len(), 1);
    receiver.instance.on_queue_ready(woken[0]).unwrap();
    assert_eq!(receiver.proxy.said(), "0 receiver 7 1");
}

#[test]
fn metrics() {
    let define = |kind: u32, out: u32| {
        format!("(call $say (call $define_metric (i32.const {kind}) (i32.const 100) (i32.const 1) (i32.const {out})))")
    };
    let act = |what: &str, id: u32, by: i64| format!("(call $say (call ${what} (i32.load (i32.const {id})) (i64.const {by})))");
    let get = |id: u32| format!("(call $say (call $get_metric (i32.load (i32.const {id})) (i32.const 64)))");
    let value = "(call $say (i32.load (i32.const 64)))";
    for (code, said) in [
        // Counter at 40, gauge at 44, histogram at 48; the same name twice at 52.
        (define(0, 52) + "(call $say (i32.eq (i32.load (i32.const 40)) (i32.load (i32.const 52))))" + &define(3, 52), "0 1 2"),
        (act("increment_metric", 40, 2) + &act("increment_metric", 40, 0) + &act("increment_metric", 40, -1), "0 2 2"),
        (act("record_metric", 40, 3) + &get(40) + value, "0 0 3"),
        (act("record_metric", 44, 5) + &act("increment_metric", 44, -2) + &get(44) + value, "0 0 0 3"),
        (act("increment_metric", 48, 1) + &act("record_metric", 48, 1) + &get(48), "2 0 2"),
        (
            "(i32.store (i32.const 52) (i32.const -4))".to_owned()
                + &act("increment_metric", 52, 1)
                + &act("record_metric", 52, 1)
                + &get(52),
            "1 1 1",
        ),
        ("(i32.store (i32.const 52) (i32.const -1))".to_owned() + &act("increment_metric", 52, 1) + &get(52), "1 1"),
    ] {
        let setup = define(0, 40) + &define(1, 44) + &define(2, 48);
        let body = format!(r#"(data (i32.const 100) "m") (func (export "proxy_on_tick") (param i32) {setup} {code})"#);
        let mut running = start("0.2.1", &body);
        running.instance.on_tick().unwrap();
        assert_eq!(running.proxy.said(), format!("0 0 0 {said}"), "{code}");
    }
}

#[test]
fn effective_context() {
    let request = Request::new(&[("a", b"1")], b"");
    let get = "(call $say (call $get_header (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 20) (i32.const 24)))";
    let set = |id: u32| format!("(call $say (call $effective (i32.const {id})))");
    let body = format!(
        r#"(data (i32.const 100) "a") (func (export "proxy_on_tick") (param i32) {get} {} {get} {} {get} {} {get} {})"#,
        set(99),
        set(2),
        set(1),
        set(0),
    );
    let mut running = start("0.2.1", &body);
    let stream = running.instance.create_stream(request).unwrap();
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "1 2 1 0 0 0 1 2", "nobody, unknown, nobody, the stream, its header, the root, nobody, none");
    running.instance.end_stream(stream).unwrap();
    running.instance.on_tick().unwrap();
    assert_eq!(running.proxy.said(), "1 2 1 2 1 0 1 2", "an ended stream is unknown; nothing is left of the last callback");
}
