//! Limits how many requests are let through, by one token bucket that all workers share (Envoy's filter `local_ratelimit`).
use super::{FilterContext, Flow};
use crate::{info::Flags, reply::Reply};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use weir_config::model;

/// A compiled [`model::LocalRateLimit`].
#[derive(Debug)]
pub struct LocalRateLimitRt {
    bucket: Option<TokenBucket>,
}

impl LocalRateLimitRt {
    pub fn compile(of: &model::LocalRateLimit) -> LocalRateLimitRt {
        LocalRateLimitRt { bucket: of.token_bucket.as_ref().map(TokenBucket::new) }
    }
}

pub struct LocalRateLimit {
    config: Arc<LocalRateLimitRt>,
}

impl LocalRateLimit {
    pub fn new(config: Arc<LocalRateLimitRt>) -> LocalRateLimit {
        LocalRateLimit { config }
    }

    pub fn decode_headers(&self, cx: &FilterContext) -> Flow {
        let Some(bucket) = &self.config.bucket else { return Flow::Continue };
        cx.stats.local_rate_limit_enabled.inc();
        if bucket.take(cx.core.now()) {
            cx.stats.local_rate_limit_ok.inc();
            return Flow::Continue;
        }
        cx.stats.local_rate_limit_rate_limited.inc();
        let reply = Reply::new(429, "local_rate_limited").body(&b"local_rate_limited"[..]);
        Flow::Reply(Box::new(reply), Flags::RATE_LIMITED)
    }
}

/// A token bucket in one number, `filled`: the bucket holds one token for each `token` nanoseconds that have passed since then.
#[derive(Debug)]
pub struct TokenBucket {
    /// Nanoseconds to fill one token, and the whole bucket.
    token: i64,
    bucket: i64,
    filled: AtomicI64,
}

impl TokenBucket {
    /// A full one.
    pub fn new(of: &model::TokenBucket) -> TokenBucket {
        let interval = i64::try_from(of.fill_interval.as_nanos()).unwrap_or(i64::MAX);
        let token = (interval / i64::from(of.tokens_per_fill.max(1))).max(1);
        TokenBucket { token, bucket: token.saturating_mul(of.max_tokens.into()), filled: AtomicI64::new(i64::MIN) }
    }

    /// Takes a token if there is one. `now` is in nanoseconds, by one clock for all.
    pub fn take(&self, now: u64) -> bool {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let next = |filled: i64| {
            let filled = filled.max(now.saturating_sub(self.bucket)).saturating_add(self.token);
            (filled <= now).then_some(filled)
        };
        self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn bucket(max_tokens: u32, tokens_per_fill: u32) -> TokenBucket {
        TokenBucket::new(&model::TokenBucket { max_tokens, tokens_per_fill, fill_interval: Duration::from_secs(1) })
    }

    #[test]
    fn a_bucket_is_full_at_first_and_fills_evenly() {
        const SECOND: u64 = 1_000_000_000;
        let bucket = bucket(3, 10);
        let taken = |now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(0), 3);
        assert_eq!(taken(SECOND / 10 - 1), 0);
        assert_eq!(taken(SECOND / 10), 1);
        assert_eq!(taken(SECOND / 10 * 3), 2);
        // Never more than the bucket holds.
        assert_eq!(taken(SECOND * 60), 3);
        // A time that another worker read earlier.
        assert_eq!(taken(SECOND * 59), 0);
    }

    #[test]
    fn workers_share_it() {
        let bucket = bucket(1000, 1);
        let taken: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(5)).count())).collect();
            workers.into_iter().map(|w| w.join().unwrap_or_default()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn one_without_tokens_lets_nothing_through() {
        assert!(!bucket(0, 1).take(u64::MAX / 4));
    }
}
