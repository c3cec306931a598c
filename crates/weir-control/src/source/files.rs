//! Files and folders of YAML (and JSON). Knows what every file holds, so that a change of one costs the reading of its
//! changed documents; what cannot be read keeps the last good version of what stood there.
use super::{
    document::{Doc, follow, split},
    file_id::FileId,
    placing::Sources,
    revise::{Revision, revise},
    text::{Unreadable, check_regular, is_standard_input, read_settled},
};
use crate::{
    dense,
    object::{Finding, Key, Object},
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_config::{diagnostic::Diagnostic, model::Name};

/// Folders within folders.
const MAX_DEPTH: usize = 32;

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    docs: Box<[Doc]>,
    /// By key, the first of equals; kept ones where there is no other.
    objects: Objects,
    /// It could not be read.
    failure: Option<Box<Diagnostic>>,
    /// `None` for a file of which there is nothing to say, and in which every object stands once: most are.
    trouble: Option<Box<Trouble>>,
}

/// What only few files have.
#[derive(Default)]
struct Trouble {
    /// Objects that stand here a second time.
    twice: Vec<(Arc<Object>, Arc<Object>)>,
    /// Those of the objects that are last good versions of what is in error now: another file's count before them.
    kept: BTreeSet<Key>,
}

/// Objects in the order of their keys.
#[derive(Default)]
struct Objects(Box<[Arc<Object>]>);

impl Objects {
    fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.0.binary_search_by(|o| o.key.cmp(key)).ok().map(|at| &self.0[at])
    }
}

/// Tells whether a file is the one that was read: a hash of its times, length and inode.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp(u64);

impl Stamp {
    const NEVER: Stamp = Stamp(0);

