//! Plugins in the shape of the most used ones of Higress, built with its Go SDK, over HTTP/1.1 and HTTP/2.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, root, runtime},
    plugin_kit::{built_in, of_file},
    plugin_services::Services,
    streams::h2c,
};
use bytes::Bytes;
use http::{Request, Version};
use serde_json::{Value, json};
use std::path::PathBuf;
use weir_test::{RedisServer, client::Answer};

pub fn module() -> PathBuf {
    built_in(&root().join("crates/weir/tests/plugins/shapes-go"))
}

/// A gateway with one shape before the echo upstream, or before what `gateway` says.
pub fn shaped<'a>(gateway: &str, config: &Value) -> Start<'a> {
    let spec = format!("phase: AUTHN\ndefaultConfig: {config}");
    Start::new().file("gateway.yaml", gateway).file("plugin.yaml", of_file(&module(), "shape", &spec))
}

fn start(config: Value) -> Weir {
    shaped(TO_ECHO, &config).run()
}

/// One request over a connection of its own.
pub fn ask(weir: &Weir, protocol: Version, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    if protocol == Version::HTTP_11 {
        return client::request(weir.address(), method, "shop.test", path, headers, body).unwrap();
    }
    let mut request = Request::builder().method(method).uri(format!("http://shop.test{path}")).version(protocol);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (request, body) = (request.body(()).unwrap(), Bytes::copy_from_slice(body));
    runtime().block_on(async {
        let mut client = h2c(weir.address()).await.ready().await.unwrap();
        let (response, mut out) = client.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            // An answer that comes before the body ends the stream.
            let _ = out.send_data(body, true);
        }
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            all.extend_from_slice(&piece);
        }
        let headers = head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_string())).collect();
        Answer { status: head.status.as_u16(), headers, body: String::from_utf8(all).unwrap(), ..Answer::default() }
    })
}

pub const PROTOCOLS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[test]
fn key_auth() {
    let weir = start(json!({
        "shape": "key-auth", "keys": ["x-api-key", "apikey"], "in_query": true,
        "consumers": [{ "name": "ann", "credential": "key-a" }, { "name": "bob", "credential": "key-b" }],
    }));
    for protocol in PROTOCOLS {
        for (path, headers, status, consumer) in [
            ("/x", &[("x-api-key", "key-a")][..], 200, "ann"),
            ("/x", &[("apikey", "key-b")], 200, "bob"),
            ("/x?apikey=key-b", &[], 200, "bob"),
            // What a client says of itself does not count.
            ("/x", &[("x-api-key", "key-a"), ("x-mse-consumer", "root")], 200, "ann"),
            ("/x", &[], 401, ""),
            ("/x", &[("x-api-key", "other")], 401, ""),
        ] {
            let answer = ask(&weir, protocol, "GET", path, headers, b"");
            assert_eq!(answer.status, status, "{protocol:?} {path} {headers:?}: {answer:?}");
            match status {
                200 => assert_eq!(answer.json()["headers"]["x-mse-consumer"], consumer, "{answer:?}"),
                _ => assert_eq!(answer.header("www-authenticate"), Some("Key realm=shapes"), "{answer:?}"),
            }
        }
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
}

#[test]
fn ext_auth() {
    let services = Services::start();
    let config = |more: Value| {
        let mut config = json!({
            "shape": "ext-auth", "service_name": "127.0.0.1", "service_port": services.port(), "path_prefix": "/auth", "timeout": 20000,
            "allowed_upstream_headers": ["x-user"],
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (with_body, open) in [(false, false), (true, false), (false, true)] {
        let weir = start(config(json!({ "with_body": with_body, "failure_mode_allow": open })));
        for protocol in PROTOCOLS {
            for (token, status, says) in [
                ("Bearer ann", 200, ""),
                ("Bearer bob", 403, "not you"),
                ("", 401, "who are you"),
                ("Bearer down", if open { 200 } else { 403 }, "not available\n"),
            ] {
                services.take();
                let headers = [("authorization", token), ("content-type", "text/plain")];
                let answer = ask(&weir, protocol, "POST", "/a?b=c", &headers, b"the body");
                assert_eq!(answer.status, status, "{protocol:?} {token}: {answer:?}");
                let asked = services.take();
                assert_eq!(asked.len(), 1, "{asked:?}");
                assert_eq!((&*asked[0].path, asked[0].header("x-forwarded-method")), ("/auth/a?b=c", "POST"), "{asked:?}");
                assert_eq!(asked[0].body, if with_body { "the body" } else { "" });
                if status == 200 {
                    let seen = answer.json();
                    assert_eq!(seen["body"], "the body", "{seen}");
                    let user = if token == "Bearer ann" { json!("ann") } else { Value::Null };
                    assert_eq!(seen["headers"]["x-user"], user, "{seen}");
                } else {
                    assert_eq!(answer.body, says);
                }
            }
        }
        assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
    }
}

#[test]
fn rate_limits_in_redis() {
    let redis = RedisServer::start(&[]);
    let config = json!({
        "shape": "rate-limit", "limit_by_header": "x-client", "limit": 3, "window": 600,
        "redis": { "service_name": "127.0.0.1", "service_port": redis.port, "timeout": 20000 },
    });
    // Two gateways count together.
    let gateways = [start(config.clone()), start(config)];
    for protocol in PROTOCOLS {
        let client = format!("{protocol:?}");
        let ask = |nth: usize| ask(&gateways[nth], protocol, "GET", "/x", &[("x-client", &client)], b"");
        for (nth, remaining) in [(0, "2"), (1, "1"), (0, "0")] {
            let answer = ask(nth);
            assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, Some(remaining)), "{answer:?}");
        }
        for nth in [0, 1] {
            let answer = ask(nth);
            assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (429, Some("3")), "{answer:?}");
            let reset: u32 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
            assert!((1..=600).contains(&reset), "{answer:?}");
        }
    }
    assert_eq!(gateways[0].get("shop.test", "/x").status, 200, "without the header there is no limit");
    for gateway in &gateways {
        assert_eq!((gateway.stat("weir_wasm_redis_failures.default/shape"), gateway.stat("weir_wasm_traps.default/shape")), (0, 0));
    }
    // Without Redis requests pass.
    redis.kill();
    let answer = ask(&gateways[0], Version::HTTP_11, "GET", "/x", &[("x-client", "late")], b"");
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, None), "{answer:?}");
}

