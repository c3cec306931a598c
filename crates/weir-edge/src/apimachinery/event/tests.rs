use super::*;
use crate::apimachinery::frame::{MAX_FRAME, Splitter};

/// A body as kube-apiserver sent it.
fn recorded(name: &str) -> (Encoding, Bytes) {
    let body = std::fs::read(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    (if name.ends_with(".pb") { Encoding::Protobuf } else { Encoding::Json }, body.into())
}

fn events(encoding: Encoding, body: Bytes) -> Vec<Event> {
    let mut splitter = Splitter::new(encoding, MAX_FRAME).unwrap();
    splitter.push(body);
    std::iter::from_fn(|| splitter.next().unwrap()).map(|frame| Event::read(&frame, encoding).unwrap()).collect()
}

#[test]
fn recorded_watches_are_read_and_written() {
    // File; each event's type, kind of object, name, resource version.
    let table = [
        ("watch.configmaps.json", "ADDED ConfigMap b 388, DELETED ConfigMap b 391, BOOKMARK ConfigMap - 391"),
        ("watch.configmaps.pb", "ADDED ConfigMap b 388, DELETED ConfigMap b 391, BOOKMARK ConfigMap - 391"),
        ("watch.things.json", "ADDED Thing b 389, DELETED Thing b 392, BOOKMARK Thing - 392"),
        (
            "watch.things.partial.json",
            "ADDED PartialObjectMetadata b 389, DELETED PartialObjectMetadata b 392, BOOKMARK PartialObjectMetadata - 392",
        ),
        (
            "watch.configmaps.partial.pb",
            "ADDED PartialObjectMetadata b 388, DELETED PartialObjectMetadata b 391, BOOKMARK PartialObjectMetadata - 391",
        ),
        ("watch.configmaps.table.json", "ADDED Table b 388, DELETED Table b 391, BOOKMARK Table - 391"),
        ("watch.empty.table.json", "BOOKMARK Table - 391"),
    ];
    for (name, wanted) in table {
        let (encoding, body) = recorded(name);
        let events = events(encoding, body.clone());
        let mut read = Vec::new();
        for event in &events {
            let Event { kind, object } = event;
            let name = if object.meta.name.is_empty() { "-" } else { &object.meta.name };
            read.push(format!("{kind} {} {name} {}", object.kind, object.meta.resource_version));
            assert_eq!(event.ends_initial_events(), Ok(false));
            let app = object.labels().unwrap().remove("app");
            assert_eq!(app.as_deref(), (*kind != EventKind::Bookmark).then_some("b"), "{kind} of {name}");
        }
        assert_eq!(read.join(", "), wanted, "{name}");
        let written: Vec<Bytes> = events.iter().map(|e| encode(e.kind, e.object.bytes(), encoding).unwrap()).collect();
        assert_eq!(written.concat(), body, "{name}");
    }
}

#[test]
fn errors_carry_a_status() {
    for name in ["gone.json", "gone.pb"] {
        let (encoding, status) = recorded(name);
        let frame = encode(EventKind::Error, &status, encoding).unwrap();
        let event = events(encoding, frame).remove(0);
        assert_eq!((event.kind, event.object.kind.as_str()), (EventKind::Error, "Status"));
        assert_eq!(event.object.bytes().trim_ascii_end(), status.trim_ascii_end());
    }
}

#[test]
fn the_bookmark_behind_initial_events_is_known() {
    let object = |annotation: &str| format!(r#"{{"kind":"Pod","metadata":{{"resourceVersion":"7","annotations":{{{annotation}}}}}}}"#);
    let ends = |kind, annotation: &str| {
        let frame = encode(kind, object(annotation).as_bytes(), Encoding::Json).unwrap();
        Event::read(&frame, Encoding::Json).unwrap().ends_initial_events().unwrap()
    };
    assert!(ends(EventKind::Bookmark, r#""k8s.io/initial-events-end":"true""#));
    assert!(!ends(EventKind::Bookmark, r#""k8s.io/initial-events-end":"false""#));
    assert!(!ends(EventKind::Bookmark, ""));
    assert!(!ends(EventKind::Error, r#""k8s.io/initial-events-end":"true""#));
    // ObjectMeta with the annotation, in a message and an envelope.
    let (mut entry, mut meta, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut entry, 1, INITIAL_EVENTS_END.as_bytes());
    put_bytes(&mut entry, 2, b"true");
    put_bytes(&mut meta, 12, &entry);
    put_bytes(&mut raw, 1, &meta);
    let frame = encode(EventKind::Bookmark, &object::Envelope::wrap("v1", "Pod", &raw), Encoding::Protobuf).unwrap();
    assert_eq!(Event::read(&frame.slice(4..), Encoding::Protobuf).unwrap().ends_initial_events(), Ok(true));
}

#[test]
fn wrong_events_are_errors() {
    let json = |at, expected| EventError::from(JsonError::Expected { at, expected });
    let table = [
        ("{}", EventError::Type(String::new())),
        (r#"{"type":"ADDED"}"#, EventError::NoObject),
        (r#"{"object":{"metadata":{"name":"a"}}}"#, EventError::Type(String::new())),
        (r#"{"type":"RENAMED","object":{}}"#, EventError::Type("RENAMED".into())),
        (r#"{"type":"ADDED","object":{}}"#, EventError::Unnamed),
        (r#"{"type":"ADDED","object":[]}"#, json(25, "an object")),
        (r#"{"type":"ADDED","object":{},"object":{}}"#, JsonError::Duplicate { at: 37 }.into()),
        (r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}} {}"#, json(52, "the end of the text")),
    ];
    for (text, wanted) in table {
        assert_eq!(Event::read(&text.into(), Encoding::Json), Err(wanted), "{text}");
    }
    let table: [(&[u8], EventError); 4] = [
        (b"", EventError::Type(String::new())),
        (b"\x0a\x05ADDED", EventError::NoObject),
        (b"\x0a\x05ADDED\x12\x04\x0a\x02{}", ObjectError::Magic.into()),
        (b"\x0a\x05ADDED\x12\x09", WireError::Truncated { at: 9 }.into()),
    ];
    for (frame, wanted) in table {
        assert_eq!(Event::read(&Bytes::from_static(frame), Encoding::Protobuf), Err(wanted), "{}", frame.escape_ascii());
    }
    // Fields in another order, and unknown ones.
    let event = Event::read(&r#"{ "object" : {"metadata":{"name":"a"}} , "x":[1], "type" : "MODIFIED" }"#.into(), Encoding::Json).unwrap();
    assert_eq!((event.kind, event.object.bytes().as_ref()), (EventKind::Modified, br#"{"metadata":{"name":"a"}}"#.as_slice()));
}
