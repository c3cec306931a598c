//! The system's clock is set while the gateway runs: the access log follows it.
use crate::harness::{Start, TO_ECHO, eventually};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

/// Sets the wall clock forward by the number of seconds in a file.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int r = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME && getenv("CLOCK_STEP")) {
        char text[32] = {0};
        int fd = open(getenv("CLOCK_STEP"), O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) t->tv_sec += atol(text);
        if (fd >= 0) close(fd);
    }
    return r;
}
"#;

/// The library, which reads the number of seconds from the file that `CLOCK_STEP` names.
pub fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    fs::write(&source, SHIM).unwrap();
    // The build needs a C compiler as well.
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(built.success());
    library
}

#[test]
fn start_times_follow_a_step_of_the_wall_clock() {
    let folder = tempfile::tempdir().unwrap();
    let (library, step) = (shim(folder.path()), folder.path().join("step"));
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .arg("--access-log-format")
        .arg("start %START_TIME(%s)% .")
        .env("LD_PRELOAD", library)
        .env("CLOCK_STEP", step.clone())
        .run();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let last = || {
        let lines = weir.lines("start ");
        lines.last().map(|l| Duration::from_secs(l.split(' ').nth(1).unwrap().parse().unwrap()))
    };
    assert_eq!(weir.get("h", "/").status, 200);
    let start = eventually("a record", last);
    assert!(start.abs_diff(now()) < Duration::from_secs(100), "{start:?}");
    for hours in [10, -5, 0] {
        fs::write(&step, format!("{}", hours * 3600)).unwrap();
        let wanted = now().as_secs().wrapping_add_signed(hours * 3600);
        eventually(&format!("the time {hours} hours off"), || {
            weir.get("h", "/");
            last().filter(|start| start.as_secs().abs_diff(wanted) < 1000)
        });
    }
}
