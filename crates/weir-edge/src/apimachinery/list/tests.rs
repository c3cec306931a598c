use super::*;
use crate::apimachinery::event::Event;
use crate::apimachinery::frame::{MAX_FRAME, Splitter};

/// A body as kube-apiserver sent it.
fn recorded(name: &str) -> (Encoding, Bytes) {
    let body = std::fs::read(format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    (if name.ends_with(".pb") { Encoding::Protobuf } else { Encoding::Json }, body.into())
}

fn split(name: &str) -> List {
    let (encoding, body) = recorded(name);
    List::split(&body, encoding).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn wholes(list: &List) -> Vec<Bytes> {
    list.items.iter().map(|item| list.head.whole(item)).collect()
}

/// The items of a list under some head.
fn text(head: &ListHead, list: &List) -> String {
    head.assemble(&wholes(list)).unwrap().concat().escape_ascii().to_string()
}

fn watch(name: &str) -> Vec<Event> {
    let (encoding, body) = recorded(name);
    let mut splitter = Splitter::new(encoding, MAX_FRAME).unwrap();
    splitter.push(body);
    std::iter::from_fn(|| splitter.next().unwrap()).map(|frame| Event::read(&frame, encoding).unwrap()).collect()
}

#[test]
fn recorded_lists_are_split_and_assembled_byte_for_byte() {
    // File; kind of list, resource version, remaining items, names and versions of the items.
    let table = [
        ("configmaps.json", "v1 ConfigMapList 220 None a:217 b:219"),
        ("configmaps.pb", "v1 ConfigMapList 220 None a:217 b:219"),
        ("configmaps.page.json", "v1 ConfigMapList 220 Some(1) a:217"),
        ("configmaps.page.pb", "v1 ConfigMapList 220 Some(1) a:217"),
        ("empty.json", "v1 SecretList 220 None"),
        ("empty.pb", "v1 SecretList 220 None"),
        ("things.json", "example.com/v1 ThingList 220 None a:218 b:220"),
        ("things.page.json", "example.com/v1 ThingList 220 Some(1) a:218"),
        ("things-none.json", "example.com/v1 ThingList 220 None"),
        ("things.partial.json", "meta.k8s.io/v1 PartialObjectMetadataList 220 None a:218 b:220"),
        ("configmaps.partial.json", "meta.k8s.io/v1 PartialObjectMetadataList 220 None a:217 b:219"),
        ("configmaps.partial.pb", "meta.k8s.io/v1 PartialObjectMetadataList 220 None a:217 b:219"),
        ("configmaps.table.json", "meta.k8s.io/v1 Table 220 None a:217 b:219"),
        ("configmaps.table-object.json", "meta.k8s.io/v1 Table 220 None a:217 b:219"),
        ("empty.table.json", "meta.k8s.io/v1 Table 220 None"),
    ];
    for (name, wanted) in table {
        let list = split(name);
        let ListHead { api_version, kind, resource_version, continue_token, remaining, .. } = &list.head;
        let items: String = list.items.iter().map(|i| format!(" {}:{}", i.meta.name, i.meta.resource_version)).collect();
        assert_eq!(format!("{api_version} {kind} {resource_version} {remaining:?}{items}"), wanted, "{name}");
        assert_eq!(continue_token.is_empty(), remaining.is_none());
        assert!(list.items.iter().all(|i| i.meta.namespace == "recorded" && i.labels().unwrap()["app"] == i.meta.name));
        let (encoding, body) = recorded(name);
        assert_eq!(list.head.assemble(&wholes(&list)).unwrap().concat(), body, "{name}");
        let loaded = ListHead::load(&list.head.save()).unwrap();
        assert_eq!(loaded, list.head, "{name}");
        assert_eq!(loaded.encoding(), encoding);
        // Whole objects say what they are.
        for whole in wholes(&list) {
            let object = Object::read(whole, encoding).unwrap();
            assert_eq!((object.kind.as_str(), &object.api_version), (list.head.item_kind(), api_version), "{name}");
            assert_eq!(object.labels().unwrap()["app"], object.meta.name);
        }
    }
}

#[test]
fn whole_objects_are_those_of_get() {
    for (list, get) in [("configmaps.json", "configmap.json"), ("configmaps.pb", "configmap.pb"), ("things.json", "thing.json")] {
        assert_eq!(wholes(&split(list))[0], recorded(get).1.trim_ascii_end(), "{get}");
    }
    let table = split("configmaps.table.json");
    let get = table.head.with_columns(&wholes(&table)[0]).unwrap();
    assert_eq!(get, recorded("configmap.table.json").1.trim_ascii_end());
}

#[test]
fn a_page_becomes_a_complete_list() {
    for (page, complete) in [
        ("configmaps.page.json", "configmaps.json"),
        ("configmaps.page.pb", "configmaps.pb"),
        ("things.page.json", "things.json"),
        ("configmaps.table.json", "configmaps.table.json"),
    ] {
        let (page, complete) = (split(page), split(complete));
        let head = page.head.at_version("220").unwrap();
        assert_eq!(head, complete.head);
        let later = head.at_version("9\"").unwrap();
        assert_eq!((later.resource_version.as_str(), later.remaining), ("9\"", None));
        assert_eq!(later.at_version("220").unwrap().save(), head.save());
    }
}

#[test]
fn a_watch_alone_makes_the_list_that_the_api_server_would_send() {
    // Watch, list of the same objects.
    for (name, list) in [
        ("watch.configmaps.json", "configmaps.json"),
        ("watch.configmaps.pb", "configmaps.pb"),
        ("watch.things.json", "things.json"),
        ("watch.things.partial.json", "things.partial.json"),
        ("watch.configmaps.partial.pb", "configmaps.partial.pb"),
        ("watch.configmaps.table.json", "configmaps.table.json"),
        ("watch.empty.table.json", "configmaps.table.json"),
    ] {
        let list = split(list);
        for (i, event) in watch(name).iter().enumerate() {
            let head = ListHead::of_objects(&event.object, "220");
            if i > 0 && name.contains("table") {
                assert_eq!(head, Err(ListError::NoColumns));
                continue;
            }
            let head = head.unwrap();
            assert_eq!(text(&head, &list), text(&list.head, &list), "{name}");
            assert_eq!(head.save(), list.head.save());
        }
    }
}

#[test]
fn tables_are_followed_by_their_watch() {
    let table = split("configmaps.table.json");
    let events = watch("watch.configmaps.table.json");
    // The first event has columns, as kept it has none; the later ones are kept as they come.
    let first = table.head.without_columns(&events[0].object).unwrap();
    assert!(first.len() < events[0].object.bytes().len() && first.starts_with(b"{\"kind\":\"Table\""));
    assert_eq!(&table.head.with_columns(&first).unwrap(), events[0].object.bytes());
    for event in &events[1..] {
        assert_eq!(&table.head.without_columns(&event.object).unwrap(), event.object.bytes());
    }
    // The list with the new row.
    let mut objects = wholes(&table);
    objects.push(first);
    let body: Bytes = table.head.at_version("388").unwrap().assemble(&objects).unwrap().concat().into();
    let list = List::split(&body, Encoding::Json).unwrap();
    assert_eq!(list.items.iter().map(|i| i.meta.resource_version.as_str()).collect::<Vec<_>>(), ["217", "219", "388"]);
    assert_eq!(list.head.resource_version, "388");
}

#[test]
fn what_came_with_whitespace_is_read_too() {
    let list = split("configmaps.pretty.json");
    assert_eq!(list.items.len(), 2);
    let body: Bytes = list.head.assemble(&wholes(&list)).unwrap().concat().into();
    let value = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
    assert_eq!(value(&body), value(&recorded("configmaps.json").1));
}

#[test]
fn wrong_lists_are_errors() {
    let table = [
        (r#"{"kind":"PodList","apiVersion":"v1","metadata":{}}"#, ListError::NotAList { kind: "PodList".into() }),
        (r#"{"kind":"PodList","items":[]}"#, ListError::NotAList { kind: "PodList".into() }),
        (r#"{"kind":"Pod","metadata":{},"items":[]}"#, ListError::NotAList { kind: "Pod".into() }),
        (r#"{"kind":"PodList","metadata":{},"items":[{}]}"#, ListError::Unnamed { at: 41 }),
        (r#"{"kind":"PodList","items":[],"items":[]}"#, JsonError::Duplicate { at: 37 }.into()),
        (r#"{"kind":"PodList","items":{}}"#, JsonError::Expected { at: 26, expected: "an array" }.into()),
        (
            r#"{"kind":"PodList","metadata":{"remainingItemCount":"x"},"items":[]}"#,
            JsonError::Expected { at: 51, expected: "a whole number" }.into(),
        ),
        ("{\"kind\":\"PodList\",\"items\":[\"\u{e9}", JsonError::Expected { at: 27, expected: "an object" }.into()),
        (r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"rows":[]}"#, ListError::NoColumns),
        (r#"{"kind":"PodList","metadata":{},"metadata":{},"items":[]}"#, JsonError::Duplicate { at: 43 }.into()),
        ("", JsonError::Truncated { at: 0 }.into()),
    ];
    for (text, wanted) in table {
        assert_eq!(List::split(&text.into(), Encoding::Json).unwrap_err(), wanted, "{text}");
    }
    // Rows without their objects cannot be told apart.
    let (encoding, body) = recorded("configmaps.table-noobject.json");
    assert!(matches!(List::split(&body, encoding), Err(ListError::Unnamed { .. })));
    let (encoding, body) = recorded("configmap.pb");
    assert_eq!(List::split(&body, encoding).unwrap_err(), ListError::NotAList { kind: "ConfigMap".into() });
    assert!(matches!(ListHead::load(&Bytes::new()), Err(ListError::Form)));
    // A list that is cut anywhere is no shorter list.
    for name in ["configmaps.json", "things.json", "configmaps.table.json", "configmaps.pb"] {
        let (encoding, body) = recorded(name);
        // The last four bytes of the envelope are two empty fields.
        let end = if encoding == Encoding::Protobuf { body.len() - 4 } else { body.len() - 1 };
        for cut in 0..end {
            assert!(List::split(&body.slice(..cut), encoding).is_err(), "{name} cut at {cut}");
        }
    }
}
