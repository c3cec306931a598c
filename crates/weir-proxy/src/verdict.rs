//! What the proxy says of the resources that it was given. A resource without a standing verdict is live as it was given, and nothing
//! is to be said of it: what is kept grows with what is wrong, not with the configuration.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::Notify;
use weir_config::{
    delta::{Id, ResourceKind, State, Verdict, VerdictChanges},
    diagnostic::{Diagnostic, Severity},
    model::Name,
};

/// Changes that a reader may leave unread before it gets all standing verdicts instead.
const MAX_UNREAD: usize = 10_000;

/// Findings that say what a resource waits for; with any other error it is refused.
const WAITS: [&str; 3] = ["ListenFailed", "SecretNotFound", "NameNotResolved"];

/// The standing verdicts: of resources that are not live, or that something is to be said of.
#[derive(Default)]
pub struct Verdicts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    standing: BTreeMap<Id, Arc<Verdict>>,
    errors: usize,
    /// The newest revision that was taken over.
    revision: u64,
    readers: Vec<Weak<Unread>>,
}

#[derive(Default)]
struct Unread {
    changed: Mutex<Changed>,
    notify: Notify,
}

enum Changed {
    Some(BTreeSet<Id>),
    /// Too many to name.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Changed::Some(BTreeSet::new())
    }
}

/// The changes of verdicts. Several changes of one verdict are read as one: the newest.
pub struct VerdictStream {
    verdicts: Arc<Verdicts>,
    unread: Arc<Unread>,
}

/// The state that goes with findings; `waits`: there is more to wait for than they say.
pub(crate) fn state_of(findings: &[Diagnostic], waits: bool) -> State {
    let mut errors = findings.iter().filter(|d| d.severity == Severity::Error);
    if errors.clone().any(|d| !WAITS.contains(&d.reason)) {
        return State::Refused;
    }
    let unmet = errors.next().is_some() || findings.iter().any(|d| WAITS.contains(&d.reason));
    if waits || unmet { State::Warming } else { State::Live }
}

fn errors(verdict: &Verdict) -> usize {
    verdict.findings.iter().filter(|d| d.severity == Severity::Error).count()
}

impl Verdicts {
    /// Takes the place of the verdict before. One that is live, with nothing to say, clears it.
    pub(crate) fn set(&self, verdict: Verdict) {
        if verdict.state == State::Live && verdict.findings.is_empty() {
            return self.clear(&verdict.id);
        }
        let mut inner = self.lock();
        let before = inner.standing.get(&verdict.id);
        if before.is_some_and(|b| **b == verdict) {
            return;
        }
        inner.errors = inner.errors + errors(&verdict) - before.map_or(0, |b| errors(b));
        inner.tell(Some(&verdict.id));
        inner.standing.insert(verdict.id.clone(), Arc::new(verdict));
    }

    /// Nothing is to be said of a resource any more: it is live, or gone.
    pub(crate) fn clear(&self, id: &Id) {
        let mut inner = self.lock();
        if let Some(before) = inner.standing.remove(id) {
            inner.errors -= errors(&before);
            inner.tell(Some(id));
        }
    }

    /// Workers serve by all of this revision that is live.
    pub(crate) fn taken_over(&self, revision: u64) {
        let mut inner = self.lock();
        if inner.revision < revision {
            inner.revision = revision;
            inner.tell(None);
        }
    }

    /// All of them, in the order of their ids.
    pub fn standing(&self) -> Vec<Arc<Verdict>> {
        self.lock().standing.values().cloned().collect()
    }

    /// Those of one kind, in the order of their names.
    pub fn of_kind(&self, kind: ResourceKind) -> Vec<Arc<Verdict>> {
        let first = Id::new(kind, Name::default());
        self.lock().standing.range(first..).take_while(|(id, _)| id.kind == kind).map(|(_, v)| v.clone()).collect()
    }

    /// `None`: the resource is live, or there is none.
    pub fn get(&self, id: &Id) -> Option<Arc<Verdict>> {
        self.lock().standing.get(id).cloned()
    }

    /// Errors in all of them.
    pub fn errors(&self) -> usize {
        self.lock().errors
    }

    /// From now on; the first item is all that stands now.
    pub fn stream(self: &Arc<Verdicts>) -> VerdictStream {
        let unread = Arc::new(Unread { changed: Mutex::new(Changed::All), notify: Notify::new() });
        unread.notify.notify_one();
        let mut inner = self.lock();
        inner.readers.retain(|r| r.strong_count() > 0);
        inner.readers.push(Arc::downgrade(&unread));
        VerdictStream { verdicts: self.clone(), unread }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&self, id: Option<&Id>) {
        for reader in self.readers.iter().filter_map(Weak::upgrade) {
            let mut changed = reader.changed.lock().unwrap_or_else(PoisonError::into_inner);
            if let Changed::Some(ids) = &mut *changed {
                ids.extend(id.cloned());
                if ids.len() > MAX_UNREAD {
                    *changed = Changed::All;
                }
            }
            reader.notify.notify_one();
        }
    }
}

