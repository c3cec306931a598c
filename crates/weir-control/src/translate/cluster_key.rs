//! What a cluster is made for, and its name.
use crate::{
    api::kubernetes::{Service, ServicePort},
    object::Key,
};
use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    ops::{Deref, Range},
    sync::Arc,
};
use weir_config::model::Name;

/// A service's port: what a cluster is made for. Copies share it, and the cluster's name with it.
#[derive(Clone, Debug)]
pub struct ClusterKey(Arc<ClusterIdentity>);

#[derive(Debug)]
pub struct ClusterIdentity {
    pub port: u16,
    pub subset: Name,
    pub purpose: Purpose,
    /// Of the cluster. Istio's: `outbound|PORT|SUBSET|HOST`.
    pub name: Name,
    /// Where the host is in the name.
    host: Range<u32>,
}

/// What a cluster is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Everything that has no cluster of its own.
    Any,
    /// Its endpoints are shown the certificate of this Gateway (of Gateway API).
    Gateway(Key),
    /// TLS that is passed on by a server name that says the cluster: nothing is added to it.
    ServerName,
    /// The port of UDP with this number.
    Udp,
}

impl Deref for ClusterKey {
    type Target = ClusterIdentity;

    fn deref(&self) -> &ClusterIdentity {
        &self.0
    }
}

impl PartialEq for ClusterKey {
    fn eq(&self, other: &ClusterKey) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ClusterKey {}

impl PartialOrd for ClusterKey {
    fn partial_cmp(&self, other: &ClusterKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClusterKey {
    /// The name has the rest in it; ports come in the order of numbers.
    fn cmp(&self, other: &ClusterKey) -> Ordering {
        (self.port, &self.name).cmp(&(other.port, &other.name))
    }
}

impl Hash for ClusterKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ClusterIdentity {
    /// `NAME.NAMESPACE.svc.cluster.local` or a host of a ServiceEntry, in lower case.
    pub fn host(&self) -> &str {
        self.name.get(self.host.start as usize..self.host.end as usize).unwrap_or_default()
    }
}

impl ClusterKey {
    pub fn new(port: u16, subset: Name, host: &str, purpose: Purpose) -> ClusterKey {
        let (mut name, end) = match &purpose {
            Purpose::Any => (format!("outbound|{port}|{subset}|"), String::new()),
            Purpose::Gateway(gateway) => (format!("outbound|{port}|{subset}|"), format!("@{}.{}", gateway.name, gateway.namespace)),
            Purpose::ServerName => (format!("outbound_.{port}_.{subset}_."), String::new()),
            Purpose::Udp => (format!("outbound_udp|{port}|{subset}|"), String::new()),
        };
        let start = name.len() as u32;
        name += host;
        let host = start..name.len() as u32;
        ClusterKey(Arc::new(ClusterIdentity { port, subset, purpose, name: (name + &end).into(), host }))
    }
    pub fn service(namespace: &str, name: &str, port: u16) -> ClusterKey {
        ClusterKey::host(port, &format!("{name}.{namespace}.svc.cluster.local"))
    }
    /// Of a host's port, without a subset.
    pub fn host(port: u16, host: &str) -> ClusterKey {
        ClusterKey::new(port, Name::default(), host, Purpose::Any)
    }
    /// Of the same port and host.
    pub fn with_purpose(&self, purpose: Purpose) -> ClusterKey {
        ClusterKey::new(self.port, self.subset.clone(), self.host(), purpose)
    }
    /// The port of its Service.
    pub fn service_port<'a>(&self, service: &'a Service) -> Option<&'a ServicePort> {
        match self.purpose {
            Purpose::Udp => service.udp_port(self.port),
            _ => service.port(self.port),
        }
    }
    /// Namespace and name where the host is a Kubernetes Service's.
    pub fn kubernetes(&self) -> Option<(&str, &str)> {
        let (name, namespace) = self.host().strip_suffix(".svc.cluster.local")?.split_once('.')?;
        (!namespace.contains('.')).then_some((namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn names_are_those_of_istio_and_tell_keys_apart() {
        let gateway = || Purpose::Gateway(Key::new(Kind::Gateway, "infra", "g"));
        let table = [
            (ClusterKey::service("shop", "cart", 80), "outbound|80||cart.shop.svc.cluster.local", Some(("shop", "cart"))),
            (ClusterKey::new(443, "v1".into(), "a.test", Purpose::Any), "outbound|443|v1|a.test", None),
            (ClusterKey::new(443, "v1".into(), "a.test", gateway()), "outbound|443|v1|a.test@g.infra", None),
            (ClusterKey::new(443, "v1".into(), "a.test", Purpose::ServerName), "outbound_.443_.v1_.a.test", None),
        ];
        for (nth, (key, name, service)) in table.iter().enumerate() {
            assert_eq!((&*key.name, key.kubernetes()), (*name, *service));
            assert_eq!(key.host(), if nth == 0 { "cart.shop.svc.cluster.local" } else { "a.test" });
            assert_eq!(table.iter().filter(|(other, ..)| other == key).count(), 1, "{name}");
        }
    }
}
