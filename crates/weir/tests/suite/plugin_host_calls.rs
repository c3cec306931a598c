//! Host calls, foreign functions and properties that few plugins use.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, eventually, free_port},
    plugin_kit::{guest, guest_of, istio, notes, on_headers, on_one_worker, shown, tried, with_guest},
    tls,
    tls_client::Client,
    yaml::{ToEcho, holder},
};
use weir_test::Ca;

/// Keeps what a call returned.
fn note(letter: char, call: &str) -> String {
    format!("(call $note (i32.const {}) {call} (i32.const 0))\n", u32::from(letter))
}

#[test]
fn calls_that_few_plugins_make() {
    let load = |at: u32| format!("(i32.load (i32.const {at}))");
    let steps = [
        // Level 2: info.
        note('a', "(call $get_log_level (i32.const 64))") + &note('b', &load(64)),
        note('c', "(call $now (i32.const 64))") + &note('d', "(i64.eqz (i64.load (i32.const 64)))"),
        // Bytes of names and values.
        note('e', "(call $set_pairs (i32.const 0) [pairs :method=POST,:path=/x,:authority=h,x-a=bc])"),
        note('f', "(call $map_size (i32.const 0) (i32.const 64))") + &note('g', &load(64)),
        note('h', "(call $map_size (i32.const 8) (i32.const 64))"),
        // The configuration of the plugin and a buffer that does not exist.
        note('i', "(call $buffer_status (i32.const 7) (i32.const 64) (i32.const 68))") + &note('j', &load(64)) + &note('k', &load(68)),
        note('l', "(call $buffer_status (i32.const 2) (i32.const 64) (i32.const 68))"),
        note('m', "(call $buffer_status (i32.const 77) (i32.const 64) (i32.const 68))"),
        // Unimplemented.
        note('n', "(call $resolve_dns [name.test] (i32.const 64))"),
        note('o', "(call $log (i32.const 6) [too high])"),
    ];
    let code = on_headers("request", &format!("(if (call $is_tell) (then (call $tell) (return (i32.const 0)))) {}", steps.concat()));
    let weir = on_one_worker(guest(&code), "pluginConfig: { a: 1 }");
    assert_eq!(weir.get("h", "/x").status, 200);
    // `:method`, `:path`, `:authority`, `:scheme` and `x-a`, each with its value.
    let bytes = [":methodPOST", ":path/x", ":authorityh", ":schemehttp", "x-abc"].concat().len();
    let wanted = format!("a b2 c d e f g{bytes} h2 i j7 k l1 m1 n12 o2");
    assert_eq!(notes(&weir.get("h", "/tell")), wanted);
    assert_eq!(weir.lines("too high"), [""; 0]);
}

#[test]
fn a_plugin_closes_its_stream() {
    let weir = with_guest(&on_headers("request", "(if (call $has [x-close]) (then (drop (call $close (i32.const 0)))))"), "");
    for _ in 0..2 {
        let closed = client::request(weir.address(), "GET", "h", "/x", &[("x-close", "1")], b"");
        assert!(closed.is_err(), "{closed:?}");
        assert_eq!(weir.get("h", "/x").status, 200);
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/under-test"), 0);
}

/// The Service `echo` has a second endpoint, on another port.
const SECOND: &str = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: echo-2, labels: { kubernetes.io/service-name: echo } }
addressType: IPv4
ports: [{ port: $ECHO2 }]
endpoints: [{ addresses: [127.0.0.1] }]
";

#[test]
fn a_plugin_chooses_the_endpoint() {
    let code = "(if (call $has [x-endpoint]) (then
        (drop (call $add (i32.const 0) [x-status] (i32.add (i32.const 16) (call $override (i32.load (i32.const 4)) (i32.load (i32.const 8)))) (i32.const 1)))))";
    let weir = Start::new()
        .upstreams(2)
        .file("gateway.yaml", TO_ECHO.to_string() + SECOND)
        .file("guest.wat", guest_of("0_2_100", &on_headers("request", code)))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let ask = |endpoint: &str| client::request(weir.address(), "GET", "h", "/x", &[("x-endpoint", endpoint)], b"").unwrap().json();
    for _ in 0..4 {
        for (nth, name) in [(1, "echo"), (2, "echo2")] {
            let seen = ask(&format!("127.0.0.1:{}", weir.echo_port(nth)));
            assert_eq!((&seen["name"], &seen["headers"]["x-status"]), (&name.into(), &"0".into()), "{seen}");
        }
    }
    // One that is no endpoint has no effect; one that is no address is refused.
    assert_eq!(ask(&format!("127.0.0.1:{}", free_port()))["headers"]["x-status"], "0");
    assert_eq!(ask("echo:80")["headers"]["x-status"], "2");
}

