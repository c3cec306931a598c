//! A Service for each Gateway (`--gateway-service-type`). It is in the namespace of its Gateway, which owns it. The pods of Weir are in
//! another one, where its selector would not find them: the EndpointSlices of the Service in front of all gateways are copied, with the
//! target ports of this Gateway. One ConfigMap holds the target ports. The leader writes all of that; every replica reads it.
mod objects;
mod ports;

use super::{
    client::{GatewayService, ServiceName, WATCH_SECONDS, text},
    reach::Reach,
    state::Shared,
    status::{Leader, Queue, addresses_of},
};
use crate::{
    api::{
        gateway_api::gateway::Gateway,
        target_ports::{self, PortsOfGateway, TargetPorts},
    },
    object::{Key, Kind, Object, Spec},
    status::{ObjectStatus, Status},
};
use futures_util::{StreamExt, future::join_all};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
    runtime::{
        reflector::{self, Store},
        watcher::{self, watcher},
    },
};
use objects::{gateway_of, is_managed, is_of};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::SocketProtocol,
};

const FIELD_MANAGER: &str = "weir";
const RETRY: Duration = Duration::from_secs(5);
/// Events of watches that were not looked at yet.
const EVENTS: usize = 256;

/// What changed in the cluster.
enum Seen {
    Of(Key),
    /// Something that concerns every Gateway, or one of many.
    All,
}

pub struct GatewayServices {
    pub client: Client,
    pub shared: Arc<Shared>,
    pub status: Status,
    pub leader: Arc<Leader>,
    pub options: GatewayService,
    /// In front of all gateways: its endpoints are theirs.
    pub front: ServiceName,
    /// The ConfigMap with the target ports.
    pub target_ports: Key,
    /// Empty for all of them.
    pub namespaces: Vec<String>,
    /// By the uid of an object: the version that was last written over.
    pub written: Mutex<HashMap<String, String>>,
}

/// What the watches hold.
struct Watched {
    services: Vec<Store<Service>>,
    slices: Vec<Store<EndpointSlice>>,
    front: Store<EndpointSlice>,
}

/// The changes that the objects of a Gateway need.
enum Fate {
    /// Nothing, as it is not known enough.
    Leave,
    Remove,
    Want(Arc<Object>, Vec<(u16, SocketProtocol)>),
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Request(#[from] kube::Error),
    /// The finding says it.
    #[error("a Service is in the way")]
    Foreign,
}

impl GatewayServices {
    /// Works for as long as the process lives.
    pub async fn run(self) {
        let (send, mut seen) = mpsc::channel(EVENTS);
        let watched = self.watch(&send);
        let (mut changes, mut leads) = (self.status.stream(), self.leader.changes());
        let mut queue = Queue::default();
        watched.ready().await;
        loop {
            while let Some(key) = queue.next(Instant::now()) {
                let done = self.reconcile(&key, &watched).await;
                let trouble = match &done {
                    Err(Failed::Request(error)) => Some(text(error)),
                    _ => None,
                };
                queue.done(key, done.is_err().then(Queue::retry));
                self.shared.services_trouble(trouble);
            }
            let wakes = queue.wakes();
            let all = tokio::select! {
                changed = changes.next() => {
                    changed.keys.into_iter().filter(|key| key.kind == Kind::Gateway).for_each(|key| queue.add(key));
                    false
                }
                Some(seen) = seen.recv() => match seen {
                    Seen::Of(key) => {
                        queue.add(key);
                        false
                    }
                    Seen::All => true,
                },
                Ok(()) = leads.changed() => true,
                () = sleep_until(wakes.unwrap_or_else(Instant::now).into()), if wakes.is_some() => false,
            };
            if all {
                self.known(&watched).into_iter().for_each(|key| queue.add(key));
            }
        }
    }

