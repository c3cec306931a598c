//! Calls that plugins make: HTTP and gRPC, to clusters and to hosts that no configuration names.
use crate::{
    client::{self, Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually, free_port},
    plugin_kit::{guest, istio},
};

/// Calls `x-to` and answers with the body that came: 504 for no answer, 500 with a status added for a call that was refused.
/// The header `x-ask` says what for; `x-timeout` bounds it to 100 ms; `x-twice` calls twice, and waits for both; `x-trailer`
/// answers with the answer's trailer.
pub fn http_guest() -> String {
    let asks = [
        ("plain", ":method=POST,:path=/a/b?c=d,:authority=auth.test,x-a=b"),
        ("error", ":method=GET,:path=/status/500,:authority=auth.test"),
        ("slow", ":method=GET,:path=/slow?delay=500ms,:authority=auth.test"),
        ("hung", ":method=GET,:path=/hung?delay=10m,:authority=auth.test"),
        ("reset", ":method=GET,:path=/reset,:authority=auth.test"),
        ("trailers", ":method=POST,:path=/trailers,:authority=auth.test,te=trailers"),
        ("bare", ":method=GET,:authority=auth.test"),
        ("malformed", ":method=GET,:path=no path,:authority=auth.test"),
    ];
    let mut choose = String::new();
    for (i, (name, pairs)) in asks.iter().enumerate() {
        // By its first two letters, which are all different.
        let two = i32::from(name.as_bytes()[0]) | i32::from(name.as_bytes()[1]) << 8;
        choose +=
            &format!("(if (i32.eq (i32.load16_u (i32.load (i32.const 4))) (i32.const {two})) (then (call $pairs{i} [pairs {pairs}])))\n");
    }
    let setters: String = (0..asks.len())
        .map(|i| {
            format!("(func $pairs{i} (param i32 i32) (i32.store (i32.const 72) (local.get 0)) (i32.store (i32.const 76) (local.get 1)))\n")
        })
        .collect();
    guest(&format!(
        r#"(func (export "proxy_on_context_create") (param i32 i32)) {setters}
        ;; 64: upstream, 72: headers, 80: how many are waited for, 84: token, 88: timeout
        (func $call (param $context i32) (result i32) (local $status i32)
          (local.set $status (call $http_call (i32.load (i32.const 64)) (i32.load (i32.const 68)) (i32.load (i32.const 72)) (i32.load (i32.const 76))
            [hello] [pairs x-t=end] (i32.load (i32.const 88)) (i32.const 84)))
          (if (local.get $status) (then
            (call $answer (i32.add (i32.const 500) (local.get $status)) (i32.const 0) (i32.const 0)) (return (i32.const 1))))
          (i32.store (call $place (i32.load (i32.const 84))) (local.get $context))
          (i32.const 0))
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32)
          (drop (call $get_value (i32.const 0) [x-to] (i32.const 64) (i32.const 68)))
          (i32.store (i32.const 88) (i32.const 20000))
          (if (call $has [x-timeout]) (then (i32.store (i32.const 88) (i32.const 100))))
          (drop (call $has [x-ask]))
          {choose}
          (i32.store (i32.const 80) (i32.const 1))
          (if (call $call (local.get $context)) (then (return (i32.const 1))))
          (if (call $has [x-twice]) (then
            (i32.store (i32.const 80) (i32.const 2))
            (drop (call $call (local.get $context)))))
          (i32.const 1))
        (func (export "proxy_on_http_call_response") (param $root i32) (param $token i32) (param $headers i32) (param $body i32) (param $trailers i32)
          (call $say [callout answered])
          (i32.store (i32.const 80) (i32.sub (i32.load (i32.const 80)) (i32.const 1)))
          (if (call $effective (i32.load (call $place (local.get $token)))) (then (return)))
          (if (i32.load (i32.const 80)) (then (return)))
          (if (i32.eqz (local.get $headers)) (then
            (drop (call $get_status (i32.const 12) (i32.const 4) (i32.const 8)))
            (call $answer (i32.const 504) (i32.load (i32.const 4)) (i32.load (i32.const 8))) (return)))
          (if (call $has [x-trailer]) (then
            (drop (call $get_value (i32.const 7) [x-echo-trailer] (i32.const 4) (i32.const 8)))
            (call $answer (i32.const 200) (i32.load (i32.const 4)) (i32.load (i32.const 8))) (return)))
          (drop (call $get_buffer (i32.const 4) (i32.const 0) (local.get $body) (i32.const 4) (i32.const 8)))
          (call $answer (i32.const 200) (i32.load (i32.const 4)) (i32.load (i32.const 8))))"#
    ))
}

