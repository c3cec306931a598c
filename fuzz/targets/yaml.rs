//! Any text is either read as YAML or refused with a place inside it; rendering the refusal never fails, and what was read
//! survives a journey through JSON.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use weir_config::{
    node::{self, Node},
    source::Source,
};

fuzz_target!(|text: &str| {
    let source = Arc::new(Source::new("fuzz.yaml", text, 1));
    match node::parse(&source) {
        Err(d) => {
            let place = d.place.as_deref().expect("a refusal has a place");
            assert!(source.text.is_char_boundary(place.bytes.start.min(text.len())));
            let _ = (d.line(), d.snippet(false));
        }
        Ok(documents) => {
            for document in &documents {
                let json = document.to_json();
                assert_eq!(Node::from_json(&json).to_json(), json);
            }
        }
    }
});
