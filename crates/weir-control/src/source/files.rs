//! Files and folders of YAML (and JSON). Knows what every file holds, so that a change of one costs the reading of its
//! changed documents; what cannot be read keeps the last good version of what stood there.
mod file;
mod read;
mod stamp;
#[cfg(test)]
mod tests;
mod walk;

use super::{
    placing::Sources,
    revise::Revision,
    text::{Unreadable, is_standard_input, read_settled},
};
use crate::{
    dense,
    object::{Finding, Key, Object},
};
use file::{File, stands_twice};
use read::read_docs;
use stamp::Stamp;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use walk::Walk;
pub use walk::is_configuration;
use weir_config::{
    diagnostic::Diagnostic,
    model::{FileId, Name},
};

/// Changed objects; `None` for those that are gone.
pub type Changes = Vec<(Key, Option<Arc<Object>>)>;

/// What findings come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FoundBy {
    /// The last scan: what it could not look at, and folders without files.
    Scan,
    File(Arc<FileId>),
    /// The comparison of the files that hold an object.
    Duplicate(Key),
}

/// What was read since it was last asked for.
#[derive(Default)]
pub struct Noted {
    /// Their findings may have changed.
    pub found: BTreeSet<FoundBy>,
    /// Files that were read again: findings in them may have moved.
    pub files: BTreeSet<Name>,
}

/// What a file held before it was read again.
struct Before {
    /// In the order of their keys.
    objects: Vec<Arc<Object>>,
    kept: BTreeSet<Key>,
    plain: bool,
}

impl Before {
    fn of(file: &File) -> Before {
        Before { objects: file.objects().into_iter().cloned().collect(), kept: file.kept().cloned().collect(), plain: file.is_plain() }
    }
}

#[derive(Default)]
pub struct Files {
    roots: Vec<PathBuf>,
    files: BTreeMap<Arc<FileId>, Box<File>>,
    /// The file that holds an object; of several, the first.
    owners: BTreeMap<Key, Arc<FileId>>,
    /// Objects that several files hold, with all of these in order.
    shared: BTreeMap<Key, Vec<Arc<FileId>>>,
    noted: Noted,
    /// What the last scan could not look at, and folders without files.
    faults: Vec<Diagnostic>,
    folders: BTreeSet<PathBuf>,
    /// Where symbolic links among the files lead.
    targets: BTreeSet<PathBuf>,
    /// Of documents with findings.
    sources: Sources,
}

