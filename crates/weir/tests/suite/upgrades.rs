//! Tunnels of upgraded connections carry bytes and nothing else: any bytes, in any pieces, both ways at once, over every pair of
//! versions and TLS; a slow reader makes the other side wait.
use crate::{
    client::Connection,
    harness::{Start, Weir, eventually, raw_upstream, runtime},
    streams::h2c,
    tls::{connect, secret},
    yaml::ToEcho,
};
use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request};
use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use weir_test::self_signed;

const UPGRADE: &str = "GET /x HTTP/1.1\r\nhost: h.test\r\nconnection: upgrade\r\nupgrade: bytes/1\r\n\r\n";

/// Sizes around every border of buffers and frames.
const PIECES: [usize; 16] = [1, 2, 125, 126, 127, 1000, 4095, 4096, 4097, 9000, 16_383, 16_384, 16_385, 40_000, 65_535, 65_537];

/// Bytes of no pattern (xorshift).
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn gateways() -> [(&'static str, Weir); 2] {
    [("HTTP/1", ToEcho::new()), ("HTTP/2", ToEcho::new().h2c())].map(|(up, yaml)| (up, yaml.start().run()))
}

/// Writes all of it in pieces, then ends; reads all that comes back meanwhile.
fn back_and_forth(mut io: TcpStream, data: &[u8]) -> Vec<u8> {
    io.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut writer = io.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut left = data;
            for size in PIECES.into_iter().cycle() {
                let piece = &left[..size.min(left.len())];
                writer.write_all(piece).unwrap();
                left = &left[piece.len()..];
                if left.is_empty() {
                    break;
                }
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        io.read_to_end(&mut back).unwrap();
        back
    })
}

#[test]
fn any_bytes_pass_untouched() {
    let data = noise(3_000_000);
    for (upstream, weir) in gateways() {
        // HTTP/1, with the first bytes right behind the head.
        let mut io = TcpStream::connect(weir.address()).unwrap();
        io.write_all(&[UPGRADE.as_bytes(), b"early"].concat()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\nearly") {
            let mut byte = [0];
            io.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{upstream}");
        assert!(back_and_forth(io, &data) == data, "from HTTP/1 to {upstream}: other bytes, or no end");
        // HTTP/2.
        runtime().block_on(async {
            let mut client = h2c(weir.address()).await.ready().await.unwrap();
            while !client.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut request = Request::builder().method(Method::CONNECT).uri("http://h.test/x").body(()).unwrap();
            request.extensions_mut().insert(Protocol::from_static("bytes/1"));
            let (response, mut out) = client.send_request(request, false).unwrap();
            let mut body = response.await.unwrap().into_body();
            let sending = async {
                let mut left = Bytes::copy_from_slice(&data);
                for size in PIECES.into_iter().cycle() {
                    out.reserve_capacity(size.min(left.len()));
                    let room = poll_fn(|cx| out.poll_capacity(cx)).await.unwrap().unwrap();
                    let piece = left.split_to(room.min(size).min(left.len()));
                    out.send_data(piece, left.is_empty()).unwrap();
                    if left.is_empty() {
                        return;
                    }
                }
            };
            let receiving = async {
                let mut back = Vec::new();
                while let Some(piece) = body.data().await {
                    let piece = piece.unwrap();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                    back.extend_from_slice(&piece);
                }
                back
            };
            let ((), back) = tokio::join!(sending, receiving);
            assert!(back == data, "from HTTP/2 to {upstream}: other bytes");
        });
    }
}

/// A switch of protocols has no body, whatever its head says.
#[test]
fn a_length_beside_a_switch_of_protocols_is_dropped() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: bytes/1\r\nContent-Length: 5\r\nX-Kept: 1\r\n\r\nhello";
    let port = raw_upstream(|_| switch.into());
    let weir = ToEcho::new().upstream(port).start().run();
    let mut c = Connection::open(weir.address()).unwrap();
    c.send(UPGRADE).unwrap();
    let head = c.head().unwrap();
    assert_eq!((head.status, head.header("content-length"), head.header("x-kept")), (101, None, Some("1")));
    assert_eq!(c.bytes(5).unwrap(), b"hello");
    runtime().block_on(async {
        let mut client = h2c(weir.address()).await;
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let mut request = Request::builder().method(Method::CONNECT).uri("http://h.test/x").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("bytes/1"));
        let answer = client.send_request(request, false).unwrap().0.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (200, None));
    });
}

