//! Which files there are.
use super::stamp::Stamp;
use crate::source::text::{STANDARD_INPUT_NAME, Unreadable, check_regular, is_standard_input};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use weir_config::{diagnostic::Diagnostic, model::FileId};

/// Folders within folders.
const MAX_DEPTH: usize = 32;

/// Whether a file in a folder is read: `.yaml`, `.yml` or `.json`, and neither hidden nor an editor's temporary.
pub fn is_configuration(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !name.starts_with(['.', '#', '~']) && matches!(extension, "yaml" | "yml" | "json")
}

/// What there is to read in files and folders.
#[derive(Default)]
pub struct Walk {
    pub files: BTreeMap<FileId, Stamp>,
    pub folders: BTreeSet<PathBuf>,
    /// Where symbolic links among the files lead.
    pub targets: BTreeSet<PathBuf>,
    /// Folders by device and inode: a link to one of them does not lead in again.
    seen: HashSet<(u64, u64)>,
    pub faults: Vec<Diagnostic>,
    /// Files and folders, by root, of which it is not known what is there.
    pub unreadable: Vec<(u32, PathBuf)>,
}

impl Walk {
    /// Looks at a file or folder of the command line.
    pub fn root(&mut self, index: u32, root: &Path) {
        self.seen.clear();
        if is_standard_input(root) {
            // Never another one than the first time.
            self.files.insert(FileId::named(index, root, STANDARD_INPUT_NAME), Stamp::NEVER);
            return;
        }
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => {
                let before = (self.files.len(), self.faults.len());
                self.folder(index, root, 0);
                if before == (self.files.len(), self.faults.len()) {
                    let message = format!("no .yaml, .yml or .json files in {}", root.display());
                    self.faults.push(Diagnostic::warning("NoFiles", message).help("files are read as soon as they are there"));
                }
            }
            Ok(meta) => self.file(index, root, &meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let message = format!("there is no file or folder {}", root.display());
                self.faults.push(Diagnostic::error("NotFound", message).help("it is read as soon as it is there"));
            }
            Err(e) => self.fault(index, root, &e.into()),
        }
    }

    /// Something that cannot be looked at; what was read of it before stays.
    fn fault(&mut self, index: u32, path: &Path, why: &Unreadable) {
        self.faults.push(why.diagnostic(&path.to_string_lossy()));
        self.unreadable.push((index, path.into()));
    }

    fn folder(&mut self, index: u32, path: &Path, depth: usize) {
        let Ok(meta) = fs::metadata(path) else { return };
        if depth > MAX_DEPTH || !self.seen.insert((meta.dev(), meta.ino())) {
            return;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return self.fault(index, path, &e.into()),
        };
        self.folders.insert(path.into());
        for entry in entries.flatten() {
            let path = entry.path();
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let Ok(kind) = entry.file_type() else { continue };
            // A link is what it leads to; one that leads nowhere is nothing yet.
            match fs::metadata(&path) {
                _ if hidden => {}
                _ if kind.is_dir() => self.folder(index, &path, depth + 1),
                Ok(meta) if meta.is_dir() => self.folder(index, &path, depth + 1),
                Ok(meta) if is_configuration(&path) => self.file(index, &path, &meta),
                Err(e) if is_configuration(&path) && e.kind() != io::ErrorKind::NotFound => self.fault(index, &path, &e.into()),
                _ => {}
            }
        }
    }

    fn file(&mut self, index: u32, path: &Path, meta: &fs::Metadata) {
        let link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
        if link && let Ok(target) = fs::canonicalize(path) {
            self.targets.insert(target);
        }
        if let Err(why) = check_regular(meta) {
            return self.fault(index, path, &why);
        }
        self.files.insert(FileId::new(index, path.into()), Stamp::of(meta));
    }
}
