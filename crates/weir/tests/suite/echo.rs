//! The echo upstream, which the other tests lean on.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};
use weir::echo::{Options, Server};

/// What comes back for these bytes until the server closes.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut s = TcpStream::connect(address).unwrap();
    s.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A cut connection is one of the answers.
    let _ = s.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn answers_as_asked() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(Options { name: "one".into(), ..Options::default() })).unwrap();
    for (target, head, expected) in [
        (
            "/a/b?c=d",
            "x-y: z\r\n",
            vec!["HTTP/1.1 200", "\"path\": \"/a/b\"", "\"query\": \"c=d\"", "\"x-y\": \"z\"", "\"name\": \"one\"", "\"host\": \"h.test\""],
        ),
        ("/status/503", "", vec!["HTTP/1.1 503"]),
        ("/bytes/70000", "", vec!["HTTP/1.1 200", "xxxx"]),
        ("/sse?n=2&every=1ms", "", vec!["text/event-stream", "data: event 1\n\n", "data: event 2\n\n"]),
        ("/trailers", "te: trailers\r\n", vec!["a body with a trailer", "x-echo-trailer: the end"]),
        ("/x", "x-echo-status: 418\r\nx-echo-header: a=b\r\n", vec!["HTTP/1.1 418", "a: b"]),
        ("/flaky/1?fail=1", "", vec!["HTTP/1.1 503"]),
        ("/flaky/1?fail=1", "", vec!["HTTP/1.1 200", "succeeded after 2"]),
    ] {
        let answer = ask(server.address(), &format!("GET {target} HTTP/1.1\r\nhost: h.test\r\nconnection: close\r\n{head}\r\n"));
        for part in expected {
            assert!(answer.contains(part), "{target}: no {part} in {answer}");
        }
    }
    assert_eq!(ask(server.address(), "GET /reset HTTP/1.1\r\nhost: h\r\n\r\n"), "");
    let cut = ask(server.address(), "GET /reset?after=10 HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(cut.contains("xxxxxxxxxx") && !cut.ends_with("0\r\n\r\n"), "{cut}");
}

#[test]
fn returns_the_bytes_of_an_upgrade_and_a_body_as_it_comes() {
    let server = crate::harness::echo_server("one");
    let mut c = crate::client::Connection::open(server.address()).unwrap();
    c.send("GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n").unwrap();
    let head = c.head().unwrap();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("chat")));
    c.send("ping").unwrap();
    assert_eq!(c.bytes(4).unwrap(), b"ping");

    let mut c = crate::client::Connection::open(server.address()).unwrap();
    c.send("POST /stream HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for piece in ["one", "two"] {
        c.send(format!("3\r\n{piece}\r\n")).unwrap();
        if piece == "one" {
            assert_eq!(c.head().unwrap().status, 200);
        }
        // The second piece is sent only once the first is back.
        assert_eq!(c.chunk().unwrap().unwrap(), piece.as_bytes());
    }
}
