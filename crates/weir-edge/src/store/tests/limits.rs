//! Limits: sizes, the quota, a full disk, a read-only one, who else may open the store.
use super::name;
use crate::store::*;
use std::{fs, path::Path, process::Command};

fn value(n: usize) -> Bytes {
    // Does not compress.
    let mut noise = n as u32;
    (0..4000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .collect()
}

fn items(n: usize) -> impl Iterator<Item = (ObjectName, Bytes)> {
    (0..n).map(|n| (name("default", &format!("object-{n:04}")), value(n)))
}

/// A list that comes first has no dictionary; what changes in it afterwards must not go without.
#[test]
fn changes_of_the_first_list_are_compressed_with_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Options::default()).unwrap();
    let pod = |n: usize| [&value(1)[..], n.to_string().as_bytes()].concat();
    let pods = (0..40).map(|n| (name("default", &format!("pod-{n}")), Bytes::from(pod(n))));
    store.replace("pods", b"1", pods).unwrap();
    let before = store.stats().written_bytes;
    for n in 100..110 {
        store.put("pods", &name("default", "pod-7"), &pod(n), b"2").unwrap();
    }
    let written = store.stats().written_bytes - before;
    assert!(written < 10 * 1000, "{written} bytes for ten changes of 4 KB, and a segment's header");
    assert_eq!(store.get("pods", &name("default", "pod-7")).unwrap().unwrap(), pod(109));
    drop(store);
    let store = Store::open(folder.path(), Options::default()).unwrap();
    assert_eq!(store.list("pods").unwrap().unwrap().items.len(), 40);
}

/// Events give way to everything, pods to nothing.
fn by_name(quota: u64) -> Options {
    let policy = |set: &str| Policy {
        synced: set == "pods",
        priority: Priority(match set {
            "pods" => 9,
            "services" => 5,
            _ => 1,
        }),
    };
    Options { quota, segment_size: 64 << 10, policy: Arc::new(policy), ..Options::default() }
}

#[test]
fn what_is_too_large_or_misnamed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Options::default()).unwrap();
    let long = "n".repeat(1025);
    let large = vec![0; (16 << 20) + 1];
    for (set, object, value, head, want) in [
        ("s", name("a/b", "c"), &b""[..], &b""[..], "the namespace \"a/b\" has a slash"),
        (&long, name("", "c"), b"", b"", "the name of a set has 1025 bytes; at most 1024 are kept"),
        ("s", name("", &long), b"", b"", "a name has 1025 bytes; at most 1024 are kept"),
        ("s", name("", "c"), &large, b"", "a value has 16777217 bytes; at most 16777216 are kept"),
        ("s", name("", "c"), b"", &large[..20000], "the head of a set has 20000 bytes; at most 16384 are kept"),
    ] {
        assert_eq!(store.put(set, &object, value, head).unwrap_err().to_string(), want);
    }
    assert!(store.sets().is_empty());
    store.put(&long[1..], &name("", &long[1..]), &large[1..], &large[..16384]).unwrap();
    assert_eq!(store.get(&long[1..], &name("", &long[1..])).unwrap().unwrap(), &large[1..]);
}

#[test]
fn a_store_opens_only_for_one_and_only_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        |path: &str, key: Option<u8>| Store::open(&folder.path().join(path), Options { key: key.map(|k| [k; 32]), ..Options::default() });
    drop((open("plain", None).unwrap(), open("sealed", Some(1)).unwrap()));
    let held = open("held", None).unwrap();
    let unfinished = held.begin_replace("s").unwrap();
    drop(held);
    for (path, key, want) in [
        (
            "plain",
            Some(1),
            "is not encrypted: turn encryption off to go on with it (--disk-cache-encryption=false), or remove the folder to start an encrypted one",
        ),
        ("sealed", None, "is encrypted, and no key is given"),
        ("sealed", Some(2), "is encrypted with another key"),
        ("held", None, "is in use by another process"),
    ] {
        let error = open(path, key).unwrap_err().to_string();
        assert_eq!(error, format!("the store in {} {want}", folder.path().join(path).display()));
    }
    drop(unfinished);
    open("held", None).unwrap();
    open("sealed", Some(1)).unwrap();
}

