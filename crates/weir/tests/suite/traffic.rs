//! Traffic policy from YAML: retries, timeouts, ejection, limits, mirrors, CORS, faults, splits and answers without an
//! upstream; what the client sees, what the access log says and what is counted.
use crate::{
    client::{self, Connection},
    harness::{Weir, eventually, free_port},
    mesh::{Mesh, cluster_becomes, name, of_cluster, record, records},
};
use std::{
    collections::HashMap,
    net::TcpListener,
    time::{Duration, Instant},
};

/// A request of some header, on a connection of its own.
fn get(weir: &Weir, host: &str, path: &str, headers: &[(&str, &str)]) -> client::Answer {
    client::request(weir.address(), "GET", host, path, headers, b"").unwrap_or_else(|e| panic!("{path}: {e}: {}", weir.printed()))
}

/// A request that is under way until its last byte is sent.
fn hold(weir: &Weir, host: &str) -> Connection {
    let mut c = Connection::open(weir.address()).unwrap();
    c.send(format!("POST /stream HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1\r\n\r\n")).unwrap();
    c
}

/// The status of its answer.
fn let_go(mut held: Connection) -> u16 {
    held.send("x").unwrap();
    held.answer().unwrap().status
}

/// Sends a request without waiting for its answer.
fn begin(weir: &Weir, host: &str, path: &str, headers: &str) -> Connection {
    let mut c = Connection::open(weir.address()).unwrap();
    c.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n")).unwrap();
    c
}

