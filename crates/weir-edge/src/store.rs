//! The store of the edge hub: lists of objects of the Kubernetes API, kept on disk so that a node can restart without the cloud.
//!
//! A *set* is one list as one client asked for it; its *head* is what belongs to the list as a whole (resource version, media type).
//! The store tells the truth or says that it cannot: a list is read as it was at one moment, or not at all.
//!
//! On disk it is a log of segments. A record has a checksum, a sequence number, the sequence number of its set's previous record, and
//! how far the log was synced. So recovery tells a torn tail, which is cut off, from damage, and knows which set a lost record belonged
//! to. A list is replaced by the one record that commits it. Cleaning appends what is current in the oldest segment again and then
//! removes the segment: old and new stand in one log, so there is no step at which a crash could mix them. The index in memory holds
//! names and offsets; values stay on disk and are checked at each read.
//!
//! The log was chosen over redb and fjall by measuring events of pods of 7.4 KB (2,000 objects, 100 events per second, a sync each
//! 50 ms or 256 KiB (200 ms today), ext4 on a loop device, two cores) and opening stores of 50,000 objects from the page cache:
//!
//! | | this log | encrypted | redb 4 | fjall 3 |
//! | --- | --- | --- | --- | --- |
//! | bytes at the device per event | 2,064 | 1,889 | 17,885 | 6,990 |
//! | opening 50,000 objects | 21 to 47 ms | 183 to 221 ms | 4 to 5 ms | 805 to 875 ms |
//!
//! redb and fjall were given the values as they are; they compress with no dictionary. The log took 7,083 bytes per event when it
//! compressed each value alone and had no zeros behind its records. Neither of the two says which of several lists lost something.
mod clean;
mod codec;
mod commit;
mod crypt;
mod dictionary;
mod digest;
mod format;
mod hint;
mod index;
pub mod key_file;
mod log;
mod read;
mod record;
mod recover;
mod room;
mod segment;
mod stats;
#[cfg(test)]
mod tests;
mod twice;
mod write;

pub use stats::StoreStats;

use bytes::Bytes;
use log::{Log, Value, check_value, head as check_head, key as check_key};
use record::Meta;
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use thiserror::Error;

/// What an object is called within a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Empty: a resource without namespaces.
    pub namespace: String,
    pub name: String,
}

/// Sets of a lower priority are evicted first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub u8);

/// How a set is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its changes survive a power cut once an interval has passed. All changes survive the end of the process.
    pub synced: bool,
    pub priority: Priority,
}

#[derive(Clone)]
pub struct Options {
    /// Bytes of the log. Cleaning may go beyond it by one segment.
    pub quota: u64,
    /// Changes of synced sets wait for a sync no longer than this…
    pub commit_interval: Duration,
    /// …and not once they are as many bytes as this.
    pub commit_bytes: u64,
    pub segment_size: u32,
    /// Encrypts all names, heads and values.
    pub key: Option<[u8; 32]>,
    /// Asked by the name of a set.
    pub policy: Arc<dyn Fn(&str) -> Policy + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            quota: 512 << 20,
            commit_interval: Duration::from_millis(200),
            commit_bytes: 256 << 10,
            segment_size: 4 << 20,
            key: None,
            policy: Arc::new(|_| Policy { synced: true, priority: Priority(0) }),
        }
    }
}

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the store in {folder} has format {found}; this version reads up to format {supported}")]
    Newer { folder: PathBuf, found: u16, supported: u16 },
    #[error("the store in {folder} is encrypted with another key")]
    WrongKey { folder: PathBuf },
    #[error("the store in {folder} is encrypted, and no key is given")]
    KeyMissing { folder: PathBuf },
    #[error(
        "the store in {folder} is not encrypted: turn encryption off to go on with it (--disk-cache-encryption=false), or remove the folder to start an encrypted one"
    )]
    NotEncrypted { folder: PathBuf },
    #[error("the store in {folder} is in use by another process")]
    InUse { folder: PathBuf },
    #[error("{path} is damaged, and without it the store cannot be read")]
    Damaged { path: PathBuf },
    #[error("the encryption library refuses to work")]
    Crypto,
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

#[derive(Debug, Error)]
pub enum ReadError {
    /// Something was lost, and what is left is not the truth. A complete new list makes the set readable again.
    #[error("another process has taken over the store")]
    Closed,
    #[error("the cached list {set:?} is damaged{}", object.as_ref().map(|o| format!(": the object {o}")).unwrap_or_default())]
    Damaged { set: String, object: Option<ObjectName> },
    #[error("the store cannot be read: {0}")]
    Io(io::Error),
}

