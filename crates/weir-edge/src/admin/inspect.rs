//! What the store keeps, as an operator asks for it.
pub mod objects;

use crate::{
    cache::{
        head::{Head, seconds},
        key::SetKey,
    },
    store::{SetInfo, Store},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::SystemTime};

/// A list, or the objects that a client asked for one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// As the store calls it.
    pub name: String,
    pub key: SetKey,
    pub objects: usize,
    /// On disk.
    pub bytes: u64,
    pub resource_version: String,
    /// When it was last as the API server has it, in seconds since 1970.
    pub at: u64,
    /// Something that belongs into it was missed.
    pub dirty: bool,
    /// Something of it was lost on disk.
    pub damaged: bool,
    /// A complete list was kept.
    pub complete: bool,
}

impl Set {
    fn read(info: SetInfo) -> Option<Set> {
        let key = SetKey::read(&info.name)?;
        let head = Head::read(&info.head).unwrap_or_default();
        Some(Set {
            key,
            name: info.name,
            objects: info.objects,
            bytes: info.bytes,
            resource_version: head.resource_version,
            at: head.at,
            dirty: head.dirty,
            damaged: info.damaged,
            complete: info.complete,
        })
    }

    pub fn is_list(&self) -> bool {
        self.key.selected.is_some()
    }

    /// See [`resource`].
    pub fn resource(&self) -> String {
        resource(&self.key)
    }

    pub fn age(&self) -> Option<u64> {
        (self.at > 0).then(|| seconds(SystemTime::now()).saturating_sub(self.at))
    }

    pub fn to_json(&self) -> Value {
        json!({
            "set": self.name, "objects": self.objects, "bytes": self.bytes, "resourceVersion": self.resource_version, "at": self.at,
            "dirty": self.dirty, "damaged": self.damaged, "complete": self.complete,
        })
    }

    /// Reads what [`Set::to_json`] has made.
    pub fn from_json(value: &Value) -> Option<Set> {
        let name = value["set"].as_str()?.to_string();
        let flag = |name: &str| value[name].as_bool().unwrap_or_default();
        Some(Set {
            key: SetKey::read(&name)?,
            name,
            objects: usize::try_from(value["objects"].as_u64()?).ok()?,
            bytes: value["bytes"].as_u64()?,
            resource_version: value["resourceVersion"].as_str()?.to_string(),
            at: value["at"].as_u64()?,
            dirty: flag("dirty"),
            damaged: flag("damaged"),
            complete: flag("complete"),
        })
    }
}

/// The resource of a set with its group and without its version: `pods`, `deployments.apps`.
pub fn resource(key: &SetKey) -> String {
    let mut parts = key.resource.splitn(3, '.');
    match (parts.next(), parts.nth(1)) {
        (Some(resource), None) => resource.to_string(),
        (Some(resource), Some(group)) => format!("{resource}.{group}"),
        (None, _) => String::new(),
    }
}

/// All of them, without what the hub keeps for itself.
pub fn sets(store: &Store) -> Vec<Set> {
    store.sets().into_iter().filter_map(Set::read).collect()
}

/// What is kept of one resource, for all users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub lists: usize,
    pub objects: usize,
    pub bytes: u64,
    /// Sets that are marked as old, and those that were damaged.
    pub dirty: usize,
    pub damaged: usize,
    /// Seconds since the oldest of them was as the API server has it.
    pub age: Option<u64>,
}

/// By resource.
pub fn kept(sets: &[Set]) -> BTreeMap<String, Kept> {
    let mut all: BTreeMap<String, Kept> = BTreeMap::new();
    for set in sets {
        let kept = all.entry(set.resource()).or_default();
        kept.lists += usize::from(set.is_list() && set.complete);
        kept.objects += set.objects;
        kept.bytes += set.bytes;
        kept.dirty += usize::from(set.dirty);
        kept.damaged += usize::from(set.damaged);
        kept.age = kept.age.max(set.age());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ObjectName, Options};
    use bytes::Bytes;

    #[test]
    fn sets_are_counted_by_resource_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Options::default()).unwrap();
        let object = |name: &str| (ObjectName { namespace: "n".into(), name: name.into() }, Bytes::from_static(b"{}"));
        let head = |dirty| Head { resource_version: "7".into(), at: 5, dirty, list: Bytes::new() }.to_bytes();
        store.replace("u\npods.v1\n\njson\nlist\n\n", &head(false), [object("a"), object("b")]).unwrap();
        store.replace("v\npods.v1\nn\njson\nlist\n\n", &head(true), [object("a")]).unwrap();
        store.put("u\ndeployments.v1.apps\nn\njson\nobjects\n\n", &object("d").0, b"{}", &head(false)).unwrap();
        store.put("\nusers", &object("u").0, b"{}", b"").unwrap();
        let all = sets(&store);
        assert_eq!(all.len(), 3);
        for set in &all {
            assert_eq!(Set::from_json(&set.to_json()).as_ref(), Some(set));
        }
        let kept = kept(&all);
        let pods = &kept["pods"];
        assert_eq!((pods.lists, pods.objects, pods.dirty, pods.damaged), (2, 3, 1, 0));
        assert_eq!((kept["deployments.apps"].lists, kept["deployments.apps"].objects), (0, 1));
        assert!(pods.age > Some(1_000_000_000));
    }
}
