//! Watches in JSON and protobuf: frames do not depend on how a body is cut, and an event that is read is written again as it came.
#![no_main]
#![allow(clippy::unwrap_used)]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir_edge::apimachinery::event::{Event, encode};
use weir_edge::apimachinery::frame::{FrameError, Splitter};
use weir_edge::apimachinery::media::Encoding;

const MAX: usize = 4096;

fn frames(body: &[u8], size: usize, encoding: Encoding) -> (Vec<Bytes>, Result<(), FrameError>) {
    let (mut splitter, mut frames) = (Splitter::new(encoding, MAX).unwrap(), Vec::new());
    for piece in body.chunks(size.max(1)) {
        splitter.push(Bytes::copy_from_slice(piece));
        loop {
            match splitter.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(splitter.complete() + splitter.pending() <= body.len() as u64);
    }
    let end = splitter.finish();
    (frames, end)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((size, body)) = bytes.split_first() else { return };
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        watch(body, usize::from(*size), encoding);
    }
});

fn watch(body: &[u8], size: usize, encoding: Encoding) {
    let (whole, end) = frames(body, body.len(), encoding);
    let cut = frames(body, size, encoding);
    assert_eq!((&whole, &end), (&cut.0, &cut.1));
    for frame in whole {
        assert!(!frame.is_empty() && frame.len() <= MAX);
        let Ok(event) = Event::read(&frame, encoding) else { continue };
        let _ = (event.ends_initial_events(), event.object.labels(), event.object.owner_references());
        let again = encode(event.kind, event.object.bytes(), encoding).unwrap();
        let mut splitter = Splitter::new(encoding, 2 * MAX).unwrap();
        splitter.push(again);
        let frame = splitter.next().unwrap().unwrap();
        assert_eq!(Event::read(&frame, encoding).unwrap(), event);
    }
}
