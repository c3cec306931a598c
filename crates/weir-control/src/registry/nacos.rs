//! Nacos 2 and 3: its services are listed by polling, and their instances come by push, over one connection of gRPC.
//!
//! `payload` is the protobuf around every message, `message` the JSON in it, `call` gRPC, `login` who we are.
mod call;
mod login;
mod message;
mod payload;

use super::{
    Limits,
    connect::{Connector, FollowError},
    service::Instance,
    shared::Sink,
};
use crate::{api::mcp_bridge::Nacos, registry::Credentials};
use call::{Calls, Pushes};
use login::Identity;
use message::{ServiceInfo, ServiceList};
use payload::Payload;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What the port of gRPC is above that of HTTP.
const PORT_OFFSET: u16 = 1000;
const PAGE: usize = 500;
/// Services that are subscribed to at a time.
const AT_A_TIME: usize = 32;
/// The server ends connections that say nothing for 20 s.
const HEALTH_CHECK: Duration = Duration::from_secs(5);
/// How long a server may take to know a connection that it has just accepted.
const REGISTERING: Duration = Duration::from_secs(5);
/// The error of a server that does not know the connection (yet).
const UNREGISTERED: i64 = 301;
/// Names of services that Dubbo registers for its consumers.
const CONSUMERS: &str = "consumers:";

/// A group and a service.
type ServiceKey = (String, String);

struct Follower<'a> {
    nacos: &'a Nacos,
    identity: Identity,
    calls: Calls,
    limits: Limits,
    sink: &'a Sink,
    /// The services that are subscribed to, with the version that was put last.
    known: BTreeMap<ServiceKey, i64>,
}

/// Follows until something fails.
pub async fn follow(nacos: &Nacos, credentials: &Credentials, connector: Connector, sink: &Sink) -> Result<Infallible, FollowError> {
    let identity = Identity::new(nacos, credentials, &connector).await?;
    let port = connector
        .port
        .checked_add(PORT_OFFSET)
        .ok_or_else(|| FollowError::Protocol("the port of gRPC is 1000 above that of HTTP".into()))?;
    let io = connector.connect(port).await?;
    let (calls, pushes) = call::open(io, &connector.authority(), connector.limits.answer_bytes).await?;
    let mut follower = Follower { nacos, identity, calls, limits: connector.limits, sink, known: BTreeMap::new() };
    follower.register(&pushes).await?;
    sink.begin();
    follower.run(pushes).await
}

