//! Signals: how a gateway ends, and what each kind of connection sees of it. Every request that was sent is answered.
use crate::{
    client::Connection,
    frames::Raw,
    harness::{Start, TO_ECHO, Weir, eventually},
    tls::secret,
    yaml::ToEcho,
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use weir_test::self_signed;

#[test]
fn no_request_is_lost() {
    let mut weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--drain-time").arg("1s").run();
    let to = weir.address();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let told: Arc<OnceLock<Instant>> = Arc::default();
    // Well-behaved clients: after `connection: close` they open another connection; if they cannot connect, they stop.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, served, told) = (stop.clone(), served.clone(), told.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (mut since, mut first) = (Instant::now(), true);
                    let Ok(mut c) = Connection::open(to) else { return };
                    loop {
                        let answer = match c.request("GET", "h", "/x?delay=3ms", &[], b"") {
                            Ok(answer) => answer,
                            // It was kept from its work until it was idle, or the kernel let it in while the socket was closed.
                            Err(e) => {
                                let ends = told.get().is_some_and(|told| told.elapsed() > Duration::from_millis(900));
                                let idle = told.get().is_some() && since.elapsed() > Duration::from_millis(900);
                                assert!(idle || first && ends, "no answer: {e}");
                                break;
                            }
                        };
                        assert_eq!(answer.status, 200);
                        served.fetch_add(1, Ordering::Relaxed);
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                        (since, first) = (Instant::now(), false);
                    }
                }
            })
        })
        .collect();
    eventually("traffic", || (served.load(Ordering::Relaxed) > 100).then_some(()));
    let began = Instant::now();
    told.set(began).unwrap();
    weir.signal("TERM");
    eventually("readiness to fail", || {
        crate::client::get(weir.admin, "localhost", "/ready").map_or(Some(()), |a| (a.status == 503).then_some(()))
    });
    assert!(weir.ended().success(), "{}", weir.printed());
    assert!(began.elapsed() >= Duration::from_millis(900), "the drain time was cut to {:?}", began.elapsed());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a request was lost");
    }
}

const UPGRADE: &str = "GET /x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: bytes/1\r\n\r\n";

/// With times that a test would notice.
fn start() -> Weir {
    Start::new().file("gateway.yaml", TO_ECHO).arg("--drain-time").arg("90s").arg("--shutdown-timeout").arg("90s").run()
}

