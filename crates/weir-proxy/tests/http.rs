//! HTTP/1 through a whole proxy, over real sockets: framing both ways, hostile input, reuse, retries, upgrades, timeouts.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_config::{delta::Delta, model::*};
use weir_proxy::{Options, Proxy};
use weir_test::{
    backend::{Backend, pattern},
    client::{Answer, Connection},
    eventually, free_port,
};

/// A proxy in front of a backend, with one route for everything.
struct Rig {
    runtime: tokio::runtime::Runtime,
    proxy: Proxy,
    backend: Backend,
    address: SocketAddr,
}

fn rig(edit: impl FnOnce(&mut HttpConnectionManager, &mut Route, &mut Cluster)) -> Rig {
    let backend = Backend::start();
    let assignment = ClusterLoadAssignment::new(None, vec![Endpoint::new(Address::Socket(backend.address))]);
    let mut cluster = Cluster::new("c".into(), Discovery::Static(Arc::new(assignment)));
    let origin = Origin::named("test");
    let forward = Forward::to(vec![WeightedCluster::only("c".into())]);
    let mut route = Route::new("r".into(), RouteMatch::any(), RouteAction::Forward(Box::new(forward)), origin.clone());
    let mut hcm = HttpConnectionManager::new("t".into(), "rc".into());
    edit(&mut hcm, &mut route, &mut cluster);
    let chain = FilterChain {
        name: "f".into(),
        server_names: Vec::new(),
        tls: None,
        filters: vec![NetworkFilter::HttpConnectionManager(Arc::new(hcm))],
    };
    let listener = Listener {
        name: "l".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        filter_chains: vec![Arc::new(chain)],
        protocol: Default::default(),
        proxy_protocol: false,
        max_connections: 1000,
        origins: vec![origin],
    };
    let host = VirtualHost { include_request_attempt_count: true, ..VirtualHost::new("v".into(), vec!["*".into()], vec![Arc::new(route)]) };
    let routes = RouteConfiguration { name: "rc".into(), virtual_hosts: vec![Arc::new(host)] };
    let mut config = Config::default();
    config.listeners.insert("l".into(), Arc::new(listener));
    config.routes.insert("rc".into(), Arc::new(routes));
    config.clusters.insert("c".into(), Arc::new(cluster));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let proxy = runtime.block_on(async { Proxy::start(Options { workers: 1, admin: None, ..Options::default() }) }).unwrap();
    let report = runtime.block_on(proxy.apply(Delta::of(&config, 1)));
    assert!(report.diagnostics().is_empty(), "{:?}", report.diagnostics());
    let address = proxy.listeners()[0].address;
    Rig { runtime, proxy, backend, address }
}

fn forward(route: &mut Route) -> &mut Forward {
    match &mut route.action {
        RouteAction::Forward(f) => f,
        _ => unreachable!(),
    }
}

impl Rig {
    fn dial(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }
    /// `GET` on a connection of its own.
    fn get(&self, path: &str) -> Answer {
        get(&mut self.dial(), path)
    }
    /// Waits until the backend has seen a path so many times.
    fn seen(&self, path: &str, times: usize) {
        eventually(path, || (self.backend.seen(path) >= times).then_some(()));
    }
}

fn get(c: &mut Connection, path: &str) -> Answer {
    send(c, "GET", path, "", "")
}

/// `headers` are whole lines.
fn send(c: &mut Connection, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    c.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}")).unwrap();
    if method == "HEAD" { c.head() } else { c.answer() }.unwrap()
}