    fn watch(&self, send: &mpsc::Sender<Seen>) -> Watched {
        let made = || watcher::Config::default().labels(objects::GATEWAY_NAME);
        let namespaces: Vec<Option<&str>> = match &self.namespaces[..] {
            [] => vec![None],
            some => some.iter().map(|n| Some(&**n)).collect(),
        };
        let front = format!("kubernetes.io/service-name={}", self.front.name);
        Watched {
            services: namespaces.iter().map(|n| follow(self.api(*n), made(), gateway_of, send)).collect(),
            slices: namespaces.iter().map(|n| follow(self.api(*n), made(), gateway_of, send)).collect(),
            front: follow(self.api(Some(&self.front.namespace)), watcher::Config::default().labels(&front), |_| None, send),
        }
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, namespace: Option<&str>) -> Api<K> {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Gateways, and those that objects of the cluster were made for.
    fn known(&self, watched: &Watched) -> BTreeSet<Key> {
        let made = watched.services().filter_map(|s| gateway_of(&s.metadata));
        let made = made.chain(watched.slices().filter_map(|s| gateway_of(&s.metadata)));
        made.chain(self.status.keys().into_iter().filter(|key| key.kind == Kind::Gateway)).collect()
    }

    fn fate(&self, key: &Key) -> Fate {
        // As long as not every kind was read nothing follows from what is not there.
        if !self.shared.is_complete() {
            return Fate::Leave;
        }
        if !self.shared.exists(key) {
            return Fate::Remove;
        }
        match self.status.status(key) {
            Some(of) if !of.is_ours => Fate::Remove,
            Some(ObjectStatus { object: Some(object), details: Some(details), .. })
                if object.document.file().is_none() && !details.service_ports.is_empty() =>
            {
                Fate::Want(object, details.service_ports.clone())
            }
            _ => Fate::Leave,
        }
    }

    async fn reconcile(&self, key: &Key, watched: &Watched) -> Result<(), Failed> {
        match self.fate(key) {
            Fate::Leave => Ok(()),
            Fate::Remove => {
                self.shared.set_gateway(key, None);
                self.remove(key, watched).await
            }
            Fate::Want(object, ports) => {
                let Spec::Gateway(spec) = &object.spec else { return Ok(()) };
                let (reach, done) = match self.provide(key, spec, &ports, watched).await {
                    Ok(reach) => (reach, Ok(())),
                    Err((Some(reach), failed)) => (reach, Err(failed)),
                    // What there was goes on.
                    Err((None, failed)) => {
                        let before = self.shared.gateway(key).map(|at| at.reach);
                        (before.unwrap_or_else(|| Reach::without(not_written(key, spec, &failed))), Err(failed))
                    }
                };
                let finding = reach.finding.map(|found| found.object(&object.title()));
                self.shared.set_gateway(key, Some((object.meta.generation.into(), Reach { finding, ..reach })));
                done
            }
        }
    }

    /// Makes the objects of a Gateway what they should be; where clients reach it.
    async fn provide(
        &self,
        key: &Key,
        spec: &Gateway,
        ports: &[(u16, SocketProtocol)],
        watched: &Watched,
    ) -> Result<Reach, (Option<Reach>, Failed)> {
        let failed = |error: kube::Error| (None, Failed::Request(error));
        let name = objects::name(key, &spec.class);
        let waits = || Reach::waiting(not_assigned(key, &name));
        let targets = match self.targets(&spec.uid) {
            Some(targets) if targets.keys().eq(ports) => targets,
            before => {
                if self.leader.leads() && self.allocate(key, &spec.uid, ports).await.map_err(failed)?.is_err() {
                    let (range, help) = (&self.options.target_ports, "a wider range in --gateway-service-target-ports");
                    let message = format!("all target ports from {} to {} are in use", range.start(), range.end());
                    return Ok(Reach::without(Diagnostic::error("NoResources", message).help(help)));
                }
                // The change comes back by the watch. Until then what there is goes on.
                match before.filter(|_| watched.service(key, &name).is_some()) {
                    Some(before) => before,
                    None => return Ok(waits()),
                }
            }
        };
        let wanted = objects::service(key, spec, &targets, &self.options);
        let api: Api<Service> = self.api(Some(&key.namespace));
        let service = self.current(&api, &name, watched.service(key, &name)).await.map_err(failed)?;
        if let Some(found) = service.as_ref().filter(|found| !is_of(&found.metadata, &spec.uid)) {
            // That of an earlier Gateway of this name goes first.
            if self.leader.leads() && is_managed(&found.metadata, key) {
                self.delete(&api, &found.metadata).await.map_err(failed)?;
            }
            let message = format!("there is a Service {}/{name} that Weir did not create for this Gateway", key.namespace);
            let found = Diagnostic::warning("AddressNotAssigned", message).help("delete or rename the Service");
            return Err((Some(Reach::without(found)), Failed::Foreign));
        }
        // The endpoints come first: a load balancer may send traffic as soon as it has the Service.
        self.provide_slices(key, spec, &targets, watched).await.map_err(failed)?;
        let service = self.applied(&api, &name, service, wanted).await.map_err(failed)?;
        let Some(service) = service else { return Ok(waits()) };
        let addresses = addresses_of(&service);
        let finding = address_finding(key, &name, &spec.addresses, &addresses, &self.options);
        Ok(Reach { waits: finding.is_some(), addresses, finding })
    }

    async fn provide_slices(&self, key: &Key, spec: &Gateway, targets: &PortsOfGateway, watched: &Watched) -> kube::Result<()> {
        let api: Api<EndpointSlice> = self.api(Some(&key.namespace));
        let mut kept = BTreeSet::new();
        for front in watched.front.state() {
            let wanted = objects::slice(key, spec, targets, &front);
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_string();
            let found = watched.slices_of(key).into_iter().find(|s| s.metadata.name.as_deref() == Some(&*name));
            let found = self.current(&api, &name, found).await?;
            self.applied(&api, &name, found, wanted).await?;
            kept.insert(name);
        }
        for slice in watched.slices_of(key) {
            if !kept.contains(slice.metadata.name.as_deref().unwrap_or_default()) && is_managed(&slice.metadata, key) {
                self.delete(&api, &slice.metadata).await?;
            }
        }
        Ok(())
    }

    /// What there is of an object. One that the watch does not know may be without its label, or newer.
    async fn current<K>(&self, api: &Api<K>, name: &str, watched: Option<Arc<K>>) -> kube::Result<Option<K>>
    where
        K: Clone + Debug + DeserializeOwned + Resource,
    {
        match watched {
            Some(watched) => {
                // The watch may be behind the last write.
                let (uid, version) = (watched.meta().uid.as_deref().unwrap_or_default(), &watched.meta().resource_version);
                let behind = {
                    let mut written = lock(&self.written);
                    let behind = written.get(uid).is_some_and(|before| Some(before) == version.as_ref());
                    if !behind {
                        written.remove(uid);
                    }
                    behind
                };
                if behind { api.get_opt(name).await } else { Ok(Some((*watched).clone())) }
            }
            None if self.leader.leads() => api.get_opt(name).await,
            None => Ok(None),
        }
    }

    /// Writes an object if it is not as wanted, and if this process leads; what it is then.
    async fn applied<K>(&self, api: &Api<K>, name: &str, found: Option<K>, mut wanted: Value) -> kube::Result<Option<K>>
    where
        K: Clone + Debug + Serialize + DeserializeOwned + Resource,
    {
        if let Some(found) = &found {
            let says = serde_json::to_value(found).is_ok_and(|observed| objects::says(&observed, &wanted));
            if says || !self.leader.leads() {
                return Ok(Some(found.clone()));
            }
            // Never another one of this name.
            wanted["metadata"]["uid"] = json!(found.meta().uid);
        } else if !self.leader.leads() {
            return Ok(None);
        }
        // One that somebody creates at the same time is not taken over.
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), force: found.is_some(), ..PatchParams::default() };
        let written = api.patch(name, &params, &Patch::Apply(&wanted)).await?;
        self.shared.counters.service_writes.fetch_add(1, Ordering::Relaxed);
        if let Some(found) = found {
            let meta = found.meta();
            lock(&self.written).extend(meta.uid.clone().zip(meta.resource_version.clone()));
        }
        Ok(Some(written))
    }

