//! What was fetched, on disk: modules by their digest, and what leads to them.
//!
//! | file | holds |
//! | --- | --- |
//! | `DIGEST.wasm` | a module |
//! | `KEY.url` | the digest of the module that a URL, or something packed with this digest, gave |
//! | `DIGEST.image` | the digest of the module in the image with this manifest |
//! | `KEY.tag` | the digest of the manifest that a tag named |
//! | `KEY.grant` | the same, where somebody has shown the registry that they may pull it |
//! | `KEY.signed` | the same, where a signature was verified |
//!
//! A module is only found by what leads to it, so that nobody gets one whose URL or image is not theirs to read.
use bytes::Bytes;
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};
use weir_net::tls::hex_digest;

/// What is not used for so long goes, as with Istio's agent.
pub const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);
/// A file that is being written is not older.
const WRITTEN: Duration = Duration::from_secs(60 * 60);
const MODULE: &str = "wasm";
const SALT: &str = "salt";

/// What leads to a module or a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Url,
    Image,
    Tag,
    Grant,
    Signed,
}

impl Link {
    const ALL: [Link; 5] = [Link::Url, Link::Image, Link::Tag, Link::Grant, Link::Signed];

    fn suffix(self) -> &'static str {
        match self {
            Link::Url => "url",
            Link::Image => "image",
            Link::Tag => "tag",
            Link::Grant => "grant",
            Link::Signed => "signed",
        }
    }
}

/// The folder of fetched code.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Mixed into keys, so that no key gives away what is in it.
    salt: String,
    modules: AtomicUsize,
}

/// Makes names of files that are being written.
static WRITES: AtomicU64 = AtomicU64::new(0);

impl Store {
    /// # Errors
    /// The folder cannot be made or written.
    pub fn open(dir: PathBuf) -> io::Result<Store> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let salt = dir.join(SALT);
        if !salt.is_file() {
            write(&salt, random()?.as_bytes())?;
        }
        let salt = fs::read_to_string(&salt)?;
        let store = Store { dir, salt, modules: AtomicUsize::new(0) };
        let modules = store.files()?.iter().filter(|f| f.name.ends_with(".wasm")).count();
        store.modules.store(modules, Ordering::Relaxed);
        Ok(store)
    }

    /// Modules in it.
    pub fn modules(&self) -> usize {
        self.modules.load(Ordering::Relaxed)
    }

    /// A key of these parts.
    pub fn key(&self, parts: &[&str]) -> String {
        hex_digest([&[&*self.salt], parts].concat().join("\0").as_bytes())
    }

    /// What a link leads to. Its use is noted, here and in `used`.
    pub fn link(&self, link: Link, key: &str, used: &mut Vec<String>) -> Option<String> {
        let name = file_name(key, link.suffix())?;
        let target = fs::read_to_string(self.dir.join(&name)).ok().filter(|t| is_digest(t))?;
        self.touch(&name);
        used.push(name);
        Some(target)
    }

    /// A module, if it is whole.
    pub fn module(&self, digest: &str, used: &mut Vec<String>) -> Option<Bytes> {
        let name = file_name(digest, MODULE)?;
        let wasm = fs::read(self.dir.join(&name)).ok().filter(|wasm| hex_digest(wasm) == digest)?;
        self.touch(&name);
        used.push(name);
        Some(wasm.into())
    }

    /// # Errors
    /// It cannot be written.
    pub fn put_module(&self, digest: &str, wasm: &[u8], used: &mut Vec<String>) -> io::Result<()> {
        let Some(name) = file_name(digest, MODULE) else { return Ok(()) };
        let path = self.dir.join(&name);
        let new = !path.is_file();
        write(&path, wasm)?;
        if new {
            self.modules.fetch_add(1, Ordering::Relaxed);
        }
        used.push(name);
        Ok(())
    }

    /// # Errors
    /// It cannot be written.
    pub fn put_link(&self, link: Link, key: &str, target: &str, used: &mut Vec<String>) -> io::Result<()> {
        let Some(name) = file_name(key, link.suffix()) else { return Ok(()) };
        write(&self.dir.join(&name), target.as_bytes())?;
        used.push(name);
        Ok(())
    }

    /// Notes that a file is in use.
    pub fn touch(&self, name: &str) {
        // One that has gone meanwhile is fetched again.
        let _ = fs::File::options().append(true).open(self.dir.join(name)).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes what was not used for [`UNUSED`], and the modules that were not used for the longest time until the rest is within
    /// `max_bytes`. What is `in_use` stays. Returns how many files went.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn collect(&self, in_use: &HashSet<String>, max_bytes: u64, now: SystemTime) -> io::Result<usize> {
        let mut files = self.files()?;
        files.sort_by_key(|file| file.used);
        let mut bytes: u64 = files.iter().map(|f| f.bytes).sum();
        let (mut removed, mut modules) = (0, 0);
        for file in files {
            let age = now.duration_since(file.used).unwrap_or_default();
            let goes = match file.kind {
                FileKind::Writing => age > WRITTEN,
                FileKind::Module => !in_use.contains(&file.name) && (age > UNUSED || bytes > max_bytes),
                FileKind::Link => !in_use.contains(&file.name) && age > UNUSED,
            };
            if goes && fs::remove_file(self.dir.join(&file.name)).is_ok() {
                removed += 1;
                bytes -= file.bytes;
            } else if file.kind == FileKind::Module {
                modules += 1;
            }
        }
        self.modules.store(modules, Ordering::Relaxed);
        Ok(removed)
    }

    fn files(&self) -> io::Result<Vec<File>> {
        let one = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let (name, meta) = (entry.file_name().into_string().ok()?, entry.metadata().ok()?);
            let kind = match name.rsplit_once('.')?.1 {
                MODULE => FileKind::Module,
                suffix if Link::ALL.iter().any(|link| link.suffix() == suffix) => FileKind::Link,
                suffix if suffix.starts_with("new") => FileKind::Writing,
                _ => return None,
            };
            Some(File { name, kind, bytes: meta.len(), used: meta.modified().ok()? })
        };
        Ok(fs::read_dir(&self.dir)?.filter_map(one).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Module,
    Link,
    /// Not yet renamed to what it will be; of a process that ended, it never is.
    Writing,
}