/// One field of what the backend's `/echo` answers.
fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let (_, rest) = answer.body.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {answer:?}"));
    rest.split_once("</>").unwrap().0
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
        let a = get(&mut c, &format!("/len/{n}"));
        assert!(a.status == 200 && a.body == pattern(n), "len {n}: {a:?}");
        let a = get(&mut c, &format!("/chunked/{n}"));
        assert!(a.body == pattern(n) && a.trailers == [("x-sum".to_string(), n.to_string())], "chunked {n}: {a:?}");
        let a = get(&mut c, &format!("/close/{n}"));
        assert!(a.body == pattern(n) && a.header("transfer-encoding").is_some(), "until close {n}: {a:?}");
        let a = send(&mut c, "POST", "/echo", &format!("Content-Length: {n}\r\n"), &pattern(n));
        assert_eq!(field(&a, "body"), n.to_string(), "post {n}");
        let mut chunks: String =
            pattern(n).as_bytes().chunks(999).map(|p| format!("{:x}\r\n{}\r\n", p.len(), String::from_utf8_lossy(p))).collect();
        chunks += "0\r\nX-T: v\r\n\r\n";
        let a = send(&mut c, "POST", "/echo", "Transfer-Encoding: chunked\r\n", &chunks);
        assert_eq!((field(&a, "body"), field(&a, "trailers")), (n.to_string().as_str(), "X-T: v"), "post chunked {n}");
        let a = send(&mut c, "HEAD", &format!("/len/{n}"), "", "");
        assert!(a.body.is_empty() && a.header("content-length") == Some(n.to_string().as_str()), "head {n}");
    }
    assert_eq!(get(&mut c, "/none").status, 204);
    let a = get(&mut c, "/same");
    assert_eq!((a.status, a.header("content-length")), (304, Some("55")));
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    let hops = "Connection: X-Drop, keep-alive\r\nX-Drop: 1\r\nKeep-Alive: 3\r\nTE: trailers\r\nProxy-Connection: a\r\nX-Keep:  two  \r\nX-Dup: 1\r\nX-Dup: 2\r\n";
    let answer = send(&mut c, "GET", "/echo", hops, "");
    let head = field(&answer, "head");
    let low = head.to_lowercase();
    for gone in ["x-drop", "keep-alive", "proxy-connection", "\nconnection:"] {
        assert!(!low.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("X-Keep: two\r\nX-Dup: 1\r\nX-Dup: 2\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n") && head.contains("\r\nx-forwarded-proto: http\r\n"), "{head}");
    assert!(head.contains("\r\nx-request-id: ") && head.contains("x-envoy-attempt-count: 1"), "{head}");
    let answer = send(&mut c, "GET", "/echo", "X-Forwarded-For: 1.2.3.4\r\nX-Request-ID: mine\r\n", "");
    let head = field(&answer, "head");
    assert!(head.contains("x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n") && head.contains("X-Request-ID: mine"), "{head}");
    let a = get(&mut c, "/hops");
    assert!(a.header("x-secret").is_none() && a.header("keep-alive").is_none(), "{a:?}");
    let cookies: Vec<&str> = a.headers.iter().filter(|(n, _)| n == "set-cookie").map(|(_, v)| v.as_str()).collect();
    assert_eq!(cookies, ["a", "b"]);
}

#[test]
fn connections_are_kept_and_requests_pipelined() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    get(&mut c, "/len/5");
    let before = r.backend.connections();
    (0..20).for_each(|_| drop(get(&mut c, "/len/5")));
    assert_eq!(r.backend.connections(), before, "upstream connections are used again");
    let many: String = (0..300).map(|i| format!("GET /len/{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    c.send(many.as_bytes()).unwrap();
    for i in 0..300 {
        assert_eq!(c.answer().unwrap().body, pattern(i), "{i}");
    }
    c.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /len/3 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(field(&c.answer().unwrap(), "body"), "3");
    assert_eq!(c.answer().unwrap().body, "012");
    for b in b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\n\r\n" {
        c.send([*b]).unwrap();
    }
    assert_eq!(field(&c.answer().unwrap(), "body"), "4", "byte by byte");
    assert_eq!(get(&mut c, "/drip").body, "ok");
    for path in ["/drop", "/drop/1", "/drop", "/len/2"] {
        assert_eq!(get(&mut c, path).status, 200, "{path}: the upstream closes behind its answer");
    }
    c.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").unwrap();
    let interim = c.head().unwrap();
    assert_eq!((interim.status, interim.headers.len()), (100, 0));
    c.send(b"abc").unwrap();
    assert_eq!(field(&c.answer().unwrap(), "body"), "3");
}

#[test]
fn old_clients_and_closing_ones() {
    let r = rig(|_, _, _| {});
    let one = |line: &str| {
        let mut c = r.dial();
        c.send(line.as_bytes()).unwrap();
        c.answer().unwrap()
    };
    let a = one("GET /len/9 HTTP/1.0\r\n\r\n");
    assert_eq!((a.body.len(), a.header("connection")), (9, Some("close")));
    let a = one("GET /chunked/5000 HTTP/1.0\r\n\r\n");
    assert!(a.body == pattern(5000) && a.header("transfer-encoding").is_none(), "{a:?}");
    assert_eq!(one("GET /len/9 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").header("connection"), Some("keep-alive"));
    let mut c = r.dial();
    let a = send(&mut c, "GET", "/len/9", "Connection: close\r\n", "");
    assert_eq!((a.body.len(), a.header("connection"), c.rest().unwrap().len()), (9, Some("close"), 0));
}

#[test]
fn upgrades_become_tunnels() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.send(b"GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    let head = c.head().unwrap();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("echo")));
    assert_eq!(c.bytes(2).unwrap(), b"hi");
    c.send(b"shout").unwrap();
    assert_eq!(c.rest().unwrap(), b"SHOUT");
    let mut c = r.dial();
    assert_eq!(get(&mut c, "/upgrade").status, 502, "nobody asked for it");
}

