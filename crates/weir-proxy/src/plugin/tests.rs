//! Manager and workers together, with guests written in WAT and streams that only note what is done to them.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::{Proxy, cluster::ClusterRegistry, stats::Total, worker::Worker};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, task::LocalSet};
use weir_config::model::{Origin, WasmCode};
use weir_test::{RedisServer, free_port};
use weir_wasm::{Action, BufferEdit, BufferType, Compiler, LocalResponse, MapType, PropertyPath, Stream, StreamType, pairs::Pairs};

/// Notes what a plugin does.
#[derive(Default)]
struct View(RefCell<Vec<String>>);

impl View {
    fn note(&self, what: String) {
        self.0.borrow_mut().push(what);
    }
    fn notes(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

impl Stream for View {
    fn header(&self, _: MapType, _: &[u8], _: &mut Vec<u8>) -> bool {
        false
    }
    fn headers(&self, _: MapType, _: &mut dyn FnMut(&[u8], &[u8])) {}
    fn add_header(&self, _: MapType, _: &[u8], _: &[u8]) -> weir_wasm::Status {
        weir_wasm::Status::Ok
    }
    fn replace_header(&self, _: MapType, _: &[u8], _: &[u8]) -> weir_wasm::Status {
        weir_wasm::Status::Ok
    }
    fn remove_header(&self, _: MapType, _: &[u8]) -> weir_wasm::Status {
        weir_wasm::Status::Ok
    }
    fn set_headers(&self, _: MapType, _: Pairs<'_>) -> weir_wasm::Status {
        weir_wasm::Status::Ok
    }
    fn buffer_len(&self, _: BufferType) -> Option<usize> {
        None
    }
    fn read_buffer(&self, _: BufferType, _: usize, _: &mut [u8]) -> usize {
        0
    }
    fn edit_buffer(&self, _: BufferType, _: BufferEdit, _: &[u8]) -> weir_wasm::Status {
        weir_wasm::Status::Ok
    }
    fn property(&self, _: PropertyPath<'_>, _: &mut Vec<u8>) -> bool {
        false
    }
    fn set_property(&self, _: PropertyPath<'_>, _: &[u8]) {}
    fn send_local_response(&self, response: LocalResponse<'_>) {
        self.note(format!("reply {} {}", response.status, String::from_utf8_lossy(response.details)));
    }
    fn continue_stream(&self, stream: StreamType) {
        self.note(format!("continue {stream:?}"));
    }
    fn close_stream(&self, _: StreamType) {}
    fn clear_route_cache(&self) {}
}

/// A guest with these bodies; texts stand in memory from 1000 on, one after the other.
fn guest(callbacks: &str, texts: &[&str]) -> String {
    let data: String = texts.concat().bytes().map(|b| format!("\\{b:02x}")).collect();
    format!(
        r#"(module
        (import "env" "proxy_redis_init" (func $redis_init (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_redis_call" (func $redis_call (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_http_call" (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
        (import "env" "proxy_set_tick_period_milliseconds" (func $tick_period (param i32) (result i32)))
        (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
        (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
        (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 1000) "{data}")
        (global $next (mut i32) (i32.const 8192))
        (global $context (mut i32) (i32.const 0))
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32)
            (global.get $next) (global.set $next (i32.add (global.get $next) (local.get 0))))
        (func (export "proxy_on_context_create") (param i32 i32))
        {callbacks})"#
    )
}

const PASS: &str = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
const TRAP: &str = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable)
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;

/// A manager and one worker.
struct Rig {
    manager: Arc<Manager>,
    worker: Rc<WorkerPlugins>,
    /// What dials for them.
    _dialing: (Rc<Worker>, Proxy),
    dir: tempfile::TempDir,
    plugins: BTreeMap<Name, Arc<WasmPlugin>>,
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test().await });
}

impl Rig {
    fn new() -> Rig {
        let options = ManagerOptions {
            retry: (Duration::from_millis(100), Duration::from_secs(1)),
            redis_check: Duration::from_millis(100),
            ..ManagerOptions::new(Handle::current(), Arc::new(weir_net::dial::GuardedResolver::system().unwrap()))
        };
        let manager = Manager::new(options, Arc::new(ClusterRegistry::default())).unwrap();
        let proxy = Proxy::start(crate::Options { workers: 1, admin: None, ..Default::default() }).unwrap();
        let dialing = Worker::new(0, proxy.shared().clone());
        let worker = WorkerPlugins::new(&manager, Rc::downgrade(&dialing));
        Rig { manager, worker, _dialing: (dialing, proxy), dir: tempfile::tempdir().unwrap(), plugins: BTreeMap::new() }
    }

    /// A version of plugin `p`; what it came to.
    async fn apply(&mut self, wat: &str, change: impl FnOnce(&mut WasmPlugin)) -> Vec<String> {
        let path = self.dir.path().join("p.wat");
        std::fs::write(&path, wat).unwrap();
        // Any change of the text is a change of the plugin, as with the digest that the control plane gives.
        let code = WasmCode::File { path: path.to_str().unwrap().into(), sha256: digest(wat) };
        let origin = Origin::named("WasmPlugin/default/p");
        let mut plugin = WasmPlugin::new("p".into(), code, origin);
        change(&mut plugin);
        self.plugins.insert("p".into(), Arc::new(plugin));
        let loading = self.manager.apply(&self.plugins.values().cloned().collect::<Vec<_>>(), &[], 0);
        loading.ready().await;
        loading.finished().await.iter().flat_map(|(_, found)| found).map(|d| format!("{} {}", d.reason, d.message)).collect()
    }

    fn slot(&self) -> Arc<PluginSlot> {
        self.manager.slot("p").unwrap()
    }

    fn stream(&self) -> (PluginEntry, Rc<View>) {
        let view = Rc::new(View::default());
        (self.worker.stream(&self.slot(), view.clone()), view)
    }

    fn running(&self) -> (PluginStream, Rc<View>) {
        match self.stream() {
            (PluginEntry::Run(stream), view) => (stream, view),
            _ => panic!("the plugin does not run: {:?}", self.slot().status()),
        }
    }

    fn metric(&self, wanted: &str) -> u64 {
        let mut found = 0;
        self.manager.metrics(&mut |name, _, total| match total {
            Total::Counter(n) if name == wanted => found = n,
            Total::Gauge(n) if name == wanted => found = n as u64,
            _ => {}
        });
        found
    }

    async fn until(&self, what: &str, mut test: impl FnMut(&Rig) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !test(self) {
            assert!(Instant::now() < deadline, "not within 30 s: {what}; {:?}", self.slot().status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn serves(&self, generation: u64) {
        self.until("the worker has the generation", |rig| match rig.stream() {
            (PluginEntry::Run(s), _) => s.generation() == generation,
            _ => false,
        })
        .await;
    }
}

fn digest(text: &str) -> String {
    weir_net::tls::hex_digest(text.as_bytes())
}

#[test]
fn new_streams_take_the_new_generation_and_old_ones_finish() {
    run(async || {
        let mut rig = Rig::new();
        assert_eq!(rig.apply(&guest(PASS, &[]), |_| ()).await, [""; 0]);
        rig.serves(1).await;
        let (old, _) = rig.running();
        assert_eq!(old.on_request_headers(false), Action::Continue);
        assert_eq!(rig.apply(&guest(PASS, &[]), |p| p.configuration = "{}".into()).await, [""; 0]);
        rig.serves(2).await;
        assert_eq!((old.generation(), rig.slot().status().generation), (1, 2));
        assert_eq!(old.on_response_headers(true), Action::Continue, "served by its own generation to the end");
        rig.until("both are alive", |rig| rig.metric("weir_wasm_instances") >= 2).await;
        old.end();
        drop(old);
        // The active one and its spare; the old one may have lived long enough for a spare, too.
        rig.until("the old one is freed", |rig| rig.metric("weir_wasm_instances") == 2 && rig.metric("weir_wasm_starts") >= 3).await;
        assert_eq!(rig.metric("weir_wasm_memory_bytes"), 2 * 65536);
        rig.plugins.clear();
        let slot = rig.slot();
        rig.manager.apply(&[], &["p".into()], 0);
        assert!(rig.manager.slots().is_empty(), "still there");
        let deadline = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&slot) > 1 {
            assert!(Instant::now() < deadline, "a plugin that is gone is still held");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// A large module serves as soon as the baseline compiler is done; instances of optimized code take over, and open streams finish.
#[test]
fn optimized_code_takes_over_and_open_streams_finish() {
    run(async || {
        let mut rig = Rig::new();
        let compilers = rig.manager.compilers.clone();
        let held = compilers.optimizing.acquire().await.unwrap();
        let large = guest(&format!("{PASS} (@custom \"padding\" \"{}\")", "x".repeat(70_000)), &[]);
        assert_eq!(rig.apply(&large, |_| ()).await, [""; 0]);
        rig.serves(1).await;
        assert_eq!(rig.slot().status().compiler, Some(Compiler::Winch));
        let (old, _) = rig.running();
        assert_eq!(old.on_request_headers(false), Action::Continue);
        assert_eq!(rig.metric("weir_wasm_optimized"), 0);

        drop(held);
        rig.until("an instance of optimized code serves", |rig| rig.metric("weir_wasm_optimized") == 1).await;
        assert_eq!(rig.slot().status().compiler, Some(Compiler::Cranelift));
        let (new, _) = rig.running();
        assert_eq!((new.on_request_headers(true), new.generation()), (Action::Continue, 1), "it is the same version");
        assert_eq!(old.on_response_headers(true), Action::Continue, "served by the old code to the end");
        assert_eq!((rig.metric("weir_wasm_traps"), rig.metric("weir_wasm_failed_streams")), (0, 0));
        new.end();
        old.end();
        drop((old, new));
        rig.until("the old code is freed", |rig| rig.metric("weir_wasm_instances") == 2).await;

        assert_eq!(rig.apply(&large, |p| p.configuration = "{}".into()).await, [""; 0]);
        rig.serves(2).await;
        let counts: Vec<_> = compilers.compilations.each().map(|(_, count, _)| count).collect();
        assert_eq!(counts, [1, 1], "a new configuration compiles nothing");
    });
}

#[test]
fn an_instance_is_replaced_after_so_many_requests_or_so_much_memory() {
    run(async || {
        let grow = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (drop (memory.grow (i32.const 1))) (i32.const 0))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;
        type Change = fn(&mut weir_config::model::WasmLimits);
        let cases: [(Change, &str); 2] = [(|l| l.retire_after_requests = 3, "requests"), (|l| l.retire_above_bytes = 4 * 65536, "memory")];
        for (change, what) in cases {
            let mut rig = Rig::new();
            rig.apply(&guest(grow, &[]), |p| change(&mut p.limits)).await;
            rig.serves(1).await;
            let (open, _) = rig.running();
            assert_eq!(open.on_request_headers(false), Action::Continue);
            for _ in 0..3 {
                let (stream, _) = rig.running();
                assert_eq!(stream.on_request_headers(true), Action::Continue);
                stream.end();
            }
            rig.until(what, |rig| rig.metric("weir_wasm_retired") > 0).await;
            assert_eq!(open.on_response_headers(true), Action::Continue, "{what}: the open stream finishes where it began");
            open.end();
            drop(open);
            assert_eq!(rig.running().0.on_request_headers(true), Action::Continue);
            assert_eq!((rig.metric("weir_wasm_traps"), rig.metric("weir_wasm_failed_streams"), rig.slot().status().generation), (0, 0, 1));
        }
    });
}

#[test]
fn a_plugin_that_has_used_up_its_cpu_follows_its_fail_strategy_for_a_while() {
    run(async || {
        let busy = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $i i32)
            (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000)))) (i32.const 0))"#;
        for strategy in [FailStrategy::FailClose, FailStrategy::FailOpen] {
            let mut rig = Rig::new();
            rig.apply(&guest(busy, &[]), |p| (p.fail_strategy, p.limits.cpu_millis) = (strategy, 10)).await;
            rig.serves(1).await;
            let mut runs = 0;
            let refused = loop {
                match rig.stream().0 {
                    PluginEntry::Run(stream) => drop((stream.on_request_headers(true), stream.end())),
                    refused => break refused,
                }
                runs += 1;
                assert!(runs < 10_000, "{strategy:?}: it is never limited");
            };
            assert_eq!(matches!(refused, PluginEntry::Skip), strategy == FailStrategy::FailOpen);
            assert!(rig.metric("weir_wasm_cpu_limited") > 0);
            rig.until("its share comes back", |rig| matches!(rig.stream().0, PluginEntry::Run(_))).await;
            assert_eq!(rig.metric("weir_wasm_traps"), 0);
        }
    });
}

#[test]
fn a_bad_version_never_replaces_a_good_one() {
    run(async || {
        let mut rig = Rig::new();
        rig.apply(&guest(PASS, &[]), |_| ()).await;
        let refuse = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#;
        let crash = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) unreachable)"#;
        for (wat, reason, says) in [
            ("(module)".to_string(), "InvalidPlugin", "no Proxy-Wasm ABI version"),
            ("(modul)".into(), "PluginCodeUnavailable", "p.wat"),
            (guest(refuse, &[]), "PluginNotStarted", "refused its configuration"),
            (guest(crash, &[]), "PluginNotStarted", "proxy_on_configure"),
        ] {
            let said = rig.apply(&wat, |_| ()).await.join("\n");
            assert!(said.starts_with(reason) && said.contains(says), "{said}");
            let status = rig.slot().status();
            assert_eq!((status.state, status.generation), (PluginState::Stale, 1));
            assert!(status.reason.unwrap().contains(says));
            assert_eq!(rig.running().0.on_request_headers(true), Action::Continue);
        }
        rig.apply(&guest(PASS, &["again"]), |_| ()).await;
        let status = rig.slot().status();
        assert_eq!((status.state, status.generation, status.reason), (PluginState::Active, 2, None));
    });
}

