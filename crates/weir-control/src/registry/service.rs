//! What a registry says of one service, in one form for all registries.
use crate::api::{
    istio::service_entry::{Endpoint, EndpointAddress, Resolution, ServiceEntry},
    labels::Labels,
    mcp_bridge::{self, Protocol},
};
use std::net::IpAddr;

/// Labels of one endpoint beyond this are left out.
const MAX_LABELS: usize = 64;
/// Envoy's bound.
const MAX_WEIGHT: f64 = 128.0;

/// One instance that can take requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// An IP address or a name.
    pub address: String,
    pub port: u16,
    pub weight: f64,
    /// `protocol` says what it speaks; subsets select by all of them.
    pub metadata: Labels,
}

/// A service with its endpoints. Equal ones say the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub port: u16,
    pub protocol: Protocol,
    pub endpoints: Vec<Endpoint>,
}

/// Makes a service of its instances, in whatever order these come. `before` is what it was: without instances it keeps its port. The
/// number says how many instances were left out: more than `most`, too. `None` where nothing is known of it.
pub fn service(
    mut instances: Vec<Instance>,
    before: Option<&Service>,
    is_refused: &dyn Fn(IpAddr) -> bool,
    most: usize,
) -> (Option<Service>, usize) {
    let count = instances.len();
    instances.retain(|instance| {
        instance.port > 0 && address(&instance.address).is_some_and(|a| !matches!(a, EndpointAddress::Ip(ip) if is_refused(ip)))
    });
    instances.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
    instances.dedup_by(|a, b| (&a.address, a.port) == (&b.address, b.port));
    let distinct = instances.len();
    instances.truncate(most);
    let refused = (count - distinct.min(count)) + (distinct - instances.len());
    let Some(first) = instances.first() else {
        return (before.map(|before| Service { endpoints: Vec::new(), ..before.clone() }), refused);
    };
    let protocol = first.metadata.get("protocol").and_then(|word| Protocol::named(word)).unwrap_or(Protocol::HTTP);
    // The instances may have several: that of the service must not depend on which of them came first.
    let port = instances.iter().map(|instance| instance.port).min().unwrap_or(first.port);
    let heaviest = instances.iter().map(|instance| instance.weight).fold(1.0, f64::max);
    let scale = if heaviest > MAX_WEIGHT { MAX_WEIGHT / heaviest } else { 1.0 };
    let endpoints = instances.into_iter().filter_map(|instance| {
        Some(Endpoint {
            address: address(&instance.address)?,
            ports: vec![(protocol.name.into(), instance.port)],
            labels: instance.metadata.into_iter().take(MAX_LABELS).collect(),
            weight: (instance.weight * scale).round().clamp(1.0, MAX_WEIGHT) as u32,
            locality: None,
        })
    });
    (Some(Service { port, protocol, endpoints: endpoints.collect() }), refused)
}

fn address(text: &str) -> Option<EndpointAddress> {
    if let Ok(ip) = text.parse() {
        return Some(EndpointAddress::Ip(ip));
    }
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (text.len() <= 253 && text.split('.').all(label)).then(|| EndpointAddress::Name(text.to_ascii_lowercase().into()))
}

impl Service {
    pub fn entry(&self, host: &str) -> ServiceEntry {
        let named = self.endpoints.iter().any(|endpoint| matches!(endpoint.address, EndpointAddress::Name(_)));
        let resolution = if named { Resolution::Dns } else { Resolution::Static };
        let entry = mcp_bridge::service(host, self.protocol.port(self.port, None), resolution, self.endpoints.clone());
        ServiceEntry { registered: true, ..entry }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn instance(address: &str, port: u16, weight: f64, metadata: &[(&str, &str)]) -> Instance {
        let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Instance { address: address.into(), port, weight, metadata }
    }

    fn shown(service: &Service) -> String {
        let one = |e: &Endpoint| {
            let address = match &e.address {
                EndpointAddress::Ip(ip) => ip.to_string(),
                EndpointAddress::Name(name) => name.to_string(),
            };
            format!("{address}:{}*{}", e.ports[0].1, e.weight)
        };
        format!("{} {} [{}]", service.protocol.name, service.port, service.endpoints.iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn instances_become_endpoints() {
        let table: Vec<(Vec<Instance>, &str, usize)> = vec![
            (vec![instance("10.0.0.2", 81, 1.0, &[]), instance("10.0.0.1", 80, 2.4, &[])], "http 80 [10.0.0.1:80*2 10.0.0.2:81*1]", 0),
            (vec![instance("10.0.0.1", 80, 0.1, &[("protocol", "GRPC")])], "grpc 80 [10.0.0.1:80*1]", 0),
            (vec![instance("10.0.0.1", 80, 1.0, &[("protocol", "odd")])], "http 80 [10.0.0.1:80*1]", 0),
            (
                vec![instance("10.0.0.1", 80, 1000.0, &[]), instance("10.0.0.2", 80, 500.0, &[])],
                "http 80 [10.0.0.1:80*128 10.0.0.2:80*64]",
                0,
            ),
            (vec![instance("Web.Test", 80, 1.0, &[]), instance("10.0.0.1", 80, 1.0, &[])], "http 80 [10.0.0.1:80*1 web.test:80*1]", 0),
            // Twice the same, no address, no port, and one that may not be reached.
            (
                vec![
                    instance("10.0.0.1", 80, 1.0, &[]),
                    instance("10.0.0.1", 80, 1.0, &[]),
                    instance("a b", 80, 1.0, &[]),
                    instance("10.0.0.3", 0, 1.0, &[]),
                    instance("169.254.169.254", 80, 1.0, &[]),
                ],
                "http 80 [10.0.0.1:80*1]",
                4,
            ),
        ];
        for (instances, wanted, refused) in table {
            let (made, out) = service(instances.clone(), None, &weir_net::dial::is_protected, 10);
            assert_eq!((shown(&made.unwrap()).as_str(), out), (wanted, refused), "{instances:?}");
            let (again, _) = service(instances.into_iter().rev().collect(), None, &weir_net::dial::is_protected, 10);
            assert_eq!(shown(&again.unwrap()), wanted, "in another order");
        }
    }

    #[test]
    fn a_service_without_instances_keeps_its_port() {
        let (before, _) = service(vec![instance("10.0.0.1", 80, 1.0, &[])], None, &|_| false, 10);
        let (after, _) = service(Vec::new(), before.as_ref(), &|_| false, 10);
        assert_eq!(shown(&after.unwrap()), "http 80 []");
        assert_eq!(service(Vec::new(), None, &|_| false, 10), (None, 0));
        let many = (0..17).map(|n| instance(&format!("10.0.0.{n}"), 80, 1.0, &[]));
        let (most, refused) = service(many.collect(), None, &|_| false, 10);
        assert_eq!((most.unwrap().endpoints.len(), refused), (10, 7));
    }
}
