//! Consul, the real server.
use super::{Registry, becomes, bridge, follows, ingress};
use crate::harness::Start;
use serde_json::{Value, json};
use std::sync::Mutex;
use weir_test::{ConsulServer, consul::TOKEN};

struct Consul {
    server: Mutex<Option<ConsulServer>>,
    port: u16,
    /// Of every instance.
    check: Option<Value>,
}

impl Consul {
    fn start(check: Option<Value>) -> Consul {
        let server = ConsulServer::start();
        Consul { port: server.port, server: Mutex::new(Some(server)), check }
    }
    fn with<T>(&self, use_it: impl FnOnce(&ConsulServer) -> T) -> T {
        use_it(self.server.lock().unwrap().as_ref().unwrap())
    }
    /// Its entry in a McpBridge.
    fn registry(&self) -> String {
        format!(
            "{{ type: consul, name: main, domain: localhost, port: {}, consulDatacenter: dc1, consulServiceTag: web, authSecretName: auth }}",
            self.port
        )
    }
}

/// Passes until somebody says otherwise.
fn ttl() -> Value {
    json!({ "TTL": "1h", "Status": "passing" })
}

fn secret() -> String {
    format!(
        "---\n{{ apiVersion: v1, kind: Secret, metadata: {{ name: auth, namespace: higress-system }}, stringData: {{ consulToken: {TOKEN} }} }}\n"
    )
}

impl Registry for Consul {
    fn set(&self, ports: &[u16]) {
        self.with(|server| {
            server.register("untagged", 1, "other", None);
            for port in ports {
                server.register("shop_app", *port, "Web", self.check.clone());
            }
            for port in server.ports("shop_app").into_iter().filter(|port| !ports.contains(port)) {
                server.deregister("shop_app", port);
            }
        });
    }
    fn remove(&self) {
        self.set(&[]);
    }
    fn stop(&self) {
        *self.server.lock().unwrap() = None;
    }
    fn restart(&self) {
        // It has lost its state, and counts from the beginning.
        *self.server.lock().unwrap() = Some(ConsulServer::start_at(self.port));
    }
}

#[test]
fn services_follow_consul() {
    // A service without checks passes always.
    for check in [None, Some(ttl())] {
        let server = Consul::start(check);
        follows(&server, &server.registry(), "shop-app.dc1.consul", &secret());
        let asked = server.with(ConsulServer::asked);
        // The tests ask some things without a datacenter.
        let by_weir = || asked.iter().filter(|url| url.contains("dc=dc1"));
        assert!(by_weir().any(|url| url.starts_with("/v1/health/service/shop_app?")), "{asked:?}");
        assert!(!asked.iter().any(|url| url.contains("untagged")), "{asked:?}");
    }
}

#[test]
fn instances_without_passing_checks_get_no_requests() {
    let server = Consul::start(Some(ttl()));
    let all = bridge(&[server.registry()]) + &ingress("shop.test", "shop-app.dc1.consul", "") + &secret();
    let weir = Start::new().upstreams(2).file("all.yaml", all).arg("--http-port").arg("$PORT").run();
    let ports = [1, 2].map(|nth| weir.echo_port(nth));
    server.set(&ports);
    becomes(&weir, &["echo", "echo2"]);
    for (state, wanted) in [("fail", &["echo2"][..]), ("pass", &["echo", "echo2"]), ("warn", &["echo2"])] {
        server.with(|server| server.check("shop_app", ports[0], state));
        becomes(&weir, wanted);
    }
    server.with(|server| server.check("shop_app", ports[1], "fail"));
    becomes(&weir, &["503"]);
}
