//! Appending to the log. One writer at a time; readers take the index for a moment and read files by themselves.
use super::{
    Options, Priority, WriteError,
    codec::{self, Encoder},
    crypt::Cipher,
    dictionary,
    digest::{self, Digester},
    format::Format,
    index::{Index, Loc},
    record::{self, MAX_HEAD, MAX_NAME, MAX_VALUE, Meta, Place, Stored},
    recover::Recovered,
    segment::{Segment, SegmentHeader},
    stats::Stats,
};
use bytes::Bytes;
use std::{
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// What all parts of an open store share.
pub struct Log {
    pub folder: PathBuf,
    pub options: Options,
    pub format: Format,
    pub stats: Stats,
    pub digester: Digester,
    /// All records up to this one are synced.
    pub durable: AtomicU64,
    index: RwLock<Index>,
    writer: Mutex<Writer>,
    control: Mutex<Control>,
    /// How much the log may grow: the quota, or what there was when the disk was full.
    pub limit: AtomicU64,
    /// Another process may have the store.
    pub closed: AtomicBool,
    /// Held by who makes room on a full disk, by who syncs, and by who cleans.
    pub reserving: Mutex<()>,
    pub syncing: Mutex<()>,
    pub cleaning: Mutex<()>,
    /// Wakes the thread that syncs and cleans.
    pub work: Condvar,
    /// Wakes those that wait for a sync.
    pub synced: Condvar,
}

pub struct Writer {
    active: Option<Active>,
    /// The segment before the next one, and where it ends.
    previous: (u32, u32),
    pub next_segment: u32,
    pub oldest: u32,
    /// The sequence number of the last record, and its set.
    pub seq: u64,
    before: u32,
    next_set: u32,
    /// Segments with records that are not synced.
    pub unsynced: Vec<Arc<Segment>>,
    /// A segment was made, and its name is not synced.
    pub named: bool,
    /// The last record that says only how far the log is synced.
    pub mark: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
}

impl Writer {
    /// A segment is open for writing.
    pub fn writes(&self) -> bool {
        self.active.is_some()
    }
}

struct Active {
    segment: Arc<Segment>,
    /// The sets that its dictionary was made from.
    learned: Vec<u32>,
    start: u32,
    at: u32,
    /// So far the file reaches. Behind the records it is filled with zeros, so that a sync need not write its new size: that
    /// would be several blocks of the file system's journal for a record of a few hundred bytes.
    grown: u32,
}

const GROWTH: u32 = 128 << 10;
/// Sets that a dictionary is made from, and from what size on a new one is worth a segment of its own.
const LEARNED: usize = 8;
const WORTH_LEARNING: u64 = 64 << 10;

impl Active {
    /// Makes the file long enough for a record; if that fails, writing the record will say so.
    fn grow(&mut self, len: u32, segment_size: u32) {
        let end = self.at + len;
        if end <= self.grown {
            return;
        }
        let grown = (end + GROWTH.min(segment_size / 8)).min(segment_size).max(end);
        let zeros = vec![0; (grown - self.grown) as usize];
        self.grown = match self.segment.file.write_all_at(&zeros, u64::from(self.grown)) {
            Ok(()) => grown,
            Err(_) => {
                let _ = self.segment.file.set_len(u64::from(self.at));
                end
            }
        };
    }

    /// Takes away what is behind the records.
    fn cut(&mut self) {
        if self.segment.file.set_len(u64::from(self.at)).is_ok() {
            self.grown = self.at;
        }
    }
}

/// What the thread that syncs and cleans is to do.
#[derive(Default)]
pub struct Control {
    pub stop: bool,
    /// Since when records wait for a sync, and how many bytes.
    pub since: Option<Instant>,
    pub bytes: u64,
    /// Somebody waits for a sync up to here.
    pub wanted: u64,
    pub failures: u64,
    /// A segment was filled: there may be something to clean.
    pub clean: bool,
}

/// A value of an object, which its set and key are bound to when it is encrypted.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub set: &'a str,
    pub key: &'a str,
    pub bytes: &'a [u8],
}

impl Log {
    pub fn new(folder: PathBuf, options: Options, format: Format, found: Recovered) -> Log {
        let writer = Writer {
            active: None,
            previous: found.last,
            next_segment: found.next_segment,
            oldest: found.oldest,
            seq: found.seq,
            before: found.before,
            next_set: found.next_set,
            unsynced: found.unsynced,
            named: true,
            mark: u64::MAX,
            encoder: Encoder::new(),
            buffer: Vec::new(),
        };
        Log {
            folder,
            limit: AtomicU64::new(options.quota),
            options,
            format,
            stats: Stats::default(),
            digester: Digester::new(),
            durable: AtomicU64::new(found.durable),
            index: RwLock::new(found.index),
            writer: Mutex::new(writer),
            control: Mutex::default(),
            closed: AtomicBool::new(false),
            reserving: Mutex::default(),
            syncing: Mutex::default(),
            cleaning: Mutex::default(),
            work: Condvar::new(),
            synced: Condvar::new(),
        }
    }

    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn cipher(&self) -> &Cipher {
        &self.format.cipher
    }

