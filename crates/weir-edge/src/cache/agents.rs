//! Which clients have filled a set. By that the policy for clients removes copies, and an audit knows what a component has listed.
use super::head::{Head, seconds};
use crate::{
    settings::Settings,
    store::{ObjectName, Store},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

const SET: &str = "\nagents";
/// Clients of one set that are remembered. Beyond it they count as [`OTHERS`].
const MOST: usize = 16;
/// The rule of `*` is for them.
const OTHERS: &str = "*";

pub struct Agents {
    store: Arc<Store>,
    settings: RwLock<Settings>,
    /// By the name of the set.
    all: Mutex<HashMap<String, BTreeSet<String>>>,
    /// Sets that were removed.
    pub removed: AtomicU64,
}

impl Agents {
    pub(super) fn open(store: &Arc<Store>) -> Agents {
        let kept = store.list(SET).ok().flatten();
        if kept.is_none() {
            // Where this fails, each write fails.
            let _ = store.replace(SET, &[], []);
        }
        let all = kept.into_iter().flat_map(|kept| kept.items).filter_map(|(_, bytes)| read(&bytes)).collect();
        Agents { store: store.clone(), settings: RwLock::default(), all: Mutex::new(all), removed: AtomicU64::new(0) }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<String>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether answers to a client are kept.
    pub fn keeps(&self, agent: &str) -> bool {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).rule(agent).keep
    }

    /// The clients that have filled a set.
    pub fn of(&self, set: &str) -> Vec<String> {
        self.all().get(set).into_iter().flatten().cloned().collect()
    }

    /// Whether a client has filled any set.
    pub fn knows(&self, agent: &str) -> bool {
        self.all().values().any(|agents| agents.contains(agent))
    }

    /// Takes note of a client that fills a set; whether that is news, which [`Agents::write`] writes down.
    pub(crate) fn note(&self, set: &str, agent: &str) -> bool {
        let mut all = self.all();
        match all.get_mut(set) {
            Some(agents) if agents.contains(agent) => false,
            Some(agents) => agents.insert(if agents.len() < MOST { agent } else { OTHERS }.to_string()),
            None => all.insert(set.to_string(), BTreeSet::from([agent.to_string()])).is_none(),
        }
    }

    /// Writes down which clients have filled a set. Without it the set is not removed after a restart.
    pub(super) fn write(&self, set: &str) {
        let agents = self.of(set);
        let _ = self.store.put(SET, &name(set), json!({ "set": set, "agents": agents }).to_string().as_bytes(), &[]);
    }

    /// Forgets who has filled a set that is gone.
    pub(crate) fn forget(&self, set: &str) {
        if self.all().remove(set).is_some() {
            let _ = self.store.remove(SET, &name(set), &[]);
        }
    }

    /// From now on these settings count.
    pub fn set(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Removes the sets that no client may keep any more.
    pub fn sweep(&self, now: SystemTime) {
        let all = self.all().clone();
        for (set, agents) in all {
            if !self.is_expired(&set, &agents, now) {
                continue;
            }
            if self.store.head(&set).is_some() {
                // A copy that is on its way may begin the set once more; the next sweep sees that.
                self.removed.fetch_add(u64::from(self.store.drop_set(&set).is_ok()), Relaxed);
            } else {
                self.forget(&set);
            }
        }
    }

    fn is_expired(&self, set: &str, agents: &BTreeSet<String>, now: SystemTime) -> bool {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let rules: Vec<_> = agents.iter().map(|agent| settings.rule(agent)).filter(|rule| rule.keep).collect();
        // The client that keeps it longest counts.
        let longest = rules.iter().map(|rule| rule.ttl).try_fold(None, |longest, ttl| ttl.map(|ttl| longest.max(Some(ttl))));
        match longest {
            None => false,
            Some(None) => true,
            Some(Some(ttl)) => {
                let head = self.store.head(set).and_then(|head| Head::read(&head));
                head.is_some_and(|head| head.at + ttl.as_secs() <= seconds(now))
            }
        }
    }
}

fn name(set: &str) -> ObjectName {
    let digest = Sha256::digest(set.as_bytes());
    ObjectName { namespace: String::new(), name: data_encoding::HEXLOWER.encode(&digest[..16]) }
}

fn read(bytes: &[u8]) -> Option<(String, BTreeSet<String>)> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let agents = value["agents"].as_array()?.iter().filter_map(|agent| agent.as_str().map(str::to_string));
    Some((value["set"].as_str()?.to_string(), agents.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        settings::{AgentRule, File},
        store::Options,
    };
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn sets_go_when_no_client_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Store::open(folder.path(), Options::default()).unwrap());
        let store = open();
        let agents = Agents::open(&store);
        let filled: [(&str, &[&str]); 4] = [("a", &["x"]), ("b", &["x", "y"]), ("c", &["z"]), ("d", &[])];
        for (set, by) in filled {
            store.replace(set, &Head::of_objects(100).to_bytes(), []).unwrap();
            for agent in by {
                assert!(agents.note(set, agent) && !agents.note(set, agent));
                agents.write(set);
            }
        }
        drop((agents, store));
        // It is known after a restart.
        let store = open();
        let agents = Agents::open(&store);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let left = || store.sets().into_iter().map(|set| set.name).filter(|name| name.len() == 1).collect::<String>();
        let rule = |name: &str, keep, ttl: Option<u64>| AgentRule { name: name.into(), keep, ttl: ttl.map(Duration::from_secs) };
        let table: [(Vec<AgentRule>, u64, &str); 5] = [
            (vec![], 10_000, "abcd"),
            (vec![rule("z", true, Some(60))], 159, "abcd"),
            (vec![rule("z", true, Some(60))], 160, "abd"),
            (vec![rule("x", false, None)], 160, "bd"),
            (vec![rule("*", false, None)], 160, "d"),
        ];
        for (rules, now, wanted) in table {
            agents.set(Settings { file: File { agents: rules.clone(), ..File::default() }, ..Settings::default() });
            agents.sweep(at(now));
            agents.sweep(at(now));
            assert_eq!(left(), wanted, "{rules:?}");
        }
        assert!(agents.all().is_empty() && agents.removed.load(Relaxed) == 3);
        // Names that a client makes up are bounded.
        for i in 0..100 {
            agents.note("e", &format!("agent-{i}"));
        }
        assert_eq!(agents.of("e").len(), MOST + 1);
        assert!(agents.knows(OTHERS) && !agents.knows("agent-99"));
    }
}
