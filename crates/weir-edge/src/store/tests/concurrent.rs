//! Readers beside writers and cleaning.
use super::name;
use crate::store::*;
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

#[test]
fn readers_see_one_state_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_size: 32 << 10, commit_interval: Duration::from_millis(1), ..Options::default() };
    let store = Store::open(folder.path(), options).unwrap();
    // Each list has one number in its head and in all its objects.
    let list = |n: u32| (0..20).map(move |object| (name("ns", &format!("object-{object}")), Bytes::from(format!("{n} ").repeat(100))));
    store.replace("list", b"0", list(0)).unwrap();
    let (done, reads) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let reader = || {
            while !done.load(Ordering::Relaxed) {
                let found = store.list("list").unwrap().unwrap();
                let n = String::from_utf8(found.head.to_vec()).unwrap().parse().unwrap();
                assert_eq!(found.items, {
                    let mut items: Vec<_> = list(n).collect();
                    items.sort();
                    items
                });
                reads.fetch_add(1, Ordering::Relaxed);
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                store.put("events", &name("ns", &format!("event-{}", n % 5)), &[7; 3000], b"1").unwrap();
                n += 1;
            }
        });
        (1..150).for_each(|n| store.replace("list", n.to_string().as_bytes(), list(n)).unwrap());
        while reads.load(Ordering::Relaxed) <= 10 || store.stats().cleaned_segments <= 5 {
            store.compact().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
