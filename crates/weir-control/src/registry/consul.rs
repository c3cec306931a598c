//! Consul. Two blocking queries, of the services and of the checks, say that something changed; the services that it concerns are then
//! read again over a few connections, since an agent allows a client only some.
mod changes;

use super::{
    connect::{Connector, FollowError, Http},
    service::Instance,
    shared::Sink,
};
use crate::api::{labels::Labels, mcp_bridge::Consul};
use changes::{Check, Checks, Concerns};
use futures_util::future::try_join_all;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};
use url::form_urlencoded::byte_serialize;

/// Connections that read services.
const READERS: usize = 6;
/// How long a blocking query waits for a change.
const WAIT: Duration = Duration::from_secs(60);
/// With the sixteenth that an agent may add.
const WAITS: Duration = Duration::from_secs(64);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthEntry {
    node: Node,
    service: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    address: String,
    port: i64,
    #[serde(default)]
    meta: Option<Labels>,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: f64,
}

pub struct Follower<'a> {
    consul: &'a Consul,
    connector: Connector,
    headers: HeaderMap,
    sink: &'a Sink,
}

impl<'a> Follower<'a> {
    pub fn new(consul: &'a Consul, token: Option<&str>, connector: Connector, sink: &'a Sink) -> Follower<'a> {
        let token = token.and_then(|token| HeaderValue::from_str(token).ok());
        let headers = token.map(|token| ("x-consul-token".parse().ok(), token)).and_then(|(name, token)| Some((name?, token)));
        Follower { consul, connector, headers: headers.into_iter().collect(), sink }
    }

    /// Follows until something fails.
    pub async fn follow(&self) -> Result<Infallible, FollowError> {
        let mut readers: Vec<Http> = (0..READERS).map(|_| self.http()).collect();
        let (mut lists, mut healths) = (self.http(), self.http());
        let (mut list_index, services) = self.services(&mut lists, 0).await?;
        let (mut health_index, checks) = self.checks(&mut healths, 0).await?;
        let mut known = services;
        let mut checks = Checks::new(checks);
        self.sink.begin();
        self.read(&mut readers, known.iter()).await?;
        self.sink.complete();
        let mut next_list = Box::pin(self.watch_services(lists, list_index));
        let mut next_checks = Box::pin(self.watch_checks(healths, health_index));
        loop {
            tokio::select! {
                answer = &mut next_list => {
                    let (http, index, services) = answer?;
                    for gone in known.difference(&services) {
                        self.sink.remove(&host(gone, &self.consul.datacenter));
                    }
                    known = services;
                    list_index = next_index(list_index, index);
                    next_list = Box::pin(self.watch_services(http, list_index));
                    self.read(&mut readers, known.iter()).await?;
                }
                answer = &mut next_checks => {
                    let (http, index, all) = answer?;
                    health_index = next_index(health_index, index);
                    next_checks = Box::pin(self.watch_checks(http, health_index));
                    match checks.update(all) {
                        Concerns::All => self.read(&mut readers, known.iter()).await?,
                        Concerns::Some(some) => self.read(&mut readers, known.iter().filter(|name| some.contains(*name))).await?,
                    }
                }
            }
        }
    }

    fn http(&self) -> Http {
        Http::new(self.connector.clone(), self.headers.clone())
    }

    fn query(&self, index: u64) -> String {
        let mut query = format!("?index={index}&wait={}s", WAIT.as_secs());
        if !self.consul.datacenter.is_empty() {
            query += &format!("&dc={}", encoded(&self.consul.datacenter));
        }
        query
    }

    async fn services(&self, http: &mut Http, index: u64) -> Result<(u64, BTreeSet<String>), FollowError> {
        let (head, body) = http.get_later(&format!("/v1/catalog/services{}", self.query(index)), WAITS).await?;
        let all: BTreeMap<String, Vec<String>> = serde_json::from_slice(&body).map_err(FollowError::protocol)?;
        let wanted = self.consul.tag.as_deref();
        let fits = |tags: &[String]| wanted.is_none_or(|wanted| tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted)));
        Ok((index_of(&head)?, all.into_iter().filter(|(_, tags)| fits(tags)).map(|(name, _)| name).collect()))
    }

    async fn checks(&self, http: &mut Http, index: u64) -> Result<(u64, Vec<Check>), FollowError> {
        let (head, body) = http.get_later(&format!("/v1/health/state/any{}", self.query(index)), WAITS).await?;
        Ok((index_of(&head)?, serde_json::from_slice(&body).map_err(FollowError::protocol)?))
    }

    async fn watch_services(&self, mut http: Http, index: u64) -> Result<(Http, u64, BTreeSet<String>), FollowError> {
        let (index, services) = self.services(&mut http, index).await?;
        Ok((http, index, services))
    }

    async fn watch_checks(&self, mut http: Http, index: u64) -> Result<(Http, u64, Vec<Check>), FollowError> {
        let (index, checks) = self.checks(&mut http, index).await?;
        Ok((http, index, checks))
    }

    /// Reads the instances that pass their checks, of services, several at a time.
    async fn read(&self, readers: &mut [Http], services: impl Iterator<Item = &String>) -> Result<(), FollowError> {
        let services: Vec<&String> = services.collect();
        let one = async |(nth, http): (usize, &mut Http)| {
            for name in services.iter().skip(nth).step_by(READERS) {
                let path = format!("/v1/health/service/{}{}&passing=", encoded(name), self.query(0));
                let (_, body) = http.get(&path).await?;
                let entries: Vec<HealthEntry> = serde_json::from_slice(&body).map_err(FollowError::protocol)?;
                self.sink.put(&host(name, &self.consul.datacenter), entries.into_iter().filter_map(instance).collect());
            }
            Ok::<(), FollowError>(())
        };
        try_join_all(readers.iter_mut().enumerate().map(one)).await.map(|_| ())
    }
}

fn instance(entry: HealthEntry) -> Option<Instance> {
    let HealthEntry { node, service } = entry;
    let address = if service.address.is_empty() { node.address } else { service.address };
    let weight = service.weights.map_or(1.0, |weights| weights.passing);
    Some(Instance { address, port: u16::try_from(service.port).ok()?, weight, metadata: service.meta.unwrap_or_default() })
}

/// `NAME.DATACENTER.consul`, or without the datacenter where the registry names none.
fn host(service: &str, datacenter: &str) -> String {
    let middle = if datacenter.is_empty() { String::new() } else { format!("{datacenter}.") };
    format!("{service}.{middle}consul").replace('_', "-")
}

fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn index_of(head: &HeaderMap) -> Result<u64, FollowError> {
    let index = head.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
    index.ok_or_else(|| FollowError::Protocol("an answer has no X-Consul-Index: it is not Consul".into()))
}

/// An index that goes back begins again, as the documentation of Consul asks; one of 0 would not block.
fn next_index(before: u64, now: u64) -> u64 {
    if now < before { 0 } else { now.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_indexes() {
        assert_eq!(host("my_app", "dc1"), "my-app.dc1.consul");
        assert_eq!(host("web", ""), "web.consul");
        for (before, now, wanted) in [(5, 7, 7), (5, 5, 5), (7, 5, 0), (0, 0, 1)] {
            assert_eq!(next_index(before, now), wanted);
        }
    }
}
