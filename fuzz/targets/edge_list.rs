//! Lists and Tables: what is split and put together again is split the same way.
#![no_main]
#![allow(clippy::unwrap_used)]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir_edge::apimachinery::list::{List, ListHead};
use weir_edge::apimachinery::media::Encoding;

fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let Ok(list) = List::split(&body, encoding) else { continue };
        assert_eq!(ListHead::load(&list.head.save()).unwrap(), list.head);
        let wholes: Vec<Bytes> = list.items.iter().map(|item| list.head.whole(item)).collect();
        let Ok(pieces) = list.head.assemble(&wholes) else { continue };
        let again = List::split(&pieces.concat().into(), encoding).unwrap();
        assert_eq!(again.items.len(), list.items.len());
        for (a, b) in again.items.iter().zip(&list.items) {
            assert_eq!((&a.meta, a.labels()), (&b.meta, b.labels()));
        }
        let later = list.head.at_version("7").unwrap();
        assert_eq!((later.resource_version.as_str(), later.continue_token.as_str()), ("7", ""));
    }
});
