//! What clients can make the gateway hold in memory, and what it does when there is not enough.
use crate::{
    client::{self, Connection},
    frames::{self, PREFACE, Raw, SETTINGS, WINDOW_UPDATE, frame},
    harness::{Start, TO_ECHO, Weir, eventually},
    mesh::{Mesh, cluster_becomes, of_cluster},
    yaml::ToEcho,
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

/// A client of HTTP/2 that allows as much as there can be, asks for much more, and never reads.
fn greedy(to: SocketAddr) -> Raw {
    let mut raw = Raw { io: TcpStream::connect(to).unwrap() };
    let all = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &all), &frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes())].concat();
    bytes.extend((0..100).flat_map(|i| frames::get(1 + 2 * i, "/bytes/100000000")));
    // Near the limit of memory it may be turned away.
    let _ = raw.send(bytes);
    raw
}

/// The gateway's memory in kB once it no longer grows.
fn settled(weir: &Weir) -> u64 {
    weir.rests();
    weir.resident_kb()
}

#[test]
fn a_client_that_never_reads_holds_a_bounded_amount() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    assert_eq!(weir.get("h.test", "/").status, 200);
    let before = weir.resident_kb();
    let raw = greedy(weir.address());
    let active = format!("http.0.0.0.0_{}.downstream_rq_active", weir.ports[0]);
    eventually("the streams", || (weir.stat(&active) == 100).then_some(()));
    let grown = settled(&weir).saturating_sub(before);
    // 64 KiB for each stream in addition to its read buffer.
    assert!(grown < 32_000, "one connection holds {grown} kB");
    drop(raw);
    eventually("the streams' end", || (weir.stat(&active) == 0).then_some(()));
}

#[test]
fn near_the_memory_limit_requests_are_refused_until_there_is_room() {
    let weir = ToEcho::new().h2c().start().arg("--max-memory").arg("200Mi").run();
    let mut kept = Connection::open(weir.address()).unwrap();
    assert_eq!(kept.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    let pressure = || weir.stat("overload.envoy.resource_monitors.fixed_heap.pressure");
    assert!(pressure() > 0);
    let stopped = "overload.envoy.overload_actions.stop_accepting_requests.active";
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(greedy(weir.address()));
        settled(&weir);
        if weir.stat(stopped) == 1 {
            break;
        }
    }
    eventually("the overload", || (weir.stat(stopped) == 1).then_some(()));
    // A worker hears of it at its next tick.
    let refused = eventually("a refusal", || Some(kept.request("GET", "h", "/refused", &[], b"").unwrap()).filter(|a| a.status != 200));
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
    eventually("the record", || weir.lines("/refused").iter().any(|l| l.contains(" 503 OM ")).then_some(()));
    assert!(weir.stat(&format!("http.0.0.0.0_{}.downstream_rq_overload_close", weir.ports[0])) >= 1);
    // The admin listener answers, and a new connection is refused one way or the other.
    assert_eq!(weir.admin("/ready").status, 200);
    assert!(client::get(weir.address(), "h", "/").is_ok_and(|a| a.status == 503) || weir.stat(stopped) == 1);
    weir.says("new requests");
    drop(held);
    weir.get_until("h", "/", |a| a.status == 200);
    weir.says("requests and connections are accepted again");
}

/// The target of copies accepts and never answers.
#[test]
fn copies_that_nobody_answers_are_bounded_and_end_with_the_routes_time() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    thread::spawn(move || target.incoming().map_while(Result::ok).collect::<Vec<_>>());
    let gateway = |timeout: &str| {
        Mesh::new()
            .to("h.test", &["$ECHO"], &format!("mirrors: [{{ destination: {{ host: shadow.test }} }}]\ntimeout: {timeout}"))
            .upstream("shadow.test", &["$SHADOW"])
            .start()
            .word("SHADOW", port)
            .workers(1)
            .run()
    };
    let body = vec![b'x'; 1_000_000];
    let send = |weir: &Weir, count: usize| {
        let mut c = Connection::open(weir.address()).unwrap();
        for _ in 0..count {
            assert_eq!(c.request("POST", "h.test", "/copied", &[], &body).unwrap().status, 200);
        }
    };
    // 32 MiB of bodies.
    let weir = gateway("1h");
    send(&weir, 40);
    cluster_becomes(&weir, "shadow.test", "upstream_rq_mirror_total", 33);
    cluster_becomes(&weir, "shadow.test", "upstream_rq_mirror_overflow", 7);
    // Those that have ended leave room for others.
    let weir = gateway("10s");
    for sent in [20, 40] {
        send(&weir, 20);
        cluster_becomes(&weir, "shadow.test", "upstream_rq_timeout", sent);
    }
    assert_eq!(of_cluster(&weir, "shadow.test", "upstream_rq_mirror_overflow"), 0);
}
