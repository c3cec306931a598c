//! Tells within milliseconds which files changed (inotify). A file that somebody has open for writing has not changed
//! yet: it does when it is closed. Folders are watched one by one; a symbolic link that is swapped, as Kubernetes does for
//! ConfigMap volumes, a folder that comes or goes, or a lost event leads to a scan.
use super::files::{Files, is_configuration};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub struct Watch {
    watcher: RecommendedWatcher,
    /// Folders by their absolute paths, as events name them.
    watched: HashMap<PathBuf, Watched>,
    /// Roots, link targets and files that objects name: whatever they are called, an event on one matters.
    special: HashSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// Open for writing, as far as one can tell.
    pub writing: HashSet<PathBuf>,
}

struct Watched {
    /// Device and inode of what was there when it was watched.
    id: (u64, u64),
    /// What the command line calls it, in one or more ways.
    names: Vec<PathBuf>,
}

/// What to do about some events.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    pub files: BTreeSet<PathBuf>,
    /// Look at every file.
    pub scan: bool,
    /// Take what the cluster and registries have.
    pub objects: bool,
}

impl Batch {
    pub fn has_files(&self) -> bool {
        !self.files.is_empty() || self.scan
    }
}

impl Watch {
    /// Events go to `send`, and come back by [`Watch::take`].
    pub fn new(send: impl Fn(notify::Result<Event>) + Send + 'static) -> notify::Result<Watch> {
        let watcher = notify::recommended_watcher(send)?;
        Ok(Watch { watcher, watched: HashMap::new(), special: HashSet::new(), folders: BTreeSet::new(), writing: HashSet::new() })
    }

    /// Watches what belongs to `files` as of its last scan, and to `named`, files that objects name. True where a folder
    /// is watched for the first time: changes before may have been missed, scan again.
    pub fn follow<'a>(&mut self, files: &Files, named: impl Iterator<Item = &'a Path>) -> notify::Result<bool> {
        self.special = files.roots().chain(files.targets()).cloned().chain(named.map(Path::to_path_buf)).collect();
        // Events of the folder "." name its files so.
        let here = |p: &PathBuf| p.parent().is_some_and(|p| p.as_os_str().is_empty()).then(|| Path::new(".").join(p));
        self.special.extend(files.roots().filter_map(here));
        self.folders.clone_from(files.folders());
        let parents: Vec<PathBuf> = self.special.iter().map(|p| existing_parent(p)).collect();
        let mut wanted: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for folder in self.folders.iter().chain(&parents) {
            let names = wanted.entry(std::path::absolute(folder).unwrap_or_else(|_| folder.clone())).or_default();
            if !names.contains(folder) {
                names.push(folder.clone());
            }
        }
        let unwanted: Vec<PathBuf> = self.watched.keys().filter(|f| !wanted.contains_key(*f)).cloned().collect();
        for folder in unwanted {
            // It may be gone already.
            _ = self.watcher.unwatch(&folder);
            self.watched.remove(&folder);
        }
        let mut new = false;
        for (folder, names) in wanted {
            let Ok(meta) = fs::metadata(&folder) else { continue };
            let id = (meta.dev(), meta.ino());
            match self.watched.get_mut(&folder) {
                Some(known) if known.id == id => {
                    known.names = names;
                    continue;
                }
                // Another folder of the same name: the old watch is of no use.
                Some(_) => _ = self.watcher.unwatch(&folder),
                None => {}
            }
            self.watcher.watch(&folder, RecursiveMode::NonRecursive)?;
            self.watched.insert(folder, Watched { id, names });
            new = true;
        }
        Ok(new)
    }

    /// What the command line calls a path that an event names.
    fn names(&self, path: &Path) -> Vec<PathBuf> {
        if let (Some(folder), Some(name)) = (path.parent().and_then(|p| self.watched.get(p)), path.file_name()) {
            return folder.names.iter().map(|f| f.join(name)).collect();
        }
        self.watched.get(path).map(|folder| folder.names.clone()).unwrap_or_default()
    }

    /// Adds to `batch` what an event asks for.
    pub fn take(&mut self, event: notify::Result<Event>, batch: &mut Batch) {
        let Ok(event) = event else {
            batch.scan = true;
            return;
        };
        if event.need_rescan() {
            self.writing.clear();
            batch.scan = true;
        }
        for path in event.paths.iter().flat_map(|p| self.names(p)).collect::<Vec<_>>() {
            self.take_path(event.kind, &path, batch);
        }
    }

    /// Somebody writes a file: what stands there now is not whole, even if an earlier writer has just closed it.
    fn begun(&mut self, path: &Path, batch: &mut Batch) {
        self.writing.insert(path.into());
        batch.files.remove(path);
    }

    fn take_path(&mut self, kind: EventKind, path: &Path, batch: &mut Batch) {
        let special = self.special.contains(path);
        let plain = !special && is_configuration(path);
        if !special && !path.parent().is_some_and(|p| self.folders.contains(p)) {
            return;
        }
        match kind {
            EventKind::Create(CreateKind::File) if (plain || special) && being_written(path) => self.begun(path, batch),
            EventKind::Modify(ModifyKind::Data(_)) if plain || special => self.begun(path, batch),
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) if !plain && !special => {}
            EventKind::Modify(ModifyKind::Metadata(_)) if self.writing.contains(path) => {}
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if !plain && !special => {}
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(_)
            | EventKind::Create(_)
            | EventKind::Remove(_) => {
                self.writing.remove(path);
                if plain && !path.is_symlink() && !path.is_dir() {
                    batch.files.insert(path.into());
                } else if special {
                    batch.files.insert(path.into());
                    batch.scan = true;
                } else if !is_temporary(path) {
                    batch.scan = true;
                }
            }
            _ => {}
        }
    }
}

/// A file that was just made gets its content from its writer; a link has it already.
fn being_written(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.nlink() == 1)
}

/// Names that editors use for a moment, and hidden ones; `..data` is how a ConfigMap volume changes.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.starts_with('.') && !name.starts_with("..");
    hidden || name.starts_with('#') || name.ends_with('~') || name == "4913" || name.ends_with(".tmp")
}

/// The nearest folder above that is there.
fn existing_parent(path: &Path) -> PathBuf {
    let parents = path.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    parents.into_iter().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use notify::event::DataChange;

    #[test]
    fn a_file_that_is_written_again_waits_for_its_second_close() {
        let mut watch = Watch::new(|_| ()).unwrap();
        watch.folders.insert("conf.d".into());
        let (path, mut batch) = (Path::new("conf.d/shop.yaml"), Batch::default());
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let truncated = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (kind, ready) in [(truncated, 0), (closed, 1), (truncated, 0), (truncated, 0), (closed, 1)] {
            watch.take_path(kind, path, &mut batch);
            assert_eq!((batch.files.len(), watch.writing.len()), (ready, 1 - ready), "{kind:?}");
        }
    }
}
