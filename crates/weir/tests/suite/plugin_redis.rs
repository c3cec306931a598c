//! Redis from a plugin, on real servers: one row per case.
use crate::{
    client::{self, Answer},
    harness::{Start, TO_ECHO, Weir, eventually, free_port},
    plugin_kit::{Certificate, built, guest_of, istio, of_file},
};
use weir_test::RedisServer;

/// Sends the body of each request as one command to the server that `x-to` names, after an init where `x-init` is there
/// (`x-user`, `x-password`); the reply is the answer. 504: a network failure; 400 and 500 with a status added: what init and
/// call said. `x-again` sends the command once more from within the reply's callback; `/tick` sends it from the next tick.
fn redis_guest() -> String {
    let header = |name: &str, at: u32| {
        format!(
            "(i32.store (i32.const {at}) (i32.const 0)) (i32.store (i32.const {}) (i32.const 0))
             (drop (call $get_value (i32.const 0) [{name}] (i32.const {at}) (i32.const {})))",
            at + 4,
            at + 4
        )
    };
    // Higress' ABI, in which the head can wait for the body.
    let code = format!(
        r#"(func (export "proxy_on_context_create") (param i32 i32))
        ;; 64: cluster, 72: user, 80: password, 88: again, 96: query; 32768 on: contexts by token
        (func $send (param $context i32) (local $status i32)
          (local.set $status (call $redis_call (i32.load (i32.const 64)) (i32.load (i32.const 68))
            (i32.load (i32.const 96)) (i32.load (i32.const 100)) (i32.const 104)))
          (if (local.get $status)
            (then (call $answer (i32.add (i32.const 500) (local.get $status)) (i32.const 0) (i32.const 0)))
            (else (i32.store (call $place (i32.load (i32.const 104))) (local.get $context)))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_request_body") (param $context i32) (param $size i32) (param $end i32) (result i32) (local $status i32)
          (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
          {to} {user} {password} {again} {init}
          (drop (call $get_buffer (i32.const 0) (i32.const 0) (i32.const 8000000) (i32.const 96) (i32.const 100)))
          (if (i32.load (i32.const 112)) (then
            (local.set $status (call $redis_init (i32.load (i32.const 64)) (i32.load (i32.const 68)) (i32.load (i32.const 72))
              (i32.load (i32.const 76)) (i32.load (i32.const 80)) (i32.load (i32.const 84)) (i32.const 20000)))
            (if (local.get $status) (then
              (call $answer (i32.add (i32.const 400) (local.get $status)) (i32.const 0) (i32.const 0))
              (return (i32.const 1))))))
          (if (i32.eqz (call $get_value (i32.const 0) [x-tick] (i32.const 4) (i32.const 8))) (then
            (global.set $waits (local.get $context))
            (drop (call $tick (i32.const 20)))
            (return (i32.const 1))))
          (call $send (local.get $context))
          (i32.const 1))
        (global $waits (mut i32) (i32.const 0))
        (func (export "proxy_on_tick") (param i32)
          (if (global.get $waits) (then
            (drop (call $effective (global.get $waits)))
            (call $send (global.get $waits))
            (global.set $waits (i32.const 0)))))
        (func (export "proxy_on_redis_call_response") (param $root i32) (param $token i32) (param $status i32) (param $size i32)
          (call $say [redis answered])
          (if (call $effective (i32.load (call $place (local.get $token)))) (then (return)))
          (if (local.get $status) (then (call $answer (i32.const 504) (i32.const 0) (i32.const 0)) (return)))
          (if (i32.load (i32.const 92)) (then
            (i32.store (i32.const 92) (i32.sub (i32.load (i32.const 92)) (i32.const 1)))
            (call $send (i32.load (call $place (local.get $token))))
            (return)))
          (drop (call $get_buffer (i32.const 9) (i32.const 0) (local.get $size) (i32.const 4) (i32.const 8)))
          (call $answer (i32.const 200) (i32.load (i32.const 4)) (i32.load (i32.const 8))))"#,
        to = header("x-to", 64),
        user = header("x-user", 72),
        password = header("x-password", 80),
        again = header("x-again", 88),
        init = header("x-init", 112),
    );
    guest_of("0_2_100", &code)
}

/// One worker: what one request sets up, the next one finds.
pub fn gateway(extra: &str) -> Start<'_> {
    let limits = "{ name: redis, annotations: { weir.dev/body-buffer-limit: 4Mi } }";
    let plugin = istio("redis", "url: file://guest.wat").replace("{ name: redis }", limits);
    Start::new().file("gateway.yaml", TO_ECHO.to_string() + extra).file("guest.wat", redis_guest()).file("plugin.yaml", plugin)
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    out
}

pub fn ask(weir: &Weir, headers: &[(&str, &str)], words: &[&str]) -> Answer {
    client::request(weir.address(), "POST", "h", "/x", headers, &command(words)).unwrap()
}

/// A Service for a server that the configuration knows.
fn known(port: u16) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: redis }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  hostnames: [redis.test]\n  rules: [{{ backendRefs: [{{ name: redis, port: 6379 }}] }}]\n---\napiVersion: v1\nkind: Service\nmetadata: {{ name: redis }}\nspec: {{ ports: [{{ port: 6379, targetPort: {port} }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: redis, labels: {{ kubernetes.io/service-name: redis }} }}\naddressType: IPv4\nports: [{{ port: {port} }}]\nendpoints: [{{ addresses: [127.0.0.1] }}]\n"
    )
}

