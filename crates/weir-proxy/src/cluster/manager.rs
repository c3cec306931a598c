//! Clusters at configuration time: what changed is rebuilt and published at once; only what is broken is refused.
use super::{ClusterOptions, ClusterRegistry, ClusterRt, ClusterSlot, EndpointSet, ForwardProxy, Resolved, discovery, discovery::Follower};
use crate::{
    breaker::{Breakers, UpstreamConnections},
    secrets::Secrets,
    verdict::Verdicts,
};
use hashbrown::HashTable;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
};
use tokio::{runtime::Handle, sync::watch};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{Address, Cluster, ClusterLoadAssignment, Discovery, Name, TlsVersion, UpstreamTls, UpstreamVerification},
};
use weir_net::{dial::GuardedResolver, tls};

/// What was given for a cluster's name, which the slot has: the cluster, its endpoints, or both.
struct Entry {
    slot: Arc<ClusterSlot>,
    config: Option<Arc<Cluster>>,
    /// For a cluster of the type EDS.
    endpoints: Option<Arc<ClusterLoadAssignment>>,
    /// `None` for most clusters.
    rare: Option<Box<Rare>>,
}

/// What few clusters have.
#[derive(Default)]
struct Rare {
    /// Of one with names. Dropping it ends the task that follows them.
    follower: Option<Follower>,
    /// What setting up TLS found.
    findings: Vec<Diagnostic>,
}

impl Entry {
    fn findings(&self) -> &[Diagnostic] {
        self.rare.as_ref().map_or(&[], |rare| &rare.findings)
    }
    fn refused(&self) -> bool {
        self.findings().iter().any(|d| d.severity == Severity::Error)
    }
    fn set_rare(&mut self, follower: Option<Follower>, findings: Vec<Diagnostic>) {
        let any = follower.is_some() || !findings.is_empty();
        self.rare = any.then(|| Box::new(Rare { follower, findings }));
    }
}

pub(crate) struct Manager {
    registry: Arc<ClusterRegistry>,
    resolver: Arc<GuardedResolver>,
    forward: Arc<ForwardProxy>,
    runtime: Handle,
    connections: Arc<UpstreamConnections>,
    verdicts: Arc<Verdicts>,
    /// By the names of the slots.
    entries: HashTable<Entry>,
    hasher: RandomState,
    /// How many entries have a cluster.
    count: usize,
    /// Clusters by the secrets that they name.
    users: HashMap<Name, BTreeSet<Name>>,
    /// Clusters that were built so far; for tests.
    #[cfg(test)]
    pub built: usize,
}

/// A cluster that was built.
pub(crate) struct Built {
    pub findings: Vec<Diagnostic>,
    /// Its names have no addresses yet.
    pub warming: Option<watch::Receiver<Resolved>>,
}

impl Manager {
    pub fn new(
        registry: Arc<ClusterRegistry>,
        resolver: Arc<GuardedResolver>,
        forward: Arc<ForwardProxy>,
        runtime: Handle,
        connections: Arc<UpstreamConnections>,
        verdicts: Arc<Verdicts>,
    ) -> Manager {
        Manager {
            registry,
            resolver,
            forward,
            runtime,
            connections,
            verdicts,
            entries: HashTable::new(),
            hasher: RandomState::new(),
            count: 0,
            users: HashMap::new(),
            #[cfg(test)]
            built: 0,
        }
    }

    /// Notes a cluster that is new or has changed; it is still to be built.
    pub fn set(&mut self, cluster: Arc<Cluster>) {
        let name = cluster.name.clone();
        for secret in secrets_of(&cluster) {
            self.users.entry(secret.clone()).or_default().insert(name.clone());
        }
        match self.entry(&name).config.replace(cluster.clone()) {
            Some(before) => self.forget_users(&before, Some(&cluster)),
            None => self.count += 1,
        }
    }

    /// The entry of a name; an empty one is made where there is none.
    fn entry(&mut self, name: &Name) -> &mut Entry {
        let (registry, hasher) = (&self.registry, &self.hasher);
        let empty = || Entry { slot: registry.slot(name), config: None, endpoints: None, rare: None };
        let hash = |entry: &Entry| hasher.hash_one(&entry.slot.name);
        self.entries.entry(hasher.hash_one(name), |e| e.slot.name == *name, hash).or_insert_with(empty).into_mut()
    }

    fn get(&self, name: &Name) -> Option<&Entry> {
        self.entries.find(self.hasher.hash_one(name), |e| e.slot.name == *name)
    }

    /// Changes an entry, if there is one; without a cluster and endpoints it goes.
    fn edit<T>(&mut self, name: &Name, edit: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut found = self.entries.find_entry(self.hasher.hash_one(name), |e| e.slot.name == *name).ok()?;
        let made = edit(found.get_mut());
        if found.get().config.is_none() && found.get().endpoints.is_none() {
            found.remove();
        }
        Some(made)
    }

