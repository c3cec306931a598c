//! Local rate limits.
use super::seconds;
use serde::Serialize;
use std::time::Duration;

/// At most so many requests of a route (Envoy's filter `local_ratelimit`), over all workers. More are answered with 429.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LocalRateLimit {
    /// `None` sets no limit.
    pub token_bucket: Option<TokenBucket>,
    /// Responses say how many requests are left: `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset`.
    pub enable_x_ratelimit_headers: bool,
}

/// `type.v3.TokenBucket`: full at first, and filled little by little.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    pub max_tokens: u32,
    /// At least 1.
    pub tokens_per_fill: u32,
    #[serde(serialize_with = "seconds")]
    pub fill_interval: Duration,
}
