//! Header maps to and from a guest: what is read is written as the same bytes; nothing else is read at all.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_wasm::pairs::{self, Pairs};

fuzz_target!(|bytes: &[u8]| {
    let Ok(map) = Pairs::decode(bytes) else { return };
    assert_eq!(map.iter().count(), map.len());
    let again = pairs::encode(map.iter());
    if !map.is_empty() {
        assert_eq!(again, bytes);
    }
    for (key, _) in map.iter() {
        assert!(map.get(key).is_some());
    }
});
