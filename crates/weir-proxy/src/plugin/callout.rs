//! HTTP callouts of plugins, and the way of any callout to a host: a cluster's own balancing, breakers and connections; for hosts
//! that no configuration names, clusters made on demand.
use super::upstream::Upstream;
use crate::{
    cluster::{Breakers, ClusterRt, ClusterSlot, EndpointSet},
    outlier::Outliers,
    upstream::{
        Host, WorkerCluster,
        client::{Answer, Body, Destination, Request},
    },
    worker::Worker,
};
use arc_swap::ArcSwap;
use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use weir_config::model::{Cluster, ClusterLoadAssignment, Discovery, Name, UpstreamProtocol};
use weir_net::{
    http::{Headers, Known, RequestHead, parse},
    redis::Target,
};
use weir_wasm::{HttpAnswer, HttpCall};

/// Of one answer's body: it is held whole in the guest's memory.
pub(super) const MAX_ANSWER: usize = 16 << 20;
/// Hosts outside of the configuration that a worker keeps connections to; beyond, the one unused for longest goes.
const MAX_DIRECT: usize = 256;
/// The name that hosts outside of the configuration are counted under.
pub const DIRECT: &str = "plugin_callouts";

/// The request of a call; `None` for one that cannot be written.
pub(super) fn request(call: &HttpCall<'_>) -> Option<Request> {
    let (method, path) = (call.headers.get(b":method")?, call.headers.get(b":path")?);
    let authority = call.headers.get(b":authority")?;
    let mut head = RequestHead::default();
    if !parse::is_target(path) || !head.begin(method, path) || !head.headers.set(Known::Host, &[authority]) {
        return None;
    }
    for (name, value) in call.headers.iter().filter(|(n, _)| n.first() != Some(&b':')) {
        add(&mut head.headers, name, value)?;
    }
    // The connection is ours.
    head.headers.remove_any(Known::KeepAlive.bit() | Known::ProxyConnection.bit());
    if head.headers.get_named(b"te").is_some_and(|v| v != b"trailers") {
        head.headers.remove_named(b"te");
    }
    let mut trailers = Headers::default();
    for (name, value) in call.trailers.iter() {
        add(&mut trailers, name, value)?;
    }
    Some(Request { head, body: call.body.to_vec(), trailers })
}

/// `None` for what is no field. A `host` among the fields counts for nothing beside `:authority`.
pub(super) fn add(to: &mut Headers, name: &[u8], value: &[u8]) -> Option<()> {
    if name.eq_ignore_ascii_case(b"host") {
        return Some(());
    }
    (parse::is_value(value) && to.add_named(name, value)).then_some(())
}

/// Fields as guests read them.
pub(super) fn fields(of: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    of.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.to_vec())).collect()
}

/// What a worker knows of hosts that no configuration names.
#[derive(Default)]
pub(super) struct Callouts {
    direct: RefCell<HashMap<(String, u16, bool), Direct>>,
}

/// A cluster made on demand. It knows only the addresses that it has connections to.
struct Direct {
    cluster: Rc<WorkerCluster>,
    used: Instant,
}

/// A host to call, chosen.
pub(super) struct Chosen {
    pub worker: Rc<Worker>,
    cluster: Rc<WorkerCluster>,
    host: Rc<Host>,
    server_name: Option<String>,
}

impl Chosen {
    pub fn destination(&self) -> Destination<'_> {
        Destination { worker: &self.worker, cluster: &self.cluster, host: &self.host, server_name: self.server_name.as_deref() }
    }
}

impl Callouts {
    /// One call.
    ///
    /// # Errors
    /// Why there is no answer; plugins do not learn it.
    pub async fn call(&self, w: Rc<Worker>, to: Upstream, request: Request, timeout: Option<Duration>) -> Result<HttpAnswer, String> {
        let begun = Instant::now();
        let chosen = within(timeout, self.choose(w, &to)).await??;
        let left = timeout.map(|t| t.saturating_sub(begun.elapsed()));
        let Answer { head, body, trailers } = chosen.destination().send(request, Body::Keep { max: MAX_ANSWER }, left).await?;
        let mut headers = vec![(b":status".to_vec(), head.status.to_string().into_bytes())];
        headers.extend(fields(&head.headers));
        Ok(HttpAnswer { headers, body: body.into(), trailers: fields(&trailers) })
    }

    /// The host for the next call.
    pub async fn choose(&self, worker: Rc<Worker>, to: &Upstream) -> Result<Chosen, String> {
        match to {
            Upstream::Cluster(slot) => {
                let cluster = worker.cluster(slot).ok_or_else(|| format!("the cluster {} is gone", slot.name))?;
                let Some(host) = cluster.pick(None, &[]) else {
                    cluster.stats.upstream_cx_none_healthy.inc();
                    return Err(format!("no endpoint of {} is up", slot.name));
                };
                Ok(Chosen { worker, cluster, host, server_name: None })
            }
            Upstream::Direct(target) => {
                let found = worker.shared.forward.endpoint(&target.host, target.port).await;
                let endpoint = found.map_err(|e| format!("{}: {e}", target.host))?;
                let cluster = self.direct(&worker, target)?;
                let host = cluster.named(endpoint);
                Ok(Chosen { worker, cluster, host, server_name: Some(target.host.clone()) })
            }
        }
    }

    fn direct(&self, w: &Worker, target: &Target) -> Result<Rc<WorkerCluster>, String> {
        let mut all = self.direct.borrow_mut();
        let key = (target.host.clone(), target.port, target.tls);
        if all.len() >= MAX_DIRECT
            && !all.contains_key(&key)
            && let Some(oldest) = all.iter().min_by_key(|(_, d)| d.used).map(|(k, _)| k.clone())
        {
            all.remove(&oldest);
        }
        let known = match all.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => place.insert(Direct::new(w, target)?),
        };
        known.used = Instant::now();
        Ok(known.cluster.clone())
    }

    /// Closes what nobody has used for a while.
    pub fn sweep(&self, w: &Worker) {
        let now = w.now();
        self.direct.borrow().values().for_each(|d| d.cluster.sweep(now));
    }
}

impl Direct {
    fn new(w: &Worker, target: &Target) -> Result<Direct, String> {
        let name: Name = DIRECT.into();
        let assignment = ClusterLoadAssignment { cluster: None, endpoints: Vec::new() };
        let mut config = Cluster::new(name.clone(), Discovery::Static(Arc::new(assignment)));
        let tls = if target.tls { Some(super::redis::plain_tls().map_err(|e| e.to_string())?) } else { None };
        config.protocol = UpstreamProtocol::Auto;
        let rt = ClusterRt {
            config: Arc::new(config),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            tls,
            breakers: Arc::new(Breakers::new(w.shared.upstreams.clone())),
            outliers: Arc::new(Outliers::default()),
            forward: None,
        };
        // No table knows it: its number is never looked up.
        let slot = ClusterSlot::new(name.clone(), u32::MAX);
        let stats = w.shared.stats.cluster(&name, w.index);
        let cluster = Rc::new(WorkerCluster::new(&slot, 0, Arc::new(rt), None, stats, w.random()));
        Ok(Direct { cluster, used: Instant::now() })
    }
}

/// With a bound in time where there is one.
pub(super) async fn within<F: Future>(limit: Option<Duration>, work: F) -> Result<F::Output, String> {
    match limit {
        None => Ok(work.await),
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| format!("no answer within {limit:?}")),
    }
}
