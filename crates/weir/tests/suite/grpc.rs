//! gRPC calls: streams of many small messages, deadlines, and which status reports which failure.
use crate::{
    client::{self, Connection},
    frames::{self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OK, PING, Raw, SETTINGS},
    harness::{Start, free_port, runtime},
    streams::h2c,
    yaml::{Service, ToEcho},
};
use http::Request;
use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

/// The frames of a request's head and of `count` messages of ten bytes, in one stream.
fn many_messages(path: &str, count: usize, end: bool) -> Vec<u8> {
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "h.test"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut all = frames::head(1, 0, &frames::block(&head));
    for i in 0..count {
        let end = if end && i + 1 == count { END_STREAM } else { 0 };
        all.extend(frames::frame(DATA, end, 1, &message(i)));
    }
    all
}

/// Ten bytes, no two alike.
fn message(i: usize) -> Vec<u8> {
    [b"\0\0\0\0\x05", format!("{i:05}").as_bytes()].concat()
}

/// A client that has agreed to the gateway's settings: its windows count from then on.
fn settled(to: SocketAddr) -> Raw {
    let mut raw = Raw::open(to);
    while raw.next().expect("no settings").kind != SETTINGS {}
    raw.send(frames::frame(SETTINGS, ACK, 0, &[])).unwrap();
    raw
}

/// The connection is alive when all that came before was read.
fn is_alive(raw: &mut Raw) {
    raw.send(frames::frame(PING, 0, 0, b"answer!!")).unwrap();
    loop {
        let frame = raw.next().expect("the connection has ended");
        assert_ne!(frame.kind, GOAWAY, "{:?}", String::from_utf8_lossy(&frame.payload));
        if frame.kind == PING && frame.flags & ACK != 0 {
            return;
        }
    }
}

#[test]
fn streams_of_thousands_of_small_messages_live() {
    const COUNT: usize = 6000;
    for (name, yaml) in [("HTTP/1", ToEcho::new()), ("HTTP/2", ToEcho::new().h2c())] {
        let weir = yaml.start().run();
        let mut raw = settled(weir.address());
        raw.send(many_messages("/stream", COUNT, true)).unwrap();
        let mut got = Vec::new();
        while got.len() < COUNT * 10 {
            let frame = raw.next_of(1).unwrap_or_else(|| panic!("{name}: the connection has ended after {} bytes", got.len()));
            assert_ne!(frame.kind, GOAWAY, "{name}: after {} bytes: {:?}", got.len(), String::from_utf8_lossy(&frame.payload));
            if frame.kind == DATA {
                got.extend(frame.payload);
            }
        }
        let sent: Vec<u8> = (0..COUNT).flat_map(message).collect();
        assert!(got == sent, "{name}: other bytes, or in another order");
        is_alive(&mut raw);
        assert_eq!(weir.stat(&format!("http.0.0.0.0_{}.downstream_rq_http2_flood", weir.ports[0])), 0);
    }
}

/// An upstream that does not read holds one stream up, not the connection: what came is held within the window.
#[test]
fn small_messages_to_an_upstream_that_does_not_read_end_nothing() {
    let port = frames::upstream(&[], |raw| {
        loop {
            std::thread::park();
            let _held = &raw;
        }
    });
    let weir = ToEcho::new().upstream(port).h2c().start().run();
    let mut raw = settled(weir.address());
    // Less than the window of a stream.
    raw.send(many_messages("/x", 20_000, false)).unwrap();
    is_alive(&mut raw);
    // The same while nothing is connected to yet.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let weir = ToEcho::new().upstream(port).start().run();
    let mut raw = settled(weir.address());
    raw.send(many_messages("/x", 20_000, false)).unwrap();
    is_alive(&mut raw);
}

