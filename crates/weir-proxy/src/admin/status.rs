//! The status listener: health checks and metrics for load balancers, kubelets and Prometheus, which ask from other machines. It changes
//! nothing and shows no configuration, so that it needs no guard.
use super::{Query, Reply, show, stats};
use crate::Shared;
use hyper::{Method, StatusCode, http::request::Parts};
use std::sync::Arc;

pub(super) fn answer(shared: &Arc<Shared>, head: &Parts) -> Result<Reply, Reply> {
    if head.method != Method::GET && head.method != Method::HEAD {
        let text = format!("method {} not allowed, GET required\n", head.method);
        return Err(Reply { allow: Some("GET"), ..Reply::error(StatusCode::METHOD_NOT_ALLOWED, text) });
    }
    match head.uri.path() {
        // Istio's path and Envoy's.
        "/healthz/ready" | "/ready" => Ok(show::state(shared)),
        // A process that answers is alive.
        "/healthz/live" => Ok(Reply::text("LIVE\n")),
        "/stats/prometheus" | "/metrics" => Ok(stats::prometheus(shared, &Query::of(&head.uri, &[]))),
        path => {
            let text = format!("invalid path `{path}`; there are /healthz/ready, /healthz/live and /stats/prometheus\n");
            Err(Reply::error(StatusCode::NOT_FOUND, text))
        }
    }
}
