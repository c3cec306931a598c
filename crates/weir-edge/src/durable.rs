//! Files that are there whole, or not at all, also after a power cut.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

/// Replaces a file. Its folder is made where there is none, for its owner only.
pub fn write(file: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(file);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = beside(file);
    let _ = fs::remove_file(&temporary);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    fs::rename(&temporary, file)?;
    sync(folder)
}

/// Replaces a symbolic link.
pub fn link(target: &Path, link: &Path) -> io::Result<()> {
    let temporary = beside(link);
    let _ = fs::remove_file(&temporary);
    symlink(target, &temporary)?;
    fs::rename(&temporary, link)?;
    sync(folder_of(link))
}

/// Removes what a kill in the middle of [`write`] or [`link`] has left.
pub fn remove_part(file: &Path) -> io::Result<()> {
    match fs::remove_file(beside(file)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What was done to the names in a folder survives a power cut from now on.
pub fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_and_links_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b");
        for (mode, text) in [(0o600, "one"), (0o644, "two")] {
            write(&file, mode, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode);
            link(&file, &folder.path().join("link")).unwrap();
        }
        assert_eq!(fs::read_to_string(folder.path().join("link")).unwrap(), "two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
