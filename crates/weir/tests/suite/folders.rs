//! What a gateway reports about its folders and files, and how it treats those that it cannot read.
use crate::{
    harness::{Start, TO_ECHO, eventually, weir},
    yaml::ToEcho,
};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// The binary where every user can run it: root's target folder is often closed to others.
fn for_everybody() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    set_mode(place.path(), 0o755);
    let binary = place.path().join("weir");
    // By a program: the kernel runs no file that another thread's child still holds open for writing.
    assert!(Command::new("cp").arg(weir().get_program()).arg(&binary).status().unwrap().success());
    (place, binary)
}

/// `weir check` as a user who may not read everything.
fn check(binary: &Path, folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(binary);
    command.arg("check").arg(folder);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65534);
    }
    let Output { status, stdout, .. } = command.output().unwrap();
    let said = String::from_utf8(stdout).unwrap().replace(&format!("{}", folder.display()), "CONF");
    (status.code(), said)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let (_place, binary) = for_everybody();
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    assert_eq!(check(&binary, folder.path()).0, Some(0));
    assert!(check(&binary, folder.path()).1.contains("no .yaml, .yml or .json files in CONF"));

    fs::write(folder.path().join("a.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n").unwrap();
    assert_eq!(check(&binary, folder.path()), (Some(0), "no findings in CONF\n".into()));

    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("b.yaml"), "").unwrap();
    for (path, what) in [("sub", "CONF/sub cannot be read: Permission denied"), ("b.yaml", "CONF/b.yaml cannot be read: Permission denied")]
    {
        let path = folder.path().join(path);
        set_mode(&path, 0);
        let (code, said) = check(&binary, folder.path());
        assert!(code == Some(1) && said.contains(what) && said.contains("1 error"), "{code:?} {said}");
        set_mode(&path, 0o755);
    }
    set_mode(folder.path(), 0);
    let (code, said) = check(&binary, folder.path());
    assert!(code == Some(1) && said.contains("CONF cannot be read: Permission denied"), "{code:?} {said}");
    set_mode(folder.path(), 0o755);
}

#[test]
fn what_was_read_is_told_at_the_start() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("empty.yaml", "").run();
    weir.says("read 4 objects from 2 files (1 EndpointSlice, 1 Gateway, 1 HTTPRoute, 1 Service): 1 listener, 1 route");
}

#[test]
fn devices_and_pipes_in_a_folder_stop_nothing() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    symlink("/dev/zero", weir.path("zero.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(weir.path("pipe.yaml")).status().unwrap().success());
    weir.says("zero.yaml is a device, not a regular file");
    weir.says("pipe.yaml is a pipe, not a regular file");
    // Later changes are seen.
    weir.write(
        "gateway.yaml",
        &ToEcho::new().rules(&["matches: [{ path: { value: /only } }], backendRefs: [{ name: echo, port: 80 }]"]).text(),
    );
    eventually("the change", || (weir.get("h", "/").status == 404 && weir.get("h", "/only").status == 200).then_some(()));
}
