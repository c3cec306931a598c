//! File descriptors: the limit is raised, shared out, and no client and no cluster can take all of them.
use crate::{
    client::{self, Connection},
    frames::{self, Raw},
    harness::{eventually, raw_upstream},
    mesh::{Mesh, cluster_becomes, name, of_cluster, record},
};
use std::{
    fs,
    sync::{Arc, Condvar, Mutex},
};

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
        let warning = "need more than the 1024 file descriptors";
        match args.len() {
            4 => drop(weir.says(warning)),
            _ => assert!(weir.lines(warning).is_empty(), "{}", weir.printed()),
        }
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
            let requests: Vec<u8> = (0..100).flat_map(|i| frames::get(1 + 2 * i, "/slow?delay=10m")).collect();
            raw.send(requests).unwrap();
            raw
        })
        .collect();
    cluster_becomes(&weir, "h.test", "upstream_rq_pending_overflow", 240);
    cluster_becomes(&weir, "h.test", "upstream_cx_active", 60);
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

/// An upstream that answers none of its first requests before so many have come; its port.
fn together(count: usize) -> u16 {
    let came = Arc::new((Mutex::new(0), Condvar::new()));
    raw_upstream(move |_| {
        let (number, more) = &*came;
        let mut number = number.lock().unwrap();
        *number += 1;
        more.notify_all();
        drop(more.wait_while(number, |number| *number < count).unwrap());
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()
    })
}

/// Idle connections of one cluster make room for another, on any worker.
#[test]
fn idle_connections_make_room() {
    let weir = Mesh::new()
        .to("h.test", &["$H"], "")
        .to("other.test", &["$OTHER"], "")
        .start()
        .word("H", together(3))
        .word("OTHER", together(2))
        .arg("--max-upstream-connections")
        .arg("4")
        .run();
    let to = weir.address();
    let get = |host: &str| client::get(to, host, "/").unwrap().status;
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..3).map(|_| scope.spawn(|| get("h.test"))).collect();
        assert!(held.into_iter().all(|thread| thread.join().unwrap() == 200));
    });
    cluster_becomes(&weir, "h.test", "upstream_cx_active", 3);
    // Two at once need two connections. A worker that is slow to let go of one costs a request its turn.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| eventually("room", || (get("other.test") == 200).then_some(())));
        }
    });
    assert!(of_cluster(&weir, "other.test", "upstream_cx_total") >= 2);
}
