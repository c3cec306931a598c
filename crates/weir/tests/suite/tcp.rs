//! Bytes without HTTP: routes of TCP with weights, TLS that ends here before them, and the PROXY protocol in front of everything
//! and behind it.
use crate::{
    client::{self, Connection},
    harness::{Start, Weir, eventually, free_port, raw_upstream},
    tls_client::Client,
    yaml::{Service, ToEcho, holder},
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};
use weir_test::Ca;

/// An upstream that says its name, sends everything back, and says goodbye when its client has ended.
pub fn upstream(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut piece = [0; 16384];
                let _ = io.write_all(name.as_bytes());
                while let Ok(n @ 1..) = io.read(&mut piece) {
                    if io.write_all(&piece[..n]).is_err() {
                        return;
                    }
                }
                let _ = io.write_all(b" bye");
            });
        }
    });
    port
}

fn open(to: SocketAddr) -> TcpStream {
    let io = TcpStream::connect(to).unwrap();
    io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    io
}

fn at(weir: &Weir, port: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], weir.ports[port]))
}

/// All that comes until the end.
fn rest(mut io: impl Read) -> io::Result<String> {
    let mut all = Vec::new();
    io.read_to_end(&mut all)?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// A Service `name` with these ports of 127.0.0.1 as endpoints.
pub fn service(name: &str, ports: &[u16]) -> String {
    let slices = ports.iter().enumerate().map(|(i, port)| Service::new(name, port).slice(&format!("{name}-{i}")));
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n---\n{}",
        slices.collect::<String>()
    )
}

/// Servers of TCP on `$PORT` to `a` and `b` with weights, on `$PORT2` to `c`, on `$PORT3` to a service without endpoints.
fn istio() -> String {
    let server = |port: &str| format!("  - {{ port: {{ number: {port}, name: tcp, protocol: TCP }}, hosts: ['*'] }}\n");
    let servers = [server("$PORT"), server("$PORT2"), server("$PORT3")].concat();
    let to = |host: &str| format!("{{ destination: {{ host: {host}, port: {{ number: 80 }} }}");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers:\n{servers}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  tcp:\n  - {{ match: [{{ port: $PORT }}], route: [{}, weight: 75 }}, {}, weight: 25 }}] }}\n  - {{ match: [{{ port: $PORT2 }}], route: [{} }}] }}\n  - {{ match: [{{ port: $PORT3 }}], route: [{} }}] }}\n---\n",
        to("a"),
        to("b"),
        to("c"),
        to("empty")
    )
}

fn gateway_api() -> String {
    let listener = |name: &str, port: &str| format!("  - {{ name: {name}, port: {port}, protocol: TCP }}\n");
    let route = |section: &str, backends: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{ name: {section} }}\nspec:\n  parentRefs: [{{ name: gateway, sectionName: {section} }}]\n  rules: [{{ backendRefs: [{backends}] }}]\n---\n"
        )
    };
    [
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: gateway }\nspec:\n  gatewayClassName: weir\n  listeners:\n",
        &listener("split", "$PORT"),
        &listener("one", "$PORT2"),
        &listener("none", "$PORT3"),
        "---\n",
        &route("split", "{ name: a, port: 80, weight: 3 }, { name: b, port: 80, weight: 1 }"),
        &route("one", "{ name: c, port: 80 }"),
        &route("none", "{ name: empty, port: 80 }"),
    ]
    .concat()
}

