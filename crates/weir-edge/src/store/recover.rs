//! Opening a store: the log is read from its oldest segment to its newest, and each record is judged.
//!
//! - What is broken behind the last record that is known to be synced is a torn tail: the log ends before it, in every segment.
//! - What is broken before it is damage. The record behind it says which set the one missing record belonged to; if more are missing,
//!   each set must prove by its next record, or by the roll call of the next segment, that none of its records is among them.
use super::{
    OpenError,
    crypt::Cipher,
    dictionary, digest, hint,
    index::{Index, Loc},
    record::{self, Header, Meta, RecordError},
    segment::{Segment, SegmentHeader},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub struct Recovered {
    pub index: Index,
    /// The sequence number of the last record, and its set.
    pub seq: u64,
    pub before: u32,
    pub durable: u64,
    pub next_set: u32,
    /// The last segment and where it ends; 0: there is none.
    pub last: (u32, u32),
    pub oldest: u32,
    /// No segment, also none that is no part of the log, has this id.
    pub next_segment: u32,
    /// Segments that may not be synced.
    pub unsynced: Vec<Arc<Segment>>,
    /// Files that are no longer part of the log.
    pub stale: Vec<PathBuf>,
}

struct Opened {
    file: Arc<Segment>,
    header: SegmentHeader,
    start: u32,
}

pub fn recover(folder: &Path, cipher: &Cipher) -> Result<Recovered, OpenError> {
    let io = |e| OpenError::Io { path: folder.into(), error: e };
    let mut segments: BTreeMap<u32, Opened> = BTreeMap::new();
    let mut stale = Vec::new();
    let mut next_segment = 1;
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(Segment::id_of) else { continue };
        next_segment = next_segment.max(id.saturating_add(1));
        match open(&path, id, cipher).map_err(|e| OpenError::Io { path: path.clone(), error: e })? {
            Some(opened) => {
                segments.insert(id, opened);
            }
            None => stale.push(path),
        }
    }
    let mut replay = Replay { index: Index::default(), cipher, seq: 0, before: 0, durable: 0, next_set: 1, newest: None };
    let mut oldest = 0;
    if let Some(newest) = segments.values().next_back() {
        let bytes = whole(&newest.file, None).map_err(io)?;
        (replay.durable, oldest) = prescan(newest, &bytes, cipher);
        replay.newest = Some((newest.header.id, bytes));
    }
    let (chain, missing) = chain(&mut segments, oldest);
    stale.extend(segments.into_values().map(|opened| opened.file.path.clone()));
    let mut last = (0, 0);
    let mut chain = chain.into_iter().rev().peekable();
    let mut cut = false;
    let mut unsynced = Vec::new();
    while let Some((opened, end)) = chain.next() {
        cut = cut || !replay.begin(&opened, last.0 == 0, missing);
        if cut {
            stale.push(opened.file.path.clone());
            continue;
        }
        let synced = chain.peek().is_some_and(|(next, _)| next.header.first_seq <= replay.durable + 1);
        if !synced {
            unsynced.push(opened.file.clone());
        }
        let end = replay.segment(&opened, end, synced).map_err(io)?;
        cut = end.cut;
        last = (opened.header.id, end.at);
    }
    replay.index.settle();
    let Replay { index, seq, before, durable, next_set, .. } = replay;
    let oldest = index.segments.keys().next().copied().unwrap_or(0);
    Ok(Recovered { index, seq, before, durable, next_set, last, oldest, next_segment, unsynced, stale })
}

/// `None`: not a whole header. A crash while a segment is made leaves such a file.
fn open(path: &Path, id: u32, cipher: &Cipher) -> io::Result<Option<Opened>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len().min(u64::from(u32::MAX)) as u32;
    let mut segment = Segment { id, salt: [0; 8], dictionary: Vec::new(), file, path: path.into() };
    for size in [len.min(64 << 10), len] {
        let bytes = segment.read(0, size)?;
        if let Some((header, start)) = SegmentHeader::decode(&bytes).filter(|(header, _)| header.id == id) {
            segment.salt = header.salt;
            // Without it, what is compressed cannot be read, and says so.
            segment.dictionary = dictionary::unpack(&header.dictionary, &header.salt, cipher).unwrap_or_default();
            return Ok(Some(Opened { file: Arc::new(segment), header, start: start as u32 }));
        }
    }
    Ok(None)
}

/// How far the log was synced and where it begins, as far as its newest segment knows.
fn prescan(newest: &Opened, bytes: &[u8], cipher: &Cipher) -> (u64, u32) {
    let (mut durable, mut oldest) = (newest.header.durable, newest.header.oldest);
    let mut seq = newest.header.first_seq - 1;
    let mut at = newest.start as usize;
    loop {
        match bytes.get(at..).and_then(|rest| Header::read(rest, &newest.file.salt)).filter(|(header, _)| header.seq > seq) {
            Some((header, stored)) => {
                (seq, durable) = (header.seq, durable.max(header.durable));
                if let Ok(Meta::Mark { oldest: found }) = header.meta(stored, cipher) {
                    oldest = oldest.max(found);
                }
                at += header.len();
            }
            None => match record::resync(bytes, at, &newest.file.salt, seq) {
                Some(next) => at = next,
                None => return (durable, oldest),
            },
        }
    }
}

