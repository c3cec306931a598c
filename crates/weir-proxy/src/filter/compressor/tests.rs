#![allow(clippy::unwrap_used)]
use super::*;
use weir_config::model::{Brotli, Gzip};

fn compressor(libraries: Vec<CompressorLibrary>) -> Compressor {
    Compressor { libraries }
}

fn both() -> Vec<CompressorLibrary> {
    let library = CompressorLibrary::new;
    vec![library(Compression::Brotli(Brotli::default())), library(Compression::Gzip(Gzip::default()))]
}

/// `NAME: VALUE` in each line.
fn head(status: u16, lines: &str) -> ResponseHead {
    let mut head = ResponseHead::default();
    head.begin(status);
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        head.headers.add_named(name.as_bytes(), value.as_bytes());
    }
    head
}

fn lines(head: &ResponseHead) -> Vec<String> {
    head.headers.iter().map(|(n, v)| format!("{}: {}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)).to_lowercase()).collect()
}

#[test]
fn heads_decide() {
    const HTML: &str = "content-type: text/html";
    // Status, head, whether it is compressed, and whether caches are told that it might be.
    let table = [
        (200, "content-type: text/html; charset=utf-8\ncontent-length: 30", true, true),
        (404, HTML, true, true),
        (200, "content-type: Text/HTML", true, true),
        (200, "x: no type", true, true),
        (200, "content-type: text/html\ncontent-length: 29", false, false),
        (200, "content-type: image/png", false, false),
        (200, "content-type: text/htmlx", false, false),
        (200, "content-type: application/grpc", false, false),
        (200, "content-type: text/html\ncontent-encoding: br", false, false),
        (200, "content-type: text/html\ncontent-encoding: identity", false, false),
        (200, "content-type: text/html\ncache-control: max-age=1, No-Transform", false, false),
        (200, "content-type: text/html\ncache-control: max-age=1\ncache-control: no-transform", false, false),
        (200, "content-type: text/html\ncache-control: no-store", true, true),
        (206, HTML, false, false),
        (200, "content-type: text/html\ncontent-range: bytes 0-1/2", false, false),
        (204, HTML, false, false),
        (304, HTML, false, false),
        (101, HTML, false, false),
    ];
    for (status, text, compressed, varies) in table {
        let (compressor, stats) = (compressor(both()), CompressorsStats::default());
        let mut head = head(status, text);
        let before = lines(&head);
        let encoder = on_response(&compressor, Some(b"gzip"), &mut head, false, &stats);
        assert_eq!(encoder.is_some(), compressed, "{status} {text}");
        let after = lines(&head);
        assert_eq!(after.iter().any(|l| l == "vary: accept-encoding"), varies, "{status} {text}");
        match compressed {
            true => {
                assert!(after.iter().any(|l| l == "content-encoding: gzip"), "{status} {text}: {after:?}");
                assert!(!after.iter().any(|l| l.starts_with("content-length")), "{status} {text}: {after:?}");
            }
            false => assert_eq!(after, before, "{status} {text}"),
        }
        let [br, gzip] = [0, 1].map(|at: usize| stats.of(&compressor.libraries[at].compressor_library));
        assert_eq!((br.compressed.get(), br.not_compressed.get()), (0, 1));
        assert_eq!(gzip.compressed.get(), u64::from(compressed), "{status} {text}");
        assert_eq!(gzip.header_compressor_used.get(), u64::from(compressed));
        assert_eq!(br.header_compressor_overshadowed.get(), u64::from(compressed));
    }
}

#[test]
fn a_response_without_a_body_stays_as_it_is_but_varies() {
    let mut head = head(200, "content-type: text/html\ncontent-length: 1000");
    assert!(on_response(&compressor(both()), Some(b"gzip"), &mut head, true, &CompressorsStats::default()).is_none());
    assert_eq!(lines(&head), ["content-type: text/html", "content-length: 1000", "vary: accept-encoding"]);
}

#[test]
fn what_the_client_accepts_is_counted() {
    for (accept, used) in [
        (None, "no_accept_header"),
        (Some("gzip"), "header_compressor_used"),
        (Some("identity"), "header_identity"),
        (Some("*"), "header_wildcard"),
        (Some("deflate"), "header_not_valid"),
    ] {
        let compressor = compressor(vec![CompressorLibrary::new(Compression::Gzip(Gzip::default()))]);
        let mut head = head(200, "content-type: text/plain");
        let all = CompressorsStats::default();
        on_response(&compressor, accept.map(str::as_bytes), &mut head, false, &all);
        let stats = all.of(&compressor.libraries[0].compressor_library);
        let counted = [
            ("no_accept_header", &stats.no_accept_header),
            ("header_compressor_used", &stats.header_compressor_used),
            ("header_identity", &stats.header_identity),
            ("header_wildcard", &stats.header_wildcard),
            ("header_not_valid", &stats.header_not_valid),
        ];
        for (name, counter) in counted {
            assert_eq!(counter.get(), u64::from(name == used), "{accept:?}: {name}");
        }
        assert!(lines(&head).contains(&"vary: accept-encoding".to_string()), "{accept:?}");
    }
}

#[test]
fn etags_and_vary() {
    let table = [
        ("etag: \"a\"\naccept-ranges: bytes", "vary: accept-encoding"),
        ("etag: W/\"a\"", "etag: w/\"a\"\nvary: accept-encoding"),
        ("vary: Origin", "vary: origin\nvary: accept-encoding"),
        ("vary: origin, Accept-Encoding", "vary: origin, accept-encoding"),
        ("vary: *", "vary: *"),
    ];
    for (text, wanted) in table {
        let mut head = head(200, text);
        assert!(on_response(&compressor(both()), Some(b"br"), &mut head, false, &CompressorsStats::default()).is_some());
        let mut after = lines(&head);
        after.retain(|l| l != "content-encoding: br");
        assert_eq!(after.join("\n"), wanted, "{text}");
    }
    let library = CompressorLibrary { disable_on_etag_header: true, ..CompressorLibrary::new(Compression::Gzip(Gzip::default())) };
    let compressor = compressor(vec![library]);
    let mut head = head(200, "etag: W/\"a\"");
    let stats = CompressorsStats::default();
    assert!(on_response(&compressor, Some(b"gzip"), &mut head, false, &stats).is_none());
    assert_eq!(stats.of(&compressor.libraries[0].compressor_library).not_compressed_etag.get(), 1);
    assert_eq!(lines(&head), ["etag: w/\"a\""]);
}

/// An encoding for other types of content does not stand in the way.
#[test]
fn encodings_have_types_of_their_own() {
    let mut libraries = both();
    libraries[0].content_type = vec!["text/css".into()];
    for (content_type, encoding) in [("text/css", "br"), ("text/html", "gzip")] {
        let mut head = head(200, &format!("content-type: {content_type}"));
        on_response(&compressor(libraries.clone()), Some(b"br, gzip"), &mut head, false, &CompressorsStats::default());
        assert!(lines(&head).contains(&format!("content-encoding: {encoding}")), "{content_type}");
    }
}
