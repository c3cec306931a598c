//! Response heads against a second parser, as for requests.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::http::{
    body,
    head::{Method, ResponseHead},
    parse::{self, Limits},
};

fuzz_target!(|bytes: &[u8]| {
    let mut head = ResponseHead::default();
    let ours = parse::response(bytes, &mut head, Limits::default());
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut theirs = httparse::Response::new(&mut fields);
    let verdict = theirs.parse(bytes);
    let Ok(Some(length)) = ours else { return };
    let Ok(httparse::Status::Complete(judged)) = verdict else { panic!("accepted, though httparse says {verdict:?}") };
    assert_eq!(length, judged, "the head ends elsewhere");
    assert_eq!(Some(head.status), theirs.code);
    let other = theirs.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii()));
    assert!(head.headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).eq(other.map(|(n, v)| (n.to_ascii_lowercase(), v))));

    let mut written = Vec::new();
    head.write_to(&mut written);
    let mut again = ResponseHead::default();
    assert_eq!(
        parse::response(&written, &mut again, Limits::default()),
        Ok(Some(written.len())),
        "{:?}",
        String::from_utf8_lossy(&written)
    );
    assert_eq!(again.status, head.status);

    for method in [Method::Get, Method::Head] {
        if let Ok(mut framing) = body::of_response(&head, method)
            && let Ok((taken, _)) = framing.take(&bytes[length..])
        {
            assert!(taken <= bytes.len() - length);
        }
    }
});