fn start(code: String, more: &str, annotations: &str) -> Weir {
    let plugin = istio("calls", "url: file://guest.wat\npluginConfig:\n  upstreams:\n    mine: 127.0.0.1:$ECHO")
        .replace("{ name: calls }", &format!("{{ name: calls, annotations: {{ {annotations} }} }}"));
    Start::new().file("gateway.yaml", TO_ECHO.to_string() + more).file("guest.wat", code).file("plugin.yaml", plugin).run()
}

pub fn ask(weir: &Weir, to: &str, headers: &[(&str, &str)]) -> Answer {
    client::request(weir.address(), "GET", "h", "/x", &[&[("x-to", to)], headers].concat(), b"").unwrap()
}

/// A service of the echo upstream that speaks HTTP/2 without TLS, and a route that makes it known.
const H2C: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: two }
spec: { parentRefs: [{ name: gateway }], hostnames: [two.test], rules: [{ backendRefs: [{ name: two, port: 80 }] }] }
---
apiVersion: v1
kind: Service
metadata: { name: two }
spec: { ports: [{ port: 80, targetPort: $ECHO, appProtocol: kubernetes.io/h2c }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: two, labels: { kubernetes.io/service-name: two } }
addressType: IPv4
ports: [{ port: $ECHO }]
endpoints: [{ addresses: [127.0.0.1] }]
";

const CLUSTER: &str = "outbound|80||echo.default.svc.cluster.local";

/// Only plugins use these; the last one has no server.
const UNROUTED: &str = "---
{ apiVersion: v1, kind: Service, metadata: { name: auth }, spec: { ports: [{ port: 8080, targetPort: $ECHO2 }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: auth, labels: { kubernetes.io/service-name: auth } }
addressType: IPv4
ports: [{ port: $ECHO2 }]
endpoints: [{ addresses: [127.0.0.1] }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: auth-dns }
spec: { hosts: [auth.dns], ports: [{ number: 80, name: http }], resolution: STATIC, endpoints: [{ address: 127.0.0.1, ports: { http: $ECHO2 } }] }
---
{ apiVersion: v1, kind: Service, metadata: { name: lonely }, spec: { ports: [{ port: 80 }] } }
---
apiVersion: networking.higress.io/v1
kind: McpBridge
metadata: { name: default, namespace: higress-system }
spec: { registries: [{ type: static, name: Listed, domain: '127.0.0.1:$ECHO2', port: 80 }] }
";

#[test]
fn services_that_no_route_names_can_be_called() {
    let plugin = istio("calls", "url: file://guest.wat");
    let weir = Start::new()
        .upstreams(2)
        .file("gateway.yaml", TO_ECHO)
        .file("unrouted.yaml", UNROUTED)
        .file("guest.wat", http_guest())
        .file("plugin.yaml", plugin)
        .run();
    let (service, entry) = ("outbound|8080||auth.default.svc.cluster.local", "outbound|80||auth.dns");
    let becomes = |to: &str, status: u16| {
        eventually(&format!("{to} answers with {status}"), || (ask(&weir, to, &[("x-ask", "plain")]).status == status).then_some(()));
    };
    // As Higress' plugins name the service of a registry; the console registers it on port 80, whatever they ask for.
    for to in [service, entry, "outbound|80||Listed.static", "outbound|8000||Listed.static"] {
        let answer = ask(&weir, to, &[("x-ask", "plain")]);
        assert_eq!((answer.status, &answer.json()["name"]), (200, &"echo2".into()), "{to}: {answer:?}");
    }
    // One that is there and has no endpoint is no mistake of the caller, and no finding while nothing else uses it.
    assert_eq!(ask(&weir, "outbound|80||lonely.default.svc.cluster.local", &[("x-ask", "plain")]).status, 504);
    assert_eq!(weir.lines("NoEndpoints"), Vec::<String>::new());
    // BadArgument, at once.
    assert_eq!(ask(&weir, "outbound|80||nobody.default.svc.cluster.local", &[("x-ask", "plain")]).status, 502);
    // They come and go with their objects, and with the last plugin.
    weir.write("unrouted.yaml", "");
    becomes(service, 502);
    becomes(entry, 502);
    weir.write("unrouted.yaml", UNROUTED);
    becomes(service, 200);
    weir.remove("plugin.yaml");
    eventually("the clusters to go", || (!weir.admin("/clusters").body.contains("auth")).then_some(()));
    assert_eq!(weir.get("h", "/").status, 200);
}

/// A plugin with a list calls the hosts on it, what the configuration names, and nothing else.
#[test]
fn hosts_beyond_the_list_of_the_plugin_are_refused() {
    let weir = start(http_guest(), "", "weir.dev/callout-hosts: 'localhost, *.test'");
    let port = weir.echo().port();
    for (to, status) in [
        (format!("localhost:{port}"), 200),
        ("mine".into(), 200),
        (CLUSTER.into(), 200),
        (format!("127.0.0.1:{port}"), 502),
        (format!("outbound|{port}||127.0.0.1"), 502),
    ] {
        assert_eq!(ask(&weir, &to, &[("x-ask", "plain")]).status, status, "{to}");
    }
    weir.says("default/calls: HTTP call: the plugin may not call `127.0.0.1`: the annotation weir.dev/callout-hosts");
    // A failure is logged with the plugin and the name it called.
    let weir = start(http_guest(), "", "");
    let nobody = format!("127.0.0.1:{}", free_port());
    assert_eq!(ask(&weir, &nobody, &[("x-ask", "plain")]).status, 504);
    weir.says(&format!("default/calls: HTTP call to `{nobody}`: "));
}

/// The host that was not called for longest is forgotten; calls to it work as before.
#[test]
fn hosts_that_plugins_call_are_bounded() {
    let start = Start::new().workers(1).file("gateway.yaml", TO_ECHO).file("guest.wat", http_guest());
    let weir = start.file("plugin.yaml", istio("calls", "url: file://guest.wat")).arg("--max-callout-hosts=1").run();
    let port = weir.echo().port();
    for (host, forgotten) in [("127.0.0.1", 0), ("127.0.0.1", 0), ("localhost", 1), ("127.0.0.1", 2)] {
        assert_eq!(ask(&weir, &format!("{host}:{port}"), &[("x-ask", "plain")]).status, 200, "{host}");
        assert_eq!(weir.stat("plugin_callouts.host_overflow"), forgotten, "{host}");
    }
}

#[test]
fn http_calls_by_every_name_and_with_every_end() {
    let weir = start(http_guest(), H2C, "");
    let echo = weir.echo().to_string();
    let plain = [("x-ask", "plain")];
    let names = [
        (echo.clone(), "HTTP/1.1"),
        (format!("http://{echo}"), "HTTP/1.1"),
        (format!("outbound|{}||127.0.0.1", weir.echo().port()), "HTTP/1.1"),
        (CLUSTER.into(), "HTTP/1.1"),
        ("mine".into(), "HTTP/1.1"),
        ("outbound|80||two.default.svc.cluster.local".into(), "HTTP/2"),
    ];
    for (to, protocol) in &names {
        for _ in 0..2 {
            let answer = ask(&weir, to, &plain);
            assert_eq!(answer.status, 200, "{to}: {answer:?}");
            let seen = answer.json();
            let got = ["path", "query", "host", "method", "body", "protocol"].map(|k| seen[k].as_str().unwrap_or_default().to_string());
            assert!(got[5].starts_with(protocol), "{to}: {seen}");
            assert_eq!(got[..5], ["/a/b", "c=d", "auth.test", "POST", "hello"], "{to}: {seen}");
            assert_eq!((&seen["headers"]["x-a"], &seen["trailers"]["x-t"]), (&"b".into(), &"end".into()), "{to}: {seen}");
        }
        // Trailers go both ways.
        let answer = ask(&weir, to, &[("x-ask", "trailers"), ("x-trailer", "1")]);
        assert_eq!((answer.status, answer.body.as_str()), (200, "the end"), "{to}");
        let twice = ask(&weir, to, &[("x-ask", "slow"), ("x-twice", "1")]);
        assert_eq!(twice.status, 200, "{to}");
        for (ask_for, timeout, status) in [("hung", true, 504), ("reset", false, 504), ("bare", false, 502), ("malformed", false, 502)] {
            let headers: &[_] = if timeout { &[("x-ask", ask_for), ("x-timeout", "1")] } else { &[("x-ask", ask_for)] };
            let answer = ask(&weir, to, headers);
            assert_eq!(answer.status, status, "{to} {ask_for}: {answer:?}");
            assert!(status != 504 || answer.body == "reset", "{answer:?}");
        }
    }
    for (to, status) in
        [("nobody", 502), (&*format!("127.0.0.1:{}", free_port()), 504), ("outbound|80||gone.default.svc.cluster.local", 502)]
    {
        assert_eq!(ask(&weir, to, &plain).status, status, "{to}");
    }
    // A stream that has ended learns nothing, and nobody is harmed.
    let calls = weir.stat("weir_wasm_http_calls.default/calls");
    let answered = |count: u64| eventually("the answers so far", || (weir.lines("callout answered").len() as u64 == count).then_some(()));
    answered(calls);
    let mut early = Connection::open(weir.address()).unwrap();
    early.send(format!("GET /x HTTP/1.1\r\nhost: h\r\nx-to: {echo}\r\nx-ask: slow\r\n\r\n")).unwrap();
    eventually("the call", || (weir.stat("weir_wasm_http_calls.default/calls") > calls).then_some(()));
    drop(early);
    answered(calls + 1);
    assert_eq!(ask(&weir, &echo, &plain).status, 200);
    assert_eq!(weir.stat("weir_wasm_traps.default/calls"), 0);
    assert_eq!(weir.stat("weir_wasm_http_call_failures.default/calls"), 2 * names.len() as u64 + 1);
    assert!(weir.stat(&format!("cluster.{CLUSTER}.upstream_rq_total")) >= 5, "counted by the cluster");
    // Hosts that no configuration names are counted under one name, which stays when clusters go.
    let direct = weir.stat("cluster.plugin_callouts.upstream_rq_total");
    let two = || weir.admin("/stats").body.contains("cluster.outbound|80||two.default.svc.cluster.local.");
    assert!(direct >= 10 && two(), "{direct}");
    weir.write("gateway.yaml", TO_ECHO);
    eventually("the other cluster's end", || (!two()).then_some(()));
    assert_eq!(weir.stat("cluster.plugin_callouts.upstream_rq_total"), direct);
}

#[test]
fn calls_keep_to_the_clusters_breakers_and_health_and_to_the_plugins_own_limit() {
    let rule = |policy: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: echo }}\nspec:\n  host: echo.default.svc.cluster.local\n  trafficPolicy: {policy}\n"
        )
    };
    // Two calls at once through one place: one is refused, which the plugin learns as a call without an answer.
    let weir = start(http_guest(), &rule("{ connectionPool: { http: { http2MaxRequests: 1 } } }"), "");
    let overflow = format!("cluster.{CLUSTER}.upstream_rq_pending_overflow");
    assert_eq!(ask(&weir, CLUSTER, &[("x-ask", "plain")]).status, 200);
    ask(&weir, CLUSTER, &[("x-ask", "slow"), ("x-twice", "1")]);
    assert_eq!((weir.stat(&overflow), weir.stat("weir_wasm_http_call_failures.default/calls")), (1, 1));

    // Two answers of 500 and the only endpoint is out.
    let outlier = "{ outlierDetection: { consecutive5xxErrors: 2, maxEjectionPercent: 100, baseEjectionTime: 300s } }";
    let weir = start(http_guest(), &rule(outlier), "");
    for _ in 0..2 {
        assert_eq!(ask(&weir, CLUSTER, &[("x-ask", "error")]).status, 200);
    }
    assert_eq!(ask(&weir, CLUSTER, &[("x-ask", "plain")]).status, 504);
    assert_eq!(weir.stat(&format!("cluster.{CLUSTER}.outlier_detection.ejections_enforced_total")), 1);

    // The plugin's own limit: the second call does not even begin.
    let weir = start(http_guest(), "", "weir.dev/callout-limit: '1'");
    let answer = ask(&weir, CLUSTER, &[("x-ask", "slow"), ("x-twice", "1")]);
    assert_eq!((answer.status, weir.stat("weir_wasm_callout_overflows.default/calls")), (510, 1), "{answer:?}");
    // Once the first has its answer there is room again.
    eventually("room", || (ask(&weir, CLUSTER, &[("x-ask", "plain")]).status == 200).then_some(()));
}