#[test]
fn routes_of_tcp_split_and_carry_both_ways() {
    // c's first endpoint is dead: another one is tried.
    let services = [
        service("a", &[upstream("a")]),
        service("b", &[upstream("b")]),
        service("c", &[free_port(), upstream("c")]),
        service("empty", &[]),
    ];
    for (api, objects) in [("Istio", istio()), ("Gateway API", gateway_api())] {
        let settings = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: higress-config }\ndata: { higress: 'upstream: { maxConnectAttempts: 2 }' }\n";
        let weir = Start::new().upstreams(0).file("all.yaml", objects + &services.concat()).file("settings.yaml", settings).run();
        let mut count = [0, 0];
        for _ in 0..200 {
            let io = open(at(&weir, 0));
            io.shutdown(Shutdown::Write).unwrap();
            match &*rest(io).unwrap() {
                "a bye" => count[0] += 1,
                "b bye" => count[1] += 1,
                other => panic!("{api}: {other}"),
            }
        }
        // Six standard deviations of 200 tries at 75 per cent.
        assert!((113..=187).contains(&count[0]), "{api}: {count:?}");
        for _ in 0..10 {
            let mut io = open(at(&weir, 1));
            let mut reader = io.try_clone().unwrap();
            let reading = std::thread::spawn(move || rest(&mut reader).unwrap());
            io.write_all(&vec![b'x'; 1_000_000]).unwrap();
            io.shutdown(Shutdown::Write).unwrap();
            let got = reading.join().unwrap();
            assert!(got.len() == 1_000_005 && got.starts_with("cx") && got.ends_with("x bye"), "{api}: {} bytes", got.len());
        }
        assert_eq!(rest(open(at(&weir, 2))).unwrap_or_default(), "", "{api}");
        let name = format!("listener.0.0.0.0_{}.tcp.downstream_cx_no_route", weir.ports[2]);
        eventually("the counter", || (weir.stat(&name) == 1).then_some(()));
        // Clusters count as for HTTP: tries, what came of them, bytes.
        let of = |stat: &str| weir.stat(&format!("cluster.outbound|80||c.default.svc.cluster.local.{stat}"));
        eventually("c's connections to be closed", || (of("upstream_cx_active") == 0).then_some(()));
        let failed = of("upstream_cx_connect_fail");
        assert_eq!(of("upstream_cx_total"), 10 + failed, "{api}");
        eventually("each of them is counted", || (of("upstream_cx_destroy") == 10 + failed).then_some(()));
        assert_eq!((of("upstream_cx_tx_bytes_total"), of("upstream_cx_rx_bytes_total")), (10_000_000, 10_000_050), "{api}");
        let mut held = open(at(&weir, 1));
        held.write_all(b"x").unwrap();
        eventually("the gauge", || (of("upstream_cx_active") == 1).then_some(()));
    }
}

#[test]
fn tls_ends_before_bytes() {
    let ca = Ca::new();
    let own = ca.sign(&["db.test"]);
    let objects = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: g }
spec:
  servers: [{ port: { number: $PORT, name: tls, protocol: TLS }, hosts: [db.test], tls: { mode: SIMPLE, credentialName: own } }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: v }
spec:
  hosts: [db.test]
  gateways: [g]
  tcp: [{ route: [{ destination: { host: a, port: { number: 80 } } }] }]
---
";
    let weir = Start::new()
        .upstreams(0)
        .file(
            "all.yaml",
            objects.to_string()
                + &service("a", &[upstream("a")])
                + &holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)]),
        )
        .run();
    let pem = ca.pem();
    let (mut c, leaf) = Client { trust: Some(&pem), ..Client::default() }.connect(weir.address(), "db.test").unwrap();
    assert_eq!(leaf, own.der);
    c.send("hello").unwrap();
    assert_eq!(c.bytes(6).unwrap(), b"ahello");
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n";

fn v2(command: u8) -> Vec<u8> {
    // With a TLV of three bytes behind the addresses.
    let payload = [203, 0, 113, 8, 198, 51, 100, 1, 0x12, 0x67, 1, 187, 4, 0, 0];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11, 0, payload.len() as u8], &payload].concat()
}

