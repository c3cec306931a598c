//! Links that fail in different ways.
use super::{
    hub::{JSON, Rig, names},
    line::Conditions,
    upstream::{Reset, SERVICES},
};
use futures_util::future::join_all;
use http::{Request, Response};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use weir_edge::{
    body::empty,
    upstream::{
        credentials::{Credentials, Files},
        health::Thresholds,
        remote::{Balance, Remote, Show, Timeouts},
    },
};
use weir_test::eventually;

#[test]
fn a_hub_that_starts_in_front_of_a_black_hole_answers_what_is_kept_at_once() {
    let mut rig = Rig::start();
    rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    eventually("the list is kept", || (rig.hub().cache.kept().0 == 1).then_some(()));
    rig.stop_hub();
    rig.upstream.black_hole();
    rig.start_hub();
    // The connection may take a minute: the answer did not wait for it.
    let began = Instant::now();
    let kept = rig.get(SERVICES, &[JSON]);
    assert_eq!(names(&kept), ["a"]);
    assert!(kept.header("weir-cache").is_some() && began.elapsed() < Duration::from_secs(30));
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion=0"), &[]);
    watch.until("\"a\"");
    assert!(rig.hub().remote.is_up() && !rig.hub().remote.is_proven());
    // What nobody has kept waits for the API server, as does what it finds out.
    rig.upstream.mend();
    let version = rig.upstream.put("b", json!({})).to_string();
    let fresh =
        eventually("the API server answers", || Some(rig.get(SERVICES, &[JSON])).filter(|list| list.header("weir-cache").is_none()));
    assert_eq!(
        (names(&fresh), fresh.json()["metadata"]["resourceVersion"].as_str()),
        (vec!["a".into(), "b".into()], Some(version.as_str()))
    );
    watch.rest();
}

#[test]
fn a_stream_that_is_reset_does_not_take_the_link_down() {
    let rig = Rig::start();
    rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    // All of them, those of probes among them.
    rig.upstream.script(|_| {
        let mut response = Response::new(empty());
        response.extensions_mut().insert(Reset);
        Some(response)
    });
    for _ in 0..5 {
        let answer = rig.get("/api/v1/secrets", &[JSON]);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("ServiceUnavailable")), "{answer:?}");
        assert!(rig.hub().remote.is_up() && rig.hub().remote.is_proven());
    }
    // What was kept is answered meanwhile.
    let kept = rig.get(SERVICES, &[JSON]);
    assert!(kept.header("weir-cache").is_some() && names(&kept) == ["a"], "{kept:?}");
    rig.upstream.behave();
    let fresh = rig.get(SERVICES, &[JSON]);
    assert!(fresh.header("weir-cache").is_none() && names(&fresh) == ["a"], "{fresh:?}");
    assert_eq!(rig.upstream.connections(), 1);
}

/// Ports of this process of connections to an address, which `/proc/net/tcp` lists with the inode of their socket.
fn ports(to: SocketAddr) -> Vec<u16> {
    let text = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words[9] != "0" && port(words[2]) == to.port()).map(|words| port(words[1])).collect()
}

#[test]
fn a_watch_leaves_a_connection_that_has_gone_dead() {
    // Twice as patient as by default: no pause of a busy machine is taken for the end of the link.
    let rig = Rig::behind(Conditions::default(), |options| {
        options.timeouts = Timeouts { connect: Duration::from_secs(4), ping_timeout: Duration::from_secs(4), ..Timeouts::default() };
    });
    let line = rig.line.as_ref().unwrap();
    let from = rig.upstream.put("a", json!({}));
    assert_eq!(rig.names(SERVICES, &[JSON]), ["a"]);
    eventually("the list is kept", || (rig.hub().cache.newest() == from).then_some(()));
    let path = format!("{SERVICES}?watch=1&resourceVersion={from}&allowWatchBookmarks=true");
    let watch = rig.watch(&path, &[]);
    rig.upstream.has_watches(1);
    let before = ports(line.address);
    assert!(!before.is_empty());
    line.dies();
    let began = Instant::now();
    watch.rest();
    let took = began.elapsed();
    // The client begins again where it was, and is answered from what was kept.
    let mut client = rig.open();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n")).unwrap();
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("weir-cache")), (200, Some("hit")), "{head:?}");
    println!("handed over after {took:?} and {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60), "{took:?}");
    // None of the sockets is left; those of probes come and go.
    eventually("no socket of before is left", || (!ports(line.address).iter().any(|port| before.contains(port))).then_some(()));
    rig.is_down();
    // Once the line works, the watch is handed back.
    line.lives();
    while client.chunk().unwrap().is_some() {}
    eventually("an answer of the API server", || rig.get(SERVICES, &[JSON]).header("weir-cache").is_none().then_some(()));
}