#[test]
fn without_any_good_version_the_fail_strategy_decides() {
    run(async || {
        let mut rig = Rig::new();
        rig.apply("(module)", |_| ()).await;
        assert!(matches!(rig.stream().0, PluginEntry::Fail));
        assert_eq!(rig.slot().status().state, PluginState::Failed);
        rig.apply("(module)", |p| p.fail_strategy = FailStrategy::FailOpen).await;
        assert!(matches!(rig.stream().0, PluginEntry::Skip));
        assert_eq!((rig.metric("weir_wasm_failed_streams"), rig.metric("weir_wasm_skipped_streams")), (1, 1));
    });
}

#[test]
fn a_missing_file_is_taken_up_when_it_appears() {
    run(async || {
        let mut rig = Rig::new();
        let path = rig.dir.path().join("later.wat");
        let file = WasmCode::File { path: path.to_str().unwrap().into(), sha256: String::new() };
        let said = rig.apply("", |p| p.code = file).await;
        assert!(said[0].contains("later.wat"), "{said:?}");
        std::fs::write(path, guest(PASS, &[])).unwrap();
        rig.serves(1).await;
        assert_eq!(rig.slot().status().state, PluginState::Active);
    });
}

#[test]
fn a_trap_ends_its_instance_only() {
    run(async || {
        for (strategy, told, entry_fails) in [
            (FailStrategy::FailClose, vec!["reply 503 wasm_fail_stream{p}"], true),
            (FailStrategy::FailOpen, vec!["continue Request", "continue Response"], false),
            (FailStrategy::FailReload, vec!["reply 503 wasm_fail_stream{p}"], true),
        ] {
            let mut rig = Rig::new();
            rig.apply(&guest(TRAP, &[]), |p| p.fail_strategy = strategy).await;
            rig.serves(1).await;
            let (other, other_view) = rig.running();
            assert_eq!(other.on_response_headers(false), Action::Continue);
            let (victim, view) = rig.running();
            let action = victim.on_request_headers(true);
            assert_eq!(action.stops(), entry_fails, "{strategy:?}");
            assert_eq!(view.notes(), told, "{strategy:?}");
            assert_eq!(other_view.notes(), [""; 0], "it needs the plugin no more");
            assert_eq!(victim.on_response_headers(false), Action::Continue, "no guest any more: its reply must pass");
            assert!(rig.slot().status().last_trap.unwrap().contains("proxy_on_request_headers"));
            // Another instance takes the next stream, however often that happens.
            for _ in 0..10 {
                rig.until("another instance", |rig| rig.worker.missing(&[rig.slot()]).is_none()).await;
                let (next, view) = rig.running();
                next.on_request_headers(true);
                assert_eq!(view.notes(), told);
            }
            assert_eq!((rig.metric("weir_wasm_traps"), rig.metric("weir_wasm_vm_reload_backoff")), (11, 0));
            drop((other, victim));
        }
    });
}

