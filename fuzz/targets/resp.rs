//! Replies of a Redis server: where one ends does not depend on how its bytes arrive.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_net::redis::{Framer, Limits};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { max_reply_bytes: 4096, max_depth: 8 };
    let whole = Framer::default().next(bytes, &limits);
    let mut framer = Framer::default();
    let mut split = Ok(None);
    for end in 0..=bytes.len() {
        split = framer.next(&bytes[..end], &limits);
        if split != Ok(None) {
            break;
        }
    }
    match whole {
        Ok(Some(frame)) => {
            assert!(frame.len <= bytes.len());
            assert_eq!(split, Ok(Some(frame)));
        }
        Ok(None) => assert_eq!(split, Ok(None)),
        Err(_) => assert!(split.is_err()),
    }
});
