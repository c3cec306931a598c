//! Every limit on what a client can make grow: it has a setting, it holds, and it says so in the log and in a counter.
use crate::{
    client::{self, Connection},
    harness::{Start, Weir, eventually, runtime},
    mesh::{FORMAT, Mesh, cluster_becomes, of_cluster, record},
    streams::h2c,
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// The sum of a counter over all connection managers or listeners.
fn counter(weir: &Weir, name: &str) -> u64 {
    let text = weir.admin(&format!("/stats?filter=\\.{name}$")).body;
    text.lines().filter_map(|l| l.rsplit(": ").next()?.parse::<u64>().ok()).sum()
}

#[track_caller]
fn becomes(weir: &Weir, name: &str, expected: u64) {
    eventually(&format!("{name} is {expected}, not {}", counter(weir, name)), || (counter(weir, name) >= expected).then_some(()));
    assert_eq!(counter(weir, name), expected, "{name}");
}

/// Settings under `downstream` of Higress' configuration.
fn settings(downstream: &str) -> String {
    settings_of("downstream", downstream)
}

fn settings_of(part: &str, settings: &str) -> String {
    let lines: String = settings.lines().map(|l| format!("      {}\n", l.trim())).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config, namespace: higress-system }}\ndata:\n  higress: |\n    {part}:\n{lines}"
    )
}

/// An upstream that answers each connection with the same bytes.
fn upstream_of(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let _ = io.read(&mut [0; 4096]);
                let _ = io.write_all(&answer);
                let _ = io.shutdown(std::net::Shutdown::Write);
                let _ = io.read(&mut [0; 4096]);
            });
        }
    });
    port
}

#[test]
fn heads_and_bodies_are_bounded() {
    let fields: String = (0..300).map(|i| format!("x-{i}: y\r\n")).collect();
    let many = upstream_of(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").into_bytes());
    let long = upstream_of(format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(90_000)).into_bytes());
    let weir = Mesh::new()
        .to("in.test", &["$ECHO"], "retries: { attempts: 3, retryOn: 5xx, backoff: 1ms }")
        .to("shadow.test", &["$ECHO"], "mirrors: [{ destination: { host: in.test } }]\nretries: { attempts: 0 }")
        .to("many.test", &["$MANY"], "retries: { attempts: 0 }")
        .to("long.test", &["$LONG"], "retries: { attempts: 0 }")
        .start()
        .file("settings.yaml", settings("maxRequestHeadersKb: 8\nmaxHeadersCount: 20\nconnectionBufferLimits: 16384"))
        .word("MANY", many)
        .word("LONG", long)
        .run();
    let get = |host: &str, headers: &[(&str, &str)]| client::request(weir.address(), "GET", host, "/", headers, b"").unwrap().status;
    // Bytes of a head, and its fields.
    let filler = "x".repeat(4_000);
    assert_eq!(get("in.test", &[("x-filler", &filler)]), 200);
    let filler = "x".repeat(9_000);
    assert_eq!(get("in.test", &[("x-filler", &filler)]), 431);
    becomes(&weir, "downstream_rq_headers_too_large", 1);
    let names: Vec<String> = (0..25).map(|i| format!("x-{i}")).collect();
    let some = |n: usize| names[..n].iter().map(|name| (name.as_str(), "y")).collect::<Vec<_>>();
    assert_eq!((get("in.test", &some(15)), get("in.test", &some(25))), (200, 431));
    becomes(&weir, "downstream_rq_headers_too_large", 2);
    let refused = eventually("the record", || weir.lines("code=431").first().cloned());
    assert!(refused.contains("flags=DPE "), "{refused}");
    // A body is held for another try up to the limit.
    let post =
        |host: &str, path: &str, bytes: usize| client::request(weir.address(), "POST", host, path, &[], &vec![b'x'; bytes]).unwrap().status;
    assert_eq!(post("in.test", "/flaky/a?fail=1", 12_000), 200);
    cluster_becomes(&weir, "in.test", "retry_or_shadow_abandoned", 0);
    assert_eq!(post("in.test", "/flaky/b?fail=1", 40_000), 503);
    record(&weir, "/flaky/b?fail=1", &["code=503", "attempts=1"]);
    cluster_becomes(&weir, "in.test", "retry_or_shadow_abandoned", 1);
    // And for a copy.
    assert_eq!((post("shadow.test", "/s", 12_000), post("shadow.test", "/s", 40_000)), (200, 200));
    cluster_becomes(&weir, "shadow.test", "retry_or_shadow_abandoned", 1);
    cluster_becomes(&weir, "in.test", "upstream_rq_mirror_total", 1);
    // What an upstream sends is bounded as well.
    for host in ["many.test", "long.test"] {
        assert_eq!(get(host, &[]), 502, "{host}");
        assert_eq!(of_cluster(&weir, host, "upstream_cx_protocol_error"), 1, "{host}");
    }
    let refused = eventually("the record", || weir.lines("code=502").first().cloned());
    assert!(refused.contains("flags=UPE ") && refused.contains("{protocol_error}"), "{refused}");
}