/// Unary calls, and with `x-stream` streams, to `x-to`. A unary answer is the answer; its failure is 400 and the code, with the
/// message as body. Of a stream the answer is what happened, in order: i, m and a message, t, c and the code as a letter.
fn grpc_guest() -> String {
    guest(
        r#"(func (export "proxy_on_context_create") (param i32 i32))
        ;; 64: upstream, 84: token, 1024000 on: what happened, up to the global
        (global $end (mut i32) (i32.const 1024000))
        (func $mark (param $letter i32)
          (i32.store8 (global.get $end) (local.get $letter))
          (global.set $end (i32.add (global.get $end) (i32.const 1))))
        (func $metadata (param i32 i32) (i32.store (i32.const 72) (local.get 0)) (i32.store (i32.const 76) (local.get 1)))
        (func (export "proxy_on_request_headers") (param $context i32) (param i32 i32) (result i32) (local $status i32)
          (drop (call $get_value (i32.const 0) [x-to] (i32.const 64) (i32.const 68)))
          (global.set $end (i32.const 1024000))
          (call $metadata [pairs x-a=b])
          (if (call $has [x-fail]) (then (call $metadata [pairs x-echo-grpc-status=5])))
          (if (call $has [x-slow]) (then (call $metadata [pairs x-echo-delay=10m])))
          (if (call $has [x-stream])
            (then
              (local.set $status (call $grpc_stream (i32.load (i32.const 64)) (i32.load (i32.const 68)) [test.Echo] [Chat]
                (i32.load (i32.const 72)) (i32.load (i32.const 76)) (i32.const 84)))
              (if (i32.eqz (local.get $status)) (then
                (drop (call $grpc_send (i32.load (i32.const 84)) [one] (i32.const 0)))
                (drop (call $grpc_send (i32.load (i32.const 84)) [two] (i32.const 0)))
                (drop (call $grpc_close (i32.load (i32.const 84)))))))
            (else
              (local.set $status (call $grpc_call (i32.load (i32.const 64)) (i32.load (i32.const 68)) [test.Echo] [Say]
                (i32.load (i32.const 72)) (i32.load (i32.const 76)) [ping] (select (i32.const 100) (i32.const 20000) (call $has [x-timeout])) (i32.const 84)))))
          (if (local.get $status) (then
            (call $answer (i32.add (i32.const 500) (local.get $status)) (i32.const 0) (i32.const 0)) (return (i32.const 1))))
          (i32.store (call $place (i32.load (i32.const 84))) (local.get $context))
          (if (call $has [x-cancel]) (then
            (call $answer (i32.add (i32.const 200) (i32.add
              (i32.mul (call $grpc_cancel (i32.load (i32.const 84))) (i32.const 10))
              (call $grpc_cancel (i32.load (i32.const 84))))) (i32.const 0) (i32.const 0))))
          (i32.const 1))
        (func $is_stream (param $token i32) (result i32) (i32.eq (i32.and (local.get $token) (i32.const 3)) (i32.const 2)))
        (func (export "proxy_on_grpc_receive_initial_metadata") (param $root i32) (param $token i32) (param $count i32)
          (if (call $get_value (i32.const 4) [content-type] (i32.const 4) (i32.const 8)) (then (return)))
          (call $mark (i32.const 105)))
        (func (export "proxy_on_grpc_receive") (param $root i32) (param $token i32) (param $size i32)
          (drop (call $get_buffer (i32.const 5) (i32.const 0) (local.get $size) (i32.const 4) (i32.const 8)))
          (if (call $is_stream (local.get $token)) (then
            (call $mark (i32.const 109))
            (memory.copy (global.get $end) (i32.load (i32.const 4)) (i32.load (i32.const 8)))
            (global.set $end (i32.add (global.get $end) (i32.load (i32.const 8))))
            (return)))
          (drop (call $effective (i32.load (call $place (local.get $token)))))
          (call $answer (i32.const 200) (i32.load (i32.const 4)) (i32.load (i32.const 8))))
        (func (export "proxy_on_grpc_receive_trailing_metadata") (param $root i32) (param $token i32) (param $count i32)
          (if (call $get_value (i32.const 5) [grpc-status] (i32.const 4) (i32.const 8)) (then (return)))
          (call $mark (i32.const 116)))
        (func (export "proxy_on_grpc_close") (param $root i32) (param $token i32) (param $status i32)
          (call $say [grpc closed])
          (if (call $effective (i32.load (call $place (local.get $token)))) (then (return)))
          (if (call $is_stream (local.get $token)) (then
            (call $mark (i32.const 99))
            (call $mark (i32.add (i32.const 97) (local.get $status)))
            (call $answer (i32.const 200) (i32.const 1024000) (i32.sub (global.get $end) (i32.const 1024000)))
            (return)))
          (drop (call $get_status (i32.const 12) (i32.const 4) (i32.const 8)))
          (call $answer (i32.add (i32.const 400) (i32.load (i32.const 12))) (i32.load (i32.const 4)) (i32.load (i32.const 8))))"#,
    )
}

