//! Several API servers, of which one stands still.
use super::hub::{Edge, JSON, Link, prepare};
use crate::harness::{Kube, eventually};
use std::{
    fs,
    process::{Child, Command, Stdio},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A second kube-apiserver on the same etcd, at another port.
struct Second(Child);

impl Second {
    fn start(kube: &Kube) -> Second {
        let line = fs::read(format!("/proc/{}/cmdline", kube.pid("kube-apiserver"))).unwrap();
        let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8(word.to_vec()).unwrap()).filter(|word| !word.is_empty());
        let program = words.next().unwrap();
        let mut arguments = Vec::new();
        while let Some(word) = words.next() {
            if word.starts_with("--audit-") {
                words.next();
                continue;
            }
            arguments.push(if word == "6443" { "6444".to_string() } else { word });
        }
        let mut command = kube.command(program);
        Second(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a server counts as up.
fn is_up(edge: &Edge, server: &Link) -> bool {
    let status = edge.admin("/stats").json();
    let name = server.url().replace("https://", "");
    let servers = status["servers"].as_array().unwrap();
    let server = servers.iter().find(|s| s["server"] == name.as_str()).unwrap_or_else(|| panic!("{name}: {status}"));
    server["known"] == true && server["up"] == true
}

/// Whether a server has failed lately.
fn failed(edge: &Edge, server: &Link) -> bool {
    edge.admin("/stats").json()["errors"].to_string().contains(&server.url().replace("https://", ""))
}

#[test]
fn no_read_fails_while_one_of_two_api_servers_stands_still() {
    let kube = Kube::bare();
    prepare(&kube);
    let second = Second::start(&kube);
    let links = [Link::to(&kube), Link::to_server(&kube, "10.244.0.1:6444")];
    let cache = tempfile::tempdir().unwrap();
    let alone = Edge::start(&kube, &links[1], &cache.path().join("alone"));
    eventually("the second API server works", || {
        (alone.get(MAPS, &[JSON]).header("weir-cache").is_none() && alone.get(MAPS, &[JSON]).status == 200).then_some(())
    });
    alone.kill();
    for mode in ["rr", "priority", "consistent-hashing"] {
        // The harness gives the last one.
        let edge = Edge::with(&kube, &links[0], &cache.path().join(mode), &["--lb-mode", mode, "--server-addr", &links[1].url()]);
        eventually("both count as up", || links.iter().all(|link| is_up(&edge, link)).then_some(()));
        // Each selector is new, so that nothing that was kept answers it.
        let reads = |name: &str| {
            for n in 0..20 {
                let path = format!("{MAPS}?labelSelector={name}%3D{n}");
                eventually(&path, || {
                    let answer = edge.get(&path, &[JSON]);
                    // On a busy machine the first server may be slow for a moment, and then there is nobody else.
                    assert!(answer.status == 200 || failed(&edge, &links[0]), "{mode} {n}: {answer:?}");
                    (answer.status == 200 && answer.header("weir-cache").is_none()).then_some(())
                });
            }
        };
        reads("both");
        second.signal("STOP");
        reads("stopped");
        eventually("only the second one counts as down", || (!is_up(&edge, &links[1]) && is_up(&edge, &links[0])).then_some(()));
        reads("down");
        let map = format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"written-{mode}\"}}}}");
        eventually("a write", || {
            let written = edge.request("POST", MAPS, &[JSON, ("content-type", "application/json")], map.as_bytes());
            assert!(written.status == 201 || failed(&edge, &links[0]), "{mode}: {written:?}");
            [201, 409].contains(&written.status).then_some(())
        });
        second.signal("CONT");
        eventually("the second one is back", || is_up(&edge, &links[1]).then_some(()));
        reads("back");
    }
}
