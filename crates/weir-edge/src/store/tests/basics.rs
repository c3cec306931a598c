use super::name;
use crate::store::*;
use std::os::unix::fs::FileExt;

#[test]
fn what_is_written_is_read_also_after_opening_again() {
    for key in [None, Some([7; 32])] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { key, ..Options::default() };
        let mut store = Store::open(folder.path(), options.clone()).unwrap();
        assert!(store.sets().is_empty());
        store.put("pods", &name("b", "x"), b"early", b"1").unwrap();
        // Only a complete list can be listed.
        assert_eq!(store.list("pods").unwrap(), None);
        assert_eq!(store.get("pods", &name("b", "x")).unwrap().unwrap(), "early");
        let big = vec![b'a'; 9 << 20];
        let items =
            [(name("b", "x"), Bytes::from_static(b"one")), (name("a", "z"), Bytes::from(big.clone())), (name("a-b", "y"), Bytes::new())];
        store.replace("pods", b"10", items).unwrap();
        store.put("pods", &name("b", "y"), b"two", b"11").unwrap();
        store.remove("pods", &name("a-b", "y"), b"12").unwrap();
        store.set_head("pods", b"13").unwrap();
        store.replace("nodes", b"20", [(name("", "n1"), Bytes::from_static(b"node"))]).unwrap();
        store.replace("empty", b"21", []).unwrap();
        store.replace("gone", b"22", [(name("", "g"), Bytes::from_static(b"g"))]).unwrap();
        store.drop_set("gone").unwrap();
        let mut unfinished = store.begin_replace("nodes").unwrap();
        unfinished.add(&name("", "n2"), b"not yet").unwrap();
        drop(unfinished);
        for round in 0..3 {
            let pods = store.list("pods").unwrap().unwrap();
            assert_eq!(pods.head, "13", "round {round}");
            let names: Vec<String> = pods.items.iter().map(|(name, _)| name.to_string()).collect();
            assert_eq!(names, ["a/z", "b/x", "b/y"]);
            assert_eq!(pods.items[0].1, big);
            assert_eq!(pods.items[2].1, "two");
            assert_eq!(store.list("nodes").unwrap().unwrap().items, [(name("", "n1"), Bytes::from_static(b"node"))]);
            assert_eq!(store.list("empty").unwrap().unwrap(), Listing { head: Bytes::from_static(b"21"), items: vec![] });
            assert_eq!(store.list("gone").unwrap(), None);
            assert_eq!(store.head("gone"), None);
            assert_eq!(store.get("pods", &name("a-b", "y")).unwrap(), None);
            assert_eq!(store.sets().iter().map(|set| &set.name[..]).collect::<Vec<_>>(), ["empty", "nodes", "pods"]);
            if round == 1 {
                (0..4).for_each(|_| store.compact().unwrap());
                continue;
            }
            store.flush().unwrap();
            drop(store);
            store = Store::open(folder.path(), options.clone()).unwrap();
        }
    }
}

#[test]
fn a_list_is_known_to_be_the_same_until_anything_of_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| ObjectName { namespace: "n".into(), name: name.into() };
    let items = |values: &[(&str, &str)]| -> Vec<(ObjectName, Bytes)> {
        values.iter().map(|(n, value)| (name(n), Bytes::copy_from_slice(value.as_bytes()))).collect()
    };
    let list = items(&[("a", "first value"), ("b", "second value")]);
    let store = Store::open(folder.path(), Options::default()).unwrap();
    let is = |store: &Store, list: &[(ObjectName, Bytes)]| {
        let digests: std::collections::BTreeMap<_, _> = list.iter().map(|(name, value)| (name.clone(), store.digest(value))).collect();
        assert!(!store.is("s", &digests) || list.iter().all(|(name, value)| store.holds("s", name, store.digest(value))));
        store.is("s", &digests)
    };
    assert!(!is(&store, &list) && !is(&store, &[]) && !store.is_complete("s"));
    store.replace("s", b"1", list.iter().cloned()).unwrap();
    for (other, same) in [
        (items(&[("a", "first value"), ("b", "second value")]), true),
        (items(&[("b", "second value"), ("a", "first value")]), true),
        (items(&[("a", "first value"), ("b", "second Value")]), false),
        (items(&[("a", "first value"), ("c", "second value")]), false),
        (items(&[("a", "first value")]), false),
        (items(&[("a", "first value"), ("a", "first value")]), false),
        (items(&[("a", "first value"), ("b", "second value"), ("c", "x")]), false),
        (vec![], false),
    ] {
        assert_eq!(is(&store, &other), same, "{other:?}");
    }
    store.compact().unwrap();
    store.set_head("s", b"2").unwrap();
    assert!(is(&store, &list));
    store.put("s", &name("b"), b"third value", b"3").unwrap();
    assert!(!is(&store, &list));
    store.put("s", &name("b"), b"second value", b"4").unwrap();
    assert!(is(&store, &list));
    // What lies damaged on the disk is not the same any more once that was noticed. The first object is in the dictionary of a segment, too.
    store.flush().unwrap();
    let mut flipped = 0;
    for file in std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
    {
        let bytes = std::fs::read(&file).unwrap();
        for at in memchr::memmem::find_iter(&bytes, b"second value") {
            // In place: the store writes beside it.
            let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            file.write_all_at(b"S", at as u64).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0);
    assert!(store.list("s").is_err() && !is(&store, &list));
    store.replace("s", b"5", list.iter().cloned()).unwrap();
    assert!(is(&store, &list) && store.list("s").unwrap().unwrap().items == list);
    // Another process does not know.
    drop(store);
    let store = Store::open(folder.path(), Options::default()).unwrap();
    assert!(!is(&store, &list) && store.list("s").unwrap().unwrap().items == list);
}
