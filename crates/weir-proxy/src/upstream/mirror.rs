//! Copies of requests to other clusters, whose answers nobody waits for. A copy leaves when the whole request has come;
//! one with a body beyond the buffer's limit is not made.
use super::{
    WorkerCluster,
    client::{Body, Destination, Request},
    clusters::WorkerClusters,
    copies::Copy,
};
use crate::{
    filter::fault::happens,
    route::{ForwardRt, MirrorRt, Target},
};
use std::{rc::Rc, time::Duration};
use weir_net::http::{Headers, Known, RequestHead};

/// How long a copy may take where its route has no timeout (Envoy's default for a route).
const TIMEOUT: Duration = Duration::from_secs(15);

/// The clusters that get a copy of this request.
pub fn chosen<'a>(w: &WorkerClusters, forward: &'a ForwardRt, target: &'a Target) -> Vec<&'a MirrorRt> {
    forward.mirrors(target).filter(|m| happens(m.fraction, w.random())).collect()
}

/// Sends copies of a whole request; each may take `timeout`.
pub fn start(w: &Rc<WorkerClusters>, to: &[&MirrorRt], req: &RequestHead, body: &[u8], timeout: Option<Duration>) {
    for mirror in to {
        let Some(cluster) = w.cluster(&mirror.cluster) else { continue };
        let Some(copy) = w.copies.begin(body.len()) else {
            cluster.stats.upstream_rq_mirror_overflow.inc();
            continue;
        };
        let mut head = RequestHead::default();
        head.copy_from(req);
        if mirror.shadow_host {
            let (host, port) = head.authority().split_at(head.host().len());
            let shadow = [host, b"-shadow", port].concat();
            head.headers.set(Known::Host, &[&shadow]);
        }
        cluster.stats.upstream_rq_mirror_total.inc();
        let request = Request { head, body: body.to_vec(), trailers: Headers::default() };
        tokio::task::spawn_local(run(w.clone(), copy, cluster, request, timeout.unwrap_or(TIMEOUT)));
    }
}

async fn run(worker: Rc<WorkerClusters>, _copy: Copy, cluster: Rc<WorkerCluster>, request: Request, timeout: Duration) {
    let Ok(host) = cluster.choose(None, &[]) else { return };
    let destination = Destination { worker: &worker, cluster: &cluster, host: &host, server_name: None };
    // Nobody waits for what comes of it; the cluster's statistics and health do.
    let _ = destination.send(request, Body::Drop, Some(timeout)).await;
}
