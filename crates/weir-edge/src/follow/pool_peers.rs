//! Keeps the hubs of the node pool known: the nodes of the NodePool, and the addresses in their Node objects. Both are kept, so that they
//! are known without the link, too.
use crate::{
    apimachinery::object::Object,
    follow::{self, Failed, filter_context::POOL, value},
    hub::{
        Hub,
        pool::{MOST, Members},
    },
    random::between,
};
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

async fn addresses(hub: &Hub, pool: &str, nodes: &BTreeSet<String>, port: u16) -> Result<Members, Failed> {
    let selector: String = url::form_urlencoded::byte_serialize(format!("{POOL}={pool}").as_bytes()).collect();
    let path = format!("/api/v1/nodes?labelSelector={selector}");
    let is_member = |node: &Object| nodes.contains(&node.meta.name);
    let ips = follow::read(hub, &path, |node| is_member(node).then(|| internal_ip(&value(node)?)).flatten()).await?;
    let members = ips.into_iter().take(MOST).map(|(node, ip)| (node.name, SocketAddr::new(ip, port).to_string()));
    Ok(members.collect())
}

/// The first InternalIP of a node.
fn internal_ip(node: &Value) -> Option<IpAddr> {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    addresses.filter(|address| address["type"] == "InternalIP").find_map(|address| address["address"].as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_address_of_a_node_is_its_first_internal_ip() {
        let ip = |ip: &str| json!({ "type": "InternalIP", "address": ip });
        for (addresses, wanted) in [
            (json!([{ "type": "Hostname", "address": "a" }, ip("10.0.0.1"), ip("10.0.0.9")]), Some("10.0.0.1")),
            (json!([ip("not an address"), ip("fd00::2")]), Some("fd00::2")),
            (json!([{ "type": "Hostname", "address": "c" }]), None),
            (Value::Null, None),
        ] {
            let node = json!({ "status": { "addresses": addresses } });
            assert_eq!(internal_ip(&node), wanted.map(|ip| ip.parse().unwrap()), "{node}");
        }
        assert_eq!(internal_ip(&Value::Null), None);
    }
}
