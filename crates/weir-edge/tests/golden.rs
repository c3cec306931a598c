//! Every built-in kind of Kubernetes in JSON and protobuf: the objects that `k8s.io/api` tests its own encoders with.
#![allow(clippy::unwrap_used)]
use std::{collections::BTreeMap, fs, path::PathBuf};

use bytes::Bytes;
use weir_edge::apimachinery::event::{Event, EventKind, encode};
use weir_edge::apimachinery::frame::{MAX_FRAME, Splitter};
use weir_edge::apimachinery::list::{List, ListHead};
use weir_edge::apimachinery::media::Encoding;
use weir_edge::apimachinery::object::Object;
use weir_edge::apimachinery::reported::{LEASE, NODE, POD, node_name};
use weir_test::kube::programs::module_folder;

struct Golden {
    /// `core.v1.Pod`
    name: String,
    json: Bytes,
    protobuf: Bytes,
}

/// The golden objects, in JSON as the API server sends them: without whitespace.
fn golden() -> Vec<Golden> {
    let folder: PathBuf = module_folder("", "k8s.io/api").unwrap().join("testdata/HEAD");
    let mut all: Vec<Golden> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "pb") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let json = fs::read(path.with_extension("json")).unwrap();
            all.push(Golden { name, json: compact(&json).into(), protobuf: fs::read(&path).unwrap().into() });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() > 150, "{} golden objects", all.len());
    all
}

fn compact(text: &[u8]) -> Vec<u8> {
    let (mut string, mut escaped) = (false, false);
    let kept = text.iter().filter(|byte| {
        let keep = string || !byte.is_ascii_whitespace();
        string ^= **byte == b'"' && !escaped;
        escaped = string && **byte == b'\\' && !escaped;
        keep
    });
    kept.copied().collect()
}

/// Those that have an ObjectMeta, and a name in it: not options, reviews and so on.
fn named() -> Vec<(Golden, [Object; 2])> {
    let mut found = Vec::new();
    for golden in golden() {
        let json = Object::read(golden.json.clone(), Encoding::Json).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        let protobuf = Object::read(golden.protobuf.clone(), Encoding::Protobuf);
        if !json.meta.name.is_empty() {
            found.push((golden, [json, protobuf.unwrap()]));
        }
    }
    assert!(found.len() > 120, "{} named objects", found.len());
    found
}

#[test]
fn both_encodings_of_each_kind_have_the_same_metadata() {
    for (golden, [json, protobuf]) in named() {
        let group_version = json.api_version.split_once('/').unwrap_or(("core", &json.api_version));
        assert_eq!(golden.name, format!("{}.{}.{}", group_version.0, group_version.1, json.kind));
        assert_eq!((&json.api_version, &json.kind), (&protobuf.api_version, &protobuf.kind), "{}", golden.name);
        assert_eq!(json.meta, protobuf.meta, "{}", golden.name);
        assert_eq!((json.meta.name.as_str(), json.meta.deletion_timestamp), ("nameValue", Some(1_230_771_661)));
        for object in [json, protobuf] {
            let entry = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.to_string())]);
            assert_eq!(object.labels().unwrap(), entry("labelsKey", "labelsValue"), "{}", golden.name);
            assert_eq!(object.annotations().unwrap(), entry("annotationsKey", "annotationsValue"), "{}", golden.name);
            let owner = object.owner_references().unwrap().remove(0);
            assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("kindValue", "nameValue", true), "{}", golden.name);
        }
    }
}

