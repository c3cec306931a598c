//! What the tasks that follow registries and the control plane share: the services of each registry, which of them changed and were not
//! taken yet, and how the connection is.
use super::{
    Limits,
    service::{self, Instance, Service},
    stats::{self, Sample},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};
use weir_config::model::Name;

/// Hosts of which it is known that something was left out.
const MAX_REFUSED: usize = 20_000;
/// A host longer than this is left out.
const MAX_HOST: usize = 400;

/// Called when there is something to take.
pub type Wake = Box<dyn Fn() + Send + Sync>;
type Refuses = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// One connection to a registry, for as long as its configuration stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

pub struct Shared {
    state: Mutex<State>,
    wake: Wake,
    refuses: Refuses,
    limits: Limits,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<Slot, Followed>,
    woken: bool,
    /// There was a first configuration.
    configured: bool,
}

struct Followed {
    name: Name,
    /// For messages.
    title: String,
    opened: Instant,
    services: BTreeMap<Name, Service>,
    /// Those that the registry listed since the connection was made.
    seen: BTreeSet<Name>,
    changed: BTreeSet<Name>,
    health: Health,
    errors: u64,
    refused: u64,
    /// For each host, so that repeated reports count once.
    refused_by: HashMap<Name, usize>,
    last_contact: Option<Instant>,
}

/// A registry that the first configuration waits for.
#[derive(Debug)]
pub struct Waiting {
    /// `the registry NAME (TYPE) at HOST:PORT`
    pub registry: String,
    pub since: Duration,
}

/// How a registry is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// All that it has was read at least once.
    pub synced: bool,
    pub connected: bool,
    /// Why it is not connected.
    pub error: Option<String>,
    /// Services that were left out because there are too many.
    pub too_many: bool,
}

impl Health {
    /// There is something to serve, or no use in waiting for it.
    pub fn is_settled(&self) -> bool {
        self.synced || self.error.is_some()
    }
}

/// A service that changed; `None`: it is gone.
pub type Change = (Slot, Name, Option<Service>);

impl Shared {
    pub fn new(wake: Wake, refuses: Refuses, limits: Limits) -> Shared {
        Shared { state: Mutex::default(), wake, refuses, limits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, state: &mut State) {
        if !std::mem::replace(&mut state.woken, true) {
            (self.wake)();
        }
    }

    /// `title` is for messages.
    pub fn open(self: &Arc<Shared>, slot: Slot, name: Name, title: String, services: BTreeMap<Name, Service>) -> Sink {
        let followed = Followed {
            name,
            title,
            opened: Instant::now(),
            services,
            seen: BTreeSet::new(),
            changed: BTreeSet::new(),
            health: Health::default(),
            errors: 0,
            refused: 0,
            refused_by: HashMap::new(),
            last_contact: None,
        };
        self.state().slots.insert(slot, followed);
        Sink { shared: self.clone(), slot }
    }

    /// Forgets a slot; returns its services, for the one that takes its place.
    pub fn close(&self, slot: Slot) -> BTreeMap<Name, Service> {
        self.state().slots.remove(&slot).map(|followed| followed.services).unwrap_or_default()
    }

    /// What changed since the last time.
    pub fn take(&self) -> Vec<Change> {
        let mut state = self.state();
        state.woken = false;
        let mut all = Vec::new();
        for (slot, followed) in &mut state.slots {
            for host in std::mem::take(&mut followed.changed) {
                let service = followed.services.get(&host).cloned();
                all.push((*slot, host, service));
            }
        }
        all
    }

    pub fn end_waiting(&self) {
        self.state().configured = true;
    }

    /// What the first configuration waits for.
    fn waiting(&self) -> Vec<Waiting> {
        let state = self.state();
        let waits = state.slots.values().filter(|followed| !state.configured && !followed.health.is_settled());
        waits.map(|followed| Waiting { registry: followed.title.clone(), since: followed.opened.elapsed() }).collect()
    }

    pub fn health(&self, slot: Slot) -> Health {
        self.state().slots.get(&slot).map(|followed| followed.health.clone()).unwrap_or_default()
    }

    pub fn samples(&self) -> Vec<Sample> {
        let state = self.state();
        let mut all = Vec::new();
        for followed in state.slots.values() {
            let age = followed.last_contact.filter(|_| !followed.health.connected).map_or(0, |at| at.elapsed().as_secs());
            let endpoints: usize = followed.services.values().map(|service| service.endpoints.len()).sum();
            for (stat, value) in [
                (&stats::CONNECTED, u64::from(followed.health.connected)),
                (&stats::SYNCED, followed.health.synced.into()),
                (&stats::AGE, age),
                (&stats::SERVICES, followed.services.len() as u64),
                (&stats::ENDPOINTS, endpoints as u64),
                (&stats::ERRORS, followed.errors),
                (&stats::REFUSED, followed.refused),
            ] {
                all.push(Sample { stat, registry: followed.name.to_string(), value });
            }
        }
        all
    }
}

/// The way to the statistics, and to what is waited for, from outside of the control plane.
#[derive(Clone, Default)]
pub struct Stats(Arc<OnceLock<Weak<Shared>>>);

impl Stats {
    pub(super) fn set(&self, shared: &Arc<Shared>) {
        // There is one control plane.
        let _ = self.0.set(Arc::downgrade(shared));
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.0.get().and_then(Weak::upgrade).map(|shared| shared.samples()).unwrap_or_default()
    }

