//! What is longer than a request and an answer: WebSocket, server-sent events, gRPC, trailers, large bodies both ways.
use crate::{
    client::Connection,
    harness::{Start, TO_ECHO, Weir, free_port, runtime},
    yaml::ToEcho,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

fn gateway() -> Weir {
    Start::new().file("gateway.yaml", TO_ECHO).run()
}

pub async fn websocket(to: SocketAddr) -> WebSocketStream<TcpStream> {
    let io = TcpStream::connect(to).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://{to}/chat"), io).await.unwrap().0
}

pub async fn says(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
}

#[test]
fn a_websocket_carries_messages_both_ways() {
    let weir = gateway();
    runtime().block_on(async {
        let mut socket = websocket(weir.address()).await;
        says(&mut socket, "hello").await;
        let large = "x".repeat(300_000);
        says(&mut socket, &large).await;
        socket.close(None).await.unwrap();
        assert!(socket.next().await.is_none_or(|m| m.is_err() || m.unwrap().is_close()));
    });
}

#[test]
fn events_pass_one_by_one() {
    let weir = gateway();
    let events = |query: &str| {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(format!("GET /sse?{query} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        let head = c.head().unwrap();
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        c
    };
    // The second comes after ten minutes: the first does not wait for it.
    let first = events("n=2&every=10m").chunk().unwrap().unwrap();
    assert!(String::from_utf8(first).unwrap().contains("event 1"));
    let (mut c, mut all) = (events("n=3&every=1ms"), String::new());
    while let Some(piece) = c.chunk().unwrap() {
        all += &String::from_utf8(piece).unwrap();
    }
    assert!((1..=3).all(|i| all.contains(&format!("event {i}"))), "{all}");
}

#[test]
fn trailers_continue_and_head_are_kept() {
    let weir = gateway();
    let mut c = Connection::open(weir.address()).unwrap();
    c.send("GET /trailers HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n").unwrap();
    let answer = c.answer().unwrap();
    assert_eq!(answer.trailers, [("x-echo-trailer".to_string(), "the end".to_string())]);

    c.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(c.head().unwrap().status, 100);
    c.send("abc").unwrap();
    assert_eq!(c.answer().unwrap().json()["body"], "abc");

    c.send("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: v\r\n\r\n").unwrap();
    let told = c.answer().unwrap().json();
    assert_eq!((told["body"].as_str(), told["trailers"]["x-t"].as_str()), (Some("abc"), Some("v")));

    c.send("HEAD /bytes/5000 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(c.head().unwrap().header("content-length"), Some("5000"));
    c.send("GET /status/204 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(c.answer().unwrap().status, 204);
    c.send("GET /status/304 HTTP/1.1\r\nHost: h\r\n\r\nGET /last HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(c.answer().unwrap().status, 304);
    assert_eq!(c.answer().unwrap().json()["path"], "/last");
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    let weir = gateway();
    let mut c = Connection::open(weir.address()).unwrap();
    for size in [0, 1, 1023, 4096, 4097, 65_536, 70_000, 3_000_000] {
        let got = c.request("GET", "h", &format!("/bytes/{size}"), &[], b"").unwrap();
        assert_eq!((got.status, got.body.len()), (200, size));
        let body = vec![b'y'; size];
        let told = c.request("POST", "h", "/x", &[], &body).unwrap().json();
        assert_eq!(told["body_bytes"], size, "{size}");
    }
    let before = weir.resident_kb();
    let mut slow = Connection::open(weir.address()).unwrap();
    slow.send("GET /bytes/400000000 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    slow.bytes(1_000_000).unwrap();
    weir.rests();
    assert!(weir.resident_kb() < before + 20_000, "a slow reader makes the gateway hold {} kB", weir.resident_kb() - before);
}

/// A client of HTTP/2 without TLS.
pub async fn h2c(to: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// A gRPC message: uncompressed, with its length.
fn message(text: &str) -> Bytes {
    let mut out = vec![0];
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
    out.into()
}

/// Messages one after the other on one stream, each answered before the next is sent; then the trailers.
async fn grpc(to: SocketAddr, messages: &[&str], status: &str) -> (Vec<Bytes>, HeaderMap) {
    let mut client = h2c(to).await.ready().await.unwrap();
    let request = Request::post(format!("http://{to}/echo.Echo/Talk"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-echo-grpc-status", status)
        .body(())
        .unwrap();
    let (response, mut out) = client.send_request(request, false).unwrap();
    let mut body = None;
    let mut response = Some(response);
    let mut answers = Vec::new();
    for text in messages {
        out.send_data(message(text), false).unwrap();
        if let Some(response) = response.take() {
            let head = response.await.unwrap();
            assert_eq!(head.status(), 200, "{head:?}");
            body = Some(head.into_body());
        }
        let body = body.as_mut().unwrap();
        let piece = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        answers.push(piece);
    }
    out.send_data(Bytes::new(), true).unwrap();
    let mut body = body.unwrap();
    assert!(body.data().await.is_none());
    (answers, body.trailers().await.unwrap().unwrap_or_default())
}

#[test]
fn grpc_streams_talk_in_turns_and_end_with_trailers() {
    let weir = ToEcho::new().h2c().start().run();
    runtime().block_on(async {
        let (answers, trailers) = grpc(weir.address(), &["one", "two", "three"], "7").await;
        assert_eq!(answers, [message("one"), message("two"), message("three")]);
        assert_eq!(trailers["grpc-status"], "7");
    });
}

#[test]
fn grpc_callers_learn_of_a_dead_upstream_in_their_own_words() {
    let weir = ToEcho::new().upstream(free_port()).start().run();
    runtime().block_on(async {
        let mut client = h2c(weir.address()).await.ready().await.unwrap();
        let request = Request::post("http://h/echo.Echo/Talk").header("content-type", "application/grpc").body(()).unwrap();
        let head = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!((head.status().as_u16(), head.headers()["grpc-status"].to_str().unwrap()), (200, "14"), "{head:?}");
    });
}

#[test]
fn http2_streams_share_a_connection() {
    let weir = gateway();
    runtime().block_on(async {
        let client = h2c(weir.address()).await;
        let ask = |i: usize| {
            let client = client.clone();
            let to = weir.address();
            async move {
                let request = Request::get(format!("http://{to}/bytes/{}", 1000 * i)).body(()).unwrap();
                let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
                let mut body = response.await.unwrap().into_body();
                let mut size = 0;
                while let Some(piece) = body.data().await {
                    let piece = piece.unwrap();
                    size += piece.len();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                }
                assert_eq!(size, 1000 * i);
            }
        };
        let tasks: Vec<_> = (0..80).map(|i| tokio::spawn(ask(i))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}
