//! What the node has reported of its pods and of itself without the API server: a patch per object, which leads from what was kept to what
//! was reported. Readers of the object here see it with the patch, and the same patch is sent later. So what the node wrote wins,
//! field by field and condition by condition, and everything else is as the cloud has it.
use super::{HEAD, NotTaken, Stats, records};
use crate::{
    apimachinery::{
        object::Object,
        patch::{PatchError, difference, strategic},
        reported::{Kind, NODE, POD, local_version},
        schema::ContentError,
    },
    cache::head::seconds,
    store::{ObjectName, Store},
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};
use tokio::sync::watch;

/// An object that was changed here.
#[derive(Clone, Debug)]
pub struct Changed {
    pub uid: String,
    /// A strategic merge patch of `metadata` and `status`.
    pub patch: Value,
    /// Since when it waits, in seconds since 1970; 0: an older version did not write it down.
    pub at: u64,
    /// How often it was changed.
    pub changes: u64,
    /// The resource version that it got when the patch was sent. Versions that were kept before do not have it yet.
    pub sent: Option<u64>,
    bytes: usize,
}

impl Changed {
    /// Whether an object as it was kept lacks the change.
    fn concerns(&self, kept: &Object) -> bool {
        let version = || kept.meta.resource_version.parse().unwrap_or(u64::MAX);
        self.uid == kept.meta.uid && self.sent.is_none_or(|sent| version() < sent)
    }

    fn to_bytes(&self) -> Vec<u8> {
        json!({ "uid": self.uid, "at": self.at, "patch": self.patch, "changes": self.changes, "sent": self.sent }).to_string().into_bytes()
    }

    fn read(bytes: &[u8]) -> Option<Changed> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        Some(Changed {
            uid: value["uid"].as_str()?.to_string(),
            at: value["at"].as_u64().unwrap_or_default(),
            changes: value["changes"].as_u64()?,
            sent: value["sent"].as_u64(),
            patch: value["patch"].take(),
            bytes: bytes.len(),
        })
    }
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error(transparent)]
    Report(#[from] ContentError),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The client has another object, or another version of it.
    #[error("{0}")]
    Conflict(String),
}

