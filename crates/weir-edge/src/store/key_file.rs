//! The key that encrypts the store: 32 bytes in base64, as Kubernetes' EncryptionConfiguration has them.
use crate::store::{OpenError, Store};
use data_encoding::BASE64;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub type Key = [u8; 32];

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: expected 32 bytes in base64, as `head -c 32 /dev/urandom | base64` prints them", file.display())]
    Malformed { file: PathBuf },
    #[error("the key {} is missing, and the store in {} cannot be read without it: restore the key, or remove the folder", file.display(), folder.display())]
    Missing { file: PathBuf, folder: PathBuf },
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot create the key {}: {error}", file.display())]
    NotCreated { file: PathBuf, error: io::Error },
}

/// The key in a file.
pub fn read(file: &Path) -> Result<Key, KeyError> {
    let text = fs::read(file).map_err(|error| KeyError::Unreadable { file: file.into(), error })?;
    let key = BASE64.decode(text.trim_ascii()).ok().and_then(|key| Key::try_from(key).ok());
    key.ok_or_else(|| KeyError::Malformed { file: file.into() })
}

/// The key for the store in a folder. If there is neither a key nor a store, a new key is created that only its owner can read.
pub fn read_or_create(file: &Path, folder: &Path) -> Result<Key, KeyError> {
    match read(file) {
        Err(KeyError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    match Store::is_encrypted(folder)? {
        None => {}
        Some(true) => return Err(KeyError::Missing { file: file.into(), folder: folder.into() }),
        // A version before encryption was the default has written it.
        Some(false) => return Err(OpenError::NotEncrypted { folder: folder.into() }.into()),
    }
    create(file).map_err(|error| KeyError::NotCreated { file: file.into(), error })?;
    read(file)
}

/// Writes the file whole or not at all.
fn create(file: &Path) -> io::Result<()> {
    let mut key = Key::default();
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = file.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    new.write_all(format!("{}\n", BASE64.encode(&key)).as_bytes())?;
    new.sync_all()?;
    fs::rename(&temporary, file)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_only_where_there_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let (file, store) = (folder.path().join("a/edge.key"), folder.path().join("edge"));
        let key = read_or_create(&file, &store).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_create(&file, &store).unwrap(), key);
        drop(Store::open(&store, Options { key: Some(key), ..Options::default() }).unwrap());
        fs::remove_file(&file).unwrap();
        assert!(matches!(read_or_create(&file, &store), Err(KeyError::Missing { .. })));
        let plain = folder.path().join("plain");
        drop(Store::open(&plain, Options::default()).unwrap());
        assert!(matches!(read_or_create(&file, &plain), Err(KeyError::Store(OpenError::NotEncrypted { .. }))));
        assert!(!file.exists());
        fs::write(&file, "short").unwrap();
        assert!(matches!(read_or_create(&file, &store), Err(KeyError::Malformed { .. })));
    }
}
