//! Compressed responses: what is compressed, how it arrives, and what stays as it is.
use crate::{
    client::{Answer, Connection},
    harness::{Start, TO_ECHO, Weir, eventually, runtime},
    plugin_kit::{guest, istio},
    streams::h2c,
};
use bytes::Bytes;
use http::Request;
use std::io::Read;

/// `higress-config` with these keys in one line each.
fn settings(higress: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: higress-config }}\ndata:\n  higress: |\n    {}\n",
        higress.replace('\n', "\n    ")
    )
}

const ALL: &str = "gzip: { enable: true }\nbrotli: {}\nzstd: { compressionLevel: 5 }";

fn gateway(higress: &str) -> Weir {
    let start = Start::new().file("gateway.yaml", TO_ECHO).file("settings.yaml", settings(higress));
    start.arg("--access-log-format").arg("%PROTOCOL% %RESP(CONTENT-ENCODING)% sent=%BYTES_SENT% .").run()
}

fn decoded(encoding: &str, body: &[u8]) -> String {
    let mut reader: Box<dyn Read + '_> = match encoding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        "zstd" => Box::new(ruzstd::decoding::StreamingDecoder::new(body).unwrap()),
        other => panic!("{other}"),
    };
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap_or_else(|e| panic!("{encoding}: {e} after {text:.100}"));
    text
}

/// A response with the bytes of its body.
fn ask(c: &mut Connection, method: &str, path: &str, headers: &[&str]) -> (Answer, Vec<u8>) {
    let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    c.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).unwrap();
    let mut head = c.head().unwrap();
    let mut body = Vec::new();
    if method == "HEAD" || matches!(head.status, 204 | 304) {
        return (head, body);
    }
    match head.header("content-length") {
        Some(length) => body = c.bytes(length.parse().unwrap()).unwrap(),
        None => {
            while let Some(mut piece) = c.chunk().unwrap() {
                body.append(&mut piece);
            }
            head.trailers = c.trailers().unwrap();
        }
    }
    (head, body)
}

#[test]
fn clients_get_the_encoding_that_they_like_best() {
    let weir = gateway(ALL);
    let mut c = Connection::open(weir.address()).unwrap();
    let (_, plain) = ask(&mut c, "GET", "/bytes/50000", &[]);
    assert_eq!(plain.len(), 50_000);
    let plain = String::from_utf8(plain).unwrap();
    let table = [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "br"),
        ("br;q=0.5, zstd;q=0.9, gzip;q=0.8", "zstd"),
        ("*", "br"),
    ];
    for (accepted, encoding) in table {
        let accept = format!("Accept-Encoding: {accepted}");
        let (head, body) = ask(&mut c, "GET", "/bytes/50000", &[&accept]);
        assert_eq!((head.status, head.header("content-encoding")), (200, Some(encoding)), "{accepted}: {head:?}");
        assert_eq!((head.header("vary"), head.header("transfer-encoding")), (Some("Accept-Encoding"), Some("chunked")), "{accepted}");
        assert!(body.len() < 5_000, "{accepted}: {}", body.len());
        assert!(decoded(encoding, &body) == plain, "{accepted}");
        // The log counts the bytes of the compressed body.
        weir.says(&format!("HTTP/1.1 {encoding} sent={} .", body.len()));
    }
    weir.says("HTTP/1.1 - sent=50000 .");
    let dump = weir.admin("/config_dump").body;
    assert!(dump.contains("extensions.filters.http.compressor.v3.Compressor"), "{dump}");
    for accepted in ["deflate", "identity", "gzip;q=0", ""] {
        let (head, body) = ask(&mut c, "GET", "/bytes/50000", &[&format!("Accept-Encoding: {accepted}")]);
        assert_eq!((head.header("content-encoding"), body.len()), (None, 50_000), "{accepted}");
        assert_eq!(head.header("vary"), Some("Accept-Encoding"), "{accepted}");
    }
}

