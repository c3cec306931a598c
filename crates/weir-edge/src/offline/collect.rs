//! Collection by ownership: copies that belonged to pods which are gone, and those of clients which are gone. Who needs a copy is judged
//! only by a list of the node's pods that is whole and followed by a watch.
mod pods;

use crate::{
    cache::{Cache, NON_RESOURCE, agents::Agents, key::SetKey},
    offline::replies::{Key, Replies},
    store::ObjectName,
};
use pods::Pods;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What kubelet reads one by one for its pods.
const OF_PODS: [&str; 3] = ["secrets.v1", "configmaps.v1", "pods.v1"];
const KUBELET: &str = "kubelet";

/// A copy that can be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Copy {
    Object {
        set: String,
        name: ObjectName,
    },
    Set(String),
    /// A service account token that kubelet asked for.
    Token(Key),
    /// Whose token it is, by its digest.
    User([u8; 32]),
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Stats {
    pub objects: AtomicU64,
    pub lists: AtomicU64,
    pub tokens: AtomicU64,
    /// Copies that nobody needs, and whose grace period is not over.
    pub waiting: AtomicUsize,
    /// Whether the pods of the node were known at the last look.
    pub known: AtomicBool,
}

/// Copies that nobody needs, and since when.
#[derive(Debug, Default)]
struct Unneeded(BTreeMap<Copy, Instant>);

impl Unneeded {
    /// Takes note of what nobody needs now. Returns what nobody has needed for the grace period.
    fn due(&mut self, unneeded: BTreeSet<Copy>, grace: Duration, now: Instant) -> Vec<Copy> {
        self.0.retain(|copy, _| unneeded.contains(copy));
        for copy in unneeded {
            self.0.entry(copy).or_insert(now);
        }
        self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= grace).map(|(copy, _)| copy.clone()).collect()
    }
}

pub struct Collector {
    /// How long a copy stays after its last owner; zero: for good.
    pub grace: Duration,
    pub stats: Stats,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unneeded: Unneeded,
    /// Something was removed that is perhaps still in the log.
    removed: bool,
    cleaned: Option<Instant>,
}

impl Collector {
    pub fn new(grace: Duration) -> Collector {
        Collector { grace, stats: Stats::default(), state: Mutex::default() }
    }

    /// One look. The API server can be reached; `node`: the name of the node, `now`: the same moment by both clocks.
    pub fn sweep(&self, cache: &Cache, replies: &Replies, node: &str, (now, seconds): (Instant, u64)) {
        let pods = Pods::read(cache, node);
        self.stats.known.store(pods.is_some(), Relaxed);
        let Some(pods) = pods else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.unneeded.due(unneeded(cache, replies, &pods, seconds), self.grace, now);
        state.removed |= !due.is_empty();
        for copy in due {
            if self.remove(cache, replies, &copy) {
                state.unneeded.0.remove(&copy);
            }
        }
        self.stats.waiting.store(state.unneeded.0.len(), Relaxed);
        // Rewriting the log costs writes: once per grace period is enough.
        let rested = state.cleaned.is_none_or(|at| now.saturating_duration_since(at) >= self.grace);
        if state.removed && rested && cache.wrote(cache.store.purge()) {
            (state.removed, state.cleaned) = (false, Some(now));
        }
    }

    fn remove(&self, cache: &Cache, replies: &Replies, copy: &Copy) -> bool {
        let (removed, counter) = match copy {
            Copy::Object { set, name } => {
                let Some(head) = cache.store.head(set) else { return true };
                (cache.wrote(cache.store.remove(set, name, &head)), &self.stats.objects)
            }
            Copy::Set(set) => (drop_set(cache, set), &self.stats.lists),
            Copy::Token(key) => (replies.forget(key), &self.stats.tokens),
            Copy::User(digest) => return cache.forget(digest),
        };
        counter.fetch_add(u64::from(removed), Relaxed);
        removed
    }
}