    fn of(meta: &fs::Metadata) -> Stamp {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Stamp(BuildHasherDefault::<DefaultHasher>::default().hash_one((times, meta.len(), meta.ino())))
    }
}

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
        for (index, root) in self.roots.iter().enumerate() {
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
            self.replace(&id, None, &mut touched);
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
        for root in 0..self.roots.len() {
            if self.has_room(root, path) {
                ours = true;
                let id = Arc::new(FileId::new(root, path.into()));
                match fs::metadata(path) {
                    Ok(meta) if meta.is_file() => self.read(id, Some(Stamp::of(&meta)), &mut touched),
                    Ok(_) => return false,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => self.replace(&id, None, &mut touched),
                    Err(_) => self.read(id, None, &mut touched),
                }
            }
        }
        changes.extend(self.changes(touched));
        ours
    }

    /// Whether a folder root has this file in it, as far as the name says.
    fn has_room(&self, root: usize, path: &Path) -> bool {
        let parent_known = path.parent().is_some_and(|p| self.folders.contains(p));
        parent_known && is_configuration(path) && path.starts_with(&self.roots[root]) && self.roots[root] != *path
    }

    fn read(&mut self, id: Arc<FileId>, stamp: Option<Stamp>, touched: &mut BTreeSet<Key>) {
        let known = self.files.get_key_value(&id);
        let held = known.is_some_and(|(_, file)| !file.objects.0.is_empty());
        let id = known.map_or(id, |(id, _)| id.clone());
        let name = id.name();
        match read_settled(id.path(), held) {
            Ok(text) => {
                self.noted.files.insert(name.clone());
                if let Some(revision) = self.files.get_mut(&id).and_then(|f| f.revise(&name, &text, &stamp)) {
                    return self.revised(&id, revision, touched);
                }
                let old = self.files.get_mut(&id).map(|f| std::mem::take(&mut f.docs).into_vec()).unwrap_or_default();
                let docs = read_docs(&name, &text, old);
                self.replace(&id, Some(File::of(stamp, docs)), touched);
            }
            Err(Unreadable::Gone) => self.replace(&id, None, touched),
            Err(e) => {
                self.noted.found.insert(FoundBy::File(id.clone()));
                let file = self.files.entry(id).or_default();
                file.failure = Some(Box::new(unreadable(&name, &e)));
                file.stamp = stamp;
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

    /// Puts a file in the place of what it was, and notes the objects that differ.
    fn replace(&mut self, id: &Arc<FileId>, new: Option<File>, touched: &mut BTreeSet<Key>) {
        let old = self.files.remove(id).map(|file| *file).unwrap_or_default();
        if [Some(&old), new.as_ref()].into_iter().flatten().any(|file| file.trouble.is_some() || file.failure.is_some()) {
            self.noted.found.insert(FoundBy::File(id.clone()));
        }
        let nothing = Trouble::default();
        let kept = new.as_ref().and_then(|f| f.trouble.as_deref()).unwrap_or(&nothing);
        let was_kept = old.trouble.as_deref().unwrap_or(&nothing);
        touched.extend(was_kept.kept.symmetric_difference(&kept.kept).cloned());
        let old = old.objects;
        let none = Objects::default();
        let now = new.as_ref().map_or(&none, |f| &f.objects);
        let (mut before, mut after) = (old.0.iter().peekable(), now.0.iter().peekable());
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
        first.objects.get(key)
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
        let read = self.files.iter().filter(|(id, _)| noted.files.contains(&id.name()));
        let keys = read.flat_map(|(_, file)| &file.objects.0).map(|object| &object.key).filter(|key| self.shared.contains_key(*key));
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
        let others = real.filter_map(|file| file.objects.get(key)).filter(|object| !Arc::ptr_eq(object, first));
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

impl File {
    fn findings(&self) -> Vec<Diagnostic> {
        let of_docs = self.docs.iter().flat_map(|d| &d.trouble().findings).cloned();
        let twice = self.trouble.iter().flat_map(|t| &t.twice).map(|(object, first)| stands_twice(object, first));
        self.failure.as_deref().cloned().into_iter().chain(of_docs).chain(twice).collect()
    }

    fn of(stamp: Option<Stamp>, docs: Vec<Doc>) -> File {
        let mut trouble = Trouble::default();
        let real = docs.iter().flat_map(Doc::objects);
        let kept = docs.iter().flat_map(|d| &d.trouble().kept);
        // A stable sort: the first of equals stays first, and what is kept comes after what is there.
        let mut objects: Vec<(bool, Arc<Object>)> =
            real.map(|o| (true, o)).chain(kept.map(|o| (false, o))).map(|(r, o)| (r, o.clone())).collect();
        objects.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        objects.dedup_by(|(real, object), (_, first)| {
            let same = object.key == first.key;
            if same && *real {
                trouble.twice.push((object.clone(), first.clone()));
            }
            same
        });
        trouble.kept = objects.iter().filter(|(real, _)| !real).map(|(_, o)| o.key.clone()).collect();
        let objects = Objects(objects.into_iter().map(|(_, o)| o).collect());
        let plain = trouble.twice.is_empty() && docs.iter().all(Doc::is_plain);
        File { stamp, docs: docs.into(), objects, failure: None, trouble: (!plain).then(|| Box::new(trouble)) }
    }

    /// Whether an object is the last good version of one that is in error now.
    fn keeps(&self, key: &Key) -> bool {
        self.trouble.as_ref().is_some_and(|t| t.kept.contains(key))
    }

    /// Takes over a text that changed in few places; what it cannot do so is left as it is, for a reading of the whole.
    fn revise(&mut self, name: &Name, text: &str, stamp: &Option<Stamp>) -> Option<Revision> {
        if self.trouble.is_some() || self.failure.is_some() {
            return None;
        }
        let mut objects = std::mem::take(&mut self.objects.0).into_vec();
        let mut docs = std::mem::take(&mut self.docs).into_vec();
        let revision = revise(name, &split(text), &mut docs, &mut objects);
        (self.docs, self.objects.0) = (docs.into(), objects.into());
        if revision.is_some() {
            self.stamp = *stamp;
        }
        revision
    }
}

fn unreadable(name: &str, why: &Unreadable) -> Diagnostic {
    Diagnostic::error("Unreadable", format!("{name} {why}")).help(why.help())
}

fn stands_twice(object: &Object, first: &Object) -> Diagnostic {
    let origin = first.origin();
    let file = origin.file().map_or("", |file| &**file);
    Diagnostic::error("DuplicateObject", format!("duplicate {}: the one at {file}:{} is used", object.title(), origin.line.get()))
        .help("remove one of them, or rename it")
        .from_origin(&object.origin())
}

/// Reads the documents of a text; those that an earlier reading holds already are taken from there. What is broken keeps
/// the last good versions: of the objects that it names, or, where it does not even name them, of all that went missing.
fn read_docs(name: &Name, text: &str, old: Vec<Doc>) -> Vec<Doc> {
    let mut old = Old::new(old);
    let mut docs: Vec<Doc> = Vec::new();
    // Places of those that were read now.
    let mut new = Vec::new();
    for chunk in split(text) {
        let same = old.take(chunk.hash());
        docs.push(match same {
            // Places of findings are fixed: read it again for those.
            Some(doc) if doc.document().first_line() != chunk.first_line && !doc.trouble().findings.is_empty() => {
                let mut again = Doc::read(name, &chunk);
                again.follow(doc.document());
                if let Some(trouble) = again.trouble_mut() {
                    trouble.kept.clone_from(&doc.trouble().kept);
                }
                again
            }
            Some(doc) => {
                doc.document().move_to(chunk.first_line);
                doc
            }
            None => {
                new.push(docs.len());
                Doc::read(name, &chunk)
            }
        });
    }
    let changed = old.docs.iter().flatten().flat_map(Doc::objects);
    let mut new = new.into_iter().peekable();
    follow(docs.iter_mut().enumerate().filter(|(at, _)| new.next_if_eq(at).is_some()).map(|(_, doc)| doc), changed);
    if docs.iter().all(|d| d.trouble().broken.is_empty() && !d.trouble().unnamed) {
        return docs;
    }
    let present: HashSet<&Key> = docs.iter().flat_map(Doc::objects).map(|o| &o.key).collect();
    let lost = old.docs.iter().flatten().flat_map(|d| d.objects().iter().chain(&d.trouble().kept));
    let lost = lost.filter(|o| !present.contains(&o.key) && !o.is_stand_in());
    let mut lost: BTreeMap<Key, Arc<Object>> = lost.map(|o| (o.key.clone(), o.clone())).collect();
    let mut troubles: Vec<_> = docs.iter_mut().filter(|d| !d.is_plain()).filter_map(Doc::trouble_mut).collect();
    for trouble in &mut troubles {
        let named: Vec<Arc<Object>> = trouble.broken.iter().filter_map(|key| lost.remove(key)).collect();
        trouble.kept.retain(|k| !named.iter().any(|n| n.key == k.key));
        trouble.kept.extend(named);
    }
    if let Some(trouble) = troubles.iter_mut().find(|t| t.unnamed) {
        trouble.kept.extend(lost.into_values());
    }
    for trouble in troubles {
        let kept = &mut trouble.kept;
        for stand_in in trouble.stand_ins.drain(..) {
            if !kept.iter().any(|k| k.key == stand_in.key) {
                kept.push(stand_in);
            }
        }
    }
    docs
}

/// What a file held before, to be taken from: mostly in the same order.
struct Old {
    docs: Vec<Option<Doc>>,
    next: usize,
    /// Hashes with their places, in order; made once one is not where it is looked for.
    by_hash: Option<Vec<(u64, usize)>>,
}

impl Old {
    fn new(docs: Vec<Doc>) -> Old {
        Old { docs: docs.into_iter().map(Some).collect(), next: 0, by_hash: None }
    }

    fn take(&mut self, hash: u64) -> Option<Doc> {
        // The one after the last that was taken, or, where that was edited, the one behind it.
        let near = (self.next..self.next + 2).find(|at| self.is(*at, hash));
        let at = near.or_else(|| self.find(hash))?;
        self.next = at + 1;
        self.docs[at].take()
    }

    fn is(&self, at: usize, hash: u64) -> bool {
        self.docs.get(at).and_then(Option::as_ref).is_some_and(|d| d.document().hash == hash)
    }

    fn find(&mut self, hash: u64) -> Option<usize> {
        let docs = &self.docs;
        let places = self.by_hash.get_or_insert_with(|| {
            let mut all: Vec<(u64, usize)> =
                docs.iter().enumerate().filter_map(|(at, doc)| Some((doc.as_ref()?.document().hash, at))).collect();
            all.sort_unstable();
            all
        });
        let first = places.partition_point(|(h, _)| *h < hash);
        places[first..].iter().take_while(|(h, _)| *h == hash).map(|(_, at)| *at).find(|at| docs[*at].is_some())
    }
}

/// Whether a file in a folder is read: `.yaml`, `.yml` or `.json`, and neither hidden nor an editor's temporary.
pub fn is_configuration(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    !name.starts_with(['.', '#', '~']) && matches!(extension, "yaml" | "yml" | "json")
}

#[derive(Default)]
struct Walk {
    files: BTreeMap<FileId, Stamp>,
    folders: BTreeSet<PathBuf>,
    targets: BTreeSet<PathBuf>,
    /// Folders by device and inode: a link to one of them does not lead in again.
    seen: HashSet<(u64, u64)>,
    faults: Vec<Diagnostic>,
    /// Files and folders, by root, of which it is not known what is there.
    unreadable: Vec<(usize, PathBuf)>,
}

impl Walk {
    fn root(&mut self, index: usize, root: &Path) {
        self.seen.clear();
        if is_standard_input(root) {
            // Never another one than the first time.
            self.files.insert(FileId::new(index, root.into()), Stamp::NEVER);
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
    fn fault(&mut self, index: usize, path: &Path, why: &Unreadable) {
        self.faults.push(unreadable(&path.to_string_lossy(), why));
        self.unreadable.push((index, path.into()));
    }

    fn folder(&mut self, index: usize, path: &Path, depth: usize) {
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

    fn file(&mut self, index: usize, path: &Path, meta: &fs::Metadata) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        io::Write,
        time::{Duration, SystemTime},
    };

    const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n";

    /// A folder with one file that was read.
    fn folder() -> (tempfile::TempDir, PathBuf, Files) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, NAMESPACE).unwrap();
        let mut files = Files::new(&[dir.path().into()]);
        assert_eq!(files.scan(&HashSet::new()).len(), 1);
        (dir, path, files)
    }

    fn age(path: &Path, age: Duration) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn what_is_emptied_to_be_written_again_does_not_go() {
        let (_dir, path, mut files) = folder();
        fs::write(&path, "").unwrap();
        // Emptied in the future: the scan waits for as long as it takes the writer.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
        let writer = std::thread::spawn(move || (&file).write_all(NAMESPACE.as_bytes()).unwrap());
        let changes = files.scan(&HashSet::new());
        writer.join().unwrap();
        assert!(changes.iter().all(|(_, object)| object.is_some()), "{changes:?}");
        assert_eq!(files.keys().count(), 1);
    }

    #[test]
    fn what_stays_empty_is_empty() {
        let (_dir, path, mut files) = folder();
        fs::write(&path, "").unwrap();
        age(&path, Duration::from_secs(1));
        assert!(files.scan(&HashSet::new()).iter().all(|(_, object)| object.is_none()));
        assert_eq!(files.keys().count(), 0);
    }

    /// What the findings of a scan say, without the folder.
    fn said(files: &Files, dir: &Path) -> Vec<String> {
        files.found_by().flat_map(|by| files.findings(&by)).map(|d| d.line().replace(&format!("{}", dir.display()), "D")).collect()
    }

    #[test]
    fn only_regular_files_are_read() {
        let (dir, path, mut files) = folder();
        assert!(said(&files, dir.path()).is_empty());
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.yaml")).unwrap();
        std::os::unix::fs::symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
        let fifo = dir.path().join("pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // A regular file becomes what cannot be looked at: what it held stays.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("a.yaml", &path).unwrap();
        assert!(files.scan(&HashSet::new()).is_empty());
        assert_eq!(files.keys().count(), 1);
        let mut found = said(&files, dir.path());
        found.sort();
        let looping = "cannot be read: Too many levels of symbolic links (os error 40); make it readable for this user";
        let want = [
            &format!("error: D/a.yaml {looping}"),
            &format!("error: D/loop.yaml {looping}"),
            "error: D/pipe.yaml is a pipe, not a regular file; use a regular file",
            "error: D/zero.yaml is a device, not a regular file; use a regular file",
        ];
        assert_eq!(found, want);
        fs::remove_file(&path).unwrap();
        files.scan(&HashSet::new());
        assert_eq!(files.keys().count(), 0);
    }

    #[test]
    fn a_folder_without_files_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("README.md"), "hello").unwrap();
        let mut files = Files::new(&[dir.path().into(), dir.path().join("none")]);
        files.scan(&HashSet::new());
        let want = [
            "warning: no .yaml, .yml or .json files in D; files are read as soon as they are there",
            "error: there is no file or folder D/none; it is read as soon as it is there",
        ];
        assert_eq!(said(&files, dir.path()), want);
    }
}
