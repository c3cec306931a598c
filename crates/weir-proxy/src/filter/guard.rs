//! What decides whether a route takes a request at all: the client's address, then the rate.
use super::local_rate_limit::TokenBucket;
use std::{net::IpAddr, sync::Arc};
use weir_config::model::{Rbac, Route};

/// The checks of a route that has any.
#[derive(Debug)]
pub struct Guard {
    rbac: Option<Arc<Rbac>>,
    bucket: Option<TokenBucket>,
}

/// The decision on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// By its address: 403.
    Denied,
    /// 429
    RateLimited,
}

impl Guard {
    pub fn compile(of: &Route) -> Option<Box<Guard>> {
        let bucket = of.local_rate_limit.as_ref().map(|limit| TokenBucket::new(&limit.token_bucket));
        (of.rbac.is_some() || bucket.is_some()).then(|| Box::new(Guard { rbac: of.rbac.clone(), bucket }))
    }
    pub fn has_rbac(&self) -> bool {
        self.rbac.is_some()
    }
    pub fn has_rate_limit(&self) -> bool {
        self.bucket.is_some()
    }
    /// `now` in nanoseconds, by one clock for all workers. A request that is denied takes no token.
    pub fn check(&self, client: IpAddr, now: u64) -> Verdict {
        if self.rbac.as_ref().is_some_and(|rbac| !rbac.allows(client)) {
            return Verdict::Denied;
        }
        match &self.bucket {
            Some(bucket) if !bucket.take(now) => Verdict::RateLimited,
            _ => Verdict::Pass,
        }
    }
}
