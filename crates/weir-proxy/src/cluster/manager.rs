//! Clusters at configuration time: what changed is built anew, warmed and published; what is broken is refused alone.
use super::{ClusterRegistry, ClusterRt, EndpointSet, ForwardProxy, discovery, discovery::Follower};
use crate::{
    breaker::{Breakers, UpstreamConnections},
    diff,
    secrets::Secrets,
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot};
use weir_config::{
    diagnostic::{Diagnostic, Severity},
    model::{Address, Cluster, ClusterLoadAssignment, Config, Discovery, Name, TlsVersion, UpstreamTls, UpstreamVerification},
};
use weir_net::{dns::Resolver, tls};

/// Names of new clusters are waited for at most this long before routes may use them.
const WARM: Duration = Duration::from_secs(2);

/// What was said of a cluster, and the task that follows its names. Dropping it ends the task.
struct Entry {
    findings: Vec<Diagnostic>,
    follower: Option<Follower>,
}

impl Entry {
    fn refused(&self) -> bool {
        self.findings.iter().any(|d| d.severity == Severity::Error)
    }
}

pub(crate) struct Manager {
    registry: Arc<ClusterRegistry>,
    resolver: Arc<Resolver>,
    forward: Arc<ForwardProxy>,
    runtime: Handle,
    connections: Arc<UpstreamConnections>,
    entries: BTreeMap<Name, Entry>,
}

impl Manager {
    pub fn new(
        registry: Arc<ClusterRegistry>,
        resolver: Arc<Resolver>,
        forward: Arc<ForwardProxy>,
        runtime: Handle,
        connections: Arc<UpstreamConnections>,
    ) -> Manager {
        Manager { registry, resolver, forward, runtime, connections, entries: BTreeMap::new() }
    }

    /// Publishes what is new or changed, and waits a moment for names that were never resolved. Clusters that are gone
    /// stay until [`Manager::remove`], when no route leads to them any more.
    pub async fn update(&mut self, old: &Config, new: &Config, secrets: &Secrets, changed_secrets: &[Name]) {
        let mut build: HashSet<&Name> = diff::changed(&old.clusters, &new.clusters).collect();
        build.extend(diff::changed(&old.endpoints, &new.endpoints));
        build.extend(diff::removed(&old.endpoints, &new.endpoints));
        if !changed_secrets.is_empty() {
            build.extend(new.clusters.iter().filter(|(_, c)| uses(c, changed_secrets)).map(|(name, _)| name));
        }
        let mut warming = Vec::new();
        for name in build {
            if let Some(cluster) = new.clusters.get(name) {
                warming.extend(self.build(cluster, new.endpoints.get(name), secrets, changed_secrets));
            }
        }
        let all = async {
            for first in warming {
                let _ = first.await;
            }
        };
        let _ = tokio::time::timeout(WARM, all).await;
    }

    /// Empties the slots of clusters that `new` has no more.
    pub fn remove(&mut self, old: &Config, new: &Config) {
        for name in diff::removed(&old.clusters, &new.clusters) {
            self.entries.remove(name);
            if let Some(slot) = self.registry.find(name) {
                slot.publish(None);
            }
        }
        self.registry.sweep();
    }

    pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.entries.values().flat_map(|e| &e.findings)
    }

    /// Builds and publishes one cluster; what comes back is to be waited for.
    fn build(
        &mut self,
        cluster: &Arc<Cluster>,
        endpoints: Option<&Arc<ClusterLoadAssignment>>,
        secrets: &Secrets,
        changed_secrets: &[Name],
    ) -> Option<oneshot::Receiver<()>> {
        let slot = self.registry.slot(&cluster.name);
        let before = slot.current();
        let entry = self.entries.remove(&cluster.name);
        let (tls, findings) = match self.tls(cluster, before.as_deref(), entry.as_ref(), secrets, changed_secrets) {
            Ok(tls) => tls,
            Err(findings) => {
                let follower = entry.and_then(|e| e.follower);
                self.entries.insert(cluster.name.clone(), Entry { findings, follower });
                return None;
            }
        };
        let previous = before.as_ref().map(|b| b.endpoints.load_full()).unwrap_or_default();
        // Until names are resolved anew, the addresses that they had serve on.
        let known =
            |name: &str| previous.endpoints.iter().filter(|e| e.hostname.as_deref() == Some(name)).map(|e| e.address.ip()).collect();
        let assignment = match &cluster.discovery {
            Discovery::Static(a) | Discovery::StrictDns(a) | Discovery::LogicalDns(a) => Some(a),
            Discovery::Eds => endpoints,
            Discovery::DynamicForwardProxy { .. } => None,
        };
        let set = assignment.map(|a| EndpointSet::build(a, &previous, &known)).unwrap_or_default();
        // Endpoints of any kind may be given by name (Istio's ServiceEntry lets them): all names are followed.
        let named = assignment.filter(|a| a.endpoints.iter().any(|e| matches!(e.address, Address::Name { .. })));
        if let Some(b) = before.as_ref().filter(|b| named.is_none() && Arc::ptr_eq(&b.config, cluster) && same_client(&b.tls, &tls)) {
            slot.publish_endpoints(b, set);
            self.entries.insert(cluster.name.clone(), Entry { findings, follower: None });
            return None;
        }
        let fresh = set.endpoints.is_empty();
        let rt = Arc::new(ClusterRt {
            config: cluster.clone(),
            endpoints: ArcSwap::from_pointee(set),
            tls,
            breakers: before.as_ref().map_or_else(|| Arc::new(Breakers::new(self.connections.clone())), |b| b.breakers.clone()),
            outliers: before.map_or_else(Arc::default, |b| b.outliers.clone()),
            forward: matches!(cluster.discovery, Discovery::DynamicForwardProxy { .. }).then(|| self.forward.clone()),
        });
        slot.publish(Some(rt.clone()));
        let following = named.map(|a| discovery::follow(&self.runtime, slot, rt, a.clone(), self.resolver.clone()));
        let (follower, first) = following.unzip();
        self.entries.insert(cluster.name.clone(), Entry { findings, follower });
        first.filter(|_| fresh)
    }

    /// The TLS client of a cluster: the one before, with its sessions, while all that it is made of stays.
    #[expect(clippy::type_complexity, reason = "the client and what is to be said of it")]
    fn tls(
        &self,
        cluster: &Cluster,
        before: Option<&ClusterRt>,
        entry: Option<&Entry>,
        secrets: &Secrets,
        changed_secrets: &[Name],
    ) -> Result<(Option<Arc<tls::Client>>, Vec<Diagnostic>), Vec<Diagnostic>> {
        let Some(options) = &cluster.tls else { return Ok((None, Vec::new())) };
        if let (Some(before), Some(entry)) = (before, entry)
            && before.config.tls == cluster.tls
            && !uses(cluster, changed_secrets)
            && !entry.refused()
        {
            return Ok((before.tls.clone(), entry.findings.clone()));
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

fn uses(cluster: &Cluster, changed: &[Name]) -> bool {
    cluster.tls.as_ref().is_some_and(|t| {
        let ca = match &t.verification {
            UpstreamVerification::Secret(name) => Some(name),
            _ => None,
        };
        t.certificate.iter().chain(ca).any(|name| changed.contains(name))
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
