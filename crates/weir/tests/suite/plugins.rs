//! Plugins behind the running gateway: the examples, built by their own toolchains, against real clients, upstreams and Redis.
use crate::{
    client::Connection,
    harness::{echo_server, eventually, root},
    plugin_kit::{built, built_in, gateway, of_file as plugin},
    swap::Traffic,
};
use std::fs;
use weir_test::RedisServer;

#[test]
fn a_blacklist_in_redis() {
    let redis = RedisServer::start(&["--requirepass", "secret"]);
    let keys = |command: &str| assert_eq!(redis.tell(&["AUTH secret", "SELECT 2", command]), ["+OK", "+OK", "+OK"]);
    let module = built("blacklist-redis-go");
    let spec = format!(
        "defaultConfig:\n  ip_source_header: x-client-ip\n  redis: {{ service_name: 127.0.0.1, service_port: {}, password: secret, database: 2 }}",
        redis.port
    );
    let gateway = gateway(&module, &spec);
    assert_eq!(gateway.get("shop.test", "/a").status, 200);
    keys("SET blacklist:path:/closed maintenance EX 3600");
    let answer = gateway.get("shop.test", "/closed?x=1");
    assert_eq!((answer.status, answer.header("x-blacklisted")), (403, Some("path /closed: maintenance")), "{answer:?}");
    assert_eq!(gateway.get("shop.test", "/open").status, 200);

    let from = |ip: &str| {
        let mut client = Connection::open(gateway.address()).unwrap();
        client.send(format!("GET /a HTTP/1.1\r\nhost: shop.test\r\nx-client-ip: {ip}\r\n\r\n")).unwrap();
        client.answer().unwrap()
    };
    keys("SET blacklist:ip:203.0.113.7 abuse");
    assert_eq!(from("203.0.113.8").status, 200);
    let answer = from("203.0.113.7");
    assert_eq!((answer.status, answer.body.as_str()), (403, "refused: ip 203.0.113.7: abuse\n"));
    keys("SET blacklist:ip:203.0.113.7 abuse PX 100");
    eventually("the entry's end", || (from("203.0.113.7").status == 200).then_some(()));

    // Redis stops: the plugin lets requests through, as its configuration says. It comes back: the list counts again.
    let port = redis.kill();
    assert_eq!(gateway.get("shop.test", "/closed").status, 200);
    let again = RedisServer::try_start(port, &["--requirepass", "secret"]).expect("the port is still free");
    again.tell(&["AUTH secret", "SELECT 2", "SET blacklist:path:/closed again"]);
    gateway.get_until("shop.test", "/closed", |a| a.status == 403);
}

#[test]
fn redis_that_does_not_work_is_said_at_load() {
    let redis = RedisServer::start(&["--requirepass", "secret"]);
    let module = built("blacklist-redis-go");
    let spec = format!(
        "defaultConfig:\n  on_redis_error: deny\n  redis: {{ service_name: 127.0.0.1, service_port: {}, password: wrong }}",
        redis.port
    );
    let gateway = gateway(&module, &spec);
    eventually("the warning", || gateway.lines("AUTH was refused: WRONGPASS").first().cloned());
    let answer = gateway.get("shop.test", "/");
    assert_eq!((answer.status, answer.body.as_str()), (503, "the blacklist cannot be read\n"));
    let status = gateway.admin("/plugins").body;
    assert!(status.contains("WRONGPASS"), "{status}");
}

#[test]
fn tokens_are_asked_for_over_http() {
    let module = built("token-auth-go");
    let auth = echo_server("auth");
    // The echo upstream answers with the status that its path asks for, and never says who the user is.
    for (path, status) in [("/status/200", 200), ("/status/401", 401), ("/status/403", 403), ("/status/500", 503)] {
        let spec = format!(
            "defaultConfig: {{ service_name: 127.0.0.1, service_port: {}, path: {path}, timeout: 20000, open_paths: [/health] }}",
            auth.address().port()
        );
        let gateway = gateway(&module, &spec);
        let with = |authorization: &str| {
            let mut client = Connection::open(gateway.address()).unwrap();
            client.send(format!("GET /a HTTP/1.1\r\nhost: shop.test\r\nx-user: mallory\r\n{authorization}\r\n")).unwrap();
            client.answer().unwrap()
        };
        let answer = with("authorization: Bearer t\r\n");
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 200 {
            assert!(!answer.body.contains("mallory"), "what the client said of itself is gone: {}", answer.body);
        }
        let refused = with("");
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(gateway.get("shop.test", "/health").status, 200);
    }
}

#[test]
fn json_bodies_are_rewritten() {
    let module = built("json-rewrite-rust");
    let spec = "defaultConfig:\n  request: { remove: [/user/password] }\n  response: { set: { /served_by: weir } }";
    let gateway = gateway(&module, spec);
    let mut client = Connection::open(gateway.address()).unwrap();
    for _ in 0..2 {
        let body = r#"{"user":{"name":"ann","password":"secret"}}"#;
        client
            .send(format!(
                "POST /a HTTP/1.1\r\nhost: shop.test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .unwrap();
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, &answer.json()["served_by"]), (200, &serde_json::json!("weir")), "{answer:?}");
        assert!(answer.body.contains("ann") && !answer.body.contains("secret"), "{}", answer.body);
    }
    // A body over the limit is refused with an answer that says whose limit it is, and counted.
    let huge = "x".repeat(3 << 20);
    let mut client = Connection::open(gateway.address()).unwrap();
    let _ = client.send(format!(
        "POST /a HTTP/1.1\r\nhost: shop.test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{huge}",
        huge.len()
    ));
    let answer = client.answer().unwrap();
    assert!(answer.status == 413 && answer.body.contains("default/under-test"), "{answer:?}");
    let overflows = gateway.admin("/stats").body;
    let counted = overflows.lines().any(|l| l.contains("body_overflows") && l.contains("under-test") && l.ends_with('1'));
    assert!(counted, "{:?}", overflows.lines().filter(|l| l.contains("wasm")).collect::<Vec<_>>());
}

