//! Eureka: a server of its REST API for the tests, by the documentation of Netflix. The real one is an application of Spring Boot that
//! everybody builds for themselves.
use super::{
    Registry, follows,
    server::{self, Server},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct State {
    /// Of the application `SHOP`.
    ports: Vec<u16>,
    /// What changed, with its action: a server keeps it for minutes.
    changes: Vec<(u16, &'static str)>,
}

struct Eureka {
    server: Server,
    state: Arc<Mutex<State>>,
}

fn instance(port: u16, action: &str) -> Value {
    json!({
        "instanceId": format!("shop:{port}"), "hostName": "localhost", "app": "SHOP", "ipAddr": "127.0.0.1", "status": "UP",
        "port": { "$": port, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" },
        "metadata": { "management.port": "1" }, "actionType": action,
    })
}

fn applications(instances: Vec<Value>, up: usize) -> String {
    let all = if instances.is_empty() { json!([]) } else { json!([{ "name": "SHOP", "instance": instances }]) };
    let hash = if up == 0 { String::new() } else { format!("UP_{up}_") };
    json!({ "applications": { "versions__delta": "1", "apps__hashcode": hash, "application": all } }).to_string()
}

impl Eureka {
    fn start() -> Eureka {
        let state: Arc<Mutex<State>> = Arc::default();
        let of_server = state.clone();
        let server = server::http(move |request, _| {
            let state = of_server.clone();
            async move {
                let state = state.lock().unwrap();
                let body = match request.uri().path() {
                    "/eureka/apps" => applications(state.ports.iter().map(|port| instance(*port, "ADDED")).collect(), state.ports.len()),
                    "/eureka/apps/delta" => {
                        applications(state.changes.iter().map(|(port, action)| instance(*port, action)).collect(), state.ports.len())
                    }
                    _ => return (404, vec![], String::new()),
                };
                (200, vec![], body)
            }
        });
        Eureka { server, state }
    }
}

impl Registry for Eureka {
    fn set(&self, ports: &[u16]) {
        let mut state = self.state.lock().unwrap();
        let before = std::mem::replace(&mut state.ports, ports.to_vec());
        state.changes.extend(before.iter().filter(|port| !ports.contains(port)).map(|port| (*port, "DELETED")));
        state.changes.extend(ports.iter().filter(|port| !before.contains(port)).map(|port| (*port, "ADDED")));
    }
    fn remove(&self) {
        self.set(&[]);
    }
    fn stop(&self) {
        self.server.stop();
    }
    fn restart(&self) {
        // It starts without what changed before.
        *self.state.lock().unwrap() = State::default();
        self.server.restart();
    }
}

#[test]
fn services_follow_eureka() {
    let server = Eureka::start();
    let registry = format!("{{ type: eureka, name: main, domain: 127.0.0.1, port: {} }}", server.server.port);
    follows(&server, &registry, "SHOP.eureka", "");
}
