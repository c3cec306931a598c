//! What must be waited for (a name to resolve, a plugin to start, a secret to come, a port to be free) holds back nothing but what
//! needs it, and is said until it has come.
use crate::{
    client::{self, Answer},
    harness::{Start, Weir, eventually, free_port},
    plugin_kit::{guest, istio, on_headers},
    yaml::ToEcho,
};
use serde_json::Value;
use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use weir_test::DnsServer;

/// Far more than a change takes, and less than anything that is waited for here.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// How often a scenario is tried.
const TRIES: usize = 5;

/// Runs a scenario, which says how long the slowest of its changes took, until none was held back: a busy machine may stop anything
/// for longer, but what holds a change back does so each time.
fn at_once(scenario: impl Fn() -> Duration) {
    let mut took = Vec::new();
    while took.len() < TRIES {
        took.push(scenario());
        if took.last() < Some(&AT_ONCE) {
            return;
        }
    }
    panic!("changes were held back for {took:?}");
}

/// A gateway with one host, so that no other is served by its route.
fn base() -> String {
    ToEcho::new().hostnames("base.test").text()
}

/// A route of the Gateway `gateway` for a host.
fn route(host: &str, service: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: '{host}' }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  \
         hostnames: ['{host}']\n  rules: [{{ backendRefs: [{{ name: {service}, port: 80 }}] }}]\n"
    )
}

/// A Service that is a name.
fn external(service: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {service} }}\nspec: {{ type: ExternalName, externalName: {name}, ports: [{{ port: 80, targetPort: $ECHO }}] }}\n"
    )
}

/// Writes a file and waits until a request is answered as wanted; how long that took.
fn live(weir: &Weir, file: &str, text: &str, port: u16, host: &str, wanted: impl Fn(&Answer) -> bool) -> Duration {
    let began = Instant::now();
    weir.write(file, text);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    eventually(host, || client::get(at, host, "/").ok().filter(&wanted));
    began.elapsed()
}

fn is_ok(answer: &Answer) -> bool {
    answer.status == 200
}

/// Waits for the condition of an object, as `status reason`: requests meet a change before it is reported.
#[track_caller]
fn becomes(weir: &Weir, object: &str, scope: Option<&str>, kind: &str, wanted: &str) {
    eventually(&format!("{object} is {kind}: {wanted}"), || {
        let objects: Value = serde_json::from_str(&weir.admin("/objects").body).unwrap();
        let entry = objects["objects"].as_array()?.iter().find(|o| o["object"] == object)?;
        let found = entry["conditions"].as_array()?.iter().find(|c| c["type"] == kind && c["scope"].as_str() == scope)?;
        (format!("{} {}", found["status"].as_str()?, found["reason"].as_str()?) == wanted).then_some(())
    });
}

#[test]
fn a_name_that_does_not_resolve_holds_back_only_its_own_requests() {
    at_once(|| {
        let server = DnsServer::start();
        server.silent.store(true, Ordering::Relaxed);
        let weir = Start::new().file("gateway.yaml", base()).arg("--dns-resolver").arg(server.address.to_string()).run();
        let to = |path: &str, service: &str| {
            format!("{{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: {service}, port: 80 }}] }}")
        };
        let rule = "{ backendRefs: [{ name: dead, port: 80 }] }";
        let dead = route("dead.test", "dead").replace(rule, &to("/dead", "dead")) + &external("dead", "dead.names.test");
        // In the same file, and in the next change.
        let both = dead.clone() + &route("same.test", "echo");
        let mut took = live(&weir, "more.yaml", &both, weir.ports[0], "same.test", is_ok);
        took = took.max(live(&weir, "next.yaml", &route("next.test", "echo"), weir.ports[0], "next.test", is_ok));
        // A change of the very route beside it as well.
        let split = both.replace(&to("/dead", "dead"), &format!("{}, {}", to("/dead", "dead"), to("/", "echo")));
        took = took.max(live(&weir, "more.yaml", &split, weir.ports[0], "dead.test", is_ok));
        // Its own requests wait for the name for a moment, then say so.
        let answer = weir.get("dead.test", "/dead");
        assert_eq!(answer.status, 503, "{answer:?}");
        weir.says("UH no_healthy_upstream");
        assert!(weir.lines("live after").iter().all(|l| l.ends_with(" 0 errors")), "{}", weir.printed());
        eventually("the finding", || weir.admin("/objects").body.contains("NameNotResolved").then_some(()));
        // The name comes: a request that is on its way gets through, or the next one.
        server.set("dead.names.test", &["127.0.0.1"], 60);
        server.silent.store(false, Ordering::Relaxed);
        weir.get_until("dead.test", "/dead", is_ok);
        eventually("the finding's end", || (!weir.admin("/objects").body.contains("NameNotResolved")).then_some(()));
        took
    });
}

/// A plugin that needs three seconds to start, then marks requests.
fn slow() -> String {
    guest(
        &(on_headers("response", "(drop (call $add (i32.const 2) [x-slow] [seen]))")
            + "(func (export \"proxy_on_configure\") (param i32 i32) (result i32) (local $end i64)
                (drop (call $now (i32.const 64)))
                (local.set $end (i64.add (i64.load (i32.const 64)) (i64.const 3000000000)))
                (loop $again
                    (drop (call $now (i32.const 64)))
                    (br_if $again (i64.lt_u (i64.load (i32.const 64)) (local.get $end))))
                (i32.const 1))"),
    )
}

