//! ZooKeeper, the real server.
use super::{Registry, becomes, bridge, follows, ingress};
use crate::harness::Start;
use std::sync::Mutex;
use weir_test::ZookeeperServer;

struct Zookeeper {
    server: Mutex<Option<ZookeeperServer>>,
    port: u16,
}

impl Zookeeper {
    fn with<T>(&self, use_it: impl FnOnce(&ZookeeperServer) -> T) -> T {
        use_it(self.server.lock().unwrap().as_ref().unwrap())
    }
}

fn instance(port: u16) -> String {
    format!(r#"{{"name":"shop","id":"{port}","address":"127.0.0.1","port":{port},"payload":{{"metadata":{{"zone":"a"}}}}}}"#)
}

impl Registry for Zookeeper {
    fn set(&self, ports: &[u16]) {
        self.with(|server| {
            server.create("/services", "");
            server.create("/services/shop", "");
            for port in ports {
                server.create(&format!("/services/shop/{port}"), &instance(*port));
            }
            for name in server.children("/services/shop").iter().filter(|name| !ports.iter().any(|port| port.to_string() == **name)) {
                server.delete(&format!("/services/shop/{name}"));
            }
        });
    }
    fn remove(&self) {
        self.set(&[]);
        self.with(|server| server.delete("/services/shop"));
    }
    fn stop(&self) {
        *self.server.lock().unwrap() = None;
    }
    fn restart(&self) {
        *self.server.lock().unwrap() = Some(ZookeeperServer::start_at(self.port));
    }
}

#[test]
fn services_of_spring_cloud_follow_zookeeper() {
    let server = ZookeeperServer::start();
    let server = Zookeeper { port: server.port, server: Mutex::new(Some(server)) };
    let registry = format!("{{ type: zookeeper, name: main, domain: 127.0.0.1, port: {} }}", server.port);
    follows(&server, &registry, "shop.services.zookeeper", "");
}

#[test]
fn providers_of_dubbo_and_other_paths_follow_zookeeper() {
    let server = ZookeeperServer::start();
    let registry = format!("{{ type: zookeeper, name: main, domain: 127.0.0.1, port: {}, zkServicesPath: [/own/path/] }}", server.port);
    let all = [
        bridge(&[registry]),
        ingress("shop.test", "providers:org.Demo:1.0.0:.zookeeper", ""),
        ingress("own.test", "web.own-path.zookeeper", ""),
    ];
    let weir = Start::new().upstreams(2).file("all.yaml", all.concat()).arg("--http-port").arg("$PORT").run();
    let [one, two] = [1, 2].map(|nth| weir.echo_port(nth));
    let provider = |port: u16| format!("/dubbo/org.Demo/providers/tri2%3A%2F%2F127.0.0.1%3A{port}%2Forg.Demo%3Fversion%3D1.0.0");
    for path in ["/dubbo", "/dubbo/org.Demo", "/dubbo/org.Demo/providers", &provider(one), "/own", "/own/path", "/own/path/web"] {
        server.create(path, "");
    }
    becomes(&weir, &["echo"]);
    server.create(&provider(two), "");
    becomes(&weir, &["echo", "echo2"]);
    server.delete(&provider(one));
    becomes(&weir, &["echo2"]);
    server.create("/own/path/web/1", &instance(one));
    crate::harness::eventually("the service at the other path", || (weir.get("own.test", "/").status == 200).then_some(()));
    // What an instance says may change.
    server.set("/own/path/web/1", &instance(two));
    weir.get_until("own.test", "/", |answer| answer.status == 200 && answer.json()["name"] == "echo2");
}
