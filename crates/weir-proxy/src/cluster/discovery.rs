//! Following names by DNS: each cluster of names has a task on the main runtime that asks again when an answer expires.
use super::{ClusterRt, ClusterSlot, EndpointSet};
use crate::app_log::Logger;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};
use weir_config::model::{Address, ClusterLoadAssignment, Discovery};
use weir_net::dns::{DnsError, Resolver};

/// Waits between questions that fail: doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Ends the following when it is dropped.
pub(crate) struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is known of one name.
#[derive(Default)]
struct Known {
    addresses: Vec<IpAddr>,
    due: Option<Instant>,
    failures: u32,
}

/// Keeps the endpoints of `cluster` up to date; the receiver hears when every name has been asked for once.
pub(crate) fn follow(
    runtime: &tokio::runtime::Handle,
    slot: Arc<ClusterSlot>,
    cluster: Arc<ClusterRt>,
    assignment: Arc<ClusterLoadAssignment>,
    resolver: Arc<Resolver>,
) -> (Follower, oneshot::Receiver<()>) {
    let (tx, rx) = oneshot::channel();
    let task = runtime.spawn(run(slot, cluster, assignment, resolver, tx));
    (Follower(task.abort_handle()), rx)
}

async fn run(
    slot: Arc<ClusterSlot>,
    cluster: Arc<ClusterRt>,
    assignment: Arc<ClusterLoadAssignment>,
    resolver: Arc<Resolver>,
    first: oneshot::Sender<()>,
) {
    let logical = matches!(cluster.config.discovery, Discovery::LogicalDns(_));
    let mut names = names(&assignment, logical, &cluster.endpoints.load());
    let mut first = Some(first);
    loop {
        let now = Instant::now();
        let mut asked = JoinSet::new();
        for name in names.iter().filter(|(_, k)| k.due.is_none_or(|due| due <= now)).map(|(n, _)| n.clone()) {
            let resolver = resolver.clone();
            asked.spawn(async move { (resolver.lookup(&name).await, name) });
        }
        for (answer, name) in asked.join_all().await {
            let Some(known) = names.get_mut(&name) else { continue };
            match answer {
                Ok(answer) => {
                    known.failures = 0;
                    known.due = Some(Instant::now() + answer.ttl);
                    known.addresses = if logical { one(&known.addresses, &answer.addresses) } else { answer.addresses };
                }
                // What was good stays: an upstream that cannot be named may still be reached.
                Err(e) => {
                    known.due = Some(Instant::now() + back_off(known.failures));
                    known.failures = known.failures.saturating_add(1);
                    report(&cluster.config.name, &name, &e, known);
                }
            }
        }
        let old = cluster.endpoints.load_full();
        let new = EndpointSet::build(&assignment, &old, &|name| names.get(name).map(|k| k.addresses.clone()).unwrap_or_default());
        if !new.same(&old) {
            Logger::Dns.debug(format_args!("cluster `{}`: {} addresses", cluster.config.name, new.endpoints.len()));
            slot.publish_endpoints(&cluster, new);
        }
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
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
            out.entry(Arc::from(host.as_str())).or_default();
        }
    }
    for e in &before.endpoints {
        if let Some(known) = e.hostname.as_ref().and_then(|h| out.get_mut(h))
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

fn report(cluster: &str, name: &str, e: &DnsError, known: &Known) {
    // Said at the first failure and then rarely.
    if known.failures.is_power_of_two() {
        let kept = known.addresses.len();
        Logger::Dns.warning(format_args!("cluster `{cluster}`: `{name}`: {e}; {kept} addresses from before stay in use"));
    }
}
