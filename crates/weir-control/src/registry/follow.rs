//! One task for each registry on a server: it connects, follows, and begins again when that fails.
use super::{
    Credentials, Limits,
    connect::{Connector, FollowError},
    consul, eureka, nacos,
    shared::Sink,
    zookeeper,
};
use crate::api::mcp_bridge::{Server, Speaks};
use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};
use weir_net::dial::GuardedResolver;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A connection that lived so long was good.
const GOOD: Duration = Duration::from_secs(30);

pub async fn run(server: Arc<Server>, credentials: Credentials, resolver: Arc<GuardedResolver>, limits: Limits, sink: Sink) {
    let connector = Connector { resolver, host: server.host.to_string(), port: server.port, limits };
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let Err(why) = follow(&server, &credentials, connector.clone(), &sink).await;
        sink.failed(why.to_string());
        failures = if began.elapsed() > GOOD { 0 } else { failures + 1 };
        tokio::time::sleep(wait(failures, RandomState::new().hash_one(failures))).await;
    }
}

async fn follow(server: &Server, credentials: &Credentials, connector: Connector, sink: &Sink) -> Result<Infallible, FollowError> {
    match &server.speaks {
        Speaks::Nacos(nacos) => nacos::follow(nacos, credentials, connector, sink).await,
        Speaks::Consul(consul) => consul::Follower::new(consul, credentials.consul_token.as_deref(), connector, sink).follow().await,
        Speaks::Zookeeper(zookeeper) => zookeeper::follow(zookeeper, connector, sink).await,
        Speaks::Eureka => eureka::follow(connector, sink).await,
    }
}

/// Twice as long after each failure, with up to a half off, so that many gateways do not come back at once.
fn wait(failures: u32, random: u64) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
    full - full.mul_f64((random % 1000) as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let millis = |failures, random| wait(failures, random).as_millis();
        assert_eq!([0, 1, 3, 20].map(|n| millis(n, 0)), [100, 200, 800, 10_000]);
        assert_eq!(millis(20, 999), 5_005);
    }
}
