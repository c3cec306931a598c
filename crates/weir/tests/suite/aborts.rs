//! Whatever ends a request early, on either side and at any point, leaves nothing behind: gauges come back to zero, places are free
//! again, connections are closed.
use crate::{
    client::Connection,
    frames::{self, DATA, END_HEADERS, GOAWAY, HEADERS, OK, RST_STREAM, Raw, block, frame},
    harness::{Weir, eventually, free_port},
    mesh::{Mesh, cluster_becomes, of_cluster},
    tls::secret,
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};
use weir_test::self_signed;

/// An upstream that does what the path says.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for io in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(io));
        }
    });
    port
}

fn serve(mut io: TcpStream) {
    let mut lines = BufReader::new(io.try_clone().unwrap()).lines().map_while(Result::ok);
    loop {
        let Some(first) = lines.next() else { return };
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        let length = |n: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nbytes";
        // What is said, and whether the connection is then cut.
        let (said, cut) = match first.split(' ').nth(1).unwrap_or_default() {
            "/cut" => (String::new(), true),
            "/silent" => (String::new(), false),
            "/part-of-a-head" => ("HTTP/1.1 200 OK\r\ncont".into(), true),
            "/part-of-a-body" => (length(100) + "hello", true),
            "/slow-body" => (length(100) + "hello", false),
            "/bad-chunk" => ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".into(), false),
            "/bad-chunk-later" => {
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
                ("zz\r\n".into(), false)
            }
            "/garbage" => ("nonsense\r\n\r\n".into(), false),
            // Nothing else is answered on this connection, so none must be sent on it.
            "/too-early" => ("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(), false),
            "/switch" => (switch.into(), false),
            "/switch-and-cut" => (switch.into(), true),
            "/interim" => ("HTTP/1.1 103 Early Hints\r\n\r\n".into(), true),
            "/endless" => {
                let _ = io.write_all(length(1 << 40).as_bytes());
                while io.write_all(&[b'x'; 65536]).is_ok() {}
                return;
            }
            _ => {
                let _ = io.write_all(length(0).as_bytes());
                continue;
            }
        };
        if io.write_all(said.as_bytes()).is_err() || cut {
            return;
        }
        let _ = io.read_to_end(&mut Vec::new());
        return;
    }
}

/// Of HTTP/2: ends each stream in its own way, the first one never.
fn upstream_h2() -> u16 {
    frames::upstream(&[], |mut raw| {
        while let Some(f) = raw.next() {
            if f.kind != HEADERS {
                continue;
            }
            let head = frame(HEADERS, END_HEADERS, f.stream, OK);
            let reset = |code: u8| frame(RST_STREAM, 0, f.stream, &[0, 0, 0, code]);
            let said = match f.stream {
                1 => head,
                3 => reset(2),
                5 => [head, frame(DATA, 0, f.stream, b"hello"), reset(2)].concat(),
                7 => frame(HEADERS, END_HEADERS, f.stream, &block(&[(":status", "200"), ("connection", "close")])),
                _ => frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]),
            };
            if raw.send(said).is_err() || f.stream > 7 {
                return;
            }
        }
    })
}

/// What is still under way by the gauges. Connections that are kept for the next request count where `idle`.
pub fn left(weir: &Weir, idle: bool) -> Vec<String> {
    let text = weir.admin("/stats/prometheus").body;
    let gauges: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" gauge")).collect();
    let counts = |name: &str| {
        let under_way = name.ends_with("_active") && !name.contains("manager") || name == "envoy_server_total_connections";
        under_way && (idle || !name.ends_with("upstream_cx_active")) && gauges.contains(&name)
    };
    let lines = text.lines().filter(|l| counts(l.split('{').next().unwrap_or_default()) && !l.ends_with(" 0"));
    lines.map(str::to_string).collect()
}

pub fn descriptors(weir: &Weir) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", weir.pid())).unwrap().count()
}

fn begin(weir: &Weir, head: &str) -> Connection {
    let mut c = Connection::open(weir.address()).unwrap();
    c.send(format!("{head}\r\n\r\n").replace('|', "\r\n")).unwrap();
    c
}

/// Sends a request, and waits until it is under way.
fn under_way(weir: &Weir, host: &str, line: &str) -> Connection {
    let c = begin(weir, &format!("{line} HTTP/1.1|host: {host}"));
    cluster_becomes(weir, host, "upstream_rq_active", 1);
    c
}