#[test]
fn the_proxy_protocol_is_demanded_and_believed() {
    let ca = Ca::new();
    let own = ca.sign(&["h.test"]);
    let mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio }\ndata:\n  mesh: |\n    defaultConfig: { gatewayTopology: { proxyProtocol: {} } }\n---\n";
    let gateway = ToEcho::new()
        .listener("name: https, port: $PORT2, protocol: HTTPS, tls: { certificateRefs: [{ name: own }] }")
        .listener("name: tcp, port: $PORT3, protocol: TCP")
        .text();
    let tcp = "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: { name: t }\nspec: { parentRefs: [{ name: gateway, sectionName: tcp }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }\n---\n";
    let weir = Start::new()
        .file("gateway.yaml", gateway)
        .file(
            "rest.yaml",
            [mesh, tcp, &service("a", &[upstream("a")]), &holder("Secret", "own", &[("tls.crt", &own.pem), ("tls.key", &own.key)])]
                .concat(),
        )
        .arg("--access-log-format")
        .arg("LOG %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%")
        .run();
    let local = b"PROXY UNKNOWN\r\n".to_vec();
    for (name, header, from) in [
        ("version 1", V1.to_vec(), "203.0.113.7"),
        ("version 2", v2(0x21), "203.0.113.8"),
        ("a health check of version 1", local, "127.0.0.1"),
        ("a health check of version 2", v2(0x20), "127.0.0.1"),
    ] {
        let mut c = Connection::open(weir.address()).unwrap();
        // In two pieces, to show that it is waited for.
        c.send(&header[..5]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        c.send(&header[5..]).unwrap();
        for _ in 0..2 {
            let told = c.request("GET", "h.test", "/", &[], b"").unwrap().json();
            assert_eq!(told["headers"]["x-forwarded-for"], from, "{name}");
        }
        let pem = ca.pem();
        let told = Client { trust: Some(&pem), first: &header, ..Client::default() }.ask(at(&weir, 1), "h.test", &[]).unwrap().json();
        assert_eq!(told["headers"]["x-forwarded-for"], from, "{name}, TLS");
        let mut io = open(at(&weir, 2));
        io.write_all(&[&header[..], b"hello"].concat()).unwrap();
        io.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(io).unwrap(), "ahello bye", "{name}, TCP");
    }
    eventually("the log", || weir.lines("LOG 203.0.113.7:4711 198.51.100.1:443 127.0.0.1").first().cloned());
    // Without a header nothing is answered.
    assert!(client::get(weir.address(), "h.test", "/").is_err());
    let name = format!("listener.0.0.0.0_{}.proxy_proto.not_found_disallowed", weir.ports[0]);
    eventually("the counter", || (weir.stat(&name) == 1).then_some(()));
}

/// The first bytes that an upstream gets, sent back in hexadecimal digits and nothing else.
fn first_bytes(count: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut first = vec![0; count];
                if io.read_exact(&mut first).is_ok() {
                    let _ = io.write_all(first.iter().map(|b| format!("{b:02x}")).collect::<String>().as_bytes());
                }
            });
        }
    });
    port
}

#[test]
fn upstreams_are_told_by_the_proxy_protocol() {
    let rule = |host: &str, version: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {host} }}\nspec:\n  host: {host}\n  trafficPolicy: {{ proxyProtocol: {{ version: {version} }} }}\n---\n"
        )
    };
    // It tells the first line that it got, which a second request on the connection would not have.
    let http = raw_upstream(|head| {
        let first = head.lines().next().unwrap_or_default().to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{first}", first.len())
    });
    let tcp = "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: { name: t }\nspec: { parentRefs: [{ name: gateway, sectionName: tcp }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }\n---\n";
    let gateway = ToEcho::new().listener("name: tcp, port: $PORT2, protocol: TCP").upstream(http).text();
    let weir = Start::new()
        .upstreams(0)
        .file("gateway.yaml", gateway)
        .file("rest.yaml", [tcp, &service("a", &[first_bytes(28)]), &rule("echo", "V1"), &rule("a", "V2")].concat())
        .run();
    let mut c = Connection::open(weir.address()).unwrap();
    for _ in 0..3 {
        let told = c.request("GET", "h.test", "/", &[], b"").unwrap().body;
        let words: Vec<&str> = told.split(' ').collect();
        assert_eq!(words[..4], ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"], "{told}");
        assert_eq!(words[5], weir.ports[0].to_string(), "{told}");
    }
    let io = open(at(&weir, 1));
    let port = io.local_addr().unwrap().port();
    let told = rest(io).unwrap();
    assert!(weir.admin("/config_dump").body.contains("envoy.transport_sockets.upstream_proxy_protocol"));
    assert_eq!(told, format!("0d0a0d0a000d0a515549540a2111000c7f0000017f000001{port:04x}{:04x}", weir.ports[1]));
}