    /// Notes the endpoints of a cluster, which is still to be built; `None`: they are gone.
    pub fn set_endpoints(&mut self, cluster: &Name, endpoints: Option<Arc<ClusterLoadAssignment>>) {
        match endpoints {
            Some(endpoints) => self.entry(cluster).endpoints = Some(endpoints),
            None => _ = self.edit(cluster, |entry| entry.endpoints = None),
        }
    }

    /// Empties the slot of a cluster that is gone.
    pub fn remove(&mut self, name: &Name) {
        let remove = |entry: &mut Entry| {
            entry.rare = None;
            entry.slot.publish(None);
            entry.config.take()
        };
        if let Some(before) = self.edit(name, remove).flatten() {
            self.count -= 1;
            self.forget_users(&before, None);
        }
    }

    fn forget_users(&mut self, before: &Cluster, now: Option<&Cluster>) {
        for secret in secrets_of(before) {
            if now.is_some_and(|now| secrets_of(now).any(|s| s == secret)) {
                continue;
            }
            if let Some(users) = self.users.get_mut(secret) {
                users.remove(&before.name);
                if users.is_empty() {
                    self.users.remove(secret);
                }
            }
        }
    }

    /// The clusters that use any of these secrets.
    pub fn users<'a>(&'a self, secrets: &'a HashSet<Name>) -> impl Iterator<Item = &'a Name> {
        secrets.iter().filter_map(|s| self.users.get(s)).flatten()
    }

    /// In no order.
    pub fn clusters(&self) -> impl Iterator<Item = (&Name, &Arc<Cluster>)> {
        self.entries.iter().filter_map(|e| Some((&e.slot.name, e.config.as_ref()?)))
    }
    /// By the name of their cluster, in no order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Name, &Arc<ClusterLoadAssignment>)> {
        self.entries.iter().filter_map(|e| Some((&e.slot.name, e.endpoints.as_ref()?)))
    }
    pub fn len(&self) -> usize {
        self.count
    }

    /// Builds and publishes one cluster. `None`: there is no such cluster. Later findings, of its names, come as verdicts with
    /// `revision`.
    pub fn build(&mut self, name: &Name, secrets: &Secrets, changed_secrets: &HashSet<Name>, revision: u64) -> Option<Built> {
        #[cfg(test)]
        (self.built += 1);
        let entry = self.get(name)?;
        let (cluster, slot) = (entry.config.clone()?, entry.slot.clone());
        let before = slot.current();
        let (tls, findings) = match self.tls(&cluster, before.as_deref(), entry, secrets, changed_secrets) {
            Ok(made) => made,
            Err(findings) => {
                let refuse = |entry: &mut Entry| {
                    let follower = entry.rare.take().and_then(|rare| rare.follower);
                    follower.iter().for_each(|follower| follower.say(revision, findings.clone()));
                    entry.set_rare(follower, findings.clone());
                };
                self.edit(name, refuse);
                return Some(Built { findings, warming: None });
            }
        };
        let previous = before.as_ref().map(|b| b.endpoints.load_full()).unwrap_or_default();
        // Until names are resolved again, their previous addresses keep serving.
        let known = |name: &str| previous.endpoints.iter().filter(|e| e.hostname() == Some(name)).map(|e| e.address.ip()).collect();
        let assignment = match &cluster.discovery {
            Discovery::Static(a) | Discovery::StrictDns(a) | Discovery::LogicalDns(a) => Some(a),
            Discovery::Eds => entry.endpoints.as_ref(),
            Discovery::DynamicForwardProxy { .. } => None,
        };
        let set = assignment.map(|a| EndpointSet::build(a, &previous, &known)).unwrap_or_default();
        // Endpoints of any kind may be given by name (Istio's ServiceEntry lets them): all names are followed.
        let named = assignment.filter(|a| a.endpoints.iter().any(|e| matches!(e.address, Address::Name { .. })));
        let named = named.cloned();
        // What followed the names of the version before must not publish for this one.
        self.edit(name, |entry| entry.set_rare(None, findings.clone()));
        if let Some(b) = before.as_ref().filter(|b| named.is_none() && Arc::ptr_eq(&b.config, &cluster) && same_client(&b.tls, &tls)) {
            slot.publish_endpoints(b, set);
            return Some(Built { findings, warming: None });
        }
        let (resolved, resolving) = watch::channel(Resolved::No);
        let warming = (named.is_some() && set.endpoints.is_empty()).then_some(resolving);
        let breakers = before.as_ref().map_or_else(|| Arc::new(Breakers::new(self.connections.clone())), |b| b.breakers.clone());
        let options = ClusterOptions {
            tls,
            outliers: before.and_then(|b| b.outliers.clone()).or_else(|| cluster.outlier_detection.as_ref().map(|_| Arc::default())),
            forward: matches!(cluster.discovery, Discovery::DynamicForwardProxy { .. }).then(|| self.forward.clone()),
            warming: warming.clone(),
        };
        let rt = Arc::new(ClusterRt::new(cluster.clone(), set, breakers, options));
        slot.publish(Some(rt.clone()));
        let follower = named.map(|assignment| {
            let following = discovery::Following {
                slot,
                cluster: rt,
                assignment,
                resolver: self.resolver.clone(),
                resolved,
                verdicts: self.verdicts.clone(),
                said: Arc::new(Mutex::new(discovery::Said { revision, findings: findings.clone() })),
            };
            following.start(&self.runtime)
        });
        if follower.is_some() {
            self.edit(name, |entry| entry.set_rare(follower, findings.clone()));
        }
        Some(Built { findings, warming })
    }

    /// The TLS client of a cluster: the one before, with its sessions, while all that it is made of stays.
    #[expect(clippy::type_complexity, reason = "the client and what is to be said of it")]
    fn tls(
        &self,
        cluster: &Cluster,
        before: Option<&ClusterRt>,
        entry: &Entry,
        secrets: &Secrets,
        changed_secrets: &HashSet<Name>,
    ) -> Result<(Option<Arc<tls::Client>>, Vec<Diagnostic>), Vec<Diagnostic>> {
        let Some(options) = &cluster.tls else { return Ok((None, Vec::new())) };
        if let Some(before) = before
            && before.config.tls == cluster.tls
            && !secrets_of(cluster).any(|s| changed_secrets.contains(s))
            && !entry.refused()
        {
            return Ok((before.tls.clone(), entry.findings().to_vec()));
        }
        let mut findings = Vec::new();
        let client = client(options, secrets, &mut findings);
        let place = |d: Diagnostic| {
            let d = Diagnostic { message: format!("cluster `{}`: {}", cluster.name, d.message), ..d };
            cluster.origin.as_ref().map_or(d.clone(), |origin| d.from_origin(origin))
        };
        match client {
            Ok(client) => Ok((Some(Arc::new(client)), findings.into_iter().map(place).collect())),
            Err(why) => {
                findings.push(why);
                Err(findings.into_iter().map(place).collect())
            }
        }
    }
}