/// A stream of HTTP/2 that is under way.
fn stream(weir: &Weir, path: &str) -> Raw {
    let mut raw = Raw::open(weir.address());
    raw.send(frames::get(1, path)).unwrap();
    cluster_becomes(weir, "h.test", "upstream_rq_active", 1);
    raw
}

#[test]
fn nothing_stays_behind_whatever_ends_a_request() {
    let certificate = self_signed(&["tls.test"]);
    let tls = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: tls }\nspec:\n  selector: { istio: ingressgateway }\n  servers: [{ port: { number: $PORT2, name: https, protocol: HTTPS }, hosts: [tls.test], tls: { mode: SIMPLE, credentialName: tls } }]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: tls }\nspec:\n  hosts: [tls.test]\n  gateways: [tls]\n  http: [{ route: [{ destination: { host: h.test } }] }]\n";
    let none = "retries: { attempts: 0 }";
    let pool = "connectionPool: { http: { idleTimeout: 1s } }";
    let h2 = "connectionPool: { http: { idleTimeout: 1s, h2UpgradePolicy: UPGRADE } }";
    let weir = Mesh::new()
        .to("h.test", &["$UP"], none)
        .policy("h.test", pool)
        .to("one.test", &["$UP"], none)
        .policy("one.test", "connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 1, idleTimeout: 1s } }")
        .to("dead.test", &["$DEAD"], none)
        .to("again.test", &["$DEAD"], "retries: { attempts: 9, retryOn: connect-failure, backoff: 60s }")
        .to("late.test", &["$UP"], "timeout: 50ms\nretries: { attempts: 0 }")
        .policy("late.test", pool)
        .to("try.test", &["$UP"], "retries: { attempts: 2, perTryTimeout: 50ms, backoff: 1ms }")
        .policy("try.test", pool)
        .to("copy.test", &["$UP"], "mirrors: [{ destination: { host: h.test } }]\nretries: { attempts: 0 }")
        .policy("copy.test", pool)
        .to("fault.test", &["$UP"], "fault: { delay: { fixedDelay: 60s, percentage: { value: 100 } } }")
        .to("two.test", &["$TWO"], none)
        .policy("two.test", h2)
        .raw(tls)
        .start()
        .file("secret.yaml", secret("tls", &certificate))
        .word("UP", upstream())
        .word("TWO", upstream_h2())
        .word("DEAD", free_port())
        .run();
    let tls_port = SocketAddr::from(([127, 0, 0, 1], weir.ports[1]));
    let status = |c: &mut Connection| c.answer().unwrap().status;
    let get = |host: &str, path: &str| status(&mut begin(&weir, &format!("GET {path} HTTP/1.1|host: {host}")));
    let cut = |host: &str, path: &str| assert!(begin(&weir, &format!("GET {path} HTTP/1.1|host: {host}")).answer().is_err(), "{path}");
    // Once, so that what is made once is there.
    assert_eq!(get("h.test", "/"), 200);
    let before = descriptors(&weir);
    let table: &[(&str, &dyn Fn())] = &[
        ("no request", &|| drop(Connection::open(weir.address()).unwrap())),
        ("a part of a head", &|| drop(begin(&weir, "GET / HTTP/1.1|host: h.test|x: y").send("z"))),
        ("no request at all", &|| assert_eq!(status(&mut begin(&weir, "GET / HTTP/1.1|x y")), 400)),
        ("a head that is too long", &|| assert_eq!(status(&mut begin(&weir, &format!("GET /{} HTTP/1.1", "x".repeat(70_000)))), 431)),
        ("a client that leaves before the answer", &|| drop(under_way(&weir, "h.test", "GET /silent"))),
        ("a client that leaves within its body", &|| drop(under_way(&weir, "h.test", "POST /silent HTTP/1.1|content-length: 5|x:"))),
        ("a client that leaves within a chunk", &|| {
            let mut c = begin(&weir, "POST /silent HTTP/1.1|host: h.test|transfer-encoding: chunked");
            c.send("5\r\nab").unwrap();
            cluster_becomes(&weir, "h.test", "upstream_rq_active", 1);
        }),
        ("a chunk that is none", &|| {
            let mut c = begin(&weir, "POST /silent HTTP/1.1|host: h.test|transfer-encoding: chunked");
            c.send("zz\r\n").unwrap();
            assert_eq!(status(&mut c), 400);
        }),
        ("a client that is told to go on and leaves", &|| {
            let mut c = begin(&weir, "POST /silent HTTP/1.1|host: h.test|content-length: 5|expect: 100-continue");
            assert_eq!(c.head().unwrap().status, 100);
        }),
        ("a client that leaves within the answer", &|| {
            let mut c = under_way(&weir, "h.test", "GET /slow-body");
            assert_eq!(c.head().unwrap().status, 200);
        }),
        ("a client that leaves unread bytes", &|| {
            let mut c = under_way(&weir, "h.test", "GET /endless");
            c.bytes(100_000).unwrap();
        }),
        ("an upstream that cuts", &|| assert_eq!(get("h.test", "/cut"), 503)),
        ("an upstream that cuts behind an interim answer", &|| assert_eq!(get("h.test", "/interim"), 503)),
        ("an upstream that cuts within a head", &|| assert_eq!(get("h.test", "/part-of-a-head"), 502)),
        ("an upstream that cuts within a body", &|| cut("h.test", "/part-of-a-body")),
        ("an upstream's chunk that is none", &|| {
            let before = of_cluster(&weir, "h.test", "upstream_cx_protocol_error");
            assert_eq!(get("h.test", "/bad-chunk"), 502);
            cluster_becomes(&weir, "h.test", "upstream_cx_protocol_error", before + 1);
            // Cut, or an error where all of it came at once.
            let told = begin(&weir, "GET /bad-chunk-later HTTP/1.1|host: h.test").answer();
            assert!(told.as_ref().map_or(true, |a| a.status == 502), "{told:?}");
            cluster_becomes(&weir, "h.test", "upstream_cx_protocol_error", before + 2);
        }),
        ("an upstream that speaks something else", &|| assert_eq!(get("h.test", "/garbage"), 502)),
        ("an answer before the body", &|| {
            let mut c = begin(&weir, "POST /too-early HTTP/1.1|host: h.test|content-length: 100000");
            assert_eq!(status(&mut c), 413);
        }),
        ("nobody there", &|| assert_eq!(get("dead.test", "/"), 503)),
        ("a client that leaves while a retry waits", &|| {
            let c = begin(&weir, "GET / HTTP/1.1|host: again.test");
            eventually("a retry", || (of_cluster(&weir, "again.test", "upstream_rq_retry") >= 1).then_some(()));
            drop(c);
        }),
        ("a client that leaves while it is delayed", &|| {
            let c = begin(&weir, "GET / HTTP/1.1|host: fault.test");
            eventually("the request", || left(&weir, false).iter().any(|l| l.contains("downstream_rq_active")).then_some(()));
            drop(c);
        }),
        ("the route's time", &|| assert_eq!(get("late.test", "/silent"), 504)),
        ("the route's time within an answer", &|| {
            // An upstream that is slow to begin is answered for with a 504.
            eventually("an answer that is cut", || {
                let told = begin(&weir, "GET /slow-body HTTP/1.1|host: late.test").answer();
                assert!(told.as_ref().map_or(true, |a| a.status == 504), "{told:?}");
                told.is_err().then_some(())
            });
        }),
        ("the time of a try", &|| assert_eq!(get("try.test", "/silent"), 504)),
        ("a copy that fails", &|| assert_eq!(get("copy.test", "/cut"), 503)),
        ("no place", &|| {
            let _first = under_way(&weir, "one.test", "GET /silent");
            let waits = begin(&weir, "GET /silent HTTP/1.1|host: one.test");
            cluster_becomes(&weir, "one.test", "upstream_rq_pending_active", 1);
            assert_eq!(get("one.test", "/"), 503);
            drop(waits);
            cluster_becomes(&weir, "one.test", "upstream_rq_pending_active", 0);
        }),
        ("an upgrade that nobody asked for", &|| assert_eq!(get("h.test", "/switch"), 502)),
        ("an upgrade whose client leaves", &|| {
            let mut c = begin(&weir, "GET /switch HTTP/1.1|host: h.test|connection: upgrade|upgrade: x");
            assert_eq!(c.head().unwrap().status, 101);
            c.bytes(5).unwrap();
        }),
        ("an upgrade whose upstream leaves", &|| {
            let mut c = begin(&weir, "GET /switch-and-cut HTTP/1.1|host: h.test|connection: upgrade|upgrade: x");
            assert_eq!(c.head().unwrap().status, 101);
            c.bytes(5).unwrap();
        }),
        ("an upgrade that is refused", &|| {
            let mut c = begin(&weir, "GET /too-early HTTP/1.1|host: h.test|connection: upgrade|upgrade: x");
            assert_eq!(status(&mut c), 413);
        }),
        ("HTTP/2: a connection that is cut", &|| drop(stream(&weir, "/silent"))),
        ("HTTP/2: a stream that is reset", &|| {
            let mut raw = stream(&weir, "/silent");
            raw.send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).unwrap();
            cluster_becomes(&weir, "h.test", "upstream_rq_active", 0);
        }),
        ("HTTP/2: a stream that is reset within its answer", &|| {
            let mut raw = stream(&weir, "/endless");
            let first = raw.next_of(1);
            assert!(first.as_ref().is_some_and(|f| f.kind == HEADERS), "{first:?}");
            raw.send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).unwrap();
            cluster_becomes(&weir, "h.test", "upstream_rq_active", 0);
        }),
        ("HTTP/2: an answer that is cut", &|| {
            let mut raw = Raw::open(weir.address());
            raw.send(frames::get(1, "/part-of-a-body")).unwrap();
            while raw.next_of(1).is_some_and(|f| f.kind != RST_STREAM) {}
        }),
        ("HTTP/2: a part of a preface", &|| {
            TcpStream::connect(weir.address()).unwrap().write_all(&frames::PREFACE[..10]).unwrap();
        }),
        ("HTTP/2: no preface to the end", &|| {
            let mut io = TcpStream::connect(weir.address()).unwrap();
            io.write_all(frames::PREFACE).unwrap();
            io.write_all(b"nonsense nonsense").unwrap();
            let _ = io.read_to_end(&mut Vec::new());
        }),
        ("upstream HTTP/2", &|| {
            let mut held = begin(&weir, "GET / HTTP/1.1|host: two.test");
            assert_eq!(held.head().unwrap().status, 200);
            // Workers have a connection each, on which streams end differently.
            for _ in 0..10 {
                let _ = begin(&weir, "GET / HTTP/1.1|host: two.test").head();
            }
        }),
        ("TLS: no handshake", &|| drop(TcpStream::connect(tls_port).unwrap())),
        ("TLS: something else", &|| {
            let mut io = TcpStream::connect(tls_port).unwrap();
            io.write_all(b"GET / HTTP/1.1\r\nhost: tls.test\r\n\r\n").unwrap();
            let _ = io.read_to_end(&mut Vec::new());
        }),
        ("TLS: a part of a handshake", &|| {
            TcpStream::connect(tls_port).unwrap().write_all(&[22, 3, 1, 1, 0, 1, 0, 0]).unwrap();
        }),
    ];
    for (name, abort) in table {
        abort();
        let begun = std::time::Instant::now();
        while !left(&weir, false).is_empty() {
            assert!(begun.elapsed() < crate::harness::PATIENCE, "{name} leaves {:?}", left(&weir, false));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    // Connections to upstreams are kept for a second, and the admin listener's own come and go.
    eventually("connections to upstreams to be closed", || left(&weir, true).is_empty().then_some(()));
    eventually("descriptors to be given back", || (descriptors(&weir) <= before + 1).then_some(()));
    assert_eq!(get("one.test", "/"), 200);
}

/// What a burst of requests held is the system's again, also where nothing follows it.
#[test]
fn memory_comes_back_when_load_has_gone() {
    let retries = "retries: { attempts: 1, retryOn: 5xx }";
    let weir = Mesh::new()
        .to("h.test", &["$UP"], retries)
        .start()
        .word("UP", upstream())
        // How long free memory is kept; ten seconds else.
        .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:100".into())
        .run();
    drop(under_way(&weir, "h.test", "GET /silent"));
    let before = weir.resident_kb();
    let body = vec![b'x'; 900_000];
    let clients: Vec<Connection> = (0..60)
        .map(|_| {
            let mut c = begin(&weir, &format!("POST /silent HTTP/1.1|host: h.test|content-length: {}", body.len()));
            c.send(&body).unwrap();
            c
        })
        .collect();
    // All of it is held for another try.
    eventually("the bodies", || (weir.resident_kb() > before + 50_000).then_some(()));
    drop(clients);
    eventually("the memory to be given back", || (weir.resident_kb() < before + 15_000).then_some(()));
}
