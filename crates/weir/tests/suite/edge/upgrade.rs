//! A new process takes over from a hub: watches go on, no connection is refused, and nothing that was kept is lost.
use super::hub::{Edge, JSON, Link, prepare};
use crate::harness::{Kube, eventually};
use std::{
    fs,
    net::TcpStream,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};
use weir_test::client::Connection;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The process that took over. It is no child of the test.
struct Successor(u32);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.0.to_string()]).status();
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// A watch that must not end: nothing begins it again.
fn watch(edge: &Edge, version: &str) -> Connection<TcpStream> {
    let mut connection = edge.open();
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    connection.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n")).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    connection
}

#[track_caller]
fn brings(watch: &mut Connection<TcpStream>, part: &str) {
    let mut seen = String::new();
    while !seen.contains(part) {
        let piece = watch.chunk().unwrap().unwrap_or_else(|| panic!("the watch ended before {part}: {seen}"));
        seen += &String::from_utf8(piece).unwrap();
    }
}

fn script(program: &Path, text: &str) {
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

#[test]
fn watches_go_on_when_a_new_process_takes_over() {
    let kube = Kube::bare();
    prepare(&kube);
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: first, namespace: default}}");
    let (folder, link) = (tempfile::tempdir().unwrap(), Link::to(&kube));
    let (program, cache) = (folder.path().join("weir"), folder.path().join("cache"));
    let real = || {
        let new = folder.path().join("link");
        symlink(env!("CARGO_BIN_EXE_weir"), &new).unwrap();
        fs::rename(new, &program).unwrap();
    };
    real();
    let pki = |file: &str| kube.folder().join("pki").join(file);
    let mut command = Edge::command_as(&program, &link, &cache);
    // An API server that is slow for a moment must not end watches here.
    command.args(["--drain-time", "10m", "--heartbeat-timeout-seconds", "60"]).arg("--certificate-authority").arg(pki("ca.crt"));
    command.arg("--client-certificate").arg(pki("node.crt")).arg("--client-key").arg(pki("node.key"));
    command.arg("--tls-cert-file").arg(pki("edge.crt")).arg("--tls-private-key-file").arg(pki("edge.key"));
    let mut edge = Edge::run(command, &cache);
    let list = edge.kept(MAPS, JSON).json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watches: Vec<Connection<TcpStream>> = (0..10).map(|_| watch(&edge, version)).collect();
    let mut idle = edge.open();
    assert_eq!(idle.request("GET", "hub", "/version", &[JSON], b"").unwrap().status, 200);
    let mut all_bring = |name: &str| {
        kube.apply(&format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, namespace: default}}}}"));
        watches.iter_mut().for_each(|watch| brings(watch, &format!("\"{name}\"")));
    };
    all_bring("before");

    // Programs that do not take over: another one, one that ends, and one that ends when it has the sockets and could have the store.
    for (text, says) in [
        ("echo hello there >&0", "it is another program"),
        ("exit 1", "it has ended without \"ready\""),
        ("printf 'ready\\n' >&0; read line <&0", "it has ended without \"serving\""),
    ] {
        script(&program, text);
        signal(edge.id(), "USR2");
        edge.says(says);
        all_bring(&format!("after-{}", says.len()));
    }
    eventually("the process goes on with the store", || {
        edge.printed().iter().filter(|line| line.contains("API server at")).count().eq(&2).then_some(())
    });
    assert_eq!(edge.kept(MAPS, JSON).status, 200);

    // A watch of a shared kind is the hub's own.
    let services = "/api/v1/namespaces/default/services";
    let shared = eventually("a watch of a shared kind", || {
        let mut connection = edge.open();
        let path = format!("{services}?watch=1&resourceVersion=0");
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: hub\r\naccept: application/json\r\n\r\n")).unwrap();
        let head = connection.head().unwrap();
        (head.status == 200 && head.header("weir-cache").is_some()).then_some(connection)
    });
    real();
    signal(edge.id(), "USR2");
    let line = edge.says("has taken over from process");
    let successor = Successor(line.split(' ').nth(1).unwrap().parse().unwrap());
    assert!(line.ends_with(&format!("from process {}", edge.id())), "{line}");
    all_bring("late");
    // It has ended, and its client goes on in the new process.
    let mut shared = shared;
    while shared.chunk().unwrap().is_some() {}
    // A connection that nobody used is closed; new ones are the new process's, which goes on with what was kept.
    assert!(idle.is_closed());
    edge.kept(MAPS, JSON);
    eventually("the list is kept", || edge.admin("/metrics").body.contains("cache_lists{resource=\"configmaps\"} 1").then_some(()));
    let mut own = watch(&edge, version);
    // The old process ends with its last watch.
    drop(watches);
    assert!(edge.ends().success());
    kube.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: last, namespace: default}}");
    brings(&mut own, "\"last\"");
    link.cut();
    let kept = eventually("what was kept", || Some(edge.get(MAPS, &[JSON])).filter(|a| a.status == 200 && a.body.contains("\"last\"")));
    assert!(kept.header("weir-cache").is_some() && kept.body.contains("\"first\""), "{kept:?}");
    drop(successor);
}