fn same_client(a: &Option<Arc<tls::Client>>, b: &Option<Arc<tls::Client>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// The secrets that a cluster names.
fn secrets_of(cluster: &Cluster) -> impl Iterator<Item = &Name> {
    cluster.tls.iter().flat_map(|t| {
        let ca = match &t.verification {
            UpstreamVerification::Secret(name) => Some(name),
            _ => None,
        };
        t.certificate.iter().chain(ca)
    })
}

fn client(options: &UpstreamTls, secrets: &Secrets, findings: &mut Vec<Diagnostic>) -> Result<tls::Client, Diagnostic> {
    let trust = match &options.verification {
        UpstreamVerification::System => tls::Trust::Roots(tls::Roots::system()),
        UpstreamVerification::Secret(name) => tls::Trust::Roots(secrets.roots(name)?),
        UpstreamVerification::File(path) => {
            let pem = std::fs::read_to_string(path);
            let pem = pem.map_err(|e| Diagnostic::error("InvalidValue", format!("the roots in `{path}` cannot be read: {e}")))?;
            let roots = tls::Roots::from_pem(&pem, None)
                .map_err(|e| Diagnostic::error("InvalidValue", format!("the roots in `{path}` cannot be used: {e}")))?;
            tls::Trust::Roots(roots)
        }
        UpstreamVerification::Skip => {
            findings.push(
                Diagnostic::warning("InsecureSkipVerify", "the upstream's certificate is not verified")
                    .help("name roots to verify it against instead of skipping the verification"),
            );
            tls::Trust::Anyone
        }
    };
    let certificate = options.certificate.as_ref().map(|name| secrets.certificate(name)).transpose()?;
    let options = tls::ClientOptions {
        trust,
        subject_alt_names: options.subject_alt_names.clone(),
        certificate,
        server_name: options.sni.clone(),
        min_version: options.min_version.map(version),
    };
    tls::Client::new(options).map_err(|e| Diagnostic::error("InvalidTls", format!("TLS towards the upstream cannot be set up: {e}")))
}

pub(crate) fn version(v: TlsVersion) -> tls::Version {
    match v {
        TlsVersion::V1_2 => tls::Version::Tls12,
        TlsVersion::V1_3 => tls::Version::Tls13,
    }
}
