//! File descriptors: the limit is raised, shared out, and no client and no cluster can take all of them.
use crate::{
    client::{self, Connection},
    frames::{self, Raw},
    mesh::{Mesh, cluster_becomes, name, of_cluster, record},
};
use std::fs;

#[test]
fn the_soft_limit_is_raised_and_shared_out() {
    for (args, expected) in [
        (vec![], (448, 448)),
        (vec!["--max-connections", "100"], (100, 796)),
        (vec!["--max-upstream-connections", "700"], (196, 700)),
        (vec!["--max-connections", "900", "--max-upstream-connections", "300"], (900, 300)),
    ] {
        let mut start = Mesh::new().to("h.test", &["$ECHO"], "").start().descriptors(128, 1024);
        for arg in &args {
            start = start.arg(*arg);
        }
        let weir = start.run();
        let limits = fs::read_to_string(format!("/proc/{}/limits", weir.pid())).unwrap();
        let files: Vec<&str> = limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
        assert_eq!(files[3..5], ["1024", "1024"], "{limits}");
        assert_eq!((weir.stat("server.total_connections_limit"), weir.stat("server.upstream_cx_limit")), expected, "{args:?}");
        let warned = !weir.lines("need more than the 1024 file descriptors").is_empty();
        assert_eq!(warned, args.len() == 4, "{}", weir.printed());
    }
}

/// 300 streams that each want a connection, where 80 may be open.
#[test]
fn a_slow_cluster_leaves_descriptors_for_everybody_else() {
    let weir = Mesh::new()
        .to("h.test", &["$ECHO"], "retries: { attempts: 0 }")
        .to("other.test", &["$ECHO2"], "retries: { attempts: 0 }")
        .start()
        .upstreams(2)
        .descriptors(256, 256)
        .run();
    assert_eq!(weir.stat("server.upstream_cx_limit"), 80);
    let held: Vec<Raw> = (0..3)
        .map(|_| {
            let mut raw = Raw::open(weir.address());
            let requests: Vec<u8> = (0..100).flat_map(|i| frames::get(1 + 2 * i, "/slow?delay=1m")).collect();
            raw.send(requests).unwrap();
            raw
        })
        .collect();
    cluster_becomes(&weir, "h.test", "upstream_rq_pending_overflow", 240);
    assert_eq!(of_cluster(&weir, "h.test", "upstream_cx_active"), 60);
    assert!(weir.stat("server.upstream_cx_overflow") >= 240);
    // Other clusters and the admin listener answer at once, over many connections.
    let mut others: Vec<Connection> = (0..10).map(|_| Connection::open(weir.address()).unwrap()).collect();
    for c in &mut others {
        assert_eq!(name(&c.request("GET", "other.test", "/", &[], b"").unwrap()), "echo2");
    }
    assert_eq!(weir.admin("/ready").status, 200);
    // The slow one sheds what it cannot take.
    let shed = client::get(weir.address(), "h.test", "/shed").unwrap();
    assert_eq!((shed.status, shed.header("x-envoy-overloaded")), (503, Some("true")));
    record(&weir, "/shed", &["code=503", "flags=UO", "details=upstream_reset_before_response_started{overflow}"]);
    drop(held);
    cluster_becomes(&weir, "h.test", "upstream_cx_active", 0);
    assert_eq!(weir.get("h.test", "/status/200").status, 200);
}

/// Idle connections of one cluster make room for another, on any worker.
#[test]
fn idle_connections_make_room() {
    let weir = Mesh::new()
        .to("h.test", &["$ECHO"], "")
        .to("other.test", &["$ECHO2"], "")
        .start()
        .upstreams(2)
        .arg("--max-upstream-connections")
        .arg("4")
        .run();
    let mut held: Vec<Connection> = (0..3).map(|_| Connection::open(weir.address()).unwrap()).collect();
    for c in &mut held {
        c.send("GET /?delay=300ms HTTP/1.1\r\nhost: h.test\r\n\r\n").unwrap();
    }
    assert!(held.iter_mut().all(|c| c.answer().unwrap().status == 200));
    assert_eq!(weir.stat("server.upstream_cx_active"), 3);
    let mut others: Vec<Connection> = (0..3).map(|_| Connection::open(weir.address()).unwrap()).collect();
    for c in &mut others {
        c.send("GET /?delay=300ms HTTP/1.1\r\nhost: other.test\r\n\r\n").unwrap();
    }
    assert!(others.iter_mut().all(|c| c.answer().unwrap().status == 200));
    assert!(of_cluster(&weir, "other.test", "upstream_cx_active") >= 2);
}
