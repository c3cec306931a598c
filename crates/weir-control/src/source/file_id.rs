//! Which file something was read from.
use super::text::{STANDARD_INPUT_NAME, is_standard_input};
use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};
use weir_config::model::Name;

/// In the order of precedence: by place on the command line, then by path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    pub root: usize,
    path: FilePath,
}

/// Mostly a text, which everything that is read from the file shares.
#[derive(Clone, Debug)]
enum FilePath {
    Text(Name),
    Other(PathBuf),
}

impl FileId {
    pub fn new(root: usize, path: PathBuf) -> FileId {
        let path = match path.into_os_string().into_string() {
            Ok(text) => FilePath::Text(text.into()),
            Err(other) => FilePath::Other(other.into()),
        };
        FileId { root, path }
    }

    pub fn path(&self) -> &Path {
        self.path.as_ref()
    }

    /// For findings.
    pub fn name(&self) -> Name {
        match &self.path {
            _ if is_standard_input(self.path()) => STANDARD_INPUT_NAME.into(),
            FilePath::Text(text) => text.clone(),
            FilePath::Other(path) => path.to_string_lossy().into(),
        }
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        match self {
            FilePath::Text(text) => Path::new(&**text),
            FilePath::Other(path) => path,
        }
    }
}

impl PartialEq for FilePath {
    fn eq(&self, other: &FilePath) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for FilePath {}

impl PartialOrd for FilePath {
    fn partial_cmp(&self, other: &FilePath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FilePath {
    fn cmp(&self, other: &FilePath) -> Ordering {
        self.as_ref().cmp(other.as_ref())
    }
}

impl Hash for FilePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}
