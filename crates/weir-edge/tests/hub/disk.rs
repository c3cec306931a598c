//! A disk that is full, read-only, broken, or blocks while the hub runs: clients are answered, the hub reports the error, and it lists
//! again by itself once the disk works.
use super::{
    hub::{JSON, Rig, Watch},
    upstream::SERVICES,
};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command, sync::atomic::Ordering::Relaxed};
use weir_test::eventually;

const DISK: &str = "WEIR_EDGE_TEST_DISK";
const BROKEN: &str = "WEIR_EDGE_TEST_DISK_BROKEN";
const TEST: &str = "disk::a_disk_that_fails_costs_no_answer_and_heals";

/// Writes below the folder fail with the number that a file has, while there is one; with 0 they wait until there is none.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static int number(void) {
    const char *flag = getenv("WEIR_EDGE_TEST_DISK_BROKEN");
    char text[16] = {0};
    int file = flag ? open(flag, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    return length > 0 ? atoi(text) : -1;
}
static int broken(int fd) {
    const char *disk = getenv("WEIR_EDGE_TEST_DISK");
    char link[64], path[4096];
    if (!disk || number() < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (strncmp(path, disk, strlen(disk)) != 0) return 0;
    while (number() == 0) usleep(1000);
    return number() > 0 && (errno = number());
}
ssize_t pwrite64(int fd, const void *b, size_t n, off_t at) { return broken(fd) ? -1 : syscall(SYS_pwrite64, fd, b, n, at); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) { return pwrite64(fd, b, n, at); }
ssize_t write(int fd, const void *b, size_t n) { return broken(fd) ? -1 : syscall(SYS_write, fd, b, n); }
int fdatasync(int fd) { return broken(fd) ? -1 : syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return broken(fd) ? -1 : syscall(SYS_fsync, fd); }
"#;

/// Runs the test once more, with a small file system of its own as its temporary folder.
fn on_a_disk_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, shim, source) = (folder.path().join("disk"), folder.path().join("shim.so"), folder.path().join("shim.c"));
    fs::create_dir(&disk).unwrap();
    fs::write(&source, SHIM).unwrap();
    // The build needs a C compiler as well.
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status().unwrap().success());
    let script = format!("mount -t tmpfs -o size=24m tmpfs \"$0\" && LD_PRELOAD=\"$2\" exec \"$1\" --exact --nocapture {TEST}");
    let output = Command::new("unshare")
        .args(if rustix::process::getuid().is_root() { &["--mount"][..] } else { &["--map-root-user", "--mount"] })
        .args(["sh", "-c", &script])
        .args([disk.as_os_str(), std::env::current_exe().unwrap().as_os_str(), shim.as_os_str()])
        .env(DISK, &disk)
        .env("TMPDIR", &disk)
        .env(BROKEN, folder.path().join("broken"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Changes all services; the version of the last change.
fn change(rig: &Rig, round: &str) -> u64 {
    // Does not compress.
    let mut noise = 1_u64;
    let mut letters = || -> String {
        let next = |_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (noise >> 40) as u8 % 26)
        };
        (0..20_000).map(next).collect()
    };
    (0..20).map(|i| rig.upstream.put(&format!("s{i:02}"), json!({ "round": round, "noise": letters() }))).last().unwrap()
}

fn rounds(list: &Value) -> Vec<&str> {
    let mut rounds: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["labels"]["round"].as_str().unwrap()).collect();
    rounds.sort_unstable();
    rounds.dedup();
    rounds
}

#[test]
fn a_disk_that_fails_costs_no_answer_and_heals() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return on_a_disk_of_its_own() };
    let broken = PathBuf::from(std::env::var_os(BROKEN).unwrap());
    // A full disk counts as such until it has room for two reserves of the store, which are a quarter of the quota each.
    let mut rig = Rig::with(|options| options.quota = 8 << 20);
    let filler = disk.join("filler");
    type Act<'a> = Box<dyn Fn() + 'a>;
    let table: [(&str, Act<'_>, Act<'_>); 3] = [
        (
            "full",
            // Until nothing fits.
            Box::new(|| drop(fs::write(&filler, vec![1; 32 << 20]))),
            Box::new(|| fs::remove_file(&filler).unwrap()),
        ),
        ("EROFS", Box::new(|| fs::write(&broken, "30").unwrap()), Box::new(|| fs::remove_file(&broken).unwrap())),
        ("EIO", Box::new(|| fs::write(&broken, "5").unwrap()), Box::new(|| fs::remove_file(&broken).unwrap())),
    ];
    let mut before = "start";
    let mut version = change(&rig, before);
    for (what, breaks, mends) in table {
        let list = rig.get(SERVICES, &[JSON]);
        assert_eq!(rounds(&list.json()), [before]);
        let cache = || &rig.hub().cache;
        eventually("the list is kept", || (cache().newest() == version && cache().stale.is_empty()).then_some(()));
        let mut watch: Watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion={version}"), &[]);
        rig.upstream.has_watches(1);
        breaks();
        let counts = || (cache().stats.failed_writes.load(Relaxed), cache().stats.failed_relists.load(Relaxed));
        let (failed, in_vain) = counts();
        version = change(&rig, what);
        // The watch brings everything, and so does a list.
        assert_eq!(watch.until("\"s19\"").len(), 20, "{what}");
        assert_eq!(rounds(&rig.get(SERVICES, &[JSON]).json()), [what]);
        eventually("the hub lists again, in vain", || (counts().0 > failed && counts().1 > in_vain).then_some(()));
        let errors = format!("{:?}", cache().errors.all());
        assert!(errors.contains("cannot keep"), "{what}: {errors}");
        // Without the API server it is a whole list, up to an event that was kept, or none.
        rig.upstream.cut();
        rig.is_down();
        let kept = rig.get(SERVICES, &[JSON]);
        match kept.status {
            200 => assert_eq!(kept.json()["items"].as_array().unwrap().len(), 20, "{what}"),
            status => assert_eq!((status, kept.header("retry-after").is_some()), (503, true), "{what}"),
        }
        rig.upstream.mend();
        mends();
        eventually("it is listed again", || (cache().newest() == version && cache().stale.is_empty()).then_some(()));
        drop(watch);
        before = what;
    }
    // A disk that takes for ever: no client waits for it.
    let list = rig.get(SERVICES, &[JSON]);
    assert_eq!(rounds(&list.json()), [before]);
    let cache = || &rig.hub().cache;
    eventually("the list is kept", || (cache().newest() == version && cache().lag() == 0).then_some(()));
    let mut watch = rig.watch(&format!("{SERVICES}?watch=1&resourceVersion={version}"), &[]);
    rig.upstream.has_watches(1);
    fs::write(&broken, "0").unwrap();
    before = "stuck";
    version = change(&rig, before);
    assert_eq!(watch.until("\"s19\"").len(), 20);
    for _ in 0..20 {
        assert_eq!(rounds(&rig.get(SERVICES, &[JSON]).json()), [before]);
    }
    assert!(cache().lag() > 0);
    fs::remove_file(&broken).unwrap();
    eventually("it is kept", || (cache().newest() == version && cache().lag() == 0 && cache().stale.is_empty()).then_some(()));
    rig.upstream.cut();
    rig.stop_hub();
    rig.start_hub();
    rig.is_down();
    assert_eq!(rounds(&rig.get(SERVICES, &[JSON]).json()), [before]);
}
