//! Writes statuses: the newest version of each, several objects at a time, and none that is there already.
use super::{
    leader::Leader,
    queue::Queue,
    release::supported_version,
    service,
    shape::{self, Facts},
};
use crate::{
    kubernetes::{
        client::{LeaseName, ServiceName, text},
        fetched::{Observed, Served},
        own,
        state::Shared,
    },
    object::{Key, Kind},
    status::{IS_OF_ADDRESS, ObjectStatus, Status},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
    jiff::{Timestamp, fmt::strtime},
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::{sync::watch, task::JoinSet, time::sleep_until};
use weir_config::diagnostic::Severity;

/// Statuses that are written at the same time.
const MAX_WRITES: usize = 16;
/// Attempts where somebody else writes the same object at the same time.
const MAX_CONFLICTS: usize = 5;
const FIELD_MANAGER: &str = "weir";

#[derive(Clone, Debug)]
pub struct WriterOptions {
    pub lease: LeaseName,
    /// Of Gateways without addresses of their own, and of Ingress objects.
    pub addresses: Vec<String>,
    /// Takes the place of `addresses`.
    pub service: Option<ServiceName>,
    /// A Gateway has the addresses of its own Service.
    pub gateway_services: bool,
}

pub struct Writer {
    client: Client,
    shared: Arc<Shared>,
    status: Status,
    leader: Arc<Leader>,
    options: WriterOptions,
    /// Of Gateways without addresses of their own, and of Ingress objects.
    addresses: watch::Sender<Vec<String>>,
}

/// The result of one attempt.
enum Outcome {
    /// It is as it should be, or not ours to write.
    Done,
    /// It may work later.
    Failed(kube::Error),
    /// Not before this time, if nothing changes.
    Held(Instant),
    /// This process does not lead any more.
    NotLeading,
}

impl Writer {
    pub fn new(client: Client, shared: Arc<Shared>, status: Status, leader: Arc<Leader>, options: WriterOptions) -> Writer {
        let addresses = watch::Sender::new(options.addresses.clone());
        Writer { client, shared, status, leader, options, addresses }
    }

    /// Writes for as long as the process lives.
    pub async fn run(self) {
        let writer = Arc::new(self);
        let elect = {
            let writer = writer.clone();
            async move {
                let shared = writer.shared.clone();
                let trouble = move |error: Option<kube::Error>| shared.lease_trouble(error.map(|e| text(&e)));
                writer.leader.run(writer.client.clone(), writer.options.lease.clone(), trouble).await;
            }
        };
        tokio::spawn(elect);
        if let Some(service) = writer.options.service.clone() {
            tokio::spawn(service::follow(writer.client.clone(), service, writer.addresses.clone()));
        }
        let mut addresses = writer.addresses.subscribe();
        let mut leads = writer.leader.changes();
        let (mut changes, mut queue, mut tasks) = (writer.status.stream(), Queue::default(), JoinSet::new());
        loop {
            let leading = writer.leader.leads();
            writer.shared.counters.leads.store(leading, Ordering::Relaxed);
            if leading {
                while tasks.len() < MAX_WRITES
                    && let Some(key) = queue.next(Instant::now())
                {
                    let writer = writer.clone();
                    tasks.spawn(async move {
                        let outcome = writer.write(&key).await;
                        (key, outcome)
                    });
                }
            }
            let wakes = queue.wakes().filter(|_| writer.leader.leads());
            tokio::select! {
                changed = changes.next() => changed.keys.into_iter().for_each(|key| queue.add(key)),
                seen = writer.shared.statuses_seen() => seen.into_iter().for_each(|key| queue.add(key)),
                Some(Ok((key, outcome))) = tasks.join_next() => {
                    let later = match outcome {
                        Outcome::Done => None,
                        Outcome::Held(until) => Some(until),
                        Outcome::Failed(_) | Outcome::NotLeading => Some(Queue::retry()),
                    };
                    queue.done(key, later);
                    match outcome {
                        Outcome::Done => writer.shared.status_trouble(None),
                        Outcome::Failed(error) => writer.shared.status_trouble(Some(text(&error))),
                        Outcome::Held(_) | Outcome::NotLeading => {}
                    }
                }
                Ok(()) = leads.changed() => {}
                Ok(()) = addresses.changed() => {
                    let addressed = writer.status.keys().into_iter().filter(|key| matches!(key.kind, Kind::Gateway | Kind::Ingress));
                    addressed.for_each(|key| queue.add(key));
                }
                () = sleep_until(wakes.unwrap_or_else(Instant::now).into()), if wakes.is_some() => {}
            }
        }
    }

    async fn write(&self, key: &Key) -> Outcome {
        if let Some(until) = self.shared.gateway(key).and_then(|at| at.held_until(Instant::now())) {
            return Outcome::Held(until);
        }
        let Some(desired) = self.desired(key) else { return self.withdraw(key).await };
        let Some((served, mut observed)) = self.shared.observed(key) else { return Outcome::Done };
        let controller = self.shared.controller();
        let want = own::own(key.kind, controller, &desired);
        let digest = own::digest(&want);
        let api = self.api(served, key);
        for _ in 0..MAX_CONFLICTS {
            if observed.own == digest {
                return Outcome::Done;
            }
            let current = match observed.empty {
                true => json!({}),
                false => match api.get(&key.name).await {
                    Ok(object) => {
                        observed = self.observe(key, &object);
                        if observed.own == digest {
                            return Outcome::Done;
                        }
                        object.data.get("status").cloned().unwrap_or_else(|| json!({}))
                    }
                    Err(kube::Error::Api(status)) if status.is_not_found() => return Outcome::Done,
                    Err(e) => return Outcome::Failed(e),
                },
            };
            let now = strtime::format("%Y-%m-%dT%H:%M:%SZ", Timestamp::now()).unwrap_or_default();
            let status = own::merged(key.kind, controller, &current, &desired, &now);
            let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": &*observed.version }, "status": status }));
            if !self.leader.leads() {
                return Outcome::NotLeading;
            }
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            match api.patch_status(&key.name, &params, &patch).await {
                Ok(object) => {
                    self.shared.counters.status_writes.fetch_add(1, Ordering::Relaxed);
                    self.observe(key, &object);
                    return Outcome::Done;
                }
                // Somebody else wrote it: look again.
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    self.shared.counters.status_conflicts.fetch_add(1, Ordering::Relaxed);
                    observed.empty = false;
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Outcome::Done,
                Err(e) => {
                    self.shared.counters.status_errors.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Failed(e);
                }
            }
        }
        Outcome::Failed(kube::Error::Api(kube::core::Status::failure("the object changes all the time", "Conflict").boxed()))
    }

    /// Takes the addresses of this gateway out of an Ingress that went to another controller. Those of others stay, also where they are
    /// the same.
    async fn withdraw(&self, key: &Key) -> Outcome {
        if key.kind != Kind::Ingress || !self.status.status(key).is_some_and(|of| shape::is_foreign(&of)) {
            return Outcome::Done;
        }
        let Some((served, observed)) = self.shared.observed(key) else { return Outcome::Done };
        let ours = own::own(key.kind, self.shared.controller(), &shape::load_balancer(&self.addresses.borrow()));
        if observed.empty || observed.own != own::digest(&ours) {
            return Outcome::Done;
        }
        let api = self.api(served, key);
        let result = match api.get(&key.name).await {
            Ok(object) if wrote_load_balancer(&object) => {
                let version = object.metadata.resource_version.as_deref().unwrap_or_default();
                let patch = json!({ "metadata": { "resourceVersion": version }, "status": { "loadBalancer": null } });
                if !self.leader.leads() {
                    return Outcome::NotLeading;
                }
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                api.patch_status(&key.name, &params, &Patch::Merge(patch)).await
            }
            Ok(_) => return Outcome::Done,
            Err(e) => Err(e),
        };
        match result {
            Ok(object) => {
                self.shared.counters.status_writes.fetch_add(1, Ordering::Relaxed);
                self.observe(key, &object);
                Outcome::Done
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Outcome::Done,
            Err(e) => Outcome::Failed(e),
        }
    }

    /// What the status should be; `None` where it is not for us to say.
    fn desired(&self, key: &Key) -> Option<Value> {
        if !own::is_written(key.kind) {
            return None;
        }
        let of = self.status.status(key)?;
        if !of.is_ours {
            return own::nothing(key.kind);
        }
        let rejected = self.shared.observed(key).and_then(|(_, observed)| observed.rejected).map(|generation| generation.get().into());
        // An object of a file hides that of the cluster.
        if of.object.as_ref().is_some_and(|object| object.document.file().is_some()) {
            return None;
        }
        let Some(object) = &of.object else {
            let is_possible = !own::is_written_where_used(key.kind);
            let generation = rejected
                .filter(|_| is_possible && of.findings.iter().any(|found| found.severity == Severity::Error && found.place.is_none()))?;
            return Some(shape::istio(key.kind, &of, generation));
        };
        let owns = |key: &Key| self.status.status(key).is_some_and(|of| of.is_ours && of.object.is_some());
        let addresses = self.addresses.borrow().clone();
        let own_service = if self.options.gateway_services { Some(self.own_service(key, &of)?) } else { None };
        let facts = Facts {
            controller: self.shared.controller(),
            addresses: &addresses,
            own_service: own_service.as_deref(),
            owns: &owns,
            rejected,
        };
        let mut status = shape::status(object, &of, &facts)?;
        if key.kind == Kind::GatewayClass
            && let Some(bundle) = self.shared.bundle()
            && let Some(conditions) = status["conditions"].as_array_mut().filter(|all| !all.is_empty())
        {
            conditions.push(supported_version(&bundle, of.observed_generation));
        }
        Some(status)
    }

    /// The addresses of the Service of a Gateway; `None` until they, or their problem, are known for this version.
    fn own_service(&self, key: &Key, of: &ObjectStatus) -> Option<Vec<String>> {
        if of.details.as_ref().is_none_or(|details| details.service_ports.is_empty()) {
            return Some(Vec::new());
        }
        let at = self.shared.gateway(key).filter(|at| at.generation == of.observed_generation)?;
        let mut shown = of.findings.iter().filter(|found| IS_OF_ADDRESS.contains(&found.reason));
        // The board follows.
        let same = match &at.reach.finding {
            Some(finding) => shown.any(|shown| **shown == *finding),
            None => shown.next().is_none(),
        };
        same.then_some(at.reach.addresses)
    }

    fn observe(&self, key: &Key, object: &DynamicObject) -> Observed {
        let status = object.data.get("status").unwrap_or(&Value::Null);
        let version = object.metadata.resource_version.as_deref().unwrap_or_default();
        let mut observed = Observed::of(key.kind, self.shared.controller(), version, status);
        let before = self.shared.observed(key).and_then(|(_, before)| before.rejected);
        observed.rejected = before.filter(|generation| object.metadata.generation == Some(generation.get().into()));
        self.shared.observe(key, observed.clone());
        observed
    }

    fn api(&self, served: Served, key: &Key) -> Api<DynamicObject> {
        let resource = served.resource();
        match served.info.namespaced {
            true => Api::namespaced_with(self.client.clone(), &key.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }
}

/// Whether Weir was the last to write the addresses of an Ingress.
fn wrote_load_balancer(object: &DynamicObject) -> bool {
    let ours = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:status/f:loadBalancer").is_some())
    };
    object.metadata.managed_fields.iter().flatten().any(ours)
}
