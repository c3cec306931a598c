//! Eureka, the real server.
use super::{Registry, becomes, bridge, follows, ingress};
use crate::harness::Start;
use std::sync::Mutex;
use weir_test::EurekaServer;

struct Eureka {
    server: Mutex<Option<EurekaServer>>,
    port: u16,
}

impl Eureka {
    fn start() -> Eureka {
        let server = EurekaServer::start();
        Eureka { port: server.port, server: Mutex::new(Some(server)) }
    }
    fn with<T>(&self, use_it: impl FnOnce(&EurekaServer) -> T) -> T {
        use_it(self.server.lock().unwrap().as_ref().unwrap())
    }
    /// Its entry in a McpBridge.
    fn registry(&self) -> String {
        format!("{{ type: eureka, name: main, domain: 127.0.0.1, port: {} }}", self.port)
    }
}

impl Registry for Eureka {
    fn set(&self, ports: &[u16]) {
        self.with(|server| {
            let before = server.ports("SHOP");
            for port in ports.iter().filter(|port| !before.contains(port)) {
                server.register("SHOP", *port, "UP");
            }
            for port in before.into_iter().filter(|port| !ports.contains(port)) {
                server.cancel("SHOP", port);
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
        // It starts without what was registered before.
        *self.server.lock().unwrap() = Some(EurekaServer::start_at(self.port));
    }
}

#[test]
fn services_follow_eureka() {
    let server = Eureka::start();
    follows(&server, &server.registry(), "SHOP.eureka", "");
}

#[test]
fn instances_that_are_not_up_get_no_requests() {
    let server = Eureka::start();
    let all = bridge(&[server.registry()]) + &ingress("shop.test", "SHOP.eureka", "");
    let weir = Start::new().upstreams(2).file("all.yaml", all).arg("--http-port").arg("$PORT").run();
    let ports = [1, 2].map(|nth| weir.echo_port(nth));
    server.set(&ports);
    becomes(&weir, &["echo", "echo2"]);
    for (status, wanted) in [("DOWN", &["echo2"][..]), ("UP", &["echo", "echo2"]), ("OUT_OF_SERVICE", &["echo2"])] {
        server.with(|server| server.register("SHOP", ports[0], status));
        becomes(&weir, wanted);
    }
}