    async fn remove(&self, key: &Key, watched: &Watched) -> Result<(), Failed> {
        for service in watched.services().filter(|s| gateway_of(&s.metadata).as_ref() == Some(key) && is_managed(&s.metadata, key)) {
            self.delete(&self.api::<Service>(Some(&key.namespace)), &service.metadata).await?;
        }
        for slice in watched.slices_of(key).iter().filter(|s| is_managed(&s.metadata, key)) {
            self.delete(&self.api::<EndpointSlice>(Some(&key.namespace)), &slice.metadata).await?;
        }
        Ok(())
    }

    async fn delete<K: Clone + Debug + DeserializeOwned>(&self, api: &Api<K>, of: &ObjectMeta) -> kube::Result<()> {
        if !self.leader.leads() {
            return Ok(());
        }
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid: of.uid.clone(), resource_version: None }), ..DeleteParams::default() };
        match api.delete(of.name.as_deref().unwrap_or_default(), &params).await {
            // Kubernetes removes what a Gateway owned, too.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            done => {
                lock(&self.written).remove(of.uid.as_deref().unwrap_or_default());
                done.map(|_| self.shared.counters.service_writes.fetch_add(1, Ordering::Relaxed)).map(drop)
            }
        }
    }

    fn targets(&self, uid: &str) -> Option<PortsOfGateway> {
        let held = self.shared.get(&self.target_ports)?;
        let Spec::ConfigMap(map) = &held.spec else { return None };
        map.target_ports.as_ref()?.of_gateway(uid).cloned()
    }

    /// Chooses target ports for a Gateway, and forgets those of Gateways that are gone.
    async fn allocate(&self, key: &Key, uid: &str, ports: &[(u16, SocketProtocol)]) -> kube::Result<Result<(), ports::Exhausted>> {
        let name = &*self.target_ports.name;
        let api: Api<ConfigMap> = self.api(Some(&self.target_ports.namespace));
        let found = api.get_opt(name).await?;
        let data = found.as_ref().and_then(|map| map.data.clone()).unwrap_or_default();
        let mut all = TargetPorts::parse(data.iter().map(|(uid, text)| (&**uid, &**text)));
        let gateways = self.shared.gateways();
        let alive = |uid: &str| gateways.iter().any(|object| matches!(&object.spec, Spec::Gateway(spec) if *spec.uid == *uid));
        all.retain(alive);
        match ports::allocate(&mut all, uid, ports, &self.options.target_ports) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(exhausted) => return Ok(Err(exhausted)),
        }
        let title = |uid: &str| {
            let of =
                gateways.iter().find(|object| matches!(&object.spec, Spec::Gateway(spec) if *spec.uid == *uid)).map_or(key, |o| &o.key);
            format!("{}/{}", of.namespace, of.name)
        };
        let mut map = found.unwrap_or_default();
        let exists = map.metadata.resource_version.is_some();
        map.metadata.name = Some(name.into());
        map.metadata.labels.get_or_insert_default().insert(target_ports::LABEL.into(), "true".into());
        map.data = Some(all.iter().map(|(uid, ports)| (uid.to_string(), target_ports::value(&title(uid), ports))).collect());
        if !self.leader.leads() {
            return Ok(Ok(()));
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match exists {
            true => api.replace(name, &params, &map).await?,
            false => api.create(&params, &map).await?,
        };
        self.shared.counters.service_writes.fetch_add(1, Ordering::Relaxed);
        Ok(Ok(()))
    }
}

