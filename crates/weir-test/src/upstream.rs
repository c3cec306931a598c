//! Upstreams of HTTP/1 that answer with exact bytes.
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
};

/// An upstream of HTTP/1 that answers each head it reads with exactly these bytes; its port.
pub fn raw_upstream(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut io in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(io.try_clone().unwrap()).lines().map_while(Result::ok);
                loop {
                    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                    if head.is_empty() || io.write_all(answer(&head.join("\n")).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// An upstream that answers `/sized/N` with a Content-Length of N and N bytes.
pub fn sized_upstream() -> u16 {
    raw_upstream(|head| {
        let size = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()?.parse().ok()).unwrap_or(0);
        format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n{}", "x".repeat(size))
    })
}
