//! Requests that make a plugin trap, and slow starts of plugins: how other requests fare.
use crate::{
    client::{Answer, Connection},
    harness::{Start, eventually},
    plugin_kit::{guest, istio, marking, on_headers, on_one_worker, tried},
    yaml::ToEcho,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Dies of `x-poison`, denies `x-deny`, marks what it lets through.
fn guarded() -> String {
    guest(&on_headers(
        "request",
        "(if (call $has [x-poison]) (then unreachable))
         (if (call $has [x-deny]) (then (call $answer (i32.const 403) [denied]) (return (i32.const 1))))
         (drop (call $add (i32.const 0) [x-seen] [yes]))",
    ))
}

/// Requests, one after the other, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<(Answer, Duration)>>,
}

impl Load {
    fn start(to: SocketAddr, headers: &'static [(&'static str, &'static str)], pause: Duration) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), answered.clone());
        let thread = thread::spawn(move || {
            let mut answers = Vec::new();
            let mut client = Connection::open(to).unwrap();
            while !stopped.load(Relaxed) {
                let begun = Instant::now();
                let answer = client.request("GET", "shop.test", "/a", headers, b"").unwrap();
                answers.push((answer, begun.elapsed()));
                count.store(answers.len(), Relaxed);
                thread::sleep(pause);
            }
            answers
        });
        Load { stop, answered, thread }
    }

    fn end(self) -> Vec<(Answer, Duration)> {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_request_that_kills_the_plugin_costs_nobody_else_anything() {
    for (strategy, own) in [("FAIL_CLOSE", 503), ("FAIL_OPEN", 200), ("FAIL_RELOAD", 503)] {
        let weir = on_one_worker(guarded(), &format!("failStrategy: {strategy}"));
        let poison = Load::start(weir.address(), &[("x-poison", "1")], Duration::from_millis(3));
        let denied = Load::start(weir.address(), &[("x-deny", "1")], Duration::ZERO);
        let good = Load::start(weir.address(), &[], Duration::ZERO);
        eventually("a hundred deaths", || (weir.stat("weir_wasm_traps.default/under-test") >= 100).then_some(()));
        eventually("answers of others", || [&denied, &good].iter().all(|load| load.answered.load(Relaxed) > 50).then_some(()));
        let (poison, denied, good) = (poison.end(), denied.end(), good.end());
        for (answer, _) in denied {
            assert_eq!((answer.status, &*answer.body), (403, "denied"), "{strategy}");
        }
        for (answer, _) in good {
            assert!(answer.status == 200 && answer.body.contains("x-seen"), "{strategy}: {answer:?}");
        }
        for (answer, _) in poison {
            assert_eq!(answer.status, own, "{strategy}: {answer:?}");
        }
        let count = |name: &str| weir.stat(&format!("weir_wasm_{name}.default/under-test"));
        assert!(count("vm_reload_success") >= 99, "{}", count("vm_reload_success"));
        assert_eq!((count("vm_reload_backoff"), count("start_failures")), (0, 0), "{strategy}");
    }
}

/// A guest whose configuration takes three seconds; it marks responses with its name.
fn slow(name: &str) -> String {
    guest(&format!(
        "(func $clock (result i64) (drop (call $now (i32.const 0))) (i64.load (i32.const 0)))
         (func (export \"proxy_on_configure\") (param i32 i32) (result i32) (local $end i64)
           (local.set $end (i64.add (call $clock) (i64.const 3000000000)))
           (loop $l (br_if $l (i64.lt_s (call $clock) (local.get $end))))
           (i32.const 1))
         {}",
        on_headers("response", &format!("(drop (call $add (i32.const 2) [x-{name}] [seen]))"))
    ))
}

#[test]
fn a_slow_start_holds_nobody_up() {
    // Far below the three seconds.
    const BOUND: Duration = Duration::from_secs(1);
    // A busy machine may stop anything for longer; what a start holds up is held up each time.
    const TRIES: usize = 5;
    let plain = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: plain }\nspec:\n  gatewayClassName: weir\n  listeners: [{ name: http, port: $PORT2, protocol: HTTP }]\n";
    let routes = ToEcho::new().parent("name: plain").text();
    let target = "targetRef: { group: gateway.networking.k8s.io, kind: Gateway, name: gateway }";
    let object = |name: &str| istio(name, &format!("url: file://{name}.wat\n{target}"));
    let weir = Start::new()
        .file("gateway.yaml", format!("{routes}{plain}"))
        .file("version.yaml", object("version"))
        .file("version.wat", marking("old"))
        .run();
    assert_eq!(tried(&weir, "version"), "active");
    let beside = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    for what in ["new", "added"] {
        let mut worst: Vec<Duration> = Vec::new();
        while worst.last().is_none_or(|took| *took >= BOUND) {
            assert!(worst.len() < TRIES, "{what}: the slowest requests took {worst:?}");
            let name = format!("{what}{}", worst.len());
            let loads = [Load::start(weir.address(), &[], Duration::ZERO), Load::start(beside, &[], Duration::ZERO)];
            match what {
                "new" => weir.write("version.wat", &slow(&name)),
                _ => {
                    weir.write(&format!("{name}.wat"), &slow(&name));
                    weir.write(&format!("{name}.yaml"), &object(&name));
                }
            }
            weir.get_until("shop.test", "/a", |a| a.header(&format!("x-{name}")).is_some());
            let answers = loads.map(Load::end).concat();
            worst.push(answers.iter().map(|(_, took)| *took).max().unwrap());
            assert!(answers.iter().all(|(a, _)| a.status == 200), "{what}");
        }
    }
    let starts = weir.stat("weir_wasm_start_nanoseconds.default/added0");
    assert!(starts >= 3_000_000_000, "it was not slow: {starts} ns");
}
