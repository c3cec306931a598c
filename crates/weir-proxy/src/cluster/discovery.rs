//! Following names by DNS: each cluster of names has a task on the main runtime that asks again when an answer expires.
use super::{ClusterRt, ClusterSlot, EndpointSet, Resolved};
use crate::{
    app_log::Logger,
    verdict::{Verdicts, state_of},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use weir_config::{
    delta::{Id, ResourceKind, Verdict},
    diagnostic::Diagnostic,
    model::{Address, ClusterLoadAssignment, Discovery},
};
use weir_net::dial::{GuardedResolver, Unresolved};

/// Waits between questions that fail: doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Ends the following when it is dropped.
pub(crate) struct Follower {
    task: AbortHandle,
    said: Arc<Mutex<Said>>,
}

/// What is to be said of the cluster beside its names.
pub(super) struct Said {
    pub revision: u64,
    pub findings: Vec<Diagnostic>,
}

impl Follower {
    /// From now on, this is said of the cluster.
    pub fn say(&self, revision: u64, findings: Vec<Diagnostic>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Said { revision, findings };
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of one name.
#[derive(Default)]
struct Known {
    addresses: Vec<IpAddr>,
    due: Option<Instant>,
    failures: u32,
    error: Option<Unresolved>,
}

/// A cluster whose names are to be followed.
pub(super) struct Following {
    pub slot: Arc<ClusterSlot>,
    pub cluster: Arc<ClusterRt>,
    pub assignment: Arc<ClusterLoadAssignment>,
    pub resolver: Arc<GuardedResolver>,
    pub resolved: watch::Sender<Resolved>,
    /// Where names without an address are reported.
    pub verdicts: Arc<Verdicts>,
    pub said: Arc<Mutex<Said>>,
}

impl Following {
    /// Keeps the endpoints up to date until the result is dropped.
    pub fn start(self, runtime: &tokio::runtime::Handle) -> Follower {
        let said = self.said.clone();
        Follower { task: runtime.spawn(run(self)).abort_handle(), said }
    }

    /// Says which names have no address.
    fn report(&self, names: &HashMap<Arc<str>, Known>) {
        let cluster = &self.cluster.config;
        let unresolved = names.iter().filter(|(_, k)| k.addresses.is_empty()).filter_map(|(name, k)| Some((name, k.error.as_ref()?)));
        let mut unresolved: Vec<Diagnostic> = unresolved
            .map(|(name, e)| {
                let text = format!("cluster `{}`: the name `{name}` cannot be resolved: {e}", cluster.name);
                let d =
                    Diagnostic::warning("NameNotResolved", text).help("it is tried again; until then its requests are answered with 503");
                cluster.origin.as_ref().map_or(d.clone(), |origin| d.from_origin(origin))
            })
            .collect();
        unresolved.sort_by(|a, b| a.message.cmp(&b.message));
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let findings: Vec<_> = said.findings.iter().cloned().chain(unresolved).collect();
        let id = Id::new(ResourceKind::Cluster, cluster.name.clone());
        self.verdicts.set(Verdict { id, revision: said.revision, state: state_of(&findings, false), findings });
    }
}

async fn run(following: Following) {
    let Following { slot, cluster, assignment, resolver, .. } = &following;
    let logical = matches!(cluster.config.discovery, Discovery::LogicalDns(_));
    let guarded = cluster.config.guard_names;
    let mut names = names(assignment, logical, &cluster.endpoints.load());
    loop {
        let now = Instant::now();
        let mut asked = JoinSet::new();
        for name in names.iter().filter(|(_, k)| k.due.is_none_or(|due| due <= now)).map(|(n, _)| n.clone()) {
            let resolver = resolver.clone();
            asked.spawn(async move {
                let answer = if guarded { resolver.lookup(&name).await } else { resolver.lookup_trusted(&name).await };
                (answer, name)
            });
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((answer, name)) = answered else { continue };
            let Some(known) = names.get_mut(&name) else { continue };
            match answer {
                Ok(answer) => {
                    (known.failures, known.error) = (0, None);
                    known.due = Some(Instant::now() + answer.ttl);
                    known.addresses = if logical { one(&known.addresses, &answer.addresses) } else { answer.addresses };
                }
                // What was good stays: an upstream that cannot be named may still be reached.
                Err(e) => {
                    known.due = Some(Instant::now() + back_off(known.failures));
                    known.failures = known.failures.saturating_add(1);
                    report(&cluster.config.name, &name, &e, known);
                    known.error = Some(e);
                }
            }
            // No name waits for another.
            let old = cluster.endpoints.load_full();
            let new = EndpointSet::build(assignment, &old, &|name| names.get(name).map(|k| k.addresses.clone()).unwrap_or_default());
            if !new.same(&old) {
                Logger::Dns.debug(format_args!("cluster `{}`: {} addresses", cluster.config.name, new.endpoints.len()));
                slot.publish_endpoints(cluster, new);
                following.resolved.send_if_modified(|r| std::mem::replace(r, (*r).max(Resolved::Some)) == Resolved::No);
            }
        }
        following.report(&names);
        following.resolved.send_if_modified(|r| std::mem::replace(r, Resolved::All) != Resolved::All);
        let Some(next) = names.values().filter_map(|k| k.due).min() else { return };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// The names to ask for, with the addresses that a version of the cluster before this one had for them.
fn names(assignment: &ClusterLoadAssignment, logical: bool, before: &EndpointSet) -> HashMap<Arc<str>, Known> {
    let mut out: HashMap<Arc<str>, Known> = HashMap::new();
    for e in &assignment.endpoints {
        if let Address::Name { host, .. } = &e.address
            && (!logical || out.is_empty())
        {
            out.entry(Arc::from(&**host)).or_default();
        }
    }
    for e in &before.endpoints {
        if let Some(known) = e.hostname().and_then(|h| out.get_mut(h))
            && !known.addresses.contains(&e.address.ip())
        {
            known.addresses.push(e.address.ip());
        }
    }
    out
}

/// The address in use if it is still among the answers, else the first of them.
fn one(current: &[IpAddr], answer: &[IpAddr]) -> Vec<IpAddr> {
    current.iter().find(|a| answer.contains(a)).or(answer.first()).copied().into_iter().collect()
}

fn back_off(failures: u32) -> Duration {
    (RETRY_FIRST * 2u32.saturating_pow(failures.min(10))).min(RETRY_LAST)
}

fn report(cluster: &str, name: &str, e: &Unresolved, known: &Known) {
    // Said at the first failure and then rarely.
    if known.failures.is_power_of_two() {
        let kept = known.addresses.len();
        Logger::Dns.warning(format_args!("cluster `{cluster}`: `{name}`: {e}; {kept} addresses from before stay in use"));
    }
}
