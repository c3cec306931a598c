//! What a list changes in the set that it replaces.
use crate::{apimachinery::event::EventKind, store::ObjectName};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One change: the object as it is now, or as it was last, and before.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub kind: EventKind,
    pub object: Bytes,
    pub before: Option<Bytes>,
}

pub fn differences(before: &[(ObjectName, Bytes)], after: &[(ObjectName, Bytes)]) -> Vec<Difference> {
    let mut old: BTreeMap<&ObjectName, &Bytes> = before.iter().map(|(name, object)| (name, object)).collect();
    let mut found = Vec::new();
    for (name, new) in after {
        let before = old.remove(name).cloned();
        match &before {
            Some(old) if old == new => {}
            Some(_) => found.push(Difference { kind: EventKind::Modified, object: new.clone(), before }),
            None => found.push(Difference { kind: EventKind::Added, object: new.clone(), before }),
        }
    }
    let gone = old.into_values().map(|old| Difference { kind: EventKind::Deleted, object: old.clone(), before: Some(old.clone()) });
    gone.chain(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_lead_from_one_list_to_the_other() {
        let list = |objects: &[(&str, &str, &'static str)]| -> Vec<(ObjectName, Bytes)> {
            let name = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
            objects.iter().map(|(n, o, bytes)| (name(n, o), Bytes::from_static(bytes.as_bytes()))).collect()
        };
        let before = list(&[("a", "x", "1"), ("a", "y", "2"), ("b", "x", "3"), ("c", "x", "4")]);
        let after = list(&[("a", "x", "1"), ("a-b", "z", "5"), ("b", "x", "6"), ("d", "x", "7")]);
        let found = differences(&before, &after);
        let found: Vec<String> = found.iter().map(|d| format!("{} {:?} {:?}", d.kind, d.object, d.before)).collect();
        let told = [
            "DELETED b\"2\" Some(b\"2\")",
            "DELETED b\"4\" Some(b\"4\")",
            "ADDED b\"5\" None",
            "MODIFIED b\"6\" Some(b\"3\")",
            "ADDED b\"7\" None",
        ];
        assert_eq!(found, told);
        assert!(differences(&after, &after).is_empty());
        assert_eq!(differences(&[], &after).len(), 4);
    }
}
