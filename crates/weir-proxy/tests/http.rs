//! HTTP/1 through a whole proxy, over real sockets: framing both ways, hostile input, reuse, retries, upgrades, timeouts.
#![allow(clippy::unwrap_used)]

#[path = "http/client.rs"]
mod client;

use client::{Answer, Conn};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_config::model::*;
use weir_proxy::{Options, Proxy};
use weir_test::backend::{Backend, pattern};

/// A proxy in front of a backend, with one route for everything.
struct Rig {
    runtime: tokio::runtime::Runtime,
    proxy: Proxy,
    backend: Backend,
    address: SocketAddr,
}

fn rig(edit: impl FnOnce(&mut HttpConnectionManager, &mut Route, &mut Cluster)) -> Rig {
    let backend = Backend::start();
    let assignment = ClusterLoadAssignment { cluster: None, endpoints: vec![Endpoint::new(Address::Socket(backend.address))] };
    let mut cluster = Cluster::new("c".into(), Discovery::Static(Arc::new(assignment)));
    let origin = Origin { object: "test".into(), file: None, line: Default::default() };
    let forward = Forward::to(vec![WeightedCluster::only("c".into())]);
    let mut route = Route::new("r".into(), RouteMatch::any(), RouteAction::Forward(Box::new(forward)), origin.clone());
    let mut hcm = HttpConnectionManager::new("t".into(), "rc".into());
    edit(&mut hcm, &mut route, &mut cluster);
    let chain = FilterChain { name: "f".into(), server_names: Vec::new(), tls: None, filter: NetworkFilter::HttpConnectionManager(hcm) };
    let listener = Listener {
        name: "l".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        filter_chains: vec![Arc::new(chain)],
        proxy_protocol: false,
        max_connections: 1000,
        origins: vec![origin],
    };
    let host = VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes: vec![Arc::new(route)],
        include_request_attempt_count: true,
        fall_back_to_wildcard: false,
    };
    let routes = RouteConfiguration { name: "rc".into(), virtual_hosts: vec![Arc::new(host)] };
    let mut config = Config::default();
    config.listeners.insert("l".into(), Arc::new(listener));
    config.routes.insert("rc".into(), Arc::new(routes));
    config.clusters.insert("c".into(), Arc::new(cluster));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let proxy = runtime.block_on(async { Proxy::start(Options { workers: 1, admin: None, ..Options::default() }) }).unwrap();
    let report = runtime.block_on(proxy.apply(Arc::new(config)));
    assert!(report.diagnostics.is_empty(), "{:?}", report.diagnostics);
    let address = report.listeners[0].address;
    Rig { runtime, proxy, backend, address }
}

fn forward(route: &mut Route) -> &mut Forward {
    match &mut route.action {
        RouteAction::Forward(f) => f,
        _ => unreachable!(),
    }
}

impl Rig {
    fn dial(&self) -> Conn {
        Conn::dial(self.address)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let stop = self.proxy.drain_and_stop(Duration::ZERO);
        let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), stop).await });
    }
}