/// A server, headers, a command; the status and the reply.
type Row<'a> = (String, Vec<(&'a str, &'a str)>, Vec<&'a str>, u16, String);

#[test]
fn every_way_to_name_and_ask_a_server() {
    let open = RedisServer::start(&[]);
    let closed = RedisServer::start(&["--requirepass", "secret"]);
    closed.tell(&["AUTH secret", "ACL SETUSER ann on >pw ~* +@all", "SET who closed", "SELECT 2", "SET who closed-2"]);
    open.tell(&["SET who open", "SELECT 2", "SET who open-2"]);
    let registry = format!(
        "---\napiVersion: networking.higress.io/v1\nkind: McpBridge\nmetadata: {{ name: default, namespace: higress-system }}\nspec: {{ registries: [{{ type: static, name: redis, domain: '127.0.0.1:{}', port: 6379, protocol: redis }}] }}\n",
        open.port
    );
    let weir = gateway(&(known(open.port) + &registry)).run();
    let (o, c) = (open.port, closed.port);
    let init = ("x-init", "1");
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let large = "v".repeat(1 << 20);
    let get = ["GET", "who"];
    let script = "return {1, {redis.call('GET', 'who'), false}}";
    let rows: Vec<Row<'_>> = vec![
        // Names.
        (format!("127.0.0.1:{o}"), vec![init], get.into(), 200, bulk("open")),
        (format!("localhost:{o}"), vec![init], get.into(), 200, bulk("open")),
        (format!("outbound|{o}||127.0.0.1"), vec![init], get.into(), 200, bulk("open")),
        ("outbound|6379||redis.default.svc.cluster.local".into(), vec![init], get.into(), 200, bulk("open")),
        // A service of a registry.
        ("outbound|6379||redis.static".into(), vec![init], get.into(), 200, bulk("open")),
        // The port that Higress gives to such services.
        ("outbound|80||redis.static".into(), vec![init], get.into(), 200, bulk("open")),
        (format!("redis://127.0.0.1:{o}"), vec![init], get.into(), 200, bulk("open")),
        (format!("redis://127.0.0.1:{o}/2"), vec![init], get.into(), 200, bulk("open-2")),
        (format!("127.0.0.1:{o}?db=2"), vec![init], get.into(), 200, bulk("open-2")),
        (format!("redis://ann:pw@127.0.0.1:{c}/2"), vec![init], get.into(), 200, bulk("closed-2")),
        ("outbound|6379||other.static".into(), vec![init], get.into(), 402, String::new()),
        ("nobody".into(), vec![init], get.into(), 402, String::new()),
        ("nobody".into(), vec![], get.into(), 502, String::new()),
        (format!("127.0.0.1:{}", free_port()), vec![], get.into(), 510, String::new()),
        (format!("127.0.0.1:{}", free_port()), vec![init], get.into(), 504, String::new()),
        // Credentials: two of one server are two clients.
        (format!("127.0.0.1:{c}"), vec![init, ("x-password", "secret")], get.into(), 200, bulk("closed")),
        (format!("127.0.0.1:{c}"), vec![init, ("x-user", "ann"), ("x-password", "pw")], get.into(), 200, bulk("closed")),
        (format!("127.0.0.1:{c}?db=2"), vec![init, ("x-user", "ann"), ("x-password", "pw")], get.into(), 200, bulk("closed-2")),
        (format!("127.0.0.1:{c}"), vec![init, ("x-password", "wrong")], get.into(), 200, "-NOAUTH".into()),
        (format!("127.0.0.1:{c}"), vec![init, ("x-user", "ann"), ("x-password", "secret")], get.into(), 200, "-NOAUTH".into()),
        (format!("127.0.0.1:{c}"), vec![init], get.into(), 200, "-NOAUTH".into()),
        (format!("127.0.0.1:{c}"), vec![init, ("x-password", "secret")], get.into(), 200, bulk("closed")),
        // Replies.
        (format!("127.0.0.1:{o}"), vec![init], vec!["GET", "none"], 200, "$-1\r\n".into()),
        (format!("127.0.0.1:{o}"), vec![init], vec!["LPUSH", "who", "x"], 200, "-WRONGTYPE".into()),
        (format!("127.0.0.1:{o}"), vec![init], vec!["NO-SUCH"], 200, "-ERR".into()),
        (format!("127.0.0.1:{o}"), vec![init], vec!["EVAL", script, "0"], 200, format!("*2\r\n:1\r\n*2\r\n{}$-1\r\n", bulk("open"))),
        (format!("127.0.0.1:{o}"), vec![init], vec!["SET", "large", &large], 200, "+OK\r\n".into()),
        (format!("127.0.0.1:{o}"), vec![init], vec!["GET", "large"], 200, bulk(&large)),
        // From within a reply's callback, and from a tick.
        (format!("127.0.0.1:{o}"), vec![init, ("x-again", "123")], vec!["INCR", "times"], 200, ":4\r\n".into()),
        (format!("127.0.0.1:{o}"), vec![init, ("x-tick", "1")], get.into(), 200, bulk("open")),
    ];
    for (to, headers, words, status, reply) in rows {
        let headers = [&[("x-to", &*to)], &headers[..]].concat();
        let answer = ask(&weir, &headers, &words);
        let shown = format!("{headers:?} {:?}: {} {:.100}", &words[0], answer.status, answer.body);
        assert_eq!(answer.status, status, "{shown}");
        match status {
            200 if reply.starts_with('-') => assert!(answer.body.starts_with(&reply), "{shown}"),
            200 => assert!(answer.body == reply, "{shown}"),
            _ => {}
        }
    }
    assert!(weir.stat("weir_wasm_redis_commands.default/redis") > 20 && weir.stat("weir_wasm_redis_errors.default/redis") >= 5);
}

