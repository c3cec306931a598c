//! ClientHellos: the verdict does not change when more bytes arrive, and a server name holds nothing but a host name.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::tls::{Hello, inspect};

fuzz_target!(|bytes: &[u8]| {
    let whole = inspect(bytes);
    if let Hello::Tls(hello) = &whole
        && let Some(name) = &hello.server_name
    {
        assert!(name.len() <= 253 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)), "{name:?}");
    }
    let half = inspect(&bytes[..bytes.len() / 2]);
    if half != Hello::Incomplete {
        assert_eq!(half, whole, "more bytes changed the verdict");
    }
});
