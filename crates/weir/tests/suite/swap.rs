//! Plugins changed under load: no error, no closed connection, memory back to where it was.
use crate::{
    client::{Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually, runtime},
    plugin_kit,
    streams::{h2c, says, websocket},
};
use http::Request;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

/// A plugin that writes `version` into the response header x-version. Its start allocates a little, as real ones do.
fn plugin(version: u32) -> String {
    format!(
        r#"(module
  (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 16) "x-version")
  (data (i32.const 32) "{version:04}")
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $set (i32.const 2) (i32.const 16) (i32.const 9) (i32.const 32) (i32.const 4)))
    (i32.const 0)))"#
    )
}

fn object(setting: u32) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{ name: version }}\nspec:\n  url: file://plugin.wat\n  pluginConfig: {{ setting: {setting} }}\n"
    )
}

/// Load over HTTP/1.1 and HTTP/2 with an open WebSocket and open events: none of it may notice a swap.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU32>,
    plain: Vec<JoinHandle<()>>,
    multiplexed: Vec<tokio::task::JoinHandle<()>>,
    socket: WebSocketStream<TcpStream>,
    events: Connection,
}

impl Traffic {
    /// `marked`: whether the plugin has seen an answer.
    pub fn start(weir: &Weir, marked: fn(&Answer) -> bool) -> Traffic {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let plain = (0..3).map(|_| load(weir, marked, &stop, &served)).collect();
        let multiplexed = (0..2).map(|_| load_http2(weir, marked, &stop, &served)).collect();
        let socket = runtime().block_on(websocket(weir.address()));
        let mut events = Connection::open(weir.address()).unwrap();
        events.send("GET /sse?n=1000000&every=20ms HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(events.head().unwrap().status, 200);
        Traffic { stop, served, plain, multiplexed, socket, events }
    }

    /// The long streams are still open.
    pub fn look(&mut self) {
        runtime().block_on(says(&mut self.socket, "still here"));
        assert!(self.events.chunk().unwrap().is_some(), "the events were cut");
    }

    /// Nobody has seen an error.
    pub fn end(mut self) {
        self.look();
        eventually("load", || (self.served.load(Ordering::Relaxed) > 200).then_some(()));
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.plain {
            thread.join().expect("HTTP/1.1 saw it");
        }
        for task in self.multiplexed {
            runtime().block_on(task).expect("HTTP/2 saw it");
        }
    }
}

/// Requests one after the other on one connection, until stopped.
fn load(weir: &Weir, marked: fn(&Answer) -> bool, stop: &Arc<AtomicBool>, served: &Arc<AtomicU32>) -> JoinHandle<()> {
    let (to, stop, served) = (weir.address(), stop.clone(), served.clone());
    std::thread::spawn(move || {
        let mut c = Connection::open(to).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let answer = c.request("GET", "h", "/x", &[], b"").expect("the connection was closed");
            assert!(answer.status == 200 && marked(&answer), "the plugin was passed over: {answer:?}");
            served.fetch_add(1, Ordering::Relaxed);
        }
    })
}

