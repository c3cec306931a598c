//! HTTP/2 towards upstreams: what is carried, how streams and connections end, what one stream may take from others.
use crate::{
    client::Connection,
    frames::{self, ACK, END_HEADERS, END_STREAM, GOAWAY, HEADERS, OK, PING, RST_STREAM, Raw, SETTINGS},
    harness::{PATIENCE, Start, TO_ECHO, Weir, eventually, runtime},
    streams::{h2c, says, websocket},
    yaml::ToEcho,
};
use bytes::Bytes;
use h2::{Reason, RecvStream, ext::Protocol};
use http::{HeaderMap, Method, Request, Response};
use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc, oneshot};
use weir::echo;
use weir_test::self_signed;

/// A gateway in front of an upstream of HTTP/2 without TLS.
fn to_port(port: u16) -> Weir {
    ToEcho::new().upstream(port).h2c().start().run()
}

/// By Istio's objects: the ServiceEntry's protocol and the DestinationRule's traffic policy.
pub fn istio(port: &str, protocol: &str, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: g }}\nspec:\n  servers: [{{ port: {{ number: $PORT, name: http, protocol: HTTP }}, hosts: ['*'] }}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: v }}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  http: [{{ route: [{{ destination: {{ host: up.test, port: {{ number: 80 }} }} }}] }}]\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: up }}\nspec:\n  hosts: [up.test]\n  ports: [{{ number: 80, name: web, protocol: {protocol} }}]\n  resolution: STATIC\n  endpoints: [{{ address: 127.0.0.1, ports: {{ web: {port} }} }}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: up }}\nspec:\n  host: up.test\n  trafficPolicy: {policy}\n"
    )
}

/// Everything that comes on a stream, and what follows it.
async fn read(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok((all, body.trailers().await?.unwrap_or_default()))
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let made = self_signed(&["up.test"]);
    let folder = tempfile::tempdir().unwrap();
    let files = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&files.0, &made.pem).unwrap();
    std::fs::write(&files.1, &made.key).unwrap();
    let options = echo::Options { name: "tls".into(), tls: Some(files), ..echo::Options::default() };
    let tls = runtime().block_on(echo::Server::start(options)).unwrap();
    let named = ToEcho::new().service(|s| s.port_name("http2-web")).text();
    let skip = "{ tls: { mode: SIMPLE, insecureSkipVerify: true } }";
    let table = [
        ("appProtocol", ToEcho::new().h2c().text()),
        ("the port's name", named),
        ("protocol GRPC", istio("$ECHO", "GRPC", "{}")),
        ("h2UpgradePolicy", istio("$ECHO", "HTTP", "{ connectionPool: { http: { h2UpgradePolicy: UPGRADE } } }")),
        ("TLS and ALPN", istio(&tls.address().port().to_string(), "HTTP2", skip)),
    ];
    for (name, yaml) in table {
        let weir = Start::new().file("gateway.yaml", yaml).run();
        let mut c = Connection::open(weir.address()).unwrap();
        let told = c.request("GET", "h.test", "/x", &[], b"").unwrap();
        assert_eq!(told.json()["protocol"], "HTTP/2.0", "{name}: {told:?}");
        let body = "x".repeat(200_000);
        let head = "POST /stream HTTP/1.1\r\nHost: h.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
        c.send(format!("{head}{:x}\r\n{body}\r\n0\r\nX-T: v\r\n\r\n", body.len())).unwrap();
        let back = c.answer().unwrap();
        assert!(back.body == body && back.trailers == [("x-t".to_string(), "v".to_string())], "{name}: {:?}", back.trailers);
        let large = c.request("GET", "h.test", "/bytes/3000000", &[], b"").unwrap();
        assert_eq!(large.body.len(), 3_000_000, "{name}");
        runtime().block_on(async {
            let client = h2c(weir.address()).await;
            let request = Request::post("http://h.test/stream").header("te", "trailers").body(()).unwrap();
            let (response, mut out) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
            let sending = async {
                let mut left = Bytes::from(vec![b'y'; 300_000]);
                while !left.is_empty() {
                    out.reserve_capacity(left.len());
                    let n = poll_fn(|cx| out.poll_capacity(cx)).await.unwrap().unwrap();
                    out.send_data(left.split_to(n.min(left.len())), false).unwrap();
                }
                out.send_trailers(HeaderMap::from_iter([("x-t".parse().unwrap(), "w".parse().unwrap())])).unwrap();
            };
            let receiving = async { read(response.await.unwrap().into_body()).await.unwrap() };
            let (all, trailers) = tokio::join!(receiving, sending).0;
            assert!(all.len() == 300_000 && trailers["x-t"] == "w", "{name}: {} bytes, {trailers:?}", all.len());
        });
    }
}

