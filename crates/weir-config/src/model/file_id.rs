//! Which file something was read from.
use super::Name;
use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

/// A file of the configuration. Everything that is read from it shares this. In the order of precedence: by place on the command line,
/// then by path.
#[derive(Clone, Debug)]
pub struct FileId {
    /// Its place on the command line.
    pub root: u32,
    name: Name,
    /// `None` where it is the name.
    path: Option<Box<Path>>,
}

impl FileId {
    pub fn new(root: u32, path: PathBuf) -> FileId {
        match path.into_os_string().into_string() {
            Ok(text) => FileId { root, name: text.into(), path: None },
            Err(other) => FileId { root, name: other.to_string_lossy().into(), path: Some(PathBuf::from(other).into()) },
        }
    }

    /// With another name in messages than its path.
    pub fn named(root: u32, path: &Path, name: &str) -> FileId {
        FileId { root, name: name.into(), path: Some(path.into()) }
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or_else(|| Path::new(&*self.name))
    }

    /// As it was named on the command line, or found in a folder.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

impl Ord for FileId {
    fn cmp(&self, other: &FileId) -> Ordering {
        (self.root, self.path()).cmp(&(other.root, other.path()))
    }
}

impl PartialOrd for FileId {
    fn partial_cmp(&self, other: &FileId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for FileId {
    fn eq(&self, other: &FileId) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for FileId {}

impl Hash for FileId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.root, self.path()).hash(state);
    }
}
