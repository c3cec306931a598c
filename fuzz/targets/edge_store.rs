//! Recovery of the edge store from files that the input has changed: each set is as it once was, or says that it is damaged.
#![no_main]
use libfuzzer_sys::fuzz_target;
use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};
use weir_edge::store::{ObjectName, Options, ReadError, Store};

struct Written {
    files: Vec<(String, Vec<u8>)>,
    /// Each state that each set went through.
    states: BTreeMap<String, Vec<Vec<(ObjectName, bytes::Bytes)>>>,
}

fn options() -> Options {
    Options { segment_size: 2 << 10, ..Options::default() }
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let store = Store::open(folder.path(), options()).expect("a new store opens");
    let mut states: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for n in 0..40u32 {
        let set = ["pods", "services", "events"][n as usize % 3].to_string();
        let name = ObjectName { namespace: "default".into(), name: format!("object-{}", n % 7) };
        match n {
            0..3 => store.replace(&set, b"1", [(name, bytes::Bytes::from_static(b"first"))]),
            _ if n % 5 == 0 => store.remove(&set, &name, &n.to_le_bytes()),
            _ => store.put(&set, &name, format!("value {n}").repeat(n as usize).as_bytes(), &n.to_le_bytes()),
        }
        .expect("the store takes it");
        let items = store.list(&set).expect("nothing is damaged").expect("a list was committed").items;
        states.entry(set).or_default().push(items);
    }
    drop(store);
    let files = fs::read_dir(folder.path()).expect("the folder is there").flatten();
    let files = files.filter(|file| file.file_name() != "reserve");
    let mut files: Vec<_> =
        files.map(|file| (file.file_name().into_string().expect("plain"), fs::read(file.path()).expect("readable"))).collect();
    files.sort();
    Written { files, states }
});

fuzz_target!(|input: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let mut files = WRITTEN.files.clone();
    // Each edit: a file, an offset, how many bytes go, and what takes their place.
    for edit in input.chunks(8) {
        let [file, high, low, gone, new @ ..] = edit else { continue };
        let count = files.len();
        let bytes = &mut files[usize::from(*file) % count].1;
        let start = (usize::from(*high) << 8 | usize::from(*low)) % (bytes.len() + 1);
        let end = bytes.len().min(start + usize::from(*gone));
        bytes.splice(start..end, new.iter().copied());
    }
    let path: &Path = folder.path();
    files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).expect("a folder in memory takes files"));
    let Ok(store) = Store::open(path, options()) else { return };
    for set in store.sets() {
        match store.list(&set.name) {
            Ok(None) | Err(ReadError::Damaged { .. }) => {}
            Ok(Some(listing)) => assert!(WRITTEN.states[&set.name].contains(&listing.items), "{}: a state that never was", set.name),
            Err(e @ (ReadError::Io(_) | ReadError::Closed)) => panic!("{e}"),
        }
    }
});
