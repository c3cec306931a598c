//! Objects by key, with the indexes that translation asks by.
use crate::{
    object::{Key, Kind, Object, Spec},
    translate::{endpoints, gateway_api, ingress, istio, kubernetes},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use weir_config::model::Name;

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Object>>,
    /// (kind, word) to the objects that [`words`] files under it.
    by_word: HashMap<(Kind, Name), BTreeSet<Key>>,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = Key { kind, namespace: "".into(), name: "".into() };
        self.objects.range(first..).take_while(move |(k, _)| k.kind == kind).map(|(_, o)| o)
    }

    pub fn by_word(&self, kind: Kind, word: &Name) -> impl Iterator<Item = &Arc<Object>> {
        self.by_word.get(&(kind, word.clone())).into_iter().flatten().filter_map(|k| self.objects.get(k))
    }

    /// Puts or removes an object; returns the one that stood there.
    pub fn set(&mut self, key: &Key, object: Option<Arc<Object>>) -> Option<Arc<Object>> {
        let old = match &object {
            Some(o) => self.objects.insert(key.clone(), o.clone()),
            None => self.objects.remove(key),
        };
        for word in old.iter().flat_map(|o| index_keys(o)) {
            let at = (key.kind, word);
            if let Some(keys) = self.by_word.get_mut(&at) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_word.remove(&at);
                }
            }
        }
        for word in object.iter().flat_map(|o| index_keys(o)) {
            self.by_word.entry((key.kind, word)).or_default().insert(key.clone());
        }
        old
    }
}

/// The words that an object can be found by, beside its name.
pub fn index_keys(object: &Object) -> Vec<Name> {
    match &object.spec {
        Spec::EndpointSlice(s) => kubernetes::index_keys(&object.meta, s),
        Spec::Pod(_) => endpoints::index_keys(&object.meta),
        Spec::VirtualService(v) => istio::virtual_service_index_keys(&object.meta, v),
        Spec::DestinationRule(d) => istio::destination_rule_index_keys(&object.meta, d),
        Spec::ServiceEntry(s) => istio::service_entry_index_keys(&object.meta, s),
        Spec::Ingress(i) => ingress::index_keys(&object.meta, i),
        Spec::HttpRoute(r) if object.key.kind == Kind::GrpcRoute => gateway_api::grpc_index_keys(&object.meta, r),
        Spec::BackendTlsPolicy(p) => gateway_api::backend_tls_index_keys(&object.meta, p),
        // By the namespace that it opens, or is looked for in.
        Spec::ReferenceGrant(_) | Spec::WorkloadEntry(_) => vec![object.meta.namespace.clone()],
        _ => Vec::new(),
    }
}