/// By kind and name: the node stands before its pods.
type All = BTreeMap<(&'static str, ObjectName), Changed>;

pub struct Statuses {
    store: Arc<Store>,
    stats: Arc<Stats>,
    limit: usize,
    all: Mutex<All>,
    changes: watch::Sender<u64>,
}

impl Statuses {
    pub(super) fn open(store: &Arc<Store>, limit: usize, stats: &Arc<Stats>) -> Statuses {
        let mut all = All::new();
        for kind in [&NODE, &POD] {
            for (name, bytes) in records(store, &set(kind.resource), stats) {
                all.extend(Changed::read(&bytes).map(|changed| ((kind.resource, name), changed)));
            }
        }
        Statuses { store: store.clone(), stats: stats.clone(), limit, all: Mutex::new(all), changes: watch::Sender::new(0) }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many objects have a status that waits to be sent.
    pub fn waiting(&self) -> usize {
        self.all().values().filter(|changed| changed.sent.is_none()).count()
    }

    pub fn waits(&self, kind: &Kind, name: &ObjectName) -> bool {
        self.all().get(&(kind.resource, name.clone())).is_some_and(|changed| changed.sent.is_none())
    }

    /// An object as it was kept, with what was changed here; `None` if nothing was.
    pub fn view(&self, kind: &Kind, kept: &Object) -> Option<Bytes> {
        let changed = self.all().get(&(kind.resource, name_of(kept))).filter(|changed| changed.concerns(kept)).cloned()?;
        let report = strategic(kind.read(kept).ok()?, &changed.patch).ok()?;
        kind.write(kept, &report, &local_version(&kept.meta.resource_version, changed.changes)).ok()
    }

    /// The objects of a kind that were changed here.
    pub fn names(&self, kind: &Kind) -> Vec<ObjectName> {
        self.all().keys().filter(|(resource, _)| *resource == kind.resource).map(|(_, name)| name.clone()).collect()
    }

    /// Changes what is reported of an object: from what the client sees, to what it wants. Returns the object with it, and whether it
    /// is another one than before.
    pub fn change(
        &self,
        kind: &Kind,
        kept: &Object,
        change: impl FnOnce(Value) -> Result<Value, ChangeError>,
    ) -> Result<(Bytes, bool), ChangeError> {
        let key = (kind.resource, name_of(kept));
        let mut all = self.all();
        let from = kind.read(kept)?;
        let before = all.get(&key).filter(|changed| changed.concerns(kept));
        let seen = before.map_or(Ok(from.clone()), |changed| strategic(from.clone(), &changed.patch))?;
        let mut wanted = change(seen.clone())?;
        let mut to = json!({ "metadata": {} });
        for field in ["labels", "annotations"] {
            let entries = wanted["metadata"][field].take();
            to["metadata"][field] = if entries.is_null() { json!({}) } else { entries };
        }
        to[kind.part] = wanted[kind.part].take();
        let at = before.filter(|changed| changed.sent.is_none()).map_or_else(|| seconds(SystemTime::now()), |changed| changed.at);
        let same = to == seen;
        let changes = before.map_or(0, |changed| changed.changes) + u64::from(!same);
        if changes == 0 {
            return Ok((kept.bytes().clone(), false));
        }
        let whole = kind.write(kept, &to, &local_version(&kept.meta.resource_version, changes))?;
        if !same {
            let patch = difference(&from, &to).unwrap_or_else(|| json!({}));
            self.put(&mut all, key, Changed { uid: kept.meta.uid.clone(), at, patch, changes, sent: None, bytes: 0 })?;
        }
        Ok((whole, !same))
    }

    fn put(&self, all: &mut All, key: (&'static str, ObjectName), mut changed: Changed) -> Result<(), NotTaken> {
        let value = changed.to_bytes();
        changed.bytes = value.len();
        let old = all.get(&key).map_or(0, |old| old.bytes);
        let used = |all: &All| all.values().map(|changed| changed.bytes).sum::<usize>() - old;
        if used(all) + value.len() > self.limit {
            // What was sent is only there for copies that are older.
            let sent: Vec<_> = all.iter().filter(|(k, c)| c.sent.is_some() && **k != key).map(|(k, _)| k.clone()).collect();
            sent.into_iter().for_each(|key| self.remove(all, &key));
        }
        if used(all) + value.len() > self.limit {
            self.stats.full.fetch_add(1, Relaxed);
            return Err(NotTaken::Full { size: value.len(), limit: self.limit });
        }
        self.store.put(&set(key.0), &key.1, &value, HEAD)?;
        all.insert(key, changed);
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn remove(&self, all: &mut All, key: &(&'static str, ObjectName)) {
        // Where this fails it is sent again after a restart, which changes nothing.
        let _ = self.store.remove(&set(key.0), &key.1, HEAD);
        all.remove(key);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The objects that wait, in the order in which they are sent.
    pub fn items(&self) -> Vec<(&'static Kind, ObjectName, Changed)> {
        let all = self.all();
        let waiting = all.iter().filter(|(_, changed)| changed.sent.is_none());
        waiting.filter_map(|((resource, name), changed)| Some((kind(resource)?, name.clone(), changed.clone()))).collect()
    }

    /// The next object to be sent that is wanted.
    pub fn next(&self, wanted: impl Fn(&'static Kind, &ObjectName) -> bool) -> Option<(&'static Kind, ObjectName)> {
        let all = self.all();
        let mut waiting = all.iter().filter(|(_, changed)| changed.sent.is_none());
        waiting.find_map(|((resource, name), _)| kind(resource).filter(|kind| wanted(kind, name)).map(|kind| (kind, name.clone())))
    }

    pub fn get(&self, kind: &Kind, name: &ObjectName) -> Option<Changed> {
        self.all().get(&(kind.resource, name.clone())).cloned()
    }

    /// The API server has an object as it was after so many changes, with this resource version.
    pub fn sent(&self, kind: &Kind, name: &ObjectName, changes: u64, version: u64) {
        let (mut all, key) = (self.all(), (kind.resource, name.clone()));
        let Some(changed) = all.get(&key).filter(|changed| changed.changes == changes).cloned() else { return };
        // Where this fails it is sent again after a restart, which changes nothing.
        let _ = self.put(&mut all, key, Changed { sent: Some(version), ..changed });
    }

    /// Nothing is to be sent of an object any more, unless it was changed again.
    pub fn forget(&self, kind: &Kind, name: &ObjectName, changes: u64) {
        let (mut all, key) = (self.all(), (kind.resource, name.clone()));
        if all.get(&key).is_some_and(|changed| changed.changes == changes) {
            self.remove(&mut all, &key);
        }
    }
}

fn kind(resource: &str) -> Option<&'static Kind> {
    [&NODE, &POD].into_iter().find(|kind| kind.resource == resource)
}

fn set(resource: &str) -> String {
    format!("\noutbox\n{resource}")
}

fn name_of(object: &Object) -> ObjectName {
    ObjectName { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apimachinery::{media::Encoding, patch::Patch},
        store::Options,
    };

    fn node(version: &str, uid: &str) -> Object {
        let text = format!(
            r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"edge-1","uid":"{uid}","resourceVersion":"{version}"}},"status":{{"phase":"Pending","conditions":[{{"type":"Ready","status":"Unknown"}},{{"type":"Cloud","status":"True"}}]}}}}"#
        );
        Object::read(text.into(), Encoding::Json).unwrap()
    }

    fn patch(patch: Value) -> impl FnOnce(Value) -> Result<Value, ChangeError> {
        move |seen| Ok(Patch::Strategic(patch).apply(seen)?)
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn open(folder: &std::path::Path, limit: usize) -> Statuses {
        Statuses::open(&Arc::new(Store::open(folder, Options::default()).unwrap()), limit, &Arc::default())
    }

    #[test]
    fn changes_add_up_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let statuses = open(folder.path(), 1 << 20);
        let kept = node("7", "u");
        let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let (whole, news) = statuses.change(&NODE, &kept, patch(ready.clone())).unwrap();
        assert!(news);
        assert_eq!(
            (&json(&whole)["metadata"]["resourceVersion"], &json(&whole)["status"]["conditions"][0]["status"]),
            (&json!("07"), &json!("True"))
        );
        // The same once more is no change.
        let (whole, news) = statuses.change(&NODE, &kept, patch(ready)).unwrap();
        assert!(!news && json(&whole)["metadata"]["resourceVersion"] == "07");
        let (whole, _) = statuses.change(&NODE, &kept, patch(json!({ "status": { "phase": "Running" }, "spec": { "x": 1 } }))).unwrap();
        assert_eq!((&json(&whole)["metadata"]["resourceVersion"], json(&whole).get("spec")), (&json!("007"), None));
        assert_eq!(statuses.view(&NODE, &kept).unwrap(), whole);
        drop(statuses);
        let statuses = open(folder.path(), 1 << 20);
        assert_eq!(statuses.view(&NODE, &kept).unwrap(), whole);
        let name = name_of(&kept);
        assert!(statuses.waits(&NODE, &name) && !statuses.waits(&POD, &name));
        assert_eq!(statuses.next(|_, _| true).map(|(kind, name)| (kind.resource, name)), Some(("nodes.v1", name.clone())));
        let changed = statuses.get(&NODE, &name).unwrap();
        let wanted = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True", "reason": null, "message": null }] } });
        assert_eq!((changed.changes, changed.patch), (2, wanted));
        // An object that was made again has nothing of it.
        assert_eq!(statuses.view(&NODE, &node("9", "other")), None);
        // Once it is sent, older copies still lack it, and newer ones have it.
        statuses.sent(&NODE, &name, 2, 9);
        assert!(statuses.next(|_, _| true).is_none() && statuses.items().is_empty() && statuses.waiting() == 0);
        assert_eq!(statuses.view(&NODE, &kept).unwrap(), whole);
        assert_eq!(statuses.view(&NODE, &node("9", "u")), None);
        let (whole, _) = statuses.change(&NODE, &node("9", "u"), patch(json!({ "status": { "phase": "Failed" } }))).unwrap();
        assert_eq!(json(&whole)["metadata"]["resourceVersion"], "09");
        assert_eq!(statuses.get(&NODE, &name).unwrap().patch, json!({ "status": { "phase": "Failed" } }));
    }

    #[test]
    fn what_changed_while_it_was_sent_waits_on() {
        let folder = tempfile::tempdir().unwrap();
        let statuses = open(folder.path(), 1 << 20);
        let (kept, name) = (node("7", "u"), name_of(&node("7", "u")));
        statuses.change(&NODE, &kept, patch(json!({ "status": { "phase": "Running" } }))).unwrap();
        statuses.change(&NODE, &kept, patch(json!({ "status": { "phase": "Failed" } }))).unwrap();
        statuses.sent(&NODE, &name, 1, 8);
        statuses.forget(&NODE, &name, 1);
        assert!(statuses.waits(&NODE, &name));
        statuses.forget(&NODE, &name, 2);
        assert_eq!(statuses.view(&NODE, &kept), None);
    }

    #[test]
    fn there_is_a_limit_and_what_was_sent_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let statuses = open(folder.path(), 400);
        let pod = |name: &str| {
            let text = format!(
                r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"n","uid":"u","resourceVersion":"7"}}}}"#
            );
            Object::read(text.into(), Encoding::Json).unwrap()
        };
        let change = |name: &str| statuses.change(&POD, &pod(name), patch(json!({ "status": { "message": "x".repeat(200) } })));
        change("a").unwrap();
        assert!(matches!(change("b"), Err(ChangeError::NotTaken(NotTaken::Full { limit: 400, .. }))));
        statuses.sent(&POD, &name_of(&pod("a")), 1, 8);
        change("b").unwrap();
        assert_eq!(statuses.names(&POD), [name_of(&pod("b"))]);
    }
}
