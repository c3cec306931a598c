//! PROXY protocol headers: the verdict on a header does not depend on how its bytes arrive, and what is read can be written again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::proxy_protocol::{MAX_HEADER_BYTES, header_v2, parse};

fuzz_target!(|bytes: &[u8]| {
    let Some(Ok(header)) = parse(bytes) else { return };
    assert!(header.length <= bytes.len().min(MAX_HEADER_BYTES));
    assert_eq!(parse(&bytes[..header.length]), Some(Ok(header.clone())), "what follows the header changes it");
    for end in 0..header.length {
        assert_eq!(parse(&bytes[..end]), None, "{end} bytes of {} are enough", header.length);
    }
    if let Some((source, destination)) = header.addresses {
        let again = header_v2(Some((source, destination)));
        let read = parse(&again).expect("a whole header").expect("our own header");
        assert_eq!((read.length, read.addresses), (again.len(), header.addresses));
    }
});
