//! The services of registries (McpBridge) as objects of the index.
//!
//! Each service of a registry is a ServiceEntry that no source holds: routes, DestinationRules and plugins refer to its host as to any
//! other. Its place is that of its registry in the McpBridge.
use crate::{
    api::{
        istio::ServiceEntry,
        mcp_bridge::{self, McpBridge, Registry, RegistryKind, Source},
    },
    object::{Key, Kind, Meta, Object, Spec},
    source::files::Changes,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_config::model::Name;

/// One registry of a McpBridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RegistryId {
    bridge: Key,
    kind: RegistryKind,
    name: Name,
}

/// What is known of all registries.
#[derive(Default)]
pub struct Registries {
    /// The objects made of the services of each registry, by host.
    services: BTreeMap<RegistryId, BTreeMap<Name, Arc<Object>>>,
}

impl Registries {
    /// Takes over those of `changes` that concern registries. Returns the services that come, change or go.
    pub fn follow(&mut self, changes: &Changes) -> Changes {
        let mut all = Changes::new();
        for (key, object) in changes.iter().filter(|(key, _)| key.kind == Kind::McpBridge) {
            let used = object.as_ref().filter(|_| is_used(key));
            let bridge = used.and_then(|object| match &object.spec {
                Spec::McpBridge(bridge) => Some((object, &**bridge)),
                _ => None,
            });
            self.set(key, bridge, &mut all);
        }
        all
    }

    fn set(&mut self, key: &Key, bridge: Option<(&Arc<Object>, &McpBridge)>, changes: &mut Changes) {
        let mut now = BTreeSet::new();
        for (object, registry) in bridge.into_iter().flat_map(|(object, bridge)| bridge.registries.iter().map(move |r| (object, r))) {
            let id = RegistryId { bridge: key.clone(), kind: registry.kind, name: registry.name.clone() };
            match &registry.source {
                Source::Listed(entry) => self.put(&id, &[(**entry).clone()], (object, registry), changes),
            }
            now.insert(id);
        }
        let gone: Vec<RegistryId> = self.services.keys().filter(|id| id.bridge == *key && !now.contains(id)).cloned().collect();
        for services in gone.iter().filter_map(|id| self.services.remove(id)) {
            changes.extend(services.into_values().map(|object| (object.key.clone(), None)));
        }
    }

    /// The services of a registry are these from now on.
    fn put(&mut self, id: &RegistryId, services: &[ServiceEntry], (bridge, registry): (&Object, &Registry), changes: &mut Changes) {
        let known = self.services.entry(id.clone()).or_default();
        let mut before = std::mem::take(known);
        for entry in services {
            let Some(host) = entry.hosts.first() else { continue };
            let made = object(host, entry.clone(), bridge, registry);
            let old = before.remove(host);
            let same = old.filter(|old| old.says_the_same(&made) && Arc::ptr_eq(&old.document, &made.document) && old.line == made.line);
            let now = same.unwrap_or_else(|| {
                let made = Arc::new(made);
                changes.push((made.key.clone(), Some(made.clone())));
                made
            });
            known.insert(host.clone(), now);
        }
        changes.extend(before.into_values().map(|object| (object.key.clone(), None)));
    }
}

/// Others are reported where they are translated.
pub fn is_used(key: &Key) -> bool {
    *key.name == *mcp_bridge::NAME && mcp_bridge::NAMESPACES.contains(&&*key.namespace)
}

/// No source can hold an object of this name.
fn object(host: &str, entry: ServiceEntry, bridge: &Object, registry: &Registry) -> Object {
    let key = Key::new(Kind::ServiceEntry, &bridge.key.namespace, &format!("{host}@{}", registry.name));
    Object {
        meta: Meta::new(key.clone()),
        key,
        spec: Spec::ServiceEntry(Box::new(entry)),
        document: bridge.document.clone(),
        line: registry.line,
    }
}