impl Watched {
    async fn ready(&self) {
        join_all(self.services.iter().map(Store::wait_until_ready)).await;
        join_all(self.slices.iter().map(Store::wait_until_ready)).await;
        let _ = self.front.wait_until_ready().await;
    }
    fn services(&self) -> impl Iterator<Item = Arc<Service>> {
        self.services.iter().flat_map(|store| store.state())
    }
    fn slices(&self) -> impl Iterator<Item = Arc<EndpointSlice>> {
        self.slices.iter().flat_map(|store| store.state())
    }
    fn service(&self, gateway: &Key, name: &str) -> Option<Arc<Service>> {
        let at = reflector::ObjectRef::new(name).within(&gateway.namespace);
        self.services.iter().find_map(|store| store.get(&at))
    }
    fn slices_of(&self, gateway: &Key) -> Vec<Arc<EndpointSlice>> {
        self.slices().filter(|slice| gateway_of(&slice.metadata).as_ref() == Some(gateway)).collect()
    }
}

/// Follows objects for as long as the process lives; tells which Gateways they concern.
fn follow<K>(api: Api<K>, config: watcher::Config, concerns: fn(&ObjectMeta) -> Option<Key>, seen: &mpsc::Sender<Seen>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let seen = seen.clone();
    tokio::spawn(async move {
        let mut events = pin!(reflector::reflector(writer, watcher(api, config.timeout(WATCH_SECONDS))));
        while let Some(event) = events.next().await {
            let concerned = match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => concerns(object.meta()).map_or(Seen::All, Seen::Of),
                Ok(watcher::Event::InitDone) => Seen::All,
                Ok(_) => continue,
                Err(_) => {
                    sleep(RETRY).await;
                    continue;
                }
            };
            if seen.send(concerned).await.is_err() {
                return;
            }
        }
    });
    store
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_written(key: &Key, spec: &Gateway, why: &Failed) -> Diagnostic {
    let message = format!("the Service {}/{} cannot be written: {why}", key.namespace, objects::name(key, &spec.class));
    Diagnostic::warning("AddressNotAssigned", message)
}