#[test]
fn server_sent_events_are_rewritten_as_they_pass() {
    let module = built("sse-rewrite-go");
    let spec = "defaultConfig:\n  replace: [{ from: event, to: happening }]";
    let gateway = gateway(&module, spec);
    let mut client = Connection::open(gateway.address()).unwrap();
    // The second event comes a long time after the first: it must not be waited for.
    client.send("GET /sse?n=2&every=60s HTTP/1.1\r\nhost: shop.test\r\n\r\n").unwrap();
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head:?}");
    let mut seen = String::new();
    while !seen.contains("\n\n") {
        seen += &String::from_utf8(client.chunk().unwrap().expect("an event")).unwrap();
    }
    assert!(seen.contains("data: happening 1"), "{seen}");
}

#[test]
fn a_new_configuration_takes_over_without_a_lost_request() {
    let module = built("json-rewrite-rust");
    let spec = |n: u32| format!("defaultConfig:\n  response: {{ set: {{ /version: {n} }} }}");
    let gateway = gateway(&module, &spec(0));
    let mut client = Connection::open(gateway.address()).unwrap();
    let mut ask = || {
        client.send("GET /a HTTP/1.1\r\nhost: shop.test\r\n\r\n").unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["version"].as_u64().unwrap()
    };
    for n in 1..=20 {
        gateway.write("plugin.yaml", &plugin(&module, "under-test", &spec(n)));
        eventually("the new version", || (ask() == u64::from(n)).then_some(()));
    }
    // Its code was compiled, or loaded, once for all of them.
    assert_eq!(gateway.stat("weir_wasm_compiled") + gateway.stat("weir_wasm_artifacts_loaded"), 1);
    // A version that is refused changes nothing, and is said.
    let broken = gateway.path("broken.wasm");
    fs::write(&broken, b"\0asm\x01\0\0\0").unwrap();
    gateway.write("plugin.yaml", &plugin(&broken, "under-test", &spec(99)));
    eventually("the refusal", || gateway.lines("no Proxy-Wasm ABI version").first().cloned());
    assert_eq!(ask(), 20);
    let status = gateway.admin("/plugins").body;
    assert!(status.contains("stale") && status.contains("no Proxy-Wasm ABI version"), "{status}");
}

#[test]
fn a_hundred_new_versions_under_load_disturb_nobody() {
    let module = built("json-rewrite-rust");
    let spec = |n: u32| format!("defaultConfig:\n  response: {{ set: {{ /version: {n} }} }}");
    let gateway = gateway(&module, &spec(0));
    let mut client = Connection::open(gateway.address()).unwrap();
    let mut swap = |n: u32| {
        gateway.write("plugin.yaml", &plugin(&module, "under-test", &spec(n)));
        eventually("the new version", || {
            let answer = client.request("GET", "shop.test", "/a", &[], b"").unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            (answer.json()["version"] == n).then_some(())
        });
    };
    let mut traffic = Traffic::start(&gateway, |a| a.json()["version"].is_u64());
    // The first ones settle what is allocated once.
    (1..=20).for_each(&mut swap);
    let before = gateway.resident_kb();
    for n in 21..=110 {
        swap(n);
        traffic.look();
    }
    traffic.end();
    // What was retired is freed; a spare and the active instance of each worker stay.
    eventually("the old instances' end", || (gateway.resident_kb() < before + 16 * 1024).then_some(()));
}

#[test]
fn the_plain_go_sdk_and_what_becomes_of_panics_and_endless_loops() {
    let module = built_in(&root().join("crates/weir/tests/plugins/plain-go"));
    for (strategy, status) in [("FAIL_CLOSE", 503), ("FAIL_OPEN", 200)] {
        let gateway = gateway(&module, &format!("failStrategy: {strategy}\npluginConfig: {{ a: 1 }}"));
        let answer = gateway.get("shop.test", "/a");
        assert_eq!((answer.status, answer.header("x-plain-response")), (200, Some("seen")), "{answer:?}");
        assert!(answer.body.contains("x-plain"), "{}", answer.body);
        let answer = gateway.get("shop.test", "/reply");
        assert_eq!((answer.status, answer.header("x-from"), answer.body.as_str()), (418, Some("plugin"), "short and stout"));
        for path in ["/panic", "/spin"] {
            let answer = gateway.get("shop.test", path);
            assert_eq!(answer.status, status, "{strategy} {path}: {answer:?}");
            // Another instance takes the next streams.
            gateway.get_until("shop.test", "/a", |a| a.header("x-plain-response") == Some("seen"));
        }
        assert!(gateway.admin("/plugins").body.contains("proxy_on_request_headers"), "the last trap is in the status");
        // Go writes a panic in small pieces: each of its lines is one of the log's.
        eventually("the panic", || gateway.lines("default/under-test: panic: as asked").first().cloned());
        assert_eq!(gateway.lines("default/under-test: as asked"), [""; 0]);
    }
}
