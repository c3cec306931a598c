//! Fault injection (Envoy's filter `fault`): delays requests, and answers some in place of the upstream.
use super::{FilterContext, Flow, Stop};
use crate::{detail::Detail, info::Flags, reply::Reply};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};
use weir_config::model::{self, Abort, Fraction};

pub struct Fault {
    config: Arc<model::Fault>,
    delay: Option<Pin<Box<Sleep>>>,
    abort: Option<Abort>,
}

impl Fault {
    pub fn new(config: Arc<model::Fault>) -> Fault {
        Fault { config, delay: None, abort: None }
    }

    pub fn decode_headers(&mut self, cx: &FilterContext) -> Flow {
        let verdict = decide(&self.config, cx.core.random());
        self.abort = verdict.abort;
        let Some(delay) = verdict.delay else { return self.finish() };
        cx.stream.info.borrow_mut().set_flag(Flags::DELAY_INJECTED);
        self.delay = Some(Box::pin(sleep(delay)));
        Flow::Stop(Stop::AllAndWatermark)
    }

    pub fn is_delayed(&self) -> bool {
        self.delay.is_some()
    }

    pub fn poll(&mut self, cx: &mut Context) -> Poll<Flow> {
        if let Some(delay) = &mut self.delay {
            ready!(delay.as_mut().poll(cx));
        }
        self.delay = None;
        Poll::Ready(self.finish())
    }

    fn finish(&self) -> Flow {
        let reply = match self.abort {
            None => return Flow::Continue,
            Some(Abort::HttpStatus(status)) => Reply::new(status, Detail::FaultFilterAbort).body(&b"fault filter abort"[..]),
            Some(Abort::GrpcStatus(code)) => Reply { grpc_status: Some(i32::from(code)), ..Reply::new(200, Detail::FaultFilterAbort) },
        };
        Flow::Reply(Box::new(reply), Flags::FAULT_INJECTED)
    }
}

/// What to do with one request: wait, then perhaps answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub delay: Option<Duration>,
    pub abort: Option<Abort>,
}

/// Whether an event of this share happens, by a random number.
pub fn happens(fraction: Fraction, random: u64) -> bool {
    // The upper half: it is the better one of simple generators.
    ((random >> 32) * 1_000_000) >> 32 < u64::from(fraction.0)
}

/// Decides by one random number; delay and abort are independent of one another.
pub fn decide(fault: &model::Fault, random: u64) -> Verdict {
    let other = random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    Verdict {
        delay: fault.delay.filter(|d| happens(d.percentage, random)).map(|d| d.fixed_delay),
        abort: fault.abort.filter(|a| happens(a.1, other)).map(|a| a.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Random;
    use weir_config::model::Delay;

    #[test]
    fn shares_come_out_and_are_independent() {
        let delay = Delay { fixed_delay: Duration::from_secs(1), percentage: Fraction::percent(50.0) };
        let fault = model::Fault { delay: Some(delay), abort: Some((Abort::HttpStatus(503), Fraction::percent(10.0))) };
        let mut random = Random::new(7);
        let (mut delays, mut aborts, mut both) = (0, 0, 0);
        for _ in 0..100_000 {
            let v = decide(&fault, random.next());
            delays += i32::from(v.delay.is_some());
            aborts += i32::from(v.abort.is_some());
            both += i32::from(v.delay.is_some() && v.abort.is_some());
        }
        assert!(
            (48_000..52_000).contains(&delays) && (9_000..11_000).contains(&aborts) && (4_400..5_600).contains(&both),
            "{delays} {aborts} {both}"
        );
        for random in [0, u64::MAX, 1 << 40] {
            assert!(happens(Fraction::ALL, random) && !happens(Fraction(0), random));
        }
    }
}