    pub fn waiting(&self) -> Vec<Waiting> {
        self.0.get().and_then(Weak::upgrade).map(|shared| shared.waiting()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stats")
    }
}

/// Where the task that follows a registry puts what it learns.
pub struct Sink {
    shared: Arc<Shared>,
    slot: Slot,
}

impl Sink {
    fn edit(&self, edit: impl FnOnce(&mut Followed, &Shared)) {
        let mut state = self.shared.state();
        let Some(followed) = state.slots.get_mut(&self.slot) else { return };
        let before = (followed.health.clone(), followed.changed.len());
        followed.last_contact = followed.last_contact.or(Some(Instant::now()));
        edit(followed, &self.shared);
        if before != (followed.health.clone(), followed.changed.len()) {
            self.shared.wake(&mut state);
        }
    }

    /// A connection was made: what was known stays until [`Sink::complete`].
    pub fn begin(&self) {
        self.edit(|followed, _| followed.seen.clear());
    }

    /// The instances of a service as of now.
    pub fn put(&self, host: &str, instances: Vec<Instance>) {
        let host: Name = host.to_ascii_lowercase().into();
        self.edit(|followed, shared| {
            let before = followed.services.get(&host);
            if host.len() > MAX_HOST || (before.is_none() && followed.services.len() >= shared.limits.services) {
                followed.health.too_many |= host.len() <= MAX_HOST;
                followed.refused += u64::from(followed.refused_by.insert(host, 1).is_none());
                if followed.refused_by.len() > MAX_REFUSED {
                    followed.refused_by.clear();
                }
                return;
            }
            let (made, refused) = service::service(instances, before, &shared.refuses, shared.limits.endpoints);
            let known = if refused == 0 {
                followed.refused_by.remove(&host).unwrap_or(0)
            } else {
                followed.refused_by.insert(host.clone(), refused).unwrap_or(0)
            };
            followed.refused += refused.saturating_sub(known) as u64;
            followed.seen.insert(host.clone());
            if let Some(made) = made
                && before != Some(&made)
            {
                followed.services.insert(host.clone(), made);
                followed.changed.insert(host);
            }
        });
    }

    /// The registry has this service no more.
    pub fn remove(&self, host: &str) {
        let host: Name = host.to_ascii_lowercase().into();
        self.edit(|followed, _| {
            followed.seen.remove(&host);
            if followed.services.remove(&host).is_some() {
                followed.changed.insert(host);
            }
        });
    }