/// What an upstream of the h2 library saw.
type Seen = mpsc::UnboundedReceiver<String>;

/// An upstream that does what the path says: never answers, answers by half, resets. It tells of the resets that it gets, and resets
/// `/midway` when it is notified.
fn resetting() -> (u16, Seen, Arc<Notify>) {
    let (tell, seen) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let reset = go.clone();
    let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime().spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (tell, reset) = (tell.clone(), reset.clone());
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(io).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(stream(request, respond, tell.clone(), reset.clone()));
                }
            });
        }
    });
    (port, seen, go)
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    tell: mpsc::UnboundedSender<String>,
    reset: Arc<Notify>,
) {
    let path = request.uri().path().to_string();
    let answer = |status: u16| Response::builder().status(status).body(()).unwrap();
    match &*path {
        "/never" => {
            let _ = tell.send("began".into());
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
            let _ = tell.send(format!("{path}: {:?}", reason.ok()));
        }
        "/half" => {
            let mut out = respond.send_response(answer(200), false).unwrap();
            out.send_data(Bytes::from_static(b"half"), false).unwrap();
            let reason = poll_fn(|cx| out.poll_reset(cx)).await;
            let _ = tell.send(format!("{path}: {:?}", reason.ok()));
        }
        "/cancel" => respond.send_reset(Reason::CANCEL),
        "/midway" => {
            let mut out = respond.send_response(answer(200), false).unwrap();
            out.send_data(Bytes::from_static(b"half"), false).unwrap();
            // The reset must not overtake what it follows.
            reset.notified().await;
            out.send_reset(Reason::INTERNAL_ERROR);
        }
        "/hints" => {
            for link in ["</a.css>", "</b.css>"] {
                respond.send_informational(Response::builder().status(103).header("link", link).body(()).unwrap()).unwrap();
            }
            respond.send_response(answer(200), true).unwrap();
        }
        _ => drop(respond.send_response(answer(200), true)),
    }
}

#[test]
fn resets_reach_the_other_side() {
    let (port, mut seen, reset) = resetting();
    let weir = to_port(port);
    let get = |path: &str| Request::get(format!("http://h.test{path}")).body(()).unwrap();
    runtime().block_on(async {
        let client = h2c(weir.address()).await;
        let send = async |path: &str| client.clone().ready().await.unwrap().send_request(get(path), false).unwrap();
        // The client's go to the upstream, before the answer and within it.
        let (_response, mut out) = send("/never").await;
        assert_eq!(seen.recv().await.unwrap(), "began");
        out.send_reset(Reason::CANCEL);
        assert_eq!(seen.recv().await.unwrap(), "/never: Some(CANCEL)");
        let (response, mut out) = send("/half").await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        out.send_reset(Reason::CANCEL);
        assert_eq!(seen.recv().await.unwrap(), "/half: Some(CANCEL)");
        // The upstream's go to the client.
        let (response, _out) = send("/cancel").await;
        assert_eq!(response.await.unwrap().status(), 503);
        let (response, _out) = send("/midway").await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        reset.notify_one();
        let error = read(body).await.unwrap_err();
        assert!(error.is_reset() && error.is_remote(), "{error:?}");
        let (response, _out) = send("/fine").await;
        assert_eq!(response.await.unwrap().status(), 200, "the connection is hurt");
    });
    // The same with a client of HTTP/1, which can only leave or be left.
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /never HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
    assert_eq!(seen.blocking_recv().unwrap(), "began");
    drop(c);
    assert_eq!(seen.blocking_recv().unwrap(), "/never: Some(CANCEL)");
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /half HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
    assert_eq!(c.head().unwrap().status, 200);
    assert_eq!(c.chunk().unwrap().unwrap(), b"half");
    drop(c);
    assert_eq!(seen.blocking_recv().unwrap(), "/half: Some(CANCEL)");
    assert_eq!(weir.get("h.test", "/cancel").status, 503);
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /midway HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
    assert_eq!(c.head().unwrap().status, 200);
    assert_eq!(c.chunk().unwrap().unwrap(), b"half");
    reset.notify_one();
    assert!(c.chunk().is_err(), "a broken answer looks whole");
    let log = eventually("the access log", || weir.lines("/cancel").first().cloned());
    assert!(log.contains(" UR "), "{log}");
}