/// A client that does not read its messages does not block other streams on the connection to the upstream.
#[test]
fn small_messages_of_an_upstream_end_nothing() {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
    let port = frames::upstream(&[], |mut raw| {
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let mut writer = Raw { io: raw.io.try_clone().unwrap() };
        while let Some(frame) = raw.next() {
            if frame.kind == HEADERS && frame.stream == 1 {
                let mut all = frames::frame(HEADERS, END_HEADERS, 1, OK);
                for _ in 0..20_000 {
                    all.extend(frames::frame(DATA, 0, 1, b"\0\0\0\0\x05hello"));
                }
                let _ = writer.send(all);
            } else if frame.kind == HEADERS {
                let _ = writer.send(frames::frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, OK));
            }
        }
    });
    let weir = ToEcho::new().upstream(port).h2c().start().workers(1).run();
    let mut raw = settled(weir.address());
    // Reads as much as its window of 64 KiB holds, and gives none of it back.
    raw.send(frames::get(1, "/many")).unwrap();
    let mut got = 0;
    while got < 65_535 {
        let frame = raw.next_of(1).expect("the connection has ended");
        assert_ne!(frame.kind, GOAWAY);
        got += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
    for _ in 0..5 {
        assert_eq!(weir.get("h.test", "/x").status, 200);
    }
    assert_eq!(CONNECTIONS.load(Ordering::Relaxed), 1, "the upstream's connection was ended");
}

/// Three routes: to nothing that answers, to nothing that listens, and none.
fn routes(hang: u16, dead: u16) -> String {
    let rule = |path: &str, to: &str| format!("matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: {to}, port: 80 }}]");
    let rules = [
        rule("/slow.S/", "hang") + ", timeouts: { request: 300ms }",
        rule("/try.S/", "hang") + ", timeouts: { request: 60s, backendRequest: 300ms }",
        rule("/long.S/", "hang"),
        rule("/dead.S/", "dead"),
    ];
    let services = [Service::new("hang", hang), Service::new("dead", dead)].map(|s| s.h2c().text()).concat();
    ToEcho::new().rules(&rules.each_ref().map(|r| &**r)).routes() + &services
}

#[test]
fn failures_have_the_status_of_grpc() {
    // Reads, and never answers.
    let hang = frames::upstream(&[], |mut raw| while raw.next().is_some() {});
    let weir = Start::new().file("routes.yaml", routes(hang, free_port())).upstreams(0).run();
    for (path, timeout, ends, status) in [
        ("/slow.S/M", None, true, "4"),
        ("/try.S/M", None, true, "4"),
        ("/dead.S/M", None, true, "14"),
        ("/none.S/M", None, true, "12"),
        // The client's own deadline, by which a stream ends that is still being sent.
        ("/long.S/M", Some("200m"), true, "4"),
        ("/long.S/M", Some("200000u"), false, "4"),
        ("/slow.S/M", Some("1H"), true, "4"),
        ("/slow.S/M", Some("soon"), true, "4"),
        ("/slow.S/M", Some("123456789n"), true, "4"),
    ] {
        runtime().block_on(async {
            let mut client = h2c(weir.address()).await.ready().await.unwrap();
            let mut request =
                Request::post(format!("http://h.test{path}")).header("content-type", "application/grpc+proto").header("te", "trailers");
            if let Some(timeout) = timeout {
                request = request.header("grpc-timeout", timeout);
            }
            let (response, _out) = client.send_request(request.body(()).unwrap(), ends).unwrap();
            let head = response.await.unwrap();
            let of = |name: &str| head.headers().get(name).map(|v| v.to_str().unwrap());
            assert_eq!(
                (head.status().as_u16(), of("content-type"), of("grpc-status")),
                (200, Some("application/grpc"), Some(status)),
                "{path} {timeout:?}: {head:?}"
            );
        });
    }
    // The header means nothing to other requests.
    let mut c = Connection::open(weir.address()).unwrap();
    assert_eq!(c.request("GET", "h.test", "/slow.S/M", &[("grpc-timeout", "1n")], b"").unwrap().status, 504);
    let log = weir.says("/slow.S/M");
    assert!(log.iter().any(|l| l.contains(" UT ")), "{log:?}");
    assert_eq!(client::get(weir.address(), "h.test", "/none.S/M").unwrap().status, 404);
}