#[test]
fn a_transformer() {
    let rule = |operate: &str, place: &str, key: &str, value: &str| json!({ "operate": operate, "in": place, "key": key, "value": value });
    let weir = start(json!({
        "shape": "transformer",
        "request": [
            rule("remove", "headers", "x-gone", ""), rule("rename", "headers", "x-old", "x-new"), rule("replace", "headers", "x-set", "set"),
            rule("add", "headers", "x-more", "more"), rule("add", "headers", "x-set", "never"),
            rule("remove", "query", "gone", ""), rule("rename", "query", "old", "new"), rule("add", "query", "more", "a b"),
            rule("remove", "body", "gone", ""), rule("rename", "body", "old", "new.er"), rule("replace", "body", "set", "set"), rule("add", "body", "more", "more"),
        ],
        "response": [rule("add", "headers", "x-served", "weir"), rule("remove", "body", "headers", ""), rule("add", "body", "extra", "from-plugin")],
    }));
    let headers = [("x-gone", "1"), ("x-old", "old"), ("x-set", "before"), ("content-type", "application/json")];
    for protocol in PROTOCOLS {
        let answer = ask(&weir, protocol, "POST", "/a?gone=1&old=o&kept=k", &headers, br#"{"gone":1,"old":{"deep":true},"set":"before"}"#);
        assert_eq!((answer.status, answer.header("x-served")), (200, Some("weir")), "{answer:?}");
        let seen = answer.json();
        assert_eq!((&seen["headers"], &seen["extra"]), (&Value::Null, &json!("from-plugin")), "{seen}");
        assert_eq!(seen["query"], "new=o&kept=k&more=a+b", "{seen}");
        let body: Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({ "set": "set", "new": { "er": { "deep": true } }, "more": "more" }));
    }
    // The headers, of which the echo upstream tells in a body that is not JSON's object: without rules for the response.
    let rules = json!({ "shape": "transformer", "request": [rule("remove", "headers", "x-gone", ""), rule("rename", "headers", "x-old", "x-new"),
        rule("replace", "headers", "x-set", "set"), rule("add", "headers", "x-more", "more"), rule("add", "headers", "x-set", "never")] });
    let weir = start(rules);
    for protocol in PROTOCOLS {
        let seen = ask(&weir, protocol, "GET", "/a", &headers[..3], b"").json()["headers"].clone();
        let got = ["x-gone", "x-old", "x-new", "x-set", "x-more"].map(|name| seen[name].clone());
        assert_eq!(got, [Value::Null, Value::Null, json!("old"), json!("set"), json!("more")], "{seen}");
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
}

#[test]
fn a_response_cache_in_redis() {
    let redis = RedisServer::start(&[]);
    let weir = start(json!({
        "shape": "response-cache", "cache_ttl": 600, "redis": { "service_name": "127.0.0.1", "service_port": redis.port, "timeout": 20000 },
    }));
    for protocol in PROTOCOLS {
        let path = format!("/{protocol:?}");
        let get = || ask(&weir, protocol, "GET", &path, &[], b"");
        let (first, second) = (get(), get());
        assert_eq!((first.status, first.header("x-cache-status")), (200, Some("miss")), "{first:?}");
        assert_eq!((second.status, second.header("x-cache-status")), (200, Some("hit")), "{second:?}");
        assert_eq!(first.body, second.body);
        // What is large, what is no GET and what failed.
        let large = "/bytes/300000";
        let sizes = [ask(&weir, protocol, "GET", large, &[], b""), ask(&weir, protocol, "GET", large, &[], b"")];
        assert!(sizes.iter().all(|a| a.body.len() == 300_000) && sizes[1].header("x-cache-status") == Some("hit"));
        for (method, path) in [("POST", &*path), ("GET", "/status/404")] {
            for _ in 0..2 {
                assert_eq!(ask(&weir, protocol, method, path, &[], b"").header("x-cache-status"), None, "{method} {path}");
            }
        }
    }
    redis.kill();
    assert_eq!(weir.get("shop.test", "/late").status, 200);
    assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
}
