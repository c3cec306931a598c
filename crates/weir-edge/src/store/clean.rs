//! Cleaning: what the oldest segment holds of current values is appended to the log again, and then the segment is removed. As it is
//! always the oldest one, nothing that was removed can come back, and the log is at every step the same list of states.
use super::{
    WriteError, digest, hint,
    index::{Index, Loc},
    log::{Log, Value, Writer},
    record::{self, HEAD, Header, Meta},
    segment::{Segment, sync_folder},
};
use std::sync::{Arc, PoisonError, atomic::Ordering};

impl Log {
    /// Whether the log holds so much of what is no longer current that cleaning is worth its writes.
    pub fn wants_cleaning(&self) -> bool {
        let index = self.index();
        let (total, size) = (index.total(), u64::from(self.options.segment_size));
        let many = index.segments.len() as u64 > 16 + 2 * total / size;
        index.segments.len() > 1 && (many || total > 2 * index.live() + 4 * size)
    }

    /// Cleans the oldest segment.
    pub fn clean_oldest(&self) -> Result<(), WriteError> {
        let _one = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((segment, start, end)) = self.oldest() else { return Ok(()) };
        let bytes = segment.read(0, end.min(segment.file.metadata()?.len().min(u64::from(u32::MAX)) as u32))?;
        for offset in records(&bytes, start as usize, &segment.salt) {
            self.carry(&segment, offset as u32, &bytes[offset..])?;
        }
        drop(bytes);
        let mut writer = self.writer();
        self.carry_rest(&mut writer, segment.id)?;
        let following = self.index().segments.range(segment.id + 1..).next().map(|(id, _)| *id);
        // Without one nothing was carried, and this record begins the next segment.
        let next = following.unwrap_or(writer.next_segment);
        self.append(&mut writer, 0, Meta::Mark { oldest: next }, None)?;
        drop(writer);
        self.sync()?;
        let mut writer = self.writer();
        writer.oldest = next;
        self.index_mut().segments.remove(&segment.id);
        drop(writer);
        let _ = std::fs::remove_file(hint::path(&segment));
        std::fs::remove_file(&segment.path)?;
        sync_folder(&self.folder)?;
        self.stats.cleaned_segments.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The oldest segment, to which nothing more is written, and where its records begin and end.
    fn oldest(&self) -> Option<(Arc<Segment>, u32, u32)> {
        let mut writer = self.writer();
        if self.index().segments.len() == 1 {
            self.seal(&mut writer);
        }
        let index = self.index();
        let (_, info) = index.segments.first_key_value()?;
        Some((info.file.clone(), info.start, info.end))
    }

    /// Appends a record again, if it holds a current value.
    fn carry(&self, segment: &Segment, offset: u32, bytes: &[u8]) -> Result<(), WriteError> {
        let Some((header, stored)) = Header::read(bytes, &segment.salt) else { return Ok(()) };
        let loc = Loc { segment: segment.id, offset, len: header.len() as u32, digest: digest::UNKNOWN };
        let (key, begin) = match header.meta(stored, self.cipher()) {
            Ok(Meta::Put { key, .. } | Meta::Moved { key }) => (key, None),
            Ok(Meta::Item { key, begin }) => (key, Some(begin)),
            _ => return Ok(()),
        };
        let Some(set) = self.index().sets.get(&header.set).and_then(|state| state.name.clone()) else { return Ok(()) };
        // It is compressed again: the segment that it goes to has another dictionary.
        let value = bytes.get(..header.len()).and_then(|record| self.unpack(&set, &key, record, segment));
        let mut writer = self.writer();
        let uses = uses(&self.index(), header.set, &key, begin, loc);
        for meta in uses {
            let meta = match (&value, meta) {
                (Some(_), meta) => meta,
                (None, Meta::Item { begin, key }) => Meta::Damaged { key: Some(key), begin: Some(begin) },
                (None, _) => Meta::Damaged { key: Some(key.clone()), begin: None },
            };
            let value = value.as_deref().map(|bytes| Value { set: &set, key: &key, bytes });
            let moved = self.append(&mut writer, header.set, meta, value)?;
            self.stats.moved.fetch_add(u64::from(moved.len), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Carries on the names and heads of sets, and marks current values that no readable record of the segment holds.
    fn carry_rest(&self, writer: &mut Writer, id: u32) -> Result<(), WriteError> {
        let mut metas = Vec::new();
        {
            let index = self.index();
            let lost = index.segments.get(&id).is_some_and(|info| info.live > 0);
            for (set, state) in &index.sets {
                if state.defined <= id {
                    let name = state.name.clone().unwrap_or_default();
                    metas.push((*set, Meta::Set { name, head: state.head.clone(), whole: state.whole, lost: !state.readable() }));
                }
                if lost {
                    let here = state.objects.iter().filter(|(_, loc)| loc.segment == id);
                    metas.extend(here.map(|(key, _)| (*set, Meta::Damaged { key: Some(key.clone()), begin: None })));
                }
            }
            for (begin, pending) in index.pending.iter().filter(|_| lost) {
                let here = pending.objects.iter().filter(|(_, loc)| loc.segment == id);
                metas.extend(here.map(|(key, _)| (pending.set, Meta::Damaged { key: Some(key.clone()), begin: Some(*begin) })));
            }
        }
        for (set, meta) in metas {
            self.append(writer, set, meta, None)?;
        }
        Ok(())
    }

    /// Writes the hints of full segments that have none. One is open at a time: the disk gets the room of a removed segment back once
    /// nobody has it open.
    pub fn write_hints(&self) {
        while !self.disk_is_full()
            && let Some((segment, start, end)) = self.without_hint()
        {
            // A hint that cannot be written costs time when the store is opened, and nothing else.
            let _ = hint_of(&segment, start, end);
            match self.index_mut().segments.get_mut(&segment.id) {
                Some(info) => info.hinted = true,
                None => _ = std::fs::remove_file(hint::path(&segment)),
            }
        }
    }

    fn without_hint(&self) -> Option<(Arc<Segment>, u32, u32)> {
        let index = self.index();
        let newest = index.segments.keys().next_back().copied();
        let mut full = index.segments.iter().filter(|(id, info)| Some(**id) != newest && !info.hinted);
        full.next().map(|(_, info)| (info.file.clone(), info.start, info.end))
    }
}

fn hint_of(segment: &Segment, start: u32, end: u32) -> std::io::Result<()> {
    let bytes = segment.read(0, end)?;
    let mut heads = Vec::new();
    let mut at = start as usize;
    while let Some((header, stored)) = bytes.get(at..).and_then(|rest| Header::read(rest, &segment.salt)) {
        heads.push((at as u32, &bytes[at..at + HEAD + stored.len()]));
        at += header.len();
    }
    // A damaged segment has to be looked at each time.
    if at == end as usize { hint::write(segment, end, heads.into_iter()) } else { Ok(()) }
}

/// The records that the readable ones of a segment become: one for each place where the value is current.
fn uses(index: &Index, set: u32, key: &str, begin: Option<u64>, loc: Loc) -> Vec<Meta> {
    let mut metas = Vec::new();
    if index.sets.get(&set).and_then(|state| state.objects.get(key)).is_some_and(|current| current.is_at(&loc)) {
        metas.push(Meta::Moved { key: key.into() });
    }
    if let Some(begin) = begin
        && index.pending.get(&begin).and_then(|pending| pending.objects.get(key)).is_some_and(|current| current.is_at(&loc))
    {
        metas.push(Meta::Item { begin, key: key.into() });
    }
    metas
}

/// Where the records with a whole head lie.
fn records(bytes: &[u8], start: usize, salt: &[u8; 8]) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut at, mut seq) = (start, 0);
    loop {
        match bytes.get(at..).and_then(|rest| Header::read(rest, salt)).filter(|(header, _)| header.seq > seq) {
            Some((header, _)) => {
                seq = header.seq;
                found.push(at);
                at += header.len();
            }
            None => match record::resync(bytes, at, salt, seq) {
                Some(next) => at = next,
                None => return found,
            },
        }
    }
}