#[test]
fn bodies_of_every_framing_and_size() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    for n in [0usize, 1, 1000, 4096, 5000, 70_000, 3_000_000] {
        let a = c.get(&format!("/len/{n}"));
        assert!(a.status == 200 && a.body == pattern(n), "len {n}: {a:?}");
        let a = c.get(&format!("/chunked/{n}"));
        assert!(a.body == pattern(n) && a.header("x-sum") == Some(&n.to_string()), "chunked {n}: {a:?}");
        let a = c.get(&format!("/close/{n}"));
        assert!(a.body == pattern(n) && a.header("transfer-encoding").is_some(), "until close {n}: {a:?}");
        let a = c.send("POST", "/echo", &format!("Content-Length: {n}\r\n"), &pattern(n));
        assert_eq!(a.field("body"), n.to_string(), "post {n}");
        let mut chunks = Vec::new();
        for piece in pattern(n).chunks(999) {
            chunks.extend(format!("{:x}\r\n", piece.len()).bytes());
            chunks.extend(piece);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\nX-T: v\r\n\r\n");
        let a = c.send("POST", "/echo", "Transfer-Encoding: chunked\r\n", &chunks);
        assert_eq!((a.field("body"), a.field("trailers")), (n.to_string(), "X-T: v".to_string()), "post chunked {n}");
        let a = c.send("HEAD", &format!("/len/{n}"), "", b"");
        assert!(a.body.is_empty() && a.header("content-length") == Some(&n.to_string()), "head {n}");
    }
    assert_eq!(c.get("/none").status, 204);
    let a = c.get("/same");
    assert_eq!((a.status, a.header("content-length").map(String::as_str)), (304, Some("55")));
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    let hops = "Connection: X-Drop, keep-alive\r\nX-Drop: 1\r\nKeep-Alive: 3\r\nTE: trailers\r\nProxy-Connection: a\r\nX-Keep:  two  \r\nX-Dup: 1\r\nX-Dup: 2\r\n";
    let head = c.send("GET", "/echo", hops, b"").field("head");
    let low = head.to_lowercase();
    for gone in ["x-drop", "keep-alive", "proxy-connection", "\nconnection:"] {
        assert!(!low.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("X-Keep: two\r\nX-Dup: 1\r\nX-Dup: 2\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n") && head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
    assert!(head.contains("\r\nx-request-id: ") && head.contains("x-envoy-attempt-count: 1"), "{head}");
    let head = c.send("GET", "/echo", "X-Forwarded-For: 1.2.3.4\r\nX-Request-ID: mine\r\n", b"").field("head");
    assert!(head.contains("x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n") && head.contains("X-Request-ID: mine"), "{head}");
    let a = c.get("/hops");
    assert!(a.header("x-secret").is_none() && a.header("keep-alive").is_none(), "{a:?}");
    assert_eq!(a.all("set-cookie"), ["a", "b"]);
}

#[test]
fn connections_are_kept_and_requests_pipelined() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.get("/len/5");
    let before = r.backend.connections();
    (0..20).for_each(|_| drop(c.get("/len/5")));
    assert_eq!(r.backend.connections(), before, "upstream connections are used again");
    let many: String = (0..300).map(|i| format!("GET /len/{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    c.write(many.as_bytes());
    for i in 0..300 {
        assert_eq!(c.answer("GET").body, pattern(i), "{i}");
    }
    c.write(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /len/3 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((c.answer("POST").field("body"), c.answer("GET").body), ("3".to_string(), b"012".to_vec()));
    for b in b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\n\r\n" {
        c.write(&[*b]);
    }
    assert_eq!(c.answer("POST").field("body"), "4", "byte by byte");
    assert_eq!(c.get("/drip").body, b"ok");
    for path in ["/drop", "/drop/1", "/drop", "/len/2"] {
        assert_eq!(c.get(path).status, 200, "{path}: the upstream closes behind its answer");
    }
    c.write(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(c.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    c.write(b"abc");
    assert_eq!(c.answer("POST").field("body"), "3");
}

#[test]
fn old_clients_and_closing_ones() {
    let r = rig(|_, _, _| {});
    let one = |line: &str| {
        let mut c = r.dial();
        c.write(line.as_bytes());
        c.answer("GET")
    };
    let a = one("GET /len/9 HTTP/1.0\r\n\r\n");
    assert_eq!((a.body.len(), a.header("connection").map(String::as_str)), (9, Some("close")));
    let a = one("GET /chunked/5000 HTTP/1.0\r\n\r\n");
    assert!(a.body == pattern(5000) && a.header("transfer-encoding").is_none(), "{a:?}");
    assert_eq!(one("GET /len/9 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").header("connection").unwrap(), "keep-alive");
    let mut c = r.dial();
    let a = c.send("GET", "/len/9", "Connection: close\r\n", b"");
    assert_eq!((a.body.len(), a.header("connection").map(String::as_str), c.rest().len()), (9, Some("close"), 0));
}

#[test]
fn upgrades_become_tunnels() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.write(b"GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let head = c.head();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("pgrade: echo"), "{head}");
    assert_eq!(c.exactly(2), b"hi");
    c.write(b"shout");
    assert_eq!(c.rest(), b"SHOUT");
    let mut c = r.dial();
    assert_eq!(c.get("/upgrade").status, 502, "nobody asked for it");
}

#[test]
fn stale_connections_are_no_errors_and_failures_are_retried_as_told() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.get("/len/1");
    assert_eq!(c.get("/vanish/1").status, 200, "an idle connection had gone");
    c.get("/len/1");
    assert_eq!(c.send("POST", "/vanish/2", "Content-Length: 2\r\n", b"ab").status, 503, "not what may do harm twice");
    assert_eq!(c.get("/flaky/1").status, 503, "no policy");
    let r = rig(|_, route, _| {
        let conditions = vec![RetryOn::ServerError, RetryOn::Reset, RetryOn::ConnectFailure];
        forward(route).retry = Some(Arc::new(RetryPolicy { conditions, num_retries: 2, ..RetryPolicy::default() }));
    });
    let mut c = r.dial();
    let a = c.send("POST", "/flaky/2", "Content-Length: 3\r\n", b"abc");
    assert_eq!((a.status, a.body.as_slice()), (200, &b"2"[..]), "by the policy, with the body again");
    let a = c.get("/always503");
    assert_eq!((a.status, r.backend.seen("/always503")), (503, 3), "three tries at most");
}

#[test]
fn upstreams_that_break_the_protocol_are_not_believed() {
    let r = rig(|_, _, _| {});
    for path in ["/badlen", "/both", "/garbage"] {
        assert_eq!(r.dial().send("POST", path, "Content-Length: 0\r\n", b"").status, 502, "{path}");
    }
    let mut c = r.dial();
    c.write(b"GET /short HTTP/1.1\r\nHost: h\r\n\r\n");
    let all = String::from_utf8(c.rest()).unwrap();
    assert!(all.contains("Content-Length: 100") && all.ends_with("hello"), "cut short, visibly: {all}");
    let mut c = r.dial();
    c.write(&[b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n", &pattern(100_000)[..]].concat());
    let a = c.answer("POST");
    assert_eq!((a.status, a.body.as_slice()), (413, &b"big"[..]));
}

#[test]
fn a_body_that_nobody_reads_is_never_a_request() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.write(&[b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n", &pattern(1000)[..]].concat());
    for _ in 0..4 {
        c.try_write(&b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".repeat(300));
    }
    let answers = String::from_utf8_lossy(&c.rest()).matches("HTTP/1.1 ").count();
    assert!(answers <= 1 && r.backend.seen("/echo") == 0, "{answers}");
}

#[test]
fn time_limits() {
    let r = rig(|hcm, route, _| {
        forward(route).timeout = Some(Duration::from_secs(1));
        hcm.timeouts.idle_timeout = Some(Duration::from_millis(600));
        hcm.timeouts.request_headers_timeout = Some(Duration::from_millis(600));
    });
    let begun = Instant::now();
    let a = r.dial().get("/slow/9");
    assert_eq!((a.status, a.text().as_str()), (504, "gateway timeout"));
    assert!((Duration::from_millis(950)..Duration::from_secs(4)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let mut c = r.dial();
    c.get("/len/1");
    assert!(c.rest().is_empty(), "an idle connection is closed");
    let mut c = r.dial();
    c.write(b"GET / HTTP/1.1\r\nHo");
    assert_eq!(c.answer("GET").status, 408);
    let r = rig(|hcm, _, _| hcm.timeouts.stream_idle_timeout = Some(Duration::from_millis(600)));
    assert_eq!(r.dial().get("/slow/9").status, 504);
}

#[test]
fn a_slow_reader_costs_no_memory_but_gets_everything() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.write(b"GET /len/40000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    c.exactly(1);
    assert!(r.backend.sent() < 30_000_000, "the upstream is made to wait: {}", r.backend.sent());
    let rest = c.rest_of(40_000_000);
    assert!(rest.ends_with(&pattern(40_000_000)[39_999_900..]));
}

#[test]
fn circuit_breakers_and_dead_upstreams() {
    let r = rig(|_, _, cluster| cluster.circuit_breakers.max_requests = 1);
    let mut slow = r.dial();
    slow.write(b"GET /slow/3 HTTP/1.1\r\nHost: h\r\n\r\n");
    r.backend.wait_for("/slow/3", 1);
    assert_eq!(r.dial().get("/len/1").status, 503, "the one place is taken");
    let r = rig(|_, _, cluster| {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoints = vec![Endpoint::new(Address::Socket(dead))];
        cluster.discovery = Discovery::Static(Arc::new(ClusterLoadAssignment { cluster: None, endpoints }));
    });
    assert_eq!(r.dial().get("/").status, 503);
    let r = rig(|_, _, cluster| {
        cluster.discovery = Discovery::Static(Arc::new(ClusterLoadAssignment { cluster: None, endpoints: Vec::new() }));
    });
    assert_eq!(r.dial().get("/").status, 503);
}

#[test]
fn copies_go_to_mirrors() {
    let r = rig(|_, route, _| {
        forward(route).mirrors = vec![Mirror { cluster: "c".into(), fraction: Fraction::ALL, disable_shadow_host_suffix_append: false }]
    });
    let mut c = r.dial();
    assert_eq!(c.get("/len/1").status, 200);
    r.backend.wait_for("/len/1", 2);
    assert_eq!(c.send("POST", "/echo", "Content-Length: 4\r\n", b"abcd").field("body"), "4");
    r.backend.wait_for("/echo", 2);
    assert!(r.backend.hosts().iter().any(|h| h == "h-shadow"), "{:?}", r.backend.hosts());
}

#[test]
fn hostile_requests_are_refused() {
    let r = rig(|_, _, _| {});
    const H: &str = "Host: h\r\n";
    // These are understood, so the connection would be kept.
    const LAST: &str = "Host: h\r\nConnection: close\r\n";
    const G: &str = "GET /len/1 HTTP/1.1\r\n";
    const P: &str = "POST /echo HTTP/1.1\r\n";
    const END: &str = "\r\n0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let table: Vec<(&str, String, u16)> = vec![
        ("CL and TE", format!("{P}{H}Content-Length: 3\r\n{chunked}{END}"), 400),
        ("TE and CL", format!("{P}{H}{chunked}Content-Length: 3\r\n{END}"), 400),
        ("two lengths", format!("{P}{H}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 400),
        ("a list of lengths", format!("{P}{H}Content-Length: 3, 3\r\n\r\nabc"), 400),
        ("+3", format!("{P}{H}Content-Length: +3\r\n\r\nabc"), 400),
        ("-3", format!("{P}{H}Content-Length: -3\r\n\r\nabc"), 400),
        ("0x3", format!("{P}{H}Content-Length: 0x3\r\n\r\nabc"), 400),
        ("no length", format!("{P}{H}Content-Length: \r\n\r\nabc"), 400),
        ("a huge length", format!("{P}{H}Content-Length: 99999999999999999999\r\n\r\nabc"), 400),
        ("chunked twice", format!("{P}{H}{chunked}{chunked}{END}"), 400),
        ("another coding", format!("{P}{H}Transfer-Encoding: gzip, chunked\r\n{END}"), 501),
        ("another coding on another line", format!("{P}{H}Transfer-Encoding: gzip\r\n{chunked}{END}"), 501),
        ("another coding last", format!("{P}{H}Transfer-Encoding: chunked, gzip\r\n{END}"), 400),
        ("xchunked", format!("{P}{H}Transfer-Encoding: xchunked\r\n{END}"), 400),
        ("chunked in 1.0", format!("POST /echo HTTP/1.0\r\n{H}{chunked}{END}"), 400),
        ("a folded line", format!("{G}{H}X: a\r\n b\r\n\r\n"), 400),
        ("a folded coding", format!("{P}{H}Transfer-Encoding:\r\n chunked\r\n{END}"), 400),
        ("bare LF", "GET / HTTP/1.1\nHost: h\n\n".into(), 400),
        ("one bare LF", format!("{G}Host: h\nX: y\r\n\r\n"), 400),
        ("bare CR", format!("{G}Host: h\rX: y\r\n\r\n"), 400),
        ("NUL", format!("{G}{H}X: a\0b\r\n\r\n"), 400),
        ("a control byte", format!("{G}{H}X: a\x01b\r\n\r\n"), 400),
        ("DEL", format!("{G}{H}X: a\x7fb\r\n\r\n"), 400),
        ("a blank before the colon", format!("{G}Host : h\r\n\r\n"), 400),
        ("a blank in the coding's name", format!("{P}{H}Transfer-Encoding : chunked\r\n{END}"), 400),
        ("a blank first", format!("{G} Host: h\r\n\r\n"), 400),
        ("no colon", format!("{G}{H}abc\r\n\r\n"), 400),
        ("no name", format!("{G}{H}: x\r\n\r\n"), 400),
        ("a name with a blank", format!("{G}{H}a b: x\r\n\r\n"), 400),
        ("no host", format!("{G}\r\n"), 400),
        ("two hosts", format!("{G}{H}{H}\r\n"), 400),
        ("a host with a path", format!("{G}Host: a/b\r\n\r\n"), 400),
        ("two blanks", format!("GET  / HTTP/1.1\r\n{H}\r\n"), 400),
        ("no path", format!("GET x HTTP/1.1\r\n{H}\r\n"), 400),
        ("a tab", format!("GET\t/ HTTP/1.1\r\n{H}\r\n"), 400),
        ("lower case", format!("GET / http/1.1\r\n{H}\r\n"), 400),
        ("a control byte in the path", format!("GET /\x01 HTTP/1.1\r\n{H}\r\n"), 400),
        ("a path out of the root", format!("GET /../x HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("a NUL escaped", format!("GET /%00 HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("a fragment", format!("GET /a#b HTTP/1.1\r\n{LAST}\r\n"), 400),
        ("CONNECT", format!("CONNECT a:443 HTTP/1.1\r\n{LAST}\r\n"), 403),
        ("another version", "GET / HTTP/2.0\r\n\r\n".into(), 505),
        ("many fields", format!("{G}{H}{}\r\n", "a: b\r\n".repeat(200)), 431),
        ("a long head", format!("{G}{H}a: {}\r\n\r\n", "x".repeat(70_000)), 431),
        ("an endless head", format!("{G}{H}a: {}", "x".repeat(900_000)), 431),
    ];
    for (name, raw, want) in table {
        let mut c = r.dial();
        c.try_write(raw.as_bytes());
        let all = c.rest_or(name);
        let text = String::from_utf8_lossy(&all);
        let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(i, _)| &text[i + 9..i + 12]).collect();
        assert_eq!(statuses, [want.to_string()], "{name}");
    }
    for (name, body) in [
        ("no size", "zz\r\n"),
        ("a negative size", "-1\r\n"),
        ("0x", "0x3\r\nabc\r\n"),
        ("a huge size", "fffffffffffffffff\r\n"),
        ("bare LF", "3\nabc\n0\n\n"),
        ("no line end", "3\r\nabcd\r\n"),
        ("a blank first", " 3\r\nabc\r\n"),
        ("LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a trailer that is none", "0\r\na b\r\n\r\n"),
    ] {
        let mut c = r.dial();
        c.try_write(format!("{P}{H}{chunked}\r\n{body}").as_bytes());
        let all = c.rest();
        assert!(!String::from_utf8_lossy(&all).contains("HTTP/1.1 200"), "{name}");
    }
    assert_eq!(r.backend.seen("/echo"), 0, "none of them arrived");
    let a: Answer = r.dial().get("/a/../len/3");
    assert_eq!(a.body, b"012", "and it serves on");
}
