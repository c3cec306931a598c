//! What an Ingress is found by, beside its name.
use super::{Ingress, Tls};
use crate::object::meta::Meta;
use weir_config::model::Name;

/// Where canaries are found that have routes of their own, under their own names.
pub const CANARIES_BY_HEADER: &str = "canaries/by-header";

impl Ingress {
    /// The hosts that it has certificates for, the hosts of its rules, and the Services that it says something about.
    pub fn index_keys(&self, meta: &Meta) -> Vec<Name> {
        let mut keys: Vec<Name> = self.tls.iter().filter(|tls| tls.secret.is_some()).flat_map(Tls::all_hosts).collect();
        keys.extend(self.host_keys());
        keys.extend(self.service_keys(meta));
        keys.sort();
        keys.dedup();
        keys
    }

    /// Canaries apart, so that a change of another Ingress of a host is no concern.
    fn host_keys(&self) -> impl Iterator<Item = Name> {
        let canary = self.annotations.as_deref().and_then(|notes| notes.canary.as_ref());
        let key = if canary.is_some() { canary_key } else { host_key };
        let by_header = canary.filter(|canary| canary.header.is_some()).map(|_| CANARIES_BY_HEADER.into());
        self.rules.iter().map(move |rule| key(rule.host.as_ref())).chain(by_header)
    }

    fn service_keys(&self, meta: &Meta) -> Vec<Name> {
        if self.annotations.as_deref().is_none_or(|notes| notes.upstream.is_none()) {
            return Vec::new();
        }
        let paths = self.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
        let backends = paths.chain(&self.default_backend);
        backends.filter_map(|b| b.service.as_ref()).map(|(name, _)| service_key(&meta.key.namespace, name)).collect()
    }
}

impl Tls {
    /// `*` for an entry without hosts.
    pub fn all_hosts(&self) -> Vec<Name> {
        if self.hosts.is_empty() { vec!["*".into()] } else { self.hosts.clone() }
    }
}

/// Of the Ingress objects with rules for a host.
pub fn host_key(host: Option<&Name>) -> Name {
    format!("host/{}", host.map_or("*", |host| &**host)).into()
}

/// Of the canaries for a host.
pub fn canary_key(host: Option<&Name>) -> Name {
    format!("canary/{}", host.map_or("*", |host| &**host)).into()
}

/// Of the Ingress objects that say how a Service is connected to.
pub fn service_key(namespace: &str, service: &str) -> Name {
    format!("service/{namespace}/{service}").into()
}
