//! The dummy interface: pods of a node reach the hub at the same addresses on all nodes.
use super::hub::{Edge, prepare};
use crate::harness::{Kube, eventually};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// `ip` in the network namespace of the cluster; nothing where it fails.
fn addresses(kube: &Kube) -> String {
    let output = kube.command("ip").args(["-brief", "address", "show", "dev", "hub-test0"]).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn hub(kube: &Kube, cache: &Path, flags: &[&str]) -> Command {
    let pki = |file: &str| kube.folder().join("pki").join(file);
    let mut command = kube.command(env!("CARGO_BIN_EXE_weir"));
    command.args(["edge", "--node-name", "rig-node", "--server-addr", "https://10.244.0.1:6443", "--proxy-port", "0"]);
    command.args([
        "--proxy-secure-port",
        "0",
        "--enable-dummy-if",
        "--dummy-if-name",
        "hub-test0",
        "--dummy-if-ip",
        "169.254.2.1,fd00::2:1",
    ]);
    command.arg("--disk-cache-path").arg(cache).arg("--disk-cache-key-file").arg(cache.join("test.key"));
    command.arg("--certificate-authority").arg(pki("ca.crt")).arg("--client-certificate").arg(pki("node.crt"));
    command.arg("--client-key").arg(pki("node.key")).arg("--cert-dir").arg(cache.join("pki")).args(flags);
    command
}

#[test]
fn an_interface_is_there_while_the_hub_is_and_after_a_crash() {
    let kube = Kube::bare();
    prepare(&kube);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    assert_eq!(addresses(&kube), "");
    let start = || Edge::run(hub(&kube, &cache, &[]), &cache);
    let edge = start();
    let line = edge.says("listening on https://169.254.2.1:");
    edge.says("listening on https://[fd00::2:1]:");
    let answers = |address: &str| kube.connect(address).is_ok();
    let address = line.rsplit('/').next().unwrap().to_string();
    assert!(answers(&address));
    let found = addresses(&kube);
    assert!(found.contains("169.254.2.1/32") && found.contains("fd00::2:1/128"), "{found}");
    // A crash leaves it, and the next hub goes on with it.
    edge.kill();
    assert!(addresses(&kube).contains("169.254.2.1/32"));
    let mut edge = start();
    let line = edge.says("listening on https://169.254.2.1:");
    assert!(answers(line.rsplit('/').next().unwrap()));
    // The end of a hub takes it away.
    assert!(Command::new("kill").args(["-TERM", &edge.id().to_string()]).status().unwrap().success());
    assert!(edge.ends().success());
    eventually("the interface is gone", || addresses(&kube).is_empty().then_some(()));

    // An interface of somebody else, and addresses that are others' to give.
    let made = kube.command("ip").args(["link", "add", "hub-test0", "type", "veth"]).status().unwrap();
    assert!(made.success());
    for (flags, says) in [
        (&[][..], "hub-test0 exists, and is another kind of interface"),
        (&["--dummy-if-ip", "10.0.0.1"], "10.0.0.1 is not an address for an interface of the node alone"),
    ] {
        let mut command = hub(&kube, &cache, &[]);
        if !flags.is_empty() {
            command = kube.command(env!("CARGO_BIN_EXE_weir"));
            command.args(["edge", "--node-name", "n", "--server-addr", "https://a", "--enable-dummy-if"]).args(flags);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{flags:?}: {text}");
    }
}