#[test]
fn an_endless_loop_and_hunger_end_at_their_limits() {
    run(async || {
        let spin = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (loop $l (br $l)) (i32.const 0))"#;
        let mut rig = Rig::new();
        rig.apply(&guest(spin, &[]), |_| ()).await;
        rig.running().0.on_request_headers(true);
        assert_eq!((rig.metric("weir_wasm_traps"), rig.metric("weir_wasm_deadlines")), (1, 1));
        let grow = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable)"#;
        let mut rig = Rig::new();
        rig.apply(&guest(grow, &[]), |p| p.limits.memory_bytes = 8 << 20).await;
        rig.running().0.on_request_headers(true);
        assert_eq!((rig.metric("weir_wasm_traps"), rig.metric("weir_wasm_memory_limits")), (1, 1));
    });
}

#[test]
fn ticks_count_into_one_metric() {
    run(async || {
        let ticks = r#"(global $id (mut i32) (i32.const 0))
            (func (export "proxy_on_configure") (param i32 i32) (result i32)
                (drop (call $define (i32.const 0) (i32.const 1000) (i32.const 5) (i32.const 4)))
                (global.set $id (i32.load (i32.const 4)))
                (drop (call $tick_period (i32.const 5))) (i32.const 1))
            (func (export "proxy_on_tick") (param i32) (drop (call $increment (global.get $id) (i64.const 1))))"#;
        let mut rig = Rig::new();
        rig.apply(&guest(ticks, &["ticks"]), |_| ()).await;
        assert!(matches!(rig.stream().0, PluginEntry::Skip), "no callback for streams: it costs them nothing");
        rig.until("it ticks", |rig| rig.metric("wasmcustom.ticks") >= 3).await;
        rig.apply(&guest(&ticks.replace("i64.const 1", "i64.const 1000"), &["ticks"]), |_| ()).await;
        rig.until("the new generation counts on in the same metric", |rig| rig.metric("wasmcustom.ticks") >= 1000).await;
    });
}

