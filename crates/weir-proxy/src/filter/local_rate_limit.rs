//! Limits how many requests are let through, by one token bucket that all workers share (Envoy's filter `local_ratelimit`).
use super::{FilterContext, Flow};
use crate::{detail::Detail, info::Flags, reply::Reply};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use weir_config::model;

/// A compiled [`model::LocalRateLimit`].
#[derive(Debug)]
pub struct LocalRateLimitRt {
    bucket: Option<TokenBucket>,
    headers: bool,
}

impl LocalRateLimitRt {
    pub fn compile(of: &model::LocalRateLimit) -> LocalRateLimitRt {
        LocalRateLimitRt { bucket: of.token_bucket.as_ref().map(TokenBucket::new), headers: of.enable_x_ratelimit_headers }
    }
}

pub struct LocalRateLimit {
    config: Arc<LocalRateLimitRt>,
    /// After this request.
    left: Option<Left>,
}

impl LocalRateLimit {
    pub fn new(config: Arc<LocalRateLimitRt>) -> LocalRateLimit {
        LocalRateLimit { config, left: None }
    }

    pub fn decode_headers(&mut self, cx: &FilterContext) -> Flow {
        let Some(bucket) = &self.config.bucket else { return Flow::Continue };
        let stats = &cx.stats;
        stats.local_rate_limit_enabled.inc();
        let left = bucket.take(cx.core.now());
        self.left = Some(left);
        if left.taken {
            stats.local_rate_limit_ok.inc();
            return Flow::Continue;
        }
        stats.local_rate_limit_rate_limited.inc();
        stats.local_rate_limit_enforced.inc();
        let mut reply = Reply::new(429, Detail::LocalRateLimited).body(&b"local_rate_limited"[..]);
        if !cx.rt.config().suppress_envoy_headers {
            reply = reply.header("x-envoy-ratelimited", b"true");
        }
        Flow::Reply(Box::new(reply), Flags::RATE_LIMITED)
    }

    /// Says what is left, on every response (Envoy's `DRAFT_VERSION_03`).
    pub fn encode_headers(&self, cx: &FilterContext) -> Flow {
        if let (Some(left), Some(bucket), true) = (self.left, &self.config.bucket, self.config.headers) {
            let headers = &mut cx.stream.resp.borrow_mut().headers;
            let seconds = left.next.div_ceil(1_000_000_000);
            for (name, value) in
                [("x-ratelimit-limit", bucket.max_tokens.into()), ("x-ratelimit-remaining", left.remaining), ("x-ratelimit-reset", seconds)]
            {
                headers.set_named(name.as_bytes(), value.to_string().as_bytes());
            }
        }
        Flow::Continue
    }
}

/// A token bucket in one number, `filled`: the bucket holds one token for each `token` nanoseconds that have passed since then.
#[derive(Debug)]
pub struct TokenBucket {
    max_tokens: u32,
    /// Nanoseconds to fill one token, and the whole bucket.
    token: i64,
    bucket: i64,
    filled: AtomicI64,
}

/// What a request has found in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// There was a token.
    pub taken: bool,
    /// Tokens that are there still.
    pub remaining: u64,
    /// Nanoseconds until there is one; 0 where there is.
    pub next: u64,
}

impl TokenBucket {
    /// A full one.
    pub fn new(of: &model::TokenBucket) -> TokenBucket {
        let interval = i64::try_from(of.fill_interval.as_nanos()).unwrap_or(i64::MAX);
        let token = (interval / i64::from(of.tokens_per_fill.max(1))).max(1);
        let bucket = token.saturating_mul(of.max_tokens.into());
        TokenBucket { max_tokens: of.max_tokens, token, bucket, filled: AtomicI64::new(i64::MIN) }
    }

    /// Takes a token if there is one. `now` is in nanoseconds, by one clock for all.
    pub fn take(&self, now: u64) -> Left {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let at_least = |filled: i64| filled.max(now.saturating_sub(self.bucket));
        let next = |filled: i64| {
            let filled = at_least(filled).saturating_add(self.token);
            (filled <= now).then_some(filled)
        };
        let (taken, filled) = match self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(before) => (true, at_least(before).saturating_add(self.token)),
            Err(before) => (false, at_least(before)),
        };
        // Another worker may have read a later time.
        let remaining = u64::try_from(now.saturating_sub(filled)).unwrap_or_default() / self.token as u64;
        let next = if remaining > 0 { 0 } else { u64::try_from(filled.saturating_add(self.token).saturating_sub(now)).unwrap_or_default() };
        Left { taken, remaining, next }
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
        let taken = |now| (0..100).filter(|_| bucket.take(now).taken).count();
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
    fn a_request_learns_what_is_left() {
        const SECOND: u64 = 1_000_000_000;
        let bucket = bucket(3, 2);
        let table = [
            (0, true, 2, 0),
            (0, true, 1, 0),
            (0, true, 0, SECOND / 2),
            (SECOND / 4, false, 0, SECOND / 4),
            (SECOND / 2, true, 0, SECOND / 2),
            (SECOND * 3, true, 2, 0),
        ];
        for (now, taken, remaining, next) in table {
            assert_eq!(bucket.take(now), Left { taken, remaining, next }, "{now}");
        }
        // By a clock that is behind.
        assert_eq!(bucket.take(SECOND), Left { taken: false, remaining: 0, next: SECOND * 3 / 2 });
    }

    #[test]
    fn workers_share_it() {
        let bucket = bucket(1000, 1);
        let taken: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(5).taken).count())).collect();
            workers.into_iter().map(|w| w.join().unwrap_or_default()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn one_without_tokens_lets_nothing_through() {
        assert!(!bucket(0, 1).take(u64::MAX / 4).taken);
    }
}
