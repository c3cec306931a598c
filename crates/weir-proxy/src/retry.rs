//! When to try again, and after how long (Envoy's `RetryPolicy`).
use std::{sync::Arc, time::Duration};
use weir_config::model::{RetryOn, RetryPolicy};
use weir_net::timer::nanos;

/// A compiled [`RetryPolicy`].
#[derive(Debug)]
pub struct RetryRt {
    pub config: Arc<RetryPolicy>,
    on: u32,
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head (or trailers, for gRPC) came.
    Response {
        status: u16,
        grpc_status: Option<u32>,
        rate_limited: bool,
    },
    /// No connection came about.
    ConnectFailure,
    /// The connection or the stream ended before the response head.
    Reset {
        /// No byte of the request had been sent.
        before_request: bool,
        /// By REFUSED_STREAM or below a GOAWAY: the upstream did not look at it.
        refused: bool,
    },
    PerTryTimeout,
}

impl RetryRt {
    pub fn new(config: &Arc<RetryPolicy>) -> RetryRt {
        let on = config.conditions.iter().fold(0, |on, c| on | 1 << *c as u32);
        RetryRt { config: config.clone(), on }
    }

    fn on(&self, condition: RetryOn) -> bool {
        self.on & 1 << condition as u32 != 0
    }

    /// Whether there may be another try when the request has been sent: then its body has to be held.
    pub fn holds_body(&self) -> bool {
        const AFTER: [RetryOn; 6] = [
            RetryOn::ServerError,
            RetryOn::GatewayError,
            RetryOn::Reset,
            RetryOn::EnvoyRatelimited,
            RetryOn::Retriable4xx,
            RetryOn::RetriableStatusCodes,
        ];
        self.config.num_retries > 0 && (AFTER.into_iter().any(|c| self.on(c)) || !self.config.status_codes.is_empty())
    }

    /// Whether the outcome is one to try again after. How often, whether the request can be sent again and the circuit
    /// breaker for retries are the caller's to see to.
    pub fn retries(&self, outcome: Outcome) -> bool {
        let server = self.on(RetryOn::ServerError) || self.on(RetryOn::GatewayError);
        match outcome {
            Outcome::ConnectFailure => server || self.on(RetryOn::ConnectFailure) || self.on(RetryOn::Reset),
            Outcome::PerTryTimeout => server || self.on(RetryOn::Reset),
            Outcome::Reset { before_request, refused } => {
                server
                    || self.on(RetryOn::Reset)
                    || refused && self.on(RetryOn::RefusedStream)
                    || before_request && self.on(RetryOn::ResetBeforeRequest)
            }
            Outcome::Response { status, grpc_status, rate_limited } => {
                // A rate limit is not to be hammered on, unless asked for.
                if rate_limited {
                    return self.on(RetryOn::EnvoyRatelimited);
                }
                self.on(RetryOn::ServerError) && (500..600).contains(&status)
                    || self.on(RetryOn::GatewayError) && (502..=504).contains(&status)
                    || self.on(RetryOn::Retriable4xx) && status == 409
                    || self.config.status_codes.contains(&status)
                        && (self.on(RetryOn::RetriableStatusCodes) || !self.config.status_codes.is_empty())
                    || grpc_status.is_some_and(|s| self.grpc(s))
            }
        }
    }

    fn grpc(&self, status: u32) -> bool {
        match status {
            1 => self.on(RetryOn::GrpcCancelled),
            4 => self.on(RetryOn::GrpcDeadlineExceeded),
            8 => self.on(RetryOn::GrpcResourceExhausted),
            13 => self.on(RetryOn::GrpcInternal),
            14 => self.on(RetryOn::GrpcUnavailable),
            _ => false,
        }
    }

