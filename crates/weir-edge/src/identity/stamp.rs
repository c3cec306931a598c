//! Whether files have changed since they were read.
use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Differs when a file has changed, or when a link to it leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(SystemTime, u64, PathBuf)>>);

impl Stamp {
    pub fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> Stamp {
        let one = |path: &Path| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len(), fs::canonicalize(path).ok()?))
        };
        Stamp(files.into_iter().map(one).collect())
    }
}
