//! What tells whether a file has changed.
use std::{
    fs,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    num::NonZeroU64,
    os::unix::fs::MetadataExt,
};

/// Tells whether a file is the one that was read: a hash of its times, length and inode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stamp(NonZeroU64);

impl Stamp {
    /// Of what never changes.
    pub const NEVER: Stamp = Stamp(NonZeroU64::MIN);

    pub fn of(meta: &fs::Metadata) -> Stamp {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((times, meta.len(), meta.ino()));
        Stamp(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}
