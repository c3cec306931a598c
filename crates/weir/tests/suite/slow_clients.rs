//! Clients that connect and then take their time: each has until the head timeout from its first byte, and an idle one until
//! the idle timeout.
use crate::{
    frames::{self, HEADERS, Raw, block, frame},
    harness::{Start, TO_ECHO, Weir, eventually},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

fn settings(downstream: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  higress: |\n    downstream: {{ {downstream} }}\n"
    )
}

fn open(weir: &Weir) -> TcpStream {
    let io = TcpStream::connect(weir.address()).unwrap();
    io.set_nodelay(true).unwrap();
    io.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    io
}

fn counter(weir: &Weir, name: &str) -> u64 {
    weir.stat(&format!("http.0.0.0.0_{}.{name}", weir.ports[0]))
}

/// Reads everything until the end; if that takes too long, the panic names the client.
fn rest(mut io: TcpStream, who: &str) -> String {
    let mut all = Vec::new();
    match io.read_to_end(&mut all) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("still open after {who:?}"),
        _ => String::from_utf8_lossy(&all).into_owned(),
    }
}

#[test]
fn a_head_has_the_head_timeout_from_its_first_byte() {
    // Idle connections may live long, so only the timeout for heads can close one here.
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("settings.yaml", settings("requestHeadersTimeout: 1")).run();
    let table = [
        ("P", "408"),
        ("PRI", "408"),
        ("PRI * HTTP/2.0\r\n", ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n", ""),
        ("G", "408"),
        ("GET", "408"),
        ("GET / HTT", "408"),
        ("GET / HTTP/1.1\r\nhost", "408"),
        ("GET / HTTP/1.1\r\nhost: h\r\n", "408"),
        ("\r\n", "408"),
    ];
    let clients: Vec<_> = table
        .into_iter()
        .map(|(begin, expected)| {
            let mut io = open(&weir);
            io.write_all(begin.as_bytes()).unwrap();
            thread::spawn(move || {
                let got = rest(io, begin);
                assert!(got.get(9..).unwrap_or_default().starts_with(expected), "{begin:?}: {got:?}");
            })
        })
        .collect();
    // Sending byte by byte gains no time.
    let mut dripping = open(&weir);
    let reading = dripping.try_clone().unwrap();
    let reader = thread::spawn(move || rest(reading, "a drip"));
    for byte in b"POST /a-rather-long-path".iter().cycle() {
        if reader.is_finished() || dripping.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let got = reader.join().unwrap();
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 408"), "{got}");
    clients.into_iter().for_each(|c| c.join().unwrap());
    eventually("the timeouts are counted", || (counter(&weir, "downstream_rq_header_timeout") >= 8).then_some(()));
    assert_eq!(weir.get("h", "/").status, 200);
}

/// In HTTP/2 a head that does not end holds up its whole connection.
#[test]
fn a_head_of_http2_has_the_head_timeout() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("settings.yaml", settings("requestHeadersTimeout: 1")).run();
    let mut idle = Raw::open(weir.address());
    let endless = frame(HEADERS, 0, 1, &block(&[(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/")]));
    let table = [
        ("a block without its end", endless.clone()),
        ("a frame without its end", endless[..20].to_vec()),
        ("a frame's header without its end", endless[..5].to_vec()),
        ("after a request", [frames::get(1, "/"), frame(HEADERS, 0, 3, &endless[9..])].concat()),
    ];
    let clients: Vec<_> = table
        .into_iter()
        .map(|(what, bytes)| {
            let mut raw = Raw::open(weir.address());
            raw.send(bytes).unwrap();
            raw.io.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            thread::spawn(move || drop(rest(raw.io, what)))
        })
        .collect();
    clients.into_iter().for_each(|c| c.join().unwrap());
    eventually("the timeouts are counted", || (counter(&weir, "downstream_rq_header_timeout") == 4).then_some(()));
    // One without a head under way may be idle.
    idle.send(frames::get(1, "/")).unwrap();
    assert_eq!(idle.next_of(1).unwrap().kind, HEADERS);
}

#[test]
fn a_silent_connection_has_the_idle_timeout_once() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("settings.yaml", settings("idleTimeout: 15")).run();
    let (begun, silent) = (Instant::now(), open(&weir));
    assert_eq!(rest(silent, "silence"), "");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(14_900) && took < Duration::from_millis(29_500), "{took:?}");
    eventually("the timeout is counted", || (counter(&weir, "downstream_cx_idle_timeout") == 1).then_some(()));
}
