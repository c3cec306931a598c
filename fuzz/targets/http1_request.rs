//! Request heads against a second parser: what httparse refuses is refused here, and what both accept means the same. Written
//! out again, a head is read as the same head; a body is never longer than what it was found in.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::http::{
    body,
    head::RequestHead,
    parse::{self, Limits},
};

fuzz_target!(|bytes: &[u8]| {
    let mut head = RequestHead::default();
    let ours = parse::request(bytes, &mut head, Limits::default());
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut theirs = httparse::Request::new(&mut fields);
    let verdict = theirs.parse(bytes);
    let Ok(Some(length)) = ours else { return };
    let Ok(httparse::Status::Complete(judged)) = verdict else { panic!("accepted, though httparse says {verdict:?}") };
    assert_eq!(length, judged, "the head ends elsewhere");
    assert_eq!(head.method_text(), theirs.method.unwrap_or_default().as_bytes());
    if !theirs.path.unwrap_or_default().starts_with('/') {
        // An absolute target replaces the Host header.
        return;
    }
    let own: Vec<(&[u8], &[u8])> = head.headers.iter().collect();
    let other: Vec<(&[u8], &[u8])> = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
    assert_eq!(own.len(), other.len());
    for (a, b) in own.iter().zip(&other) {
        assert!(a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1.trim_ascii(), "{a:?} is not {b:?}");
    }

    let mut written = Vec::new();
    head.write_to(&mut written);
    let mut again = RequestHead::default();
    assert_eq!(parse::request(&written, &mut again, Limits::default()), Ok(Some(written.len())), "{:?}", String::from_utf8_lossy(&written));
    assert_eq!(again.target(), head.target());
    assert!(again.headers.iter().eq(head.headers.iter()));

    if let Ok(mut framing) = body::of_request(&head) {
        let rest = &bytes[length..];
        if let Ok((taken, _)) = framing.take(rest) {
            assert!(taken <= rest.len());
        }
    }
});