fn drop_set(cache: &Cache, set: &str) -> bool {
    let dropped = cache.wrote(cache.store.drop_set(set));
    if dropped {
        cache.agents.forget(set);
    }
    dropped
}

/// All copies that nobody needs.
fn unneeded(cache: &Cache, replies: &Replies, pods: &Pods, now: u64) -> BTreeSet<Copy> {
    let sets: Vec<(String, SetKey)> = cache
        .store
        .sets()
        .into_iter()
        .filter_map(|set| Some((SetKey::read(&set.name)?, set.name)))
        .map(|(key, name)| (name, key))
        .collect();
    let mut found = BTreeSet::new();
    for (set, key) in sets.iter().filter(|(_, key)| key.user == cache.node() && OF_PODS.contains(&key.resource.as_str())) {
        if !is_of_kubelet(&cache.agents, set) {
            continue;
        }
        match &key.selected {
            None => {
                let names = cache.store.names(set);
                if names.is_empty() {
                    found.insert(Copy::Set(set.clone()));
                }
                let gone = names.into_iter().filter(|name| !pods.need(&key.resource, &name.namespace, &name.name));
                found.extend(gone.map(|name| Copy::Object { set: set.clone(), name }));
            }
            // kubelet follows a single Secret or ConfigMap by its name.
            Some(selectors) if selectors.labels.is_empty() => {
                let name = selectors.fields.strip_prefix("metadata.name=").filter(|name| !name.contains(','));
                if name.is_some_and(|name| !pods.need(&key.resource, &key.namespace, name)) {
                    found.insert(Copy::Set(set.clone()));
                }
            }
            Some(_) => {}
        }
    }
    let tokens = replies.account_tokens().into_iter().filter(|(_, token)| token.expires <= now || pods.is_gone(&token.pod_uid));
    found.extend(tokens.map(|(key, _)| Copy::Token(key)));
    found.extend(of_users(cache, &sets, pods, now));
    found
}

/// Copies of users all of whose tokens have expired, or are bound to pods that are gone.
fn of_users(cache: &Cache, sets: &[(String, SetKey)], pods: &Pods, now: u64) -> Vec<Copy> {
    let tokens = cache.tokens();
    let mut lives: HashMap<&str, bool> = HashMap::new();
    for (_, user) in &tokens {
        *lives.entry(user.name.as_str()).or_default() |= user.is_valid(now) && !pods.is_gone(&user.pod);
    }
    let gone: HashSet<&str> = lives.iter().filter(|(_, lives)| !**lives).map(|(user, _)| *user).collect();
    let mut found: Vec<Copy> =
        sets.iter().filter(|(_, key)| gone.contains(key.user.as_str())).map(|(set, _)| Copy::Set(set.clone())).collect();
    let documents: HashSet<String> = gone.iter().map(|user| Cache::documents_of(user)).collect();
    let names = cache.store.names(NON_RESOURCE).into_iter().filter(|name| documents.contains(&name.namespace));
    found.extend(names.map(|name| Copy::Object { set: NON_RESOURCE.into(), name }));
    // Whose a token is has to be known as long as there is something of that user.
    let holds = |user: &str| sets.iter().any(|(_, key)| key.user == user) || found.iter().any(|copy| is_document_of(copy, user));
    let dead = tokens.iter().filter(|(_, user)| !user.is_valid(now) || pods.is_gone(&user.pod));
    let forgotten: Vec<Copy> =
        dead.filter(|(_, user)| !gone.contains(user.name.as_str()) || !holds(&user.name)).map(|(d, _)| Copy::User(*d)).collect();
    found.extend(forgotten);
    found
}

fn is_document_of(copy: &Copy, user: &str) -> bool {
    matches!(copy, Copy::Object { set, name } if set == NON_RESOURCE && name.namespace == Cache::documents_of(user))
}

/// What others have read with the certificate of the node does not belong to pods.
fn is_of_kubelet(agents: &Agents, set: &str) -> bool {
    let agents = agents.of(set);
    !agents.is_empty() && agents.iter().all(|agent| agent == KUBELET)
}

#[cfg(test)]
mod tests;
