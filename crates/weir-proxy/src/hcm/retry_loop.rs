//! One try after another, until a response head is there that goes to the client.
use super::{
    active_stream::ActiveStream,
    attempt::{Kept, Lost, Plan, Try},
    body::{Body, Replay},
    clock::Late,
    end::End,
};
use crate::{
    breaker::{Permit, Resource},
    info::Flags,
    outlier,
    retry::{self, RetryRt},
    upstream::{Host, UpstreamError},
};
use std::rc::Rc;
use weir_net::{
    http::{Known, Version, client::ClientError},
    timer::nanos,
};

/// Retries of requests whose route says nothing about them: only of connections that had gone stale.
const STALE_TRIES: u32 = 2;
/// The same for streams of HTTP/2 that the upstream refused, by a GOAWAY or for having too many.
const REFUSED_TRIES: u32 = 10;

/// Leave for another try.
struct Again<'a> {
    retry: &'a RetryRt,
    permit: Permit,
}

impl ActiveStream<'_> {
    /// Tries until a response head is there that goes to the client.
    pub(super) async fn tries(&mut self, plan: &Plan<'_>, kept: &mut Kept) -> Result<Try, End> {
        let (mut avoid, mut retries, mut stale_tries) = (Vec::new(), 0, 0);
        // Held while the retry is under way.
        let mut permit: Option<Permit> = None;
        loop {
            let host = self.pick(plan, &avoid).await?;
            self.count_try(plan, &host);
            let found = self.attempt(plan, host.clone(), kept).await;
            let again = match found {
                Ok(tried) => {
                    let outcome = self.answer_of(plan, &host);
                    let resend = self.can_resend(&tried.up, &kept.replay);
                    drop(permit.take());
                    let Some(again) = self.another(plan, outcome, retries, resend) else { return Ok(tried) };
                    kept.take_up(tried.up);
                    again
                }
                Err((lost, up)) => {
                    self.request.pumped = matches!(&up, Some(Body::Raw(p)) if p.is_read());
                    let (outcome, end, stale) = self.judge(lost, &host, plan)?;
                    let resend = up.as_ref().is_none_or(|up| self.can_resend(up, &kept.replay));
                    if let Some(up) = up {
                        kept.take_up(up);
                    }
                    // An idle connection that the peer had just closed says nothing about the peer; a stream that it refused has
                    // not been served at all (RFC 9113 section 8.7).
                    let unserved = matches!(outcome, retry::Outcome::Reset { refused: true, .. });
                    let most = if unserved { REFUSED_TRIES } else { STALE_TRIES };
                    let harmless = unserved || stale && self.s.req.borrow().method.is_idempotent();
                    if harmless && resend && stale_tries < most {
                        stale_tries += 1;
                        kept.fresh = !unserved;
                        continue;
                    }
                    // Or this retry would stand in the next one's way.
                    drop(permit.take());
                    self.another(plan, outcome, retries, resend).ok_or(end)?
                }
            };
            let retry = again.retry;
            permit = Some(again.permit);
            retries += 1;
            kept.fresh = false;
            plan.cluster.stats.upstream_rq_retry.inc();
            if retry.config.avoid_previous_hosts {
                avoid.push(host);
            }
            let pause = retry.backoff(retries, self.w.random());
            let left = self.clock.whole().saturating_sub(self.w.now());
            if nanos(pause) >= left {
                return Err(self.too_late(Late::Route));
            }
            self.clock.end_try();
            self.pause(pause).await?;
        }
    }

    fn count_try(&mut self, plan: &Plan<'_>, host: &Rc<Host>) {
        let mut info = self.s.info.borrow_mut();
        info.attempts += 1;
        info.upstream_host = Some(host.text.clone());
        plan.cluster.stats.upstream_rq_total.inc();
    }

    /// What the endpoint answered, as the outlier detection and the conditions of retries see it.
    fn answer_of(&self, plan: &Plan<'_>, host: &Rc<Host>) -> retry::Outcome {
        let resp = self.s.resp.borrow();
        plan.cluster.report(host, outlier::Outcome::Status(resp.status), self.w.moment());
        let rate_limited = plan.forward.retry().is_some() && resp.headers.get_named(b"x-envoy-ratelimited").is_some();
        retry::Outcome::Response { status: resp.status, grpc_status: self.grpc_status(), rate_limited }
    }

    /// Whether there is to be another try: asked for, possible, within the number, the circuit breaker and the budget.
    fn another<'a>(&mut self, plan: &Plan<'a>, outcome: retry::Outcome, retries: u32, resend: bool) -> Option<Again<'a>> {
        let stats = &plan.cluster.stats;
        let wanted = plan.forward.retry().filter(|r| r.retries(outcome));
        let Some(retry) = wanted else {
            if retries > 0 && matches!(outcome, retry::Outcome::Response { .. }) {
                stats.upstream_rq_retry_success.inc();
            }
            return None;
        };
        if !resend {
            return None;
        }
        if retries >= retry.config.num_retries {
            if retries > 0 {
                stats.upstream_rq_retry_limit_exceeded.inc();
                self.s.info.borrow_mut().set_flag(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            }
            return None;
        }
        let permit = plan.cluster.rt.breakers.take(Resource::Retries, &plan.cluster.rt.config.circuit_breakers);
        if permit.is_none() {
            stats.upstream_rq_retry_overflow.inc();
            self.s.info.borrow_mut().set_flag(Flags::UPSTREAM_OVERFLOW);
        }
        Some(Again { retry, permit: permit? })
    }

    pub(super) fn can_resend(&self, up: &Body, replay: &Replay) -> bool {
        match up {
            Body::Raw(p) => !p.spent,
            Body::Relay(_) => !replay.spent,
        }
    }

    fn grpc_status(&self) -> Option<u32> {
        let resp = self.s.resp.borrow();
        let value = resp.headers.get(Known::GrpcStatus)?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    }

    pub(super) fn connect_failure(&mut self, plan: &Plan<'_>, host: &Host, failure: &UpstreamError) -> End {
        if failure.is_endpoints() {
            plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
        } else {
            plan.cluster.stats.upstream_rq_pending_overflow.inc();
        }
        self.upstream_failed(failure)
    }

    /// What a lost try means: for retries, for the client, and whether the connection was merely stale.
    fn judge(&mut self, lost: Lost, host: &Rc<Host>, plan: &Plan<'_>) -> Result<(retry::Outcome, End, bool), End> {
        let stats = &plan.cluster.stats;
        let reset = |before_request, refused| retry::Outcome::Reset { before_request, refused };
        Ok(match lost {
            Lost::End(End::Reply(r, flags)) if flags.has(Flags::UPSTREAM_CONNECTION_FAILURE) => {
                (retry::Outcome::ConnectFailure, End::Reply(r, flags), false)
            }
            Lost::End(end) => {
                if let End::Gone(..) = end {
                    stats.upstream_rq_tx_reset.inc();
                }
                return Err(end);
            }
            Lost::Late(Late::Try) => {
                stats.upstream_rq_per_try_timeout.inc();
                stats.upstream_rq_tx_reset.inc();
                plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                (retry::Outcome::PerTryTimeout, self.too_late(Late::Try), false)
            }
            Lost::Late(late) => {
                stats.upstream_rq_tx_reset.inc();
                if late == Late::Route {
                    plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                }
                return Err(self.too_late(late));
            }
            Lost::Malformed => {
                stats.upstream_cx_protocol_error.inc();
                plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                (reset(false, false), End::upstream(&UpstreamError::Protocol(ClientError::Malformed)), false)
            }
            Lost::Broken { silent, refused } => {
                stats.upstream_rq_rx_reset.inc();
                if !silent {
                    plan.cluster.report(host, outlier::Outcome::LocalOrigin, self.w.now());
                }
                let h2 = self.s.info.borrow().upstream_protocol == Some(Version::Http2);
                let error = if h2 { UpstreamError::RemoteReset } else { UpstreamError::Reset(String::new()) };
                (reset(refused, refused), End::upstream(&error), silent)
            }
        })
    }
}