/// What was there before stays readable.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Of the quota, or of what a full disk leaves.
    #[error("the store may have {limit} bytes and has no room for {needed} more, and nothing less important is left to evict")]
    Full { needed: u64, limit: u64 },
    #[error("{what} has {size} bytes; at most {limit} are kept")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    #[error("the namespace {namespace:?} has a slash")]
    Name { namespace: String },
    #[error("the set was dropped while its list was written")]
    Dropped,
    #[error("what was written could not be synced")]
    Sync,
    #[error("another process has taken over the store")]
    Closed,
    #[error("the encryption library refuses to work")]
    Crypto,
    #[error("the store cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl WriteError {
    /// Whether the disk has no room, whatever the quota says.
    fn is_full_disk(&self) -> bool {
        matches!(self, WriteError::Io(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A set as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub head: Bytes,
    /// In the order of the API server: by namespace and name.
    pub items: Vec<(ObjectName, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetInfo {
    pub name: String,
    pub head: Bytes,
    pub objects: usize,
    /// Bytes of its objects as they are stored.
    pub bytes: u64,
    /// A complete list was committed; without one there is nothing to list.
    pub complete: bool,
    /// Something was lost: reads fail until a complete list is committed.
    pub damaged: bool,
}

/// Gives this thread a lower priority than that of threads which serve clients. It still gets a quarter of a processor that they keep busy.
pub fn yield_to_clients() {
    // On Linux, the priority of the thread alone.
    let _ = rustix::process::nice(5);
}

/// An open store. Reads run beside writes and never wait for the disk to sync.
pub struct Store {
    log: Arc<Log>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.log.folder).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a folder, or begins one. What a crash left unfinished is as if it had not begun.
    pub fn open(folder: &Path, mut options: Options) -> Result<Store, OpenError> {
        let format = format::open(folder, options.key.take().as_ref())?;
        options.segment_size = options.segment_size.min((options.quota / 8).min(1 << 30) as u32).max(1 << 10);
        let found = recover::recover(folder, &format.cipher)?;
        for path in &found.stale {
            // On a read-only disk they stay; they are no part of the log there either.
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(path.with_extension("idx"));
        }
        let log = Arc::new(Log::new(folder.into(), options, format, found));
        log.reserve();
        let thread = std::thread::Builder::new().name("store".into()).spawn({
            let log = log.clone();
            move || {
                yield_to_clients();
                log.run();
            }
        });
        let thread = thread.map_err(|error| OpenError::Io { path: folder.into(), error })?;
        Ok(Store { log, thread: Mutex::new(Some(thread)) })
    }

    /// Whether the store in a folder is encrypted; `None` if there is no store.
    pub fn is_encrypted(folder: &Path) -> Result<Option<bool>, OpenError> {
        format::is_encrypted(folder)
    }

    /// One watch event: an object and the set's new head, both or none.
    pub fn put(&self, set: &str, name: &ObjectName, value: &[u8], head: &[u8]) -> Result<(), WriteError> {
        let (key, head) = (check_key(name)?, check_head(head)?);
        check_value(value)?;
        self.log.write(set, Meta::Put { key: key.clone(), head }, Some(Value { set, key: &key, bytes: value }))
    }

    /// A DELETED event.
    pub fn remove(&self, set: &str, name: &ObjectName, head: &[u8]) -> Result<(), WriteError> {
        self.log.write(set, Meta::Remove { key: check_key(name)?, head: check_head(head)? }, None)
    }

    /// A BOOKMARK event, or another change of what belongs to the set as a whole.
    pub fn set_head(&self, set: &str, head: &[u8]) -> Result<(), WriteError> {
        self.log.write(set, Meta::Head { head: check_head(head)? }, None)
    }

    /// A complete list takes the place of what the set held, or nothing changes.
    pub fn replace(&self, set: &str, head: &[u8], items: impl IntoIterator<Item = (ObjectName, Bytes)>) -> Result<(), WriteError> {
        let mut replacement = self.begin_replace(set)?;
        for (name, value) in items {
            replacement.add(&name, &value)?;
        }
        replacement.commit(head)
    }

    /// A short digest of a value, of this process.
    pub fn digest(&self, value: &[u8]) -> u64 {
        self.log.digester.digest(value)
    }

    /// Whether an object is the one that this process has written last: then it need not be written again.
    pub fn holds(&self, set: &str, name: &ObjectName, digest: u64) -> bool {
        let Ok(key) = check_key(name) else { return false };
        let index = self.log.index();
        index.set(set).is_some_and(|set| set.readable() && set.objects.get(&key).is_some_and(|loc| loc.digest == digest))
    }

    /// Whether a list is the one that this process has written last: then it need not be written again.
    pub fn is(&self, set: &str, digests: &BTreeMap<ObjectName, u64>) -> bool {
        let index = self.log.index();
        index.set(set).is_some_and(|set| {
            let complete = set.readable() && set.whole && set.objects.len() == digests.len();
            let same = |(name, digest): (&ObjectName, &u64)| {
                check_key(name).is_ok_and(|key| set.objects.get(&key).is_some_and(|loc| loc.digest == *digest))
            };
            complete && digests.iter().all(same)
        })
    }

    /// Whether there is a complete list that can be read.
    pub fn is_complete(&self, set: &str) -> bool {
        self.log.index().set(set).is_some_and(|set| set.readable() && set.whole)
    }

    /// A complete list that arrives bit by bit. Until it is committed the set stays as it is, and events go on changing it.
    pub fn begin_replace(&self, set: &str) -> Result<Replacement, WriteError> {
        let begin = self.log.begin(set)?;
        Ok(Replacement { log: self.log.clone(), set: set.into(), begin, done: false })
    }

    /// Forgets a set. There need not be one.
    pub fn drop_set(&self, set: &str) -> Result<(), WriteError> {
        let mut writer = self.log.writer();
        let Some(id) = self.log.index().id(set) else { return Ok(()) };
        self.log.append(&mut writer, id, Meta::Drop, None)?;
        Ok(())
    }

    /// `None`: the set does not hold it. That is proof of absence only where [`Store::list`] finds a list.
    pub fn get(&self, set: &str, name: &ObjectName) -> Result<Option<Bytes>, ReadError> {
        let Ok(key) = check_key(name) else { return Ok(None) };
        self.log.get(set, &key)
    }

    pub fn head(&self, set: &str) -> Option<Bytes> {
        self.log.index().set(set).filter(|set| !set.bare()).map(|set| set.head.clone())
    }

    /// `None`: no complete list was ever committed.
    pub fn list(&self, set: &str) -> Result<Option<Listing>, ReadError> {
        self.log.list(set)
    }

    /// All sets that something was written to, by name.
    pub fn sets(&self) -> Vec<SetInfo> {
        let index = self.log.index();
        let info = |set: &index::SetState| SetInfo {
            name: set.name.as_deref().unwrap_or_default().into(),
            head: set.head.clone(),
            objects: set.objects.len(),
            bytes: set.bytes,
            complete: set.whole,
            damaged: !set.readable(),
        };
        let mut sets: Vec<SetInfo> = index.sets.values().filter(|set| !set.bare()).map(info).collect();
        drop(index);
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        sets
    }

    /// The names of the objects of a set; none if there is no such set.
    pub fn names(&self, set: &str) -> Vec<ObjectName> {
        self.log.index().set(set).map(|set| set.objects.keys().map(|key| read::name(key)).collect()).unwrap_or_default()
    }

    /// Waits until all that was written is synced.
    pub fn flush(&self) -> Result<(), WriteError> {
        self.log.flush()
    }

    /// Cleans the log's oldest segment, which otherwise happens by itself when it is worth it.
    pub fn compact(&self) -> Result<(), WriteError> {
        self.log.clean_oldest()
    }

    /// Cleans all segments that there are: what was removed is not on disk any more.
    pub fn purge(&self) -> Result<(), WriteError> {
        self.log.seal(&mut self.log.writer());
        let newest = self.log.index().segments.keys().next_back().copied();
        let is_left = || self.log.index().segments.keys().next().is_some_and(|oldest| Some(*oldest) <= newest);
        while is_left() {
            self.log.clean_oldest()?;
        }
        Ok(())
    }

    /// Syncs what was written and lets another process open the store. Nothing is read or written here any more.
    pub fn close(&self) {
        self.stop();
        self.log.close();
    }

    fn stop(&self) {
        self.log.control().stop = true;
        self.log.work.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }

    pub fn stats(&self) -> StoreStats {
        self.log.read_stats()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A list that is being written. Dropped without commit it never was.
#[must_use]
pub struct Replacement {
    log: Arc<Log>,
    set: String,
    begin: u64,
    done: bool,
}

impl Replacement {
    pub fn add(&mut self, name: &ObjectName, value: &[u8]) -> Result<(), WriteError> {
        let key = check_key(name)?;
        check_value(value)?;
        self.log.add(self.begin, Value { set: &self.set, key: &key, bytes: value })
    }

    pub fn commit(mut self, head: &[u8]) -> Result<(), WriteError> {
        self.log.commit(&self.set, self.begin, check_head(head)?)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            self.log.index_mut().abandon(self.begin);
        }
    }
}