impl VerdictStream {
    /// Waits for changes.
    pub async fn next(&mut self) -> VerdictChanges {
        self.unread.notify.notified().await;
        self.unread()
    }

    /// What changed so far, which may be nothing.
    pub fn unread(&mut self) -> VerdictChanges {
        let inner = self.verdicts.lock();
        let changed = std::mem::take(&mut *self.unread.changed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut changes = VerdictChanges { revision: inner.revision, ..VerdictChanges::default() };
        let Changed::Some(ids) = changed else {
            return VerdictChanges { whole: true, verdicts: inner.standing.values().cloned().collect(), ..changes };
        };
        for id in ids {
            match inner.standing.get(&id) {
                Some(verdict) => changes.verdicts.push(verdict.clone()),
                None => changes.cleared.push(id),
            }
        }
        changes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        Id::new(ResourceKind::Cluster, name.into())
    }
    fn stream_revision(verdicts: &Arc<Verdicts>) -> u64 {
        verdicts.stream().unread().revision
    }
    fn verdict(name: &str, findings: Vec<Diagnostic>) -> Verdict {
        Verdict { id: id(name), revision: 1, state: state_of(&findings, false), findings }
    }

    #[test]
    fn findings_decide_over_the_state() {
        let (refused, waits) = (Diagnostic::error("InvalidTls", ""), Diagnostic::error("SecretNotFound", ""));
        let (warning, unresolved) = (Diagnostic::warning("InsecureSkipVerify", ""), Diagnostic::warning("NameNotResolved", ""));
        let table: &[(&[&Diagnostic], State)] = &[
            (&[], State::Live),
            (&[&warning], State::Live),
            (&[&warning, &unresolved], State::Warming),
            (&[&waits], State::Warming),
            (&[&waits, &warning], State::Warming),
            (&[&waits, &refused], State::Refused),
            (&[&refused], State::Refused),
        ];
        for (findings, state) in table {
            let findings: Vec<_> = findings.iter().map(|d| (*d).clone()).collect();
            assert_eq!(state_of(&findings, false), *state, "{findings:?}");
        }
        assert_eq!(state_of(&[], true), State::Warming);
    }

    #[test]
    fn readers_get_the_newest_of_what_changed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (verdicts, error) = (Arc::new(Verdicts::default()), || vec![Diagnostic::error("InvalidTls", "no")]);
        verdicts.set(verdict("a", error()));
        let mut stream = verdicts.stream();
        let mut next = || {
            let changes = runtime.block_on(async { tokio::time::timeout(std::time::Duration::ZERO, stream.next()).await }).ok()?;
            let names = |ids: Vec<&Id>| ids.iter().map(|i| i.name.to_string()).collect::<Vec<_>>().join(" ");
            Some((changes.whole, names(changes.verdicts.iter().map(|v| &v.id).collect()), names(changes.cleared.iter().collect())))
        };
        let item = |whole, set: &str, cleared: &str| Some((whole, set.to_string(), cleared.to_string()));
        assert_eq!(next(), item(true, "a", ""));
        assert_eq!(next(), None);
        // The same again is no news; several changes of one are one.
        verdicts.set(verdict("a", error()));
        verdicts.set(verdict("live", vec![]));
        assert_eq!(next(), None);
        verdicts.set(verdict("b", error()));
        verdicts.set(verdict("b", vec![]));
        verdicts.set(verdict("c", error()));
        verdicts.set(verdict("c", vec![Diagnostic::warning("W", "")]));
        verdicts.clear(&id("a"));
        assert_eq!((verdicts.errors(), verdicts.standing().len()), (0, 1));
        assert_eq!(next(), item(false, "c", "a b"));
        assert_eq!(next(), None);
        // A revision without any verdict is news as well.
        verdicts.taken_over(2);
        assert_eq!((next(), stream_revision(&verdicts)), (item(false, "", ""), 2));
        // Who does not read gets all that stands.
        for n in 0..=MAX_UNREAD {
            verdicts.set(verdict(&format!("n{n}"), error()));
            verdicts.clear(&id(&format!("n{n}")));
        }
        assert_eq!(next(), item(true, "c", ""));
    }
}