#[test]
fn watches_of_all_kinds_do_not_depend_on_how_they_are_cut() {
    let all = named();
    for (encoding, which) in [(Encoding::Json, 0), (Encoding::Protobuf, 1)] {
        let frame = |object: &Object| encode(EventKind::Modified, object.bytes(), encoding).unwrap();
        let body: Bytes = all.iter().map(|(_, objects)| frame(&objects[which])).collect::<Vec<_>>().concat().into();
        for size in [1, 3, 64, 1000, 4096, body.len()] {
            let mut splitter = Splitter::new(encoding, MAX_FRAME).unwrap();
            let (mut rest, mut wanted) = (body.clone(), all.iter());
            while !rest.is_empty() {
                splitter.push(rest.split_to(size.min(rest.len())));
                while let Some(frame) = splitter.next().unwrap() {
                    let event = Event::read(&frame, encoding).unwrap();
                    let (golden, objects) = wanted.next().unwrap();
                    assert_eq!(event.object, objects[which], "{}", golden.name);
                }
            }
            assert!(wanted.next().is_none());
            assert_eq!(splitter.finish(), Ok(()));
        }
        // A sample, cut at every byte.
        let sample = |name: &str| &all.iter().find(|(golden, _)| golden.name == name).unwrap().1[which];
        let (first, second) = (sample("core.v1.ConfigMap"), sample("core.v1.Service"));
        let body: Bytes = [frame(first), frame(second)].concat().into();
        for cut in 0..body.len() {
            let mut splitter = Splitter::new(encoding, MAX_FRAME).unwrap();
            splitter.push(body.slice(..cut));
            let mut frames: Vec<Bytes> = std::iter::from_fn(|| splitter.next().unwrap()).collect();
            splitter.push(body.slice(cut..));
            frames.extend(std::iter::from_fn(|| splitter.next().unwrap()));
            let objects: Vec<Object> = frames.iter().map(|frame| Event::read(frame, encoding).unwrap().object).collect();
            assert_eq!(objects.iter().collect::<Vec<_>>(), [first, second], "cut at {cut}");
        }
    }
}

#[test]
fn lists_of_all_kinds_are_assembled_and_split() {
    for (golden, objects) in named() {
        for object in objects {
            let head = ListHead::of_objects(&object, "77").unwrap();
            let kept = vec![object.bytes().clone(); 3];
            let body: Bytes = head.assemble(&kept).unwrap().concat().into();
            let list = List::split(&body, object.encoding()).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
            assert_eq!((list.head.resource_version.as_str(), list.items.len()), ("77", 3), "{}", golden.name);
            assert_eq!(list.head, head);
            for item in &list.items {
                assert_eq!(item.meta, object.meta);
                assert_eq!(&list.head.whole(item), object.bytes(), "{}", golden.name);
            }
            assert_eq!(list.head.assemble(&kept).unwrap().concat(), body, "{}", golden.name);
        }
    }
}

#[test]
fn objects_that_are_cut_or_changed_anywhere_are_read_or_refused() {
    for golden in golden().iter().filter(|g| ["core.v1.Node", "apps.v1.Deployment", "core.v1.DeleteOptions"].contains(&g.name.as_str())) {
        for (encoding, bytes) in [(Encoding::Json, &golden.json), (Encoding::Protobuf, &golden.protobuf)] {
            for at in 0..bytes.len() {
                let cut = Object::read(bytes.slice(..at), encoding);
                // The last four bytes of an envelope are two empty fields.
                assert!(cut.is_err() || encoding == Encoding::Protobuf && at + 4 >= bytes.len(), "{} cut at {at}", golden.name);
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x15;
                if let Ok(object) = Object::read(changed.into(), encoding) {
                    let _ = (object.labels(), object.annotations(), object.owner_references());
                }
            }
        }
    }
}

#[test]
fn what_nodes_report_is_the_same_in_both_encodings() {
    let kinds = [("core.v1.Pod", &POD), ("core.v1.Node", &NODE), ("coordination.k8s.io.v1.Lease", &LEASE)];
    for (name, kind) in kinds {
        let (_, [json, protobuf]) = named().into_iter().find(|(golden, _)| golden.name == name).unwrap();
        let report = kind.read(&json).unwrap();
        assert!(report[kind.part].as_object().is_some_and(|part| part.len() > 4), "{name}");
        assert_eq!(kind.read(&protobuf).unwrap(), report, "{name}");
        // Written again, it is what the API server's own encoder makes, up to the order of fields of the metadata.
        let version = &json.meta.resource_version;
        let written = Object::read(kind.write(&protobuf, &report, version).unwrap(), Encoding::Protobuf).unwrap();
        assert_eq!(kind.read(&written).unwrap(), report, "{name}");
        assert_eq!((written.bytes().len(), &written.meta), (protobuf.bytes().len(), &protobuf.meta), "{name}");
        let written = kind.write(&json, &report, version).unwrap();
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(&written), value(json.bytes()), "{name}");
    }
    let (_, pods) = named().into_iter().find(|(golden, _)| golden.name == "core.v1.Pod").unwrap();
    pods.iter().for_each(|pod| assert_eq!(node_name(pod).unwrap(), "nodeNameValue"));
}
