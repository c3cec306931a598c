//! Copies of requests to other clusters, whose answers nobody waits for. A copy leaves when the whole request has come;
//! one with a body beyond the buffer's limit is not made.
use super::{
    WorkerCluster,
    client::{Body, Request, Way},
};
use crate::{
    filter::fault::happens,
    route::{ForwardRt, MirrorRt, Target},
    worker::Worker,
};
use std::{rc::Rc, time::Duration};
use weir_net::http::{Headers, Known, RequestHead};

/// How long a copy may take; it holds a connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The clusters that get a copy of this request.
pub fn chosen<'a>(w: &Worker, forward: &'a ForwardRt, target: &'a Target) -> Vec<&'a MirrorRt> {
    forward.mirrors.iter().chain(&target.mirrors).filter(|m| happens(m.fraction, w.random())).collect()
}

/// Sends copies of a whole request.
pub fn start(w: &Rc<Worker>, to: &[&MirrorRt], req: &RequestHead, body: &[u8]) {
    for mirror in to {
        let Some(cluster) = w.cluster(&mirror.cluster) else { continue };
        let mut head = RequestHead::default();
        head.copy_from(req);
        let (host, port) = head.authority().split_at(head.host().len());
        let shadow = [host, b"-shadow", port].concat();
        head.headers.set(Known::Host, &[&shadow]);
        cluster.stats.upstream_rq_mirror_total.inc();
        tokio::task::spawn_local(run(w.clone(), cluster, Request { head, body: body.to_vec(), trailers: Headers::default() }));
    }
}

async fn run(w: Rc<Worker>, cluster: Rc<WorkerCluster>, request: Request) {
    let Some(host) = cluster.pick(None, &[]) else { return };
    let way = Way { worker: &w, cluster: &cluster, host: &host, server_name: None };
    // Nobody waits for what comes of it; the cluster's statistics and health do.
    let _ = way.send(request, Body::Drop, Some(TIMEOUT)).await;
}