/// How the link fares behind such a line, with the defaults of the hub made so many times faster: each change, and a line of figures.
fn fares(conditions: Conditions, faster: u32, enough: impl Fn(u64) -> bool) -> (Vec<bool>, String) {
    let rig = Rig::behind(conditions, move |options| {
        let (timeouts, thresholds) = (Timeouts::default(), Thresholds::default());
        options.timeouts = Timeouts {
            connect: timeouts.connect / faster,
            ping_interval: timeouts.ping_interval / faster,
            ping_timeout: timeouts.ping_timeout / faster,
        };
        options.thresholds =
            Thresholds { probe_down: thresholds.probe_down / faster, probe_up: thresholds.probe_up / faster, ..thresholds };
    });
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (mut link, noted) = (rig.hub().remote.changes(), changes.clone());
    rig.spawn(async move {
        while link.changed().await.is_ok() {
            let up = *link.borrow_and_update();
            let mut noted = noted.lock().unwrap();
            if noted.last() != Some(&up) {
                noted.push(up);
            }
        }
    });
    let probes = || {
        let status = rig.hub().remote.servers()[0].status();
        (status.heartbeats, status.failed_heartbeats)
    };
    loop {
        let (answered, failed) = probes();
        if enough(answered + failed) {
            let changes = changes.lock().unwrap().clone();
            let ups = changes.iter().filter(|up| **up).count();
            let text =
                format!("{conditions:?}: {ups} times up, {} times down; {answered} probes answered, {failed} not", changes.len() - ups);
            return (changes, text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A round trip of so many milliseconds at full speed.
fn lossy(round_trip: u64, loss: u64, faster: u32) -> Conditions {
    let round_trip = Duration::from_millis(round_trip) / faster;
    // As Linux waits for an acknowledgement.
    Conditions { round_trip, loss, retransmission: round_trip + Duration::from_millis(200) / faster }
}

#[test]
fn a_link_that_takes_two_seconds_and_loses_a_third_does_not_flap() {
    // `cargo xtask edge-link`: at full speed, beside better links.
    if let Some(seconds) = std::env::var("WEIR_EDGE_LINK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()) {
        let until = Instant::now() + Duration::from_secs(seconds);
        let links = [lossy(2000, 30, 1), lossy(600, 30, 1), lossy(600, 10, 1), lossy(300, 10, 1), lossy(300, 0, 1)];
        let runs = links.map(|link| std::thread::spawn(move || fares(link, 1, |_| Instant::now() >= until)));
        let runs = runs.map(|run| run.join().unwrap());
        runs.iter().for_each(|(_, text)| println!("{text}"));
        let downs = |changes: &[bool]| changes.iter().filter(|up| !**up).count();
        assert!(runs[0].0.len() <= 2, "{:?}", runs[0].0);
        // Down, up once more, and down for good.
        assert!(runs.iter().all(|(changes, _)| downs(changes) <= 2));
        return;
    }
    // Ten times faster.
    let (changes, text) = fares(lossy(2000, 30, 10), 10, |probes| probes >= 16);
    assert!(changes.len() <= 2, "{text}");
}

#[test]
fn requests_that_wait_for_one_connection_attempt_fail_with_it() {
    // It takes connections, and never says anything.
    let rig = Rig::start();
    let silent = rig.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = format!("https://{}", silent.local_addr().unwrap()).parse().unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    rig.spawn(async move {
        let mut open = Vec::new();
        while let Ok((io, _)) = silent.accept().await {
            counted.fetch_add(1, SeqCst);
            open.push(io);
        }
    });
    let files = Files { certificate_authority: rig.path("ca.crt"), client_certificate: rig.path("node.pem"), client_key: None };
    let timeouts = Timeouts { connect: Duration::from_millis(300), ..Timeouts::default() };
    let credentials = Arc::new(Credentials::new(files));
    let remote = Remote::new(vec![server], Balance::RoundRobin, credentials, timeouts, Thresholds::default()).unwrap();
    let ask = || remote.send(Request::get("/api/v1/pods").body(empty()).unwrap(), Show::Own);
    for attempt in 1..=2 {
        let answers = rig.block_on(join_all((0..50).map(|_| ask())));
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(attempts.load(SeqCst), attempt);
    }
}
