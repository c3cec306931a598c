//! Files that objects name (a plugin's code): their digests, kept until they change.
use crate::source::text::{Unreadable, check_regular};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The lower case hexadecimal SHA-256 of a file's content, or why there is none.
pub type Artifact = Result<String, ArtifactError>;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Unreadable(Unreadable),
}

impl From<Unreadable> for ArtifactError {
    fn from(e: Unreadable) -> ArtifactError {
        match e {
            Unreadable::Io(e) => ArtifactError::Io(e),
            other => ArtifactError::Unreadable(other),
        }
    }
}

#[derive(Default)]
pub struct Artifacts {
    known: RefCell<HashMap<PathBuf, (Stamp, String)>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Artifacts {
    pub fn read(&self, path: &Path) -> Artifact {
        Ok(self.digest(path)?)
    }

    fn digest(&self, path: &Path) -> Result<String, Unreadable> {
        let meta = fs::metadata(path)?;
        check_regular(&meta)?;
        let stamp = Stamp { modified: meta.modified().ok(), length: meta.len() };
        if let Some((known, digest)) = self.known.borrow().get(path)
            && *known == stamp
        {
            return Ok(digest.clone());
        }
        let mut hasher = Sha256::new();
        let mut file = fs::File::open(path)?;
        let mut block = vec![0; 64 * 1024];
        loop {
            match file.read(&mut block)? {
                0 => break,
                n => hasher.update(&block[..n]),
            }
        }
        let digest: String = HEXLOWER.encode(&hasher.finalize());
        self.known.borrow_mut().insert(path.into(), (stamp, digest.clone()));
        Ok(digest)
    }

    /// The file was written, moved or removed.
    pub fn forget(&self, path: &Path) {
        self.known.borrow_mut().remove(path);
    }
}
