//! Metadata of objects: nothing is read beyond an object's end, and what is read does not depend on what is behind the metadata.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir_edge::apimachinery::media::{Encoding, MediaType};
use weir_edge::apimachinery::object::Object;

fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let Ok(object) = Object::read(Bytes::copy_from_slice(bytes), encoding) else { continue };
        let _ = (object.labels(), object.annotations(), object.owner_references());
        assert_eq!(object.bytes(), bytes);
        if encoding == Encoding::Json {
            // Whitespace around it changes nothing.
            let padded = [b" \n", bytes, b"\n"].concat();
            assert_eq!(Object::read(padded.into(), encoding).map(|o| o.meta), Ok(object.meta));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        for media in MediaType::accepted([text]).unwrap_or_default() {
            assert!(MediaType::read(&media.content_type(media.stream)).is_some());
        }
    }
});