fn whole(segment: &Segment, end: Option<u32>) -> io::Result<Vec<u8>> {
    let len = segment.file.metadata()?.len().min(u64::from(u32::MAX)) as u32;
    segment.read(0, end.map_or(len, |end| end.min(len)))
}

type Chain = Vec<(Opened, Option<u32>)>;

/// The segments of the log from the newest to the oldest, each with its end as its successor knows it, and whether the oldest one is
/// missing. What stays behind in `segments` is no part of the log.
fn chain(segments: &mut BTreeMap<u32, Opened>, oldest: u32) -> (Chain, bool) {
    let mut chain = Vec::new();
    let mut next = segments.keys().next_back().copied();
    let mut end = None;
    while let Some(opened) = next.and_then(|id| segments.remove(&id)) {
        let (id, previous, previous_end) = (opened.header.id, opened.header.previous, opened.header.previous_end);
        chain.push((opened, end));
        if id <= oldest || previous == 0 {
            return (chain, false);
        }
        let there = segments.contains_key(&previous);
        end = there.then_some(previous_end);
        next = if there { Some(previous) } else { segments.range(..previous).next_back().map(|(id, _)| *id).filter(|id| *id >= oldest) };
    }
    let missing = !chain.is_empty();
    (chain, missing)
}

struct Replay<'a> {
    index: Index,
    cipher: &'a Cipher,
    /// Of the last record.
    seq: u64,
    before: u32,
    durable: u64,
    next_set: u32,
    /// The newest segment was read already.
    newest: Option<(u32, Vec<u8>)>,
}

struct End {
    at: u32,
    /// Nothing behind it counts.
    cut: bool,
}

impl Replay<'_> {
    /// `false`: the log ends before this segment.
    fn begin(&mut self, opened: &Opened, first: bool, missing: bool) -> bool {
        let header = &opened.header;
        if !first && header.first_seq != self.seq + 1 && self.seq + 1 > self.durable {
            return false;
        }
        (self.seq, self.before) = (header.first_seq - 1, header.before);
        self.next_set = self.next_set.max(header.next_set);
        self.index.roll_call(&header.sets, first);
        if first && missing {
            let ids: Vec<u32> = self.index.sets.keys().copied().collect();
            ids.into_iter().for_each(|id| self.index.gap(Some(id)));
        }
        self.index.add_segment(opened.file.clone(), opened.start);
        true
    }

    fn segment(&mut self, opened: &Opened, end: Option<u32>, synced: bool) -> io::Result<End> {
        let hinted = end.filter(|_| synced).and_then(|end| hint::read(&opened.file, end).map(|hint| (hint, end)));
        let used = hinted.is_some();
        let end = match hinted {
            Some((hint, end)) => {
                hint.records().for_each(|(offset, header, stored)| self.record(opened, offset, header, stored));
                End { at: end, cut: false }
            }
            None => {
                let bytes = match self.newest.take_if(|(id, _)| *id == opened.header.id) {
                    Some((_, bytes)) => bytes,
                    None => whole(&opened.file, end)?,
                };
                let found = self.scan(opened, &bytes);
                End { at: end.filter(|_| !found.cut).unwrap_or(found.at), ..found }
            }
        };
        if let Some(info) = self.index.segments.get_mut(&opened.header.id) {
            (info.end, info.hinted) = (end.at, used);
        }
        Ok(end)
    }

    fn scan(&mut self, opened: &Opened, bytes: &[u8]) -> End {
        let salt = &opened.file.salt;
        let mut at = opened.start as usize;
        loop {
            let here = End { at: at as u32, cut: true };
            let torn = self.seq + 1 > self.durable;
            let found = bytes.get(at..).and_then(|rest| Header::read(rest, salt)).filter(|(header, _)| header.seq > self.seq);
            let Some((header, stored)) = found else {
                match record::resync(bytes, at, salt, self.seq) {
                    Some(_) if torn => return here,
                    Some(next) => at = next,
                    // Damage, if a later segment goes on behind what is missing.
                    None => return End { cut: false, ..here },
                }
                continue;
            };
            let missing = header.seq - self.seq - 1;
            if missing > 0 && torn {
                return here;
            }
            let value = bytes.get(at..).and_then(|rest| rest.get(record::value_range(&header)));
            if header.seq > self.durable && value.is_none_or(|value| record::checksum(&[value]) != header.value_crc) {
                return here;
            }
            match missing {
                0 => {}
                1 => self.index.gap(Some(header.before)),
                _ => self.index.gap(None),
            }
            let len = header.len();
            self.record(opened, at as u32, header, stored);
            at += len;
        }
    }

    fn record(&mut self, opened: &Opened, offset: u32, header: Header, stored: &[u8]) {
        let loc = Loc { segment: opened.header.id, offset, len: header.len() as u32, digest: digest::UNKNOWN };
        let meta = match header.meta(stored, self.cipher) {
            Ok(meta) => meta,
            // A later version that this one can read wrote it: what it says does not matter to this one.
            Err(RecordError::Unknown(_)) => Meta::Unknown,
            Err(RecordError::Sealed) => Meta::Damaged { key: None, begin: None },
        };
        self.index.apply(header.set, header.seq, header.prev, meta, loc);
        (self.seq, self.before) = (header.seq, header.set);
        self.next_set = self.next_set.max(header.set.saturating_add(1));
    }
}