/// A guest that initialises Redis with `name` and the password, pauses each request for one command, and resumes it (or
/// answers 599 when there is no reply).
fn redis_guest(name: &str, password: &str, query: &str) -> String {
    let (at_password, at_query) = (1000 + name.len(), 1000 + name.len() + password.len());
    let plain = name.split('?').next().unwrap().len();
    let callbacks = format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $redis_init (i32.const 1000) (i32.const {}) (i32.const 0) (i32.const 0) (i32.const {at_password}) (i32.const {})
                (i32.const 20000))) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (global.set $context (local.get 0))
            (if (call $redis_call (i32.const 1000) (i32.const {plain}) (i32.const {at_query}) (i32.const {}) (i32.const 4))
                (then (return (i32.const 0))))
            (i32.const 1))
        (func (export "proxy_on_redis_call_response") (param $root i32) (param $token i32) (param $status i32) (param $size i32)
            (drop (call $effective (global.get $context)))
            (if (local.get $status)
                (then (drop (call $reply (i32.const 599) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))))
                (else (drop (call $reply (i32.add (i32.const 1000) (local.get $size)) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))))))"#,
        name.len(),
        password.len(),
        query.len(),
    );
    guest(&callbacks, &[name, password, query])
}

const PING: &str = "*1\r\n$4\r\nPING\r\n";