#[test]
fn a_newer_format_is_refused_unless_it_says_that_this_version_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(folder.path(), Options::default());
    open().unwrap().put("s", &name("", "n"), b"value", b"1").unwrap();
    let path = folder.path().join("format");
    for (written, readable) in [(7, 1), (7, 2)] {
        let salt = [0; 16];
        let body = [&u16::to_le_bytes(written)[..], &u16::to_le_bytes(readable), &salt, &[0], b"the key of this store"].concat();
        fs::write(&path, crate::store::twice::encode(b"WEIRSTOR", &body)).unwrap();
        match open() {
            Ok(store) => assert_eq!((readable, store.get("s", &name("", "n")).unwrap().unwrap()), (1, Bytes::from_static(b"value"))),
            Err(e) => {
                let want = format!("the store in {} has format 2; this version reads up to format 1", folder.path().display());
                assert_eq!((readable, e.to_string()), (2, want));
            }
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(), Err(OpenError::Damaged { .. })));
}

#[test]
fn nothing_that_was_stored_is_in_the_files_of_an_encrypted_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Options { key: Some([1; 32]), segment_size: 4 << 10, ..Options::default() }).unwrap();
    let token = "token-7f3a";
    for n in 0..50 {
        store.put(&format!("secrets-{token}"), &name(token, &format!("{token}-{n}")), token.as_bytes(), token.as_bytes()).unwrap();
    }
    store.replace("list", token.as_bytes(), [(name("", token), Bytes::from(token.repeat(100)))]).unwrap();
    store.compact().unwrap();
    drop(store);
    let mut bytes = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let found = fs::read(entry.unwrap().path()).unwrap();
        assert!(memchr::memmem::find(&found, token.as_bytes()).is_none());
        bytes += found.len();
    }
    assert!(bytes > 5000);
}

#[test]
fn the_quota_evicts_what_matters_least_and_then_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let quota = 2 << 20;
    let store = Store::open(folder.path(), by_name(quota)).unwrap();
    store.replace("pods", b"1", items(50)).unwrap();
    store.replace("services", b"1", items(50)).unwrap();
    store.replace("events", b"1", items(100)).unwrap();
    store.replace("other-events", b"1", items(100)).unwrap();
    let pods = store.list("pods").unwrap();
    // Churn of one object needs no room.
    for n in 0..1000 {
        store.put("services", &name("default", "object-0001"), &value(n), b"2").unwrap();
    }
    assert_eq!(store.stats().evicted_sets, 0);
    store.replace("pods", b"3", items(200)).unwrap();
    assert!(store.stats().bytes <= quota + (128 << 10));
    let names = |store: &Store| store.sets().iter().map(|set| set.name.clone()).collect::<Vec<_>>();
    // Which changed longer ago goes first.
    assert_eq!(names(&store), ["other-events", "pods", "services"]);
    // A replacement needs room beside the old list. The unimportant one is refused, and nothing changes.
    let error = store.replace("other-events", b"4", items(400)).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert_eq!(store.list("other-events").unwrap().unwrap().items.len(), 100);
    let error = store.replace("pods", b"5", items(1000)).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert_eq!(names(&store), ["pods"]);
    let stats = store.stats();
    assert_eq!((stats.evicted_sets, stats.refused_writes), (3, 2));
    let listing = store.list("pods").unwrap().unwrap();
    assert_eq!((&listing.head[..], listing.items.len()), (&b"3"[..], 200));
    assert_eq!(listing.items[..50], pods.unwrap().items);
    drop(store);
    let store = Store::open(folder.path(), by_name(quota)).unwrap();
    assert_eq!(store.list("pods").unwrap().unwrap().items.len(), 200);
}

const MOUNTED: &str = "WEIR_EDGE_SMALL_DISK";

