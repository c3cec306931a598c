//! What the API server holds of one kind, as far as its watch has told: events in, changes of objects out.
use super::fetched::{Observed, Read};
use crate::{
    object::{Key, Object},
    source::files::Changes,
};
use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};
use weir_config::diagnostic::Diagnostic;

/// An event of a watch, with the object decoded.
#[derive(Debug)]
pub enum Event {
    /// A new list begins.
    Init,
    /// An object of the list.
    InitApply(Read),
    /// The list is complete: what it did not name is gone.
    InitDone,
    Apply(Read),
    Delete(Key),
}

#[derive(Debug, Default)]
struct Entry {
    /// `None` for one in error that never had a good version.
    object: Option<Arc<Object>>,
    findings: Box<[Diagnostic]>,
    observed: Option<Box<Observed>>,
}

#[derive(Debug, Default)]
pub struct Held {
    entries: HashMap<Key, Entry>,
    /// Few, among many.
    with_findings: BTreeSet<Key>,
    /// A list that is not complete yet. Nothing follows from it.
    listing: Option<HashMap<Key, Entry>>,
    synced: bool,
}

impl Held {
    /// Whether a list was complete at least once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.entries.values().filter_map(|entry| entry.object.as_ref())
    }
    pub fn count(&self) -> usize {
        self.entries.len()
    }
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.entries.get(key)?.object.as_ref()
    }
    /// What was found when the version of an object that the server has was read.
    pub fn findings(&self, key: &Key) -> &[Diagnostic] {
        self.entries.get(key).map(|entry| &*entry.findings).unwrap_or_default()
    }

    pub fn holds(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// The status that an object has on the server.
    pub fn observed(&self, key: &Key) -> Option<&Observed> {
        self.entries.get(key)?.observed.as_deref()
    }
    pub fn observe(&mut self, key: &Key, observed: Observed) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.observed = Some(Box::new(observed));
        }
    }

    /// Adds to `found` the objects whose findings may be others now.
    pub fn take(&mut self, event: Event, changes: &mut Changes, found: &mut BTreeSet<Key>) {
        match event {
            Event::Init => self.listing = Some(HashMap::with_capacity(self.entries.len())),
            Event::InitApply(read) => {
                let (key, entry) = self.entry(read);
                if let Some(listing) = &mut self.listing {
                    listing.insert(key, entry);
                }
            }
            Event::InitDone => {
                found.extend(self.with_findings.iter().cloned());
                self.replace(changes);
                found.extend(self.with_findings.iter().cloned());
            }
            Event::Apply(read) => {
                let (key, entry) = self.entry(read);
                let object = entry.object.clone();
                let has_findings = !entry.findings.is_empty();
                if has_findings || self.with_findings.contains(&key) {
                    found.insert(key.clone());
                }
                match has_findings {
                    true => _ = self.with_findings.insert(key.clone()),
                    false => _ = self.with_findings.remove(&key),
                }
                let old = self.entries.insert(key.clone(), entry);
                note(key, old.and_then(|e| e.object), object, changes);
            }
            Event::Delete(key) => {
                found.extend(self.with_findings.take(&key));
                if self.entries.remove(&key).is_some_and(|e| e.object.is_some()) {
                    changes.push((key, None));
                }
            }
        }
    }

    fn replace(&mut self, changes: &mut Changes) {
        let Some(mut listing) = self.listing.take() else { return };
        listing.shrink_to_fit();
        let mut old = mem::replace(&mut self.entries, listing);
        for (key, entry) in &self.entries {
            note(key.clone(), old.remove(key).and_then(|e| e.object), entry.object.clone(), changes);
        }
        changes.extend(old.into_iter().filter(|(_, e)| e.object.is_some()).map(|(key, _)| (key, None)));
        self.with_findings = self.entries.iter().filter(|(_, e)| !e.findings.is_empty()).map(|(key, _)| key.clone()).collect();
        self.synced = true;
    }

    /// What to hold of an object: itself; in error its last good version, or else what stands in for it. What says the same as
    /// before is what it was before.
    fn entry(&self, read: Read) -> (Key, Entry) {
        let Read { key, object, broken, findings, observed } = read;
        let before = self.get(&key);
        let kept = match (&object, before) {
            (_, Some(before)) if broken && !before.is_stand_in() => Some(before.clone()),
            (Some(new), Some(before)) if new.says_the_same(before) => Some(before.clone()),
            _ => object,
        };
        (key, Entry { object: kept, findings: findings.into(), observed: observed.map(Box::new) })
    }
}