#[test]
fn what_fails_is_tried_again_as_the_route_says() {
    let dead = free_port().to_string();
    let retries = |attempts: u32, on: &str| format!("retries: {{ attempts: {attempts}, retryOn: '{on}', backoff: 1ms }}");
    let weir = Mesh::new()
        .to("server.test", &["$ECHO"], &retries(3, "5xx"))
        .to("codes.test", &["$ECHO"], &retries(2, "retriable-status-codes,418"))
        .to("gateway.test", &["$ECHO"], &retries(2, "gateway-error"))
        .to("reset.test", &["$ECHO"], &retries(2, "reset"))
        .to("connect.test", &["$DEAD"], &retries(2, "connect-failure"))
        .to("other.test", &["$ECHO", "$DEAD"], &retries(5, "connect-failure"))
        .to("none.test", &["$ECHO"], "retries: { attempts: 0 }")
        .to("body.test", &["$ECHO"], &retries(20, "5xx"))
        .to("budget.test", &["$ECHO"], &retries(5, "5xx"))
        .policy("budget.test", "retryBudget: { percent: 0, minRetryConcurrency: 0 }")
        .to("breaker.test", &["$ECHO"], &retries(5, "5xx"))
        .policy("breaker.test", "connectionPool: { http: { maxRetries: 1 } }")
        .to("lost.test", &["$ECHO"], &retries(4, "reset"))
        .policy("lost.test", "connectionPool: { http: { maxRetries: 1 } }")
        .start()
        .word("DEAD", dead)
        .run();
    // Host, path, what is answered, with which flags, after how many tries; what the cluster counted of retries.
    type Row = (&'static str, &'static str, u16, &'static str, u32, &'static [(&'static str, u64)]);
    let table: &[Row] = &[
        (
            "server.test",
            "/flaky/a?fail=2",
            200,
            "-",
            3,
            &[("upstream_rq_retry", 2), ("upstream_rq_retry_success", 1), ("upstream_rq_200", 1)],
        ),
        (
            "server.test",
            "/flaky/b?fail=9",
            503,
            "URX",
            4,
            &[("upstream_rq_retry_limit_exceeded", 1), ("upstream_rq_503", 1), ("upstream_rq_5xx", 1)],
        ),
        ("server.test", "/status/404", 404, "-", 1, &[("upstream_rq_404", 1)]),
        ("codes.test", "/flaky/c?fail=1&status=418", 200, "-", 2, &[("upstream_rq_retry_success", 1)]),
        ("codes.test", "/flaky/d?fail=1&status=503", 503, "-", 1, &[]),
        ("gateway.test", "/flaky/e?fail=1&status=500", 500, "-", 1, &[("upstream_rq_retry", 0)]),
        ("gateway.test", "/flaky/f?fail=1&status=502", 200, "-", 2, &[("upstream_rq_retry", 1)]),
        ("reset.test", "/reset", 503, "URX,UC", 3, &[("upstream_rq_rx_reset", 3), ("upstream_rq_retry_limit_exceeded", 1)]),
        (
            "connect.test",
            "/dead",
            503,
            "UF,URX",
            3,
            &[("upstream_cx_connect_fail", 3), ("upstream_rq_pending_failure_eject", 3), ("upstream_rq_503", 1)],
        ),
        ("none.test", "/flaky/g?fail=1", 503, "-", 1, &[("upstream_rq_retry", 0)]),
        ("budget.test", "/flaky/h?fail=1", 503, "UO", 1, &[("upstream_rq_retry_overflow", 1)]),
        // One retry at a time is not one retry in all.
        ("breaker.test", "/flaky/i?fail=2", 200, "-", 3, &[("upstream_rq_retry", 2)]),
        ("lost.test", "/reset?lost", 503, "URX,UC", 5, &[("upstream_rq_retry", 4), ("upstream_rq_retry_overflow", 0)]),
    ];
    for (host, path, status, flags, attempts, counted) in table {
        assert_eq!(weir.get(host, path).status, *status, "{host}{path}");
        record(&weir, path, &[&format!("code={status}"), &format!("flags={flags}"), &format!("attempts={attempts}")]);
        for (stat, expected) in *counted {
            assert_eq!(of_cluster(&weir, host, stat), *expected, "{host}: {stat}");
        }
    }
    // The upstream sees the number of the attempt, and a retry goes to another host.
    let told = get(&weir, "server.test", "/told", &[]).json();
    assert_eq!(told["headers"]["x-envoy-attempt-count"], "1");
    for i in 0..10 {
        assert_eq!(weir.get("other.test", &format!("/other/{i}")).status, 200);
    }
    // A request with a body is sent again whole.
    let again = client::request(weir.address(), "POST", "server.test", "/flaky/j?fail=2", &[], b"abc").unwrap();
    assert_eq!((again.status, again.body.as_str()), (200, "succeeded after 3\n"));
    // Also one beyond what a first write holds. (The upstream closes on what it does not read, so a try more may be lost.)
    let large = client::request(weir.address(), "POST", "body.test", "/flaky/k?fail=1", &[], &[b'x'; 200_000]).unwrap();
    assert_eq!(large.status, 200);
    assert!(!record(&weir, "/flaky/k?fail=1", &["code=200"]).contains("attempts=1 "));
}

#[test]
fn a_retry_waits_its_back_off() {
    let weir = Mesh::new()
        .to("slow.test", &["$ECHO"], "retries: { attempts: 1, retryOn: 5xx, backoff: 2s }\ntimeout: 60s")
        .to("late.test", &["$ECHO"], "retries: { attempts: 9, retryOn: 5xx, backoff: 60s }\ntimeout: 300ms")
        .start()
        .run();
    // With full jitter a single pause may be nearly nothing; not several.
    let began = Instant::now();
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let to = weir.address();
            std::thread::spawn(move || client::get(to, "slow.test", &format!("/flaky/{i}?fail=1")).unwrap().status)
        })
        .collect();
    assert!(threads.into_iter().all(|t| t.join().unwrap() == 200));
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    // A pause beyond the route's time is not begun, or ends with it.
    assert_eq!(weir.get("late.test", "/flaky/z?fail=9").status, 504);
    record(&weir, "/flaky/z?fail=9", &["code=504", "flags=UT", "details=response_timeout"]);
    cluster_becomes(&weir, "late.test", "upstream_rq_timeout", 1);
    // Clients that leave in the pause are seen to.
    let c = begin(&weir, "late.test", "/flaky/y?fail=9", "");
    drop(c);
    records(&weir, "/flaky/y?fail=9", 1);
}

#[test]
fn time_is_limited_for_routes_tries_and_silence() {
    let weir = Mesh::new()
        .to("route.test", &["$ECHO"], "timeout: 300ms")
        .to("try.test", &["$ECHO"], "retries: { attempts: 2, perTryTimeout: 200ms, retryOn: '5xx,reset', backoff: 1ms }\ntimeout: 20s")
        .to("once.test", &["$ECHO"], "retries: { attempts: 1, perTryTimeout: 100ms, retryOn: 'retriable-4xx' }")
        .to("none.test", &["$ECHO"], "timeout: 0s")
        .to("later.test", &["$ECHO"], "timeout: 5s")
        .start()
        .run();
    type Row = (&'static str, &'static str, &'static str, &'static str, u32, &'static [(&'static str, u64)]);
    let table: &[Row] = &[
        (
            "route.test",
            "/r?delay=60s",
            "UT",
            "response_timeout",
            1,
            &[("upstream_rq_timeout", 1), ("upstream_rq_504", 1), ("upstream_rq_tx_reset", 1)],
        ),
        (
            "try.test",
            "/t?delay=60s",
            "UT,URX",
            "upstream_per_try_timeout",
            3,
            &[("upstream_rq_per_try_timeout", 3), ("upstream_rq_timeout", 0)],
        ),
        ("once.test", "/o?delay=60s", "UT", "upstream_per_try_timeout", 1, &[("upstream_rq_per_try_timeout", 1)]),
    ];
    for (host, path, flags, details, attempts, counted) in table {
        let began = Instant::now();
        let answer = weir.get(host, path);
        assert_eq!((answer.status, answer.body.as_str()), (504, "gateway timeout"), "{host}");
        assert!(began.elapsed() < Duration::from_secs(30), "{host}: {:?}", began.elapsed());
        let flags = flags.split(',').map(|f| f.to_string()).collect::<Vec<_>>();
        let line = record(&weir, path, &["code=504", &format!("details={details}"), &format!("attempts={attempts}")]);
        assert!(flags.iter().all(|f| line.contains(f)), "{line}");
        for (stat, expected) in *counted {
            assert_eq!(of_cluster(&weir, host, stat), *expected, "{host}: {stat}");
        }
    }
    assert_eq!(weir.get("none.test", "/n?delay=600ms").status, 200);
    // An answer that has begun breaks off, visibly.
    let mut events = begin(&weir, "later.test", "/sse?n=600&every=100ms", "");
    assert_eq!(events.head().unwrap().status, 200);
    // The route's time begins with the end of the request, as Envoy's.
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("POST /upload HTTP/1.1\r\nhost: later.test\r\ncontent-length: 6\r\n\r\nabc").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    c.send("def").unwrap();
    assert_eq!(c.answer().unwrap().json()["body"], "abcdef");
    while let Ok(Some(_)) = events.chunk() {}
    record(&weir, "/sse?n=600&every=100ms", &["code=200", "flags=UT", "details=response_timeout"]);
    cluster_becomes(&weir, "later.test", "upstream_rq_timeout", 1);
}

