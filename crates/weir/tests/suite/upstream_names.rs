//! Names of upstreams that plugins, clients and URLs choose: `--dns-resolver` resolves all of them, wildcards of ServiceEntries take
//! them in, and none leads to a protected address (link-local, metadata, unspecified, multicast).
use crate::{
    client::{Answer, request},
    harness::{Start, TO_ECHO, Weir, eventually},
    plugin_callout::{self, http_guest},
    plugin_code::CodeServer,
    plugin_kit::istio,
    plugin_redis,
};
use weir_test::{DnsServer, RedisServer, upstream::raw_upstream};

/// Every name under `names.test` goes wherever DNS says.
const NAMES: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: names }
spec: { servers: [{ port: { number: $PORT2, name: http, protocol: HTTP }, hosts: ['*'] }] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: names }
spec:
  hosts: ['*.names.test']
  gateways: [names]
  http: [{ route: [{ destination: { host: '*.names.test', port: { number: $ECHO } } }] }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: names }
spec: { hosts: ['*.names.test'], resolution: DYNAMIC_DNS, ports: [{ number: $ECHO, name: http }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: listed }
spec:
  hosts: ['*.listed.test']
  resolution: STATIC
  ports: [{ number: 8080, name: http }]
  endpoints: [{ address: 127.0.0.1, ports: { http: $ECHO } }]
";

/// What no name may lead to; nothing is ever sent there.
const PROTECTED: [&str; 6] = ["169.254.169.254", "0.0.0.0", "fe80::1", "fd00:ec2::254", "224.0.0.1", "::ffff:169.254.169.254"];

/// The ServiceEntries alone.
fn entries() -> String {
    NAMES.split("---\n").filter(|object| object.contains("kind: ServiceEntry")).map(|object| format!("---\n{object}")).collect()
}

fn refused(weir: &Weir) -> u64 {
    weir.stat("server.upstream_address_not_allowed")
}

/// A name server that knows `good.names.test`, and `evil0.names.test` to `evil5.names.test`.
fn names() -> DnsServer {
    let dns = DnsServer::start();
    dns.set("good.names.test", &["127.0.0.1"], 60);
    for (i, address) in PROTECTED.iter().enumerate() {
        dns.set(&format!("evil{i}.names.test"), &[address], 60);
    }
    dns
}

fn calls(dns: &DnsServer) -> Start<'static> {
    Start::new()
        .file("gateway.yaml", TO_ECHO.to_string() + &entries())
        .file("guest.wat", http_guest())
        .file("plugin.yaml", istio("calls", "url: file://guest.wat"))
        .arg("--log-level")
        .arg("debug")
        .arg("--dns-resolver")
        .arg(dns.address.to_string())
}

fn ask(weir: &Weir, to: &str) -> Answer {
    plugin_callout::ask(weir, to, &[("x-ask", "plain")])
}

#[test]
fn clients_do_not_reach_protected_addresses() {
    let dns = names();
    let weir = Start::new().file("names.yaml", NAMES).arg("--dns-resolver").arg(dns.address.to_string()).run();
    let get = |host: &str| request(([127, 0, 0, 1], weir.ports[1]).into(), "GET", host, "/x", &[], b"").unwrap();
    assert_eq!(get("good.names.test").status, 200);
    for (i, address) in PROTECTED.iter().enumerate() {
        let answer = get(&format!("evil{i}.names.test"));
        assert_eq!(answer.status, 403, "{address}: {answer:?}");
        assert_eq!(refused(&weir), i as u64 + 1, "{address}");
    }
    eventually("the access log", || weir.lines("403 UF").first().cloned());
}

