//! What is known of every object: its translation, the findings about it and the proxy's verdicts on what it became. Every edit names
//! the objects that it changes.
use super::{
    condition::Condition,
    findings::{Findings, Owner},
    show::{self, Found},
};
use crate::{
    dense,
    object::{Key, Kind, Object},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};
use weir_config::{
    delta::{Id, Verdict, VerdictChanges},
    diagnostic::Diagnostic,
    model::SocketProtocol,
};

/// What an observer should be shown of an object now.
#[derive(Clone, Debug)]
pub struct ObjectStatus {
    /// The version that is in use; `None` if there was never one without errors.
    pub object: Option<Arc<Object>>,
    /// `metadata.generation` of the version that the conditions are about; 0 where there is none.
    pub observed_generation: i64,
    /// False for what another controller is responsible for, such as a Gateway of another class.
    pub is_ours: bool,
    pub conditions: Vec<Condition>,
    /// Of a Gateway, ListenerSet or BackendTLSPolicy.
    pub details: Option<Arc<Details>>,
    pub findings: Vec<Arc<Diagnostic>>,
}

/// A change of the configuration, as far as it concerns the status.
#[derive(Default)]
pub struct Edit {
    /// Of the delta that goes with it.
    pub revision: u64,
    /// Objects that act (routes, gateways, plugins) and were translated; `None` for those that are gone.
    pub objects: Vec<(Key, Option<Translated>)>,
    /// New findings of these owners.
    pub findings: Vec<(Owner, Vec<Arc<Diagnostic>>)>,
}

/// An object and the conditions that its translation came to.
pub struct Translated {
    pub object: Arc<Object>,
    pub conditions: Arc<[Condition]>,
    /// Of a Gateway, ListenerSet or BackendTLSPolicy.
    pub details: Option<Arc<Details>>,
}

/// What a status says beside conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The address that a Gateway was given, where `spec.addresses` asks for none.
    pub address: Option<IpAddr>,
    /// `status.listeners` of a Gateway or ListenerSet, as far as it is no condition.
    pub listeners: Vec<ListenerStatus>,
    /// `status.attachedListenerSets` of a Gateway.
    pub attached_listener_sets: u32,
    /// Of a Gateway that has a Service: the ports that it should have.
    pub service_ports: Vec<(u16, SocketProtocol)>,
    /// The Gateways of `status.ancestors` of a BackendTLSPolicy. The conditions of the object are those of each of them.
    pub ancestors: Vec<Key>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerStatus {
    pub name: Box<str>,
    pub supported_kinds: Vec<Kind>,
    pub attached_routes: u32,
}

struct Entry {
    translated: Translated,
    /// Of the delta that it went out with.
    revision: u64,
}

#[derive(Default)]
pub struct Board {
    objects: BTreeMap<Key, Entry>,
    findings: Findings,
    verdicts: BTreeMap<Id, Arc<Verdict>>,
    /// The newest revision that the proxy has taken over; `None` where no proxy tells.
    applied: Option<u64>,
    /// Objects that changed with revisions that the proxy has not taken over yet.
    waiting: BTreeMap<u64, BTreeSet<Key>>,
}

impl Board {
    /// Takes over a change of the configuration. Returns the objects to show again at once; those that wait for the proxy are returned
    /// by [`Board::apply_verdicts`].
    pub fn edit(&mut self, edit: Edit) -> BTreeSet<Key> {
        let Edit { revision, objects, findings } = edit;
        let mut changed = BTreeSet::new();
        let many = dense::is_due(objects.len(), self.objects.len());
        for (key, now) in objects {
            changed.insert(key.clone());
            match now {
                Some(translated) => _ = self.objects.insert(key, Entry { translated, revision }),
                None => _ = self.objects.remove(&key),
            }
        }
        if many {
            dense::pack(&mut self.objects);
        }
        for (owner, found) in findings {
            let touched = self.findings.set(owner, found);
            changed.extend(touched.iter().flat_map(|title| self.titled(title)));
        }
        if self.is_applied(revision) {
            return changed;
        }
        self.waiting.entry(revision).or_default().extend(changed);
        BTreeSet::new()
    }

