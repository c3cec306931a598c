//! Files as editors and others leave them.
#![allow(clippy::unwrap_used)]
use super::*;
use std::{
    io::Write,
    time::{Duration, SystemTime},
};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n";

/// A folder with one file that was read.
fn folder() -> (tempfile::TempDir, PathBuf, Files) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, NAMESPACE).unwrap();
    let mut files = Files::new(&[dir.path().into()]);
    assert_eq!(files.scan(&HashSet::new()).len(), 1);
    (dir, path, files)
}

fn age(path: &Path, age: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[test]
fn what_is_emptied_to_be_written_again_does_not_go() {
    let (_dir, path, mut files) = folder();
    fs::write(&path, "").unwrap();
    // Emptied in the future: the scan waits for as long as it takes the writer.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    let writer = std::thread::spawn(move || (&file).write_all(NAMESPACE.as_bytes()).unwrap());
    let changes = files.scan(&HashSet::new());
    writer.join().unwrap();
    assert!(changes.iter().all(|(_, object)| object.is_some()), "{changes:?}");
    assert_eq!(files.keys().count(), 1);
}

#[test]
fn what_stays_empty_is_empty() {
    let (_dir, path, mut files) = folder();
    fs::write(&path, "").unwrap();
    age(&path, Duration::from_secs(1));
    assert!(files.scan(&HashSet::new()).iter().all(|(_, object)| object.is_none()));
    assert_eq!(files.keys().count(), 0);
}

/// What the findings of a scan say, without the folder.
fn said(files: &Files, dir: &Path) -> Vec<String> {
    files.found_by().flat_map(|by| files.findings(&by)).map(|d| d.line().replace(&format!("{}", dir.display()), "D")).collect()
}

#[test]
fn only_regular_files_are_read() {
    let (dir, path, mut files) = folder();
    assert!(said(&files, dir.path()).is_empty());
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
    let fifo = dir.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // A regular file becomes what cannot be looked at: what it held stays.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("a.yaml", &path).unwrap();
    assert!(files.scan(&HashSet::new()).is_empty());
    assert_eq!(files.keys().count(), 1);
    let mut found = said(&files, dir.path());
    found.sort();
    let looping = "cannot be read: Too many levels of symbolic links (os error 40); make it readable for this user";
    let want = [
        &format!("error: D/a.yaml {looping}"),
        &format!("error: D/loop.yaml {looping}"),
        "error: D/pipe.yaml is a pipe, not a regular file; use a regular file",
        "error: D/zero.yaml is a device, not a regular file; use a regular file",
    ];
    assert_eq!(found, want);
    fs::remove_file(&path).unwrap();
    files.scan(&HashSet::new());
    assert_eq!(files.keys().count(), 0);
}

#[test]
fn a_folder_without_files_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("README.md"), "hello").unwrap();
    let mut files = Files::new(&[dir.path().into(), dir.path().join("none")]);
    files.scan(&HashSet::new());
    let want = [
        "warning: no .yaml, .yml or .json files in D; files are read as soon as they are there",
        "error: there is no file or folder D/none; it is read as soon as it is there",
    ];
    assert_eq!(said(&files, dir.path()), want);
}
