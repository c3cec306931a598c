//! Eureka: all applications once, then what changed in them, by polling.
mod applications;

use super::{
    connect::{Connector, FollowError, Http},
    shared::Sink,
};
use applications::{Answer, Applications};
use bytes::Bytes;
use http::HeaderMap;
use std::{convert::Infallible, time::Duration};

/// A server answers from a cache of its own, which is renewed every 30 s unless it is configured otherwise.
const INTERVAL: Duration = Duration::from_millis(500);

/// Follows until something fails.
pub async fn follow(connector: Connector, sink: &Sink) -> Result<Infallible, FollowError> {
    let mut http = Http::new(connector, HeaderMap::new());
    let mut known = read_all(&mut http, sink).await?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (_, body) = http.get("/eureka/apps/delta").await?;
        let changed = known.apply(parse(&body)?);
        match changed {
            Some(changed) => put(&known, changed.iter(), sink),
            // A change was missed.
            None => known = read_all(&mut http, sink).await?,
        }
    }
}

async fn read_all(http: &mut Http, sink: &Sink) -> Result<Applications, FollowError> {
    let (_, body) = http.get("/eureka/apps").await?;
    let known = Applications::new(parse(&body)?);
    sink.begin();
    put(&known, known.names(), sink);
    sink.complete();
    Ok(known)
}

fn put<'a>(known: &Applications, names: impl Iterator<Item = &'a String>, sink: &Sink) {
    for name in names {
        match known.instances(name) {
            Some(instances) => sink.put(&host(name), instances),
            None => sink.remove(&host(name)),
        }
    }
}

fn host(application: &str) -> String {
    format!("{application}.eureka")
}

fn parse(body: &Bytes) -> Result<Answer, FollowError> {
    serde_json::from_slice(body).map_err(FollowError::protocol)
}