    /// Takes over what the proxy says. Returns the objects to show again.
    pub fn apply_verdicts(&mut self, changes: VerdictChanges) -> BTreeSet<Key> {
        let VerdictChanges { revision, whole, verdicts, cleared } = changes;
        let mut touched: HashSet<Arc<str>> = HashSet::new();
        if whole {
            let standing: HashSet<&Id> = verdicts.iter().map(|v| &v.id).collect();
            let gone: Vec<Id> = self.verdicts.keys().filter(|id| !standing.contains(id)).cloned().collect();
            gone.into_iter().for_each(|id| self.clear(id, &mut touched));
        }
        for id in cleared {
            self.clear(id, &mut touched);
        }
        for verdict in verdicts {
            let findings = verdict.findings.iter().cloned().map(Arc::new).collect();
            touched.extend(self.findings.set(Owner::Resource(verdict.id.clone()), findings));
            // The same findings may come with another state.
            touched.extend(verdict.findings.iter().filter_map(|d| d.object.clone()));
            self.verdicts.insert(verdict.id.clone(), verdict);
        }
        self.applied = self.applied.max(Some(revision));
        let later = self.waiting.split_off(&(self.applied.unwrap_or_default() + 1));
        let mut changed: BTreeSet<Key> = std::mem::replace(&mut self.waiting, later).into_values().flatten().collect();
        changed.extend(touched.iter().flat_map(|title| self.titled(title)));
        changed.retain(|key| self.waiting.values().all(|keys| !keys.contains(key)));
        changed
    }

    fn clear(&mut self, id: Id, touched: &mut HashSet<Arc<str>>) {
        self.verdicts.remove(&id);
        touched.extend(self.findings.set(Owner::Resource(id), Vec::new()));
    }

    /// The objects with this title: of several API groups those that act, if any does.
    fn titled(&self, title: &str) -> Vec<Key> {
        let all: Vec<Key> = Key::titled(title).collect();
        let acts: Vec<Key> = all.iter().filter(|key| self.objects.contains_key(key)).cloned().collect();
        if acts.is_empty() { all } else { acts }
    }

    fn is_applied(&self, revision: u64) -> bool {
        self.applied.is_none_or(|applied| revision <= applied)
    }

    /// `None`: there is nothing to say of the object, or there is none.
    pub fn status(&self, key: &Key) -> Option<ObjectStatus> {
        let entry = self.objects.get(key);
        let found = self.found(&key.to_string());
        (entry.is_some() || !found.is_empty()).then(|| self.show(Some(key.kind), entry, &found))
    }

    /// As [`Board::status`], of something that does not act.
    pub fn status_of_title(&self, title: &str) -> ObjectStatus {
        self.show(None, None, &self.found(title))
    }

    fn show(&self, kind: Option<Kind>, entry: Option<&Entry>, found: &[Found<'_>]) -> ObjectStatus {
        let object = entry.map(|entry| &entry.translated.object);
        let translated = entry.map(|entry| &*entry.translated.conditions).unwrap_or_default();
        let pending = entry.is_some_and(|entry| !self.is_applied(entry.revision));
        ObjectStatus {
            object: object.cloned(),
            observed_generation: object.map(|o| o.meta.generation.into()).unwrap_or_default(),
            is_ours: kind.is_some_and(|kind| show::is_ours(kind, translated, found)),
            details: entry.and_then(|entry| entry.translated.details.clone()),
            conditions: show::conditions(object.map(|o| &**o), translated, pending, found),
            findings: found.iter().map(|f| f.finding.clone()).collect(),
        }
    }

    fn found(&self, title: &str) -> Vec<Found<'_>> {
        let verdict = |owner: &Owner| match owner {
            Owner::Resource(id) => self.verdicts.get(id).map(|v| &**v),
            _ => None,
        };
        self.findings
            .of(title)
            .into_iter()
            .map(|(owner, finding)| Found {
                finding,
                // Of objects that stand twice the first one is used.
                reading: owner.reads() && finding.reason != "DuplicateObject",
                verdict: verdict(owner),
            })
            .collect()
    }

    /// Objects that act, in the order of their keys, then the titles of others that something was found about.
    pub fn list(&self) -> (impl Iterator<Item = (&Key, &Arc<Object>)>, Vec<&Arc<str>>) {
        let objects = self.objects.iter().map(|(key, entry)| (key, &entry.translated.object));
        let acts = |title: &Arc<str>| Key::titled(title).any(|key| self.objects.contains_key(&key));
        (objects, self.findings.titles().filter(|title| !acts(title)).collect())
    }

    /// All objects that there is something to say of.
    pub fn keys(&self) -> BTreeSet<Key> {
        let found = self.findings.titles().flat_map(|title| self.titled(title));
        self.objects.keys().cloned().chain(found).collect()
    }

    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    pub fn findings_mut(&mut self) -> &mut Findings {
        &mut self.findings
    }
}