#[test]
fn interim_answers_reach_the_client() {
    let (port, _seen, _reset) = resetting();
    let over_http1 = crate::harness::raw_upstream(|_| {
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: close\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()
    });
    let http1 = ToEcho::new().upstream(over_http1).start().run();
    for (name, weir) in [("HTTP/2", to_port(port)), ("HTTP/1", http1)] {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("GET /hints HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
        for link in ["</a.css>", "</b.css>"] {
            let head = c.head().unwrap();
            assert_eq!((head.status, head.header("link"), head.header("connection")), (103, Some(link), None), "{name}");
        }
        assert_eq!(c.answer().unwrap().status, 200, "{name}");
        // A client of HTTP/1.0 knows of none.
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("GET /hints HTTP/1.0\r\nHost: h.test\r\n\r\n").unwrap();
        assert_eq!(c.head().unwrap().status, 200, "{name}");
        runtime().block_on(async {
            let client = h2c(weir.address()).await;
            let request = Request::get("http://h.test/hints").body(()).unwrap();
            let mut response = client.ready().await.unwrap().send_request(request, true).unwrap().0;
            for link in ["</a.css>", "</b.css>"] {
                let head = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
                assert!(head.status() == 103 && head.headers()["link"] == link, "{name}: {head:?}");
            }
            assert_eq!(response.await.unwrap().status(), 200, "{name}");
        });
    }
}

/// Serves this many requests, then sends GOAWAY and reads no more.
fn go_away(mut raw: Raw, most: u32, served: &AtomicU32) {
    let mut count = 0;
    while let Some(frame) = raw.next() {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => drop(raw.send(frames::frame(SETTINGS, ACK, 0, &[]))),
            PING if frame.flags & ACK == 0 => drop(raw.send(frames::frame(PING, ACK, 0, &frame.payload))),
            HEADERS if count < most => {
                count += 1;
                served.fetch_add(1, Ordering::Relaxed);
                let mut out = frames::frame(HEADERS, END_HEADERS | END_STREAM, frame.stream, OK);
                if count == most {
                    // Answered after the notice, as a server may.
                    let notice = [frame.stream.to_be_bytes(), [0; 4]].concat();
                    out = [frames::frame(GOAWAY, 0, 0, &notice), out].concat();
                }
                let _ = raw.send(out);
            }
            _ => {}
        }
    }
}