#[test]
fn endpoints_that_fail_are_left_out_for_a_while() {
    let weir = Mesh::new()
        .to("five.test", &["$ECHO", "$ECHO2"], "retries: { attempts: 0 }")
        .policy("five.test", "loadBalancer: { simple: ROUND_ROBIN }\noutlierDetection: { consecutive5xxErrors: 3, interval: 50ms, baseEjectionTime: 1h, maxEjectionPercent: 100 }")
        .to("back.test", &["$ECHO", "$ECHO2"], "retries: { attempts: 0 }")
        .policy("back.test", "loadBalancer: { simple: ROUND_ROBIN }\noutlierDetection: { consecutive5xxErrors: 3, interval: 50ms, baseEjectionTime: 1s, maxEjectionPercent: 100 }")
        .to("gateway.test", &["$ECHO", "$ECHO2"], "retries: { attempts: 0 }")
        .policy("gateway.test", "loadBalancer: { simple: ROUND_ROBIN }\noutlierDetection: { consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 50 }")
        .to("local.test", &["$DEAD"], "retries: { attempts: 0 }")
        .policy("local.test", "outlierDetection: { splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100 }")
        .start()
        .word("DEAD", free_port())
        .upstreams(2)
        .run();
    // Requests choose their fate by the upstream that they meet: `fail` makes it answer 500.
    let ejected = |host| of_cluster(&weir, host, "outlier_detection.ejections_active");
    let total = |host| of_cluster(&weir, host, "outlier_detection.ejections_enforced_total");
    for _ in 0..12 {
        weir.get("five.test", "/status/500");
        if ejected("five.test") == 2 {
            break;
        }
    }
    assert_eq!((total("five.test"), of_cluster(&weir, "five.test", "outlier_detection.ejections_enforced_consecutive_5xx")), (2, 2));
    cluster_becomes(&weir, "five.test", "membership_healthy", 0);
    assert_eq!(weir.get("five.test", "/all-out").status, 503);
    record(&weir, "/all-out", &["code=503", "flags=UH", "details=no_healthy_upstream"]);
    assert!(of_cluster(&weir, "five.test", "upstream_cx_none_healthy") > 0);
    // After their time they are back.
    eventually("two ejections", || {
        weir.get("back.test", "/status/500");
        (total("back.test") >= 2).then_some(())
    });
    let back = weir.get_until("back.test", "/back", |a| a.status == 200);
    assert!(["echo", "echo2"].contains(&name(&back).as_str()));
    eventually("both are back", || (ejected("back.test") == 0).then_some(()));
    assert_eq!(ejected("five.test"), 2);
    // 500 is no gateway error; one of two may be ejected at most.
    for status in [500, 502] {
        for _ in 0..12 {
            weir.get("gateway.test", &format!("/status/{status}"));
        }
        assert_eq!(ejected("gateway.test"), u64::from(status == 502), "{status}");
    }
    assert!(of_cluster(&weir, "gateway.test", "outlier_detection.ejections_overflow") > 0);
    let left: Vec<String> = (0..6).map(|_| name(&weir.get("gateway.test", "/left"))).collect();
    assert!(left.iter().all(|n| *n == left[0]), "{left:?}");
    // Failures to connect.
    for path in ["/l1", "/l2", "/l3"] {
        assert_eq!(weir.get("local.test", path).status, 503);
    }
    record(&weir, "/l1", &["flags=UF", "details=upstream_reset_before_response_started{connection_failure}"]);
    record(&weir, "/l3", &["flags=UH"]);
    cluster_becomes(&weir, "local.test", "outlier_detection.ejections_enforced_consecutive_local_origin_failure", 1);
    assert!(weir.admin("/clusters").body.contains("local.test"));
}