#[test]
fn calls_do_not_reach_protected_addresses() {
    let dns = names();
    let weir = calls(&dns).run();
    let port = weir.echo().port();
    // Each way to name a host works for a good one.
    for to in [
        format!("good.names.test:{port}"),
        format!("http://good.names.test:{port}"),
        format!("outbound|{port}||good.names.test"),
        "outbound|8080||any.listed.test".to_string(),
    ] {
        let answer = ask(&weir, &to);
        assert_eq!((answer.status, &answer.json()["name"]), (200, &"echo".into()), "{to}: {answer:?}");
    }
    // The call under the wildcard was its cluster's, with its breakers and counters.
    assert_eq!(weir.stat(&format!("cluster.outbound|{port}||*.names.test.upstream_rq_total")), 1);
    assert_eq!(weir.stat("cluster.outbound|8080||*.listed.test.upstream_rq_total"), 1);

    let mut expected = 0;
    for (i, address) in PROTECTED.iter().enumerate() {
        let host = format!("evil{i}.names.test");
        for to in [format!("{host}:{port}"), format!("outbound|{port}||{host}")] {
            expected += 1;
            assert_eq!(ask(&weir, &to).status, 504, "{to} {address}");
            assert_eq!(refused(&weir), expected, "{to} {address}");
        }
    }
    // The address itself, without a name.
    assert_eq!(ask(&weir, &format!("169.254.169.254:{port}")).status, 504);
    assert_eq!(refused(&weir), expected + 1);
    weir.says("169.254.169.254 is not reached: it is link-local");
}

/// An answer that changes after the first question (DNS rebinding).
#[test]
fn a_name_that_moves_to_a_protected_address_is_refused() {
    let dns = names();
    dns.set("good.names.test", &["127.0.0.1"], 1);
    let weir = calls(&dns).run();
    let to = format!("good.names.test:{}", weir.echo().port());
    assert_eq!(ask(&weir, &to).status, 200);
    dns.set("good.names.test", &["169.254.169.254"], 60);
    eventually("the refusal", || (ask(&weir, &to).status == 504).then_some(()));
    assert_eq!(refused(&weir), 1);
}

#[test]
fn a_setting_allows_protected_addresses() {
    let dns = names();
    // The unspecified address leads to this machine.
    let weir = calls(&dns).arg("--allow-upstream-address").arg("0.0.0.0/32").run();
    assert_eq!(ask(&weir, &format!("evil1.names.test:{}", weir.echo().port())).status, 200);
    assert_eq!(refused(&weir), 0);
    assert_eq!(ask(&weir, "evil0.names.test:80").status, 504);
    assert_eq!(refused(&weir), 1);
}

#[test]
fn redis_by_name_asks_the_configured_name_server() {
    let dns = names();
    let server = RedisServer::start(&[]);
    server.tell(&["SET who named"]);
    let weir = plugin_redis::gateway("").arg("--dns-resolver").arg(dns.address.to_string()).run();
    let get = |to: &str| plugin_redis::ask(&weir, &[("x-to", to), ("x-init", "1")], &["GET", "who"]);
    let answer = get(&format!("redis://good.names.test:{}", server.port));
    assert_eq!((answer.status, &*answer.body), (200, "$5\r\nnamed\r\n"), "{answer:?}");
    let before = refused(&weir);
    assert_eq!(get(&format!("redis://evil0.names.test:{}", server.port)).status, 504);
    assert!(refused(&weir) > before);
    weir.says("169.254.169.254 is not reached");
    // Its connections are limited and counted as all others.
    assert_eq!(weir.stat("cluster.plugin_callouts.upstream_cx_active"), 1);
}

#[test]
fn code_by_name_asks_the_configured_name_server() {
    let dns = names();
    let server = CodeServer::start(0, None);
    let port = server.address.port();
    let to_evil =
        raw_upstream(|_| "HTTP/1.1 302 Found\r\nlocation: http://evil0.names.test/a.wasm\r\ncontent-length: 0\r\n\r\n".to_string());
    let plugin = |name: &str, url: String| istio(name, &format!("url: '{url}'\nfailStrategy: FAIL_OPEN"));
    let plugins = [
        plugin("named", format!("http://good.names.test:{port}/named.wasm")),
        plugin("direct", "http://evil3.names.test/a.wasm".into()),
        plugin("redirected", format!("http://good.names.test:{to_evil}/a.wasm")),
    ];
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("plugins.yaml", plugins.join("---\n"))
        .arg("--dns-resolver")
        .arg(dns.address.to_string())
        .run();
    weir.get_until("h", "/", |answer| answer.header("x-named").is_some());
    weir.says("fd00:ec2::254 is not reached");
    weir.says("169.254.169.254 is not reached");
    assert!(refused(&weir) >= 2);
}