#[test]
fn foreign_functions() {
    let call = |name: &str, arguments: &str| format!("(call $foreign [{name}] {arguments} (i32.const 64) (i32.const 68))");
    let absent = weir_wasm::compatibility::ABSENT_FOREIGN_FUNCTIONS;
    let mut steps = vec![
        note('a', &call("get_log_level", "(i32.const 0) (i32.const 0)")) + &note('b', "(i32.load (i32.load (i32.const 64)))"),
        // What is compressed comes back as it was.
        note('c', &call("compress", "[some text]")),
        note('d', &call("uncompress", "(i32.load (i32.const 64)) (i32.load (i32.const 68))")) + &note('e', "(i32.load (i32.const 68))"),
        "(drop (call $add (i32.const 0) [x-text] (i32.load (i32.const 64)) (i32.load (i32.const 68))))".into(),
        note('f', &call("uncompress", "[no zlib]")),
        // { path = \"state\", value = \"kept\" }, and its type.
        note('g', &call("declare_property", "(i32.const 0) (i32.const 0)")),
        note('h', &call("set_envoy_filter_state", "[\n\u{5}state\u{12}\u{4}kept]")),
        note('i', &call("clear_route_cache", "(i32.const 0) (i32.const 0)")),
        // Null pointers for the result.
        note('j', "(call $foreign [compress] [some text] (i32.const 0) (i32.const 0))"),
    ];
    steps.extend(absent.iter().map(|row| note('z', &call(row.name, "(i32.const 0) (i32.const 0)"))));
    // { body = \"<\" } before what comes; { body = \">\", end_stream = true } in place of a body that is not there.
    let injects = format!(
        "(if (call $has [x-inject]) (then
            (drop {}) (drop {})))",
        call("inject_encoded_data_to_filter_chain", "[\n\u{1}<]"),
        call("inject_encoded_data_to_filter_chain_on_header", "[\n\u{1}>\u{10}\u{1}]"),
    );
    let code = on_headers("request", &format!("(if (call $is_tell) (then (call $tell) (return (i32.const 0)))) {}", steps.concat()))
        + &on_headers("response", &format!("{injects} (call $show [filter_state\\0state] [x-state])"));
    let weir = on_one_worker(guest_of("0_2_100", &code), "");
    let answer = weir.get("h", "/x");
    assert_eq!(shown(answer.header("x-state").unwrap()).as_deref(), Some(&b"kept"[..]));
    assert_eq!(answer.json()["headers"]["x-text"], "some text");
    let wanted = format!("a b2 c d e9 f3 g h i j{}", " z1".repeat(absent.len()));
    assert_eq!(notes(&weir.get("h", "/tell")), wanted);
    assert_eq!(weir.stat("weir_wasm_unknown_foreign_functions.default/under-test"), absent.len() as u64);
    weir.says(&format!("there is no foreign function `{}`", absent[0].name));
    let ask = |method: &str| client::request(weir.address(), method, "h", "/bytes/0", &[("x-inject", "1")], b"").unwrap();
    let injected = ask("GET");
    assert_eq!((injected.status, &*injected.body), (200, "<>"), "{injected:?}");
}

/// A guest that logs properties as `PATH=HEX` once a stream is over.
fn logs_properties(paths: &[&str]) -> String {
    let mut code = String::new();
    for path in paths {
        code += &format!(
            "(if (call $get_property [{}] (i32.const 4) (i32.const 8)) (then (call $say [property {path}=-]))
              (else (call $say_with [property {path}=] (call $hex (i32.load (i32.const 4)) (i32.load (i32.const 8))) (i32.mul (i32.load (i32.const 8)) (i32.const 2)))))\n",
            path.replace('.', "\\0")
        );
    }
    // The two parts behind one another, from 700000 on.
    format!(
        "(func $say_with (param $a i32) (param $al i32) (param $b i32) (param $bl i32)
          (memory.copy (i32.const 700000) (local.get $a) (local.get $al))
          (memory.copy (i32.add (i32.const 700000) (local.get $al)) (local.get $b) (local.get $bl))
          (call $say (i32.const 700000) (i32.add (local.get $al) (local.get $bl))))
         (func (export \"proxy_on_log\") (param i32) {code} (call $say [that is all]))"
    )
}

/// The properties that [`logs_properties`] logged, in its order.
fn logged(weir: &Weir) -> Vec<Option<Vec<u8>>> {
    weir.says("that is all");
    weir.lines("property ").iter().map(|l| shown(l.rsplit('=').next().unwrap())).collect()
}