/// Over HTTP/1 and HTTP/2, while the gateway runs.
#[test]
fn heads_of_answers_are_bounded_as_set() {
    let weir = Mesh::new()
        .to("one.test", &["$ECHO"], "retries: { attempts: 0 }")
        .to("two.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("two.test", "connectionPool: { http: { h2UpgradePolicy: UPGRADE } }")
        .start()
        .run();
    // The upstream answers with as many headers of that length as it is asked for.
    let get = |host: &str, count: usize, length: usize| {
        let value = format!("x={}", "y".repeat(length));
        let asked: Vec<(&str, &str)> = (0..count).map(|_| ("x-echo-header", &*value)).collect();
        client::request(weir.address(), "GET", host, "/status/200", &asked, b"").unwrap().status
    };
    let both = |count: usize, length: usize, wanted: u16| {
        for host in ["one.test", "two.test"] {
            eventually(&format!("{count} headers of {length} to be {wanted} from {host}"), || {
                (get(host, count, length) == wanted).then_some(())
            });
        }
    };
    both(20, 300, 200);
    weir.write("settings.yaml", &settings_of("upstream", "maxResponseHeadersKb: 4"));
    both(20, 300, 502);
    assert_eq!((get("one.test", 20, 100), get("two.test", 20, 100)), (200, 200));
    weir.write("settings.yaml", &settings_of("upstream", "maxHeadersCount: 12"));
    both(20, 10, 502);
    assert_eq!((get("one.test", 8, 300), get("two.test", 8, 300)), (200, 200));
    let dump = weir.admin("/config_dump?resource=dynamic_active_clusters").body;
    assert!(dump.contains("\"max_headers_count\": 12") && dump.contains("\"max_response_headers_kb\": 80"), "{dump}");
    weir.remove("settings.yaml");
    both(20, 10, 200);
}

#[test]
fn long_heads_of_answers_pass_where_they_may() {
    let long = upstream_of(format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(250_000)).into_bytes());
    let weir = Mesh::new()
        .to("long.test", &["$LONG"], "retries: { attempts: 0 }")
        .start()
        .file("settings.yaml", settings_of("upstream", "maxResponseHeadersKb: 300"))
        .word("LONG", long)
        .run();
    let answer = client::get(weir.address(), "long.test", "/").unwrap();
    assert_eq!((answer.status, answer.header("x").map(str::len)), (200, Some(250_000)));
}

/// Each with a gateway of its own, so that no other limit ends what is held.
#[test]
fn time_and_requests_of_a_connection_are_bounded() {
    let start = |limits: &str| {
        Mesh::new().to("in.test", &["$ECHO"], "retries: { attempts: 0 }").start().file("settings.yaml", settings(limits)).run()
    };
    let weir = start("idleTimeout: 1");
    assert!(Connection::open(weir.address()).unwrap().is_closed());
    eventually("the idle connection is counted", || (counter(&weir, "downstream_cx_idle_timeout") >= 1).then_some(()));
    // All at once, as each takes its second.
    let weir = start("requestHeadersTimeout: 1\nrequestTimeout: 1\nstreamIdleTimeout: 1");
    let open = || Connection::open(weir.address()).unwrap();
    let mut head = open();
    head.send("GET /head HTTP/1.1\r\nhos").unwrap();
    let mut body = open();
    body.send("POST /body HTTP/1.1\r\nhost: in.test\r\ncontent-length: 5\r\n\r\na").unwrap();
    let mut silent = open();
    silent.send("GET /silent?delay=10m HTTP/1.1\r\nhost: in.test\r\n\r\n").unwrap();
    assert_eq!(head.answer().unwrap().status, 408);
    assert_eq!(body.answer().unwrap().status, 408);
    assert_eq!(silent.answer().unwrap().status, 504);
    for (name, n) in [("downstream_rq_header_timeout", 1), ("downstream_rq_timeout", 1), ("downstream_rq_idle_timeout", 1)] {
        becomes(&weir, name, n);
    }
    record(&weir, "/body", &["code=408", "details=request_overall_timeout"]);
    record(&weir, "/silent?delay=10m", &["code=504", "flags=SI", "details=stream_idle_timeout"]);
    // Requests on one connection.
    let weir = start("maxRequestsPerConnection: 3");
    let mut c = Connection::open(weir.address()).unwrap();
    for i in 1..=3 {
        let a = c.request("GET", "in.test", "/status/200", &[], b"").unwrap();
        assert_eq!(a.header("connection") == Some("close"), i == 3, "{i}: {a:?}");
    }
    assert!(c.is_closed());
    becomes(&weir, "downstream_cx_max_requests_reached", 1);
}