#[test]
fn stale_connections_are_no_errors_and_failures_are_retried_as_told() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    get(&mut c, "/len/1");
    assert_eq!(get(&mut c, "/vanish/1").status, 200, "an idle connection had gone");
    get(&mut c, "/len/1");
    assert_eq!(send(&mut c, "POST", "/vanish/2", "Content-Length: 2\r\n", "ab").status, 503, "not what may do harm twice");
    assert_eq!(get(&mut c, "/flaky/1").status, 503, "no policy");
    let r = rig(|_, route, _| {
        let conditions = vec![RetryOn::ServerError, RetryOn::Reset, RetryOn::ConnectFailure];
        forward(route).retry = Some(Arc::new(RetryPolicy { conditions, num_retries: 2, ..RetryPolicy::default() }));
    });
    let mut c = r.dial();
    let a = send(&mut c, "POST", "/flaky/2", "Content-Length: 3\r\n", "abc");
    assert_eq!((a.status, a.body.as_str()), (200, "2"), "by the policy, with the body again");
    let a = get(&mut c, "/always503");
    assert_eq!((a.status, r.backend.seen("/always503")), (503, 3), "three tries at most");
}

#[test]
fn upstreams_that_break_the_protocol_are_not_believed() {
    let r = rig(|_, _, _| {});
    for path in ["/badlen", "/both", "/garbage"] {
        assert_eq!(send(&mut r.dial(), "POST", path, "Content-Length: 0\r\n", "").status, 502, "{path}");
    }
    let mut c = r.dial();
    c.send(b"GET /short HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let all = String::from_utf8(c.rest().unwrap()).unwrap();
    assert!(all.contains("Content-Length: 100") && all.ends_with("hello"), "cut short, visibly: {all}");
    let mut c = r.dial();
    c.send(format!("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n{}", pattern(100_000))).unwrap();
    let a = c.answer().unwrap();
    assert_eq!((a.status, a.body.as_str()), (413, "big"));
}

#[test]
fn time_limits() {
    let r = rig(|hcm, route, _| {
        forward(route).timeout = Some(Duration::from_secs(1));
        hcm.timeouts.idle_timeout = Some(Duration::from_secs(8));
        hcm.timeouts.request_headers_timeout = Some(Duration::from_millis(600));
    });
    let begun = Instant::now();
    let a = r.get("/slow/60");
    assert_eq!((a.status, a.body.as_str()), (504, "gateway timeout"));
    assert!((Duration::from_millis(950)..Duration::from_secs(30)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let mut c = r.dial();
    get(&mut c, "/len/1");
    assert!(c.rest().unwrap().is_empty(), "an idle connection is closed");
    let mut c = r.dial();
    c.send(b"GET / HTTP/1.1\r\nHo").unwrap();
    assert_eq!(c.answer().unwrap().status, 408);
    let r = rig(|hcm, _, _| hcm.timeouts.stream_idle_timeout = Some(Duration::from_millis(600)));
    assert_eq!(r.get("/slow/60").status, 504);
}

#[test]
fn a_slow_reader_costs_no_memory_but_gets_everything() {
    let r = rig(|_, _, _| {});
    let mut c = r.dial();
    c.send(b"GET /len/40000000 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(c.head().unwrap().status, 200);
    assert!(r.backend.sent() < 30_000_000, "the upstream is made to wait: {}", r.backend.sent());
    assert!(c.bytes(40_000_000).unwrap() == pattern(40_000_000).as_bytes());
}

#[test]
fn circuit_breakers_and_dead_upstreams() {
    let r = rig(|_, _, cluster| cluster.circuit_breakers.max_requests = 1);
    let mut slow = r.dial();
    slow.send(b"GET /slow/60 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    r.seen("/slow/60", 1);
    assert_eq!(r.get("/len/1").status, 503, "the one place is taken");
    let r = rig(|_, _, cluster| {
        let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let endpoints = vec![Endpoint::new(Address::Socket(dead))];
        cluster.discovery = Discovery::Static(Arc::new(ClusterLoadAssignment::new(None, endpoints)));
    });
    assert_eq!(r.get("/").status, 503);
    let r = rig(|_, _, cluster| {
        cluster.discovery = Discovery::Static(Arc::default());
    });
    assert_eq!(r.get("/").status, 503);
}

#[test]
fn copies_go_to_mirrors() {
    let r = rig(|_, route, _| {
        forward(route).mirrors = [Mirror { cluster: "c".into(), fraction: Fraction::ALL, disable_shadow_host_suffix_append: false }].into()
    });
    let mut c = r.dial();
    assert_eq!(get(&mut c, "/len/1").status, 200);
    r.seen("/len/1", 2);
    assert_eq!(field(&send(&mut c, "POST", "/echo", "Content-Length: 4\r\n", "abcd"), "body"), "4");
    r.seen("/echo", 2);
    assert!(r.backend.hosts().iter().any(|h| h == "h-shadow"), "{:?}", r.backend.hosts());
}