fn not_assigned(key: &Key, name: &str) -> Diagnostic {
    let message = format!("the Service {}/{name} has no address yet", key.namespace);
    let help = "a load balancer gives it one; without any, use --gateway-service-type NodePort or ClusterIP";
    Diagnostic::new(Severity::Info, "AddressNotAssigned", message).help(help)
}

/// The problem of the addresses that the Service has; `asked` are those of the Gateway.
fn address_finding(key: &Key, name: &str, asked: &[IpAddr], have: &[String], options: &GatewayService) -> Option<Diagnostic> {
    let missing = asked.iter().find(|ip| !have.iter().any(|h| h.parse() == Ok(**ip)));
    match missing {
        Some(missing) => {
            let message = format!("the Service {}/{name} does not have the address {missing}", key.namespace);
            let help = match options.kind.is_load_balancer() {
                true => "one address that the load balancer can give, or none for any",
                false => "no addresses, or --gateway-service-type LoadBalancer",
            };
            Some(Diagnostic::warning("AddressNotUsable", message).help(help))
        }
        None if have.is_empty() => Some(not_assigned(key, name)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kubernetes::client::ServiceType;

    #[test]
    fn addresses_that_are_asked_for_are_compared_with_those_that_there_are() {
        let key = Key::new(Kind::Gateway, "shop", "web");
        for (kind, asked, have, reason) in [
            (ServiceType::LoadBalancer, &[][..], &[][..], "AddressNotAssigned"),
            (ServiceType::LoadBalancer, &[], &["lb.test"], ""),
            (ServiceType::LoadBalancer, &["10.0.0.1"], &[], "AddressNotUsable"),
            (ServiceType::LoadBalancer, &["10.0.0.1", "10.0.0.2"], &["10.0.0.1"], "AddressNotUsable"),
            (ServiceType::LoadBalancer, &["fd00::1"], &["fd00:0::1"], ""),
            (ServiceType::ClusterIp, &["10.0.0.1"], &["10.96.0.9"], "AddressNotUsable"),
        ] {
            let asked: Vec<IpAddr> = asked.iter().map(|ip: &&str| ip.parse().unwrap()).collect();
            let have: Vec<String> = have.iter().map(|ip: &&str| ip.to_string()).collect();
            let options = GatewayService { kind, ..GatewayService::default() };
            let found = address_finding(&key, "web-weir", &asked, &have, &options).map(|d| d.reason);
            assert_eq!(found.unwrap_or_default(), reason, "{asked:?} {have:?}");
        }
    }
}