    /// The pause before retry number `retry` (1 for the first): anything up to `base * 2^(retry-1)`, at most the greatest.
    pub fn backoff(&self, retry: u32, random: u64) -> Duration {
        let (base, max) = (nanos(self.config.backoff_base), nanos(self.config.backoff_max));
        let ceiling = base.saturating_mul(1u64.checked_shl(retry.saturating_sub(1)).unwrap_or(u64::MAX)).min(max.max(base));
        Duration::from_nanos(((u128::from(ceiling) * u128::from(random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(conditions: &[RetryOn], codes: &[u16]) -> RetryRt {
        RetryRt::new(&Arc::new(RetryPolicy { conditions: conditions.to_vec(), status_codes: codes.to_vec(), ..RetryPolicy::default() }))
    }
    fn status(status: u16) -> Outcome {
        Outcome::Response { status, grpc_status: None, rate_limited: false }
    }

    #[test]
    fn conditions_and_outcomes() {
        let reset = |before_request, refused| Outcome::Reset { before_request, refused };
        let grpc = |n| Outcome::Response { status: 200, grpc_status: Some(n), rate_limited: false };
        let limited = Outcome::Response { status: 503, grpc_status: None, rate_limited: true };
        use RetryOn::*;
        type Row<'a> = (&'a [RetryOn], &'a [u16], &'a [Outcome], &'a [Outcome]);
        let table: &[Row<'_>] = &[
            (
                &[ServerError],
                &[],
                &[status(500), status(599), Outcome::ConnectFailure, reset(false, false), Outcome::PerTryTimeout],
                &[status(404), status(200), limited],
            ),
            (&[GatewayError], &[], &[status(502), status(503), status(504), Outcome::ConnectFailure], &[status(500), status(505)]),
            (&[ConnectFailure], &[], &[Outcome::ConnectFailure], &[reset(true, true), status(503), Outcome::PerTryTimeout]),
            (&[Reset], &[], &[reset(false, false), Outcome::ConnectFailure, Outcome::PerTryTimeout], &[status(503)]),
            (&[ResetBeforeRequest], &[], &[reset(true, false)], &[reset(false, false), Outcome::ConnectFailure]),
            (&[RefusedStream], &[], &[reset(false, true)], &[reset(true, false)]),
            (&[Retriable4xx], &[], &[status(409)], &[status(404), status(500)]),
            (&[RetriableStatusCodes], &[418], &[status(418)], &[status(417), status(503)]),
            (&[], &[503], &[status(503)], &[status(500)]),
            (&[EnvoyRatelimited], &[], &[limited], &[status(503)]),
            (&[GrpcUnavailable, GrpcCancelled], &[], &[grpc(14), grpc(1)], &[grpc(0), grpc(13), status(503)]),
        ];
        for (conditions, codes, yes, no) in table {
            let p = policy(conditions, codes);
            yes.iter().for_each(|o| assert!(p.retries(*o), "{conditions:?} {o:?}"));
            no.iter().for_each(|o| assert!(!p.retries(*o), "{conditions:?} {o:?}"));
        }
    }

    #[test]
    fn bodies_are_held_for_what_comes_after_them() {
        use RetryOn::*;
        assert!(!RetryRt::new(&Arc::new(RetryPolicy::default())).holds_body());
        assert!(!policy(&[ConnectFailure, RefusedStream, ResetBeforeRequest], &[]).holds_body());
        assert!(policy(&[ServerError], &[]).holds_body() && policy(&[Reset], &[]).holds_body() && policy(&[], &[503]).holds_body());
        let none = RetryPolicy { conditions: vec![ServerError], num_retries: 0, ..RetryPolicy::default() };
        assert!(!RetryRt::new(&Arc::new(none)).holds_body());
    }

    #[test]
    fn pauses_grow_up_to_the_greatest() {
        let p = policy(&[], &[]);
        let ms = |retry, random| p.backoff(retry, random).as_millis();
        assert_eq!((ms(1, u64::MAX), ms(2, u64::MAX), ms(3, u64::MAX)), (24, 49, 99));
        assert_eq!((ms(5, u64::MAX), ms(200, u64::MAX), ms(3, 0), ms(3, 1 << 63)), (249, 249, 0, 50));
    }
}