#[test]
fn bytes_pass_under_tls() {
    let made = self_signed(&["h.test"]);
    let yaml = ToEcho::new().tls("c").text();
    let weir = Start::new().file("gateway.yaml", yaml).file("secret.yaml", secret("c", &made)).run();
    let (mut c, _) = connect(&weir, "h.test", &made.der).unwrap();
    c.send(UPGRADE).unwrap();
    assert_eq!(c.head().unwrap().status, 101);
    let data = noise(65_537);
    for size in PIECES {
        c.send(&data[..size]).unwrap();
        assert!(c.bytes(size).unwrap() == data[..size], "{size}");
    }
}

#[test]
fn a_slow_reader_makes_the_tunnel_wait() {
    for (upstream, weir) in gateways() {
        let mut c = Connection::open(weir.address()).unwrap();
        c.send("GET /x HTTP/1.1\r\nhost: h.test\r\n\r\n").unwrap();
        c.answer().unwrap();
        let before = weir.resident_kb();
        let mut io = TcpStream::connect(weir.address()).unwrap();
        io.write_all(UPGRADE.as_bytes()).unwrap();
        let (data, written) = (noise(1_000_000), AtomicUsize::new(0));
        let mut writer = io.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100 {
                    writer.write_all(&data).unwrap();
                    written.fetch_add(1, Ordering::Relaxed);
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            // Nobody reads: the writer gets as far as sockets hold, and no further.
            let (mut last, mut since) = (0, Instant::now());
            eventually("the writer to be made to wait", || {
                let now = written.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                (since.elapsed() > Duration::from_millis(500)).then_some(())
            });
            let grown = weir.resident_kb().saturating_sub(before);
            assert!(last < 100 && grown < 20_000, "{upstream}: {last} MB went in, {grown} kB are held");
            let mut all = 0;
            let mut piece = vec![0; 65536];
            while let n @ 1.. = io.read(&mut piece).unwrap() {
                all += n;
            }
            assert!(all > 100_000_000, "{upstream}: {all}");
        });
    }
}

#[test]
fn the_bytes_of_a_tunnel_are_counted() {
    for (upstream, yaml) in [("HTTP/1", ToEcho::new()), ("HTTP/2", ToEcho::new().h2c())] {
        let format = "counted %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_WIRE_BYTES_SENT% %UPSTREAM_WIRE_BYTES_RECEIVED% %DOWNSTREAM_HEADER_BYTES_SENT% .";
        let weir = yaml.start().arg("--access-log-format").arg(format).run();
        let mut c = Connection::open(weir.address()).unwrap();
        c.send(UPGRADE).unwrap();
        let head = c.head().unwrap();
        assert_eq!(head.status, 101, "{upstream}");
        let mut io = c.into_inner();
        io.write_all(&noise(100_000)).unwrap();
        io.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        io.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), 100_000, "{upstream}");
        let line = weir.says("counted ").remove(0);
        let of_line: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [received, sent, to_upstream, from_upstream, head_sent] = of_line[..] else { panic!("{line}") };
        assert_eq!((received, sent), (100_000, 100_000), "{upstream}: {line}");
        // With a head each.
        let more = |n: u64| (100_000..101_000).contains(&n);
        assert!(more(to_upstream) && more(from_upstream) && (50..1000).contains(&head_sent), "{upstream}: {line}");
        let counted = ["upstream_cx_tx_bytes_total", "upstream_cx_rx_bytes_total"].map(|name| {
            let all = weir.admin("/stats?filter=^cluster.*").body;
            let of_name = all.lines().filter(|line| line.contains(&format!(".{name}: ")));
            of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
        });
        assert_eq!(counted, [to_upstream, from_upstream], "{upstream}");
    }
}
