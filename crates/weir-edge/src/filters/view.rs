//! What a watch has shown its client, and what it has to send next: for events of the API server, and when the context changes.
use super::{
    chain::{Chain, Verdict},
    context::Context,
    stats::Stats,
};
use crate::{
    apimachinery::{
        event::{Event, EventKind},
        object::{Meta, Object},
    },
    store::ObjectName,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// An object that the client does not have as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Hidden,
    Changed { hash: u64, mark: u64 },
}

pub struct View {
    chain: Chain,
    context: Arc<Context>,
    shown: BTreeMap<ObjectName, Shown>,
    /// The newest resource version that the client has seen.
    pub version: u64,
    stats: Arc<Stats>,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It passes as it came.
    Pass,
    Swallow,
    Send(EventKind, Bytes),
}

impl View {
    /// Of a client that has seen everything up to a resource version.
    pub fn new(chain: Chain, context: Arc<Context>, version: u64, stats: Arc<Stats>) -> View {
        View { chain, context, shown: BTreeMap::new(), version, stats }
    }

    pub fn is_idle(&self) -> bool {
        !self.chain.is_active(&self.context)
    }

    /// Whether this is the context that the client sees.
    pub fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    fn verdict(&mut self, object: &Object, before: Option<u64>) -> Verdict {
        self.chain.count(object, &self.context, before, &self.stats).unwrap_or_else(|_| {
            self.stats.unreadable();
            Verdict::Keep
        })
    }

    /// Whether the client does not have it, and what it has of it.
    fn note(&mut self, name: ObjectName, verdict: &Verdict) {
        match verdict {
            Verdict::Keep => self.shown.remove(&name),
            Verdict::Drop => self.shown.insert(name, Shown::Hidden),
            Verdict::Replace(replaced) => self.shown.insert(name, Shown::Changed { hash: replaced.hash, mark: replaced.mark }),
        };
    }

    pub fn event(&mut self, event: &Event) -> Step {
        self.version = self.version.max(version(&event.object.meta));
        match event.kind {
            EventKind::Bookmark | EventKind::Error => return Step::Pass,
            EventKind::Deleted => {
                let hidden = match self.shown.remove(&name_of(&event.object.meta)) {
                    Some(shown) => shown == Shown::Hidden,
                    None => false,
                };
                return if hidden { Step::Swallow } else { Step::Pass };
            }
            EventKind::Added | EventKind::Modified => {}
        }
        self.chain.saw(&self.stats);
        let name = name_of(&event.object.meta);
        let before = self.shown.get(&name).copied();
        let verdict = match self.chain.concerns(&event.object) {
            true => self.verdict(&event.object, before.and_then(Shown::mark)),
            false => Verdict::Keep,
        };
        self.note(name, &verdict);
        let kind = if before == Some(Shown::Hidden) { EventKind::Added } else { event.kind };
        match verdict {
            // What is new was not there before either.
            Verdict::Drop if before == Some(Shown::Hidden) || event.kind == EventKind::Added => Step::Swallow,
            Verdict::Drop => Step::Send(EventKind::Deleted, event.object.bytes().clone()),
            Verdict::Keep if kind == event.kind => Step::Pass,
            Verdict::Keep => Step::Send(kind, event.object.bytes().clone()),
            Verdict::Replace(replaced) => Step::Send(kind, replaced.bytes),
        }
    }

    /// Takes the objects that there were when a watch began. `had`: the client has them as this context shows them; if not, it gets
    /// everything that may be otherwise.
    pub fn begin(&mut self, objects: impl IntoIterator<Item = Object>, had: bool) -> Vec<(EventKind, Bytes)> {
        let mut events = Vec::new();
        for object in objects {
            if version(&object.meta) > self.version || !self.chain.concerns(&object) {
                continue;
            }
            self.chain.saw(&self.stats);
            let verdict = self.verdict(&object, None);
            if !had {
                events.push(match &verdict {
                    Verdict::Drop => (EventKind::Deleted, object.bytes().clone()),
                    Verdict::Keep => (EventKind::Modified, object.bytes().clone()),
                    Verdict::Replace(replaced) => (EventKind::Modified, replaced.bytes.clone()),
                });
            }
            self.note(name_of(&object.meta), &verdict);
        }
        events
    }

    /// Goes over to another context. `objects`: all that there are, at least as new as what the client has seen.
    pub fn change(&mut self, chain: Chain, context: Arc<Context>, objects: impl IntoIterator<Item = Object>) -> Vec<(EventKind, Bytes)> {
        let (old_chain, old) = (std::mem::replace(&mut self.chain, chain), std::mem::replace(&mut self.context, context));
        let mut events = Vec::new();
        for object in objects {
            // A later version comes by an event of its own.
            if version(&object.meta) > self.version || !(self.chain.concerns(&object) || old_chain.concerns(&object)) {
                continue;
            }
            let name = name_of(&object.meta);
            let before = self.shown.get(&name).copied().or_else(|| {
                Some(match old_chain.apply(&object, &old, None).ok()? {
                    Verdict::Keep => return None,
                    Verdict::Drop => Shown::Hidden,
                    Verdict::Replace(replaced) => Shown::Changed { hash: replaced.hash, mark: replaced.mark },
                })
            });
            self.chain.saw(&self.stats);
            let verdict = self.verdict(&object, before.and_then(Shown::mark));
            let kind = if before == Some(Shown::Hidden) { EventKind::Added } else { EventKind::Modified };
            match (&verdict, before) {
                (Verdict::Keep, None) | (Verdict::Drop, Some(Shown::Hidden)) => {}
                (Verdict::Replace(replaced), Some(Shown::Changed { hash, .. })) if replaced.hash == hash => continue,
                (Verdict::Keep, _) => events.push((kind, object.bytes().clone())),
                (Verdict::Drop, _) => events.push((EventKind::Deleted, object.bytes().clone())),
                (Verdict::Replace(replaced), _) => events.push((kind, replaced.bytes.clone())),
            }
            self.note(name, &verdict);
        }
        events
    }
}

impl Shown {
    fn mark(self) -> Option<u64> {
        match self {
            Shown::Changed { mark, .. } => Some(mark),
            Shown::Hidden => None,
        }
    }
}

/// Versions that were made here have zeros in front. What is no number is never later.
pub fn version(meta: &Meta) -> u64 {
    meta.resource_version.parse().unwrap_or_default()
}

fn name_of(meta: &Meta) -> ObjectName {
    ObjectName { namespace: meta.namespace.clone(), name: meta.name.clone() }
}