/// Headers, and the status and part of the body that they lead to.
type Row<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

#[test]
fn grpc_calls_and_streams() {
    let weir = start(grpc_guest(), H2C, "");
    let echo = weir.echo().to_string();
    let two = "outbound|80||two.default.svc.cluster.local";
    for to in [&*echo, two, "mine"] {
        let rows: &[Row<'_>] = &[
            (&[], 200, "ping"),
            (&[("x-fail", "1")], 405, ""),
            (&[("x-slow", "1"), ("x-timeout", "1")], 404, "no answer within"),
            (&[("x-stream", "1")], 200, "imonemtwotca"),
            (&[("x-stream", "1"), ("x-fail", "1")], 200, "imonemtwotcf"),
            // Cancelled once; the second time there is nothing.
            (&[("x-slow", "1"), ("x-cancel", "1")], 201, ""),
            (&[("x-stream", "1"), ("x-slow", "1"), ("x-cancel", "1")], 201, ""),
        ];
        for (headers, status, body) in rows {
            let answer = ask(&weir, to, headers);
            assert_eq!(answer.status, *status, "{to} {headers:?}: {answer:?}");
            assert!(answer.body.contains(body), "{to} {headers:?}: {answer:?}");
        }
    }
    for (to, status) in [(&*format!("127.0.0.1:{}", free_port()), 414), ("nobody", 504)] {
        assert_eq!(ask(&weir, to, &[]).status, status, "{to}");
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/calls"), 0);
    assert!(weir.stat("weir_wasm_grpc_calls.default/calls") >= 22 && weir.stat("weir_wasm_grpc_failures.default/calls") >= 7);
    assert!(weir.stat(&format!("cluster.{two}.upstream_cx_http2_total")) >= 1);
}