    /// The set of a name, made if there is none.
    pub fn define(&self, writer: &mut Writer, name: &str) -> Result<u32, WriteError> {
        check("the name of a set", name.len(), MAX_NAME)?;
        if let Some(id) = self.index().id(name) {
            return Ok(id);
        }
        let id = writer.next_set;
        let meta = Meta::Set { name: name.into(), head: Bytes::new(), whole: false, lost: false };
        self.append(writer, id, meta, None)?;
        writer.next_set += 1;
        Ok(id)
    }

    /// Appends one record of a set (0: of none) and takes it over into the index.
    pub fn append(&self, writer: &mut Writer, set: u32, meta: Meta, value: Option<Value<'_>>) -> Result<Loc, WriteError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(WriteError::Closed);
        }
        if writer.active.is_none() || self.encode(writer, set, &meta, value)? > self.options.segment_size as usize {
            self.rotate(writer)?;
            self.encode(writer, set, &meta, value)?;
        }
        let (seq, prev) = (writer.seq + 1, self.prev(set));
        let Some(active) = &mut writer.active else { return Err(WriteError::Io(io::ErrorKind::ReadOnlyFilesystem.into())) };
        active.grow(writer.buffer.len() as u32, self.options.segment_size);
        if let Err(e) = active.segment.file.write_all_at(&writer.buffer, u64::from(active.at)) {
            self.stats.write_errors.fetch_add(1, Ordering::Relaxed);
            // What was written of it is no record, and the next one takes its place.
            active.cut();
            return Err(WriteError::Io(e));
        }
        let digest = value.map_or(digest::UNKNOWN, |value| self.digester.digest(value.bytes));
        let loc = Loc { segment: active.segment.id, offset: active.at, len: writer.buffer.len() as u32, digest };
        active.at += loc.len;
        (writer.seq, writer.before) = (seq, set);
        if writer.unsynced.last().is_none_or(|last| last.id != loc.segment) {
            writer.unsynced.push(active.segment.clone());
        }
        if writer.buffer.capacity() > 1 << 20 {
            writer.buffer = Vec::new();
        }
        self.stats.written.fetch_add(u64::from(loc.len), Ordering::Relaxed);
        let mut index = self.index_mut();
        if let Some(info) = index.segments.get_mut(&loc.segment) {
            info.end = active.at;
        }
        index.apply(set, seq, prev, meta, loc);
        Ok(loc)
    }

    fn prev(&self, set: u32) -> u64 {
        self.index().sets.get(&set).map_or(0, |state| state.last)
    }

    /// Makes the bytes of the next record, and says where the segment would end; 0 for a record that a fresh segment takes anyway.
    fn encode(&self, writer: &mut Writer, set: u32, meta: &Meta, value: Option<Value<'_>>) -> Result<usize, WriteError> {
        let prev = self.prev(set);
        let Writer { active: Some(active), encoder, buffer, .. } = writer else { return Ok(0) };
        let place = Place { seq: writer.seq + 1, prev, durable: self.durable.load(Ordering::Acquire), set, before: writer.before };
        let mut sealed = Vec::new();
        let stored = match value {
            None => Stored::NONE,
            Some(value) => {
                let (codec, bytes) = encoder.encode(value.bytes, &active.segment.dictionary);
                sealed = self.cipher().seal(bytes.to_vec(), &value_aad(value.set, value.key)).ok_or(WriteError::Crypto)?;
                Stored { codec, raw_len: value.bytes.len() as u32, crc: record::checksum(&[&sealed]), bytes: &sealed }
            }
        };
        buffer.clear();
        record::write(buffer, &active.segment.salt, place, meta, stored, self.cipher()).ok_or(WriteError::Crypto)?;
        drop(sealed);
        Ok(if active.at == active.start { 0 } else { active.at as usize + buffer.len() })
    }

    /// Begins a new segment.
    fn rotate(&self, writer: &mut Writer) -> Result<(), WriteError> {
        self.seal(writer);
        let mut salt = [0; 8];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| WriteError::Crypto)?;
        let id = writer.next_segment;
        let learned = self.largest();
        let words = self.dictionary(&learned);
        let header = SegmentHeader {
            id,
            salt,
            previous: writer.previous.0,
            previous_end: writer.previous.1,
            first_seq: writer.seq + 1,
            durable: self.durable.load(Ordering::Acquire),
            oldest: if writer.oldest == 0 { id } else { writer.oldest },
            next_set: writer.next_set,
            before: writer.before,
            sets: self.index().calls(),
            dictionary: dictionary::pack(&words, &salt, &mut writer.encoder, self.cipher()).ok_or(WriteError::Crypto)?,
        };
        let (segment, start) = Segment::create(&self.folder, &header, words).map_err(|e| {
            self.stats.write_errors.fetch_add(1, Ordering::Relaxed);
            WriteError::Io(e)
        })?;
        let segment = Arc::new(segment);
        self.index_mut().add_segment(segment.clone(), start);
        writer.active = Some(Active { segment, learned, start, at: start, grown: start });
        (writer.next_segment, writer.oldest, writer.named) = (id + 1, header.oldest, true);
        self.stats.written.fetch_add(u64::from(start), Ordering::Relaxed);
        let mut control = self.control();
        control.clean = true;
        self.work.notify_one();
        Ok(())
    }

    /// The largest sets that can be read.
    fn largest(&self) -> Vec<u32> {
        let index = self.index();
        let mut sets: Vec<(u64, u32)> = index.sets.iter().filter(|(_, set)| set.readable()).map(|(id, set)| (set.bytes, *id)).collect();
        sets.sort_by_key(|&(bytes, id)| (std::cmp::Reverse(bytes), id));
        sets.into_iter().take(LEARNED).map(|(_, id)| id).collect()
    }

    /// Begins a new segment when a large set has come that the dictionary knows nothing of: its changes would take ten times as much.
    pub fn learn(&self, writer: &mut Writer, set: u32) {
        let known = writer.active.as_ref().is_none_or(|active| active.learned.contains(&set));
        let large = || self.index().sets.get(&set).is_some_and(|set| set.bytes >= WORTH_LEARNING);
        if !known && large() && self.largest().contains(&set) {
            self.seal(writer);
        }
    }

    /// An object of each of these sets: what comes next resembles them.
    fn dictionary(&self, sets: &[u32]) -> Vec<u8> {
        let objects: Vec<(Box<str>, Box<str>)> = {
            let index = self.index();
            let first = |id: &u32| index.sets.get(id).and_then(|set| Some((set.name.clone()?, set.objects.keys().next()?.clone())));
            sets.iter().filter_map(first).collect()
        };
        let mut dictionary = Vec::new();
        for (set, key) in &objects {
            let Ok(Some(value)) = self.get(set, key) else { continue };
            let room = codec::MAX_DICTIONARY - dictionary.len();
            // Repeating an object that is there already helps nothing, and neither does the end of one.
            if value.len() > room.min(codec::MAX_DICTIONARY / 4 * 3) && !dictionary.is_empty() {
                continue;
            }
            dictionary.extend_from_slice(&value[..value.len().min(room)]);
        }
        dictionary
    }

    /// Ends the segment that is written: the next record begins another one.
    pub fn seal(&self, writer: &mut Writer) {
        if let Some(mut active) = writer.active.take() {
            active.cut();
            writer.previous = (active.segment.id, active.at);
        }
    }

    /// The last thing that happens to the log in this process.
    pub fn close(&self) {
        {
            // Whoever cleans or makes room is done, and who comes later finds the log closed.
            let _cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
            let _reserving = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
            let mut writer = self.writer();
            self.closed.store(true, Ordering::Release);
            self.seal(&mut writer);
        }
        let _ = self.sync();
        self.format.unlock();
    }

    /// Has what was written synced in a while.
    pub fn sync_soon(&self, bytes: u64) {
        let mut control = self.control();
        control.since.get_or_insert_with(Instant::now);
        let first = control.bytes == 0;
        control.bytes += bytes;
        if first || control.bytes >= self.options.commit_bytes {
            self.work.notify_one();
        }
    }

    pub fn priority(&self, set: &str) -> Priority {
        (self.options.policy)(set).priority
    }
}

/// The key of an object: as the API server orders its lists.
pub fn key(name: &super::ObjectName) -> Result<Box<str>, WriteError> {
    check("a name", name.namespace.len() + name.name.len(), MAX_NAME)?;
    if name.namespace.contains('/') {
        return Err(WriteError::Name { namespace: name.namespace.clone() });
    }
    Ok(format!("{}/{}", name.namespace, name.name).into())
}

pub fn check_value(value: &[u8]) -> Result<(), WriteError> {
    check("a value", value.len(), MAX_VALUE)
}

pub fn head(head: &[u8]) -> Result<Bytes, WriteError> {
    check("the head of a set", head.len(), MAX_HEAD)?;
    Ok(Bytes::copy_from_slice(head))
}

fn check(what: &'static str, size: usize, limit: usize) -> Result<(), WriteError> {
    if size > limit { Err(WriteError::TooLarge { what, size, limit }) } else { Ok(()) }
}

pub fn value_aad(set: &str, key: &str) -> Vec<u8> {
    [&(set.len() as u32).to_le_bytes()[..], set.as_bytes(), key.as_bytes()].concat()
}