impl Follower<'_> {
    /// Makes the connection known to the server.
    async fn register(&mut self, pushes: &Pushes) -> Result<(), FollowError> {
        self.call("ServerCheckRequest", "", json!({})).await?;
        let setup = json!({
            "clientVersion": concat!("Weir:v", env!("CARGO_PKG_VERSION")),
            "tenant": self.nacos.namespace,
            "labels": { "source": "sdk", "module": "naming" },
            "clientAbilities": {},
            "abilityTable": {},
        });
        pushes.send(Payload::new("ConnectionSetupRequest", &self.identity.headers(""), &setup)).await
    }

    /// Reads lists and takes pushes in turn.
    async fn run(&mut self, mut pushes: Pushes) -> Result<Infallible, FollowError> {
        let deadline = Instant::now() + REGISTERING;
        loop {
            match self.list().await {
                // The stream that makes the connection known may come after the first call.
                Err(FollowError::Protocol(why)) if why.contains(message::NOT_REGISTERED) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        self.sink.complete();
        let mut next_check = Instant::now() + HEALTH_CHECK;
        let mut next_list = Instant::now() + self.nacos.refresh_interval;
        loop {
            tokio::select! {
                push = pushes.receive() => {
                    let answer = self.take(push?)?;
                    if let Some(answer) = answer {
                        pushes.send(answer).await?;
                    }
                }
                () = sleep_until(next_list) => {
                    let began = Instant::now();
                    self.list().await?;
                    // A list that takes long is asked for less often.
                    next_list = Instant::now() + self.nacos.refresh_interval.max(began.elapsed() * 10);
                }
                () = sleep_until(next_check) => {
                    self.call("HealthCheckRequest", "", json!({})).await?;
                    self.identity.renew().await?;
                    next_check = Instant::now() + HEALTH_CHECK;
                }
            }
        }
    }

    /// Reads which services there are, and follows those that are new.
    async fn list(&mut self) -> Result<(), FollowError> {
        let mut now = BTreeSet::new();
        for group in &self.nacos.groups {
            for page in 1.. {
                let body = json!({ "namespace": self.nacos.namespace, "groupName": group, "serviceName": "", "pageNo": page, "pageSize": PAGE, "selector": "" });
                let list: ServiceList = message::read(self.call("ServiceListRequest", "", body).await?)?;
                let count = list.names.len();
                let wanted = list.names.into_iter().filter(|name| !name.is_empty() && !name.starts_with(CONSUMERS));
                now.extend(wanted.map(|name| (group.to_string(), name)));
                if count < PAGE || now.len() > self.limits.services {
                    break;
                }
            }
        }
        let new: Vec<ServiceKey> = now.iter().filter(|key| !self.known.contains_key(*key)).cloned().collect();
        let gone: Vec<ServiceKey> = self.known.keys().filter(|key| !now.contains(*key)).cloned().collect();
        for some in new.chunks(AT_A_TIME) {
            let infos = futures_util::future::try_join_all(some.iter().map(|key| self.subscribe(key, true))).await?;
            for (key, info) in some.iter().zip(infos) {
                self.known.insert(key.clone(), 0);
                self.put(key, info);
            }
        }
        for key in gone {
            self.subscribe(&key, false).await?;
            self.sink.remove(&self.host(&key));
            self.known.remove(&key);
        }
        Ok(())
    }

    async fn subscribe(&self, (group, service): &ServiceKey, subscribe: bool) -> Result<ServiceInfo, FollowError> {
        let body = json!({ "namespace": self.nacos.namespace, "serviceName": service, "groupName": group, "subscribe": subscribe, "clusters": "" });
        let answer = self.call("SubscribeServiceRequest", &format!("{group}@@{service}"), body).await?;
        message::service_info(answer)
    }

    async fn call(&self, kind: &str, resource: &str, body: Value) -> Result<Value, FollowError> {
        let payload = Payload::new(kind, &self.identity.headers(resource), &body);
        let patience = self.limits.request_timeout;
        let answer = timeout(patience, self.calls.unary(payload)).await.map_err(|_| FollowError::Timeout(patience))??;
        message::checked(kind, &answer)
    }

    /// What to answer to a push.
    fn take(&mut self, push: Payload) -> Result<Option<Payload>, FollowError> {
        let body = push.json().map_err(FollowError::protocol)?;
        let answer = |kind: &str| {
            let body = json!({ "requestId": body["requestId"], "resultCode": 200, "errorCode": 0, "success": true });
            Ok(Some(Payload::new(kind, &[], &body)))
        };
        match push.kind.as_str() {
            "NotifySubscriberRequest" => {
                let info = message::service_info(body.clone())?;
                let key = info.key();
                self.put(&key, info);
                answer("NotifySubscriberResponse")
            }
            "ClientDetectionRequest" => answer("ClientDetectionResponse"),
            "SetupAckRequest" => answer("SetupAckResponse"),
            "ConnectResetRequest" => Err(FollowError::Protocol("the server asks for another connection".into())),
            _ => Ok(None),
        }
    }

    /// Takes over a service that is subscribed to, unless what is known is newer: answers and pushes may pass each other.
    fn put(&mut self, key: &ServiceKey, info: ServiceInfo) {
        match self.known.get_mut(key) {
            Some(version) if info.last_ref_time >= *version => *version = info.last_ref_time,
            _ => return,
        }
        let good = info.hosts.into_iter().filter(|host| host.healthy && host.enabled && host.weight > 0.0);
        let instances: Vec<Instance> = good.map(message::Host::instance).collect();
        self.sink.put(&self.host(key), instances);
    }

    /// `SERVICE.GROUP.NAMESPACE.nacos`, with `-` for `_` in what comes after the service.
    fn host(&self, (group, service): &ServiceKey) -> String {
        let suffix = format!("{group}.{}.nacos", self.nacos.shown_namespace).replace('_', "-");
        format!("{service}.{suffix}")
    }
}
