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
    /// HTTPRoutes and GRPCRoutes by their hostnames, turned around (`test.shop`, `test.*`, `*` for any), so that what has hosts
    /// in common stands together.
    hosts: BTreeSet<(Kind, Box<str>, Key)>,
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
        for word in old.iter().flat_map(|o| words(o)) {
            let at = (key.kind, word);
            if let Some(keys) = self.by_word.get_mut(&at) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_word.remove(&at);
                }
            }
        }
        for word in object.iter().flat_map(|o| words(o)) {
            self.by_word.entry((key.kind, word)).or_default().insert(key.clone());
        }
        for host in old.iter().flat_map(|o| turned_hosts(o)) {
            self.hosts.remove(&(key.kind, host, key.clone()));
        }
        for host in object.iter().flat_map(|o| turned_hosts(o)) {
            self.hosts.insert((key.kind, host, key.clone()));
        }
        old
    }

    /// Routes of the other kind that have hosts and Gateways in common with a route.
    pub fn rivals(&self, route: &Object) -> Vec<&Arc<Object>> {
        let (Some(kind), Spec::HttpRoute(spec)) = (gateway_api::rival(route.key.kind), &route.spec) else { return Vec::new() };
        let mut found: BTreeSet<&Key> = BTreeSet::new();
        for host in turned_hosts(route) {
            found.extend(self.sharing(kind, &host));
        }
        let objects = found.into_iter().filter_map(|key| self.objects.get(key));
        objects.filter(|o| matches!(&o.spec, Spec::HttpRoute(other) if gateway_api::meet((route, spec), (o, other)))).collect()
    }

    /// Routes of a kind with a host in common with `host`, which is turned around.
    fn sharing(&self, kind: Kind, host: &str) -> impl Iterator<Item = &Key> {
        let from = move |text: &str| {
            let first = Key { kind: Kind::GatewayClass, namespace: "".into(), name: "".into() };
            self.hosts.range((kind, text.into(), first)..).take_while(move |(k, ..)| *k == kind)
        };
        // What it covers: itself, or all under a wildcard; and the wildcards that cover it.
        let (under, exact) = host.strip_suffix('*').map_or((host, true), |under| (under, false));
        let below = from(under).take_while(move |(_, text, _)| if exact { **text == *under } else { text.starts_with(under) });
        let dots = under.match_indices('.').map(|(dot, _)| dot + 1).filter(move |at| exact || *at < under.len());
        let ends = std::iter::once(0).filter(move |_| !under.is_empty()).chain(dots);
        let above = ends.flat_map(move |at| {
            let wide = format!("{}*", &under[..at]);
            from(&wide).take_while(move |(_, text, _)| **text == *wide)
        });
        let all: Vec<&Key> = below.chain(above).map(|(.., key)| key).collect();
        all.into_iter()
    }
}

/// The hostnames of an HTTPRoute or GRPCRoute with their labels turned around.
fn turned_hosts(object: &Object) -> Vec<Box<str>> {
    let Spec::HttpRoute(route) = &object.spec else { return Vec::new() };
    let turned = |host: &Name| host.rsplit('.').collect::<Vec<_>>().join(".").into();
    if route.hostnames.is_empty() { vec!["*".into()] } else { route.hostnames.iter().map(turned).collect() }
}

/// The words that an object can be found by, beside its name.
pub fn words(object: &Object) -> Vec<Name> {
    match &object.spec {
        Spec::EndpointSlice(s) => kubernetes::words(&object.meta, s),
        Spec::Pod(_) => endpoints::words(&object.meta),
        Spec::VirtualService(v) => istio::virtual_service_words(&object.meta, v),
        Spec::DestinationRule(d) => istio::destination_rule_words(&object.meta, d),
        Spec::ServiceEntry(s) => istio::service_entry_words(&object.meta, s),
        Spec::Ingress(i) => ingress::words(i),
        Spec::HttpRoute(r) if object.key.kind == Kind::GrpcRoute => gateway_api::grpc_words(&object.meta, r),
        Spec::BackendTlsPolicy(p) => gateway_api::backend_tls_words(&object.meta, p),
        // By the namespace that it opens, or is looked for in.
        Spec::ReferenceGrant(_) | Spec::WorkloadEntry(_) => vec![object.meta.namespace.clone()],
        _ => Vec::new(),
    }
}
