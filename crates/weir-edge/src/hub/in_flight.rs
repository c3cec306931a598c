//! How many requests of one client are answered at a time. The others of that client wait, so that a busy pod does not slow down kubelet,
//! and beyond a number of them they are answered with 429, as the API server does it. Watches and upgrades count until they have begun.
use crate::{identity::caller::Caller, settings::agent};
use http::{HeaderMap, header};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// For each client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that are answered at a time; 0: no limit.
    pub requests: usize,
    /// Requests that wait.
    pub queued: usize,
    /// How long one waits.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { requests: 64, queued: 256, wait: Duration::from_secs(15) }
    }
}

/// Clients with the credentials of the node that have limits of their own.
const AGENTS: [&str; 2] = ["kubelet", "kube-proxy"];

/// Whose requests are counted together. What a client makes up is no part of it: a new User-Agent or a new token gets no limit of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    Agent(&'static str),
    /// All others with the credentials of the node.
    Node,
    /// A user whose token the API server has accepted.
    User(String),
    /// All others with a token.
    Unknown,
    /// Other hubs of the node pool.
    Peers,
}

impl Client {
    /// `user`: whose token it is, where that is known.
    pub fn of(caller: &Caller, user: Option<String>, headers: &HeaderMap) -> Client {
        match (caller, user) {
            (Caller::Token(_), Some(user)) => Client::User(user),
            (Caller::Token(_), None) => Client::Unknown,
            (Caller::Node, _) => {
                let name = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(agent).unwrap_or_default();
                AGENTS.into_iter().find(|agent| *agent == name).map_or(Client::Node, Client::Agent)
            }
        }
    }

    /// For metrics: one of a few.
    pub fn class(&self) -> &'static str {
        match self {
            Client::Agent(name) => name,
            Client::Node => "node",
            Client::User(_) => "token",
            Client::Unknown => "unknown",
            Client::Peers => "peers",
        }
    }
}

/// Too many requests of the client wait, or this one has waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of this client at a time, please try again later")]
pub struct Busy;

pub struct InFlight {
    limits: Limits,
    flows: Mutex<HashMap<Client, Flow>>,
    /// By class.
    rejected: Mutex<BTreeMap<&'static str, u64>>,
}

struct Flow {
    permits: Arc<Semaphore>,
    /// Requests that are answered, and those that wait.
    requests: usize,
}

/// Of a class of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub in_flight: usize,
    pub queued: usize,
    pub rejected: u64,
}

impl InFlight {
    pub fn new(limits: Limits) -> Arc<InFlight> {
        Arc::new(InFlight { limits, flows: Mutex::default(), rejected: Mutex::default() })
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Client, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may be answered. It counts until the permit is dropped.
    pub async fn acquire(self: &Arc<InFlight>, client: Client) -> Result<Permit, Busy> {
        if self.limits.requests == 0 {
            return Ok(Permit { _place: None, _permit: None });
        }
        let (place, permits) = self.join(&client).ok_or_else(|| self.reject(&client))?;
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match timeout(self.limits.wait, permits.acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                _ => return Err(self.reject(&client)),
            },
        };
        Ok(Permit { _permit: Some(permit), _place: Some(place) })
    }

    fn join(self: &Arc<InFlight>, client: &Client) -> Option<(Place, Arc<Semaphore>)> {
        let mut flows = self.flows();
        let new = || Flow { permits: Arc::new(Semaphore::new(self.limits.requests)), requests: 0 };
        let flow = flows.entry(client.clone()).or_insert_with(new);
        if flow.requests >= self.limits.requests + self.limits.queued {
            return None;
        }
        flow.requests += 1;
        Some((Place { of: self.clone(), client: client.clone() }, flow.permits.clone()))
    }

    fn reject(&self, client: &Client) -> Busy {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(client.class()).or_default() += 1;
        Busy
    }

    /// By class.
    pub fn counts(&self) -> BTreeMap<&'static str, Count> {
        let mut all: BTreeMap<&'static str, Count> = BTreeMap::new();
        for (client, flow) in self.flows().iter() {
            let count = all.entry(client.class()).or_default();
            let in_flight = self.limits.requests - flow.permits.available_permits();
            count.in_flight += in_flight;
            count.queued += flow.requests.saturating_sub(in_flight);
        }
        for (class, rejected) in self.rejected.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            all.entry(class).or_default().rejected = *rejected;
        }
        all
    }
}

/// A request that is answered or waits.
struct Place {
    of: Arc<InFlight>,
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut flows = self.of.flows();
        if let Some(flow) = flows.get_mut(&self.client) {
            flow.requests -= 1;
            if flow.requests == 0 {
                flows.remove(&self.client);
            }
        }
    }
}

/// Held while a request is answered.
pub struct Permit {
    // Given back before the place, which may remove the semaphore.
    _permit: Option<OwnedSemaphorePermit>,
    _place: Option<Place>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_client_has_its_own_limit_and_a_queue() {
        let limits = Limits { requests: 2, queued: 1, wait: Duration::from_secs(3600) };
        let in_flight = InFlight::new(limits);
        let user = || Client::User("u".into());
        let first = in_flight.acquire(user()).await.unwrap();
        let second = in_flight.acquire(user()).await.unwrap();
        let third = tokio::spawn({
            let in_flight = in_flight.clone();
            async move { in_flight.acquire(user()).await.is_ok() }
        });
        while in_flight.counts()["token"].queued == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(in_flight.acquire(user()).await.err(), Some(Busy));
        assert!(in_flight.acquire(Client::Agent("kubelet")).await.is_ok(), "another client");
        assert_eq!(in_flight.counts()["token"], Count { in_flight: 2, queued: 1, rejected: 1 });
        drop(first);
        assert!(third.await.unwrap());
        drop(second);
        assert!(in_flight.flows().is_empty());
        // A wait that is too long, and no limit.
        let in_flight = InFlight::new(Limits { requests: 1, queued: 1, wait: Duration::ZERO });
        let _held = in_flight.acquire(Client::Node).await.unwrap();
        assert_eq!(in_flight.acquire(Client::Node).await.err(), Some(Busy));
        let in_flight = InFlight::new(Limits { requests: 0, ..limits });
        let held: Vec<_> = [in_flight.acquire(Client::Node).await, in_flight.acquire(Client::Node).await].into_iter().collect();
        assert!(held.iter().all(Result::is_ok) && in_flight.counts().is_empty());
    }

    #[test]
    fn clients_cannot_make_up_limits_of_their_own() {
        let headers = |agent: &str| HeaderMap::from_iter([(header::USER_AGENT, agent.parse().unwrap())]);
        let token = Caller::Token([0; 32]);
        let table = [
            (Caller::Node, None, "kubelet/v1.34", Client::Agent("kubelet")),
            (Caller::Node, None, "made-up/1", Client::Node),
            (token.clone(), Some("u".to_string()), "kubelet/v1.34", Client::User("u".into())),
            (token, None, "kubelet/v1.34", Client::Unknown),
        ];
        for (caller, user, agent, wanted) in table {
            assert_eq!(Client::of(&caller, user, &headers(agent)), wanted);
        }
    }
}
