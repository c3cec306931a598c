use super::name;
use crate::store::*;

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