#[test]
fn redis_by_every_name() {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    run(async || {
        let (address, port) = (server.address(), server.port);
        for (name, password, configuration) in [
            (address.clone(), "secret", String::new()),
            (format!("outbound|{port}||127.0.0.1"), "secret", String::new()),
            (format!("outbound|{port}||127.0.0.1?db=3"), "secret", String::new()),
            (format!("redis://:secret@{address}/2"), "", String::new()),
            ("outbound|6379||redis.static".into(), "secret", format!(r#"{{"upstreams": {{"redis.static": "{address}"}}}}"#)),
        ] {
            let mut rig = Rig::new();
            let said = rig.apply(&redis_guest(&name, password, PING), |p| p.configuration = configuration.clone().into()).await;
            assert_eq!(said, [""; 0], "{name}");
            assert!(rig.slot().status().redis.iter().all(|r| r.error.is_none()));
            let (stream, view) = rig.running();
            assert!(stream.on_request_headers(true).stops());
            assert_eq!(view.notes(), [""; 0], "never within the call");
            rig.until("the reply", |_| !view.notes().is_empty()).await;
            // +PONG\r\n has seven bytes.
            assert_eq!(view.notes(), ["reply 1007 "], "{name}");
            assert_eq!((rig.metric("weir_wasm_redis_commands"), rig.metric("weir_wasm_redis_failures")), (1, 0));
        }
    });
}

#[test]
fn what_is_wrong_with_redis_is_said_at_load() {
    let server = RedisServer::start(&["--requirepass", "secret"]);
    run(async || {
        let dead = format!("127.0.0.1:{}", free_port());
        for (name, password, says, reply) in [
            (server.address(), "wrong", "AUTH was refused: WRONGPASS", vec!["reply 1034 "]),
            (server.address(), "", "the server asks for a password", vec!["reply 1034 "]),
            (dead, "", "refused", vec!["reply 599 "]),
            ("outbound|6379||nowhere.static".into(), "", "there is no upstream", vec![]),
        ] {
            let mut rig = Rig::new();
            let said = rig.apply(&redis_guest(&name, password, PING), |_| ()).await.join("\n");
            assert!(said.starts_with("RedisUnavailable") && said.contains(says), "{said}");
            assert!(rig.slot().status().redis[0].error.as_ref().unwrap().contains(says));
            let (stream, view) = rig.running();
            assert_eq!(stream.on_request_headers(true).stops(), !reply.is_empty(), "the plugin's own policy");
            rig.until("the reply", |_| view.notes().len() == reply.len()).await;
            assert_eq!(view.notes(), reply);
        }
    });
}

#[test]
fn the_status_follows_a_redis_that_goes_and_comes() {
    let server = RedisServer::start(&[]);
    run(async || {
        let mut rig = Rig::new();
        rig.apply(&redis_guest(&server.address(), "", PING), |_| ()).await;
        let error = |rig: &Rig| rig.slot().status().redis[0].error.clone();
        assert_eq!(error(&rig), None);
        let port = server.kill();
        rig.until("its end is seen", |rig| error(rig).is_some()).await;
        let _again = RedisServer::try_start(port, &[]).expect("the port is still free");
        rig.until("its return is seen", |rig| error(rig).is_none()).await;
    });
}

#[test]
fn a_refused_command_gets_an_error_reply_and_an_ended_stream_none() {
    let server = RedisServer::start(&[]);
    run(async || {
        let mut rig = Rig::new();
        rig.apply(&redis_guest(&server.address(), "", "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n"), |_| ()).await;
        let (stream, view) = rig.running();
        assert!(stream.on_request_headers(true).stops());
        rig.until("the reply", |_| !view.notes().is_empty()).await;
        assert!(view.notes()[0].starts_with("reply 1"), "an error reply, no failure");

        // The answer comes after the end of its stream: the guest hears of it, nothing else happens.
        let (stream, view) = rig.running();
        stream.on_request_headers(true);
        stream.end();
        drop(stream);
        rig.until("two answers", |rig| rig.metric("weir_wasm_redis_errors") == 2).await;
        assert_eq!(view.notes(), [""; 0]);
        assert_eq!(rig.metric("weir_wasm_traps"), 0);
    });
}
