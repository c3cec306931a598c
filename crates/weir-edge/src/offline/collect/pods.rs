//! The pods of the node, where they are known as a whole and as they are now.
use crate::{
    apimachinery::{media::Encoding, object::Object},
    cache::{Cache, head::Head, key::SetKey},
};
use bytes::Bytes;
use memchr::memmem;
use std::collections::{HashMap, HashSet};

const RESOURCE: &str = "pods.v1";

#[derive(Debug, Default)]
pub struct Pods {
    /// Names and objects by namespace.
    all: HashMap<String, Vec<(String, Bytes)>>,
    uids: HashSet<String>,
}

impl Pods {
    /// `None`: no list of all pods of the node is complete, good and followed by a watch.
    pub fn read(cache: &Cache, node: &str) -> Option<Pods> {
        let of_node = format!("spec.nodeName={node}");
        cache.store.sets().into_iter().filter(|set| set.complete && !set.damaged).find_map(|set| {
            let key =
                SetKey::read(&set.name).filter(|key| key.user == cache.node() && key.resource == RESOURCE && key.namespace.is_empty())?;
            let selectors = key.selected.filter(|s| s.labels.is_empty() && (s.fields.is_empty() || s.fields == of_node));
            let encoding = [Encoding::Json, Encoding::Protobuf].into_iter().find(|encoding| encoding.name() == key.media)?;
            let current = selectors.is_some() && cache.follows.any(&set.name) && !Head::read(&set.head)?.dirty;
            let listing = if current { cache.store.list(&set.name).ok()?? } else { return None };
            let mut pods = Pods::default();
            for (name, bytes) in listing.items {
                // One pod that cannot be read may own anything.
                pods.uids.insert(Object::read(bytes.clone(), encoding).ok()?.meta.uid);
                pods.all.entry(name.namespace).or_default().push((name.name, bytes));
            }
            Some(pods)
        })
    }

    /// Whether a pod needs an object of its namespace: it is the pod itself, or its name is anywhere in a pod. There are many ways to
    /// refer to a Secret, and none that does not name it.
    pub fn need(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let pods = self.all.get(namespace).map(Vec::as_slice).unwrap_or_default();
        match resource {
            RESOURCE => pods.iter().any(|(pod, _)| pod == name),
            _ => pods.iter().any(|(_, bytes)| memmem::find(bytes, name.as_bytes()).is_some()),
        }
    }

    /// Whether there is a pod, and it is not here any more; empty: no pod.
    pub fn is_gone(&self, uid: &str) -> bool {
        !uid.is_empty() && !self.uids.contains(uid)
    }
}
