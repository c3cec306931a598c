//! What the first configuration waits for.
use super::{bridge, ingress};
use crate::harness::{cache_in, eventually, free_port, weir};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
};
use weir_test::client;

/// A gateway whose admin listener is asked before it has a configuration, and so before it says where that is.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ready_names_the_registry_that_it_waits_for() {
    // Connections to it are made, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = silent.local_addr().unwrap().port();
    let registries = [
        format!("{{ type: eureka, name: slow, domain: 127.0.0.1, port: {registry} }}"),
        "{ type: static, name: own, domain: '127.0.0.1:9', port: 80 }".into(),
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), bridge(&registries) + &ingress("own.test", "own.static", "")).unwrap();
    let [admin, port] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut command = weir();
    command.args(["run", "--workers", "1", "--registry-request-timeout", "1h", "--admin", &admin.to_string()]);
    command.args(["--http-port", &port.port().to_string(), "--cache-dir"]).arg(cache_in(folder.path())).arg("-f").arg(folder.path());
    let _weir = Waiting(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());

    let ready = || client::get(admin, "localhost", "/ready").ok();
    let waits = format!("waiting for the registry slow (eureka) at 127.0.0.1:{registry} for ");
    let answer = eventually("/ready names it", || ready().filter(|answer| answer.body.contains(&waits)));
    assert!(answer.status == 503 && answer.body.contains("NotSynced: its services were not read yet"), "{answer:?}");
    // It refuses from now on: the configuration does without it.
    drop(silent);
    eventually("it is ready", || ready().filter(|answer| answer.status == 200 && !answer.body.contains("waiting for")));
    // Nobody listens at the only address of the service.
    assert_eq!(client::get(port, "own.test", "/").unwrap().status, 503);
}