#[test]
fn servers_that_pause_and_connections_that_break() {
    let redis = RedisServer::start(&[]);
    let to = redis.address();
    let weir = gateway("").run();
    let headers = [("x-to", &*to), ("x-init", "1")];
    assert_eq!(ask(&weir, &headers, &["PING"]).body, "+PONG\r\n");
    // Fifty wait; their connection is cut: each gets one error, and the next command reaches the server again.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (address, to) = (weir.address(), to.clone());
            std::thread::spawn(move || {
                let headers = [("x-to", &*to), ("x-init", "1")];
                client::request(address, "POST", "h", "/x", &headers, &command(&["BLPOP", "nothing", "0"])).unwrap().status
            })
        })
        .collect();
    eventually("fifty commands", || (weir.stat("weir_wasm_redis_commands.default/redis") >= 51).then_some(()));
    // A pipeline runs one command after the other: the first of each worker's blocks, and is killed from outside.
    // What had not reached the server by then waits on the next connection.
    while !waiting.iter().all(|thread| thread.is_finished()) {
        redis.ask("CLIENT KILL TYPE normal SKIPME yes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), 504);
    }
    assert_eq!(weir.stat("weir_wasm_redis_failures.default/redis"), 50);
    eventually("the server found again", || (ask(&weir, &headers, &["PING"]).body == "+PONG\r\n").then_some(()));

    // The client does not wait for a paused server: the answer comes to a stream that has ended, and harms nobody.
    let told = weir.lines("redis answered").len();
    let sent = weir.stat("weir_wasm_redis_commands.default/redis");
    redis.signal("STOP");
    let mut early = client::Connection::open(weir.address()).unwrap();
    let body = command(&["PING"]);
    early.send(format!("POST /x HTTP/1.1\r\nhost: h\r\nx-to: {to}\r\nx-init: 1\r\ncontent-length: {}\r\n\r\n", body.len())).unwrap();
    early.send(&body).unwrap();
    eventually("the command", || (weir.stat("weir_wasm_redis_commands.default/redis") > sent).then_some(()));
    drop(early);
    redis.signal("CONT");
    eventually("the late answer", || (weir.lines("redis answered").len() > told).then_some(()));
    // The other worker may still pause after its cut connection.
    for _ in 0..4 {
        eventually("an answer", || (ask(&weir, &headers, &["PING"]).body == "+PONG\r\n").then_some(()));
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/redis"), 0);
}

/// A server with TLS beside its plain port.
fn with_tls(made: &Certificate, more: &[&str]) -> (RedisServer, u16) {
    for _ in 0..20 {
        let port = free_port();
        let (tls, chain, key) = (port.to_string(), made.chain(), made.key());
        let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
        let mut arguments = vec!["--tls-port", &*tls, "--tls-cert-file", chain, "--tls-key-file", key, "--tls-ca-cert-file", chain];
        arguments.extend(["--tls-auth-clients", "no"]);
        arguments.extend(more);
        if let Some(server) = RedisServer::try_start(free_port(), &arguments) {
            return (server, port);
        }
    }
    panic!("redis-server does not start with TLS");
}

#[test]
fn redis_over_tls_with_a_user_a_password_and_a_database() {
    let made = Certificate::new("localhost");
    let (redis, tls) = with_tls(&made, &["--requirepass", "secret"]);
    let said = redis.tell(&["AUTH secret", "ACL SETUSER ann on >pw ~* +@all", "SELECT 2", "SET blacklist:path:/closed x"]);
    assert!(said.iter().all(|s| s == "+OK"), "{said:?}");
    // The stock Higress plugin, which knows nothing of TLS: the name gets its address in its configuration.
    let module = built("blacklist-redis-go");
    let spec = |url: &str| {
        of_file(
            &module,
            "blacklist",
            &format!(
                "defaultConfig:\n  on_redis_error: deny\n  upstreams: {{ cache.static: '{url}' }}\n  redis: {{ service_name: cache.static, service_port: 6379, timeout: 10000 }}"
            ),
        )
    };
    let url = format!("rediss://ann:pw@localhost:{tls}/2");
    let start = |url: &str| Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", spec(url));
    let weir = start(&url).env("SSL_CERT_FILE", made.chain()).run();
    assert_eq!((weir.get("h", "/closed").status, weir.get("h", "/open").status), (403, 200), "{}", weir.printed());
    // Another name than the certificate's, another password, and nobody who trusts it: said at load, and denied.
    for (url, trusted, says) in [
        (url.replace("localhost", "127.0.0.1"), true, "certificate"),
        (url.replace("pw@", "wrong@"), true, "WRONGPASS"),
        (url.clone(), false, "certificate"),
    ] {
        let start = start(&url);
        let weir = if trusted { start.env("SSL_CERT_FILE", made.chain()) } else { start }.run();
        let status = crate::plugin_kit::status(&weir, "blacklist").unwrap();
        let error = status["redis"][0]["error"].as_str().unwrap_or_default().to_string();
        assert!(error.contains(says), "{url}: {status}");
        assert_eq!(weir.get("h", "/open").status, 503);
    }
}

#[test]
fn a_redis_cluster_over_tls() {
    let made = Certificate::new("127.0.0.1");
    let cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--tls-replication", "yes"];
    let nodes = [with_tls(&made, &cluster), with_tls(&made, &cluster)];
    let half = 8192;
    for (i, (node, _)) in nodes.iter().enumerate() {
        assert_eq!(node.ask(&format!("CLUSTER ADDSLOTSRANGE {} {}", i * half, (i + 1) * half - 1)), "+OK");
    }
    // With tls-cluster the nodes meet on the TLS port and its bus.
    assert_eq!(nodes[0].0.ask(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].1)), "+OK");
    for (node, _) in &nodes {
        eventually("the cluster", || node.ask("CLUSTER INFO").contains("cluster_state:ok").then_some(()));
    }
    let weir = gateway("").env("SSL_CERT_FILE", made.chain()).run();
    let to = format!("rediss://127.0.0.1:{}", nodes[0].1);
    let headers = [("x-to", &*to), ("x-init", "1")];
    // Keys of both halves, all asked of the first node: redirects are followed over TLS.
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(ask(&weir, &headers, &["SET", key, key]).body, "+OK\r\n", "{key}");
        assert_eq!(ask(&weir, &headers, &["GET", key]).body, format!("$1\r\n{key}\r\n"));
    }
    let held: Vec<String> = nodes.iter().map(|(node, _)| node.ask("DBSIZE")).collect();
    assert!(held.iter().all(|n| n != ":0"), "{held:?}");
}