#[test]
fn a_slow_plugin_holds_back_only_its_own_gateway_and_is_never_skipped() {
    at_once(|| {
        let second = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: second }\nspec: { gatewayClassName: weir, listeners: [{ name: http, port: $PORT2, protocol: HTTP }] }\n";
        let of_second = |host: &str| route(host, "echo").replace("name: gateway", "name: second");
        let weir = Start::new()
            .file("gateway.yaml", base())
            .file("second.yaml", second.to_string() + &of_second("old.test"))
            .file("slow.wat", slow())
            .run();
        let at = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
        assert_eq!(client::get(at, "old.test", "/").unwrap().header("x-slow"), None);
        let plugin = istio(
            "slow",
            "url: file://slow.wat\nfailStrategy: FAIL_OPEN\ntargetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: second }]",
        );
        let text = plugin + &of_second("new.test") + &route("same.test", "echo");
        let mut took = live(&weir, "more.yaml", &text, weir.ports[0], "same.test", is_ok);
        took = took.max(live(&weir, "next.yaml", &route("next.test", "echo"), weir.ports[0], "next.test", is_ok));
        // What was there before goes on without it; what came with it is not there before it.
        let began = Instant::now();
        let first = eventually("the new route", || {
            assert_eq!(client::get(at, "old.test", "/").unwrap().status, 200);
            client::get(at, "new.test", "/").ok().filter(is_ok)
        });
        assert_eq!(first.header("x-slow"), Some("seen"), "after {:?}: {}", began.elapsed(), weir.printed());
        assert_eq!(client::get(at, "old.test", "/").unwrap().header("x-slow"), Some("seen"));
        assert!(weir.says("live after").iter().all(|l| l.ends_with(" 0 errors")), "{}", weir.printed());
        took
    });
}

#[test]
fn a_plugin_that_refuses_its_configuration_is_an_error_where_it_is_asked_for() {
    let refuses = guest("(func (export \"proxy_on_configure\") (param i32 i32) (result i32) (i32.const 0))");
    let weir = Start::new().file("gateway.yaml", base()).file("refuses.wat", refuses).run();
    weir.write("plugin.yaml", &istio("refuses", "url: file://refuses.wat\nfailStrategy: FAIL_OPEN"));
    assert!(weir.says("live after")[0].ends_with(" 1 error"), "{}", weir.printed());
    let ready = weir.admin("/ready");
    assert!(ready.status == 200 && ready.body.contains("refuses"), "{ready:?}");
    becomes(&weir, "WasmPlugin/default/refuses", None, "Accepted", "False PluginNotStarted");
    weir.remove("plugin.yaml");
    eventually("no error", || weir.lines("live after").get(1).map(|l| assert!(l.ends_with(" 0 errors"), "{l}")));
    assert_eq!(weir.admin("/ready").body.trim(), "LIVE");
}

#[test]
fn a_missing_secret_holds_back_only_its_own_listener() {
    at_once(|| {
        let weir = Start::new().file("gateway.yaml", base()).run();
        let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: secure }\nspec:\n  gatewayClassName: weir\n  listeners:\n  - { name: https, port: $PORT2, protocol: HTTPS, tls: { certificateRefs: [{ name: late }] } }\n  - { name: http, port: $PORT3, protocol: HTTP }\n";
        let text = gateway.to_string() + &route("s.test", "echo").replace("name: gateway", "name: secure") + &route("same.test", "echo");
        let mut took = live(&weir, "more.yaml", &text, weir.ports[0], "same.test", is_ok);
        took = took.max(live(&weir, "next.yaml", &route("next.test", "echo"), weir.ports[2], "s.test", is_ok));
        becomes(&weir, "Gateway/default/secure", Some("https"), "Programmed", "False Invalid");
        becomes(&weir, "Gateway/default/secure", Some("http"), "Programmed", "True Programmed");
        let made = weir_test::self_signed(&["s.test"]);
        let indented = |pem: String| pem.lines().map(|l| format!("    {l}\n")).collect::<String>();
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: late }}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indented(made.pem),
            indented(made.key)
        );
        weir.write("secret.yaml", &secret);
        eventually("the listener", || std::net::TcpStream::connect(("127.0.0.1", weir.ports[1])).ok());
        becomes(&weir, "Gateway/default/secure", Some("https"), "Programmed", "True Programmed");
        took
    });
}

#[test]
fn a_gateway_is_programmed_once_its_port_is_open() {
    at_once(|| {
        let port = free_port();
        let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let weir = Start::new().file("gateway.yaml", base()).run();
        let gateway = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: busy }}\nspec:\n  gatewayClassName: weir\n  listeners:\n  - {{ name: taken, port: {port}, protocol: HTTP }}\n  - {{ name: free, port: $PORT2, protocol: HTTP }}\n"
        );
        let text = gateway + &route("b.test", "echo").replace("name: gateway", "name: busy") + &route("same.test", "echo");
        let took = live(&weir, "more.yaml", &text, weir.ports[0], "same.test", is_ok);
        assert!(weir.says("live after")[0].ends_with(" 1 error"), "{}", weir.printed());
        let busy = |scope, wanted| becomes(&weir, "Gateway/default/busy", scope, "Programmed", wanted);
        busy(None, "False AddressNotUsable");
        busy(Some("taken"), "False AddressNotUsable");
        busy(Some("free"), "True Programmed");
        becomes(&weir, "Gateway/default/gateway", None, "Programmed", "True Programmed");
        drop(holder);
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the port", || client::get(at, "b.test", "/").ok().filter(is_ok));
        busy(None, "True Programmed");
        busy(Some("taken"), "True Programmed");
        weir.write("next.yaml", &route("next.test", "echo"));
        eventually("no error", || weir.lines("live after").get(1).map(|l| assert!(l.ends_with(" 0 errors"), "{l}")));
        took
    });
}