impl Files {
    pub fn new(roots: &[PathBuf]) -> Files {
        Files { roots: roots.to_vec(), ..Files::default() }
    }
    /// Files and folders as they were given, without standard input.
    pub fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots.iter().filter(|root| !is_standard_input(root))
    }
    /// How many files were read.
    pub fn count(&self) -> usize {
        self.files.len()
    }
    /// Every object that is held.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.owners.keys()
    }
    /// Whether a file has this object, or its last good version.
    pub fn holds(&self, key: &Key) -> bool {
        self.owners.contains_key(key)
    }
    /// Folders that were found by the last scan.
    pub fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }
    pub fn targets(&self) -> &BTreeSet<PathBuf> {
        &self.targets
    }

    /// Looks at every file; reads those that changed, but not those that somebody is still `writing`.
    pub fn scan(&mut self, writing: &HashSet<PathBuf>) -> Changes {
        let mut walk = Walk::default();
        for (index, root) in (0..).zip(&self.roots) {
            walk.root(index, root);
        }
        self.folders = walk.folders;
        self.targets = walk.targets;
        if std::mem::replace(&mut self.faults, walk.faults) != self.faults {
            self.noted.found.insert(FoundBy::Scan);
        }
        // What cannot be looked at is not taken for gone.
        let hidden = |id: &FileId| walk.unreadable.iter().any(|(root, path)| *root == id.root && id.path().starts_with(path));
        let is_gone = |id: &FileId| !walk.files.contains_key(id) && !hidden(id);
        let gone: Vec<Arc<FileId>> = self.files.keys().filter(|id| is_gone(id)).cloned().collect();
        let mut touched = BTreeSet::new();
        for id in gone {
            self.forget(&id, &mut touched);
        }
        for (id, stamp) in walk.files {
            let known = self.files.get(&id);
            if known.is_some_and(|f| f.stamp.as_ref() == Some(&stamp)) || writing.contains(id.path()) {
                continue;
            }
            self.read(Arc::new(id), Some(stamp), &mut touched);
        }
        if dense::is_due(touched.len(), self.owners.len()) {
            dense::pack(&mut self.files);
            dense::pack(&mut self.owners);
        }
        self.changes(touched)
    }

    /// Reads one file again, or forgets it when it is gone. False where the path is none of ours: a scan must decide.
    pub fn refresh(&mut self, path: &Path, changes: &mut Changes) -> bool {
        let mut touched = BTreeSet::new();
        let mut ours = false;
        for index in 0..self.roots.len() {
            if self.has_room(&self.roots[index], path) {
                ours = true;
                let id = Arc::new(FileId::new(index as u32, path.into()));
                match fs::metadata(path) {
                    Ok(meta) if meta.is_file() => self.read(id, Some(Stamp::of(&meta)), &mut touched),
                    Ok(_) => return false,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => self.forget(&id, &mut touched),
                    Err(_) => self.read(id, None, &mut touched),
                }
            }
        }
        changes.extend(self.changes(touched));
        ours
    }

    /// Whether a folder root has this file in it, as far as the name says.
    fn has_room(&self, root: &Path, path: &Path) -> bool {
        let parent_known = path.parent().is_some_and(|p| self.folders.contains(p));
        parent_known && is_configuration(path) && path.starts_with(root) && root != path
    }

    fn read(&mut self, id: Arc<FileId>, stamp: Option<Stamp>, touched: &mut BTreeSet<Key>) {
        let known = self.files.get_key_value(&id);
        let held = known.is_some_and(|(_, file)| !file.is_empty());
        let id = known.map_or(id, |(id, _)| id.clone());
        match read_settled(id.path(), held) {
            Ok(text) => {
                self.noted.files.insert(id.name().clone());
                if let Some(revision) = self.files.get_mut(&id).and_then(|f| f.revise(&id, &text, stamp)) {
                    return self.revised(&id, revision, touched);
                }
                let old = self.files.remove(&id).unwrap_or_default();
                let before = Before::of(&old);
                let docs = read_docs(&id, &text, old.into_docs());
                self.replace(&id, before, Some(File::of(stamp, docs)), touched);
            }
            Err(Unreadable::Gone) => self.forget(&id, touched),
            Err(e) => {
                self.noted.found.insert(FoundBy::File(id.clone()));
                self.files.entry(id.clone()).or_default().fail(id.name(), &e, stamp);
            }
        }
    }

    /// Notes what changed within a file.
    fn revised(&mut self, id: &Arc<FileId>, revision: Revision, touched: &mut BTreeSet<Key>) {
        let Revision { gone, come } = revision;
        for object in gone.iter().filter(|g| !come.iter().any(|c| c.key == g.key)) {
            self.disown(id, &object.key);
        }
        for object in come.iter().filter(|c| !gone.iter().any(|g| g.key == c.key)) {
            self.own(id, &object.key);
        }
        touched.extend(gone.iter().chain(&come).map(|o| o.key.clone()));
    }

    /// A file is gone.
    fn forget(&mut self, id: &Arc<FileId>, touched: &mut BTreeSet<Key>) {
        let old = self.files.remove(id).unwrap_or_default();
        self.replace(id, Before::of(&old), None, touched);
    }

    /// Puts a file in the place of what it was, and notes the objects that differ.
    fn replace(&mut self, id: &Arc<FileId>, before: Before, new: Option<File>, touched: &mut BTreeSet<Key>) {
        if !before.plain || new.as_ref().is_some_and(|file| !file.is_plain()) {
            self.noted.found.insert(FoundBy::File(id.clone()));
        }
        let kept: BTreeSet<Key> = new.iter().flat_map(File::kept).cloned().collect();
        touched.extend(before.kept.symmetric_difference(&kept).cloned());
        let now = new.as_ref().map(File::objects).unwrap_or_default();
        let (mut before, mut after) = (before.objects.iter().peekable(), now.into_iter().peekable());
        while before.peek().is_some() || after.peek().is_some() {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {
                    before.next();
                    after.next();
                    continue;
                }
                (Some(old), Some(new)) => old.key.cmp(&new.key),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let gone = if order.is_le() { before.next() } else { None };
            let come = if order.is_ge() { after.next() } else { None };
            let Some(object) = come.or(gone) else { break };
            if come.is_none() {
                self.disown(id, &object.key);
            } else if gone.is_none() {
                self.own(id, &object.key);
            }
            touched.insert(object.key.clone());
        }
        if let Some(new) = new {
            self.files.insert(id.clone(), Box::new(new));
        }
    }

    fn own(&mut self, id: &Arc<FileId>, key: &Key) {
        match self.owners.get_mut(key) {
            None => _ = self.owners.insert(key.clone(), id.clone()),
            Some(first) => {
                let all = self.shared.entry(key.clone()).or_insert_with(|| vec![first.clone()]);
                all.insert(all.partition_point(|o| o < id), id.clone());
                first.clone_from(&all[0]);
                self.noted.found.insert(FoundBy::Duplicate(key.clone()));
            }
        }
    }

    fn disown(&mut self, id: &Arc<FileId>, key: &Key) {
        match self.shared.get_mut(key) {
            None => _ = self.owners.remove(key),
            Some(all) => {
                all.retain(|o| o != id);
                if let Some(first) = all.first() {
                    self.owners.insert(key.clone(), first.clone());
                }
                if all.len() < 2 {
                    self.shared.remove(key);
                    self.noted.found.insert(FoundBy::Duplicate(key.clone()));
                }
            }
        }
    }

    /// The files that hold an object, in order.
    fn holders(&self, key: &Key) -> &[Arc<FileId>] {
        match self.shared.get(key) {
            Some(all) => all,
            None => self.owners.get(key).map(std::slice::from_ref).unwrap_or_default(),
        }
    }

    fn winner(&self, key: &Key) -> Option<&Arc<Object>> {
        let holding = || self.holders(key).iter().filter_map(|id| self.files.get(id));
        let first = holding().find(|file| !file.keeps(key)).or_else(|| holding().next())?;
        first.get(key)
    }

    fn changes(&mut self, touched: BTreeSet<Key>) -> Changes {
        let shared = touched.iter().filter(|key| self.shared.contains_key(*key));
        self.noted.found.extend(shared.map(|key| FoundBy::Duplicate(key.clone())));
        touched.into_iter().map(|key| (key.clone(), self.winner(&key).cloned())).collect()
    }

    /// What may have changed among the findings since this was last called.
    pub fn take_noted(&mut self) -> Noted {
        let mut noted = std::mem::take(&mut self.noted);
        if self.shared.is_empty() {
            return noted;
        }
        // Findings on duplicates name the lines of both objects.
        let read = self.files.iter().filter(|(id, _)| noted.files.contains(id.name()));
        let keys = read.flat_map(|(_, file)| file.objects()).map(|object| &object.key).filter(|key| self.shared.contains_key(*key));
        noted.found.extend(keys.map(|key| FoundBy::Duplicate(key.clone())));
        noted
    }

    /// Everything that findings may come from.
    pub fn found_by(&self) -> impl Iterator<Item = FoundBy> {
        let files = self.files.keys().map(|id| FoundBy::File(id.clone()));
        [FoundBy::Scan].into_iter().chain(files).chain(self.shared.keys().map(|key| FoundBy::Duplicate(key.clone())))
    }

    /// What reading found, as of now.
    pub fn findings(&self, by: &FoundBy) -> Vec<Diagnostic> {
        match by {
            FoundBy::Scan => self.faults.clone(),
            FoundBy::File(id) => self.files.get(id).map(|file| file.findings()).unwrap_or_default(),
            FoundBy::Duplicate(key) => self.duplicates(key),
        }
    }

    fn duplicates(&self, key: &Key) -> Vec<Diagnostic> {
        let Some((first, all)) = self.winner(key).zip(self.shared.get(key)) else { return Vec::new() };
        let real = all.iter().filter_map(|id| self.files.get(id)).filter(|file| !file.keeps(key));
        let others = real.filter_map(|file| file.get(key)).filter(|object| !Arc::ptr_eq(object, first));
        others.map(|object| stands_twice(object, first)).collect()
    }

    /// Findings that were made after reading, with their lines of source text.
    pub fn place<'a>(&mut self, late: impl Iterator<Item = &'a Finding>) -> Vec<Diagnostic> {
        self.sources.place(late)
    }

    /// Forgets the texts of a file that no finding shows any more.
    pub fn sweep(&mut self, file: &Name) {
        self.sources.sweep(file);
    }
}
