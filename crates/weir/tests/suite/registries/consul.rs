//! Consul: a server of its HTTP API for the tests, with blocking queries, by the documentation of that API. The real one takes minutes
//! of CPU to build.
use super::{
    Registry, follows,
    server::{self, Server},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// The ports of the service `shop` in an index that rises.
struct Consul {
    server: Server,
    state: Arc<Mutex<Option<Vec<u16>>>>,
    index: watch::Sender<u64>,
    asked: Arc<Mutex<Vec<String>>>,
}

fn query(uri: &http::Uri, name: &str) -> Option<String> {
    url::form_urlencoded::parse(uri.query()?.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Consul {
    fn start(token: &'static str) -> Consul {
        let state: Arc<Mutex<Option<Vec<u16>>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (index, changes) = watch::channel(1u64);
        let (of_server, seen) = (state.clone(), asked.clone());
        let server = server::http(move |request, _| {
            let (state, asked, mut changes) = (of_server.clone(), seen.clone(), changes.clone());
            async move {
                if request.headers().get("x-consul-token").and_then(|t| t.to_str().ok()).unwrap_or_default() != token {
                    return (403, vec![], "Permission denied".to_string());
                }
                asked.lock().unwrap().push(request.uri().to_string());
                let known: u64 = query(request.uri(), "index").and_then(|index| index.parse().ok()).unwrap_or(0);
                if known > 0 {
                    let _ = tokio::time::timeout(Duration::from_secs(60), changes.wait_for(|index| *index > known)).await;
                }
                let now = *changes.borrow();
                let body = answer(request.uri().path(), state.lock().unwrap().as_deref());
                match body {
                    Some(body) => (200, vec![("x-consul-index", now.to_string())], body.to_string()),
                    None => (404, vec![], String::new()),
                }
            }
        });
        Consul { server, state, index, asked }
    }
}

fn answer(path: &str, shop: Option<&[u16]>) -> Option<Value> {
    let entry = |port: &u16| {
        json!({
            "Node": { "Node": "n1", "Address": "127.0.0.1" },
            "Service": { "ID": format!("shop-{port}"), "Service": "shop_app", "Address": "", "Port": port, "Meta": { "zone": "a" }, "Weights": { "Passing": 1, "Warning": 1 } },
            "Checks": [],
        })
    };
    Some(match path {
        "/v1/catalog/services" => {
            let mut all = json!({ "consul": [], "untagged": [] });
            if shop.is_some() {
                all["shop_app"] = json!(["Web"]);
            }
            all
        }
        // One check of the node, and one of each instance.
        "/v1/health/state/any" => {
            let mut all = vec![json!({ "Node": "n1", "CheckID": "serfHealth", "Status": "passing", "ServiceName": "" })];
            all.extend(
                shop.into_iter()
                    .flatten()
                    .map(|port| json!({ "Node": "n1", "CheckID": format!("c{port}"), "Status": "passing", "ServiceName": "shop_app" })),
            );
            json!(all)
        }
        "/v1/health/service/shop_app" => json!(shop.into_iter().flatten().map(entry).collect::<Vec<_>>()),
        _ => return None,
    })
}

impl Registry for Consul {
    fn set(&self, ports: &[u16]) {
        *self.state.lock().unwrap() = Some(ports.to_vec());
        self.index.send_modify(|index| *index += 1);
    }
    fn remove(&self) {
        *self.state.lock().unwrap() = None;
        self.index.send_modify(|index| *index += 1);
    }
    fn stop(&self) {
        self.server.stop();
    }
    fn restart(&self) {
        // A server that lost its state counts from the beginning.
        self.index.send_modify(|index| *index = 1);
        self.server.restart();
    }
}

#[test]
fn services_follow_consul() {
    let server = Consul::start("s3cr3t");
    let registry = format!(
        "{{ type: consul, name: main, domain: localhost, port: {}, consulDatacenter: dc1, consulServiceTag: web, authSecretName: auth }}",
        server.server.port
    );
    let secret =
        "---\n{ apiVersion: v1, kind: Secret, metadata: { name: auth, namespace: higress-system }, stringData: { consulToken: s3cr3t } }\n";
    follows(&server, &registry, "shop-app.dc1.consul", secret);
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|uri| uri.contains("dc=dc1")) && !asked.iter().any(|uri| uri.contains("untagged")), "{asked:?}");
}
