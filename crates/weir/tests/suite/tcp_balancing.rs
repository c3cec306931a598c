//! Bytes without HTTP, spread by the load balancing of their cluster; outlier detection; and the access log of connections.
use crate::{
    harness::{Start, Weir, eventually, free_port, runtime},
    mesh::{cluster_becomes, of_cluster},
    tcp::{service, upstream},
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// A server of TCP on `$PORT` in front of the service `db`, with a `trafficPolicy` for it.
fn gateway(policy: &str, endpoints: &[u16]) -> Start<'static> {
    let objects = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  \
         servers: [{{ port: {{ number: $PORT, name: tcp, protocol: TCP }}, hosts: ['*'] }}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  \
         tcp: [{{ route: [{{ destination: {{ host: db, port: {{ number: 80 }} }} }}] }}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: d }}\nspec:\n  host: db\n  trafficPolicy: {policy}\n---\n"
    );
    Start::new().upstreams(0).workers(1).file("all.yaml", objects + &service("db", endpoints))
}

/// Settings for all upstreams.
fn upstreams(settings: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  higress: 'upstream: {settings}'\n")
}

const DB: &str = "db.default.svc.cluster.local";

/// A connection from an address of this machine.
fn open_from(weir: &Weir, source: IpAddr) -> TcpStream {
    let io = runtime().block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        socket.connect(weir.address()).await.unwrap().into_std().unwrap()
    });
    io.set_nonblocking(false).unwrap();
    io.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    io
}

fn open(weir: &Weir) -> TcpStream {
    open_from(weir, Ipv4Addr::LOCALHOST.into())
}

/// The name of the endpoint at the other end, as its first byte says it.
fn name(io: &mut TcpStream) -> char {
    let mut first = [0];
    io.read_exact(&mut first).unwrap();
    first[0].into()
}

/// Sends nothing and reads to the end.
fn all(mut io: TcpStream) -> String {
    io.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    let _ = io.read_to_string(&mut text);
    text
}

#[test]
fn connections_are_spread_by_the_policy_of_the_cluster() {
    let endpoints = [upstream("a"), upstream("b")];
    let spread = |policy: &str, connections: usize, source: &dyn Fn(usize) -> IpAddr| {
        let weir = gateway(policy, &endpoints).run();
        let mut count = BTreeMap::<char, usize>::new();
        // All of them stay open: what is under way counts for least request.
        let mut held = Vec::new();
        for i in 0..connections {
            let mut io = open_from(&weir, source(i));
            *count.entry(name(&mut io)).or_default() += 1;
            held.push(io);
        }
        assert_eq!(of_cluster(&weir, DB, "upstream_cx_active"), connections as u64, "{policy}");
        count.into_values().collect::<Vec<_>>()
    };
    let one = |_| IpAddr::from(Ipv4Addr::LOCALHOST);
    let many = |i: usize| IpAddr::from([127, 0, 0, i as u8 + 1]);
    assert_eq!(spread("{ loadBalancer: { simple: ROUND_ROBIN } }", 20, &one), [10, 10]);
    let least = spread("{ loadBalancer: { simple: LEAST_REQUEST } }", 40, &one);
    assert!(least.iter().all(|n| *n >= 12), "{least:?}");
    let by_source = "{ loadBalancer: { consistentHash: { useSourceIp: true } } }";
    assert_eq!(spread(by_source, 20, &one), [20]);
    // The chance that 40 sources share one of two endpoints is 2 in 2^40.
    assert_eq!(spread(by_source, 40, &many).len(), 2);
}

#[test]
fn an_endpoint_that_refuses_connections_is_ejected() {
    let policy = "{ loadBalancer: { simple: ROUND_ROBIN }, outlierDetection: { consecutive5xxErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 100 } }";
    let endpoints = [free_port(), upstream("a")];
    let weir = gateway(policy, &endpoints).file("settings.yaml", upstreams("{ maxConnectAttempts: 2 }")).run();
    let served = |count: usize| (0..count).for_each(|_| assert_eq!(all(open(&weir)), "a bye"));
    served(10);
    cluster_becomes(&weir, DB, "outlier_detection.ejections_enforced_total", 1);
    let failed = of_cluster(&weir, DB, "upstream_cx_connect_fail");
    assert_eq!(failed, 2);
    served(20);
    assert_eq!(of_cluster(&weir, DB, "upstream_cx_connect_fail"), failed);
}

