//! What changed between two versions of a map of resources, by comparing pointers.
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};
use weir_config::model::Name;

type Map<T> = BTreeMap<Name, Arc<T>>;

/// Names whose resource is new in `new`, or another one than in `old`. One walk along both maps.
pub(crate) fn changed<'a, T>(old: &'a Map<T>, new: &'a Map<T>) -> impl Iterator<Item = &'a Name> {
    let mut old = old.iter().peekable();
    new.iter().filter_map(move |(name, value)| {
        loop {
            match old.peek().map(|(o, v)| (o.cmp(&name), v)) {
                Some((Ordering::Less, _)) => {
                    old.next();
                }
                Some((Ordering::Equal, before)) => return (!Arc::ptr_eq(before, value)).then_some(name),
                _ => return Some(name),
            }
        }
    })
}

/// Names that `old` has and `new` has not.
pub(crate) fn removed<'a, T>(old: &'a Map<T>, new: &'a Map<T>) -> impl Iterator<Item = &'a Name> {
    let mut new = new.keys().peekable();
    old.keys().filter(move |name| {
        while new.next_if(|n| n < name).is_some() {}
        new.peek() != Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_decide() {
        let value = |n: i32| Arc::new(n);
        let old: Map<i32> = ["a", "b", "c", "e"].into_iter().map(|n| (n.into(), value(1))).collect();
        let mut new = old.clone();
        new.remove("a");
        new.insert("b".into(), value(1));
        new.insert("d".into(), value(1));
        new.insert("f".into(), value(1));
        assert_eq!(changed(&old, &new).map(|n| &**n).collect::<Vec<_>>(), ["b", "d", "f"]);
        assert_eq!(removed(&old, &new).map(|n| &**n).collect::<Vec<_>>(), ["a"]);
        assert_eq!(changed(&Map::default(), &old).count(), 4);
        assert_eq!(removed(&old, &Map::default()).count(), 4);
    }
}