    /// Every service was put since [`Sink::begin`]: others are gone.
    pub fn complete(&self) {
        self.edit(|followed, _| {
            let gone: Vec<Name> = followed.services.keys().filter(|host| !followed.seen.contains(*host)).cloned().collect();
            for host in gone {
                followed.services.remove(&host);
                followed.changed.insert(host);
            }
            (followed.health.synced, followed.health.connected, followed.health.error) = (true, true, None);
        });
    }

    pub fn failed(&self, why: String) {
        self.edit(|followed, _| {
            followed.errors += 1;
            if std::mem::replace(&mut followed.health.connected, false) {
                followed.last_contact = Some(Instant::now());
            }
            followed.health.error = Some(why);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::labels::Labels;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    fn one(address: &str) -> Vec<Instance> {
        vec![Instance { address: address.into(), port: 80, weight: 1.0, metadata: Labels::new() }]
    }

    #[test]
    fn what_is_known_stays_until_a_complete_reading_says_otherwise() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let shared = Arc::new(Shared::new(Box::new(move || _ = count.fetch_add(1, Relaxed)), Box::new(|_| false), Limits::default()));
        let sink = shared.open(Slot(1), "r".into(), String::new(), BTreeMap::new());
        let taken = || {
            let all = shared.take().into_iter();
            all.map(|(_, host, service)| format!("{host}={}", service.map_or(0, |s| s.endpoints.len()))).collect::<Vec<_>>().join(" ")
        };
        sink.begin();
        sink.put("A", one("10.0.0.1"));
        sink.put("b", one("10.0.0.2"));
        sink.complete();
        assert_eq!((taken().as_str(), woken.load(Relaxed)), ("a=1 b=1", 1));
        assert!(shared.health(Slot(1)).synced);
        // Equal ones wake nobody.
        sink.put("a", one("10.0.0.1"));
        assert_eq!((taken().as_str(), woken.load(Relaxed)), ("", 1));
        sink.failed("gone".into());
        assert_eq!((taken().as_str(), woken.load(Relaxed)), ("", 2));
        assert_eq!(shared.health(Slot(1)), Health { synced: true, connected: false, error: Some("gone".into()), too_many: false });
        // The same error again is no news.
        sink.failed("gone".into());
        assert_eq!(woken.load(Relaxed), 2);
        sink.begin();
        sink.put("a", one("10.0.0.3"));
        assert_eq!(taken(), "a=1", "b stays while the registry is read again");
        sink.complete();
        assert_eq!(taken(), "b=0");
        sink.put("a", Vec::new());
        assert_eq!(taken(), "a=0");
        sink.remove("a");
        assert_eq!(taken(), "a=0");
        let errors = shared.samples().into_iter().find(|s| std::ptr::eq(s.stat, &stats::ERRORS)).unwrap();
        assert_eq!((errors.value, errors.registry.as_str()), (2, "r"));
        // A slot that is closed takes nothing any more.
        shared.close(Slot(1));
        sink.put("c", one("10.0.0.1"));
        assert_eq!(taken(), "");
    }

    #[test]
    fn services_are_bounded() {
        let limits = Limits { services: 20, ..Limits::default() };
        let shared = Arc::new(Shared::new(Box::new(|| {}), Box::new(|_| false), limits));
        let sink = shared.open(Slot(1), "r".into(), String::new(), BTreeMap::new());
        for n in 0..23 {
            sink.put(&format!("s{n}"), one("10.0.0.1"));
        }
        sink.put(&"x".repeat(MAX_HOST + 1), one("10.0.0.1"));
        assert_eq!(shared.take().len(), 20);
        assert!(shared.health(Slot(1)).too_many);
        assert_eq!(shared.samples().iter().find(|s| std::ptr::eq(s.stat, &stats::REFUSED)).unwrap().value, 4);
    }
}