const FORMAT: &str = "T %PROTOCOL% %REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% in=%BYTES_RECEIVED% out=%BYTES_SENT% \
    up=%UPSTREAM_WIRE_BYTES_SENT%/%UPSTREAM_WIRE_BYTES_RECEIVED% host=%UPSTREAM_HOST% cluster=%UPSTREAM_CLUSTER% \
    attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% from=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% sni=%REQUESTED_SERVER_NAME% \
    why=%UPSTREAM_TRANSPORT_FAILURE_REASON% ms=%DURATION% .";

/// The only record of a connection, with all of `parts`.
#[track_caller]
fn record(weir: &Weir, parts: &[&str]) -> String {
    let found = eventually("a record", || weir.lines("T - - 0 ").first().cloned());
    for part in parts {
        assert!(found.contains(&format!("{part} ")), "no {part} in {found}");
    }
    found
}

#[test]
fn every_connection_leaves_a_record() {
    let log = |policy: &str, endpoints: &[u16]| gateway(policy, endpoints).arg("--access-log-format").arg(FORMAT).run();
    let good = upstream("a");
    let cluster = format!("cluster=outbound|80||{DB}");

    let weir = log("{}", &[good]);
    let mut io = open(&weir);
    io.write_all(b"hello").unwrap();
    assert_eq!(all(io), "ahello bye");
    let host = format!("host=127.0.0.1:{good}");
    let line =
        record(&weir, &["T - - 0 -", "in=5", "out=10", "up=5/10", &host, &cluster, "attempts=1", "from=127.0.0.1", "sni=-", "why=-"]);
    let duration: u64 = line.split("ms=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(duration < 60_000, "{line}");

    let dead = [free_port(), free_port(), free_port(), free_port()];
    for (settings, attempts) in [("{}", 1), ("{ maxConnectAttempts: 3 }", 3)] {
        let weir = gateway("{}", &dead).file("settings.yaml", upstreams(settings)).arg("--access-log-format").arg(FORMAT).run();
        assert_eq!(all(open(&weir)), "");
        let line = record(&weir, &["0 UF,URX", "in=0", "out=0", &cluster, &format!("attempts={attempts}")]);
        // The last endpoint that was tried may be any of them.
        assert!(dead.iter().any(|port| line.contains(&format!(" host=127.0.0.1:{port} "))), "{line}");
        assert!(line.contains(" why=Connection refused"), "{line}");
        assert_eq!(of_cluster(&weir, DB, "upstream_cx_connect_fail"), attempts);
    }

    let weir = log("{}", &[]);
    assert_eq!(all(open(&weir)), "");
    record(&weir, &["0 UH", "host=-", &cluster, "attempts=0"]);

    // A limit of connections: the second one is turned away.
    let weir = log("{ connectionPool: { tcp: { maxConnections: 1 } } }", &[good]);
    let mut first = open(&weir);
    assert_eq!(name(&mut first), 'a');
    assert_eq!(all(open(&weir)), "");
    record(&weir, &["0 UO", &cluster, "why=overflow"]);
    cluster_becomes(&weir, DB, "upstream_cx_overflow", 1);
}

#[test]
fn a_connection_without_a_byte_ends_after_its_idle_timeout() {
    let policy = "{ connectionPool: { tcp: { idleTimeout: 10s } } }";
    let weir = gateway(policy, &[upstream("a")]).arg("--access-log-format").arg(FORMAT).run();
    let mut io = open(&weir);
    assert_eq!(name(&mut io), 'a');
    let mut rest = String::new();
    io.read_to_string(&mut rest).unwrap();
    record(&weir, &["0 SI", "out=1"]);
    assert_eq!(weir.stat(&format!("listener.0.0.0.0_{}.tcp.idle_timeout", weir.ports[0])), 1);
}