#[test]
fn http2_clients_get_them_as_well() {
    let weir = gateway(ALL);
    runtime().block_on(async {
        let mut client = h2c(weir.address()).await.ready().await.unwrap();
        for encoding in ["gzip", "br", "zstd"] {
            let request = Request::get("http://h/bytes/100000").header("accept-encoding", encoding).body(()).unwrap();
            let response = client.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(response.headers()["content-encoding"], encoding);
            assert!(!response.headers().contains_key("content-length"));
            let (mut stream, mut body) = (response.into_body(), Vec::new());
            while let Some(piece) = stream.data().await {
                let piece = piece.unwrap();
                stream.flow_control().release_capacity(piece.len()).unwrap();
                body.extend_from_slice(&piece);
            }
            assert!(body.len() < 10_000);
            assert_eq!(decoded(encoding, &body).len(), 100_000);
            weir.says(&format!("HTTP/2 {encoding} sent={} .", body.len()));
        }
        // gRPC compresses its messages itself.
        let request = Request::post("http://h/echo.Echo/Talk")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("accept-encoding", "gzip")
            .body(())
            .unwrap();
        let (response, mut out) = client.send_request(request, false).unwrap();
        out.send_data(Bytes::from_static(b"\0\0\0\0\x03abc"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().get("content-encoding")), (200, None), "{response:?}");
    });
}

/// Fields of a response by `x-echo-header`, and whether it is compressed.
#[test]
fn responses_that_are_not_to_be_compressed_stay_as_they_are() {
    let weir = gateway("gzip: { minContentLength: 100, contentType: [text/plain, text/html], disableOnEtagHeader: false }");
    let mut c = Connection::open(weir.address()).unwrap();
    let table: &[(&str, &str, &[&str], bool)] = &[
        ("GET", "/bytes/100", &[], true),
        ("GET", "/bytes/99", &[], false),
        // JSON, which is not listed here.
        ("GET", "/", &[], false),
        ("GET", "/bytes/5000", &["cache-control=no-transform"], false),
        ("GET", "/bytes/5000", &["cache-control=max-age=5"], true),
        ("GET", "/bytes/5000", &["content-encoding=br"], false),
        ("GET", "/bytes/5000", &["content-range=bytes 0-4999/9999"], false),
        ("HEAD", "/bytes/5000", &[], false),
        ("GET", "/status/304", &[], false),
        ("GET", "/status/204", &[], false),
        ("GET", "/bytes/5000", &["etag=\"strong\""], true),
    ];
    for (method, path, fields, compressed) in table {
        let fields: Vec<String> = fields.iter().map(|f| format!("x-echo-header: {f}")).collect();
        let mut headers = vec!["Accept-Encoding: gzip"];
        headers.extend(fields.iter().map(String::as_str));
        let (head, body) = ask(&mut c, method, path, &headers);
        assert_eq!(head.header("content-encoding") == Some("gzip"), *compressed, "{method} {path} {fields:?}: {head:?}");
        if *compressed {
            assert_eq!(head.header("etag"), None);
            assert!(!decoded("gzip", &body).is_empty());
        }
        if *method == "HEAD" {
            assert_eq!(head.header("content-length"), Some("5000"));
        }
    }
    // A weak one stays true.
    let (head, _) = ask(&mut c, "GET", "/bytes/5000", &["Accept-Encoding: gzip", "x-echo-header: etag=W/\"weak\""]);
    assert_eq!((head.header("etag"), head.header("content-encoding")), (Some("W/\"weak\""), Some("gzip")));
    let stat = |name: &str| weir.stat(&format!("http.0.0.0.0_{}.compressor.text_optimized.gzip.response.{name}", weir.ports[0]));
    assert_eq!((stat("compressed"), stat("not_compressed"), stat("content_length_too_small")), (4, 8, 1));
    assert_eq!(stat("total_uncompressed_bytes"), 100 + 3 * 5000);
    assert!((1..1000).contains(&stat("total_compressed_bytes")), "{}", stat("total_compressed_bytes"));

    // Without the key nothing is compressed, and with `enable: false` neither.
    weir.write("settings.yaml", &settings("gzip: { enable: false }"));
    let off = || ask(&mut Connection::open(weir.address()).unwrap(), "GET", "/bytes/5000", &["Accept-Encoding: gzip"]).0;
    eventually("it is off", || off().header("content-encoding").is_none().then_some(()));
    weir.write("settings.yaml", &settings("gzip: {}"));
    eventually("it is on", || off().header("content-encoding").map(drop));
    weir.remove("settings.yaml");
    eventually("it is off again", || off().header("content-encoding").is_none().then_some(()));
}