fn load_http2(weir: &Weir, marked: fn(&Answer) -> bool, stop: &Arc<AtomicBool>, served: &Arc<AtomicU32>) -> tokio::task::JoinHandle<()> {
    let (to, stop, served) = (weir.address(), stop.clone(), served.clone());
    runtime().spawn(async move {
        let client = h2c(to).await;
        while !stop.load(Ordering::Relaxed) {
            let request = Request::get(format!("http://{to}/x")).body(()).unwrap();
            let (response, _) = client.clone().ready().await.expect("GOAWAY").send_request(request, true).unwrap();
            let (head, mut body) = response.await.expect("a reset").into_parts();
            let fields = head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_string()));
            let mut answer = Answer { status: head.status.as_u16(), headers: fields.collect(), ..Answer::default() };
            while let Some(piece) = body.data().await {
                let piece = piece.expect("a whole body");
                body.flow_control().release_capacity(piece.len()).unwrap();
                answer.body += std::str::from_utf8(&piece).unwrap();
            }
            assert!(answer.status == 200 && marked(&answer), "the plugin was passed over: {answer:?}");
            served.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[test]
fn a_hundred_swaps_of_code_and_configuration_close_nothing() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", object(0)).file("plugin.wat", plugin(0)).run();
    weir.get_until("h", "/", |a| a.header("x-version") == Some("0000"));
    let mut traffic = Traffic::start(&weir, |a| a.header("x-version").is_some());
    let mut swap = |version: u32| {
        if version.is_multiple_of(4) {
            weir.write("plugin.yaml", &object(version));
        }
        weir.write("plugin.wat", &plugin(version));
        weir.get_until("h", "/", |a| a.header("x-version") == Some(&format!("{version:04}")));
        traffic.look();
    };
    (1..=20).for_each(&mut swap);
    let before = weir.resident_kb();
    (21..=100).for_each(&mut swap);
    traffic.end();
    let after = eventually("memory to come back", || Some(weir.resident_kb()).filter(|kb| *kb < before + 30_000));
    println!("{before} kB after 20 swaps, {after} kB after 100");
}

#[test]
fn a_bad_version_never_replaces_a_good_one() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", object(0)).file("plugin.wat", plugin(1)).run();
    weir.get_until("h", "/", |a| a.header("x-version") == Some("0001"));
    let refuses = plugin(2).replace(
        "(export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 1)",
        "(export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 0)",
    );
    let traps = plugin(3).replace(
        "(export \"proxy_on_vm_start\") (param i32 i32) (result i32) (i32.const 1)",
        "(export \"proxy_on_vm_start\") (param i32 i32) (result i32) (unreachable)",
    );
    let imports = plugin(4).replace("\"proxy_replace_header_map_value\"", "\"proxy_no_such_call\"");
    for (bad, word) in [("(module".to_string(), "plugin.wat"), (refuses, "configure"), (traps, "start"), (imports, "proxy_no_such_call")] {
        weir.write("plugin.wat", &bad);
        let told = eventually(word, || weir.lines("version").into_iter().find(|l| l.contains(word)));
        let answer = weir.get("h", "/");
        assert_eq!((answer.status, answer.header("x-version")), (200, Some("0001")), "{told}: {answer:?}");
    }
    weir.write("plugin.wat", &plugin(5));
    weir.get_until("h", "/", |a| a.header("x-version") == Some("0005"));
}

#[test]
fn a_version_that_traps_soon_gives_way_to_the_one_before() {
    let traps = |version: u32| plugin(version).replace("(drop (call $set (i32.const 2)", "unreachable (drop (call $set (i32.const 2)");
    // A second for each next instance, as FAIL_RELOAD has it.
    let object = object(0).replace("spec:\n", "spec:\n  failStrategy: FAIL_RELOAD\n");
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", object).file("plugin.wat", plugin(1)).run();
    weir.get_until("h", "/", |a| a.header("x-version") == Some("0001"));
    for bad in [2, 3] {
        weir.write("plugin.wat", &traps(bad));
        weir.get_until("h", "/", |a| a.status == 503);
        // One worker may still serve the version before, while another's requests trap.
        eventually("the rollback", || {
            weir.get("h", "/");
            (weir.stat("weir_wasm_rollbacks.default/version") == u64::from(bad) - 1).then_some(())
        });
        weir.get_until("h", "/", |a| a.header("x-version") == Some("0001"));
        let status = plugin_kit::status(&weir, "version").unwrap();
        let reason = status["reason"].as_str().unwrap();
        assert!(status["state"] == "stale" && reason.contains("it trapped 3 times") && reason.contains("unreachable"), "{status}");
        eventually("what is said", || weir.lines("is taken back: it trapped 3 times").get(bad as usize - 2).cloned());
    }
    // Mended, it serves.
    weir.write("plugin.wat", &plugin(4));
    weir.get_until("h", "/", |a| a.header("x-version") == Some("0004"));
    assert_eq!(plugin_kit::status(&weir, "version").unwrap()["state"], "active");
    assert_eq!(weir.stat("weir_wasm_rollbacks.default/version"), 2);
}
