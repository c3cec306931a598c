//! Bookmarks of watches: events that carry nothing but a resource version.
use crate::apimachinery::{
    event::{EventKind, INITIAL_EVENTS_END, encode},
    list::ListHead,
    object::{Envelope, ObjectError},
    wire::put_bytes,
};
use bytes::Bytes;
use serde_json::json;

/// Fields of an object, of its metadata and of an entry of the annotations.
const METADATA: u32 = 1;
const RESOURCE_VERSION: u32 = 6;
const ANNOTATIONS: u32 = 12;
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// A frame for a watch of a list's objects. `ends`: it stands behind the initial events.
pub fn bookmark(list: &ListHead, resource_version: &str, ends: bool) -> Result<Bytes, ObjectError> {
    let object = match list.encoding() {
        crate::apimachinery::media::Encoding::Protobuf => {
            let mut metadata = Vec::new();
            put_bytes(&mut metadata, RESOURCE_VERSION, resource_version.as_bytes());
            if ends {
                let mut entry = Vec::new();
                put_bytes(&mut entry, KEY, INITIAL_EVENTS_END.as_bytes());
                put_bytes(&mut entry, VALUE, b"true");
                put_bytes(&mut metadata, ANNOTATIONS, &entry);
            }
            let mut object = Vec::new();
            put_bytes(&mut object, METADATA, &metadata);
            Envelope::wrap(&list.api_version, list.item_kind(), &object)
        }
        _ => {
            let mut metadata = json!({ "resourceVersion": resource_version, "creationTimestamp": null });
            if ends {
                metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
            }
            Bytes::from(json!({ "kind": list.item_kind(), "apiVersion": list.api_version, "metadata": metadata }).to_string())
        }
    };
    encode(EventKind::Bookmark, &object, list.encoding())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apimachinery::{event::Event, list::List, media::Encoding};

    #[test]
    fn bookmarks_are_read_back_in_both_encodings() {
        let json = Bytes::from_static(br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#);
        let mut list = Vec::new();
        put_bytes(&mut list, METADATA, b"");
        let protobuf = Envelope::wrap("v1", "PodList", &list);
        for (body, encoding) in [(json, Encoding::Json), (protobuf, Encoding::Protobuf)] {
            let list = List::split(&body, encoding).unwrap();
            for ends in [false, true] {
                let mut frame = bookmark(&list.head, "7", ends).unwrap();
                if encoding == Encoding::Protobuf {
                    frame = frame.slice(4..);
                }
                let event = Event::read(&frame, encoding).unwrap();
                assert_eq!((event.kind, event.object.kind.as_str(), event.object.api_version.as_str()), (EventKind::Bookmark, "Pod", "v1"));
                assert_eq!((event.object.meta.resource_version.as_str(), event.ends_initial_events()), ("7", Ok(ends)), "{encoding}");
            }
        }
    }
}