#[test]
fn events_arrive_one_by_one_and_trailers_are_kept() {
    let weir = gateway("gzip: { contentType: [text/event-stream], minContentLength: 1 }");
    let mut c = Connection::open(weir.address()).unwrap();
    // The second event comes after a minute: what is read here has not waited for it.
    c.send("GET /sse?n=2&every=60s HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let head = c.head().unwrap();
    assert_eq!((head.header("content-type"), head.header("content-encoding")), (Some("text/event-stream"), Some("gzip")));
    let (mut body, mut text) = (Vec::new(), String::new());
    while !text.contains("event 1") {
        body.append(&mut c.chunk().unwrap().unwrap());
        let mut decoder = flate2::read::GzDecoder::new(&body[..]);
        let mut piece = [0; 1000];
        text.clear();
        while let Ok(n @ 1..) = decoder.read(&mut piece) {
            text += std::str::from_utf8(&piece[..n]).unwrap();
        }
    }
    let mut c = Connection::open(weir.address()).unwrap();
    let (head, body) = ask(&mut c, "GET", "/trailers", &["TE: trailers", "Accept-Encoding: gzip"]);
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    assert_eq!(decoded("gzip", &body), "a body with a trailer\n");
    assert_eq!(head.trailers, [("x-echo-trailer".to_string(), "the end".to_string())]);
}

/// Plugins read and write bodies as they are: their own responses are compressed too.
#[test]
fn plugins_see_no_compressed_body() {
    let code = guest(
        "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
           (if (result i32) (call $has [x-reply] ) (then (call $answer (i32.const 200) [a reply of the plugin, a reply of the plugin]) (i32.const 1)) (else (i32.const 0))))
         (func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32)
           (drop (call $remove (i32.const 2) [content-length])) (i32.const 0))
         (func (export \"proxy_on_response_body\") (param i32 i32) (param $end i32) (result i32)
           (if (local.get $end) (then (drop (call $set_buffer (i32.const 1) (i32.const 0x7fffffff) (i32.const 0) [ and the end]))))
           (i32.const 0))",
    );
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("settings.yaml", settings("gzip: { minContentLength: 10 }"))
        .file("guest.wat", code)
        .file("plugin.yaml", istio("p", "url: file://guest.wat"))
        .run();
    let mut c = Connection::open(weir.address()).unwrap();
    for accept in ["Accept-Encoding: gzip", "X-None: 1"] {
        let (head, body) = ask(&mut c, "GET", "/bytes/2000", &[accept]);
        let text = match head.header("content-encoding") {
            Some(encoding) => decoded(encoding, &body),
            None => String::from_utf8(body).unwrap(),
        };
        assert_eq!(head.header("content-encoding").is_some(), accept.contains("gzip"), "{head:?}");
        assert!(text.len() == 2012 && text.ends_with(" and the end"), "{}: {text:.30}", text.len());
    }
    let (head, body) = ask(&mut c, "GET", "/", &["Accept-Encoding: gzip", "X-Reply: yes"]);
    assert_eq!(head.header("content-encoding"), Some("gzip"), "{head:?}");
    assert!(decoded("gzip", &body).starts_with("a reply of the plugin"));
}

#[test]
fn wrong_settings_are_errors() {
    let weir = gateway(
        "gzip: { memoryLevel: 10, windowBits: 8, compressionLevel: BEST, contentType: [] }\nbrotli: { quality: 12 }\nzstd: { compressionLevel: 0 }",
    );
    for part in [
        "data.higress.gzip.memoryLevel: 10 is out of bounds",
        "data.higress.gzip.windowBits: 8 is out of bounds",
        "data.higress.gzip.compressionLevel: unknown value",
        "data.higress.gzip.contentType: has no type",
        "data.higress.brotli.quality: 12 is out of bounds",
        "data.higress.zstd.compressionLevel: 0 is out of bounds",
    ] {
        assert!(weir.printed().contains(part), "{part}: {}", weir.printed());
    }
}
