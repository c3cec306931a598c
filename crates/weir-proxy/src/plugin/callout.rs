//! HTTP callouts of plugins, and the way of any callout to a host: a cluster's own balancing, breakers and connections.
use super::upstream::Upstream;
use crate::{
    upstream::{
        Host, UpstreamError, WorkerCluster,
        client::{Answer, Body, Destination, Request},
        direct::DirectClusters,
    },
    worker::Worker,
};
use std::{
    rc::Rc,
    time::{Duration, Instant},
};
use weir_net::http::{Headers, Known, RequestHead, text};
use weir_wasm::{HttpAnswer, HttpCall};

/// Of one answer's body: it is held whole in the guest's memory.
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// The request of a call; `None` for one that cannot be written.
pub(super) fn request(call: &HttpCall<'_>) -> Option<Request> {
    let (method, path) = (call.headers.get(b":method")?, call.headers.get(b":path")?);
    let authority = call.headers.get(b":authority")?;
    let mut head = RequestHead::default();
    if !text::is_target(path) || !head.begin(method, path) || !head.headers.set(Known::Host, &[authority]) {
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
    (text::is_value(value) && to.add_named(name, value)).then_some(())
}

/// Fields as guests read them.
pub(super) fn fields(of: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    of.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.to_vec())).collect()
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
        Destination { worker: &self.worker.clusters, cluster: &self.cluster, host: &self.host, server_name: self.server_name.as_deref() }
    }
}

/// One call.
///
/// # Errors
/// Why there is no answer; plugins do not learn it.
pub(super) async fn call(
    directs: &DirectClusters,
    w: Rc<Worker>,
    to: Upstream,
    request: Request,
    timeout: Option<Duration>,
) -> Result<HttpAnswer, UpstreamError> {
    let begun = Instant::now();
    let chosen = within(timeout, choose(directs, w, &to)).await??;
    let left = timeout.map(|t| t.saturating_sub(begun.elapsed()));
    let Answer { head, body, trailers } = chosen.destination().send(request, Body::Keep { max: MAX_ANSWER }, left).await?;
    let mut headers = vec![(b":status".to_vec(), head.status.to_string().into_bytes())];
    headers.extend(fields(&head.headers));
    Ok(HttpAnswer { headers, body: body.into(), trailers: fields(&trailers) })
}

/// The host for the next call.
pub(super) async fn choose(directs: &DirectClusters, worker: Rc<Worker>, to: &Upstream) -> Result<Chosen, UpstreamError> {
    match to {
        Upstream::Cluster(slot) => {
            let cluster = worker.clusters.warm_cluster(slot).await.ok_or_else(|| UpstreamError::NoCluster(slot.name.clone()))?;
            let host = cluster.choose(None, &[])?;
            Ok(Chosen { worker, cluster, host, server_name: None })
        }
        Upstream::Wildcard { slot, host, port } => {
            let cluster = worker.clusters.cluster(slot).ok_or_else(|| UpstreamError::NoCluster(slot.name.clone()))?;
            let named = cluster.named_host(&worker.clusters, host, *port).await?;
            Ok(Chosen { worker, cluster, host: named, server_name: Some(host.clone()) })
        }
        Upstream::Direct(target) => {
            let cluster = directs.cluster(&worker.clusters, &target.host, target.port, target.tls)?;
            let host = cluster.named_host(&worker.clusters, &target.host, target.port).await?;
            Ok(Chosen { worker, cluster, host, server_name: Some(target.host.clone()) })
        }
    }
}

/// With a bound in time where there is one.
pub(super) async fn within<F: Future>(limit: Option<Duration>, work: F) -> Result<F::Output, UpstreamError> {
    match limit {
        None => Ok(work.await),
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| UpstreamError::Timeout(limit)),
    }
}