fn note(key: Key, old: Option<Arc<Object>>, new: Option<Arc<Object>>, changes: &mut Changes) {
    let same = match (&old, &new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    };
    if !same {
        changes.push((key, new));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        api::gateway_api::CONTROLLER,
        kubernetes::fetched::{Fetched, Reader},
        object::{Kind, Spec},
    };

    /// A Service with a port, or a broken one without a port number.
    fn service(name: &str, port: u16) -> Read {
        let port = if port == 0 { "\"x\"".to_string() } else { port.to_string() };
        let text =
            format!(r#"{{"metadata":{{"name":"{name}","namespace":"d","resourceVersion":"1"}},"spec":{{"ports":[{{"port":{port}}}]}}}}"#);
        Reader::new(CONTROLLER.into()).read(Kind::Service.info(), serde_json::from_str::<Fetched>(&text).unwrap())
    }

    fn shown(changes: Changes) -> Vec<String> {
        let one = |(key, object): (Key, Option<Arc<Object>>)| match object.map(|o| o.spec.clone()) {
            Some(Spec::Service(s)) => format!("{}={}", key.name, s.ports[0].port),
            _ => format!("-{}", key.name),
        };
        let mut all: Vec<String> = changes.into_iter().map(one).collect();
        all.sort();
        all
    }

    #[test]
    fn events_become_changes() {
        use Event::*;
        let key = |name| Key::new(Kind::Service, "d", name);
        let (mut held, mut told) = (Held::default(), BTreeSet::new());
        // Each event with the changes that it makes, and whether the kind is synced after it.
        let steps: Vec<(Event, &[&str], bool)> = vec![
            (Init, &[], false),
            (InitApply(service("a", 1)), &[], false),
            (InitApply(service("b", 1)), &[], false),
            // The watch broke: what came of the list counts for nothing.
            (Init, &[], false),
            (InitApply(service("b", 1)), &[], false),
            (InitApply(service("c", 1)), &[], false),
            (InitDone, &["b=1", "c=1"], true),
            (Apply(service("a", 1)), &["a=1"], true),
            (Apply(service("a", 1)), &[], true),
            (Apply(service("a", 2)), &["a=2"], true),
            // In error: the last good version goes on.
            (Apply(service("a", 0)), &[], true),
            (Apply(service("e", 0)), &[], true),
            (Delete(key("b")), &["-b"], true),
            (Delete(key("b")), &[], true),
            // A new list, after a 410: nothing is gone before it is complete.
            (Init, &[], true),
            (InitApply(service("a", 0)), &[], true),
            (InitApply(service("d", 4)), &[], true),
            (InitDone, &["-c", "d=4"], true),
            (Apply(service("a", 3)), &["a=3"], true),
            (Delete(key("e")), &[], true),
            (Init, &[], true),
            (InitDone, &["-a", "-d"], true),
        ];
        for (n, (event, want, synced)) in steps.into_iter().enumerate() {
            let (mut changes, mut found) = (Changes::new(), BTreeSet::new());
            held.take(event, &mut changes, &mut found);
            assert_eq!((shown(changes), held.is_synced()), (want.iter().map(|w| w.to_string()).collect(), synced), "step {n}");
            // Only those that are in error, or were.
            for key in found {
                match held.findings(&key) {
                    [] => assert!(told.remove(&key), "step {n}: {key}"),
                    _ => _ = told.insert(key),
                }
            }
        }
        assert_eq!((held.objects().count(), told.len()), (0, 0));
    }
}