#[test]
fn connections_are_bounded_per_listener_and_for_all() {
    let mesh = || Mesh::new().to("in.test", &["$ECHO"], "").text();
    let serves = |to| client::get(to, "in.test", "/status/200").is_ok_and(|a| a.status == 200);
    for (of_all, counted) in [(false, "downstream_cx_overflow"), (true, "downstream_global_cx_overflow")] {
        let mut start = Start::new().file("mesh.yaml", mesh()).arg("--access-log-format").arg(FORMAT);
        start = match of_all {
            true => start.arg("--max-connections").arg("2"),
            false => start.file("settings.yaml", settings("maxConnections: 2")),
        };
        let weir = start.run();
        let to = weir.address();
        let mut held: Vec<Connection> = (0..2).map(|_| Connection::open(to).unwrap()).collect();
        for c in &mut held {
            assert_eq!(c.request("GET", "in.test", "/status/200", &[], b"").unwrap().status, 200);
        }
        // One too many is closed without a word, and the others go on.
        let mut more = TcpStream::connect(to).unwrap();
        more.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(more.read(&mut [0; 16]), Ok(0) | Err(_)), "{counted}");
        eventually(counted, || (counter(&weir, counted) >= 1).then_some(()));
        assert_eq!(held[0].request("GET", "in.test", "/status/200", &[], b"").unwrap().status, 200);
        // Room again.
        drop(held.pop());
        eventually("a place is free", || serves(to).then_some(()));
    }
}

/// What waits for one cluster; the limits of [`crate::traffic`] in a row, with what their gauges say meanwhile.
#[test]
fn what_a_cluster_holds_is_bounded_and_told() {
    let weir = Mesh::new()
        .to("in.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("in.test", "connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 2 } }")
        .start()
        .run();
    let begin = |path: &str| {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(format!("GET {path} HTTP/1.1\r\nhost: in.test\r\n\r\n")).unwrap();
        c
    };
    let first = begin("/first?delay=10m");
    cluster_becomes(&weir, "in.test", "upstream_cx_active", 1);
    let mut waiting = [begin("/a"), begin("/b")];
    cluster_becomes(&weir, "in.test", "upstream_rq_pending_active", 2);
    for path in ["/c", "/d"] {
        assert_eq!(weir.get("in.test", path).status, 503, "{path}");
        record(&weir, path, &["flags=UO"]);
    }
    cluster_becomes(&weir, "in.test", "upstream_rq_pending_overflow", 2);
    let told = weir.admin("/clusters?format=json").body;
    assert!(told.contains("max_pending_requests"), "{told}");
    // It leaves, and its connection with it: those that wait get another.
    drop(first);
    assert!(waiting.iter_mut().all(|c| c.answer().unwrap().status == 200));
    cluster_becomes(&weir, "in.test", "upstream_rq_pending_active", 0);
}

#[test]
fn interim_responses_are_bounded() {
    let interim = upstream_of(
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(2).into_bytes().into_iter().chain(*b"HTTP/1.1 204 No Content\r\n\r\n").collect(),
    );
    let weir = Mesh::new().to("in.test", &["$UP"], "retries: { attempts: 0 }").start().word("UP", interim).run();
    let status = || client::get(weir.address(), "in.test", "/").map_or(0, |a| a.status);
    assert_eq!(status(), 204);
    for (most, wanted) in [(1, 502), (2, 204), (0, 502)] {
        weir.write("settings.yaml", &settings_of("upstream", &format!("maxInterimResponses: {most}")));
        eventually(&format!("{wanted} with at most {most}"), || (status() == wanted).then_some(()));
    }
    assert!(of_cluster(&weir, "in.test", "upstream_cx_protocol_error") >= 2);
}

#[test]
fn clients_that_do_not_read_or_close_are_bounded() {
    let large = format!("- directResponse: {{ status: 200, body: {{ string: {} }} }}", "x".repeat(200_000));
    let weir = Mesh::new()
        .routes("'large.test'", &large)
        .start()
        .file("settings.yaml", settings("streamFlushTimeout: 300ms\ndelayedCloseTimeout: 300ms"))
        .run();
    // A response that closes the connection, since the client has not sent its body.
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("POST / HTTP/1.1\r\nhost: none.test\r\ncontent-length: 100\r\n\r\na").unwrap();
    let answer = c.answer().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    becomes(&weir, "downstream_cx_delayed_close_timeout", 1);
    // A window of HTTP/2 that is full and stays so.
    runtime().block_on(async {
        let mut client = h2c(weir.address()).await.ready().await.unwrap();
        let request = http::Request::get("http://large.test/").body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.data().await {}
        becomes(&weir, "downstream_rq_flush_timeout", 1);
    });
}
