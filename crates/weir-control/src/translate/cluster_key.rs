//! What a cluster is made for, and its name.
use crate::{
    api::kubernetes::{Service, ServicePort},
    object::Key,
};
use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};
use weir_config::model::Name;

/// A service's port: what a cluster is made for. Copies share it, and the cluster's name with it.
#[derive(Clone, Debug)]
pub struct ClusterKey(Arc<ClusterIdentity>);

/// There is one for each cluster, so it has only what is not read from the name.
#[derive(Debug)]
pub struct ClusterIdentity {
    /// Of the cluster. Istio's: `outbound|PORT|SUBSET|HOST`.
    pub name: Name,
    /// For [`Purpose::Gateway`].
    gateway: Option<Key>,
    pub port: u16,
    /// The length of the subset in the name.
    subset: u32,
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

impl Purpose {
    /// How the names of such clusters begin, and what separates the parts of the name.
    const fn form(&self) -> (&'static str, &'static str) {
        match self {
            Purpose::Any | Purpose::Gateway(_) => ("outbound|", "|"),
            Purpose::ServerName => ("outbound_.", "_."),
            Purpose::Udp => ("outbound_udp|", "|"),
        }
    }
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
    pub fn purpose(&self) -> Purpose {
        let is = |purpose: &Purpose| self.name.starts_with(purpose.form().0);
        match &self.gateway {
            Some(gateway) => Purpose::Gateway(gateway.clone()),
            None => [Purpose::ServerName, Purpose::Udp].into_iter().find(is).unwrap_or(Purpose::Any),
        }
    }

    /// The subset and the host, with what follows them in the name.
    fn parts(&self) -> (&str, &str) {
        let (beginning, separator) = self.purpose().form();
        let behind_port = self.name.strip_prefix(beginning).and_then(|rest| rest.split_once(separator)).map(|(_, rest)| rest);
        let (subset, rest) = behind_port.and_then(|rest| rest.split_at_checked(self.subset as usize)).unwrap_or_default();
        (subset, rest.strip_prefix(separator).unwrap_or_default())
    }

    pub fn subset(&self) -> &str {
        self.parts().0
    }

    /// `NAME.NAMESPACE.svc.cluster.local` or a host of a ServiceEntry, in lower case.
    pub fn host(&self) -> &str {
        let (_, host) = self.parts();
        let end = self.gateway.as_ref().map_or(0, |gateway| suffix(gateway).len());
        &host[..host.len().saturating_sub(end)]
    }
}

/// What tells the clusters of a Gateway's own certificate from others.
fn suffix(gateway: &Key) -> String {
    format!("@{}.{}", gateway.name, gateway.namespace)
}

impl ClusterKey {
    pub fn new(port: u16, subset: &str, host: &str, purpose: Purpose) -> ClusterKey {
        let (beginning, separator) = purpose.form();
        let gateway = match purpose {
            Purpose::Gateway(gateway) => Some(gateway),
            _ => None,
        };
        let end = gateway.as_ref().map(suffix).unwrap_or_default();
        let name = format!("{beginning}{port}{separator}{subset}{separator}{host}{end}").into();
        ClusterKey(Arc::new(ClusterIdentity { name, gateway, port, subset: subset.len() as u32 }))
    }
    pub fn service(namespace: &str, name: &str, port: u16) -> ClusterKey {
        ClusterKey::host(port, &format!("{name}.{namespace}.svc.cluster.local"))
    }
    /// Of a host's port, without a subset.
    pub fn host(port: u16, host: &str) -> ClusterKey {
        ClusterKey::new(port, "", host, Purpose::Any)
    }
    /// Of the same port and host.
    pub fn with_purpose(&self, purpose: Purpose) -> ClusterKey {
        ClusterKey::new(self.port, self.subset(), self.host(), purpose)
    }
    /// The port of its Service.
    pub fn service_port<'a>(&self, service: &'a Service) -> Option<&'a ServicePort> {
        match self.purpose() {
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
            (ClusterKey::new(443, "v1", "a.test", Purpose::Any), "outbound|443|v1|a.test", None),
            (ClusterKey::new(443, "v1", "a.test", gateway()), "outbound|443|v1|a.test@g.infra", None),
            (ClusterKey::new(443, "v1", "a.test", Purpose::ServerName), "outbound_.443_.v1_.a.test", None),
            (ClusterKey::new(443, "v1", "a.test", Purpose::Udp), "outbound_udp|443|v1|a.test", None),
        ];
        for (nth, (key, name, service)) in table.iter().enumerate() {
            assert_eq!((&*key.name, key.kubernetes()), (*name, *service));
            let host = if nth == 0 { "cart.shop.svc.cluster.local" } else { "a.test" };
            assert_eq!((key.host(), key.subset()), (host, if nth == 0 { "" } else { "v1" }));
            assert_eq!(key.with_purpose(key.purpose()), *key);
            assert_eq!(table.iter().filter(|(other, ..)| other == key).count(), 1, "{name}");
        }
    }
}