#[test]
fn an_upstream_that_goes_away_loses_no_request() {
    static SERVED: AtomicU32 = AtomicU32::new(0);
    let port = frames::upstream(&[], |raw| go_away(raw, 20, &SERVED));
    let weir = to_port(port);
    let to = weir.address();
    let ask = move |post: bool| async move {
        let client = h2c(to).await;
        for i in 0..60 {
            let method = if post { Method::POST } else { Method::GET };
            let request = Request::builder().method(method).uri(format!("http://h.test/{i}")).body(()).unwrap();
            let (response, mut out) = client.clone().ready().await.unwrap().send_request(request, !post).unwrap();
            if post {
                out.send_data(Bytes::from_static(b"a body"), true).unwrap();
            }
            assert_eq!(response.await.unwrap().status(), 200, "request {i}, post: {post}");
        }
    };
    runtime().block_on(async {
        let tasks: Vec<_> = (0..8).map(|i| tokio::spawn(ask(i % 2 == 0))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(SERVED.load(Ordering::Relaxed), 480, "served twice or not at all");
}

/// Answers after a moment; refuses streams beyond two at once and counts those that came although the limit was known.
fn two_at_once(mut raw: Raw, violations: &AtomicUsize) {
    let mut writer = Raw { io: raw.io.try_clone().unwrap() };
    let open = Arc::new(Mutex::new(0usize));
    let mut knows = false;
    let (queue, work) = std::sync::mpsc::channel::<u32>();
    let counted = open.clone();
    let answers = std::thread::spawn(move || {
        for stream in work {
            std::thread::sleep(Duration::from_millis(3));
            // The place is free before the client can know.
            *counted.lock().unwrap() -= 1;
            let _ = writer.send(frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, OK));
        }
    });
    while let Some(frame) = raw.next() {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => drop(raw.send(frames::frame(SETTINGS, ACK, 0, &[]))),
            SETTINGS => knows = true,
            HEADERS => {
                let mut open = open.lock().unwrap();
                if *open == 2 {
                    violations.fetch_add(usize::from(knows), Ordering::Relaxed);
                    let _ = raw.send(frames::frame(RST_STREAM, 0, frame.stream, &7u32.to_be_bytes()));
                } else {
                    *open += 1;
                    queue.send(frame.stream).unwrap();
                }
            }
            _ => {}
        }
    }
    drop(queue);
    answers.join().unwrap();
}

#[test]
fn an_upstream_gets_no_more_streams_than_it_allows() {
    static VIOLATIONS: AtomicUsize = AtomicUsize::new(0);
    // SETTINGS_MAX_CONCURRENT_STREAMS: 2.
    let port = frames::upstream(&[0, 3, 0, 0, 0, 2], |raw| two_at_once(raw, &VIOLATIONS));
    let weir = to_port(port);
    let to = weir.address();
    runtime().block_on(async {
        let client = h2c(to).await;
        for _ in 0..3 {
            let ask = |i: u32| {
                let client = client.clone();
                async move {
                    let request = Request::get(format!("http://h.test/{i}")).body(()).unwrap();
                    client.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap().status()
                }
            };
            let tasks: Vec<_> = (0..30).map(|i| tokio::spawn(ask(i))).collect();
            for task in tasks {
                assert_eq!(task.await.unwrap(), 200);
            }
        }
    });
    assert_eq!(VIOLATIONS.load(Ordering::Relaxed), 0, "streams beyond the upstream's limit");
}

#[test]
fn a_slow_reader_stalls_nobody_else() {
    let weir = ToEcho::new().h2c().start().run();
    let before = weir.resident_kb();
    // Clients of HTTP/1 that read nothing share the connections to the upstream with all others.
    let stalled: Vec<_> = (0..24)
        .map(|_| {
            let mut c = Connection::open(weir.address()).unwrap();
            c.send("GET /bytes/100000000 HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
            c.head().unwrap();
            c
        })
        .collect();
    weir.rests();
    for _ in 0..20 {
        assert_eq!(weir.get("h.test", "/bytes/300000").body.len(), 300_000);
    }
    // Streams of one connection of HTTP/2 likewise.
    runtime().block_on(async {
        let io = tokio::net::TcpStream::connect(weir.address()).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(8 << 20);
        let (client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
        tokio::spawn(connection);
        let ask = async |path: &str| {
            let request = Request::get(format!("http://h.test{path}")).body(()).unwrap();
            client.clone().ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap().into_body()
        };
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(ask("/bytes/100000000").await);
        }
        for _ in 0..5 {
            assert_eq!(read(ask("/bytes/300000").await).await.unwrap().0.len(), 300_000);
        }
    });
    let grown = weir.resident_kb().saturating_sub(before);
    assert!(grown < 60_000, "{grown} kB are held for slow readers");
    drop(stalled);
}

/// A WebSocket's text frame, from a client or from a server.
fn text_frame(text: &str, masked: bool) -> Bytes {
    let mut out = vec![0x81, text.len() as u8];
    if masked {
        out[1] |= 0x80;
        out.extend([1, 2, 3, 4]);
        out.extend(text.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(b, m): (u8, u8)| b ^ m));
    } else {
        out.extend(text.bytes());
    }
    out.into()
}

async fn exactly(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let piece = body.data().await.expect("the tunnel ended").unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    all
}

#[test]
fn websockets_cross_between_the_versions() {
    for (upstream, yaml) in [("HTTP/1", ToEcho::new()), ("HTTP/2", ToEcho::new().h2c())] {
        let weir = yaml.start().run();
        runtime().block_on(async {
            // From HTTP/1.
            let mut socket = websocket(weir.address()).await;
            says(&mut socket, "hello").await;
            says(&mut socket, &"x".repeat(100_000)).await;
            // From HTTP/2 (RFC 8441).
            let client = h2c(weir.address()).await.ready().await.unwrap();
            let mut client = client;
            let begun = Instant::now();
            while !client.is_extended_connect_protocol_enabled() {
                assert!(begun.elapsed() < PATIENCE, "no extended CONNECT");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let connect = |protocol: &'static str| {
                let mut request = Request::builder().method(Method::CONNECT).uri("http://h.test/chat").body(()).unwrap();
                request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
                request.extensions_mut().insert(Protocol::from_static(protocol));
                request
            };
            let (response, mut out) = client.send_request(connect("websocket"), false).unwrap();
            let head = response.await.unwrap();
            assert_eq!(head.status(), 200, "{upstream}: {head:?}");
            assert!(!head.headers().contains_key("sec-websocket-accept") && !head.headers().contains_key("upgrade"), "{head:?}");
            let mut body = head.into_body();
            for text in ["one", "two"] {
                out.send_data(text_frame(text, true), false).unwrap();
                assert_eq!(exactly(&mut body, 5).await, text_frame(text, false), "{upstream}");
            }
            // Any other protocol is bytes; its end is passed on.
            let mut client = client.ready().await.unwrap();
            let (response, mut out) = client.send_request(connect("chat/1"), false).unwrap();
            let mut body = response.await.unwrap().into_body();
            out.send_data(Bytes::from_static(b"bytes"), true).unwrap();
            assert_eq!(exactly(&mut body, 5).await, b"bytes");
            assert_eq!(read(body).await.unwrap().0, b"", "{upstream}: no end");
        });
        let upgrades = weir.stat(&format!("http.0.0.0.0_{}.downstream_cx_upgrades_total", weir.ports[0]));
        assert_eq!(upgrades, 3, "{upstream}");
    }
}

/// An upgrade to HTTP/2 within the connection would carry requests past every route.
#[test]
fn an_upgrade_to_h2c_is_not_passed_on() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mut c = Connection::open(weir.address()).unwrap();
    let headers = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")];
    let told = c.request("GET", "h.test", "/x", &headers, b"").unwrap();
    assert_eq!(told.status, 200, "{told:?}");
    let seen = &told.json()["headers"];
    assert!(seen.get("upgrade").is_none() && seen.get("http2-settings").is_none(), "{seen}");
}

