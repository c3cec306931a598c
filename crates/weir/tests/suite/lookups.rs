//! Names that clients choose (dynamic forward proxy): each is looked up once at a time, and not too many at once.
use crate::{
    client::Connection,
    frames::{END_HEADERS, END_STREAM, HEADERS, Raw, block, frame},
    harness::{Start, Weir, eventually},
    mesh::Mesh,
};
use std::{
    collections::HashSet,
    net::UdpSocket,
    sync::{Arc, Mutex},
    thread,
};

const NAMES: &str = "\
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: names }
spec:
  hosts: ['*.names.test']
  resolution: DYNAMIC_DNS
  ports: [{ number: 80, name: http, protocol: HTTP }]
";

/// A gateway with 1024 descriptors whose name server never answers, and the names that it was asked for.
fn silent() -> (Weir, Arc<Mutex<HashSet<Vec<u8>>>>) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let asked = Arc::<Mutex<HashSet<Vec<u8>>>>::default();
    let names = asked.clone();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok(n) = server.recv(&mut packet) {
            // The first label of the question.
            let label = packet.get(13..13 + usize::from(packet[12])).filter(|_| n > 13).unwrap_or_default().to_vec();
            names.lock().unwrap().insert(label);
        }
    });
    let every_name = Mesh::new().routes("'*.names.test'", "- route: [{ destination: { host: '*.names.test' } }]").raw(NAMES).text();
    let start = Start::new().file("names.yaml", every_name).arg("--dns-resolver").arg(address.to_string());
    (start.descriptors(1024, 1024).run(), asked)
}

fn count(weir: &Weir, name: &str) -> u64 {
    weir.stat(&format!("dns_cache.dynamic_forward_proxy.{name}"))
}

#[test]
fn one_name_is_looked_up_once_at_a_time() {
    let (weir, asked) = silent();
    let ask = |_| {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("GET / HTTP/1.1\r\nhost: one.names.test\r\n\r\n").unwrap();
        c
    };
    let held: Vec<Connection> = (0..40).map(ask).collect();
    let active = format!("http.0.0.0.0_{}.downstream_rq_active", weir.ports[0]);
    eventually("the requests", || (weir.stat(&active) == 40).then_some(()));
    eventually("the question", || asked.lock().unwrap().contains(&b"one"[..]).then_some(()));
    assert_eq!(count(&weir, "dns_query_attempt"), 1);
    // Clients that leave are noticed while their name is looked up.
    drop(held);
    eventually("the requests' end", || (weir.stat(&active) == 0).then_some(()));
}

#[test]
fn lookups_are_bounded() {
    let (weir, _asked) = silent();
    let mut raw = Raw::open(weir.address());
    let request = |i: u32| {
        let host = format!("n{i}.names.test");
        let head = block(&[(":method", "GET"), (":scheme", "http"), (":authority", &host), (":path", "/name")]);
        frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * i, &head)
    };
    // All at once: a lookup ends after a while.
    raw.send((0..100).flat_map(request).collect::<Vec<u8>>()).unwrap();
    eventually("the limit", || (count(&weir, "dns_rq_pending_overflow") == 36).then_some(()));
    assert_eq!(count(&weir, "dns_query_attempt"), 64);
    eventually("the records", || (weir.lines("\"GET /name HTTP/2\" 503 UO").len() >= 36).then_some(()));
    assert_eq!(weir.admin("/ready").status, 200);
}