struct File {
    name: String,
    kind: FileKind,
    bytes: u64,
    used: SystemTime,
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `None` for a key that could be a path.
fn file_name(key: &str, suffix: &str) -> Option<String> {
    is_digest(key).then(|| format!("{key}.{suffix}"))
}

/// Whole or not at all, also after a power failure.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let n = WRITES.fetch_add(1, Ordering::Relaxed);
    let new = path.with_extension(format!("new{}-{n}", std::process::id()));
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = io::Write::write_all(&mut file, content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn random() -> io::Result<String> {
    let mut bytes = [0; 32];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(hex_digest(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_and_what_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("fetched")).unwrap();
        let (mut used, ignored) = (Vec::new(), &mut Vec::new());
        let modules: Vec<_> = (0..4u8).map(|n| vec![n; 1000]).collect();
        let digests: Vec<_> = modules.iter().map(|m| hex_digest(m)).collect();
        for (module, digest) in modules.iter().zip(&digests) {
            store.put_module(digest, module, ignored).unwrap();
            store.put_link(Link::Image, &store.key(&[digest]), digest, ignored).unwrap();
        }
        assert_eq!(store.link(Link::Image, &store.key(&[&digests[0]]), &mut used), Some(digests[0].clone()));
        assert_eq!(store.module(&digests[0], &mut used).unwrap(), modules[0]);
        assert_eq!(used.len(), 2);
        assert_eq!(store.link(Link::Url, &store.key(&[&digests[0]]), ignored), None, "another kind of link");
        assert_eq!(store.module("../salt", ignored), None);
        // Of the same folder, opened again.
        let store = Store::open(dir.path().join("fetched")).unwrap();
        assert_eq!((store.modules(), store.link(Link::Image, &store.key(&[&digests[1]]), ignored)), (4, Some(digests[1].clone())));
        let (in_use, now) = (HashSet::from_iter(used), SystemTime::now());
        let age = |digest: &str, by: Duration| {
            let path = dir.path().join("fetched").join(format!("{digest}.wasm"));
            fs::File::options().append(true).open(path).unwrap().set_modified(now - by).unwrap();
        };
        let hours = |n: u64| Duration::from_secs(n * 60 * 60);
        age(&digests[0], hours(48));
        age(&digests[1], hours(25));
        age(&digests[2], hours(23));
        fs::write(dir.path().join("fetched/half.new1-1"), "").unwrap();
        assert_eq!(store.collect(&in_use, u64::MAX, now).unwrap(), 1);
        assert_eq!(store.modules(), 3);
        // The size: the oldest that nobody uses.
        assert_eq!(store.collect(&in_use, 2500, now).unwrap(), 1);
        assert_eq!([0, 1, 2, 3].map(|n: usize| store.module(&digests[n], ignored).is_some()), [true, false, false, true]);
        // The links are short and go by their age.
        assert_eq!(store.collect(&in_use, 0, now + hours(30)).unwrap(), 5);
        assert_eq!(store.modules(), 1);
        assert!(store.module(&digests[0], ignored).is_some());
    }

    #[test]
    fn a_damaged_module_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().into()).unwrap();
        let digest = hex_digest(b"module");
        store.put_module(&digest, b"module", &mut Vec::new()).unwrap();
        fs::write(dir.path().join(format!("{digest}.wasm")), b"modul").unwrap();
        assert_eq!(store.module(&digest, &mut Vec::new()), None);
        fs::write(dir.path().join(format!("{digest}.image")), b"../../etc/passwd").unwrap();
        assert_eq!(store.link(Link::Image, &digest, &mut Vec::new()), None);
    }
}