/// Runs one test of this file again, alone, in a mount namespace with a file system of this size. `None`: this is that run.
fn on_a_small_disk(test: &str, options: &str) -> Option<()> {
    if std::env::var_os(MOUNTED).is_some() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o {options} tmpfs \"$0\" && exec \"$1\" --exact --nocapture store::tests::limits::{test}");
    let output = Command::new("unshare")
        .args(if rustix::process::getuid().is_root() { &["--mount"][..] } else { &["--map-root-user", "--mount"] })
        .args(["sh", "-c", &script])
        .args([folder.path().as_os_str(), std::env::current_exe().unwrap().as_os_str()])
        .env(MOUNTED, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

fn small_disk() -> std::path::PathBuf {
    Path::new(&std::env::var_os(MOUNTED).unwrap()).join("store")
}

#[test]
fn a_full_disk_keeps_what_matters_and_recovers() {
    if on_a_small_disk("a_full_disk_keeps_what_matters_and_recovers", "size=2m").is_some() {
        return;
    }
    let folder = small_disk();
    // The quota knows nothing of the disk.
    let store = Store::open(&folder, by_name(1 << 30)).unwrap();
    store.replace("pods", b"1", items(100)).unwrap();
    store.replace("events", b"1", items(170)).unwrap();
    store.replace("services", b"1", items(50)).unwrap();
    // More important than events.
    for n in 0..150 {
        store.put("services", &name("default", &format!("more-{n}")), &value(n), b"2").unwrap();
    }
    assert!(store.list("events").unwrap().is_none());
    assert!(store.stats().write_errors > 0);
    let error = store.replace("pods", b"3", items(600)).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. } | WriteError::Io(_)), "{error}");
    let whole = |store: &Store| {
        let pods = store.list("pods").unwrap().unwrap();
        assert_eq!((&pods.head[..], pods.items), (&b"1"[..], items(100).collect::<Vec<_>>()));
    };
    whole(&store);
    // Other files take the rest of the disk.
    let _ = fs::write(folder.with_file_name("other"), vec![1; 4 << 20]);
    for n in 0..200 {
        let _ = store.put("pods", &name("default", "object-0000"), &value(n), b"1");
    }
    assert_eq!(store.list("pods").unwrap().unwrap().items.len(), 100);
    store.put("pods", &name("default", "object-0000"), &value(0), b"1").ok();
    let now = store.list("pods").unwrap();
    drop(store);
    let store = Store::open(&folder, by_name(1 << 30)).unwrap();
    assert_eq!(store.list("pods").unwrap(), now);
    fs::remove_file(folder.with_file_name("other")).unwrap();
    store.replace("pods", b"1", items(100)).unwrap();
    whole(&store);
}

#[test]
fn a_read_only_disk_is_read() {
    if on_a_small_disk("a_read_only_disk_is_read", "size=4m").is_some() {
        return;
    }
    let folder = small_disk();
    let options = by_name(1 << 30);
    let store = Store::open(&folder, options.clone()).unwrap();
    store.replace("pods", b"1", items(100)).unwrap();
    drop(store);
    let mounted = |how: &str| assert!(Command::new("mount").args(["-o", how]).arg(folder.parent().unwrap()).status().unwrap().success());
    mounted("remount,ro");
    let store = Store::open(&folder, options).unwrap();
    for n in 0..3 {
        let error = store.put("pods", &name("", "new"), b"value", b"2").unwrap_err();
        assert!(matches!(&error, WriteError::Io(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem), "{error}");
        assert_eq!(store.stats().write_errors, n + 1);
    }
    let pods = store.list("pods").unwrap().unwrap();
    assert_eq!((&pods.head[..], pods.items), (&b"1"[..], items(100).collect::<Vec<_>>()));
    mounted("remount,rw");
    store.put("pods", &name("", "new"), b"value", b"2").unwrap();
    assert_eq!(store.get("pods", &name("", "new")).unwrap().unwrap(), "value");
}