/// When the gateway stops, active streams finish and clients get GOAWAY.
#[test]
fn running_streams_finish_while_the_gateway_ends() {
    let mut weir = ToEcho::new().h2c().start().arg("--drain-time").arg("1s").run();
    let to: SocketAddr = weir.address();
    let served = Arc::new(AtomicU32::new(0));
    let count = served.clone();
    // Well-behaved clients: after GOAWAY they open another connection; if they cannot connect, they stop.
    let client = move |count: Arc<AtomicU32>| async move {
        while let Ok(io) = tokio::net::TcpStream::connect(to).await {
            let Ok((client, connection)) = h2::client::handshake::<_>(io).await else { return };
            let mut connection = tokio::spawn(connection);
            loop {
                let request = Request::get("http://h.test/x?delay=3ms").body(()).unwrap();
                let ready = tokio::select! { ready = client.clone().ready() => ready, _ = &mut connection => break };
                let Ok(mut ready) = ready else { break };
                let Ok((response, _)) = ready.send_request(request, true) else { break };
                match response.await {
                    Ok(head) => assert_eq!(head.status(), 200),
                    // What came after the notice was not served, and may be asked elsewhere.
                    Err(e) if e.is_go_away() && e.reason() == Some(Reason::NO_ERROR) => break,
                    Err(e) => panic!("a request was lost: {e:?}"),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let clients: Vec<_> = (0..4).map(|_| runtime().spawn(client(count.clone()))).collect();
    eventually("traffic", || (served.load(Ordering::Relaxed) > 100).then_some(()));
    let (begun, begins) = oneshot::channel();
    let slow = runtime().spawn(async move {
        let client = h2c(to).await;
        let request = Request::get("http://h.test/sse?n=15&every=100ms").body(()).unwrap();
        let response = client.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap();
        begun.send(()).unwrap();
        let (body, _) = read(response.into_body()).await.unwrap();
        String::from_utf8(body).unwrap()
    });
    runtime().block_on(begins).unwrap();
    weir.signal("TERM");
    let body = runtime().block_on(slow).unwrap();
    assert!(body.contains("event 15"), "a running stream was cut: {body}");
    assert!(weir.ended().success(), "{}", weir.printed());
    for client in clients {
        runtime().block_on(client).expect("a request was lost");
    }
}
