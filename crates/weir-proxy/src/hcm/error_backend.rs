//! Answers of a backend that another one replaces (`custom-http-errors` of ingress-nginx).
use super::{
    After,
    active_stream::ActiveStream,
    attempt::{Kept, Plan, Try},
    end::End,
};
use crate::{breaker::Resource, route::ErrorBackendRt, stream::Direction, upstream::Protocol};
use weir_net::http::Known;

/// The backend for errors of a request.
pub(super) struct Errors<'a> {
    backend: &'a ErrorBackendRt,
    /// What the client requested, before rewrites.
    requested: Vec<u8>,
}

impl<'a> Errors<'a> {
    pub fn new(backend: &'a ErrorBackendRt, requested: &[u8]) -> Errors<'a> {
        Errors { backend, requested: requested.to_vec() }
    }
}

impl ActiveStream<'_> {
    /// Whether the backend for errors answers: what was found has one of its statuses, and the request can be sent again.
    pub(super) fn is_replaced(&self, errors: &Errors<'_>, found: &Result<Try, End>, kept: &Kept) -> bool {
        let resend = match found {
            Ok(tried) => self.can_resend(&tried.up, &kept.replay),
            Err(_) => !kept.replay.spent,
        };
        resend && self.status_of(found).is_some_and(|status| errors.backend.statuses.contains(&status))
    }

    fn status_of(&self, found: &Result<Try, End>) -> Option<u16> {
        match found {
            Ok(_) => Some(self.s.resp.borrow().status),
            Err(End::Reply(reply, _)) => Some(reply.status),
            Err(End::Gone(..)) => None,
        }
    }

    /// Sends the request to the backend for errors, in place of what was found. Where that backend is missing, what was found stands.
    pub(super) async fn answer_by(
        &mut self,
        errors: &Errors<'_>,
        plan: &Plan<'_>,
        found: Result<Try, End>,
        kept: &mut Kept,
    ) -> Result<After, End> {
        let target = &errors.backend.target;
        let cluster = target.cluster.as_ref().and_then(|slot| self.w.clusters.cluster(slot));
        let permit = cluster.as_ref().and_then(|c| c.rt.breakers.take(Resource::Requests, &c.rt.config.circuit_breakers));
        let Some((cluster, permit)) = cluster.zip(permit) else {
            return match found {
                Ok(tried) => self.respond(plan, tried, &mut kept.replay).await,
                Err(end) => Err(end),
            };
        };
        let status = self.status_of(&found).unwrap_or_default();
        if let Ok(tried) = found {
            kept.take_up(tried.up);
        }
        self.clock.end_try();
        kept.fresh = false;
        self.describe_error(errors, status);
        self.s.info.borrow_mut().upstream_cluster = Some(cluster.text.clone());
        self.selected.cluster = Some(cluster.clone());
        self.selected.session = None;
        self.s.override_host.set(None);
        let protocol = Protocol::of(&cluster, self.h2);
        let raw = plan.raw && protocol == Protocol::Http1;
        let plan = Plan {
            route: plan.route,
            forward: plan.forward,
            target,
            cluster,
            hash: None,
            protocol,
            raw,
            rewrite_host: false,
            _permit: permit,
        };
        let tried = self.tries(&plan, kept).await?;
        self.respond(&plan, tried, &mut kept.replay).await
    }

    /// Says in the request what went wrong.
    fn describe_error(&mut self, errors: &Errors<'_>, status: u16) {
        let mut req = self.s.req.borrow_mut();
        let accept = req.headers.get(Known::Accept).map(<[u8]>::to_vec);
        req.headers.set_named(b"x-code", status.to_string().as_bytes());
        if let Some(accept) = accept {
            req.headers.set_named(b"x-format", &accept);
        }
        req.headers.set_named(b"x-original-uri", &errors.requested);
        req.set_target(b"/");
        drop(req);
        if let Some(edits) = errors.backend.target.request_headers() {
            self.edit(edits, Direction::Request);
        }
    }
}
