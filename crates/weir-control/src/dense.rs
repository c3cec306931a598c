//! Maps that are filled in the order of their keys, as at the first reading, have nodes that are half empty. There are several maps
//! with an entry for each object or resource, so after many changes they are built again, with full nodes.
use std::collections::BTreeMap;

/// After fewer changes than one in so many entries it would cost more than the changes did.
const SHARE: usize = 4;

/// Whether so many changes of so many entries are worth it.
pub fn is_due(changes: usize, entries: usize) -> bool {
    changes * SHARE > entries
}

pub fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}
