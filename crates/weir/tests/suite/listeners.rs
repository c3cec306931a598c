//! Listeners whose port another program holds, and the first request after the start.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, eventually, free_port},
    yaml::ToEcho,
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A port that is taken.
fn taken() -> (TcpListener, u16) {
    let port = free_port();
    (TcpListener::bind(("0.0.0.0", port)).unwrap(), port)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn status(port: u16) -> Option<u16> {
    client::get(at(port), "h", "/status/200").ok().map(|a| a.status)
}

fn ready(weir: &Weir) -> (u16, String) {
    let answer = weir.admin("/ready");
    (answer.status, answer.body.trim().into())
}

#[test]
fn a_port_that_is_taken_at_the_start_is_waited_for() {
    let (holder, port) = taken();
    let yaml = ToEcho::new().listener(&format!("name: taken, port: {port}, protocol: HTTP")).text();
    let weir = Start::new().file("gateway.yaml", yaml).unready().run();
    // All other listeners serve; the failure is reported once, with the line of the port.
    eventually("the other listener", || (status(weir.ports[0]) == Some(200)).then_some(()));
    let told = weir.says(&format!("cannot listen on 0.0.0.0:{port}"));
    assert!(weir.printed().contains("gateway.yaml:6"), "{}", weir.printed());
    assert_eq!(ready(&weir), (503, "INITIALIZING".into()));
    assert!(!weir.admin("/listeners").body.contains(&port.to_string()));
    assert_eq!(weir.stat("listener_manager.total_listeners_warming"), 1);
    assert!(weir.stat("listener_manager.listener_create_failure") >= 1);
    assert!(weir.lines("curl").iter().all(|l| !l.contains(&format!(":{port}"))), "{}", weir.printed());
    // Later changes say how many errors there are, and not the same again.
    weir.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: { name: more }\nspec: { ports: [{ port: 80 }] }\n");
    assert!(weir.says("live after")[0].ends_with(" 1 error"), "{}", weir.printed());
    drop(holder);
    eventually("the port", || (status(port) == Some(200)).then_some(()));
    eventually("readiness", || (ready(&weir) == (200, "LIVE".into())).then_some(()));
    weir.says(&format!("on 0.0.0.0:{port}, which is free now"));
    assert_eq!(weir.lines(&format!("cannot listen on 0.0.0.0:{port}")).len(), told.len());
    assert_eq!(weir.stat("listener_manager.total_listeners_warming"), 0);
    assert!(weir.admin("/listeners").body.contains(&port.to_string()));
}

#[test]
fn a_port_changed_to_one_that_is_taken_leaves_the_old_one_open() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let old = weir.ports[0];
    let mut kept = client::Connection::open(at(old)).unwrap();
    assert_eq!(kept.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    let (holder, port) = taken();
    weir.write("gateway.yaml", &ToEcho::new().port(port).text());
    assert!(weir.says("live after")[0].ends_with(" 1 error"), "{}", weir.printed());
    // Also while other things change.
    weir.write("more.yaml", "apiVersion: v1\nkind: Service\nmetadata: { name: more }\nspec: { ports: [{ port: 80 }] }\n");
    eventually("the second change", || (weir.lines("live after").len() == 2).then_some(()));
    for _ in 0..5 {
        assert_eq!(status(old), Some(200));
    }
    assert_eq!(kept.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    let listed = weir.admin("/listeners").body;
    assert!(listed.contains(&format!(":{old}")) && !listed.contains(&port.to_string()), "{listed}");
    assert_eq!(ready(&weir), (200, "LIVE".into()));
    drop(holder);
    eventually("the new port", || (status(port) == Some(200)).then_some(()));
    eventually("the old port's end", || TcpStream::connect(at(old)).is_err().then_some(()));
    // Connected clients are served, and soon their connections close.
    eventually("the end of the connection", || match kept.request("GET", "h", "/", &[], b"") {
        Ok(answer) => {
            assert_eq!(answer.status, 200);
            (answer.header("connection") == Some("close")).then_some(())
        }
        Err(_) => Some(()),
    });
}

/// Another listener of the Gateway has waited for its port since the start: it replaces none.
#[test]
fn a_listener_that_is_removed_closes_although_another_waits() {
    let (_holder, port) = taken();
    let waiting = format!("name: waiting, port: {port}, protocol: HTTP");
    let (first, second) = ("name: a, port: $PORT, protocol: HTTP", "name: b, port: $PORT2, protocol: HTTP");
    let with = |others: &[&str]| ToEcho::new().listeners(&[&[&*waiting], others].concat()).text();
    let weir = Start::new().file("gateway.yaml", with(&[first, second])).unready().run();
    for port in [weir.ports[0], weir.ports[1]] {
        eventually("both listeners", || (status(port) == Some(200)).then_some(()));
    }
    weir.write("gateway.yaml", &with(&[second]));
    eventually("the removed listener's end", || TcpStream::connect(at(weir.ports[0])).is_err().then_some(()));
    assert_eq!(status(weir.ports[1]), Some(200));
}

/// A connection to a listener that went is served by the routes that it had.
#[test]
fn requests_on_a_removed_listener_keep_its_routes() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mut kept = client::Connection::open(weir.address()).unwrap();
    let mut last = Instant::now();
    assert_eq!(kept.request("GET", "h", "/", &[], b"").unwrap().status, 200);
    weir.write("gateway.yaml", &ToEcho::new().port("$PORT2").text());
    // The worker that has it may hear of the end later than another one opens the new port. From then on it waits a second for a
    // request.
    eventually("the end of the connection", || {
        let asked = Instant::now();
        match kept.request("GET", "h", "/", &[], b"") {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                last = asked;
                (answer.header("connection") == Some("close")).then_some(())
            }
            Err(e) => {
                assert!(last.elapsed() > Duration::from_secs(1), "{e}");
                Some(())
            }
        }
    });
    eventually("the new port", || (status(weir.ports[1]) == Some(200)).then_some(()));
}

/// The first client to connect finds routes.
#[test]
fn the_first_request_is_routed() {
    let current = Arc::new(AtomicU16::new(0));
    let served = Arc::new(AtomicUsize::new(0));
    let (port, answers) = (current.clone(), served.clone());
    let client = thread::spawn(move || {
        loop {
            match port.load(Ordering::Acquire) {
                0 => thread::yield_now(),
                1 => return,
                port => {
                    if let Ok(answer) = client::get(at(port), "h", "/status/200") {
                        assert_eq!(answer.status, 200);
                        answers.fetch_add(1, Ordering::Release);
                    }
                }
            }
        }
    });
    for _ in 0..10 {
        let own = free_port();
        current.store(own, Ordering::Release);
        let before = served.load(Ordering::Acquire);
        let weir = Start::new().file("gateway.yaml", ToEcho::new().port(own).text()).run();
        eventually("an answer", || (served.load(Ordering::Acquire) > before || client.is_finished()).then_some(()));
        current.store(0, Ordering::Release);
        drop(weir);
    }
    current.store(1, Ordering::Release);
    client.join().unwrap();
}
