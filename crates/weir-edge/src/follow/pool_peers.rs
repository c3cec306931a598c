//! Keeps the hubs of the node pool known: the nodes of the NodePool, and the addresses in their Node objects. Both are kept, so that they
//! are known without the link, too.
use crate::{
    body::whole,
    follow::{MAX_LIST, filter_context::POOL},
    hub::{
        Hub,
        pool::{MOST, Members},
    },
    random::between,
};
use http::StatusCode;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// The Node objects are listed again after this time, and after a change of the pool. They are not watched: nodes report every minute.
const AGAIN: Duration = Duration::from_secs(600);
/// The same after a failure.
const FAILED: Duration = Duration::from_secs(30);
/// A change of the pool reaches all of its hubs at once.
const SPREAD: Duration = Duration::from_secs(2);

/// Keeps them for as long as the future is polled. `port`: where hubs listen for each other.
pub async fn run(hub: Arc<Hub>, port: u16) {
    hub.filters.want();
    let mut contexts = hub.filters.subscribe();
    loop {
        let (pool, nodes) = {
            let context = contexts.borrow_and_update();
            (context.pool.clone(), context.pool_nodes.clone())
        };
        let wait = match (&pool, &nodes) {
            (Some(pool), Some(nodes)) => match addresses(&hub, pool, nodes, port).await {
                Ok(members) => {
                    hub.share.pool.set(&members);
                    AGAIN
                }
                Err(why) => {
                    hub.cache.errors.note(format!("the nodes of the pool {pool} are not known: {why}"));
                    FAILED
                }
            },
            (None, _) => {
                hub.share.pool.set(&Members::new());
                AGAIN
            }
            // The nodes that were known last go on.
            (Some(_), None) => AGAIN,
        };
        let changed = contexts.wait_for(|context| context.pool != pool || context.pool_nodes != nodes);
        if let Ok(Err(_)) = timeout(between(wait / 2, wait), changed).await {
            return;
        }
        sleep(between(Duration::ZERO, SPREAD)).await;
    }
}

async fn addresses(hub: &Hub, pool: &str, nodes: &BTreeSet<String>, port: u16) -> Result<Members, String> {
    let selector: String = url::form_urlencoded::byte_serialize(format!("{POOL}={pool}").as_bytes()).collect();
    let response = hub.get(&format!("/api/v1/nodes?labelSelector={selector}&resourceVersion=0"), "application/json").await;
    if response.status() != StatusCode::OK {
        return Err(format!("the list of Nodes is answered with {}", response.status()));
    }
    let body = whole(response.into_body(), MAX_LIST).await.map_err(|e| e.to_string())?;
    let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    Ok(members(&list, nodes, port))
}

/// The first InternalIP of each node of the pool.
fn members(list: &Value, nodes: &BTreeSet<String>, port: u16) -> Members {
    let address = |node: &Value| {
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let ip = addresses
            .filter(|address| address["type"] == "InternalIP")
            .find_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok());
        let name = node["metadata"]["name"].as_str().filter(|name| nodes.contains(*name))?;
        Some((name.to_string(), SocketAddr::new(ip?, port).to_string()))
    };
    list["items"].as_array().into_iter().flatten().filter_map(address).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_nodes_of_the_pool_with_an_address() {
        let node = |name: &str, addresses: Value| json!({ "metadata": { "name": name }, "status": { "addresses": addresses } });
        let ip = |ip: &str| json!({ "type": "InternalIP", "address": ip });
        let list = json!({ "items": [
            node("a", json!([{ "type": "Hostname", "address": "a" }, ip("10.0.0.1"), ip("10.0.0.9")])),
            node("b", json!([ip("fd00::2")])),
            node("c", json!([{ "type": "Hostname", "address": "c" }])),
            node("d", Value::Null),
            node("e", json!([ip("not an address")])),
            node("other", json!([ip("10.0.0.5")])),
        ] });
        let nodes = ["a", "b", "c", "d", "e"].map(str::to_string).into();
        let found = members(&list, &nodes, 10269);
        let wanted = [("a", "10.0.0.1:10269"), ("b", "[fd00::2]:10269")].map(|(name, address)| (name.to_string(), address.to_string()));
        assert_eq!(found, Members::from(wanted));
        assert!(members(&Value::Null, &nodes, 1).is_empty());
    }
}