#[test]
fn properties_at_the_end_of_a_stream() {
    let paths = [
        "request.duration",
        "response.size",
        "response.total_size",
        "response.grpc_status",
        "response.trailers",
        "response.trailers.grpc-status",
        "upstream.transport_failure_reason",
    ];
    let number = |value: &Option<Vec<u8>>| i64::from_le_bytes(value.as_deref().unwrap().try_into().unwrap());
    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().h2c().text())
        .file("guest.wat", guest(&logs_properties(&paths)))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-echo-grpc-status", "5")];
    let answer = client::request(weir.address(), "POST", "h", "/test.Echo/Say", &headers, b"\0\0\0\0\x04ping").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = logged(&weir);
    assert!(number(&seen[0]) > 0, "{seen:?}");
    assert_eq!(number(&seen[1]), 9, "{seen:?}");
    assert!(number(&seen[2]) > 9, "{seen:?}");
    assert_eq!(number(&seen[3]), 5, "{seen:?}");
    let trailers = seen[4].as_deref().unwrap();
    assert_eq!(weir_wasm::pairs::Pairs::decode(trailers).unwrap().get(b"grpc-status"), Some(&b"5"[..]));
    assert_eq!((seen[5].as_deref(), seen[6].as_deref()), (Some(&b"5"[..]), None));

    let weir = Start::new()
        .file("gateway.yaml", ToEcho::new().upstream(free_port()).text())
        .file("guest.wat", guest(&logs_properties(&["upstream.transport_failure_reason"])))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    assert_eq!(weir.get("h", "/x").status, 503);
    let reason = String::from_utf8(logged(&weir)[0].clone().unwrap()).unwrap();
    assert!(reason.contains("refused"), "{reason}");
}

#[test]
fn the_clients_certificate_is_seen_in_properties() {
    let ca = Ca::new();
    let (own, who) = (ca.sign(&["shop.test"]), ca.sign_uri(&["ann.test"], "spiffe://ann"));
    let paths =
        ["mtls", "subject_peer_certificate", "dns_san_peer_certificate", "uri_san_peer_certificate", "sha256_peer_certificate_digest"];
    let shows: String = paths.iter().enumerate().map(|(i, path)| format!("(call $show [connection\\0{path}] [x-p{i}])")).collect();
    let both = holder("Secret", "both", &[("tls.crt", &own.pem), ("tls.key", &own.key), ("ca.crt", &ca.pem())]);
    let weir = Start::new()
        .file("gateway.yaml", tls::istio(&tls::server("shop.test", "mode: OPTIONAL_MUTUAL, credentialName: both")))
        .file("secret.yaml", both)
        .file("guest.wat", guest(&on_headers("response", &shows)))
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .run();
    let pem = ca.pem();
    let seen = |identity| {
        let answer = Client { trust: Some(&pem), identity, ..Client::default() }.ask(weir.address(), "shop.test", &[]).unwrap();
        let seen = (0..paths.len()).map(|i| shown(answer.header(&format!("x-p{i}")).unwrap()));
        seen.collect::<Vec<_>>()
    };
    let shown = seen(Some(&who));
    assert_eq!(shown[0].as_deref(), Some(&[1][..]));
    assert!(shown[1].as_ref().is_some_and(|subject| !subject.is_empty()), "{shown:?}");
    assert_eq!(shown[2].as_deref(), Some(&b"ann.test"[..]));
    assert_eq!(shown[3].as_deref(), Some(&b"spiffe://ann"[..]));
    assert_eq!(shown[4].as_ref().map(Vec::len), Some(64));
    assert_eq!(seen(None), [Some(vec![0]), None, None, None, None]);
}

#[test]
fn properties_that_are_absent() {
    let absent = weir_proxy::plugin::property::ABSENT;
    let shows: String =
        absent.iter().enumerate().map(|(i, row)| format!("(call $show [{}] [x-p{i}])\n", row.name.replace('.', "\\0"))).collect();
    let weir = with_guest(&on_headers("response", &shows), "");
    let answer = weir.get("h", "/x");
    for (i, row) in absent.iter().enumerate() {
        assert_eq!(answer.header(&format!("x-p{i}")), Some("-"), "{}", row.name);
    }
}

#[test]
fn a_plugin_asks_for_a_new_instance() {
    let code = on_headers(
        "request",
        "(drop (call $add (i32.const 0) [x-streams] (i32.add (i32.const 16) (global.get $streams)) (i32.const 1)))
         (global.set $streams (i32.add (global.get $streams) (i32.const 1)))
         (if (i32.eq (global.get $streams) (i32.const 3)) (then (drop (call $set_property [wasm_need_rebuild] [true]))))",
    );
    let weir = on_one_worker(guest_of("0_2_100", &format!("(global $streams (mut i32) (i32.const 0)) {code}")), "");
    // Beyond 16 there is no digit, and no header.
    let streams = || weir.get("h", "/x").json()["headers"]["x-streams"].as_str().unwrap_or_default().to_string();
    assert_eq!([streams(), streams(), streams()], ["0", "1", "2"]);
    // The old instance serves until the new one has started.
    eventually("the new instance", || (streams() == "0").then_some(()));
    assert_eq!((weir.stat("weir_wasm_rebuilds.default/under-test"), weir.stat("weir_wasm_traps.default/under-test")), (1, 0));
}

#[test]
fn plugins_of_connections_are_refused() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("guest.wat", guest("")).file("plugin.yaml", "").run();
    weir.write("plugin.yaml", &istio("of-connections", "url: file://guest.wat\ntype: NETWORK"));
    assert_eq!(tried(&weir, "of-connections"), "failed");
    weir.says("plugins of connections (NETWORK) are not supported yet");
}
