//! The addresses of the Service in front of the gateways: those that clients use.
use crate::kubernetes::client::{ServiceName, WATCH_SECONDS};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    runtime::watcher::{self, watcher},
};
use std::{pin::pin, time::Duration};
use tokio::{sync::watch, time::sleep};

const RETRY: Duration = Duration::from_secs(5);

/// Follows the Service for as long as the process lives. While it cannot be read its last addresses stay.
pub async fn follow(client: Client, of: ServiceName, addresses: watch::Sender<Vec<String>>) {
    let api: Api<Service> = Api::namespaced(client, &of.namespace);
    let mut events = pin!(watcher(api, watcher::Config::default().timeout(WATCH_SECONDS).fields(&format!("metadata.name={}", of.name))));
    while let Some(event) = events.next().await {
        let now = match event {
            Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) => addresses_of(&service),
            Ok(watcher::Event::Delete(_)) => Vec::new(),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
            Err(_) => {
                sleep(RETRY).await;
                continue;
            }
        };
        addresses.send_if_modified(|last| std::mem::replace(last, now.clone()) != now);
    }
}

/// Those of its load balancer, else its external ones. A load balancer that has none yet is waited for.
pub fn addresses_of(service: &Service) -> Vec<String> {
    let ingress = service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|l| l.ingress.iter().flatten());
    let balanced: Vec<String> = ingress.filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
    let Some(spec) = &service.spec else { return balanced };
    let external = spec.external_ips.clone().unwrap_or_default();
    let within = spec.cluster_ips.iter().flatten().filter(|ip| *ip != "None").cloned();
    match spec.type_.as_deref() {
        _ if !balanced.is_empty() => balanced,
        Some("LoadBalancer") => external,
        _ if !external.is_empty() => external,
        _ => within.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_those_that_clients_use() {
        for (json, want) in [
            (r#"{"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}}"#, &[][..]),
            (
                r#"{"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.test"}]}}}"#,
                &["192.0.2.1", "lb.test"],
            ),
            (r#"{"spec": {"type": "LoadBalancer", "externalIPs": ["192.0.2.9"]}}"#, &["192.0.2.9"]),
            (r#"{"spec": {"type": "NodePort", "externalIPs": ["192.0.2.9"], "clusterIPs": ["10.0.0.1"]}}"#, &["192.0.2.9"]),
            (r#"{"spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}}"#, &["10.0.0.1", "fd00::1"]),
            (r#"{"spec": {"clusterIPs": ["None"]}}"#, &[]),
        ] {
            let service: Service = serde_json::from_str(json).unwrap();
            assert_eq!(addresses_of(&service), want, "{json}");
        }
    }
}
