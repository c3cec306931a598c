use super::*;
use crate::apimachinery::list::List;

const RECORDED: [&str; 15] = [
    "configmaps.json",
    "configmaps.pb",
    "configmaps.page.json",
    "configmaps.page.pb",
    "empty.json",
    "empty.pb",
    "things.json",
    "things.page.json",
    "things-none.json",
    "things.partial.json",
    "configmaps.partial.json",
    "configmaps.partial.pb",
    "configmaps.table.json",
    "configmaps.pretty.json",
    "empty.table.json",
];

fn recorded(name: &str) -> (Encoding, Bytes) {
    let body = std::fs::read(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    (if name.ends_with(".pb") { Encoding::Protobuf } else { Encoding::Json }, body.into())
}

/// The parts of a body that arrives in pieces of the given sizes, over and over, and the head.
fn cut(encoding: Encoding, body: &[u8], sizes: &[usize]) -> Result<(Vec<Part>, Parts), ListError> {
    let mut parts = Parts::new(encoding).unwrap();
    let (mut found, mut rest, mut sizes) = (Vec::new(), Bytes::copy_from_slice(body), sizes.iter().cycle());
    while !rest.is_empty() {
        parts.push(rest.split_to(rest.len().min(*sizes.next().unwrap())));
        while let Some(part) = parts.next()? {
            if let Part::Item(item) = &part {
                let bare = encoding == Encoding::Json && !item.starts_with(b"{\"kind\"") && !item.starts_with(b"{\"apiVersion\"");
                parts.saw_kind(!bare);
            }
            found.push(part);
        }
    }
    Ok((found, parts))
}

fn items(parts: &[Part]) -> Vec<Bytes> {
    parts.iter().filter_map(|part| if let Part::Item(item) = part { Some(item.clone()) } else { None }).collect()
}

#[test]
fn parts_are_those_of_the_whole_list_however_it_is_cut() {
    for name in RECORDED {
        let (encoding, body) = recorded(name);
        let list = List::split(&body, encoding).unwrap();
        let wanted: Vec<Bytes> = list.items.iter().map(|item| item.bytes().clone()).collect();
        let ways = (1..body.len()).map(|at| [at, body.len()]).chain([[1, 1], [2, 3], [7, 1], [64, 65], [body.len(), 1]]);
        for sizes in ways {
            let (found, parts) = cut(encoding, &body, &sizes).unwrap_or_else(|e| panic!("{name} {sizes:?}: {e}"));
            assert_eq!(items(&found), wanted, "{name} {sizes:?}");
            let head = parts.finish().unwrap_or_else(|e| panic!("{name} {sizes:?}: {e}"));
            assert_eq!(
                (&head.resource_version, &head.kind, &head.api_version),
                (&list.head.resource_version, &list.head.kind, &list.head.api_version)
            );
            assert_eq!((&head.continue_token, head.remaining), (&list.head.continue_token, list.head.remaining));
            // Put together again, it is what it was.
            let whole: Vec<Bytes> = match encoding {
                Encoding::Protobuf => parts.assemble(items(&found)),
                _ => found.iter().map(|(Part::Rest(part) | Part::Separator(part) | Part::Item(part))| part.clone()).collect(),
            };
            assert_eq!(whole.concat(), body, "{name} {sizes:?}");
        }
    }
}

#[test]
fn what_lies_in_one_piece_is_not_copied() {
    for name in ["configmaps.json", "configmaps.pb"] {
        let (encoding, body) = recorded(name);
        let mut parts = Parts::new(encoding).unwrap();
        parts.push(body.clone());
        while let Some(part) = parts.next().unwrap() {
            let (Part::Rest(bytes) | Part::Separator(bytes) | Part::Item(bytes)) = part;
            assert!(body.as_ptr_range().contains(&bytes.as_ptr()), "{name}");
        }
    }
}

#[test]
fn the_version_is_known_before_the_items_where_it_stands_before_them() {
    for (name, early) in [("configmaps.json", true), ("configmaps.pb", true), ("configmaps.table.json", true), ("things.json", false)] {
        let (encoding, body) = recorded(name);
        let mut parts = Parts::new(encoding).unwrap();
        parts.push(body);
        while !matches!(parts.next().unwrap().unwrap(), Part::Item(_)) {}
        assert_eq!(parts.head().is_ok_and(|head| head.resource_version == "220"), early, "{name}");
    }
}

#[test]
fn a_list_that_is_cut_anywhere_is_no_shorter_list() {
    for name in ["configmaps.json", "things.json", "configmaps.table.json", "configmaps.pb", "empty.json"] {
        let (encoding, body) = recorded(name);
        // The last four bytes of the envelope are two empty fields, and that of JSON is a line break.
        let end = if encoding == Encoding::Protobuf { body.len() - 4 } else { body.len() - 1 };
        for cut_at in 0..end {
            let whole = cut(encoding, &body[..cut_at], &[5]).and_then(|(_, parts)| parts.finish());
            assert!(whole.is_err(), "{name} cut at {cut_at}");
        }
    }
}

#[test]
fn wrong_lists_are_errors_and_nothing_of_them_is_lost() {
    let table = [
        r#"{"kind":"PodList","metadata":{},"items":[{"a":1},,{"a":2}]}"#,
        r#"{"kind":"PodList","metadata":{},"items":[{"a":1}{"a":2}]}"#,
        r#"{"kind":"PodList","metadata":{},"items":[,{"a":1}]}"#,
        r#"{"kind":"PodList","metadata":{},"items":[{"a":1},]}"#,
        r#"{"kind":"PodList","metadata":{},"items":["a"]}"#,
        r#"{"kind":"PodList","metadata":{},"items":[],"items":[{"a":1}]}"#,
        r#"{"kind":"PodList","metadata":{},"items":[]} {"#,
        r#"{"kind":"PodList" "#,
        r#"{"kind":"PodList","metadata":{}}"#,
        r#"{"kind":"Pod","metadata":{},"items":[]}"#,
        "[]",
        "",
    ];
    for text in table {
        for size in [1, 7, 100] {
            let mut parts = Parts::new(Encoding::Json).unwrap();
            text.as_bytes().chunks(size).for_each(|piece| parts.push(Bytes::copy_from_slice(piece)));
            let (mut read, mut failed) = (Vec::new(), false);
            loop {
                match parts.next() {
                    Ok(Some(Part::Rest(part) | Part::Separator(part) | Part::Item(part))) => read.push(part),
                    Ok(None) => break,
                    Err(_) => {
                        failed = true;
                        break;
                    }
                }
            }
            assert!(failed || parts.finish().is_err(), "{text} {size}");
            read.extend(parts.take_unread());
            assert_eq!(read.concat(), text.as_bytes(), "{size}");
        }
    }
    let (_, body) = recorded("configmaps.pb");
    // Its length, the lengths in it, the magic bytes.
    for (at, byte) in [(0, b'x'), (26, 0xff), (4, 0x0b)] {
        let mut wrong = body.to_vec();
        wrong[at] = byte;
        assert!(cut(Encoding::Protobuf, &wrong, &[3]).and_then(|(_, parts)| parts.finish()).is_err(), "byte {at}");
    }
    assert!(matches!(Parts::new(Encoding::Yaml), Err(ListError::Object(_))));
}

#[test]
fn parts_are_bounded() {
    let long = |length: usize| format!("{{\"kind\":\"PodList\",\"metadata\":{{}},\"items\":[{{\"a\":\"{}\"}}]}}", "x".repeat(length));
    assert!(cut(Encoding::Json, long(MAX_FRAME - 8).as_bytes(), &[1 << 20]).is_ok());
    assert!(matches!(cut(Encoding::Json, long(MAX_FRAME - 7).as_bytes(), &[1 << 20]), Err(ListError::TooLong { max: MAX_FRAME, .. })));
    let head = format!("{{\"kind\":\"{}\"}}", "x".repeat(MAX_REST));
    assert!(matches!(cut(Encoding::Json, head.as_bytes(), &[1 << 20]), Err(ListError::TooLong { max: MAX_REST, .. })));
}
