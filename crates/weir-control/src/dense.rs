//! Maps and sets whose nodes are half empty, because they were filled in order or at random, as at the first reading. There are several
//! with an entry for each object or resource, so after many changes they are built again, with full nodes.

/// After fewer changes than one in so many entries it would cost more than the changes did.
const SHARE: usize = 4;

/// Whether so many changes of so many entries are worth it.
pub fn is_due(changes: usize, entries: usize) -> bool {
    changes * SHARE > entries
}

/// Builds a `BTreeMap` or `BTreeSet` again.
pub fn pack<T>(all: &mut T)
where
    T: Default + IntoIterator + FromIterator<<T as IntoIterator>::Item>,
{
    *all = std::mem::take(all).into_iter().collect();
}
