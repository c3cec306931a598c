#![allow(clippy::unwrap_used)]
use super::*;

fn read(text: &str) -> Result<RequestHead, Bad> {
    let mut head = RequestHead::default();
    match request(text.as_bytes(), &mut head, Limits::default())? {
        Some(n) => {
            assert_eq!(n, text.len());
            Ok(head)
        }
        None => panic!("incomplete: {text:?}"),
    }
}

fn written(head: &RequestHead) -> String {
    let mut out = Vec::new();
    head.write_to(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_head_that_drips_in_reads_like_one_that_comes_whole() {
    let text = "\r\nPOST /a?b=c HTTP/1.1\r\nHost: h\r\nX:  two \r\nCookie: a\r\nY:\r\n\r\n";
    let whole = written(&read(text).unwrap());
    assert_eq!(whole, "POST /a?b=c HTTP/1.1\r\nHost: h\r\nX: two\r\nCookie: a\r\nY: \r\n\r\n");
    let mut head = RequestHead::default();
    for n in 0..text.len() {
        assert_eq!(request(&text.as_bytes()[..n], &mut head, Limits::default()), Ok(None), "{n}");
    }
    assert_eq!(request(text.as_bytes(), &mut head, Limits::default()), Ok(Some(text.len())));
    assert_eq!(written(&head), whole);
    assert_eq!((head.path(), head.query()), (&b"/a"[..], Some(&b"b=c"[..])));

    let text = "HTTP/1.0 404 Not here\r\nA: b\r\n\r\n";
    let mut head = ResponseHead::default();
    for n in 0..text.len() {
        assert_eq!(response(&text.as_bytes()[..n], &mut head, Limits::default()), Ok(None), "{n}");
    }
    assert_eq!(response(text.as_bytes(), &mut head, Limits::default()), Ok(Some(text.len())));
    assert_eq!((head.status, head.reason(), head.version), (404, &b"Not here"[..], Version::Http10));
}

#[test]
fn forms_of_the_target() {
    for (line, host, target) in [
        ("GET http://a.test:81/x?y HTTP/1.1", "a.test:81", "/x?y"),
        ("GET HTTPS://a.test HTTP/1.1", "a.test", "/"),
        ("GET http://a.test?q=1 HTTP/1.1", "a.test", "/?q=1"),
        ("OPTIONS http://a.test HTTP/1.1", "a.test", "*"),
        ("OPTIONS * HTTP/1.1", "h", "*"),
        ("CONNECT a.test:443 HTTP/1.1", "a.test:443", ""),
    ] {
        let head = read(&format!("{line}\r\nHost: h\r\n\r\n")).unwrap();
        assert_eq!((head.authority(), head.target()), (host.as_bytes(), target.as_bytes()), "{line}");
    }
    for line in [
        "GET x HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://a@b/ HTTP/1.1",
        "CONNECT /a HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
    ] {
        assert_eq!(read(&format!("{line}\r\nHost: h\r\n\r\n")).map(|h| written(&h)), Err(Bad::Target), "{line}");
    }
}

#[test]
fn limits_hold_also_before_the_end() {
    let limits = Limits { bytes: 100, fields: 3 };
    let mut head = RequestHead::default();
    let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(100));
    assert_eq!(request(long.as_bytes(), &mut head, limits), Err(Bad::TooLarge));
    head.clear();
    assert_eq!(request(b"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", &mut head, limits), Err(Bad::TooMany));
}

#[test]
fn the_start_line_can_be_edited() {
    let mut head = read("GET /old/x?q HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    head.set_path(b"/new");
    head.headers.add_named(b"a", b"b");
    assert_eq!(written(&head), "GET /new?q HTTP/1.1\r\nHost: h\r\na: b\r\n\r\n");
    head.set_method(b"PUT");
    assert_eq!((head.method, written(&head).as_str()), (Method::Put, "PUT /new?q HTTP/1.1\r\nHost: h\r\na: b\r\n\r\n"));
}

/// Found by fuzzing against httparse.
#[test]
fn a_target_is_text() {
    for (target, accepted) in [(&b"/caf\xc3\xa9?q=\xe2\x82\xac"[..], true), (b"/caf\xe9", false), (b"/?q=\xe2\x82", false)] {
        let raw = [b"GET ", target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        assert_eq!(request(&raw, &mut RequestHead::default(), Limits::default()).is_ok(), accepted, "{target:?}");
    }
}