#[test]
fn limits_of_a_cluster_refuse_what_is_beyond_them() {
    let weir = Mesh::new()
        .to("requests.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("requests.test", "connectionPool: { http: { http2MaxRequests: 1 } }")
        .to("pending.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("pending.test", "connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 1 } }")
        .to("queue.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("queue.test", "connectionPool: { tcp: { maxConnections: 2, connectTimeout: 200ms } }")
        .to("hosts.test", &["$ECHO", "$ECHO2", "$ECHO3"], "retries: { attempts: 0 }")
        .policy("hosts.test", "loadBalancer: { simple: ROUND_ROBIN }\nconnectionPool: { tcp: { maxConnections: 1 } }")
        .to("short.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("short.test", "connectionPool: { http: { maxRequestsPerConnection: 2 } }")
        .to("wait.test", &["$ECHO"], "retries: { attempts: 0 }\ntimeout: 60s")
        .policy("wait.test", "connectionPool: { tcp: { maxConnections: 1 } }")
        .start()
        .upstreams(3)
        .run();
    // Requests at once.
    let held = hold(&weir, "requests.test");
    cluster_becomes(&weir, "requests.test", "upstream_rq_active", 1);
    let refused = weir.get("requests.test", "/refused");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")));
    record(&weir, "/refused", &["code=503", "flags=UO", "details=upstream_reset_before_response_started{overflow}"]);
    cluster_becomes(&weir, "requests.test", "upstream_rq_pending_overflow", 1);
    assert_eq!(let_go(held), 200);
    weir.get_until("requests.test", "/after", |a| a.status == 200);
    // One connection, one request that waits for it, and no third. The one that waits gets the connection.
    let first = hold(&weir, "pending.test");
    cluster_becomes(&weir, "pending.test", "upstream_cx_active", 1);
    let mut second = begin(&weir, "pending.test", "/second", "");
    cluster_becomes(&weir, "pending.test", "upstream_rq_pending_active", 1);
    cluster_becomes(&weir, "pending.test", "upstream_cx_overflow", 1);
    assert_eq!(weir.get("pending.test", "/third").status, 503);
    record(&weir, "/third", &["flags=UO"]);
    assert_eq!((let_go(first), second.answer().unwrap().status), (200, 200));
    cluster_becomes(&weir, "pending.test", "upstream_rq_pending_active", 0);
    // Many wait for two connections, on all workers, longer than connecting may take; all are served.
    let (to, began) = (weir.address(), Instant::now());
    let all: Vec<_> =
        (0..16).map(|i| std::thread::spawn(move || client::get(to, "queue.test", &format!("/{i}?delay=100ms")).unwrap().status)).collect();
    assert!(all.into_iter().all(|t| t.join().unwrap() == 200), "{}", weir.printed());
    assert!(began.elapsed() > Duration::from_millis(700), "never more than two at once: {:?}", began.elapsed());
    assert!(of_cluster(&weir, "queue.test", "upstream_cx_active") <= 2);
    // An idle connection to one host makes room for one to another, whichever worker has it.
    for i in 0..12 {
        assert_eq!(weir.get("hosts.test", &format!("/{i}")).status, 200);
    }
    cluster_becomes(&weir, "hosts.test", "upstream_cx_active", 1);
    // A connection is closed after its most requests.
    let mut c = Connection::open(weir.address()).unwrap();
    let told: Vec<u64> =
        (0..4).map(|_| c.request("GET", "short.test", "/", &[], b"").unwrap().json()["connection"].as_u64().unwrap()).collect();
    assert!(told[0] == told[1] && told[1] != told[2] && told[2] == told[3], "{told:?}");
    cluster_becomes(&weir, "short.test", "upstream_cx_max_requests", 2);
    cluster_becomes(&weir, "short.test", "upstream_cx_destroy_local", 2);
    // Who waits for a connection may go away.
    let _holds = hold(&weir, "wait.test");
    cluster_becomes(&weir, "wait.test", "upstream_cx_active", 1);
    drop(begin(&weir, "wait.test", "/leaves", ""));
    record(&weir, "/leaves", &["code=0", "flags=DC"]);
    assert!(of_cluster(&weir, "wait.test", "upstream_rq_cancelled") >= 1);
}

#[test]
fn upstream_connections_and_answers_are_counted() {
    let weir = Mesh::new()
        .to("count.test", &["$ECHO"], "retries: { attempts: 0 }")
        .to("dead.test", &["$DEAD"], "retries: { attempts: 0 }")
        .start()
        .word("DEAD", free_port())
        .run();
    let mut c = Connection::open(weir.address()).unwrap();
    for (path, status) in
        [("/a", 200), ("/status/201", 201), ("/status/302", 302), ("/status/404", 404), ("/status/404", 404), ("/status/500", 500)]
    {
        assert_eq!(c.request("GET", "count.test", path, &[], b"").unwrap().status, status);
    }
    let expected = [
        ("upstream_cx_total", 1),
        ("upstream_cx_active", 1),
        ("upstream_cx_http1_total", 1),
        ("upstream_cx_destroy", 0),
        ("upstream_rq_total", 6),
        ("upstream_rq_active", 0),
        ("upstream_rq_pending_total", 1),
        ("upstream_rq_completed", 6),
        ("upstream_rq_200", 1),
        ("upstream_rq_201", 1),
        ("upstream_rq_302", 1),
        ("upstream_rq_404", 2),
        ("upstream_rq_500", 1),
        ("upstream_rq_2xx", 2),
        ("upstream_rq_3xx", 1),
        ("upstream_rq_4xx", 2),
        ("upstream_rq_5xx", 1),
    ];
    for (stat, n) in expected {
        cluster_becomes(&weir, "count.test", stat, n);
    }
    for (stat, n) in [
        ("downstream_rq_2xx", 2),
        ("downstream_rq_3xx", 1),
        ("downstream_rq_4xx", 2),
        ("downstream_rq_5xx", 1),
        ("downstream_rq_completed", 6),
    ] {
        eventually(&format!("{stat} is {n}"), || {
            weir.admin(&format!("/stats?filter=http\\..*{stat}")).body.trim_end().ends_with(&format!("{stat}: {n}")).then_some(())
        });
    }
    eventually("the last time is recorded", || {
        let line = "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"outbound|80||count.test\"} 6";
        weir.admin("/stats/prometheus").body.contains(line).then_some(())
    });
    let prometheus = weir.admin("/stats/prometheus").body;
    for line in [
        "envoy_cluster_upstream_rq{envoy_response_code=\"404\",envoy_cluster_name=\"outbound|80||count.test\"} 2",
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"outbound|80||count.test\"} 2",
        "envoy_cluster_upstream_cx_connect_ms_count{envoy_cluster_name=\"outbound|80||count.test\"} 1",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"outbound|80||count.test\"} 6",
    ] {
        assert!(prometheus.contains(line), "no {line} in {prometheus}");
    }
    // The upstream's time, not the client's: the answer is slow, and then the request.
    c.request("GET", "count.test", "/?delay=300ms", &[], b"").unwrap();
    c.send("POST / HTTP/1.1\r\nhost: count.test\r\ncontent-length: 2\r\n\r\na").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    c.send("b").unwrap();
    let answer = c.answer().unwrap();
    let took: u64 = answer.header("x-envoy-upstream-service-time").unwrap().parse().unwrap();
    assert!(took < 5000, "{answer:?}");
    let line = weir.admin("/stats?filter=count.test.upstream_rq_time$").body;
    let slowest: f64 = line.rsplit("P100(nan,").next().unwrap().trim_end().trim_end_matches(')').parse().unwrap();
    assert!((250.0..5500.0).contains(&slowest), "{line}");
    // Connections that the upstream closes (a reused one is tried again), and connections that are never established.
    c.request("GET", "count.test", "/reset", &[], b"").unwrap();
    cluster_becomes(&weir, "count.test", "upstream_cx_destroy_remote", 2);
    cluster_becomes(&weir, "count.test", "upstream_cx_destroy_with_active_rq", 2);
    assert_eq!(weir.get("dead.test", "/x").status, 503);
    for (stat, n) in [("upstream_cx_connect_fail", 1), ("upstream_cx_total", 1), ("upstream_cx_active", 0), ("upstream_rq_503", 1)] {
        cluster_becomes(&weir, "dead.test", stat, n);
    }
    let line = record(&weir, "/x", &["flags=UF"]);
    assert!(line.contains("refused"), "{line}");
}

#[test]
fn mirrors_get_their_share_of_copies() {
    let weir = Mesh::new()
        .upstream("main.up", &["$ECHO"])
        .upstream("all.up", &["$ECHO2"])
        .upstream("half.up", &["$ECHO3"])
        .routes(
            "mirror.test",
            "- route: [{ destination: { host: main.up } }]\n  mirrors:\n  - { destination: { host: all.up } }\n  - { destination: { host: half.up }, percentage: { value: 50 } }\n",
        )
        .start()
        .upstreams(3)
        .run();
    const N: u64 = 600;
    let mut c = Connection::open(weir.address()).unwrap();
    for i in 0..N {
        let body: &[u8] = if i % 2 == 0 { b"" } else { b"a body" };
        assert_eq!(c.request(if i % 2 == 0 { "GET" } else { "POST" }, "mirror.test", "/m", &[], body).unwrap().json()["name"], "echo");
    }
    let total = |host| of_cluster(&weir, host, "upstream_rq_mirror_total");
    cluster_becomes(&weir, "all.up", "upstream_rq_mirror_total", N);
    assert_eq!(total("main.up"), 0);
    assert!((N * 40 / 100..N * 60 / 100).contains(&total("half.up")), "{}", total("half.up"));
    eventually("all copies are answered", || (of_cluster(&weir, "all.up", "upstream_rq_200") == N).then_some(()));
    eventually("none is under way", || (of_cluster(&weir, "half.up", "upstream_rq_active") == 0).then_some(()));
    assert_eq!(of_cluster(&weir, "main.up", "upstream_rq_200"), N);
}

#[test]
fn cross_origin_requests() {
    let cors = |more: &str| {
        format!(
            "corsPolicy:\n  allowOrigins: [{{ exact: 'https://a.test' }}, {{ regex: 'https://.*\\.b\\.test' }}]\n  allowMethods: [GET, PUT]\n  allowHeaders: [x-one]\n  exposeHeaders: [x-two]\n  maxAge: 10m\n{more}"
        )
    };
    let weir = Mesh::new()
        .to("cors.test", &["$ECHO"], &cors(""))
        .to("credentials.test", &["$ECHO"], &cors("  allowCredentials: true\n"))
        .to("strict.test", &["$ECHO"], &cors("  unmatchedPreflights: IGNORE\n"))
        .start()
        .run();
    let preflight = |host, origin| {
        let headers = [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-one")];
        client::request(weir.address(), "OPTIONS", host, "/p", &headers, b"").unwrap()
    };
    let allow = |a: &client::Answer| a.header("access-control-allow-origin").map(str::to_string);
    // Host, origin, whether the gateway answers, whether it allows.
    for (host, origin, own, allowed) in [
        ("cors.test", "https://a.test", true, true),
        ("cors.test", "https://x.b.test", true, true),
        ("cors.test", "https://evil.test", false, false),
        ("cors.test", "https://a.test.evil", false, false),
        ("strict.test", "https://evil.test", true, false),
        ("strict.test", "https://a.test", true, true),
    ] {
        let a = preflight(host, origin);
        assert_eq!((a.status, a.body.is_empty()), (200, own), "{host} {origin}: {a:?}");
        assert_eq!(allow(&a), allowed.then(|| origin.to_string()), "{host} {origin}");
        if allowed {
            let of = |n: &str| a.header(n).unwrap_or_default().replace(' ', "");
            assert_eq!(
                (of("access-control-allow-methods"), of("access-control-allow-headers"), of("access-control-max-age")),
                ("GET,PUT".into(), "x-one".into(), "600".into())
            );
        }
    }
    assert_eq!(preflight("credentials.test", "https://a.test").header("access-control-allow-credentials"), Some("true"));
    // The request itself.
    let a = get(&weir, "cors.test", "/", &[("origin", "https://a.test")]);
    assert_eq!((allow(&a).as_deref(), a.header("access-control-expose-headers")), (Some("https://a.test"), Some("x-two")));
    assert!(a.json()["headers"]["origin"].is_string());
    assert_eq!(allow(&get(&weir, "cors.test", "/", &[("origin", "https://evil.test")])), None);
    let own = records(&weir, "/p", 7).iter().filter(|l| l.contains("details=cors_preflight ")).count();
    assert_eq!(own, 5);
}

#[test]
fn faults_are_injected_by_their_share() {
    let weir = Mesh::new()
        .to("abort.test", &["$ECHO"], "fault: { abort: { httpStatus: 418, percentage: { value: 20 } } }")
        .to("delay.test", &["$ECHO"], "fault: { delay: { fixedDelay: 300ms, percentage: { value: 100 } } }")
        .to(
            "both.test",
            &["$ECHO"],
            "fault: { delay: { fixedDelay: 50ms, percentage: { value: 100 } }, abort: { httpStatus: 503, percentage: { value: 100 } } }",
        )
        .to("grpc.test", &["$ECHO"], "fault: { abort: { grpcStatus: UNAVAILABLE, percentage: { value: 100 } } }")
        .to("long.test", &["$ECHO"], "fault: { delay: { fixedDelay: 1h, percentage: { value: 100 } } }")
        .start()
        .run();
    const N: usize = 2000;
    let mut c = Connection::open(weir.address()).unwrap();
    let aborted = (0..N).filter(|_| c.request("GET", "abort.test", "/status/200", &[], b"").unwrap().status == 418).count();
    // Six standard deviations.
    assert!((N * 20 / 100).abs_diff(aborted) < 108, "{aborted} of {N}");
    let began = Instant::now();
    assert_eq!(weir.get("delay.test", "/delayed").status, 200);
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    record(&weir, "/delayed", &["code=200", "flags=DI", "details=via_upstream"]);
    assert_eq!(weir.get("both.test", "/both").status, 503);
    record(&weir, "/both", &["code=503", "flags=DI,FI", "details=fault_filter_abort", "attempts=0"]);
    let a = client::request(weir.address(), "POST", "grpc.test", "/s/M", &[("content-type", "application/grpc")], b"").unwrap();
    assert_eq!((a.status, a.header("grpc-status")), (200, Some("14")));
    record(&weir, "/s/M", &["flags=FI"]);
    // Nothing waits for a client that has gone.
    drop(begin(&weir, "long.test", "/long", ""));
    record(&weir, "/long", &["code=0", "flags=DC,DI", "details=downstream_remote_disconnect"]);
}

#[test]
fn requests_are_split_by_weight_and_by_labels() {
    let weir = Mesh::new()
        .upstream("shop.up", &["$ECHO { version: v1 }", "$ECHO2 { version: v2 }", "$ECHO3 { version: v2 }"])
        .rule("shop.up", "subsets:\n- { name: v1, labels: { version: v1 } }\n- { name: v2, labels: { version: v2 } }\n- { name: v9, labels: { version: v9 } }")
        .routes(
            "split.test",
            "- match: [{ uri: { prefix: /v2 } }]\n  route: [{ destination: { host: shop.up, subset: v2 } }]\n\
             - match: [{ uri: { prefix: /v9 } }]\n  route: [{ destination: { host: shop.up, subset: v9 } }]\n\
             - match: [{ uri: { prefix: /gone } }]\n  route: [{ destination: { host: nowhere.up } }]\n\
             - route:\n  - { destination: { host: shop.up, subset: v1 }, weight: 80, headers: { response: { set: { x-side: left } } } }\n  - { destination: { host: shop.up, subset: v2 }, weight: 20 }\n",
        )
        .start()
        .upstreams(3)
        .run();
    const N: usize = 4000;
    let mut c = Connection::open(weir.address()).unwrap();
    let mut seen: HashMap<bool, usize> = HashMap::new();
    for _ in 0..N {
        *seen.entry(c.request("GET", "split.test", "/bytes/1", &[], b"").unwrap().header("x-side").is_some()).or_default() += 1;
    }
    // 3 %: nearly five standard deviations.
    assert!((N * 80 / 100).abs_diff(seen[&true]) < N * 3 / 100, "{seen:?}");
    let names: Vec<String> = (0..24).map(|_| name(&weir.get("split.test", "/v2"))).collect();
    assert!(["echo2", "echo3"].iter().all(|n| names.iter().any(|m| m == n)) && !names.contains(&"echo".into()), "{names:?}");
    for (path, flags) in [("/v9", "UH"), ("/gone", "NC")] {
        assert_eq!(weir.get("split.test", path).status, 503, "{path}");
        record(&weir, path, &["code=503", &format!("flags={flags}")]);
    }
    let total = |subset: &str| weir.stat(&format!("cluster.outbound|80|{subset}|shop.up.upstream_rq_total"));
    assert_eq!((total("v1"), total("v2")), (seen[&true] as u64, seen[&false] as u64 + 24));
}

#[test]
fn routes_answer_and_redirect_by_themselves() {
    let weir = Mesh::new()
        .routes(
            "self.test",
            "- match: [{ uri: { exact: /teapot } }]\n  directResponse: { status: 418, body: { string: short and stout } }\n\
             - match: [{ uri: { exact: /empty } }]\n  directResponse: { status: 503 }\n\
             - match: [{ uri: { prefix: /old } }]\n  redirect: { uri: /new, authority: other.test, redirectCode: 308 }\n\
             - match: [{ uri: { prefix: /secure } }]\n  redirect: { scheme: https, port: 8443 }\n",
        )
        .start()
        .run();
    // Path, status, location, body, details.
    for (path, status, location, body, details) in [
        ("/teapot", 418, None, "short and stout", "direct_response"),
        ("/empty", 503, None, "", "direct_response"),
        ("/old/a?q=1", 308, Some("http://other.test/new?q=1"), "", "direct_response"),
        ("/secure/x", 301, Some("https://self.test:8443/secure/x"), "", "direct_response"),
        ("/nothing", 404, None, "not found", "route_not_found"),
    ] {
        let a = weir.get("self.test", path);
        assert_eq!((a.status, a.header("location"), a.body.as_str()), (status, location, body), "{path}");
        let flags = if status == 404 { "NR" } else { "-" };
        record(
            &weir,
            path,
            &[&format!("code={status}"), &format!("flags={flags}"), &format!("details={details}"), "attempts=0", "cluster=-"],
        );
    }
    for (stat, n) in [("rq_direct_response", 2), ("rq_redirect", 2), ("no_route", 1), ("downstream_rq_3xx", 2)] {
        eventually(&format!("{stat} is {n}"), || {
            weir.admin(&format!("/stats?filter=http\\..*\\.{stat}$")).body.trim_end().ends_with(&format!("{stat}: {n}")).then_some(())
        });
    }
}

#[test]
fn idle_upstream_connections_are_closed() {
    let weir = Mesh::new()
        .to("idle.test", &["$ECHO"], "retries: { attempts: 0 }")
        .policy("idle.test", "connectionPool: { http: { idleTimeout: 100ms } }")
        .start()
        .run();
    assert_eq!(weir.get("idle.test", "/").status, 200);
    cluster_becomes(&weir, "idle.test", "upstream_cx_active", 0);
    cluster_becomes(&weir, "idle.test", "upstream_cx_idle_timeout", 1);
    cluster_becomes(&weir, "idle.test", "upstream_cx_destroy_local", 1);
    // A new time holds for connections that wait already, on workers that no request comes to any more.
    let mesh = |time: &str| {
        Mesh::new().to("waits.test", &["$ECHO"], "").policy("waits.test", &format!("connectionPool: {{ http: {{ idleTimeout: {time} }} }}"))
    };
    let weir = mesh("1000s").start().run();
    for _ in 0..40 {
        assert_eq!(weir.get("waits.test", "/").status, 200);
    }
    assert!(of_cluster(&weir, "waits.test", "upstream_cx_active") > 1);
    weir.write("mesh.yaml", &mesh("100ms").text());
    cluster_becomes(&weir, "waits.test", "upstream_cx_active", 0);
}

/// An upstream that accepts and never says a word.
#[test]
fn silence_ends_with_the_clients_patience() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let weir = Mesh::new().to("silent.test", &["$SILENT"], "retries: { attempts: 0 }").start().word("SILENT", port).run();
    let c = begin(&weir, "silent.test", "/silent", "");
    let (upstream, _) = silent.accept().unwrap();
    cluster_becomes(&weir, "silent.test", "upstream_rq_active", 1);
    drop(c);
    record(&weir, "/silent", &["code=0", "flags=DC", "details=downstream_remote_disconnect", "attempts=1"]);
    cluster_becomes(&weir, "silent.test", "upstream_rq_tx_reset", 1);
    // And the upstream hears of it.
    use std::io::Read;
    let mut upstream = upstream;
    upstream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    let _ = upstream.read_to_end(&mut rest);
    assert!(String::from_utf8_lossy(&rest).starts_with("GET /silent "));
}