fn asked(weir: &Weir) -> Connection {
    let mut c = Connection::open(weir.address()).unwrap();
    assert_eq!(c.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    c
}

/// Whether the peer closes within half a minute.
fn closes(mut io: &TcpStream) -> bool {
    io.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut piece = [0; 4096];
    loop {
        match io.read(&mut piece) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn an_interrupt_ends_at_once_what_is_idle() {
    type Open = fn(&Weir) -> Vec<TcpStream>;
    let table: [(&str, Open); 5] = [
        ("nothing", |_| vec![]),
        ("a connection that is silent", |w| vec![TcpStream::connect(w.address()).unwrap()]),
        ("a connection between requests", |w| vec![asked(w).into_inner()]),
        ("HTTP/2 without a stream, whose client does not answer", |w| {
            let mut raw = Raw::open(w.address());
            raw.next().unwrap();
            vec![raw.io]
        }),
        ("one of each", |w| vec![TcpStream::connect(w.address()).unwrap(), asked(w).into_inner(), Raw::open(w.address()).io]),
    ];
    for (what, open) in table {
        let mut weir = start();
        let held = open(&weir);
        eventually("the connections", || (weir.stat("server.total_connections") == held.len() as u64).then_some(()));
        let begun = Instant::now();
        weir.signal("INT");
        assert!(weir.ended().success(), "{what}: {}", weir.printed());
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {:?}", begun.elapsed());
        assert!(weir.lines("still open").is_empty(), "{what}: {}", weir.printed());
    }
}

#[test]
fn an_interrupt_waits_for_requests_and_a_second_one_does_not() {
    let mut weir = start();
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /x?delay=10s HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    eventually("the request", || (weir.stat(&format!("http.0.0.0.0_{}.downstream_rq_active", weir.ports[0])) == 1).then_some(()));
    weir.signal("INT");
    weir.says("press Ctrl-C again to stop now");
    eventually("the listener's end", || TcpStream::connect(weir.address()).is_err().then_some(()));
    let answer = c.answer().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(weir.ended().success());

    let mut weir = start();
    let mut tunnel = Connection::open(weir.address()).unwrap();
    tunnel.send(UPGRADE).unwrap();
    assert_eq!(tunnel.head().unwrap().status, 101);
    weir.signal("INT");
    weir.says("connections: 1, requests in flight: 1, upgraded: 1");
    let begun = Instant::now();
    weir.signal("INT");
    assert!(!weir.ended().success() && begun.elapsed() < Duration::from_secs(30));
}

/// A tunnel, and a response that never ends.
fn endless(weir: &Weir) -> [Connection; 2] {
    let open = |request: &str, status| {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(request).unwrap();
        assert_eq!(c.head().unwrap().status, status);
        c
    };
    [open(UPGRADE, 101), open("GET /sse?every=50ms&n=100000 HTTP/1.1\r\nhost: h\r\n\r\n", 200)]
}

/// After SIGTERM new connections are accepted for the drain time. What is idle is closed at once.
#[test]
fn a_termination_closes_what_is_idle_and_accepts_for_the_drain_time() {
    let mut weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--drain-time").arg("10m").run();
    let (silent, idle) = (TcpStream::connect(weir.address()).unwrap(), asked(&weir).into_inner());
    let _open = endless(&weir);
    weir.signal("TERM");
    assert!(closes(&silent) && closes(&idle));
    // Workers learn of the drain one after the other.
    eventually("the end of each connection", || {
        let answer = Connection::open(weir.address()).unwrap().request("GET", "h", "/", &[], b"").unwrap();
        assert_eq!(answer.status, 200);
        (answer.header("connection") == Some("close")).then_some(())
    });
    weir.signal("TERM");
    assert!(!weir.ended().success());
}

/// After the drain time and the shutdown timeout, what has not ended is closed, and counted.
#[test]
fn a_termination_closes_the_rest_after_the_timeout() {
    let mut weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--drain-time").arg("1s").arg("--shutdown-timeout").arg("1s").run();
    let _open = endless(&weir);
    weir.signal("TERM");
    assert!(weir.ended().success());
    weir.says("closing what is still open after 2s; connections: 2, requests in flight: 2, upgraded: 1");
}

/// Clients that have begun a handshake may finish it; silent ones are closed soon, also those that have agreed on HTTP/2.
#[test]
fn a_termination_lets_handshakes_end() {
    let made = self_signed(&["h"]);
    let yaml = ToEcho::new().tls("c").text();
    let mut weir = Start::new()
        .file("gateway.yaml", yaml)
        .file("secret.yaml", secret("c", &made))
        .arg("--drain-time")
        .arg("1s")
        .arg("--shutdown-timeout")
        .arg("90s")
        .run();
    let client = |alpn: &[u8]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.der.clone()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        rustls::ClientConnection::new(Arc::new(config), "h".try_into().unwrap()).unwrap()
    };
    let open = || TcpStream::connect(weir.address()).unwrap();
    let silent = open();
    let (mut two, mut io) = (client(b"h2"), open());
    while two.is_handshaking() {
        two.complete_io(&mut io).unwrap();
    }
    let (mut slow, mut begun, mut hello) = (client(b"http/1.1"), open(), Vec::new());
    slow.write_tls(&mut hello).unwrap();
    begun.write_all(&hello[..20]).unwrap();
    weir.signal("TERM");
    assert!(closes(&silent) && closes(&io));
    begun.write_all(&hello[20..]).unwrap();
    let mut tls = rustls::StreamOwned::new(slow, begun);
    tls.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let mut status = [0; 12];
    tls.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    drop(tls);
    assert!(weir.ended().success());
}

#[test]
fn log_files_are_reopened_and_other_signals_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let weir = Start::new().file("gateway.yaml", TO_ECHO).arg("--access-log").arg(log.display().to_string()).run();
    for (i, signal) in ["HUP", "USR1"].into_iter().enumerate() {
        let moved = folder.path().join(format!("access.log.{i}"));
        weir.get("h", &format!("/before-{signal}"));
        eventually("the record", || fs::read_to_string(&log).ok()?.contains(&format!("/before-{signal}")).then_some(()));
        fs::rename(&log, moved).unwrap();
        weir.signal(signal);
        eventually("the new file", || log.exists().then_some(()));
        weir.get("h", &format!("/after-{signal}"));
        eventually("the record", || fs::read_to_string(&log).ok()?.contains(&format!("/after-{signal}")).then_some(()));
    }
    weir.signal("USR2");
    weir.says("SIGUSR2 has no effect");
    assert_eq!(weir.get("h", "/").status, 200);
}
